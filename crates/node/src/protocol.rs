//! What controller and host say to each other: orders, progress, facts and the exact command
//! lines ([`Remote`]). Shared by both sides, so that neither can drift.
//!
//! Start at [`Order`]. Deliberately absent: any effect. Secrets (password hashes, script bodies)
//! are [`Hidden`]: they travel on stdin and never show in `Debug`.

pub mod agent;
mod answer;
mod id;
mod remote;
#[cfg(test)]
mod tests;

pub use answer::{
    AnswerError, Chunk, Facts, Have, Outcome, PlanEntry, Progress, Proof, ProofCheck, Refusal,
    RefusalKind, State, StepResult, Swept, parse_answer,
};
pub use id::{BadId, OrderId, Sha256Hex, Stage, UserName};
pub use remote::{Remote, Verb};

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

/// Version of everything in this module. A host refuses an order of another version, and the
/// controller then pushes the binary that fits. Another one only in a binary that tests what a controller does
/// with it.
pub const PROTOCOL: u32 = if cfg!(feature = "another-protocol") { 99 } else { 1 };

/// Where the host keeps journal, runs and binaries. `EVENKEEL_NODE_STATE` overrides it in tests.
pub const STATE_DIR: &str = "/var/lib/evenkeel";

/// Time limit of the pre-install script: 15 minutes, the limit CCE documents for it
/// ("Adding a node", post- and pre-installation scripts).
pub const PRE_INSTALL_LIMIT_S: u64 = 900;

/// Time limit of the post-install script: 30 minutes, the limit CCE documents for it.
pub const POST_INSTALL_LIMIT_S: u64 = 1800;

/// Highest time limit a step may ask for: one day. Anything longer is a unit mistake.
pub const STEP_LIMIT_MAX_S: u64 = 86_400;

/// Largest order on stdin. CCE allows 10,240 bytes over both scripts; the rest is room for the
/// commands of the recipe and keys.
pub const ORDER_BYTES_MAX: usize = 512 * 1024;

/// Bytes of output one `read` returns at most (before base64).
pub const CHUNK_BYTES_MAX: usize = 256 * 1024;

/// Exit status of a refusal; stdout then holds `{"error":{"kind","message"}}`.
pub const EXIT_REFUSED: i32 = 3;

/// One thing to do on one host, at most once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Must be [`PROTOCOL`].
    pub protocol: u32,
    /// Names the order; the same id is never run twice.
    pub id: OrderId,
    /// Fencing token of the controller that gives the order; a lower one than seen is refused.
    pub epoch: u64,
    /// The machine this order is for; compared before anything is touched.
    pub machine: MachineIdentity,
    /// Run in this order; the first failure ends the order.
    pub steps: Vec<Step>,
}

/// What makes a machine that machine, as Kubernetes reports it in `Node.status.nodeInfo`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineIdentity {
    /// Content of `/etc/machine-id` (`nodeInfo.machineID`).
    pub machine_id: String,
    /// DMI product UUID (`nodeInfo.systemUUID`); compared without regard to case. `None` where
    /// the Node reports none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product_uuid: Option<String>,
}

/// One step of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// The recipe's own command that takes Kubernetes off the host.
    Teardown(Command),
    /// Who may log in, and how.
    Login(LoginOrder),
    /// The pool's `preInstall` script.
    PreInstall(Script),
    /// The recipe's own command that puts Kubernetes back.
    Install(Command),
    /// The pool's `postInstall` script.
    PostInstall(Script),
}

/// Shell text of the cluster's recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// Shell text as the user wrote it; may hold a join token, so it is treated as a secret.
    pub script: Hidden,
    /// TERM to the whole process group after this many seconds, KILL ten seconds later.
    pub time_limit_s: u64,
    /// Its author declares it idempotent: a host that was rebooted while it ran runs it again.
    #[serde(default)]
    pub resume: bool,
}

/// A script of the pool's template, as CCE clients send it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// Strict base64 (RFC 4648, padded, no white space) of the script.
    pub script_b64: Hidden,
    /// See [`Command::time_limit_s`].
    pub time_limit_s: u64,
}

/// The login a node shall have afterwards. What is absent stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoginOrder {
    /// Must exist on the host; an unknown user is refused before anything is touched.
    pub user: UserName,
    /// `$6$` crypt(3) hash to set. Excludes `remove_password` of the same user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_hash: Option<Hidden>,
    /// Whose password to lock and whose sshd drop-in to take away: this user's, or that of an earlier login. A user that
    /// does not exist has neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remove_password: Option<UserName>,
    /// Public keys (`type base64 [comment]`) the managed block shall hold, besides `keep_key`.
    /// Excludes `remove_keys` of the same user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorized_keys: Option<Vec<String>>,
    /// Whose managed block to empty, except for `keep_key`: this user's, or that of an earlier login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remove_keys: Option<UserName>,
    /// The controller's own public key: always in the block, never removed. Absent where it never comes over SSH.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_key: Option<String>,
}

/// What `probe` is to look for (JSON on stdin; nothing there asks for nothing).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProbeRequest {
    /// A login user whose existence is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    /// Commands that scripts have to find: names, or absolute paths.
    pub commands: Vec<String>,
    /// Ask the kubelet for its version.
    pub kubelet: bool,
    /// Where the reset writes besides the state directory: absolute paths, which need not exist yet.
    pub writes: Vec<String>,
}

/// What `prove` wants to know (JSON on stdin).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProveRequest {
    /// The login that was ordered.
    pub login: LoginOrder,
    /// Client address for `sshd -T -C addr=`: the controller's, as the host sees it. Unspecified where it does
    /// not come over SSH: then only what holds for every client counts.
    pub addr: std::net::IpAddr,
}

/// Text that never shows in `Debug` and has no `Display`. In JSON it is a plain string.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hidden(String);

impl Hidden {
    /// The text itself. For the wire and the private run directory only.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Hidden {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Hidden {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<hidden, {} bytes>", self.0.len())
    }
}

/// Why an order is not even looked at on the host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadOrder {
    /// Other version than [`PROTOCOL`].
    #[error("protocol {got} is not {PROTOCOL}; push the evenkeel-node that fits the controller")]
    Protocol {
        /// What the order says.
        got: u32,
    },
    /// Nothing to do is a mistake of whoever made the order.
    #[error("order {0} has no steps")]
    NoSteps(OrderId),
    /// Machine identity is what protects other machines: it cannot be empty.
    #[error("machine.machine_id is empty; it must be the Node's nodeInfo.machineID")]
    NoMachine,
    /// The step twice.
    #[error("step {0} is in the order twice")]
    Twice(&'static str),
    /// Time limit outside 1..=86400.
    #[error("step {step}: time_limit_s {got} is not in 1..={STEP_LIMIT_MAX_S}")]
    TimeLimit {
        /// Name of the step.
        step: &'static str,
        /// What the order says.
        got: u64,
    },
    /// Not strict base64.
    #[error("step {0}: script_b64 is not strict base64 (RFC 4648 with padding, no white space)")]
    Base64(&'static str),
    /// No text at all.
    #[error("step {0}: the script is empty")]
    EmptyScript(&'static str),
    /// Set and remove at once.
    #[error("step login: {0} and {1} exclude each other")]
    Exclusive(&'static str, &'static str),
    /// Not a `$6$` hash.
    #[error("step login: password_hash is not a $6$ crypt hash with at most {ROUNDS_MAX} rounds")]
    PasswordHash,
    /// Not a single-line public key.
    #[error("step login: {0} is not a public key of the form `type base64 [comment]`")]
    PublicKey(String),
}

/// More rounds than this make every login a denial of service; Evenkeel's own limit.
pub const ROUNDS_MAX: u32 = 100_000;

impl Order {
    /// Everything about an order that can be judged without looking at a host.
    pub fn check(&self) -> Result<(), BadOrder> {
        if self.protocol != PROTOCOL {
            return Err(BadOrder::Protocol { got: self.protocol });
        }
        if self.steps.is_empty() {
            return Err(BadOrder::NoSteps(self.id.clone()));
        }
        if self.machine.machine_id.trim().is_empty() {
            return Err(BadOrder::NoMachine);
        }
        for (position, step) in self.steps.iter().enumerate() {
            if self.steps[..position].iter().any(|earlier| earlier.name() == step.name()) {
                return Err(BadOrder::Twice(step.name()));
            }
            step.check()?;
        }
        Ok(())
    }
}

impl Step {
    /// A teardown command of the recipe.
    pub fn teardown(script: impl Into<Hidden>, time_limit_s: u64) -> Self {
        Self::Teardown(Command { script: script.into(), time_limit_s, resume: false })
    }

    /// An install command of the recipe.
    pub fn install(script: impl Into<Hidden>, time_limit_s: u64) -> Self {
        Self::Install(Command { script: script.into(), time_limit_s, resume: false })
    }

    /// The pool's pre-install script with the documented limit.
    pub fn pre_install(script_b64: impl Into<Hidden>) -> Self {
        let script_b64 = script_b64.into();
        Self::PreInstall(Script { script_b64, time_limit_s: PRE_INSTALL_LIMIT_S })
    }

    /// The pool's post-install script with the documented limit.
    pub fn post_install(script_b64: impl Into<Hidden>) -> Self {
        let script_b64 = script_b64.into();
        Self::PostInstall(Script { script_b64, time_limit_s: POST_INSTALL_LIMIT_S })
    }

    /// The same step; a command is run again after a reboot of its host in the middle, if `yes`.
    #[must_use]
    pub fn resuming(mut self, yes: bool) -> Self {
        if let Self::Teardown(command) | Self::Install(command) = &mut self {
            command.resume = yes;
        }
        self
    }

    /// Whether the step may be run again after a reboot in the middle of it. Setting a login twice is
    /// setting it once; scripts of the pool run once per attempt, whatever happens.
    pub fn resumes(&self) -> bool {
        match self {
            Self::Teardown(command) | Self::Install(command) => command.resume,
            Self::Login(_) => true,
            Self::PreInstall(_) | Self::PostInstall(_) => false,
        }
    }

    /// The name used in progress, journal and on the wire.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Teardown(_) => "teardown",
            Self::Login(_) => "login",
            Self::PreInstall(_) => "pre_install",
            Self::Install(_) => "install",
            Self::PostInstall(_) => "post_install",
        }
    }

    /// Time limit in seconds; login has none of its own (its commands take milliseconds).
    pub fn time_limit_s(&self) -> Option<u64> {
        match self {
            Self::Teardown(c) | Self::Install(c) => Some(c.time_limit_s),
            Self::PreInstall(s) | Self::PostInstall(s) => Some(s.time_limit_s),
            Self::Login(_) => None,
        }
    }

    /// The bytes to run, decoded strictly; `None` for login.
    pub fn script(&self) -> Result<Option<Vec<u8>>, BadOrder> {
        match self {
            Self::Teardown(c) | Self::Install(c) => Ok(Some(c.script.expose().into())),
            Self::PreInstall(s) | Self::PostInstall(s) => STANDARD
                .decode(s.script_b64.expose())
                .map(Some)
                .map_err(|_| BadOrder::Base64(self.name())),
            Self::Login(_) => Ok(None),
        }
    }

    fn check(&self) -> Result<(), BadOrder> {
        if let Some(got) = self.time_limit_s()
            && !(1..=STEP_LIMIT_MAX_S).contains(&got)
        {
            return Err(BadOrder::TimeLimit { step: self.name(), got });
        }
        if self.script()?.is_some_and(|script| script.trim_ascii().is_empty()) {
            return Err(BadOrder::EmptyScript(self.name()));
        }
        match self {
            Self::Login(login) => login.check(),
            _ => Ok(()),
        }
    }
}

impl LoginOrder {
    /// Everything about a login that can be judged without looking at a host.
    pub fn check(&self) -> Result<(), BadOrder> {
        if self.password_hash.is_some() && self.remove_password.as_ref() == Some(&self.user) {
            return Err(BadOrder::Exclusive("password_hash", "remove_password"));
        }
        if self.authorized_keys.is_some() && self.remove_keys.as_ref() == Some(&self.user) {
            return Err(BadOrder::Exclusive("authorized_keys", "remove_keys"));
        }
        if self.password_hash.as_ref().is_some_and(|hash| !is_sha512_crypt(hash.expose())) {
            return Err(BadOrder::PasswordHash);
        }
        for key in self.authorized_keys.iter().flatten().chain(&self.keep_key) {
            if !is_public_key(key) {
                return Err(BadOrder::PublicKey(key.chars().take(40).collect()));
            }
        }
        Ok(())
    }
}

/// `$6$[rounds=N$]salt$hash` with the alphabet of crypt(5): nothing that `chpasswd` could read
/// as a second line or field.
fn is_sha512_crypt(hash: &str) -> bool {
    let alphabet = |s: &str| s.bytes().all(|b| b.is_ascii_alphanumeric() || b"./".contains(&b));
    let Some(rest) = hash.strip_prefix("$6$") else {
        return false;
    };
    let (rounds, rest) = match rest.strip_prefix("rounds=") {
        Some(tail) => match tail.split_once('$') {
            Some((rounds, rest)) => (rounds.parse::<u32>().ok(), rest),
            None => return false,
        },
        None => (Some(5000), rest),
    };
    let Some((salt, digest)) = rest.split_once('$') else {
        return false;
    };
    // crypt(5): salt of up to 16 characters, digest of 86.
    rounds.is_some_and(|n| n <= ROUNDS_MAX)
        && (1..=16).contains(&salt.len())
        && digest.len() == 86
        && alphabet(salt)
        && alphabet(digest)
}

/// One line, no options in front (an `authorized_keys` option such as `command=` would be code),
/// and the type inside the blob agrees with the type in front of it.
fn is_public_key(line: &str) -> bool {
    if line.chars().any(|c| c.is_control()) {
        return false;
    }
    let mut words = line.split(' ');
    let (Some(kind), Some(blob)) = (words.next(), words.next()) else {
        return false;
    };
    let Ok(blob) = STANDARD.decode(blob) else {
        return false;
    };
    // RFC 4253 section 6.6: the blob starts with the length and name of its type.
    !kind.is_empty()
        && blob.len() > 4 + kind.len()
        && blob[..4] == (kind.len() as u32).to_be_bytes()
        && &blob[4..4 + kind.len()] == kind.as_bytes()
}
