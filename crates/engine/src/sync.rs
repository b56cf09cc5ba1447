//! One synchronization: what was asked (immutable), where each touched node stands, and how the whole stands.

use crate::ids::{JobId, NodeId, NodeName, PoolId, TemplateRevision};
use crate::phase::{Cause, Phase};
use crate::time::{Span, Time};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A node on the frozen list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetNode {
    /// Its id in the API.
    pub id: NodeId,
    /// Its Node object.
    pub name: NodeName,
}

/// What was asked. Written once, at acceptance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncSpec {
    /// The job's id.
    pub job: JobId,
    /// The pool.
    pub pool: PoolId,
    /// The configuration that the nodes are to carry.
    pub revision: TemplateRevision,
    /// The frozen list, without the skipped ones.
    pub targets: Vec<TargetNode>,
    /// Listed in `skippedNodes`: recorded, never touched.
    pub skipped: Vec<TargetNode>,
    /// Whether the nodes were named by the caller (then foreign cordons do not protect them).
    pub named: bool,
    /// 1..=20, or the configured cap.
    pub max_unavailable: u32,
    /// Further attempts per node after the first.
    pub retry_times: u32,
    /// Delete what cannot be evicted, with the pods' own grace.
    pub force: bool,
    /// Whether the recipe resets anything; false for `none`.
    pub resets: bool,
    /// Whether a post-install script was given.
    pub post_install: bool,
    /// Keep the node out of service until the post-install script ended well.
    pub wait_post_install: bool,
    /// Whether this configuration has succeeded in the pool before: then no canary is needed.
    pub proven: bool,
    /// Time limits and steps.
    pub policy: Policy,
}

/// Limits and pauses. Copied into the job at acceptance, so that a change of configuration does not bend it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// One node first, then two, then the full window, until the configuration has succeeded.
    pub canary: bool,
    /// A drain that takes longer is given back or forced. 15 min: what EKS allows a managed node group.
    pub drain_timeout: Span,
    /// Added to the longest grace period of the node's pods, where that is the larger limit.
    pub grace_margin: Span,
    /// A blocked drain yields after this, if another node could drain now. 60 s.
    pub yield_after: Span,
    /// How often a node may be given back before it is Undrainable.
    pub drain_tries: u32,
    /// Pause before a node that was given back is tried again; doubled each time. 20 s.
    pub requeue_pause: Span,
    /// Pause before the next attempt of a failed reset; doubled each time. 30 s.
    pub retry_pause: Span,
    /// How long a machine may stay unreachable before the attempt fails. 5 min.
    pub reach_timeout: Span,
    /// How long a reset node may take until it is in service. 30 min, as CCE's post-install limit.
    pub ready_timeout: Span,
    /// How long a node must be good before it counts as back. 10 s.
    pub settle: Span,
    /// How long a run may wait for nodes that others took out. 24 h.
    pub stall_timeout: Span,
    /// A node that is NotReady for longer than this costs work but no availability. 60 s.
    pub sick_after: Span,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            canary: true,
            drain_timeout: Span::mins(15),
            grace_margin: Span::mins(2),
            yield_after: Span::secs(60),
            drain_tries: 3,
            requeue_pause: Span::secs(20),
            retry_pause: Span::secs(30),
            reach_timeout: Span::mins(5),
            ready_timeout: Span::mins(30),
            settle: Span::secs(10),
            stall_timeout: Span::mins(24 * 60),
            sick_after: Span::secs(60),
        }
    }
}

/// Where one touched node stands. One record per node, created at the claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Its id in the API.
    pub id: NodeId,
    /// Its Node object.
    pub name: NodeName,
    /// The phase.
    pub phase: Phase,
    /// The current or last attempt; 0 before the first reset.
    pub attempt: u32,
    /// How often it was given back.
    pub tries: u32,
    /// Whether it was unschedulable before us; then it ends unschedulable.
    pub was_unschedulable: bool,
    /// Whether it was in service when it was taken: only such a node proves or disproves a configuration.
    pub was_available: bool,
    /// How often a person uncordoned it before the reset.
    pub uncordons: u32,
    /// The last failure, also of an attempt that was retried.
    pub last_cause: Option<Cause>,
    /// What happened, oldest first; at most [`Work::LOG_MAX`] entries.
    pub log: Vec<LogEntry>,
}

/// One line of a node's story.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// When, on the cluster's clock.
    pub at: Time,
    /// What began.
    pub word: String,
    /// Details.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

impl Work {
    /// Ten attempts of about six phases each; older lines are dropped from the middle.
    pub const LOG_MAX: usize = 64;

    /// Adds a line, dropping the second oldest if the story grows too long.
    pub fn note(&mut self, at: Time, word: &str, note: impl Into<String>) {
        if self.log.len() >= Self::LOG_MAX {
            self.log.remove(1);
        }
        self.log.push(LogEntry {
            at,
            word: word.to_owned(),
            note: note.into(),
        });
    }
}

/// How the whole stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncState {
    /// The verdict so far.
    pub status: Status,
    /// When it was accepted.
    pub accepted: Time,
    /// Since when it has been waiting for nodes that others took out.
    pub stalled_since: Option<Time>,
}

/// The verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "camelCase")]
pub enum Status {
    /// Some node is not at its end.
    Running,
    /// Every node is Done or Skipped.
    Success {
        /// End.
        at: Time,
    },
    /// At least one node failed, or the run stalled.
    Failed {
        /// End.
        at: Time,
        /// Why, in words.
        reason: String,
    },
}

/// A synchronization with everything that is stored of it.
#[derive(Clone, Debug)]
pub struct Sync {
    /// What was asked.
    pub spec: SyncSpec,
    /// How the whole stands.
    pub state: SyncState,
    /// Touched nodes.
    pub works: BTreeMap<NodeName, Work>,
}

/// Counts over the frozen list; `total = ok + failed + skipped + open` always (S13).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Targets and skipped ones.
    pub total: u32,
    /// Done.
    pub ok: u32,
    /// Failed.
    pub failed: u32,
    /// Skipped.
    pub skipped: u32,
    /// In hand now, without the failed ones.
    pub in_hand: u32,
    /// Everything that has no end yet.
    pub open: u32,
}

impl Sync {
    /// Whether the job is still running.
    pub fn running(&self) -> bool {
        self.state.status == Status::Running
    }

    /// Counts the frozen list. O(touched).
    pub fn counts(&self) -> Counts {
        let mut c = Counts {
            total: (self.spec.targets.len() + self.spec.skipped.len()) as u32,
            ..Counts::default()
        };
        for work in self.works.values() {
            match &work.phase {
                Phase::Done { .. } => c.ok += 1,
                Phase::Failed { .. } => c.failed += 1,
                Phase::Skipped { .. } => c.skipped += 1,
                Phase::Waiting { .. } => {}
                _ => c.in_hand += 1,
            }
        }
        c.open = c.total - c.ok - c.failed - c.skipped;
        c
    }
}
