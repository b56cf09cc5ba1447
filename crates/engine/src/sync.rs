//! One synchronization: what was asked (immutable), where each touched node stands, and how the whole stands.

use crate::control::Control;
use crate::ids::{JobId, NodeId, NodeName, PoolId, TemplateRevision};
use crate::pace::Pace;
use crate::phase::{Cause, Phase};
use crate::time::{Span, Time};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

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
    /// Conditions that must be True before a node that was reset goes into service.
    #[serde(default)]
    pub initialized: Vec<Awaited>,
    /// Whether this configuration has succeeded in the pool before: then no canary is needed.
    pub proven: bool,
    /// Time limits and steps.
    pub policy: Policy,
}

/// A condition of a Node that somebody sets to True once the node is initialized.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Awaited {
    /// Its type.
    pub condition: String,
    /// How long it may take; [`Policy::ready_timeout`] where nothing is said.
    pub limit: Option<Span>,
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
    /// Nodes that are still to do are avoided by pods, softly, while the job runs.
    pub steer: bool,
    /// Nodes of one zone that may be in hand at once; no limit if absent.
    pub zone_max: Option<u32>,
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
            steer: true,
            zone_max: None,
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
    /// Attempts before a person asked for another try.
    #[serde(default)]
    pub spent: u32,
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

    /// Whether no attempt of this try has begun: the machine is as it was.
    pub fn fresh(&self) -> bool {
        self.attempt == self.spent
    }

    /// A node that was in service and has taken the configuration well proves it.
    pub fn proves(&self) -> bool {
        self.was_available && matches!(self.phase, Phase::Done { .. })
    }

    /// Adds a line, dropping the second oldest if the story grows too long.
    pub fn note(&mut self, at: Time, word: &str, note: impl Into<String>) {
        if self.log.len() >= Self::LOG_MAX {
            self.log.remove(1);
        }
        self.log.push(LogEntry { at, word: word.to_owned(), note: note.into() });
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

/// A synchronization with everything that is stored of it, and sets derived from that.
#[derive(Clone, Debug)]
pub struct Sync {
    /// What was asked.
    pub spec: SyncSpec,
    /// How the whole stands.
    pub state: SyncState,
    /// What people ask of it.
    pub control: Control,
    /// The pool's windows as they stand now, and its soak time.
    pub pace: Pace,
    works: BTreeMap<NodeName, Work>,
    untouched: BTreeSet<NodeName>,
    waiting: BTreeSet<NodeName>,
    holding: BTreeSet<NodeName>,
    ids: BTreeMap<NodeName, NodeId>,
    moved: BTreeSet<NodeName>,
    proofs: u32,
    last_done: Option<Time>,
    counts: Counts,
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
    /// Puts together what is stored. O(list).
    pub fn new(spec: SyncSpec, state: SyncState, works: impl IntoIterator<Item = Work>) -> Self {
        let untouched = spec.targets.iter().map(|t| t.name.clone()).collect();
        let ids = spec.targets.iter().map(|t| (t.name.clone(), t.id.clone())).collect();
        let mut sync = Self {
            spec,
            state,
            control: Control::default(),
            pace: Pace::default(),
            works: BTreeMap::new(),
            untouched,
            waiting: BTreeSet::new(),
            holding: BTreeSet::new(),
            ids,
            moved: BTreeSet::new(),
            proofs: 0,
            last_done: None,
            counts: Counts::default(),
        };
        sync.counts.total = (sync.spec.targets.len() + sync.spec.skipped.len()) as u32;
        sync.counts.skipped = sync.spec.skipped.len() as u32;
        sync.counts.open = sync.spec.targets.len() as u32;
        works.into_iter().for_each(|work| sync.put(work));
        sync
    }

    /// Stores a node's new standing and keeps the derived sets.
    pub fn put(&mut self, work: Work) {
        let name = work.name.clone();
        if let Some(old) = self.works.remove(&name) {
            self.count(&old.phase, false);
            self.proofs -= u32::from(old.proves());
        }
        self.moved.insert(name.clone());
        self.untouched.remove(&name);
        self.waiting.remove(&name);
        self.holding.remove(&name);
        if matches!(work.phase, Phase::Waiting { .. }) {
            self.waiting.insert(name.clone());
        }
        if work.phase.holds_slot() {
            self.holding.insert(name.clone());
        }
        self.proofs += u32::from(work.proves());
        if let Phase::Done { at } = work.phase {
            self.last_done = self.last_done.max(Some(at));
        }
        self.count(&work.phase, true);
        self.works.insert(name, work);
    }

    fn count(&mut self, phase: &Phase, add: bool) {
        let c = &mut self.counts;
        let step = |field: &mut u32, up: bool| if up { *field += 1 } else { *field -= 1 };
        match phase {
            Phase::Done { .. } => step(&mut c.ok, add),
            Phase::Failed { .. } => step(&mut c.failed, add),
            Phase::Skipped { .. } => step(&mut c.skipped, add),
            Phase::Waiting { .. } => {}
            _ => step(&mut c.in_hand, add),
        }
        if phase.is_terminal() {
            step(&mut c.open, !add);
        }
    }

    /// Takes what people ask of it now. Nodes that are asked for something else stand differently in line.
    pub fn steer(&mut self, control: Control) {
        let (old, new) = (&self.control.nodes, &control.nodes);
        let changed = old.keys().chain(new.keys()).filter(|name| old.get(*name) != new.get(*name));
        self.moved.extend(changed.cloned());
        self.control = control;
    }

    /// Whether pods of this node may be deleted once they cannot be evicted.
    pub fn force(&self, node: &NodeName) -> bool {
        self.spec.force || self.control.forces(node)
    }

    /// Whether the job is still running.
    pub fn running(&self) -> bool {
        self.state.status == Status::Running
    }

    /// When the job ended.
    pub fn ended_at(&self) -> Option<Time> {
        match self.state.status {
            Status::Running => None,
            Status::Success { at } | Status::Failed { at, .. } => Some(at),
        }
    }

    /// A touched node.
    pub fn work(&self, node: &NodeName) -> Option<&Work> {
        self.works.get(node)
    }

    /// All touched nodes.
    pub fn works(&self) -> impl Iterator<Item = &Work> {
        self.works.values()
    }

    /// The id of a target.
    pub fn id_of(&self, node: &NodeName) -> Option<&NodeId> {
        self.ids.get(node)
    }

    /// Targets that have not been touched.
    pub fn untouched(&self) -> &BTreeSet<NodeName> {
        &self.untouched
    }

    /// Nodes that were given back and wait for their next try.
    pub fn waiting(&self) -> impl Iterator<Item = &Work> {
        self.waiting.iter().filter_map(|n| self.works.get(n))
    }

    /// Nodes that hold a slot, failed ones included.
    pub fn holding(&self) -> impl Iterator<Item = &Work> {
        self.holding.iter().filter_map(|n| self.works.get(n))
    }

    /// How many nodes hold a slot.
    pub fn holding_count(&self) -> u32 {
        self.holding.len() as u32
    }

    /// Nodes with a new standing since the last call.
    pub fn take_moved(&mut self) -> BTreeSet<NodeName> {
        std::mem::take(&mut self.moved)
    }

    /// How many nodes that were in service have taken this configuration well.
    pub fn proofs(&self) -> u32 {
        self.proofs
    }

    /// When a node last came back synchronized.
    pub fn last_done(&self) -> Option<Time> {
        self.last_done
    }

    /// Counts over the frozen list. Once the job has ended, a target without an end of its own was never started
    /// and counts as skipped.
    pub fn counts(&self) -> Counts {
        let mut c = self.counts;
        if !self.running() {
            c.skipped += c.open;
            c.open = 0;
        }
        c
    }
}
