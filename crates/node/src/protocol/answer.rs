//! What the host answers: one JSON document on stdout per command.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::OrderId;

/// Where an order stands. Answer of `accept` and `status`, and part of every [`Chunk`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Which order.
    pub id: OrderId,
    /// How far it is.
    pub state: State,
    /// The step that runs now, or the one that ended the order early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Wall clock of the host in ms since 1970, for people: it may be off, decide nothing by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_ms: Option<u64>,
    /// As `started_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
    /// Steps that have ended, in order.
    pub steps: Vec<StepResult>,
    /// Bytes of output so far.
    pub output_len: u64,
    /// The boot the answer comes from (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
}

/// How far an order is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum State {
    /// In the journal and nothing runs: its runner has not begun, or the host was rebooted where the
    /// recipe lets the order go on. Begins or goes on when it is given again.
    Accepted,
    /// A runner is alive.
    Running,
    /// Every step ended well.
    Succeeded,
    /// A step ended badly; later steps were not run.
    Failed {
        /// The step.
        step: String,
        /// For people; holds no secret.
        reason: String,
    },
    /// The runner is gone without having ended the step: the host rebooted, or somebody killed it.
    /// What the script did is unknown, and it is not run again under this id.
    Interrupted {
        /// The step that was running, or empty when none had begun.
        step: String,
        /// For people.
        reason: String,
    },
}

impl State {
    /// Nothing more will happen under this id.
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Accepted | Self::Running)
    }
}

/// A step that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepResult {
    /// [`super::Step::name`].
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// By the monotonic clock, in ms.
    pub duration_ms: u64,
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Exit status 0, or the login is set.
    Ok,
    /// Exit status other than 0.
    Exit(i32),
    /// Killed by this signal, not by us.
    Signal(i32),
    /// Stopped by us: the time limit passed.
    Timeout,
    /// It could not be run, or the login could not be set.
    Error(String),
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ok => f.write_str("ok"),
            Self::Exit(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "killed by signal {signal}"),
            Self::Timeout => f.write_str("stopped: time limit passed"),
            Self::Error(reason) => f.write_str(reason),
        }
    }
}

/// Answer of `probe`. Nothing was written to learn this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// [`super::PROTOCOL`] of the binary on the host.
    pub protocol: u32,
    /// Version of the binary on the host.
    pub version: String,
    /// `/etc/machine-id`; empty when the host has none.
    pub machine_id: String,
    /// DMI product UUID, lower case; absent where the host has none or it cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product_uuid: Option<String>,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// The kernel's host name.
    pub hostname: String,
    /// Whether the probe ran as root; without root nothing can be reset.
    pub root: bool,
    /// Whether the asked user exists; absent when none was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_exists: Option<bool>,
    /// Free space for root, in MiB, where there is least of it: at the state directory or one of the asked paths.
    pub free_disk_mb: u64,
    /// That place.
    pub free_disk_at: String,
    /// The commands that were asked for, and whether they were found on the PATH scripts get.
    pub commands: BTreeMap<String, bool>,
    /// What `kubelet --version` says, such as `Kubernetes v1.36.3`; absent if not asked for, or if it says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubelet: Option<String>,
    /// Whether systemd is process 1, so that runs get a unit of their own.
    pub systemd: bool,
    /// Highest epoch an order came with; 0 when there was none.
    pub epoch_seen: u64,
    /// The order accepted last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_order: Option<OrderId>,
    /// Wall clock of the host in ms since 1970, to tell how far it is off.
    pub time_ms: u64,
}

/// Answer of `read`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Where this chunk begins: what was asked, or the end of the output if that is less.
    pub offset: u64,
    /// What to ask for next.
    pub next: u64,
    /// Base64 of at most [`super::CHUNK_BYTES_MAX`] bytes.
    pub data_b64: String,
    /// The order is over and this chunk reaches its end.
    pub eof: bool,
    /// Where the order stands, looked at before the data: a final state means whole output.
    pub progress: Progress,
}

impl Chunk {
    /// The bytes of output, or `None` when the host sent something that is not base64.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        STANDARD.decode(&self.data_b64).ok()
    }
}

/// Answer of [`super::Remote::Have`] and [`super::Remote::Upload`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Have {
    /// The binary is there and its hash is right.
    pub have: bool,
}

/// Answer of `prove`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Every check, passed or not.
    pub checks: Vec<ProofCheck>,
}

impl Proof {
    /// The first check that did not pass; `None` when the login is proved.
    pub fn first_failure(&self) -> Option<&ProofCheck> {
        self.checks.iter().find(|check| !check.ok)
    }
}

/// One thing `prove` looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofCheck {
    /// `user`, `password`, `password_locked`, `key`, `managed_block`, `sshd_password`, `sshd_pubkey`.
    pub name: String,
    /// Passed.
    pub ok: bool,
    /// What was found, without secrets.
    pub detail: String,
}

/// One line of `plan`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanEntry {
    /// [`super::Step::name`].
    pub name: String,
    /// What would happen, without secrets.
    pub what: String,
    /// Time limit, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_limit_s: Option<u64>,
}

/// Answer of `gc`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swept {
    /// Orders whose journal and output were removed.
    pub orders: Vec<OrderId>,
    /// Binaries of other versions that were removed.
    pub binaries: Vec<String>,
}

/// The host did not do what was asked, and nothing was touched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// For programs.
    pub kind: RefusalKind,
    /// For people; holds no secret.
    pub message: String,
}

/// Why the host refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// The binary speaks another protocol, or a newer one has written the state directory.
    Protocol,
    /// The order, or the command line, makes no sense.
    BadOrder,
    /// This is not the machine the order is for.
    WrongMachine,
    /// A newer controller or a newer attempt has been here.
    Fenced,
    /// Another order runs on this host.
    Busy,
    /// No such order on this host.
    UnknownOrder,
    /// The login user does not exist.
    UnknownUser,
    /// Not root.
    NotRoot,
    /// The state directory cannot be read or written (full disk, read-only).
    Storage,
    /// The uploaded binary is not what its hash says.
    Upload,
}

impl RefusalKind {
    /// Whether the same command may succeed later without anything else being changed.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Busy | Self::Storage | Self::Upload)
    }
}

/// Why an answer is none.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The host refused.
    #[error("the host refused")]
    Refused(#[source] Refusal),
    /// Not the JSON that was expected: a banner, a broken connection, another program.
    #[error("the host's answer is not what evenkeel-node says")]
    Malformed(#[source] serde_json::Error),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Wire {
    Error { error: Refusal },
    Other(serde_json::Value),
}

/// Reads the stdout of a [`super::Remote`] command: its last line. What stands above it was said by the
/// login shell's start files.
pub fn parse_answer<T: DeserializeOwned>(stdout: &[u8]) -> Result<T, AnswerError> {
    let last = stdout.trim_ascii_end().rsplit(|b| *b == b'\n').next();
    match serde_json::from_slice(last.unwrap_or_default()).map_err(AnswerError::Malformed)? {
        Wire::Error { error } => Err(AnswerError::Refused(error)),
        Wire::Other(value) => serde_json::from_value(value).map_err(AnswerError::Malformed),
    }
}
