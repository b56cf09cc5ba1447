//! Who may be taken next: the two limits, canary and ramp, and the order among those that may.

use crate::drain::{self, DrainView};
use crate::facts::Readiness;
use crate::ids::NodeName;
use crate::phase::{Blocker, Cause, Outcome, Phase, SkipReason};
use crate::plan::{Ctx, new_work};
use crate::report::WaitingOn;
use crate::sync::{Sync, Work};
use crate::time::{Span, Time};
use std::collections::BTreeSet;

/// After this many nodes have taken a configuration well, the window is full: the canary and the pair after it.
const RAMP_END: u32 = 3;
/// Names in a reason are cut here: a page shows that many.
const NAMES_MAX: usize = 10;

/// The limits of a job as they stand now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Nodes that may be in hand at once.
    pub work: u32,
    /// Of these, nodes that were in service when they were taken (canary and ramp).
    pub ramp: u32,
    /// Nodes that hold a slot now.
    pub holding: u32,
    /// Of these, nodes that were in service when they were taken.
    pub holding_available: u32,
    /// Nodes out or in hand: what the availability limit counts. O(in hand).
    pub out: u32,
}

/// Reads the limits. A node in hand counts as out whatever the cache shows.
pub fn limits(ctx: &Ctx<'_>, sync: &Sync) -> Limits {
    let spec = &sync.spec;
    let ramp = match sync.proofs() {
        _ if spec.proven || !spec.policy.canary => spec.max_unavailable,
        0 => 1,
        n if n < RAMP_END => 2,
        _ => spec.max_unavailable,
    };
    let unseen = sync
        .holding()
        .filter(|w| w.phase.takes_node_out() && !ctx.index.is_out(&spec.pool, &w.name))
        .count();
    Limits {
        work: spec.max_unavailable,
        ramp: ramp.min(spec.max_unavailable),
        holding: sync.holding_count(),
        holding_available: sync.holding().filter(|w| w.was_available).count() as u32,
        out: (ctx.index.out_count(&spec.pool) + unseen) as u32,
    }
}

impl Limits {
    /// Whether a node that is in service may be taken. The claim is counted again once it is seen.
    pub fn admit_available(&self) -> bool {
        self.holding < self.work && self.holding_available < self.ramp && self.out < self.work
    }

    /// Whether a node that is out already may be taken: it costs work but no availability.
    pub fn admit_out(&self) -> bool {
        self.holding < self.work
    }
}

/// What the search for the next node came to.
#[derive(Clone, Debug)]
pub enum Admission {
    /// These nodes' new standing (claims, and nodes set aside without a claim).
    Take(Vec<Work>),
    /// Nobody now; why, and when to look again.
    Nobody(Option<WaitingOn>, Option<Time>),
}

struct Candidate {
    name: NodeName,
    available: bool,
    view: DrainView,
    would_wait: bool,
}

/// Looks for the next nodes to take. Runs over all that stand in line only while one in service may be taken; while
/// only nodes that are out may be, over those; and while no slot is free, over none.
pub fn next(ctx: &Ctx<'_>, sync: &Sync) -> Admission {
    if sync.untouched().is_empty() && sync.waiting().next().is_none() {
        return Admission::Nobody(None, None);
    }
    if !ctx.index.live() {
        return Admission::Nobody(Some(WaitingOn::View), None);
    }
    let mut limits = limits(ctx, sync);
    if !limits.admit_out() {
        let on = WaitingOn::Slot { in_hand: limits.holding, limit: limits.work };
        return Admission::Nobody(Some(on), None);
    }
    let mut wake = pauses_end(ctx, sync);
    let mut taken = Vec::new();
    let mut candidates = Vec::new();
    let all = limits.admit_available();
    let names: Vec<&NodeName> = if all {
        in_line(ctx, sync).collect()
    } else {
        let out = ctx.index.out(&sync.spec.pool);
        out.filter(|name| stands_in_line(ctx, sync, name)).collect()
    };
    for name in names {
        match look(ctx, sync, name, &mut wake) {
            Look::Candidate(c) => candidates.push(c),
            Look::Aside(work) => taken.push(work),
            Look::NotNow => {}
        }
    }
    candidates.sort_by_cached_key(|c| order(ctx, c));
    for candidate in &candidates {
        let may = if candidate.available { limits.admit_available() } else { limits.admit_out() };
        if may {
            limits.holding += 1;
            limits.out += u32::from(candidate.available);
            limits.holding_available += u32::from(candidate.available);
            taken.push(claim(ctx, sync, candidate));
        }
    }
    if !taken.is_empty() {
        return Admission::Take(taken);
    }
    if candidates.is_empty() && !all {
        // Is anybody there who waits for the limit? Mostly the first one is.
        for name in in_line(ctx, sync) {
            match look(ctx, sync, name, &mut wake) {
                Look::Candidate(_) => {
                    return Admission::Nobody(Some(why_not(ctx, sync, &limits)), wake);
                }
                Look::Aside(work) => return Admission::Take(vec![work]),
                Look::NotNow => {}
            }
        }
    }
    if candidates.is_empty() {
        return Admission::Nobody(None, wake);
    }
    Admission::Nobody(Some(why_not(ctx, sync, &limits)), wake)
}

/// Whether some other waiting node could be drained at once: then a blocked drain yields.
pub fn somebody_could_drain(ctx: &Ctx<'_>, sync: &Sync) -> bool {
    in_line(ctx, sync)
        .any(|name| matches!(look(ctx, sync, name, &mut None), Look::Candidate(c) if !c.would_wait))
}

/// Those that may be taken as far as their own record goes.
fn in_line<'a>(ctx: &Ctx<'_>, sync: &'a Sync) -> impl Iterator<Item = &'a NodeName> {
    let now = ctx.now;
    let again = sync.waiting().filter(move |w| !pauses(w, now));
    sync.untouched().iter().chain(again.map(|w| &w.name))
}

fn stands_in_line(ctx: &Ctx<'_>, sync: &Sync, name: &NodeName) -> bool {
    sync.untouched().contains(name)
        || sync
            .work(name)
            .is_some_and(|w| matches!(w.phase, Phase::Waiting { .. }) && !pauses(w, ctx.now))
}

/// Whether a node that was given back is not to be tried yet.
pub fn pauses(work: &Work, now: Time) -> bool {
    matches!(work.phase, Phase::Waiting { until, .. } if until > now)
}

fn pauses_end(ctx: &Ctx<'_>, sync: &Sync) -> Option<Time> {
    let ends = sync.waiting().filter_map(|w| match w.phase {
        Phase::Waiting { until, .. } if until > ctx.now => Some(until),
        _ => None,
    });
    ends.min()
}

enum Look {
    Candidate(Candidate),
    Aside(Work),
    NotNow,
}

fn look(ctx: &Ctx<'_>, sync: &Sync, name: &NodeName, wake: &mut Option<Time>) -> Look {
    let Some(entry) = ctx.index.node(name) else {
        return Look::Aside(ended(ctx, sync, name, SkipReason::Gone));
    };
    let seen = &entry.seen;
    if seen.hold || (cordoned_by_others(ctx, sync, name) && !sync.spec.named) {
        return Look::NotNow;
    }
    if seen.ready != Readiness::Ready {
        let since = entry.not_ready_since.unwrap_or(ctx.now);
        let sick_at = since + sync.spec.policy.sick_after;
        if sick_at > ctx.now {
            *wake = Some(wake.map_or(sick_at, |w| w.min(sick_at)));
            return Look::NotNow;
        }
    }
    let view = drain::view(ctx.index, name, ctx.index.pods_on(name), sync.spec.force, ctx.now);
    if let Some((_, blocker)) = view.blocked.first()
        && !sync.spec.force
    {
        return Look::Aside(set_aside(ctx, sync, name, blocker));
    }
    let would_wait = view.evict.iter().any(|(pod, budget)| {
        budget
            .as_ref()
            .and_then(|key| ctx.index.budget(key))
            .is_some_and(|b| !drain::has_chance(pod, b, ctx.ledger))
    });
    Look::Candidate(Candidate { name: name.clone(), available: seen.available(), view, would_wait })
}

/// Unschedulable without a mark of ours: somebody else's doing. A mark that an ended job left says that it was us.
pub fn cordoned_by_others(ctx: &Ctx<'_>, _sync: &Sync, name: &NodeName) -> bool {
    ctx.index.node(name).is_some_and(|e| {
        e.seen.unschedulable && e.seen.mark.as_ref().is_none_or(|m| m.was_unschedulable)
    })
}

type OrderKey = (bool, bool, usize, Option<std::sync::Arc<str>>, NodeName);

// Those that cost no availability first, then those that need not wait for a budget, the emptiest of them, zone
// after zone. Cordoned ones never go first: they cost no availability, but they are last in their group.
fn order(ctx: &Ctx<'_>, c: &Candidate) -> OrderKey {
    let seen = ctx.index.node(&c.name).map(|e| &e.seen);
    let cordoned = seen.is_some_and(|s| s.unschedulable);
    (
        cordoned,
        c.would_wait,
        if c.available { 1 + c.view.evict.len() } else { 0 },
        seen.and_then(|s| s.zone.clone()),
        c.name.clone(),
    )
}

fn claim(ctx: &Ctx<'_>, sync: &Sync, candidate: &Candidate) -> Work {
    let mut work = base(sync, &candidate.name);
    let seen = ctx.index.node(&candidate.name).map(|e| &e.seen);
    work.was_available = candidate.available;
    work.was_unschedulable =
        seen.is_some_and(|s| s.mark.as_ref().map_or(s.unschedulable, |m| m.was_unschedulable));
    work.uncordons = 0;
    work.phase = Phase::Claiming { since: ctx.now };
    work.note(ctx.now, "Claiming", "");
    work
}

fn base(sync: &Sync, name: &NodeName) -> Work {
    sync.work(name).cloned().unwrap_or_else(|| new_work(sync, name))
}

fn ended(ctx: &Ctx<'_>, sync: &Sync, name: &NodeName, reason: SkipReason) -> Work {
    let mut work = base(sync, name);
    work.phase = Phase::Skipped { at: ctx.now, reason };
    work.note(ctx.now, "Skipped", "");
    work
}

/// A node whose drain can never end as things are is not even cordoned; it is looked at again after a pause, and
/// given up after the same number of tries as a drain that did not end.
fn set_aside(ctx: &Ctx<'_>, sync: &Sync, name: &NodeName, blocker: &Blocker) -> Work {
    let mut work = base(sync, name);
    work.tries += 1;
    let cause = Cause::Undrainable { blocker: blocker.clone() };
    work.last_cause = Some(cause.clone());
    work.phase = match after_try(ctx, sync, &work, cause) {
        Outcome::Waiting { until, cause } => Phase::Waiting { since: ctx.now, until, cause },
        Outcome::Failed { cause, .. } => {
            Phase::Failed { at: ctx.now, cause, left: crate::phase::Left::InService }
        }
        Outcome::Done | Outcome::Skipped { .. } => {
            unreachable!("a try ends in a pause or a failure")
        }
    };
    work.note(ctx.now, work.phase.word(), format!("{}", blocker.pod));
    work
}

/// What follows a drain that did not come to its end: another try after a pause, or Undrainable.
pub fn after_try(ctx: &Ctx<'_>, sync: &Sync, work: &Work, cause: Cause) -> Outcome {
    let policy = &sync.spec.policy;
    if work.tries >= policy.drain_tries {
        return Outcome::Failed { cause, keeps_slot: false };
    }
    let doubled = policy.requeue_pause.0 << work.tries.saturating_sub(1).min(8);
    Outcome::Waiting { until: ctx.now + Span(doubled), cause }
}

/// Why no waiting node is taken now.
fn why_not(ctx: &Ctx<'_>, sync: &Sync, limits: &Limits) -> WaitingOn {
    if limits.out >= limits.work && limits.holding < limits.work {
        let mut out: Vec<NodeName> = ctx.index.out(&sync.spec.pool).cloned().collect();
        out.truncate(NAMES_MAX);
        if limits.holding_available < limits.ramp || limits.holding == 0 {
            return WaitingOn::Availability { out, limit: limits.work };
        }
    }
    if limits.ramp < limits.work && sync.proofs() == 0 {
        let node = sync.holding().find(|w| w.was_available).map(|w| w.name.clone());
        return WaitingOn::Canary { node };
    }
    WaitingOn::Slot { in_hand: limits.holding, limit: limits.ramp }
}

/// Ends of the nodes that people keep from us, once nothing else is left to do.
pub fn kept_by_people(ctx: &Ctx<'_>, sync: &Sync) -> Vec<Work> {
    let mut rest: BTreeSet<NodeName> = sync.untouched().clone();
    rest.extend(sync.waiting().map(|w| w.name.clone()));
    let reason = |name: &NodeName| {
        let seen = &ctx.index.node(name)?.seen;
        if seen.hold {
            Some(SkipReason::Held)
        } else if cordoned_by_others(ctx, sync, name) && !sync.spec.named {
            Some(SkipReason::CordonedByOthers)
        } else {
            None
        }
    };
    rest.iter().filter_map(|n| reason(n).map(|r| ended(ctx, sync, n, r))).collect()
}
