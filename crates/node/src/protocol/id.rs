//! Names that end up in command lines and file names, as types: what they hold is safe in both.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest job or node id: a UUID is 36, 64 leaves room for names in tests and demos.
const ID_MAX: usize = 64;

/// Linux user names are at most 32 bytes (useradd(8)).
const USER_MAX: usize = 32;

/// A text that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not of the form {form}")]
pub struct BadId {
    /// Which field.
    pub what: &'static str,
    /// What it holds.
    pub value: String,
    /// What it should look like.
    pub form: &'static str,
}

/// Which part of an attempt an order is: two orders, because waiting for Ready lies between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Teardown alone, where the controller has something to do before the rest.
    Teardown,
    /// Everything up to and including install.
    Reset,
    /// Post-install, after the node is Ready again.
    Post,
}

impl Stage {
    fn as_str(self) -> &'static str {
        match self {
            Self::Teardown => "teardown",
            Self::Reset => "reset",
            Self::Post => "post",
        }
    }
}

/// Names an order: `job.node.attempt.stage`. Job and node are `^[a-z0-9-]{1,64}$`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OrderId {
    job: String,
    node: String,
    attempt: u32,
    stage: Stage,
}

impl OrderId {
    /// Checks both ids.
    pub fn new(job: &str, node: &str, attempt: u32, stage: Stage) -> Result<Self, BadId> {
        for (what, value) in [("job id", job), ("node id", node)] {
            let fits = (1..=ID_MAX).contains(&value.len())
                && value.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
            if !fits {
                return Err(BadId { what, value: value.into(), form: "^[a-z0-9-]{1,64}$" });
            }
        }
        Ok(Self { job: job.into(), node: node.into(), attempt, stage })
    }

    /// The job this order belongs to.
    pub fn job(&self) -> &str {
        &self.job
    }

    /// The node this order is for.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Which attempt of the job on this node.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Which part of the attempt.
    pub fn stage(&self) -> Stage {
        self.stage
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}.{}", self.job, self.node, self.attempt, self.stage.as_str())
    }
}

impl FromStr for OrderId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let bad = || BadId {
            what: "order id",
            value: text.chars().take(200).collect(),
            form: "job.node.attempt.stage",
        };
        let parts: Vec<&str> = text.split('.').collect();
        let [job, node, attempt, stage] = parts[..] else {
            return Err(bad());
        };
        let stage = match stage {
            "reset" => Stage::Reset,
            "post" => Stage::Post,
            "teardown" => Stage::Teardown,
            _ => return Err(bad()),
        };
        let id = Self::new(job, node, attempt.parse().map_err(|_| bad())?, stage)?;
        // One spelling per order: "+1" and "01" would be a second name for attempt 1.
        if id.to_string() == text { Ok(id) } else { Err(bad()) }
    }
}

impl TryFrom<String> for OrderId {
    type Error = BadId;

    fn try_from(text: String) -> Result<Self, BadId> {
        text.parse()
    }
}

impl From<OrderId> for String {
    fn from(id: OrderId) -> Self {
        id.to_string()
    }
}

/// A Linux user name: `^[A-Za-z_][A-Za-z0-9_.-]{0,31}$`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserName(String);

impl UserName {
    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserName {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for UserName {
    type Error = BadId;

    fn try_from(text: String) -> Result<Self, BadId> {
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        let rest = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        if first && rest && text.len() <= USER_MAX {
            return Ok(Self(text));
        }
        Err(BadId { what: "user name", value: text, form: "^[A-Za-z_][A-Za-z0-9_.-]{0,31}$" })
    }
}

impl From<UserName> for String {
    fn from(user: UserName) -> Self {
        user.0
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// SHA-256 as 64 lower-case hex digits: names a build of the binary.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256Hex(String);

impl Sha256Hex {
    /// Hash of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(hex::encode(sha2::Sha256::digest(bytes)))
    }

    /// The 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Sha256Hex {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for Sha256Hex {
    type Error = BadId;

    fn try_from(text: String) -> Result<Self, BadId> {
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(Self(text));
        }
        Err(BadId { what: "sha256", value: text, form: "^[0-9a-f]{64}$" })
    }
}

impl From<Sha256Hex> for String {
    fn from(hash: Sha256Hex) -> Self {
        hash.0
    }
}

impl fmt::Display for Sha256Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
