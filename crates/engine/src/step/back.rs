//! The way back: proof of life, post-install, release.

use super::reset::{Order, order};
use super::{fail, go, keep_out, ours, release, stay, step_to};
use crate::action::{Action, Stage};
use crate::facts::{Owner, PodPhase, Readiness};
use crate::phase::{Cause, Heartbeat, Left, Outcome, Phase};
use crate::plan::{Ctx, Plan};
use crate::report::WaitingOn;
use crate::step::Step;
use crate::sync::{Sync, Work};
use crate::time::{Span, Time};

/// How often the Lease of a node that comes back is read. A kubelet renews every 10 s; Leases of nodes in service
/// are not watched at all.
const HEARTBEAT_EVERY: Span = Span::secs(1);

/// The watch shows an uncordon within this; a node that is cordoned then was cordoned by somebody else.
const LIFT_SHOWS: Span = Span::secs(10);

pub(super) fn rejoining(
    ctx: &Ctx<'_>,
    sync: &Sync,
    work: &Work,
    (since, heartbeat, good_since): (Time, &Heartbeat, Option<Time>),
    plan: &mut Plan,
) -> Step {
    let policy = &sync.spec.policy;
    keep_out(ctx, sync, work, plan);
    if let Some(next) = sign_of_life(ctx, work, since, heartbeat, good_since, plan) {
        return next;
    }
    let missing = missing(ctx, work, heartbeat);
    let with = |good_since| Phase::Rejoining { since, heartbeat: heartbeat.clone(), good_since };
    match (missing, good_since) {
        (Some(message), _) if ctx.now - since >= policy.ready_timeout => {
            fail(ctx, sync, work, Cause::NotReady { message })
        }
        (Some(_), Some(_)) => {
            let mut next = work.clone();
            next.phase = with(None);
            step_to(next)
        }
        (Some(missing), None) => {
            plan.wake(since + policy.ready_timeout);
            stay(WaitingOn::Readiness { missing })
        }
        (None, None) => {
            let mut next = work.clone();
            next.phase = with(Some(ctx.now));
            step_to(next)
        }
        (None, Some(good)) if ctx.now - good < policy.settle => {
            plan.wake(good + policy.settle);
            stay(WaitingOn::Settling { until: good + policy.settle })
        }
        (None, Some(_)) => proven(ctx, sync, work),
    }
}

/// Reads the Lease until it shows a renewal after the reset.
fn sign_of_life(
    ctx: &Ctx<'_>,
    work: &Work,
    since: Time,
    heartbeat: &Heartbeat,
    good_since: Option<Time>,
    plan: &mut Plan,
) -> Option<Step> {
    let becomes = |heartbeat| {
        let mut next = work.clone();
        next.phase = Phase::Rejoining { since, heartbeat, good_since };
        Some(step_to(next))
    };
    let wanted = match heartbeat {
        Heartbeat::NotNeeded | Heartbeat::Seen => return None,
        Heartbeat::Baseline => None,
        Heartbeat::After { host_ms } => Some(*host_ms),
    };
    let read = ctx.ledger.renewed(&work.name, since);
    match (wanted, read) {
        (None, Some((_, Some(at)))) => return becomes(Heartbeat::After { host_ms: at }),
        (Some(wanted), Some((_, Some(at)))) if at > wanted => return becomes(Heartbeat::Seen),
        _ => {}
    }
    match read {
        Some((asked, _)) if ctx.now - asked < HEARTBEAT_EVERY => {
            plan.wake(asked + HEARTBEAT_EVERY);
        }
        _ => plan.emit(ctx, Action::Heartbeat { node: work.name.clone() }),
    }
    None
}

/// What the node still owes, in words.
fn missing(ctx: &Ctx<'_>, work: &Work, heartbeat: &Heartbeat) -> Option<String> {
    let Some(entry) = ctx.index.node(&work.name) else {
        return Some("it has not registered yet".to_owned());
    };
    if entry.seen.ready != Readiness::Ready {
        return Some("Ready is not True".to_owned());
    }
    if !matches!(heartbeat, Heartbeat::NotNeeded | Heartbeat::Seen) {
        return Some("no heartbeat since the reset".to_owned());
    }
    if matches!(heartbeat, Heartbeat::NotNeeded) {
        return None;
    }
    ctx.index
        .pods_on(&work.name)
        .find(|p| {
            p.owner == Owner::DaemonSet && p.phase != PodPhase::Finished && !p.deleting && !p.ready
        })
        .map(|p| format!("DaemonSet pod {} is not ready", p.key))
}

fn proven(ctx: &Ctx<'_>, sync: &Sync, work: &Work) -> Step {
    if sync.spec.post_install && sync.spec.resets {
        let lifted = !sync.spec.wait_post_install;
        return go(ctx, work, Phase::PostInstall { since: ctx.now, lifted }, "");
    }
    release(ctx, work, Outcome::Done, "")
}

pub(super) fn post_install(
    ctx: &Ctx<'_>,
    sync: &Sync,
    work: &Work,
    (since, lifted): (Time, bool),
    plan: &mut Plan,
) -> Step {
    if lifted {
        let entry = ctx.index.node(&work.name);
        if entry.is_some_and(|e| e.seen.unschedulable) && !work.was_unschedulable {
            let lift = Action::Lift { node: work.name.clone() };
            let done = ctx.ledger.done_at(&lift.key());
            // Our uncordon came through and this was seen later: somebody else has cordoned it.
            if done.is_some_and(|at| at >= since && ctx.now - at >= LIFT_SHOWS) {
                let mut next = work.clone();
                next.was_unschedulable = true;
                return step_to(next);
            }
            if done.is_none_or(|at| at < since) {
                plan.emit(ctx, lift);
            } else if let Some(at) = done {
                plan.wake(at + LIFT_SHOWS);
            }
        }
    } else {
        keep_out(ctx, sync, work, plan);
    }
    match order(ctx, sync, work, Stage::Post, since, plan) {
        Order::Running(what) => stay(WaitingOn::Host { what }),
        Order::Succeeded(_) => release(ctx, work, Outcome::Done, ""),
        Order::Failed(cause) if lifted => {
            let note = cause.to_string();
            release(ctx, work, Outcome::Failed { cause, keeps_slot: true }, note)
        }
        Order::Failed(cause) => fail(ctx, sync, work, cause),
    }
}

pub(super) fn releasing(
    ctx: &Ctx<'_>,
    sync: &Sync,
    work: &Work,
    since: Time,
    then: &Outcome,
    plan: &mut Plan,
) -> Step {
    let end = |phase: Phase| go(ctx, work, phase, "");
    let after = match then {
        Outcome::Done => Phase::Done { at: ctx.now },
        Outcome::Waiting { until, cause } => {
            Phase::Waiting { since: ctx.now, until: *until, cause: cause.clone() }
        }
        Outcome::Failed { cause, keeps_slot } => Phase::Failed {
            at: ctx.now,
            cause: cause.clone(),
            left: if *keeps_slot { Left::InServiceHoldingSlot } else { Left::InService },
        },
        Outcome::Skipped { reason } => Phase::Skipped { at: ctx.now, reason: reason.clone() },
    };
    let Some(entry) = ctx.index.node(&work.name) else {
        return if ctx.index.live() { end(after) } else { stay(WaitingOn::View) };
    };
    let seen = &entry.seen;
    let uncordon = !work.was_unschedulable;
    let action = Action::Release { node: work.name.clone(), uncordon };
    let acknowledged = ctx.ledger.done_at(&action.key()).is_some_and(|at| at >= since);
    // Without a mark and schedulable, it is released, whoever did it. Unschedulable after our own acknowledged
    // release, it was cordoned by somebody else.
    let released = seen.mark.is_none() || ours(sync, seen).is_none();
    if released && (!seen.unschedulable || !uncordon || acknowledged) {
        return end(after);
    }
    let what = super::trouble(ctx, &action.key()).unwrap_or_else(|| "the release".to_owned());
    plan.emit(ctx, action);
    stay(WaitingOn::Ourselves { what })
}
