//! What an agent and the server say to each other: JSON over HTTPS, the agent always the one that calls.
//!
//! `POST` [`ENROL_PATH`] turns a one-time token into a credential. `GET` [`CALLS_PATH`] stays open until there is a
//! call or [`POLL_LIMIT`] is over; `POST` [`CALLS_PATH`]`/<id>` answers one. Both carry the credential as a bearer
//! token. A call is a [`super::Verb`] with its stdin, so an agent can do what the binary does over SSH and no more.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Hidden;

/// Where a token is turned into a credential.
pub const ENROL_PATH: &str = "/evenkeel/v1/agent/enrol";

/// Where calls are fetched and answered.
pub const CALLS_PATH: &str = "/evenkeel/v1/agent/calls";

/// How long a poll stays open: shorter than the idle limit of common proxies and NATs (60 s).
pub const POLL_LIMIT: Duration = Duration::from_secs(30);

/// Longest answer to one call: the largest of a host is a chunk of output in base64, 350 KiB.
pub const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Body of an enrolment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolRequest {
    /// The one-time token.
    pub token: Hidden,
    /// Content of `/etc/machine-id`; compared with what the Node reports.
    pub machine_id: String,
    /// Version of the binary, for people.
    pub version: String,
}

/// Answer to an enrolment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Enrolled {
    /// Id of the agent.
    pub agent: String,
    /// Name of the node that it is bound to.
    pub node: String,
    /// Name of the cluster.
    pub cluster: String,
    /// What later calls carry.
    pub credential: Hidden,
}

/// Query of a poll. A server reads it from agents of every version, so nothing in it may change its meaning, and it
/// may hold more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Poll {
    /// `/proc/sys/kernel/random/boot_id`: two machines with one credential differ in it.
    pub boot_id: String,
    /// Version of the binary, for people.
    pub version: String,
    /// [`super::PROTOCOL`] of the binary; with another one than the server's it gets no call.
    pub protocol: u32,
}

/// Answer to a poll.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Polled {
    /// What to do; nothing if the time was over.
    pub call: Option<Call>,
}

/// One run of the binary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Names the call; it is handed out once.
    pub id: String,
    /// Arguments of [`super::Verb::args`].
    pub args: Vec<String>,
    /// Standard input.
    pub stdin: Hidden,
    /// After this many ms nobody waits for the answer any more.
    pub limit_ms: u64,
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallEnd {
    /// As in the poll that brought the call.
    pub boot_id: String,
    /// Exit status.
    pub status: u32,
    /// Standard output: one JSON document.
    pub stdout: String,
    /// Beginning of standard error.
    pub stderr: String,
}
