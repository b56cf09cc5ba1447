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

/// A renewal that lies further after the end of the reset than our own clock says proves nothing: the host's clock
/// was set meanwhile. Between the end and our reading of it lie polls and lost connections.
const CLOCK_MARGIN: Span = Span::secs(60);

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
    let missing = missing(ctx, sync, work, heartbeat);
    let with = |good_since| Phase::Rejoining { since, heartbeat: heartbeat.clone(), good_since };
    match (missing, good_since) {
        (Some(owed), None) => wait_for(ctx, sync, work, owed, since, plan),
        (Some(owed), Some(_)) if ctx.now - since >= owed.limit => {
            wait_for(ctx, sync, work, owed, since, plan)
        }
        (Some(_), Some(_)) => {
            let mut next = work.clone();
            next.phase = with(None);
            step_to(next)
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

/// What a node still owes, and how long it may owe it.
struct Owed {
    missing: String,
    limit: Span,
}

/// Waits for what a node owes since `since`; the attempt fails with it when its time is over.
fn wait_for(
    ctx: &Ctx<'_>,
    sync: &Sync,
    work: &Work,
    owed: Owed,
    since: Time,
    plan: &mut Plan,
) -> Step {
    let Owed { missing, limit } = owed;
    if ctx.now - since >= limit {
        return fail(ctx, sync, work, Cause::NotReady { message: missing });
    }
    plan.wake(since + limit);
    stay(WaitingOn::Readiness { missing })
}

/// The awaited conditions that are not True, all of them by name. Only a reset takes them away.
fn uninitialized(ctx: &Ctx<'_>, sync: &Sync, work: &Work) -> Option<Owed> {
    if !sync.spec.resets {
        return None;
    }
    let entry = ctx.index.node(&work.name);
    let is_met = |condition: &str| entry.is_some_and(|e| e.seen.met.contains(condition));
    let open = || sync.spec.initialized.iter().filter(|a| !is_met(&a.condition));
    let limit = open().map(|a| a.limit.unwrap_or(sync.spec.policy.ready_timeout)).min()?;
    let names: Vec<&str> = open().map(|a| a.condition.as_str()).collect();
    let missing = match names.as_slice() {
        [one] => format!("condition {one} is not True"),
        all => format!("conditions {} are not True", all.join(", ")),
    };
    Some(Owed { missing, limit })
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
    let read = ctx.ledger.renewed(&work.name, since);
    match (heartbeat, read) {
        (Heartbeat::NotNeeded | Heartbeat::Seen, _) => return None,
        (Heartbeat::Baseline, Some((_, Some(at)))) => {
            return becomes(Heartbeat::Other { than_ms: at });
        }
        (Heartbeat::After { host_ms }, Some((asked, Some(at)))) => {
            // A clock that was set back during the reset leaves a Lease of before in the future.
            let latest = host_ms.saturating_add_unsigned((asked - since + CLOCK_MARGIN).0);
            let fits = at > *host_ms && at <= latest;
            return becomes(if fits { Heartbeat::Seen } else { Heartbeat::Other { than_ms: at } });
        }
        (Heartbeat::Other { than_ms }, Some((_, Some(at)))) if at != *than_ms => {
            return becomes(Heartbeat::Seen);
        }
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

/// What the node still owes before it is back. Its post-install script may be what sets the awaited conditions: where
/// there is one, they are waited for beside it.
fn missing(ctx: &Ctx<'_>, sync: &Sync, work: &Work, heartbeat: &Heartbeat) -> Option<Owed> {
    let ready_timeout = sync.spec.policy.ready_timeout;
    let owed = |missing: String| Some(Owed { missing, limit: ready_timeout });
    let Some(entry) = ctx.index.node(&work.name) else {
        return owed("it has not registered yet".to_owned());
    };
    if entry.seen.ready != Readiness::Ready {
        return owed("Ready is not True".to_owned());
    }
    if !matches!(heartbeat, Heartbeat::NotNeeded | Heartbeat::Seen) {
        return owed("no heartbeat since the reset".to_owned());
    }
    if matches!(heartbeat, Heartbeat::NotNeeded) {
        return None;
    }
    let unready = ctx.index.pods_on(&work.name).find(|p| {
        p.owner == Owner::DaemonSet && p.phase != PodPhase::Finished && !p.deleting && !p.ready
    });
    match unready {
        Some(pod) => owed(format!("DaemonSet pod {} is not ready", pod.key)),
        None if sync.spec.post_install => None,
        None => uninitialized(ctx, sync, work),
    }
}

fn proven(ctx: &Ctx<'_>, sync: &Sync, work: &Work) -> Step {
    if sync.spec.post_install && sync.spec.resets {
        let lifted = !sync.spec.wait_post_install && uninitialized(ctx, sync, work).is_none();
        let phase = Phase::PostInstall { since: ctx.now, lifted, ended: None };
        return go(ctx, work, phase, "");
    }
    release(ctx, work, Outcome::Done, "")
}

pub(super) fn post_install(
    ctx: &Ctx<'_>,
    sync: &Sync,
    work: &Work,
    (since, lifted, ended): (Time, bool, Option<Time>),
    plan: &mut Plan,
) -> Step {
    let owed = if lifted { None } else { uninitialized(ctx, sync, work) };
    let becomes = |lifted, ended| {
        let mut next = work.clone();
        next.phase = Phase::PostInstall { since, lifted, ended };
        step_to(next)
    };
    if !lifted && !sync.spec.wait_post_install && owed.is_none() {
        return becomes(true, ended);
    }
    if !lifted {
        keep_out(ctx, sync, work, plan);
    } else if let Some(step) = put_in_service(ctx, sync, work, since, plan) {
        return step;
    }
    if ended.is_none() {
        match order(ctx, sync, work, Stage::Post, since, plan) {
            Order::Running(what) => return stay(WaitingOn::Host { what }),
            Order::Succeeded(_) => {}
            Order::Failed(cause) if lifted => {
                let note = cause.to_string();
                return release(ctx, work, Outcome::Failed { cause, keeps_slot: true }, note);
            }
            Order::Failed(cause) => return fail(ctx, sync, work, cause),
        }
    }
    match (owed, ended) {
        (None, _) => release(ctx, work, Outcome::Done, ""),
        (Some(_), None) => becomes(lifted, Some(ctx.now)),
        (Some(owed), Some(at)) => wait_for(ctx, sync, work, owed, at, plan),
    }
}

/// Opens a node whose script still runs. One that is closed again after that was cordoned by somebody else.
fn put_in_service(
    ctx: &Ctx<'_>,
    sync: &Sync,
    work: &Work,
    since: Time,
    plan: &mut Plan,
) -> Option<Step> {
    let seen = &ctx.index.node(&work.name)?.seen;
    if work.was_unschedulable || !(seen.unschedulable || seen.starting()) {
        return None;
    }
    // The view that said so may have been behind: the write is refused then, and this one knows better.
    if uninitialized(ctx, sync, work).is_some() {
        return None;
    }
    let lift = Action::Lift { node: work.name.clone() };
    match ctx.ledger.done_at(&lift.key()).filter(|at| *at >= since) {
        None => plan.emit(ctx, lift),
        Some(at) if ctx.now - at < LIFT_SHOWS => plan.wake(at + LIFT_SHOWS),
        Some(_) if seen.unschedulable => {
            let mut next = work.clone();
            next.was_unschedulable = true;
            return Some(step_to(next));
        }
        Some(_) => plan.emit(ctx, lift),
    }
    None
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
    // Without a mark and schedulable, it is released, whoever did it; but a cordon of ours may be on its way, or not
    // be shown yet: then only a release of ours is proof. Unschedulable after our own acknowledged release, it was
    // cordoned by somebody else.
    let cordon = Action::Cordon { node: work.name.clone() }.key();
    let in_doubt = ctx.ledger.done_at(&cordon).is_some() || ctx.ledger.trouble(&cordon).is_some();
    let released =
        (seen.mark.is_none() || ours(sync, seen).is_none()) && (acknowledged || !in_doubt);
    // The release of a synchronized node also brings the pool's labels and takes the startup taint away: only its
    // own acknowledgement says that it was written.
    let dressed = *then != Outcome::Done || (acknowledged && !seen.starting());
    if released && dressed && (!seen.unschedulable || !uncordon || acknowledged) {
        return end(after);
    }
    // A Node that was made anew meanwhile is not initialized, and the view that said so may have been behind.
    let opens = seen.starting() || (uncordon && seen.unschedulable);
    if *then == Outcome::Done
        && opens
        && let Some(owed) = uninitialized(ctx, sync, work)
    {
        return wait_for(ctx, sync, work, owed, since, plan);
    }
    let what = super::trouble(ctx, &action.key()).unwrap_or_else(|| "the release".to_owned());
    plan.emit(ctx, action);
    stay(WaitingOn::Ourselves { what })
}
