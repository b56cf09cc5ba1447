//! Cordon, evictions, and the fresh read that must agree before the reset.

use super::{fail, go, in_service_after_all, ours, release, stay, step_to};
use crate::action::Action;
use crate::admit;
use crate::drain::{self, DrainView};
use crate::facts::{BudgetSeen, PodSeen};
use crate::ids::ObjectKey;
use crate::phase::{Blocker, Cause, Heartbeat, Outcome, Phase, SkipReason};
use crate::plan::{Ctx, Plan};
use crate::report::WaitingOn;
use crate::step::Step;
use crate::sync::{Sync, Work};
use crate::time::{Span, Time};

/// Between two fresh reads of one node: a watch is seldom further behind.
const CONFIRM_PAUSE: Span = Span(500);

pub(super) fn draining(
    ctx: &Ctx<'_>,
    sync: &Sync,
    work: &Work,
    since: Time,
    cordoned: bool,
    plan: &mut Plan,
) -> Step {
    let Some(entry) = ctx.index.node(&work.name) else {
        return absent(ctx, work);
    };
    let seen = &entry.seen;
    if seen.hold && work.fresh() {
        return release(ctx, work, Outcome::Skipped { reason: SkipReason::Held }, "held");
    }
    // A person took our mark away: nothing goes on before it is back. A Node that its kubelet made anew during the
    // reset is cordoned first.
    if ours(sync, seen).is_none() && (seen.unschedulable || work.fresh()) {
        let action = Action::Claim {
            node: work.name.clone(),
            job: sync.spec.job.clone(),
            was_unschedulable: work.was_unschedulable,
        };
        let what = super::trouble(ctx, &action.key()).unwrap_or_else(|| "the claim".into());
        plan.emit(ctx, action);
        return stay(WaitingOn::Ourselves { what });
    }
    match (seen.unschedulable, cordoned) {
        (true, false) => {
            let mut next = work.clone();
            next.phase = Phase::Draining { since, cordoned: true };
            return step_to(next);
        }
        (false, true) if work.fresh() => return uncordoned(ctx, work, since),
        (false, _) => {
            if work.fresh()
                && let Some(step) = in_service_after_all(ctx, sync, work, seen)
            {
                return step;
            }
            let action = Action::Cordon { node: work.name.clone() };
            let what = super::trouble(ctx, &action.key()).unwrap_or_else(|| "the cordon".into());
            plan.emit(ctx, action);
            return stay(WaitingOn::Ourselves { what });
        }
        (true, true) => {}
    }
    let force = sync.force(&work.name);
    let view = drain::view(ctx.index, &work.name, ctx.index.pods_on(&work.name), force, ctx.now);
    if view.is_empty() {
        return go(ctx, work, Phase::Confirming { since: ctx.now, drain_since: since }, "");
    }
    move_pods(ctx, sync, work, &view, since, plan)
}

/// A node that left before its reset is gone; afterwards its absence is part of the reset.
fn absent(ctx: &Ctx<'_>, work: &Work) -> Step {
    if !ctx.index.live() {
        return stay(WaitingOn::View);
    }
    if work.fresh() {
        return go(ctx, work, Phase::Skipped { at: ctx.now, reason: SkipReason::Gone }, "");
    }
    go(ctx, work, Phase::Confirming { since: ctx.now, drain_since: ctx.now }, "the node has left")
}

/// A person made the node schedulable: once we cordon again, the second time we leave it alone.
fn uncordoned(ctx: &Ctx<'_>, work: &Work, since: Time) -> Step {
    let mut next = work.clone();
    next.uncordons += 1;
    if next.uncordons >= 2 {
        let then = Outcome::Skipped { reason: SkipReason::UncordonedByPeople };
        return release(ctx, &next, then, "uncordoned by a person a second time");
    }
    go(
        ctx,
        &next,
        Phase::Draining { since, cordoned: false },
        "uncordoned by a person; cordoned again",
    )
}

fn move_pods(
    ctx: &Ctx<'_>,
    sync: &Sync,
    work: &Work,
    view: &DrainView,
    since: Time,
    plan: &mut Plan,
) -> Step {
    let policy = &sync.spec.policy;
    let elapsed = ctx.now - since;
    let grace = Span::secs(view.longest_grace_s.into()) + policy.grace_margin;
    let limit = policy.drain_timeout.max(grace);
    let overdue = elapsed >= limit;
    let mut blocker = view.blocked.first().map(|(_, b)| b.clone());
    let force = sync.force(&work.name);
    if overdue && force {
        for (pod, _) in &view.evict {
            plan.emit(ctx, Action::Delete { pod: pod.key.clone(), uid: pod.uid.clone() });
        }
        for (pod, _) in &view.blocked {
            plan.emit(ctx, Action::Delete { pod: pod.key.clone(), uid: pod.uid.clone() });
        }
    } else if ctx.index.live() {
        for (pod, budget) in &view.evict {
            if let Some(b) = evict(ctx, pod, budget.as_ref(), plan) {
                blocker.get_or_insert(b);
                forced_by_people(ctx, sync, work, pod, plan);
            }
        }
        for (pod, _) in &view.blocked {
            forced_by_people(ctx, sync, work, pod, plan);
        }
    }
    // With force, pods that outlive even their deletion (a finalizer) end the try as well.
    let give_up = if force { elapsed >= limit + limit } else { overdue };
    // Nothing is given back while one of our evictions is on its way.
    let busy = ctx.index.pods_on(&work.name).any(|p| ctx.ledger.pod_busy(&p.uid));
    let (yield_after, blocked_since) = patience(ctx, sync, blocker.as_ref(), since);
    let blocked_for = ctx.now - blocked_since;
    let yields = blocker.is_some()
        && !busy
        && !force
        && blocked_for >= yield_after
        && work.fresh()
        && admit::somebody_could_drain(ctx, sync);
    if (give_up && !busy) || yields {
        let blocker = blocker.unwrap_or_else(|| ending_blocker(view));
        return yield_slot(ctx, sync, work, blocker, yields && !give_up);
    }
    if !give_up {
        let end = if force && overdue { limit + limit } else { limit };
        plan.wake(since + end);
    }
    if blocker.is_some() && blocked_for < yield_after {
        plan.wake(blocked_since + yield_after);
    }
    match blocker {
        Some(blocker) => stay(WaitingOn::Budget { blocker }),
        None => {
            let pods = (view.ending.len() + view.evict.len()) as u32;
            let pod = view.ending.first().or(view.evict.first().map(|(p, _)| &p.key)).cloned();
            let pod = pod.unwrap_or_else(|| ObjectKey::new("", ""));
            stay(WaitingOn::PodEnding { pods, pod })
        }
    }
}

/// How long a blocked drain keeps its slot while others could use it, and since when that counts: twice what its
/// budget has been seen to need, from the last time that it let somebody go.
fn patience(ctx: &Ctx<'_>, sync: &Sync, blocker: Option<&Blocker>, since: Time) -> (Span, Time) {
    let most = sync.spec.policy.yield_after;
    let Some(budget) = blocker.and_then(|b| b.budget.as_ref()) else {
        return (most, since);
    };
    let learned = ctx.learned.recovery(budget).map_or(most, |r| most.min(r + r));
    (learned, ctx.ledger.granted_at(budget).map_or(since, |at| at.max(since)))
}

/// A person who forced this node's drain does not want to wait for its end: what was asked for and refused goes now.
/// An API server in trouble has refused nothing.
fn forced_by_people(ctx: &Ctx<'_>, sync: &Sync, work: &Work, pod: &PodSeen, plan: &mut Plan) {
    let asked = Action::Evict { pod: pod.key.clone(), uid: pod.uid.clone(), budget: None }.key();
    if sync.control.forces(&work.name) && ctx.ledger.trouble(&asked).is_none() {
        plan.emit(ctx, Action::Delete { pod: pod.key.clone(), uid: pod.uid.clone() });
    }
}

fn ending_blocker(view: &DrainView) -> Blocker {
    let pod = view.ending.first().or(view.evict.first().map(|(p, _)| &p.key)).cloned();
    Blocker {
        pod: pod.unwrap_or_else(|| ObjectKey::new("", "")),
        budget: None,
        why: "it does not end: look at its finalizers and at the node's kubelet".to_owned(),
    }
}

fn yield_slot(ctx: &Ctx<'_>, sync: &Sync, work: &Work, blocker: Blocker, early: bool) -> Step {
    let mut work = work.clone();
    // A shortage that the budget itself shows passes; such a node does not stand first in line again before it has.
    let passes = |key: &ObjectKey| ctx.index.budget(key).is_some_and(|b| b.allowed == 0);
    if !(early && blocker.budget.as_ref().is_some_and(passes)) {
        work.tries += 1;
    }
    let cause = Cause::Undrainable { blocker };
    if !work.fresh() {
        return fail(ctx, sync, &work, cause);
    }
    let note =
        if early { "yields to a node that can drain now" } else { "the drain took too long" };
    let then = admit::after_try(ctx, sync, &work, cause);
    release(ctx, &work, then, note)
}

/// Asks for one eviction if it has a chance; says what stands in its way otherwise.
fn evict(
    ctx: &Ctx<'_>,
    pod: &PodSeen,
    budget_key: Option<&ObjectKey>,
    plan: &mut Plan,
) -> Option<Blocker> {
    if ctx.ledger.was_evicted(&pod.uid) {
        return None;
    }
    let blocked =
        |why: String| Some(Blocker { pod: pod.key.clone(), budget: budget_key.cloned(), why });
    let budget = budget_key.and_then(|key| ctx.index.budget(key));
    if let Some(refusal) = ctx.ledger.refusal(&pod.uid) {
        let changed = match (&refusal.budget_version, budget) {
            (Some(then), Some(b)) => *then != b.resource_version,
            _ => false,
        };
        if !changed && ctx.now < refusal.again_at {
            plan.wake(refusal.again_at);
            return blocked(refusal.message.clone());
        }
    }
    if let Some(b) = budget {
        // Evictions of one budget go one after the other: the server sleeps half a second on each conflict.
        if ctx.ledger.lane_busy(&b.key) || plan_uses_lane(plan, &b.key) {
            return None;
        }
        if !drain::has_chance(pod, b, ctx.ledger) {
            let last = ctx.ledger.refusal(&pod.uid).map(|r| r.again_at);
            match last {
                // Its status may lag: ask the server now and then all the same.
                Some(at) if at <= ctx.now => {}
                Some(at) => {
                    plan.wake(at);
                    return blocked(shortage(b));
                }
                None => {}
            }
        }
    }
    plan.emit(
        ctx,
        Action::Evict { pod: pod.key.clone(), uid: pod.uid.clone(), budget: budget_key.cloned() },
    );
    let key = Action::Evict { pod: pod.key.clone(), uid: pod.uid.clone(), budget: None }.key();
    super::trouble(ctx, &key).and_then(blocked)
}

/// Why a budget allows nothing now, in words. A granted eviction that the disruption controller has not matched
/// with a pod's end is believed for two minutes, and holds the budget for that long.
fn shortage(b: &BudgetSeen) -> String {
    let (healthy, desired) = (b.healthy, b.desired);
    if b.disrupted > 0 && healthy + (b.disrupted as i32) > desired {
        let n = b.disrupted;
        return format!(
            "the API server still counts {n} earlier evictions against it; it forgets them after two minutes"
        );
    }
    format!("it needs {desired} healthy pods and has {healthy}")
}

fn plan_uses_lane(plan: &Plan, budget: &ObjectKey) -> bool {
    plan.actions.iter().any(|a| matches!(a, Action::Evict { budget: Some(b), .. } if b == budget))
}

pub(super) fn confirming(
    ctx: &Ctx<'_>,
    sync: &Sync,
    work: &Work,
    since: Time,
    drain_since: Time,
    plan: &mut Plan,
) -> Step {
    let action = Action::Confirm { node: work.name.clone() };
    let Some(read) = ctx.ledger.confirmed(&work.name, since) else {
        // A cache that lags behind the last read must not make us read in a circle.
        if let Some(last) = ctx.ledger.done_at(&action.key())
            && ctx.now - last < CONFIRM_PAUSE
        {
            plan.wake(last + CONFIRM_PAUSE);
            return stay(WaitingOn::Ourselves { what: "a fresh read".to_owned() });
        }
        let what = super::trouble(ctx, &action.key()).unwrap_or_else(|| "a fresh read".into());
        plan.emit(ctx, action);
        return stay(WaitingOn::Ourselves { what });
    };
    let again =
        |note: &str| go(ctx, work, Phase::Draining { since: drain_since, cordoned: false }, note);
    match &read.node {
        None if work.fresh() => {
            let phase = Phase::Skipped { at: ctx.now, reason: SkipReason::Gone };
            return go(ctx, work, phase, "");
        }
        None => return begin(ctx, sync, work),
        Some(node)
            if !node.unschedulable || node.mark.as_ref().is_none_or(|m| m.job != sync.spec.job) =>
        {
            return again("not cordoned by the API server's account");
        }
        Some(node) if node.hold && work.fresh() => return again("held"),
        Some(_) => {}
    }
    let force = sync.force(&work.name);
    let left = drain::view(ctx.index, &work.name, read.pods.iter(), force, ctx.now);
    if left.is_empty() {
        return begin(ctx, sync, work);
    }
    let seen = ctx.index.pods_on(&work.name);
    if !drain::view(ctx.index, &work.name, seen, force, ctx.now).is_empty() {
        return again("a pod came after the cordon");
    }
    // The watch has not brought that pod yet, or the read is older than its end.
    if ctx.now - read.asked < CONFIRM_PAUSE {
        plan.wake(read.asked + CONFIRM_PAUSE);
    } else {
        plan.emit(ctx, action);
    }
    stay(WaitingOn::Ourselves {
        what: "the watch to show a pod that a fresh read shows".to_owned(),
    })
}

/// The node is empty by a fresh read: reset it, or, where nothing is reset, see that it is well.
fn begin(ctx: &Ctx<'_>, sync: &Sync, work: &Work) -> Step {
    if !sync.spec.resets {
        let phase =
            Phase::Rejoining { since: ctx.now, heartbeat: Heartbeat::NotNeeded, good_since: None };
        return go(ctx, work, phase, "nothing is reset: the recipe is none");
    }
    let mut next = work.clone();
    if next.fresh() {
        next.attempt += 1;
    }
    go(ctx, &next, Phase::Resetting { since: ctx.now }, format!("attempt {}", next.attempt))
}
