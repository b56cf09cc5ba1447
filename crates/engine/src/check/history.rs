//! Invariants over what happened, told by those to whom it happened.

use super::{Broken, broken};
use crate::ids::{JobId, NodeName, Uid};
use std::collections::{BTreeMap, BTreeSet};

/// Whose doing something was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The controller.
    Us,
    /// A person.
    Person,
    /// Kubernetes itself.
    System,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A synchronization was accepted.
    Accepted {
        /// The job.
        job: JobId,
        /// All members of its pool.
        members: BTreeSet<NodeName>,
        /// Its targets.
        targets: BTreeSet<NodeName>,
        /// The limit.
        max_unavailable: u32,
        /// Whether pods may be deleted.
        force: bool,
    },
    /// A node's standing became durable.
    Stored {
        /// The job.
        job: JobId,
        /// The node.
        node: NodeName,
        /// Its attempt.
        attempt: u32,
        /// Whether it holds a slot.
        holds: bool,
        /// Whether it is the end of its way.
        terminal: bool,
        /// The record says that it was left cordoned.
        left_cordoned: bool,
    },
    /// Our mark appeared.
    Marked {
        /// The node.
        node: NodeName,
        /// Its job.
        job: JobId,
    },
    /// The mark went away.
    Unmarked {
        /// The node.
        node: NodeName,
    },
    /// `spec.unschedulable` changed.
    Schedulable {
        /// The node.
        node: NodeName,
        /// The new state.
        schedulable: bool,
        /// Whose doing.
        by: Who,
    },
    /// The Ready condition changed.
    Ready {
        /// The node.
        node: NodeName,
        /// Ready=True.
        ready: bool,
    },
    /// The Node object went away.
    Left {
        /// The node.
        node: NodeName,
    },
    /// A pod that a drain has to move was bound to a node.
    Bound {
        /// The pod.
        uid: Uid,
        /// The node.
        node: NodeName,
    },
    /// A pod is no more, or no longer has to move.
    PodGone {
        /// The pod.
        uid: Uid,
    },
    /// An eviction was accepted.
    Evicted {
        /// The pod.
        uid: Uid,
        /// Whether it was the first for this pod.
        first: bool,
    },
    /// A pod was deleted without an eviction.
    Deleted {
        /// The pod.
        uid: Uid,
        /// Whose doing.
        by: Who,
    },
    /// A step began on a host.
    StepStarted {
        /// The job.
        job: JobId,
        /// The node.
        node: NodeName,
        /// The attempt.
        attempt: u32,
        /// `stage/step`.
        step: String,
    },
    /// A step ended on a host.
    StepEnded {
        /// The node.
        node: NodeName,
        /// `stage/step`.
        step: String,
    },
    /// The job has its verdict.
    Verdict {
        /// The job.
        job: JobId,
    },
}

#[derive(Debug, Default)]
struct Job {
    members: BTreeSet<NodeName>,
    targets: BTreeSet<NodeName>,
    max: usize,
    force: bool,
    ended: bool,
}

#[derive(Debug, Default)]
struct Node {
    unready: bool,
    cordoned_by: Option<Who2>,
    person_cordoned_first: bool,
    mark: Option<JobId>,
    holder: Option<JobId>,
    left_cordoned: bool,
    terminal: BTreeSet<JobId>,
    running_step: Option<String>,
    pods: BTreeSet<Uid>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who2 {
    Us,
    Other,
}

/// Checks facts one by one, in the order in which they happened.
#[derive(Debug, Default)]
pub struct History {
    jobs: BTreeMap<JobId, Job>,
    nodes: BTreeMap<NodeName, Node>,
    pod_node: BTreeMap<Uid, NodeName>,
    steps: BTreeSet<(JobId, NodeName, u32, String)>,
    evicted: BTreeSet<Uid>,
}

impl History {
    /// Takes one fact.
    pub fn take(&mut self, fact: &Fact) -> Result<(), Broken> {
        match fact {
            Fact::Accepted {
                job,
                members,
                targets,
                max_unavailable,
                force,
            } => {
                let job_facts = Job {
                    members: members.clone(),
                    targets: targets.clone(),
                    max: *max_unavailable as usize,
                    force: *force,
                    ended: false,
                };
                self.jobs.insert(job.clone(), job_facts);
                Ok(())
            }
            Fact::Stored {
                job,
                node,
                holds,
                terminal,
                left_cordoned,
                ..
            } => self.stored(job, node, *holds, *terminal, *left_cordoned),
            Fact::Marked { node, job } => self.marked(node, job),
            Fact::Unmarked { node } => {
                self.node(node).mark = None;
                Ok(())
            }
            Fact::Schedulable {
                node,
                schedulable,
                by,
            } => self.schedulable(node, *schedulable, *by),
            Fact::Ready { node, ready } => {
                self.node(node).unready = !ready;
                Ok(())
            }
            Fact::Left { node } => {
                let entry = self.node(node);
                entry.mark = None;
                entry.cordoned_by = None;
                entry.unready = false;
                Ok(())
            }
            Fact::Bound { uid, node } => {
                self.node(node).pods.insert(uid.clone());
                self.pod_node.insert(uid.clone(), node.clone());
                Ok(())
            }
            Fact::PodGone { uid } => {
                if let Some(node) = self.pod_node.remove(uid) {
                    self.node(&node).pods.remove(uid);
                }
                Ok(())
            }
            Fact::Evicted { uid, first } => self.evicted(uid, *first),
            Fact::Deleted { uid, by } => self.deleted(uid, *by),
            Fact::StepStarted {
                job,
                node,
                attempt,
                step,
            } => self.step_started(job, node, *attempt, step),
            Fact::StepEnded { node, step } => {
                let entry = self.node(node);
                if entry.running_step.as_deref() == Some(step) {
                    entry.running_step = None;
                }
                Ok(())
            }
            Fact::Verdict { job } => {
                if let Some(job) = self.jobs.get_mut(job) {
                    job.ended = true;
                }
                Ok(())
            }
        }
    }

    fn node(&mut self, name: &NodeName) -> &mut Node {
        self.nodes.entry(name.clone()).or_default()
    }

    fn stored(
        &mut self,
        job: &JobId,
        node: &NodeName,
        holds: bool,
        terminal: bool,
        left_cordoned: bool,
    ) -> Result<(), Broken> {
        if !self.jobs.get(job).is_some_and(|j| j.targets.contains(node)) {
            return broken("S15", format!("{node} is not a target of {job}"));
        }
        let entry = self.node(node);
        if entry.terminal.contains(job) {
            return broken(
                "S13",
                format!("{node} had ended in {job} and was stored again"),
            );
        }
        if terminal {
            entry.terminal.insert(job.clone());
        }
        if holds && let Some(other) = entry.holder.as_ref().filter(|other| *other != job) {
            return broken("S2", format!("{node} is held by {other} and by {job}"));
        }
        entry.holder = (holds && !terminal).then(|| job.clone());
        entry.left_cordoned = left_cordoned;
        let held = self.holders(job).count();
        let max = self.jobs.get(job).map_or(0, |j| j.max);
        if held > max {
            return broken(
                "S1",
                format!("{held} nodes of {job} in hand, at most {max} may be"),
            );
        }
        Ok(())
    }

    fn holders<'a>(&'a self, job: &'a JobId) -> impl Iterator<Item = &'a NodeName> {
        self.nodes
            .iter()
            .filter(move |(_, n)| n.holder.as_ref() == Some(job))
            .map(|(name, _)| name)
    }

    fn marked(&mut self, node: &NodeName, job: &JobId) -> Result<(), Broken> {
        let entry = self.node(node);
        if entry.holder.as_ref() != Some(job) {
            return broken(
                "S3",
                format!("{node} was marked for {job} without a durable claim"),
            );
        }
        if entry.mark.is_none() {
            entry.person_cordoned_first = entry.cordoned_by == Some(Who2::Other);
        }
        entry.mark = Some(job.clone());
        Ok(())
    }

    fn schedulable(&mut self, node: &NodeName, schedulable: bool, by: Who) -> Result<(), Broken> {
        if by != Who::Us {
            let entry = self.node(node);
            entry.cordoned_by = (!schedulable).then_some(Who2::Other);
            return Ok(());
        }
        if schedulable {
            let entry = self.node(node);
            if entry.cordoned_by == Some(Who2::Other) && entry.mark.is_none() {
                return broken(
                    "S5",
                    format!("{node} was uncordoned, and the cordon was not ours"),
                );
            }
            if entry.person_cordoned_first {
                return broken(
                    "S5",
                    format!("{node} was cordoned before us and was uncordoned"),
                );
            }
            entry.cordoned_by = None;
            return Ok(());
        }
        let entry = self.node(node);
        let Some(job) = entry.holder.clone() else {
            return broken("S3", format!("{node} was cordoned without a durable claim"));
        };
        let was_available = entry.cordoned_by.is_none() && !entry.unready;
        entry.cordoned_by.get_or_insert(Who2::Us);
        if was_available {
            self.room(&job, node)
        } else {
            Ok(())
        }
    }

    /// S1, availability: a node in service was taken out, so all that are out now must be within the limit, unless
    /// others went out after the claim (which no controller can know): those are not held against it.
    fn room(&self, job: &JobId, node: &NodeName) -> Result<(), Broken> {
        let Some(facts) = self.jobs.get(job) else {
            return broken("S3", format!("{node} was cordoned for an unknown job"));
        };
        let ours = facts
            .members
            .iter()
            .filter(|n| {
                self.nodes
                    .get(*n)
                    .is_some_and(|e| e.cordoned_by == Some(Who2::Us) && e.holder.is_some())
            })
            .count();
        if ours > facts.max {
            let max = facts.max;
            return broken(
                "S1",
                format!("{ours} nodes of the pool are out by us, limit {max}"),
            );
        }
        Ok(())
    }

    fn evicted(&mut self, uid: &Uid, first: bool) -> Result<(), Broken> {
        let node = self.pod_node.get(uid).cloned();
        let held = node
            .as_ref()
            .and_then(|n| self.nodes.get(n))
            .is_some_and(|n| n.holder.is_some());
        if let Some(node) = node
            && !held
        {
            return broken(
                "S3",
                format!("pod {uid} was evicted from {node}, which we do not hold"),
            );
        }
        if first {
            self.evicted.insert(uid.clone());
        }
        Ok(())
    }

    fn deleted(&mut self, uid: &Uid, by: Who) -> Result<(), Broken> {
        if by != Who::Us {
            return Ok(());
        }
        let holder = self
            .pod_node
            .get(uid)
            .and_then(|n| self.nodes.get(n))
            .and_then(|n| n.holder.as_ref())
            .and_then(|j| self.jobs.get(j));
        if !holder.is_some_and(|j| j.force) {
            return broken("S6", format!("pod {uid} was deleted without force"));
        }
        Ok(())
    }

    fn step_started(
        &mut self,
        job: &JobId,
        node: &NodeName,
        attempt: u32,
        step: &str,
    ) -> Result<(), Broken> {
        let key = (job.clone(), node.clone(), attempt, step.to_owned());
        if !self.steps.insert(key) {
            return broken(
                "S8",
                format!("{step} ran twice in attempt {attempt} on {node}"),
            );
        }
        let entry = self.node(node);
        if entry.holder.as_ref() != Some(job) {
            return broken(
                "S3",
                format!("{step} ran on {node} without a durable claim of {job}"),
            );
        }
        if let Some(running) = &entry.running_step {
            return broken("S8", format!("{step} began on {node} while {running} ran"));
        }
        entry.running_step = Some(step.to_owned());
        let first = step.starts_with("Reset/");
        if first && attempt == 1 && !entry.pods.is_empty() && !entry.unready {
            let pods: Vec<&str> = entry.pods.iter().map(Uid::as_str).collect();
            let pods = pods.join(", ");
            return broken("S7", format!("{step} began on {node} while it ran {pods}"));
        }
        if first && attempt == 1 && entry.cordoned_by.is_none() && !entry.unready {
            return broken(
                "S7",
                format!("{step} began on {node}, which was not cordoned"),
            );
        }
        Ok(())
    }

    /// What must hold once faults are over and nothing moves any more: S4, S5, S13, L1.
    pub fn at_rest(&self) -> Result<(), Broken> {
        for (job, facts) in &self.jobs {
            if !facts.ended {
                return broken("L1", format!("{job} has no verdict"));
            }
        }
        for (name, node) in &self.nodes {
            if let Some(job) = &node.holder {
                return broken("S13", format!("{name} is still in hand of {job}"));
            }
            let ours = node.cordoned_by == Some(Who2::Us);
            if (ours || node.mark.is_some()) && !node.left_cordoned {
                return broken(
                    "S4",
                    format!("{name} was left cordoned or marked without a word"),
                );
            }
            if node.person_cordoned_first && node.mark.is_some() && node.cordoned_by.is_none() {
                return broken(
                    "S5",
                    format!("{name} was cordoned before us and is not now"),
                );
            }
        }
        Ok(())
    }
}
