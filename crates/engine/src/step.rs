//! What one node in hand needs now, phase by phase.
//!
//! Each function reads what was seen, emits the action that the gap implies, and moves on only when an observation
//! proves that the phase has reached its end.

mod back;
mod drain;
mod reset;

use crate::action::{Action, ActionKey};
use crate::admit;
use crate::control;
use crate::facts::{Mark, NodeSeen};
use crate::phase::{Cause, Left, Outcome, Phase, SkipReason};
use crate::plan::{Ctx, Plan};
use crate::report::WaitingOn;
use crate::sync::{Sync, Work};
use crate::time::Span;

/// The result of looking at one node.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its new standing, if it moves on.
    pub next: Option<Work>,
    /// What it waits for otherwise.
    pub waiting: WaitingOn,
}

/// Looks at one node in hand.
pub fn step(ctx: &Ctx<'_>, sync: &Sync, work: &Work, plan: &mut Plan) -> Step {
    if let Some(step) = opened_by_people(ctx, sync, work) {
        return step;
    }
    if let Some(step) = withdrawn(ctx, sync, work) {
        return step;
    }
    match &work.phase {
        Phase::Claiming { since: _ } => claiming(ctx, sync, work, plan),
        Phase::Probing { .. } => reset::probing(ctx, sync, work, plan),
        Phase::Draining { since, cordoned } => {
            drain::draining(ctx, sync, work, *since, *cordoned, plan)
        }
        Phase::Confirming { since, drain_since } => {
            drain::confirming(ctx, sync, work, *since, *drain_since, plan)
        }
        Phase::Resetting { since } => reset::resetting(ctx, sync, work, *since, plan),
        Phase::Rejoining { since, heartbeat, good_since } => {
            back::rejoining(ctx, sync, work, (*since, heartbeat, *good_since), plan)
        }
        Phase::PostInstall { since, lifted, ended } => {
            back::post_install(ctx, sync, work, (*since, *lifted, *ended), plan)
        }
        Phase::Retrying { until, .. } => reset::retrying(ctx, sync, work, *until, plan),
        Phase::Releasing { since, then } => back::releasing(ctx, sync, work, *since, then, plan),
        Phase::Waiting { .. }
        | Phase::Done { .. }
        | Phase::Failed { .. }
        | Phase::Skipped { .. } => stay(WaitingOn::Ourselves { what: "nothing".to_owned() }),
    }
}

/// A node that was cordoned before us, and that a person has opened since: they want it open, so it ends open. A
/// Node that was made anew by its kubelet is open, too, but carries no mark.
fn opened_by_people(ctx: &Ctx<'_>, sync: &Sync, work: &Work) -> Option<Step> {
    let out =
        !matches!(work.phase, Phase::Releasing { .. } | Phase::PostInstall { lifted: true, .. });
    let seen = &ctx.index.node(&work.name)?.seen;
    if !work.was_unschedulable || !out || seen.unschedulable || ours(sync, seen).is_none() {
        return None;
    }
    let mut next = work.clone();
    next.was_unschedulable = false;
    Some(step_to(next))
}

/// The job was cancelled, or a person wants this node left alone: before its reset it is given back. A claim is seen
/// through first, so that none of our writes arrives later than the release.
fn withdrawn(ctx: &Ctx<'_>, sync: &Sync, work: &Work) -> Option<Step> {
    let begun = !work.fresh() || !control::gives_back(&work.phase);
    if begun || matches!(work.phase, Phase::Claiming { .. }) {
        return None;
    }
    let (then, note) = withdrawal(sync, work)?;
    // Nothing is given back while one of our evictions is on its way.
    if ctx.index.pods_on(&work.name).any(|p| ctx.ledger.pod_busy(&p.uid)) {
        return Some(stay(WaitingOn::Ourselves { what: "an eviction on its way".to_owned() }));
    }
    Some(release(ctx, work, then, note))
}

/// Why a node is to be given back, if it is.
fn withdrawal(sync: &Sync, work: &Work) -> Option<(Outcome, String)> {
    let skip = sync.control.nodes.get(&work.name).and_then(|n| n.skip.as_ref());
    if let Some(by) = skip {
        let reason = SkipReason::Person { cordoned: false };
        return Some((Outcome::Skipped { reason }, format!("skipped by {by}")));
    }
    let by = sync.control.cancelled.as_ref()?;
    Some((Outcome::Skipped { reason: SkipReason::Cancelled }, format!("cancelled by {by}")))
}

/// The node stays in its phase.
fn stay(waiting: WaitingOn) -> Step {
    Step { next: None, waiting }
}

/// The node moves on.
fn go(ctx: &Ctx<'_>, work: &Work, phase: Phase, note: impl Into<String>) -> Step {
    let mut next = work.clone();
    next.phase = phase;
    let word = next.phase.word();
    next.note(ctx.now, word, note);
    step_to(next)
}

fn step_to(next: Work) -> Step {
    let what = format!("entering {}", next.phase.word());
    Step { next: Some(next), waiting: WaitingOn::Ourselves { what } }
}

/// Gives the node back, then `then` holds.
fn release(ctx: &Ctx<'_>, work: &Work, then: Outcome, note: impl Into<String>) -> Step {
    let mut work = work.clone();
    if let Outcome::Failed { cause, .. } | Outcome::Waiting { cause, .. } = &then {
        work.last_cause = Some(cause.clone());
    }
    go(ctx, &work, Phase::Releasing { since: ctx.now, then }, note)
}

fn ours<'a>(sync: &Sync, seen: &'a NodeSeen) -> Option<&'a Mark> {
    seen.mark.as_ref().filter(|m| m.job == sync.spec.job)
}

/// The attempt failed. Before the reset the node is given back; after it began it is retried, or stays cordoned.
fn fail(ctx: &Ctx<'_>, sync: &Sync, work: &Work, cause: Cause) -> Step {
    let note = cause.to_string();
    if work.fresh() {
        return release(ctx, work, Outcome::Failed { cause, keeps_slot: false }, note);
    }
    let mut work = work.clone();
    work.last_cause = Some(cause.clone());
    let tried = work.attempt - work.spent;
    if tried <= sync.spec.retry_times {
        let pause = sync.spec.policy.retry_pause.0 << tried.saturating_sub(1).min(8);
        let phase = Phase::Retrying { since: ctx.now, until: ctx.now + Span(pause) };
        return go(ctx, &work, phase, note);
    }
    go(ctx, &work, Phase::Failed { at: ctx.now, cause, left: Left::Cordoned }, note)
}

/// How a fault of `key` looks to people, if there is one.
fn trouble(ctx: &Ctx<'_>, key: &ActionKey) -> Option<String> {
    ctx.ledger.trouble(key).map(|t| t.fault.message.clone())
}

/// Keeps a node that is in hand marked and unschedulable, whatever happened to its Node object.
fn keep_out(ctx: &Ctx<'_>, sync: &Sync, work: &Work, plan: &mut Plan) {
    let Some(entry) = ctx.index.node(&work.name) else {
        return;
    };
    // The cordon first: an open node with our mark is one that a person has opened.
    if !entry.seen.unschedulable {
        plan.emit(ctx, Action::Cordon { node: work.name.clone() });
    } else if ours(sync, &entry.seen).is_none() {
        plan.emit(
            ctx,
            Action::Claim {
                node: work.name.clone(),
                job: sync.spec.job.clone(),
                was_unschedulable: work.was_unschedulable,
            },
        );
    }
}

/// A node that was in service when it was taken, and that somebody cordoned before we did. It is left alone, as if
/// it had been cordoned before, unless it was named; then it ends cordoned.
fn cordoned_meanwhile(
    ctx: &Ctx<'_>,
    sync: &Sync,
    work: &Work,
    seen: &NodeSeen,
) -> Result<Work, Step> {
    let mut work = work.clone();
    if !seen.unschedulable || work.was_unschedulable || !work.was_available {
        return Ok(work);
    }
    work.was_unschedulable = true;
    if sync.spec.named {
        return Ok(work);
    }
    let then = Outcome::Skipped { reason: SkipReason::CordonedByOthers };
    Err(release(ctx, &work, then, "cordoned by somebody else meanwhile"))
}

/// A node that was taken as one that is out already, and that is in service before we cordoned it: it stands in line
/// again, as one that costs availability.
fn in_service_after_all(ctx: &Ctx<'_>, sync: &Sync, work: &Work, seen: &NodeSeen) -> Option<Step> {
    if work.was_available || !seen.available() {
        return None;
    }
    let cause = Cause::NoRoom { message: "it is in service after all".to_owned() };
    let until = ctx.now + sync.spec.policy.requeue_pause;
    Some(release(ctx, work, Outcome::Waiting { until, cause }, "withdrawn"))
}

fn claiming(ctx: &Ctx<'_>, sync: &Sync, work: &Work, plan: &mut Plan) -> Step {
    let gone = |reason| {
        let phase = Phase::Skipped { at: ctx.now, reason };
        go(ctx, work, phase, "")
    };
    let Some(entry) = ctx.index.node(&work.name) else {
        return if ctx.index.live() { gone(SkipReason::Gone) } else { stay(WaitingOn::View) };
    };
    let seen = &entry.seen;
    if let Some(mark) = ours(sync, seen) {
        return claimed(ctx, sync, work, mark.was_unschedulable, seen);
    }
    if seen.hold {
        return gone(SkipReason::Held);
    }
    let was_unschedulable = seen.mark.as_ref().map_or(seen.unschedulable, |m| m.was_unschedulable);
    let action =
        Action::Claim { node: work.name.clone(), job: sync.spec.job.clone(), was_unschedulable };
    let key = action.key();
    // An API server that is down is no node's fault: only what no retry mends ends a claim.
    if let Some(t) = ctx.ledger.trouble(&key)
        && t.fault.permanent
        && ctx.now - t.first >= sync.spec.policy.reach_timeout
    {
        let message = t.fault.message.clone();
        return fail(ctx, sync, work, Cause::Unfit { message });
    }
    plan.emit(ctx, action);
    stay(WaitingOn::Ourselves {
        what: trouble(ctx, &key).unwrap_or_else(|| "the claim".to_owned()),
    })
}

/// Our mark came back: the cache is at least that fresh, so count once more, then go on or withdraw.
fn claimed(
    ctx: &Ctx<'_>,
    sync: &Sync,
    work: &Work,
    was_unschedulable: bool,
    seen: &NodeSeen,
) -> Step {
    let mut work = work.clone();
    work.was_unschedulable = was_unschedulable && seen.unschedulable;
    let work = match cordoned_meanwhile(ctx, sync, &work, seen) {
        Ok(work) => work,
        Err(step) => return step,
    };
    if seen.hold {
        return release(ctx, &work, Outcome::Skipped { reason: SkipReason::Held }, "held");
    }
    if let Some((then, note)) = withdrawal(sync, &work) {
        return release(ctx, &work, then, note);
    }
    if let Some(step) = in_service_after_all(ctx, sync, &work, seen) {
        return step;
    }
    let limits = admit::limits(ctx, sync);
    if work.was_available && limits.out > limits.work {
        let out: Vec<String> =
            ctx.index.out(&sync.spec.pool).take(10).map(ToString::to_string).collect();
        let cause = Cause::NoRoom { message: format!("{} went out meanwhile", out.join(", ")) };
        let until = ctx.now + sync.spec.policy.requeue_pause;
        return release(ctx, &work, Outcome::Waiting { until, cause }, "withdrawn");
    }
    let phase = if sync.spec.resets {
        Phase::Probing { since: ctx.now }
    } else {
        Phase::Draining { since: ctx.now, cordoned: false }
    };
    go(ctx, &work, phase, "")
}
