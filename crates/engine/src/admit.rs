//! Who may be taken next: the two limits, canary and ramp, zones. Who of those is next is for [`order`](crate::order).

mod room;

use crate::drain;
use crate::ids::{NodeName, ObjectKey};
use crate::index::Index;
use crate::order::{Choice, Line, Wish, Zone};
use crate::pace;
use crate::phase::{Blocker, Cause, Outcome, Phase, SkipReason};
use crate::plan::{Ctx, new_work};
use crate::report::WaitingOn;
use crate::sync::{Sync, Work};
use crate::time::{Span, Time};
use room::Room;
use std::collections::{BTreeMap, BTreeSet};

/// After this many nodes have taken a configuration well, the window is full: the canary and the pair after it.
pub(crate) const RAMP_END: u32 = 3;
/// Nodes that are set aside in one decision: a commit takes so many.
const ASIDES_MAX: usize = 40;
/// Names in a reason are cut here: a page shows that many.
const NAMES_MAX: usize = 10;

/// The limits of a job as they stand now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Nodes that may be in hand at once.
    pub work: u32,
    /// The same for now: fewer while the API server is under pressure or the pool's health falls.
    pub eased: Eased,
    /// Of these, nodes that were in service when they were taken (canary and ramp).
    pub ramp: u32,
    /// Nodes that hold a slot now.
    pub holding: u32,
    /// Of these, nodes that were in service when they were taken.
    pub holding_available: u32,
    /// Nodes out or in hand: what the availability limit counts. O(in hand).
    pub out: u32,
}

/// How many nodes may be in hand for now, and why not all that the job allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eased {
    /// Nodes, at least one.
    pub to: u32,
    /// The API server is slow or refuses requests.
    pub pressed: bool,
}

impl Eased {
    fn read(ctx: &Ctx<'_>, sync: &Sync) -> Self {
        let max = sync.spec.max_unavailable;
        let to = ctx.ledger.pressure().divides(max, ctx.now);
        let pressed = to < max;
        let to = if falls_ill(ctx, sync) { (to / 2).max(1) } else { to };
        // Nodes that failed give their slots back never: one more must find a place, or the run waits for ever.
        let failed = sync.holding().filter(|w| w.phase.is_terminal()).count() as u32;
        Self { to: to.max(failed + 1).min(max), pressed }
    }
}

/// Whether a node that is not in hand stopped being Ready during the run.
fn falls_ill(ctx: &Ctx<'_>, sync: &Sync) -> bool {
    let in_hand = |name: &NodeName| sync.work(name).is_some_and(|w| w.phase.holds_slot());
    ctx.index.out(&sync.spec.pool).filter(|name| !in_hand(name)).any(|name| {
        let since = ctx.index.node(name).and_then(|e| e.not_ready_since);
        since.is_some_and(|since| since > sync.state.accepted)
    })
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
        eased: Eased::read(ctx, sync),
        ramp: ramp.min(spec.max_unavailable),
        holding: sync.holding_count(),
        holding_available: sync.holding().filter(|w| w.was_available).count() as u32,
        out: (ctx.index.out_count(&spec.pool) + unseen) as u32,
    }
}

impl Limits {
    /// Whether a node that is in service may be taken. The claim is counted again once it is seen.
    pub fn admit_available(&self) -> bool {
        self.holding < self.eased.to && self.holding_available < self.ramp && self.out < self.work
    }

    /// Whether a node that is out already may be taken: it costs work but no availability.
    pub fn admit_out(&self) -> bool {
        self.holding < self.eased.to
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

/// Looks for the next nodes to take. Costs O(slots that are free), whatever the size of the pool.
pub fn next(ctx: &Ctx<'_>, sync: &Sync) -> Admission {
    if sync.untouched().is_empty() && sync.waiting().next().is_none() {
        return Admission::Nobody(None, None);
    }
    if let Some((on, wake)) = pace::holds_up(sync, ctx.now) {
        return Admission::Nobody(Some(on), wake);
    }
    if !ctx.index.live() {
        return Admission::Nobody(Some(WaitingOn::View), None);
    }
    let Some(line) = ctx.order.line(&sync.spec.job) else {
        return Admission::Nobody(Some(WaitingOn::View), None);
    };
    let mut limits = limits(ctx, sync);
    if !limits.admit_out() {
        return Admission::Nobody(Some(no_slot(&limits)), ctx.ledger.pressure().eases_at(ctx.now));
    }
    let mut taken: Vec<Work> =
        line.asides().take(ASIDES_MAX).map(|name| aside(ctx, sync, name)).collect();
    let mut zones = Zones::of(ctx, sync, line);
    // Until the configuration is proven, the fewest pods depend on it; after that, time counts.
    let proving = sync.spec.policy.canary && !sync.spec.proven && sync.proofs() < RAMP_END;
    let mut wish = Wish::new(proving);
    let mut room = Room::of(ctx, sync);
    let mut no_room = None;
    while limits.admit_out() {
        wish.service = limits.admit_available();
        wish.full = zones.full();
        let Some(choice) = line.best(&wish) else {
            break;
        };
        let available = ctx.index.node(&choice.node).is_some_and(|e| e.seen.available());
        let short = room.short(ctx, &choice.node).filter(|_| available);
        if let Some(short) = short
            && (limits.holding > 0 || sync.pace.strict)
        {
            no_room = Some(WaitingOn::Room { node: choice.node, short: short.to_owned() });
            break;
        }
        room.take(ctx, &choice.node);
        limits.holding += 1;
        limits.out += u32::from(available);
        limits.holding_available += u32::from(available);
        zones.take(line, &choice.node);
        wish.take(line, &choice.node);
        taken.push(claim(ctx, sync, &choice, available, short));
    }
    if !taken.is_empty() {
        return Admission::Take(taken);
    }
    if let Some(no_room) = no_room {
        return Admission::Nobody(Some(no_room), line.next_due());
    }
    let why = line.somebody_waits().then(|| match zones.full().into_iter().next().flatten() {
        Some(zone) if limits.admit_available() => WaitingOn::Zone { zone: zone.to_string() },
        _ => why_not(ctx, sync, &limits),
    });
    Admission::Nobody(why, line.next_due())
}

/// Nodes in hand by zone, where a zone has a limit.
struct Zones {
    max: Option<u32>,
    held: BTreeMap<Zone, u32>,
}

impl Zones {
    fn of(ctx: &Ctx<'_>, sync: &Sync, line: &Line) -> Self {
        let mut zones = Self { max: sync.spec.policy.zone_max, held: BTreeMap::new() };
        if zones.max.is_some() {
            for work in sync.holding() {
                let seen = ctx.index.node(&work.name).and_then(|e| e.seen.zone.clone());
                zones.count(seen.or_else(|| line.zone(&work.name).cloned()));
            }
        }
        zones
    }

    fn take(&mut self, line: &Line, node: &NodeName) {
        if self.max.is_some() {
            self.count(line.zone(node).cloned());
        }
    }

    /// Nodes that name no zone are not limited together.
    fn count(&mut self, zone: Zone) {
        if zone.is_some() {
            *self.held.entry(zone).or_default() += 1;
        }
    }

    fn full(&self) -> BTreeSet<Zone> {
        let max = self.max.unwrap_or(u32::MAX);
        self.held.iter().filter(|(_, n)| **n >= max).map(|(zone, _)| zone.clone()).collect()
    }
}

/// Whether some other waiting node could be drained at once: then a blocked drain yields. O(1).
pub fn somebody_could_drain(ctx: &Ctx<'_>, sync: &Sync) -> bool {
    pace::holds_up(sync, ctx.now).is_none()
        && ctx.order.line(&sync.spec.job).is_some_and(Line::somebody_is_free)
}

/// Whether a node that was given back is not to be tried yet.
pub fn pauses(sync: &Sync, work: &Work, now: Time) -> bool {
    match work.phase {
        Phase::Waiting { since, until, .. } => {
            until > now && !sync.control.retries(&work.name, since)
        }
        _ => false,
    }
}

/// A node that is gone, or whose drain can never end as things are.
fn aside(ctx: &Ctx<'_>, sync: &Sync, name: &NodeName) -> Work {
    if ctx.index.node(name).is_none() {
        return ended(ctx, sync, name, SkipReason::Gone);
    }
    let force = sync.force(name);
    let view = drain::view(ctx.index, name, ctx.index.pods_on(name), force, ctx.now);
    let blocker = view.blocked.first().map(|(_, blocker)| blocker.clone());
    let blocker = blocker.unwrap_or_else(|| Blocker {
        pod: ObjectKey::new("", name.as_str()),
        budget: None,
        why: "its pods cannot leave as things are".to_owned(),
    });
    set_aside(ctx, sync, name, &blocker)
}

/// Whether somebody else keeps pods off a node.
pub fn cordoned_by_others(index: &Index, name: &NodeName) -> bool {
    index.node(name).is_some_and(|e| e.seen.cordoned_by_others())
}

fn claim(
    ctx: &Ctx<'_>,
    sync: &Sync,
    choice: &Choice,
    available: bool,
    short: Option<&str>,
) -> Work {
    let mut work = base(sync, &choice.node);
    let seen = ctx.index.node(&choice.node).map(|e| &e.seen);
    work.was_available = available;
    work.was_unschedulable =
        seen.is_some_and(|s| s.mark.as_ref().map_or(s.unschedulable, |m| m.was_unschedulable));
    work.uncordons = 0;
    work.phase = Phase::Claiming { since: ctx.now };
    let warning = short.map(|s| format!("; {s} is short elsewhere: some pods wait for this node"));
    let rule = format!("{}{}", choice.rule, warning.unwrap_or_default());
    work.note(ctx.now, "Claiming", rule);
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

fn no_slot(limits: &Limits) -> WaitingOn {
    let Limits { work, holding, eased, .. } = *limits;
    if holding >= work {
        WaitingOn::Slot { in_hand: holding, limit: work }
    } else {
        WaitingOn::Calm { in_hand: holding, limit: eased.to, of: work, pressed: eased.pressed }
    }
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
        } else if cordoned_by_others(ctx.index, name) && !sync.spec.named {
            Some(SkipReason::CordonedByOthers)
        } else {
            None
        }
    };
    rest.iter().filter_map(|n| reason(n).map(|r| ended(ctx, sync, n, r))).collect()
}
