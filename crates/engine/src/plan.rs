//! The one public decision: from what is wanted, reached and seen to what is done next, and why not more.

use crate::action::Action;
use crate::admit::{self, Admission};
use crate::control;
use crate::ids::{JobId, NodeName};
use crate::index::Index;
use crate::learn::Learned;
use crate::ledger::{Gate, Ledger};
use crate::order::Order;
use crate::phase::{Left, Phase, SkipReason};
use crate::report::{JobReport, WaitingOn};
use crate::steer;
use crate::step;
use crate::sync::{Status, Sync, SyncState, Work};
use crate::time::Time;
use std::collections::BTreeMap;

/// Everything a decision may look at.
#[derive(Clone, Copy, Debug)]
pub struct Ctx<'a> {
    /// The cluster as last seen.
    pub index: &'a Index,
    /// What came back from our own actions.
    pub ledger: &'a Ledger,
    /// Who goes next, as of now: [`Order::follow`] was called with the same `now`.
    pub order: &'a Order,
    /// What earlier nodes taught.
    pub learned: &'a Learned,
    /// Now, on the cluster's clock.
    pub now: Time,
}

/// A decision. Transitions are committed first; then the actions are started, and the plan is made again.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Plan {
    /// New standings of nodes.
    pub works: Vec<(JobId, Work)>,
    /// New verdicts.
    pub states: Vec<(JobId, SyncState)>,
    /// Effects to start.
    pub actions: Vec<Action>,
    /// Why not yet, by job.
    pub reports: BTreeMap<JobId, JobReport>,
    /// When to decide again if nothing happens before.
    pub wake_at: Option<Time>,
}

impl Plan {
    /// Whether there is something to commit.
    pub fn has_transitions(&self) -> bool {
        !self.works.is_empty() || !self.states.is_empty()
    }

    /// Asks for another decision at `at` at the latest.
    pub fn wake(&mut self, at: Time) {
        self.wake_at = Some(self.wake_at.map_or(at, |w| w.min(at)));
    }

    /// Emits an action unless the same one is under way or pausing.
    ///
    /// Writes to one Node go one after the other: each is conditional on the version that the one before makes.
    pub fn emit(&mut self, ctx: &Ctx<'_>, action: Action) {
        if let Some(node) = action.writes_node()
            && (ctx.ledger.node_busy(node)
                || self.actions.iter().any(|a| a.writes_node() == Some(node)))
        {
            return;
        }
        match ctx.ledger.gate(&action.key(), ctx.now) {
            Gate::Open => self.actions.push(action),
            Gate::Running => {}
            Gate::NotBefore(at) => self.wake(at),
        }
    }
}

/// Decides. Costs O(nodes in hand and their pods).
pub fn plan<'a>(ctx: &Ctx<'_>, syncs: impl Iterator<Item = &'a Sync> + Clone) -> Plan {
    let mut plan = Plan::default();
    for sync in syncs.clone() {
        if sync.running() {
            one(ctx, sync, &mut plan);
        }
        stray_marks(ctx, sync, &mut plan);
    }
    steer::steer(ctx, syncs, &mut plan);
    plan
}

fn one(ctx: &Ctx<'_>, sync: &Sync, plan: &mut Plan) {
    let mut report = JobReport { counts: sync.counts(), ..JobReport::default() };
    let mut changed = false;
    let mut active = 0;
    for work in sync.holding() {
        if work.phase.is_terminal() {
            continue;
        }
        active += 1;
        let others = plan.wake_at.take();
        let stepped = step::step(ctx, sync, work, plan);
        if let Some(at) = plan.wake_at {
            report.again.insert(work.name.clone(), at);
        }
        plan.wake_at = plan.wake_at.into_iter().chain(others).min();
        report.nodes.insert(work.name.clone(), stepped.waiting);
        if let Some(next) = stepped.next {
            changed = true;
            plan.works.push((sync.spec.job.clone(), next));
        }
    }
    let asked = control::apply(ctx, sync);
    changed |= !asked.is_empty();
    plan.works.extend(asked.into_iter().map(|w| (sync.spec.job.clone(), w)));
    // Limits are read from stored standings: take nobody while transitions of this turn are not in them.
    if !changed {
        match admit::next(ctx, sync) {
            Admission::Take(works) => {
                changed = true;
                plan.works.extend(works.into_iter().map(|w| (sync.spec.job.clone(), w)));
            }
            Admission::Nobody(why, wake) => {
                if let Some(at) = wake {
                    plan.wake(at);
                }
                (report.next, report.next_again) = (why, wake);
            }
        }
    }
    if !changed && active == 0 {
        conclude(ctx, sync, &report, plan);
    } else if sync.state.stalled_since.is_some() && active > 0 {
        plan.states
            .push((sync.spec.job.clone(), SyncState { stalled_since: None, ..sync.state.clone() }));
    }
    plan.reports.insert(sync.spec.job.clone(), report);
}

/// Nothing is in hand and nobody was taken: is this the end, or a wait for others?
fn conclude(ctx: &Ctx<'_>, sync: &Sync, report: &JobReport, plan: &mut Plan) {
    let counts = sync.counts();
    let job = &sync.spec.job;
    if sync.control.cancelled.is_some() {
        leave_the_rest(ctx, sync, plan);
        plan.states.push((job.clone(), verdict(ctx, sync)));
        return;
    }
    // A paused job gives nothing up: a failed node can be tried again or skipped before it goes on.
    if sync.control.paused.is_some() && (counts.open > 0 || counts.failed > 0) {
        return;
    }
    if counts.open == 0 {
        plan.states.push((job.clone(), verdict(ctx, sync)));
        return;
    }
    let limits = admit::limits(ctx, sync);
    let failed_hold = limits.holding >= limits.work || limits.holding_available >= limits.ramp;
    if failed_hold {
        leave_the_rest(ctx, sync, plan);
        plan.states.push((job.clone(), verdict(ctx, sync)));
        return;
    }
    // Those that pause will be looked at again; those whose pause is over stand in line like the untouched ones.
    if !ctx.index.live() || sync.waiting().any(|w| admit::pauses(sync, w, ctx.now)) {
        return;
    }
    if report.next.is_none() {
        let kept = admit::kept_by_people(ctx, sync);
        if !kept.is_empty() {
            plan.works.extend(kept.into_iter().map(|w| (job.clone(), w)));
            return;
        }
    }
    stall(ctx, sync, report, plan);
}

/// Nodes that were given back and will not be tried again get an end of their own.
fn leave_the_rest(ctx: &Ctx<'_>, sync: &Sync, plan: &mut Plan) {
    let job = &sync.spec.job;
    let rest = sync.waiting().map(|w| not_started(ctx, w));
    plan.works.extend(rest.map(|w| (job.clone(), w)));
}

fn not_started(ctx: &Ctx<'_>, work: &Work) -> Work {
    let mut work = work.clone();
    work.phase = Phase::Skipped { at: ctx.now, reason: SkipReason::NotStarted };
    work.note(ctx.now, "Skipped", "the job ended before its turn came again");
    work
}

fn stall(ctx: &Ctx<'_>, sync: &Sync, report: &JobReport, plan: &mut Plan) {
    let Some(WaitingOn::Availability { .. } | WaitingOn::Room { .. }) = &report.next else {
        return;
    };
    let job = sync.spec.job.clone();
    match sync.state.stalled_since {
        None => plan
            .states
            .push((job, SyncState { stalled_since: Some(ctx.now), ..sync.state.clone() })),
        Some(since) if ctx.now - since >= sync.spec.policy.stall_timeout => {
            let why = report.next.as_ref().map(ToString::to_string).unwrap_or_default();
            let reason = format!("stalled for {}: {why}", ctx.now - since);
            let status = Status::Failed { at: ctx.now, reason };
            leave_the_rest(ctx, sync, plan);
            plan.states.push((job, SyncState { status, ..sync.state.clone() }));
        }
        Some(since) => plan.wake(since + sync.spec.policy.stall_timeout),
    }
}

fn verdict(ctx: &Ctx<'_>, sync: &Sync) -> SyncState {
    let counts = sync.counts();
    let status = if let Some(reason) = cut_short(sync) {
        Status::Failed { at: ctx.now, reason }
    } else if counts.failed == 0 {
        Status::Success { at: ctx.now }
    } else {
        let first = sync.works().find_map(|w| match &w.phase {
            Phase::Failed { cause, left, .. } => Some((&w.name, cause, *left)),
            _ => None,
        });
        let detail = first.map_or_else(String::new, |(name, cause, left)| {
            let left = match left {
                Left::Cordoned => "; it was left cordoned",
                Left::InService | Left::InServiceHoldingSlot => "; it is in service",
            };
            format!("node {name}: {cause}{left}")
        });
        let rest = match (counts.failed, counts.open) {
            (1, 0) => String::new(),
            (n, 0) => format!(" ({n} nodes failed)"),
            (n, open) => format!(" ({n} failed, {open} not started because of that)"),
        };
        Status::Failed { at: ctx.now, reason: format!("{detail}{rest}") }
    };
    SyncState { status, ..sync.state.clone() }
}

/// The end of a job that a person cancelled before all of its nodes had their turn.
fn cut_short(sync: &Sync) -> Option<String> {
    let by = sync.control.cancelled.as_ref()?;
    let counts = sync.counts();
    let given_back = sync.works().filter(|w| {
        let reason = SkipReason::Cancelled;
        matches!(&w.phase, Phase::Skipped { reason: r, .. } if *r == reason)
    });
    let left = counts.open as usize + given_back.count();
    if left == 0 {
        return None;
    }
    let (ok, failed) = (counts.ok, counts.failed);
    let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
    Some(format!("cancelled by {by}: {ok} nodes synchronized{failed}, {left} left as they were"))
}

/// A mark of this job on a node that it does not hold is a leftover of a lost answer, or of a view that was behind:
/// take it away. Nodes that failed and stay cordoned keep theirs.
fn stray_marks(ctx: &Ctx<'_>, sync: &Sync, plan: &mut Plan) {
    for entry in ctx.index.marked() {
        let Some(mark) = &entry.seen.mark else {
            continue;
        };
        let name = &entry.seen.name;
        let kept = |work: &Work| {
            let phase = &work.phase;
            phase.is_active() || phase.takes_node_out() || phase.leaves_cordoned()
        };
        if mark.job != sync.spec.job || sync.work(name).is_some_and(kept) {
            continue;
        }
        let uncordon = entry.seen.unschedulable && !mark.was_unschedulable;
        plan.emit(ctx, Action::Release { node: name.clone(), uncordon });
    }
}

/// The standing of a node before its first touch.
pub fn new_work(sync: &Sync, name: &NodeName) -> Work {
    Work {
        id: sync.id_of(name).cloned().unwrap_or_else(|| name.as_str().into()),
        name: name.clone(),
        phase: Phase::Claiming { since: Time(0) },
        attempt: 0,
        spent: 0,
        tries: 0,
        was_unschedulable: false,
        was_available: false,
        uncordons: 0,
        last_cause: None,
        log: Vec::new(),
    }
}
