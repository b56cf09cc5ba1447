//! The machine: probe before the cordon, the reset order, and the pause between attempts.

use super::{cordoned_meanwhile, fail, go, keep_out, release, stay};
use crate::action::{Action, HostState, Stage};
use crate::drain;
use crate::ledger::Gate;
use crate::phase::{Cause, Heartbeat, Outcome, Phase};
use crate::plan::{Ctx, Plan};
use crate::report::WaitingOn;
use crate::step::Step;
use crate::sync::{Sync, Work};
use crate::time::{Span, Time};

pub(super) fn probing(ctx: &Ctx<'_>, sync: &Sync, work: &Work, plan: &mut Plan) -> Step {
    let since = work.phase.since();
    let entry = ctx.index.node(&work.name);
    if entry.is_none() && ctx.index.live() {
        let reason = crate::phase::SkipReason::Gone;
        return go(ctx, work, Phase::Skipped { at: ctx.now, reason }, "");
    }
    let cordoned = entry.map(|e| cordoned_meanwhile(ctx, sync, work, &e.seen));
    let work = &match cordoned {
        None => work.clone(),
        Some(Ok(work)) => work,
        Some(Err(step)) => return step,
    };
    let action =
        Action::Probe { node: work.name.clone(), id: work.id.clone(), job: sync.spec.job.clone() };
    let key = action.key();
    if ctx.ledger.done_at(&key).is_some_and(|at| at >= since) {
        return go(ctx, work, Phase::Draining { since: ctx.now, cordoned: false }, "");
    }
    if let Some(t) = ctx.ledger.trouble(&key).filter(|t| t.first >= since) {
        let message = t.fault.message.clone();
        if t.fault.permanent {
            let cause = Cause::Unfit { message: message.clone() };
            return release(ctx, work, Outcome::Failed { cause, keeps_slot: false }, message);
        }
        if ctx.now - t.first >= sync.spec.policy.reach_timeout {
            let cause = Cause::Unreachable { message: message.clone() };
            return release(ctx, work, Outcome::Failed { cause, keeps_slot: false }, message);
        }
    }
    let what = super::trouble(ctx, &key).unwrap_or_else(|| "probe".to_owned());
    plan.emit(ctx, action);
    stay(WaitingOn::Host { what })
}

/// How long a fresh read holds: an order that is given later needs another one (S7).
const READ_HOLDS: Span = Span::secs(10);

/// Whether the order may be given now. Until the machine is known to have it, the node must have been seen empty
/// and closed a moment ago: a person may have opened it while the machine could not be reached.
fn may_begin(ctx: &Ctx<'_>, sync: &Sync, work: &Work, plan: &mut Plan) -> Result<(), Step> {
    let order = host_action(sync, work, Stage::Reset);
    let given = ctx.ledger.host(&work.name, work.attempt, Stage::Reset).is_some()
        || ctx.ledger.gate(&order.key(), ctx.now) == Gate::Running;
    if given {
        return Ok(());
    }
    let oldest = Time(ctx.now.0.saturating_sub(READ_HOLDS.0));
    let Some(read) = ctx.ledger.confirmed(&work.name, oldest) else {
        let action = Action::Confirm { node: work.name.clone() };
        let what = super::trouble(ctx, &action.key()).unwrap_or_else(|| "a fresh read".into());
        plan.emit(ctx, action);
        return Err(stay(WaitingOn::Ourselves { what }));
    };
    let Some(node) = &read.node else {
        return Ok(());
    };
    let force = sync.force(&work.name);
    let left = drain::view(ctx.index, &work.name, read.pods.iter(), force, ctx.now);
    if node.unschedulable && left.is_empty() {
        return Ok(());
    }
    let phase = Phase::Draining { since: ctx.now, cordoned: false };
    Err(go(ctx, work, phase, "opened again before its reset began"))
}

fn host_action(sync: &Sync, work: &Work, stage: Stage) -> Action {
    Action::Host {
        node: work.name.clone(),
        id: work.id.clone(),
        job: sync.spec.job.clone(),
        attempt: work.attempt,
        stage,
    }
}

/// What an order came to, from the ledger.
pub(super) enum Order {
    Running(String),
    Succeeded(Option<i64>),
    Failed(Cause),
}

/// Follows the order of one stage: emits the action while it has no end, and reads what is known of it.
pub(super) fn order(
    ctx: &Ctx<'_>,
    sync: &Sync,
    work: &Work,
    stage: Stage,
    since: Time,
    plan: &mut Plan,
) -> Order {
    let seen = ctx.ledger.host(&work.name, work.attempt, stage);
    match seen {
        Some(HostState::Succeeded { ended_host_ms }) => return Order::Succeeded(*ended_host_ms),
        Some(HostState::Failed { step, reason }) => {
            return Order::Failed(Cause::Step { step: step.clone(), message: reason.clone() });
        }
        Some(HostState::Running { .. } | HostState::Given { .. }) | None => {}
    }
    let action = host_action(sync, work, stage);
    let key = action.key();
    let mut what = match seen {
        Some(HostState::Running { step: Some(step), .. }) => format!("step {step}"),
        _ => "the order".to_owned(),
    };
    // The machine goes on without us: only after its own limits is silence a failure.
    let goes_on = match seen {
        Some(HostState::Running { limit, .. } | HostState::Given { limit }) => *limit,
        _ => Span(0),
    };
    if let Some(t) = ctx.ledger.trouble(&key).filter(|t| t.first >= since) {
        let message = t.fault.message.clone();
        if t.fault.permanent {
            return Order::Failed(Cause::Unfit { message });
        }
        if ctx.now - t.first >= goes_on + sync.spec.policy.reach_timeout {
            return Order::Failed(Cause::Unreachable { message });
        }
        what = message;
        if goes_on > Span(0) {
            what.push_str(
                "; the machine has its order, which goes on there and is followed once it answers",
            );
        }
    }
    plan.emit(ctx, action);
    Order::Running(what)
}

pub(super) fn resetting(
    ctx: &Ctx<'_>,
    sync: &Sync,
    work: &Work,
    since: Time,
    plan: &mut Plan,
) -> Step {
    keep_out(ctx, sync, work, plan);
    if let Err(step) = may_begin(ctx, sync, work, plan) {
        return step;
    }
    match order(ctx, sync, work, Stage::Reset, since, plan) {
        Order::Running(what) => stay(WaitingOn::Host { what }),
        Order::Failed(cause) => fail(ctx, sync, work, cause),
        Order::Succeeded(ended_host_ms) => {
            let heartbeat = match ended_host_ms {
                Some(host_ms) => Heartbeat::After { host_ms },
                None => Heartbeat::Baseline,
            };
            let phase = Phase::Rejoining { since: ctx.now, heartbeat, good_since: None };
            go(ctx, work, phase, "")
        }
    }
}

pub(super) fn retrying(
    ctx: &Ctx<'_>,
    sync: &Sync,
    work: &Work,
    until: Time,
    plan: &mut Plan,
) -> Step {
    keep_out(ctx, sync, work, plan);
    if ctx.now < until {
        plan.wake(until);
        let cause = work.last_cause.clone().unwrap_or(Cause::NotReady { message: String::new() });
        return stay(WaitingOn::Pause { until, cause });
    }
    let mut next = work.clone();
    next.attempt += 1;
    let phase = Phase::Confirming { since: ctx.now, drain_since: ctx.now };
    go(ctx, &next, phase, format!("attempt {}", next.attempt))
}
