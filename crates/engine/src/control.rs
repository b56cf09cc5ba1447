//! What people ask of a running synchronization: pause, resume, cancel, and per node retry, skip and force.
//!
//! Entry points: [`press`], which turns a wish into a new [`Control`] or a refusal, and [`apply`], by which the plan
//! carries it out. A control is a wish that stays: nothing here is an event, so a wish that was stored holds however
//! often the plan is made.

use crate::facts::Mark;
use crate::ids::{JobId, NodeName};
use crate::phase::{Left, Phase, SkipReason};
use crate::plan::{Ctx, new_work};
use crate::sync::{Sync, Work};
use crate::time::Time;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Who asked, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct By {
    /// `user/AK` or `user/token`.
    pub who: String,
    /// On the cluster's clock.
    pub at: Time,
}

/// What is asked of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeControl {
    /// A new attempt after the failure, or the end of the pause, that began at `of`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Leave it alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip: Option<By>,
    /// Delete what cannot be evicted now, with the pods' own grace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: Option<By>,
}

/// One more try. It is for one failure: the next failure needs another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// Who asked.
    pub by: By,
    /// Start of the phase that it ends.
    pub of: Time,
}

/// Everything that people ask of one job. Stored beside it; absent until somebody asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// No new node until it is resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<By>,
    /// No new node any more; what has not begun its reset is given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancelled: Option<By>,
    /// By node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub nodes: BTreeMap<NodeName, NodeControl>,
    /// Who did what, oldest first; at most [`Control::LOG_MAX`] lines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<Pressed>,
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pressed {
    /// Who and when.
    pub by: By,
    /// What.
    pub deed: Deed,
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "deed", content = "node", rename_all = "camelCase")]
pub enum Deed {
    /// Take no new node.
    Pause,
    /// Go on.
    Resume,
    /// End the job.
    Cancel,
    /// Try a failed node again, or end the pause of one that was given back.
    Retry(NodeName),
    /// Leave a node alone.
    Skip(NodeName),
    /// Delete what a node's drain cannot evict.
    Force(NodeName),
}

impl Deed {
    /// One word.
    pub fn word(&self) -> &'static str {
        match self {
            Deed::Pause => "pause",
            Deed::Resume => "resume",
            Deed::Cancel => "cancel",
            Deed::Retry(_) => "retry",
            Deed::Skip(_) => "skip",
            Deed::Force(_) => "force",
        }
    }

    /// The node that it is about.
    pub fn node(&self) -> Option<&NodeName> {
        match self {
            Deed::Pause | Deed::Resume | Deed::Cancel => None,
            Deed::Retry(node) | Deed::Skip(node) | Deed::Force(node) => Some(node),
        }
    }
}

/// Why something that was asked is not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The job has its verdict.
    #[error(
        "the job has ended; start a new synchronization, and name nodes in nodeIDs to reset only those"
    )]
    Ended,
    /// The job is being cancelled.
    #[error(
        "the job is being cancelled, and that cannot be undone; start a new synchronization once it has ended"
    )]
    Cancelled,
    /// The node is not on the job's list.
    #[error("node {0} is not on the job's list; `evenkeel get job {1}` shows the nodes that are")]
    NotATarget(NodeName, JobId),
    /// The node's standing does not allow it.
    #[error("node {node} {stands}")]
    Standing {
        /// The node.
        node: NodeName,
        /// How it stands, and the way out.
        stands: &'static str,
    },
}

impl Control {
    /// Two days of a person who presses a button every three quarters of an hour. Older lines are dropped.
    pub const LOG_MAX: usize = 64;

    /// Whether no further node may be taken.
    pub fn stops(&self) -> bool {
        self.paused.is_some() || self.cancelled.is_some()
    }

    /// Whether a person forced this node's drain.
    pub fn forces(&self, node: &NodeName) -> bool {
        self.nodes.get(node).is_some_and(|n| n.force.is_some())
    }

    /// Whether a person wants this node left alone.
    pub fn skips(&self, node: &NodeName) -> bool {
        self.nodes.get(node).is_some_and(|n| n.skip.is_some())
    }

    /// Whether a person asked for another try after the phase that began at `of`.
    pub fn retries(&self, node: &NodeName, of: Time) -> bool {
        let retry = self.nodes.get(node).and_then(|n| n.retry.as_ref());
        retry.is_some_and(|r| r.of == of)
    }

    fn write(&mut self, deed: &Deed, by: &By) {
        if self.log.len() >= Self::LOG_MAX {
            self.log.remove(0);
        }
        self.log.push(Pressed { by: by.clone(), deed: deed.clone() });
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.who)
    }
}

/// What the control becomes when somebody asks for this. `None`: it is so already, or was done before.
pub fn press(sync: &Sync, deed: &Deed, by: &By) -> Result<Option<Control>, Refused> {
    let control = &sync.control;
    // Whoever repeats a cancel that came through wants to know just that.
    if *deed == Deed::Cancel && control.cancelled.is_some() {
        return Ok(None);
    }
    if !sync.running() {
        return Err(Refused::Ended);
    }
    if control.cancelled.is_some() {
        return Err(Refused::Cancelled);
    }
    let mut next = control.clone();
    match deed {
        Deed::Pause => {
            next.paused.get_or_insert_with(|| by.clone());
        }
        Deed::Resume => next.paused = None,
        Deed::Cancel => next.cancelled = Some(by.clone()),
        Deed::Retry(node) => retry(sync, node, by, &mut next)?,
        Deed::Skip(node) => skip(sync, node, by, &mut next)?,
        Deed::Force(node) => force(sync, node, by, &mut next)?,
    }
    if next == *control {
        return Ok(None);
    }
    next.write(deed, by);
    Ok(Some(next))
}

/// The node's phase; `None` before its turn.
fn stands<'a>(sync: &'a Sync, node: &NodeName) -> Result<Option<&'a Phase>, Refused> {
    if sync.id_of(node).is_none() {
        return Err(Refused::NotATarget(node.clone(), sync.spec.job.clone()));
    }
    Ok(sync.work(node).map(|w| &w.phase))
}

fn standing<T>(node: &NodeName, stands: &'static str) -> Result<T, Refused> {
    Err(Refused::Standing { node: node.clone(), stands })
}

fn retry(sync: &Sync, node: &NodeName, by: &By, next: &mut Control) -> Result<(), Refused> {
    match stands(sync, node)? {
        Some(Phase::Failed { at: of, .. } | Phase::Waiting { since: of, .. }) => {
            let entry = next.nodes.entry(node.clone()).or_default();
            if entry.retry.as_ref().is_none_or(|r| r.of != *of) {
                entry.retry = Some(Retry { by: by.clone(), of: *of });
            }
            // Who wants it tried again no longer wants it left alone.
            entry.skip = None;
            Ok(())
        }
        Some(Phase::Done { .. }) => {
            standing(node, "is synchronized; a new synchronization that names it resets it again")
        }
        Some(Phase::Skipped { .. }) => standing(
            node,
            "was left alone by this job; a new synchronization that names it resets it",
        ),
        // It came through already, or the node is on its way.
        _ if sync.control.nodes.get(node).is_some_and(|n| n.retry.is_some()) => Ok(()),
        Some(_) => standing(node, "is in hand and has not failed; wait until it has"),
        None => standing(node, "has not had its turn and has not failed; it comes by itself"),
    }
}

fn skip(sync: &Sync, node: &NodeName, by: &By, next: &mut Control) -> Result<(), Refused> {
    match stands(sync, node)? {
        Some(Phase::Done { .. }) => standing(node, "is synchronized; there is nothing to skip"),
        Some(Phase::Skipped { .. }) => Ok(()),
        _ if sync.control.skips(node) => Ok(()),
        Some(phase) if !gives_back(phase) && !ended_or_waits(phase) => standing(
            node,
            "is being reset, and a reset that has begun is carried through; skip it if it fails",
        ),
        Some(_) | None => {
            next.nodes.entry(node.clone()).or_default().skip = Some(by.clone());
            Ok(())
        }
    }
}

fn force(sync: &Sync, node: &NodeName, by: &By, next: &mut Control) -> Result<(), Refused> {
    match stands(sync, node)? {
        Some(Phase::Done { .. }) => standing(node, "is synchronized; there is nothing to force"),
        Some(Phase::Skipped { .. }) => {
            standing(node, "was left alone by this job; there is nothing to force")
        }
        Some(Phase::Failed { .. }) => {
            standing(node, "has failed; retry it first, then force its drain")
        }
        phase => {
            let pausing = match phase {
                Some(Phase::Waiting { since, .. }) => Some(*since),
                _ => None,
            };
            let entry = next.nodes.entry(node.clone()).or_default();
            if entry.force.is_none() {
                entry.force = Some(by.clone());
                // It was given back because it could not be drained: now it can, so its pause is over.
                if let Some(of) = pausing {
                    entry.retry = Some(Retry { by: by.clone(), of });
                }
            }
            Ok(())
        }
    }
}

fn ended_or_waits(phase: &Phase) -> bool {
    phase.is_terminal() || matches!(phase, Phase::Waiting { .. })
}

/// Whether a node in this phase can be given back as it was: its reset has not begun.
pub fn gives_back(phase: &Phase) -> bool {
    matches!(
        phase,
        Phase::Claiming { .. }
            | Phase::Probing { .. }
            | Phase::Draining { .. }
            | Phase::Confirming { .. }
    )
}

/// Whether what people asked for lets a node leave its end like this. Without that an end is for ever (S13).
pub fn reopens(control: &Control, node: &NodeName, before: &Phase, after: &Phase) -> bool {
    let Phase::Failed { at, .. } = before else {
        return false;
    };
    match after {
        Phase::Skipped { reason: SkipReason::Person { .. }, .. } => control.skips(node),
        Phase::Confirming { .. } | Phase::Waiting { .. } => control.retries(node, *at),
        _ => false,
    }
}

/// New standings of nodes that are not in hand, as people asked for them: nodes to skip, and failed ones to try again.
pub fn apply(ctx: &Ctx<'_>, sync: &Sync) -> Vec<Work> {
    let asked = sync.control.nodes.iter().filter(|(node, _)| sync.id_of(node).is_some());
    asked.filter_map(|(node, control)| apply_one(ctx, sync, node, control)).collect()
}

fn apply_one(ctx: &Ctx<'_>, sync: &Sync, node: &NodeName, control: &NodeControl) -> Option<Work> {
    let work = sync.work(node).cloned().unwrap_or_else(|| new_work(sync, node));
    let waits = sync.work(node).is_none() || matches!(work.phase, Phase::Waiting { .. });
    if let Some(by) = &control.skip {
        let cordoned = match &work.phase {
            Phase::Failed { left, .. } => *left == Left::Cordoned,
            _ if waits => false,
            _ => return None,
        };
        return Some(skipped(ctx, work, by, cordoned));
    }
    let retry = control.retry.as_ref()?;
    match &work.phase {
        Phase::Failed { at, left, .. }
            if *at == retry.of && sync.control.cancelled.is_none() && ctx.now > *at =>
        {
            again(ctx, sync, &work, *left, &retry.by)
        }
        _ => None,
    }
}

fn skipped(ctx: &Ctx<'_>, mut work: Work, by: &By, cordoned: bool) -> Work {
    work.phase = Phase::Skipped { at: ctx.now, reason: SkipReason::Person { cordoned } };
    let note = if cordoned {
        format!("skipped by {by}; it stays cordoned: look at it, then uncordon it or sync it anew")
    } else {
        format!("skipped by {by}")
    };
    work.note(ctx.now, "Skipped", note);
    work
}

/// A failed node goes on. One that is still cordoned begins its next attempt in the slot that it holds; one that is
/// in service stands in line again.
fn again(ctx: &Ctx<'_>, sync: &Sync, work: &Work, left: Left, by: &By) -> Option<Work> {
    let mut next = work.clone();
    next.spent = work.attempt;
    next.tries = 0;
    match left {
        // Cordoned without our mark: a person has taken it over, and whose the cordon is cannot be told any more.
        Left::Cordoned if taken_over(ctx, sync, work) => return None,
        Left::Cordoned => {
            next.attempt += 1;
            next.phase = Phase::Confirming { since: ctx.now, drain_since: ctx.now };
        }
        Left::InService | Left::InServiceHoldingSlot => {
            let cause = work.last_cause.clone()?;
            next.phase = Phase::Waiting { since: ctx.now, until: ctx.now, cause };
        }
    }
    let word = next.phase.word();
    next.note(ctx.now, word, format!("tried again at the request of {by}"));
    Some(next)
}

fn taken_over(ctx: &Ctx<'_>, sync: &Sync, work: &Work) -> bool {
    let seen = ctx.index.node(&work.name).map(|e| &e.seen);
    let ours = |mark: &Mark| mark.job == sync.spec.job;
    seen.is_some_and(|s| s.unschedulable && !s.mark.as_ref().is_some_and(ours))
}
