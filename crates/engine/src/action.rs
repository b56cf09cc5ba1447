//! What a plan asks the outside to do, and what comes back. Every action may be repeated without harm.

use crate::facts::{NodeSeen, PodSeen};
use crate::ids::{JobId, NodeId, NodeName, ObjectKey, Uid};
use crate::time::Span;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Which part of an attempt runs on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stage {
    /// Teardown, login, pre-install, install.
    Reset,
    /// Post-install.
    Post,
}

/// One effect. Its [`key`](Action::key) tells whether the same one is already under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write our mark, conditional on the version that the decision was made on.
    Claim {
        /// The node.
        node: NodeName,
        /// The job.
        job: JobId,
        /// What the mark says about the node's state before us.
        was_unschedulable: bool,
    },
    /// Make the node unschedulable.
    Cordon {
        /// The node.
        node: NodeName,
    },
    /// Make the node schedulable, without its startup taint, and keep the mark (the post-install script still runs).
    Lift {
        /// The node.
        node: NodeName,
    },
    /// Remove the mark and, if asked, the cordon, in one write.
    Release {
        /// The node.
        node: NodeName,
        /// Whether the cordon is ours to remove.
        uncordon: bool,
    },
    /// Put the taint of a node that is still to do on it, or take it off.
    Steer {
        /// The node.
        node: NodeName,
        /// Whether pods are to prefer other nodes.
        away: bool,
    },
    /// Evict a pod.
    Evict {
        /// The pod.
        pod: ObjectKey,
        /// Its UID: another pod of this name is left alone.
        uid: Uid,
        /// The budget that covers it, if one does: at most one call per budget at a time.
        budget: Option<ObjectKey>,
    },
    /// Delete a pod with its own grace period (only with `force`).
    Delete {
        /// The pod.
        pod: ObjectKey,
        /// Its UID.
        uid: Uid,
    },
    /// Read the node and its pods afresh.
    Confirm {
        /// The node.
        node: NodeName,
    },
    /// Reach the machine and see whether the recipe can run.
    Probe {
        /// The node.
        node: NodeName,
        /// Its id.
        id: NodeId,
        /// The job.
        job: JobId,
    },
    /// Make sure that an order is on the machine, and follow it to its end.
    Host {
        /// The node.
        node: NodeName,
        /// Its id.
        id: NodeId,
        /// The job.
        job: JobId,
        /// The attempt.
        attempt: u32,
        /// Which part.
        stage: Stage,
    },
    /// Read the node's Lease.
    Heartbeat {
        /// The node.
        node: NodeName,
    },
}

/// Identity of an action: while one with this key is under way, no second is started.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ActionKey {
    /// What is done.
    pub verb: &'static str,
    /// To what: a node's name or a pod's UID.
    pub subject: String,
    /// The attempt, where it matters.
    pub attempt: u32,
}

impl fmt::Display for ActionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.subject)?;
        if self.attempt > 0 { write!(f, " #{}", self.attempt) } else { Ok(()) }
    }
}

impl Action {
    /// The Node that this action writes to.
    pub fn writes_node(&self) -> Option<&NodeName> {
        match self {
            Action::Claim { node, .. }
            | Action::Cordon { node }
            | Action::Lift { node }
            | Action::Release { node, .. }
            | Action::Steer { node, .. } => Some(node),
            _ => None,
        }
    }

    /// The key. Writes to one node's cordon share a verb per direction.
    pub fn key(&self) -> ActionKey {
        let (verb, subject, attempt) = match self {
            Action::Claim { node, .. } => ("claim", node.as_str(), 0),
            Action::Cordon { node } => ("cordon", node.as_str(), 0),
            Action::Lift { node } => ("lift", node.as_str(), 0),
            Action::Release { node, .. } => ("release", node.as_str(), 0),
            Action::Steer { node, away: true } => ("steer", node.as_str(), 0),
            Action::Steer { node, away: false } => ("unsteer", node.as_str(), 0),
            Action::Evict { uid, .. } => ("evict", uid.as_str(), 0),
            Action::Delete { uid, .. } => ("delete", uid.as_str(), 0),
            Action::Confirm { node } => ("confirm", node.as_str(), 0),
            Action::Probe { node, .. } => ("probe", node.as_str(), 0),
            Action::Host { node, attempt, stage: Stage::Reset, .. } => {
                ("reset", node.as_str(), *attempt)
            }
            Action::Host { node, attempt, stage: Stage::Post, .. } => {
                ("post", node.as_str(), *attempt)
            }
            Action::Heartbeat { node } => ("heartbeat", node.as_str(), 0),
        };
        ActionKey { verb, subject: subject.to_owned(), attempt }
    }
}

/// The API server's answer to an eviction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EvictAnswer {
    /// 200 or 201: accepted (also when the pod was already going).
    Accepted,
    /// 404, or 409 for another UID: this pod is no more.
    Gone,
    /// 429: a budget does not allow it now.
    Refused {
        /// The server's sentence; names the budget.
        message: String,
        /// `Retry-After`, seconds, only when the server named it.
        retry_after_s: Option<u32>,
    },
    /// 500 "does not support multiple budgets", 403 and the like: it will not work as things are.
    Impossible {
        /// The server's sentence.
        message: String,
    },
}

/// How far an order is on its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostState {
    /// The machine took it earlier. Whether it still runs is not known before the machine answers again.
    Given {
        /// The time within which its own limits end it.
        limit: Span,
    },
    /// Accepted or running; the step's name.
    Running {
        /// The step that runs now.
        step: Option<String>,
        /// The time within which its own limits end it; zero where nothing is known of them.
        limit: Span,
    },
    /// All steps ended well; the host's clock at the end (ms), where it has one.
    Succeeded {
        /// Milliseconds since the epoch by the host's clock.
        ended_host_ms: Option<i64>,
    },
    /// A step failed; later ones did not run.
    Failed {
        /// Which step.
        step: String,
        /// Exit status, signal, time limit or error, in words.
        reason: String,
    },
}

/// What an action brought back.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The write was acknowledged.
    Written,
    /// An eviction's answer.
    Eviction(EvictAnswer),
    /// A fresh read.
    Confirmed {
        /// The node; absent if it is gone.
        node: Option<NodeSeen>,
        /// Every pod bound to it.
        pods: Vec<PodSeen>,
    },
    /// The probe found nothing wrong.
    Fit,
    /// An order's state.
    Host(HostState),
    /// `spec.renewTime` of the Lease, ms by the host's clock.
    Renewed(Option<i64>),
}

/// Why an action brought nothing back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultSeen {
    /// Trying again will not help until a person changes something.
    pub permanent: bool,
    /// The object had changed: try again on the next observation, without a pause.
    pub conflict: bool,
    /// The API server asked for fewer requests.
    pub busy: bool,
    /// What was tried and what went wrong; no secrets.
    pub message: String,
}
