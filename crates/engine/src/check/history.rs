//! Invariants over what happened, told by those to whom it happened.

use super::fact::{Fact, Who};
use super::{Broken, broken};
use crate::control::{self, Control};
use crate::ids::{JobId, NodeName, Uid};
use crate::phase::Phase;
use crate::sync::Work;
use std::collections::{BTreeMap, BTreeSet};

/// A reset that starts later than this after the last fresh read stands on an old picture (S7). The read itself, a
/// connection that times out, and an order on its way take no longer.
const READ_IS_FRESH_MS: u64 = 45_000;

/// Job, node, attempt and `stage/step`.
type StepKey = (JobId, NodeName, u32, String);

mod opened;
mod steered;

#[derive(Debug)]
struct Job {
    members: BTreeSet<NodeName>,
    targets: BTreeSet<NodeName>,
    max: usize,
    force: bool,
    canary: bool,
    initialized: BTreeSet<String>,
    labels: BTreeMap<String, String>,
    taints: BTreeSet<(String, String)>,
    proofs: u32,
    order: usize,
    ended: bool,
    control: Control,
}

#[derive(Debug, Default)]
struct Node {
    unready: bool,
    cordon: Option<Cordon>,
    /// Since which fact it has taken no pods.
    out_since: Option<u64>,
    mark: Option<JobId>,
    /// The active hold: job, and the fact that first marked the node for it.
    holder: Option<JobId>,
    marked_at: Option<u64>,
    /// It was cordoned by somebody else when our hold began.
    cordoned_before: bool,
    /// The last stored record of each job.
    works: BTreeMap<JobId, Work>,
    latest: Option<JobId>,
    running_step: Option<String>,
    read: Option<(u64, bool, BTreeSet<Uid>)>,
    last_order: usize,
    epoch: u64,
    /// Conditions that became True since the last teardown.
    met: BTreeSet<String>,
    /// The present hold has brought the pool's labels and taints.
    dressed: bool,
    /// The Node object went away during the present hold.
    left: bool,
    /// It carries the taint of a node that is still to do.
    steered: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cordon {
    Ours,
    Others,
}

impl Node {
    fn slot(&self, job: &JobId) -> bool {
        self.works.get(job).is_some_and(|w| w.phase.holds_slot())
    }

    fn left_cordoned(&self) -> bool {
        let last = self.latest.as_ref().and_then(|job| self.works.get(job));
        last.is_some_and(|w| w.phase.leaves_cordoned())
    }

    fn count_out(&mut self, tick: u64) {
        let out = self.unready || self.cordon.is_some();
        match (out, self.out_since) {
            (true, None) => self.out_since = Some(tick),
            (false, Some(_)) => self.out_since = None,
            _ => {}
        }
    }
}

/// Checks facts one by one, in the order in which they happened.
#[derive(Debug, Default)]
pub struct History {
    jobs: BTreeMap<JobId, Job>,
    nodes: BTreeMap<NodeName, Node>,
    steps: BTreeSet<StepKey>,
    tick: u64,
}

impl History {
    /// Takes one fact that happened at `at_ms`.
    pub fn take(&mut self, at_ms: u64, fact: &Fact) -> Result<(), Broken> {
        self.tick += 1;
        let tick = self.tick;
        match fact {
            Fact::Accepted { .. } => self.accepted(fact),
            Fact::Stored { job, work } => self.stored(job, work)?,
            Fact::Pressed { job, control } => {
                if let Some(facts) = self.jobs.get_mut(job) {
                    facts.control = control.as_ref().clone();
                }
            }
            Fact::Restarted => self.restarted()?,
            Fact::Marked { node, job } => self.marked(node, job)?,
            Fact::Unmarked { node } => self.unmarked(node),
            Fact::Schedulable { node, schedulable, by } => {
                self.schedulable(node, *schedulable, *by)?;
                self.node(node).count_out(tick);
            }
            Fact::Tainted { node, by, steered, lost } => {
                self.tainted(node, *by, *steered, lost)?;
            }
            Fact::Ready { node, ready } => {
                let entry = self.node(node);
                entry.unready = !ready;
                entry.count_out(tick);
            }
            Fact::Left { node } => {
                let entry = self.node(node);
                (entry.mark, entry.cordon, entry.unready) = (None, None, false);
                entry.out_since = None;
                entry.met.clear();
                entry.steered = false;
                entry.left = true;
            }
            Fact::Initialized { node, condition } => {
                self.node(node).met.insert(condition.clone());
            }
            Fact::Dressed { node, labels, taints, lost } => {
                self.dressed(node, labels, taints, lost)?;
            }
            Fact::Read { node, closed, pods } => {
                self.node(node).read = Some((at_ms, *closed, pods.clone()));
            }
            Fact::Evicted { uid, node } => self.evicted(uid, node.as_ref())?,
            Fact::Deleted { uid, node, by } => self.deleted(uid, node.as_ref(), *by)?,
            Fact::Ordered { node, epoch } => self.ordered(node, *epoch)?,
            Fact::StepStarted { job, node, attempt, step, again } => {
                let key = (job.clone(), node.clone(), *attempt, step.clone());
                self.step_started(at_ms, key, *again)?;
            }
            Fact::StepEnded { node, step } => {
                let entry = self.node(node);
                if entry.running_step.as_deref() == Some(step) {
                    entry.running_step = None;
                }
            }
            Fact::Verdict { job } => {
                if let Some(job) = self.jobs.get_mut(job) {
                    job.ended = true;
                }
            }
        }
        Ok(())
    }

    fn node(&mut self, name: &NodeName) -> &mut Node {
        self.nodes.entry(name.clone()).or_default()
    }

    fn accepted(&mut self, fact: &Fact) {
        let Fact::Accepted {
            job,
            members,
            targets,
            max_unavailable,
            force,
            canary,
            initialized,
            labels,
            taints,
        } = fact
        else {
            return;
        };
        let accepted = Job {
            members: members.clone(),
            targets: targets.clone(),
            max: *max_unavailable as usize,
            force: *force,
            canary: *canary,
            initialized: initialized.clone(),
            labels: labels.clone(),
            taints: taints.clone(),
            proofs: 0,
            order: self.jobs.len() + 1,
            ended: false,
            control: Control::default(),
        };
        self.jobs.insert(job.clone(), accepted);
    }

    /// S1 (work), S2, S13, S14, S15, S22, S23 over the records.
    fn stored(&mut self, job: &JobId, work: &Work) -> Result<(), Broken> {
        let node = &work.name;
        let Some(facts) = self.jobs.get(job).filter(|j| j.targets.contains(node)) else {
            return broken("S15", format!("{node} is not a target of {job}"));
        };
        let control = facts.control.clone();
        let entry = self.node(node);
        let before = entry.works.get(job).map(|w| w.phase.clone());
        let reopened = |p: &Phase| control::reopens(&control, node, p, &work.phase);
        if before.as_ref().is_some_and(|p| p.is_terminal() && !reopened(p)) {
            return broken("S13", format!("{node} had ended in {job} and was stored again"));
        }
        let active = work.phase.is_active();
        if active && let Some(other) = entry.holder.as_ref().filter(|other| *other != job) {
            return broken("S2", format!("{node} is held by {other} and by {job}"));
        }
        let begins = active && entry.holder.is_none();
        if begins && control.stops() && matches!(work.phase, Phase::Claiming { .. }) {
            return broken("S23", format!("{node} was taken while {job} was stopped"));
        }
        if active {
            entry.holder = Some(job.clone());
        } else {
            entry.holder = None;
        }
        if begins {
            entry.marked_at = None;
            entry.read = None;
            (entry.dressed, entry.left) = (false, false);
            // What an earlier job left cordoned is ours.
            entry.cordoned_before = entry.cordon == Some(Cordon::Others);
        }
        if matches!(work.phase, Phase::Done { .. }) && !entry.dressed && !entry.left {
            return broken("S22", format!("{node} is Done without the labels and taints of {job}"));
        }
        entry.works.insert(job.clone(), work.clone());
        // A job that leaves a node as it is says nothing of what an earlier one left there.
        if begins || before.as_ref().is_some_and(Phase::is_active) {
            entry.latest = Some(job.clone());
        }
        if begins {
            self.may_begin(job, work)?;
        }
        if let (Phase::Done { .. }, true) = (&work.phase, work.was_available)
            && let Some(facts) = self.jobs.get_mut(job)
        {
            facts.proofs += 1;
        }
        let held = self.nodes.values().filter(|n| n.slot(job)).count();
        let max = self.jobs.get(job).map_or(0, |j| j.max);
        if held > max {
            return broken("S1", format!("{held} nodes of {job} hold a slot, at most {max} may"));
        }
        Ok(())
    }

    /// S14: an unproven configuration goes to one node in service; if it fails there, to no other one.
    fn may_begin(&self, job: &JobId, work: &Work) -> Result<(), Broken> {
        let Some(facts) = self.jobs.get(job) else {
            return Ok(());
        };
        if facts.ended {
            return broken("S14", format!("{} was taken after {job} had ended", work.name));
        }
        if !facts.canary || facts.proofs > 0 || !work.was_available {
            return Ok(());
        }
        let other = self
            .nodes
            .iter()
            .find(|(name, n)| **name != work.name && n.slot(job) && n.works[job].was_available);
        match other {
            Some((name, _)) => broken(
                "S14",
                format!("{} was taken before {name} had proven the configuration", work.name),
            ),
            None => Ok(()),
        }
    }

    /// S4: a cordon of ours outlives no record of ours, unless the mark still says whose it is.
    fn restarted(&self) -> Result<(), Broken> {
        for (name, node) in &self.nodes {
            if node.cordon == Some(Cordon::Ours)
                && node.holder.is_none()
                && node.mark.is_none()
                && !node.left_cordoned()
                && !node.cordoned_before
            {
                return broken("S4", format!("{name} is cordoned by us and no record says so"));
            }
        }
        Ok(())
    }

    fn marked(&mut self, node: &NodeName, job: &JobId) -> Result<(), Broken> {
        let tick = self.tick;
        let entry = self.node(node);
        if entry.holder.as_ref() != Some(job) {
            return broken("S3", format!("{node} was marked for {job} without a durable claim"));
        }
        entry.marked_at.get_or_insert(tick);
        entry.mark = Some(job.clone());
        Ok(())
    }

    /// Whoever takes the mark off a node that we left cordoned has taken the cordon over.
    fn unmarked(&mut self, node: &NodeName) {
        let entry = self.node(node);
        entry.mark = None;
        if entry.holder.is_none() && entry.left_cordoned() && entry.cordon.is_some() {
            entry.cordon = Some(Cordon::Others);
        }
    }

    fn schedulable(&mut self, node: &NodeName, schedulable: bool, by: Who) -> Result<(), Broken> {
        let entry = self.node(node);
        if by != Who::Us {
            entry.cordon = (!schedulable).then_some(Cordon::Others);
            if schedulable {
                // Whoever cordoned it first has changed their mind, or somebody else has.
                entry.cordoned_before = false;
            }
            return Ok(());
        }
        if schedulable {
            if entry.cordon == Some(Cordon::Others) && entry.holder.is_none() {
                return broken("S5", format!("{node} was uncordoned, and the cordon was not ours"));
            }
            if entry.cordoned_before {
                return broken("S5", format!("{node} was cordoned before us and was uncordoned"));
            }
            entry.cordon = None;
            return self.opened(node);
        }
        let Some(job) = entry.holder.clone() else {
            return broken("S3", format!("{node} was cordoned without a durable claim"));
        };
        // A node whose reset has begun is out, whoever opens it meanwhile: closing it again takes nothing.
        let begun = entry.works.get(&job).is_some_and(|w| !w.fresh());
        let was_available = entry.cordon.is_none() && !entry.unready && !begun;
        entry.cordon.get_or_insert(Cordon::Ours);
        if was_available { self.room(&job, node) } else { Ok(()) }
    }

    /// Whether a failed synchronization left the node closed, and its record says so.
    pub fn is_left_cordoned(&self, node: &NodeName) -> bool {
        self.nodes.get(node).is_some_and(Node::left_cordoned)
    }

    /// S1, availability: when a node in service is taken out, all nodes that we hold out of service, and all that
    /// have been out since before it was marked, are within the limit. Nodes that went out after the mark are not
    /// held against us: no controller can know them.
    fn room(&self, job: &JobId, node: &NodeName) -> Result<(), Broken> {
        let Some(facts) = self.jobs.get(job) else {
            return broken("S3", format!("{node} was cordoned for an unknown job"));
        };
        let marked_at = self.nodes.get(node).and_then(|n| n.marked_at).unwrap_or(0);
        let counts = |name: &NodeName| {
            let Some(entry) = self.nodes.get(name) else {
                return false;
            };
            let held = entry.holder.is_some() && entry.cordon == Some(Cordon::Ours);
            let before = entry.out_since.is_some_and(|t| t < marked_at);
            name == node
                || (held && entry.works.get(job).is_some_and(|w| w.was_available))
                || before
        };
        let out: Vec<&str> =
            facts.members.iter().filter(|n| counts(n)).map(NodeName::as_str).collect();
        if out.len() > facts.max {
            let (names, max) = (out.join(", "), facts.max);
            return broken("S1", format!("{names} are out, {node} was taken, limit {max}"));
        }
        Ok(())
    }

    fn evicted(&mut self, uid: &Uid, node: Option<&NodeName>) -> Result<(), Broken> {
        if let Some(node) = node
            && self.node(node).holder.is_none()
        {
            return broken("S3", format!("pod {uid} was evicted from {node}, which is not held"));
        }
        Ok(())
    }

    fn deleted(&mut self, uid: &Uid, node: Option<&NodeName>, by: Who) -> Result<(), Broken> {
        let holder = node.and_then(|n| self.nodes.get(n)).and_then(|n| n.holder.as_ref());
        let asked = |j: &Job| j.force || node.is_some_and(|n| j.control.forces(n));
        let forced = holder.and_then(|job| self.jobs.get(job)).is_some_and(asked);
        if by == Who::Us && !forced {
            return broken("S6", format!("pod {uid} was deleted without force"));
        }
        Ok(())
    }

    /// S12: no order of a former actor after one of its successor.
    fn ordered(&mut self, node: &NodeName, epoch: u64) -> Result<(), Broken> {
        let entry = self.node(node);
        if epoch < entry.epoch {
            let newer = entry.epoch;
            return broken("S12", format!("{node} took an order of epoch {epoch} after {newer}"));
        }
        entry.epoch = epoch;
        Ok(())
    }

    fn step_started(&mut self, at_ms: u64, key: StepKey, again: bool) -> Result<(), Broken> {
        let (job, node, attempt, step) = &key;
        // Scripts of the pool run once, whatever happens; a step of the recipe again after a reboot in the middle.
        let may_again = again && !step.contains("_install");
        if !self.steps.insert(key.clone()) && !may_again {
            return broken("S8", format!("{step} ran twice in attempt {attempt} on {node}"));
        }
        let order = self.jobs.get(job).map_or(0, |j| j.order);
        let begins = step.starts_with("Reset/teardown");
        let entry = self.node(node);
        // An order that was given goes on without us, for as long as the node is on our account.
        let held = entry.holder.as_ref() == Some(job) || (entry.slot(job) && !begins);
        if !held || entry.works.get(job).is_none_or(|w| w.attempt < *attempt) {
            return broken("S3", format!("{step} ran on {node} without a durable claim of {job}"));
        }
        if order < entry.last_order {
            return broken("S9", format!("{job} changed {node} after a newer job had"));
        }
        entry.last_order = order;
        if let Some(running) = &entry.running_step {
            return broken("S8", format!("{step} began on {node} while {running} ran"));
        }
        entry.running_step = Some(step.clone());
        if !begins || again {
            return Ok(());
        }
        entry.met.clear();
        match entry.read.take() {
            None => broken("S7", format!("{step} began on {node} without a fresh read")),
            Some((at, ..)) if at_ms.saturating_sub(at) > READ_IS_FRESH_MS => {
                let age = (at_ms - at) / 1000;
                broken("S7", format!("{step} began on {node} on a read that was {age} s old"))
            }
            Some((_, false, _)) => broken("S7", format!("{step} began on {node}, still open")),
            Some((_, true, pods)) if !pods.is_empty() => {
                let pods: Vec<&str> = pods.iter().map(Uid::as_str).collect();
                broken("S7", format!("{step} began on {node} while it ran {}", pods.join(", ")))
            }
            Some(_) => Ok(()),
        }
    }

    /// What must hold once faults are over and nothing moves any more: S4, S5, S13, S24, L1.
    pub fn at_rest(&self) -> Result<(), Broken> {
        if let Some((job, _)) = self.jobs.iter().find(|(_, facts)| !facts.ended) {
            return broken("L1", format!("{job} has no verdict"));
        }
        for (name, node) in &self.nodes {
            if let Some((job, work)) = node.works.iter().find(|(_, w)| !w.phase.is_terminal()) {
                let word = work.phase.word();
                return broken("S13", format!("{job} has ended and left {name} in {word}"));
            }
            let left = node.left_cordoned() || node.cordoned_before;
            if node.cordon == Some(Cordon::Ours) && !left {
                return broken("S4", format!("{name} was left cordoned without a word"));
            }
            if node.steered {
                return broken("S24", format!("pods avoid {name}, and no job runs"));
            }
            if node.mark.is_some() && !node.left_cordoned() {
                return broken("S4", format!("{name} was left marked without a word"));
            }
        }
        Ok(())
    }
}
