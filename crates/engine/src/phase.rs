//! Where one node stands in a synchronization. The stored form is this enum.
//!
//! A phase ends only when an observation proves it; while it lasts, every turn emits again the action that the gap
//! between phase and observation implies.

use crate::ids::ObjectKey;
use crate::time::Time;
use serde::{Deserialize, Serialize};

/// The phase of one node. Times are on the cluster's clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "camelCase")]
pub enum Phase {
    /// The slot is taken in the store; our mark is being written and must come back through the watch.
    Claiming {
        /// Start of the phase.
        since: Time,
    },
    /// Is the machine reachable, the right one, and fit for the recipe? Before the cordon.
    Probing {
        /// Start of the phase.
        since: Time,
    },
    /// Cordoned; its pods are being evicted.
    Draining {
        /// Start of the phase.
        since: Time,
        /// The cordon has been seen: a schedulable node from here on was uncordoned by a person.
        cordoned: bool,
    },
    /// The cache shows an empty node; a fresh read must agree before the reset (S7).
    Confirming {
        /// Start of the phase.
        since: Time,
        /// When the drain began.
        drain_since: Time,
    },
    /// The reset order is on the machine, or on its way.
    Resetting {
        /// Start of the phase.
        since: Time,
    },
    /// The order ended well; the node must prove that it is back.
    Rejoining {
        /// Start of the phase.
        since: Time,
        /// What counts as a sign of life.
        heartbeat: Heartbeat,
        /// Since when everything that is asked of a node in service has held.
        good_since: Option<Time>,
    },
    /// The post-install script runs.
    PostInstall {
        /// Start of the phase.
        since: Time,
        /// The node takes pods already (`waitPostInstallFinish` is false, and it is initialized).
        lifted: bool,
        /// When the script ended well; only conditions are waited for since.
        ended: Option<Time>,
    },
    /// The attempt failed after the reset had begun; the next one starts at `until`. Still in hand.
    Retrying {
        /// Start of the phase.
        since: Time,
        /// Start of the next attempt.
        until: Time,
    },
    /// Cordon and mark are being removed; `then` holds once the watch shows it.
    Releasing {
        /// Start of the phase.
        since: Time,
        /// What comes after.
        then: Outcome,
    },
    /// Given back and queued again, not before `until`. Not in hand.
    Waiting {
        /// Start of the phase.
        since: Time,
        /// Earliest time of the next try.
        until: Time,
        /// Why it was given back.
        cause: Cause,
    },
    /// Synchronized and back in service.
    Done {
        /// End.
        at: Time,
    },
    /// Not synchronized.
    Failed {
        /// End.
        at: Time,
        /// Why.
        cause: Cause,
        /// What it was left like.
        left: Left,
    },
    /// Left alone on purpose.
    Skipped {
        /// End.
        at: Time,
        /// Why.
        reason: SkipReason,
    },
}

/// What comes after a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "camelCase")]
pub enum Outcome {
    /// Synchronized.
    Done,
    /// Queued again after a pause.
    Waiting {
        /// Earliest time of the next try.
        until: Time,
        /// Why it was given back.
        cause: Cause,
    },
    /// Failed; the node is in service as before.
    Failed {
        /// Why.
        cause: Cause,
        /// Whether the node keeps counting against the work limit.
        keeps_slot: bool,
    },
    /// Left alone.
    Skipped {
        /// Why.
        reason: SkipReason,
    },
}

/// What a failed node was left like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Left {
    /// Cordoned, with our mark: its reset had begun. Keeps its slot.
    Cordoned,
    /// In service as before, out of the account.
    InService,
    /// In service, but its configuration is suspect: keeps a work slot.
    InServiceHoldingSlot,
}

/// The sign of life that a reset node owes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "wants", rename_all = "camelCase")]
pub enum Heartbeat {
    /// Nothing was reset: Ready=True suffices.
    NotNeeded,
    /// The first reading of the Lease becomes the baseline (no host clock is known).
    Baseline,
    /// A renewal soon after this, by the host's own clock (ms since the epoch).
    After {
        /// The end of the install step.
        host_ms: i64,
    },
    /// Any other renewal than this one, which was read after the reset: holds whatever the host's clock does.
    Other {
        /// The renewal that was read.
        than_ms: i64,
    },
    /// It was seen.
    Seen,
}

/// Why something did not work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "camelCase")]
pub enum Cause {
    /// The pods did not leave in time, or can never leave.
    Undrainable {
        /// What stands in the way.
        blocker: Blocker,
    },
    /// The machine could not be reached.
    Unreachable {
        /// What was tried.
        message: String,
    },
    /// The machine cannot be used: wrong machine, wrong credential, missing command.
    Unfit {
        /// What is wrong and the way out.
        message: String,
    },
    /// A step on the host failed.
    Step {
        /// Name of the step.
        step: String,
        /// Exit status, signal or time limit.
        message: String,
    },
    /// The node did not come back.
    NotReady {
        /// What was missing.
        message: String,
    },
    /// Nodes that are out for other reasons left no room.
    NoRoom {
        /// Those nodes.
        message: String,
    },
}

/// A pod that does not leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocker {
    /// The pod.
    pub pod: ObjectKey,
    /// The budget, where there is one.
    pub budget: Option<ObjectKey>,
    /// In words, with the way out.
    pub why: String,
}

/// Why a node was left alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "camelCase")]
pub enum SkipReason {
    /// Listed in `skippedNodes`.
    Asked,
    /// The Node object is gone.
    Gone,
    /// Annotated `evenkeel.io/hold`.
    Held,
    /// Cordoned by somebody else, and not named in `nodeIDs`.
    CordonedByOthers,
    /// A person uncordoned it twice.
    UncordonedByPeople,
    /// The job ended before its turn.
    NotStarted,
    /// A person said so.
    Person {
        /// Its reset had begun and failed: it stays cordoned, with our mark, and holds no slot any more.
        cordoned: bool,
    },
    /// The job was cancelled before its reset began.
    Cancelled,
}

impl Phase {
    /// The end of a node's way: it never changes again (S13).
    pub fn is_terminal(&self) -> bool {
        matches!(self, Phase::Done { .. } | Phase::Failed { .. } | Phase::Skipped { .. })
    }

    /// Whether the node counts against the work limit.
    pub fn holds_slot(&self) -> bool {
        match self {
            Phase::Waiting { .. } | Phase::Done { .. } | Phase::Skipped { .. } => false,
            Phase::Failed { left, .. } => *left != Left::InService,
            Phase::Claiming { .. }
            | Phase::Probing { .. }
            | Phase::Draining { .. }
            | Phase::Confirming { .. }
            | Phase::Resetting { .. }
            | Phase::Rejoining { .. }
            | Phase::PostInstall { .. }
            | Phase::Retrying { .. }
            | Phase::Releasing { .. } => true,
        }
    }

    /// Whether the actor has something to do for it now or later.
    pub fn is_active(&self) -> bool {
        self.holds_slot() && !self.is_terminal()
    }

    /// Whether the node must be counted as unavailable, whatever the cache shows.
    pub fn takes_node_out(&self) -> bool {
        match self {
            Phase::PostInstall { lifted, .. } => !lifted,
            Phase::Failed { left, .. } => *left == Left::Cordoned,
            other => other.holds_slot(),
        }
    }

    /// Whether an end leaves the node cordoned, with our mark.
    pub fn leaves_cordoned(&self) -> bool {
        match self {
            Phase::Failed { left, .. } => *left == Left::Cordoned,
            Phase::Skipped { reason, .. } => *reason == SkipReason::Person { cordoned: true },
            _ => false,
        }
    }

    /// One word, for people and metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Phase::Claiming { .. } => "Claiming",
            Phase::Probing { .. } => "Probing",
            Phase::Draining { .. } => "Draining",
            Phase::Confirming { .. } => "Confirming",
            Phase::Resetting { .. } => "Resetting",
            Phase::Rejoining { .. } => "Rejoining",
            Phase::PostInstall { .. } => "PostInstall",
            Phase::Retrying { .. } => "Retrying",
            Phase::Releasing { .. } => "Releasing",
            Phase::Waiting { .. } => "Waiting",
            Phase::Done { .. } => "Done",
            Phase::Failed { .. } => "Failed",
            Phase::Skipped { .. } => "Skipped",
        }
    }

    /// When the phase began, or ended the node's way.
    pub fn since(&self) -> Time {
        match self {
            Phase::Claiming { since }
            | Phase::Probing { since }
            | Phase::Draining { since, .. }
            | Phase::Confirming { since, .. }
            | Phase::Resetting { since }
            | Phase::Rejoining { since, .. }
            | Phase::PostInstall { since, .. }
            | Phase::Retrying { since, .. }
            | Phase::Releasing { since, .. }
            | Phase::Waiting { since, .. } => *since,
            Phase::Done { at } | Phase::Failed { at, .. } | Phase::Skipped { at, .. } => *at,
        }
    }
}
