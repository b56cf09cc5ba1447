//! One job's waiting nodes, in sets that stand in the order of choice.

use super::Sight;
use super::guard::{Guard, GuardId};
use super::load::Load;
use crate::admit;
use crate::changes::Changes;
use crate::facts::Readiness;
use crate::ids::{NodeName, ObjectKey};
use crate::phase::Phase;
use crate::sync::Sync;
use crate::time::{Span, Time};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A node's zone, where it names one.
pub type Zone = Option<Arc<str>>;
/// Longest drain first, then zone after zone, then the name.
pub(super) type Rank = (Reverse<Span>, Zone, NodeName);

/// How a node stands towards the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stand {
    /// Taken, and its pods have not all left: they still ask for their budgets.
    InHand,
    /// Not before this.
    Later(Time),
    /// People keep us away.
    Kept,
    /// It is gone, or its drain can never end as things are.
    Aside,
    /// In service.
    Service,
    /// In service, and the controller itself runs on it.
    Own,
    /// Out of service.
    Out,
    /// Out of service because somebody else cordoned it; it was named.
    Cordoned,
}

impl Stand {
    fn in_line(self) -> bool {
        matches!(self, Stand::Service | Stand::Own | Stand::Out | Stand::Cordoned)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) stand: Stand,
    pub(super) needs: Vec<(GuardId, u32)>,
    pub(super) pods: u32,
    pub(super) rank: Rank,
    /// How many of its budgets do not have room for all of its pods.
    pub(super) blocks: u32,
    /// How long it would wait, as it was filed.
    wait: Span,
}

/// See the module. Filed by [`file`](Line::file), taken out by [`unfile`](Line::unfile).
#[derive(Clone, Debug, Default)]
pub struct Line {
    pub(super) places: BTreeMap<NodeName, Place>,
    guards: Vec<Guard>,
    guard_ids: BTreeMap<ObjectKey, GuardId>,
    /// Budgets with nodes that could all be drained now, longest chain first.
    pub(super) chains: BTreeSet<(Reverse<Span>, ObjectKey)>,
    /// Those nodes, by budget and zone.
    pub(super) free: BTreeMap<(Option<GuardId>, Zone), BTreeSet<Rank>>,
    /// The same nodes, emptiest first.
    pub(super) few: BTreeMap<Zone, BTreeSet<(u32, Rank)>>,
    /// Nodes in service that would wait, by how long.
    pub(super) wait: BTreeMap<Zone, BTreeSet<(Span, Rank)>>,
    /// Nodes out of service: cordoned ones last, those that would wait after the others.
    pub(super) out: BTreeSet<(bool, bool, Rank)>,
    pub(super) own: BTreeSet<(bool, Rank)>,
    asides: BTreeSet<NodeName>,
    due: BTreeSet<(Time, NodeName)>,
    zones: BTreeMap<NodeName, Zone>,
    stale: BTreeSet<GuardId>,
    looked: u64,
}

impl Line {
    pub(super) fn new(sight: &Sight<'_>, sync: &Sync, looked: u64) -> Self {
        let mut line = Self { looked, ..Self::default() };
        for target in &sync.spec.targets {
            line.refresh(sight, sync, &target.name);
        }
        line.rescore();
        line
    }

    pub(super) fn follow(&mut self, sight: &Sight<'_>, sync: &Sync, changes: &Changes) {
        while let Some((at, name)) = self.due.first().cloned().filter(|(at, _)| *at <= sight.now) {
            self.due.remove(&(at, name.clone()));
            self.refresh(sight, sync, &name);
        }
        let moved = changes.moved.get(&sync.spec.job).into_iter().flatten();
        let names: BTreeSet<&NodeName> = moved.chain(&changes.nodes).collect();
        for name in names {
            if sync.id_of(name).is_some() {
                self.refresh(sight, sync, name);
            }
        }
        for key in &changes.budgets {
            if let Some(id) = self.guard_id(key) {
                self.see_budget(sight, sync, id);
            }
        }
        // How long somebody would wait matters only to who is chosen.
        if sync.holding_count() < sync.spec.max_unavailable {
            self.rescore();
        }
    }

    /// How many nodes have been looked at.
    pub fn looked(&self) -> u64 {
        self.looked
    }

    /// Whether some node could be drained without waiting for any budget.
    pub fn somebody_is_free(&self) -> bool {
        !self.few.is_empty()
    }

    /// Whether anybody may be taken as far as their own state goes.
    pub fn somebody_waits(&self) -> bool {
        !(self.few.is_empty() && self.wait.is_empty() && self.out.is_empty() && self.own.is_empty())
    }

    /// Nodes that are gone, or whose drain can never end as things are.
    pub fn asides(&self) -> impl Iterator<Item = &NodeName> {
        self.asides.iter()
    }

    /// When the next node that pauses may be looked at again.
    pub fn next_due(&self) -> Option<Time> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The zone in which a node was last seen.
    pub fn zone(&self, node: &NodeName) -> Option<&Arc<str>> {
        self.zones.get(node)?.as_ref()
    }

    /// The longest chain that is still ahead, over all budgets.
    pub fn longest_chain(&self) -> Option<(&ObjectKey, Span)> {
        self.guard_ids
            .iter()
            .map(|(key, id)| (key, self.guard(*id).chain()))
            .max_by_key(|(_, c)| *c)
    }

    pub(super) fn guard(&self, id: GuardId) -> &Guard {
        &self.guards[id.0]
    }

    pub(super) fn guard_id(&self, key: &ObjectKey) -> Option<GuardId> {
        self.guard_ids.get(key).copied()
    }

    fn refresh(&mut self, sight: &Sight<'_>, sync: &Sync, name: &NodeName) {
        self.looked += 1;
        self.remove(name);
        let stand = match sync.work(name).map(|w| (w, &w.phase)) {
            None => None,
            Some((work, Phase::Waiting { until, .. })) => {
                admit::pauses(sync, work, sight.now).then_some(Stand::Later(*until))
            }
            Some((
                work,
                Phase::Claiming { .. } | Phase::Probing { .. } | Phase::Draining { .. },
            )) if work.fresh() => Some(Stand::InHand),
            Some(_) => return,
        };
        let load = Load::of(sight, name, sync.force(name));
        for key in load.under.keys() {
            if !self.guard_ids.contains_key(key) {
                let id = GuardId(self.guards.len());
                self.guards.push(Guard::new(key.clone()));
                self.guard_ids.insert(key.clone(), id);
                self.read_budget(sight, id);
            }
        }
        let zone = sight.index.node(name).and_then(|e| e.seen.zone.clone());
        self.zones.insert(name.clone(), zone.clone());
        let stand = stand.unwrap_or_else(|| self.judge(sight, sync, name, &load));
        self.add(name, stand, &load, zone);
    }

    /// How a node that nobody has in hand stands.
    fn judge(&self, sight: &Sight<'_>, sync: &Sync, name: &NodeName, load: &Load) -> Stand {
        let Some(entry) = sight.index.node(name) else {
            return Stand::Aside;
        };
        let seen = &entry.seen;
        let cordoned = admit::cordoned_by_others(sight.index, name);
        if seen.hold || seen.control_plane || (cordoned && !sync.spec.named) {
            return Stand::Kept;
        }
        if seen.ready != Readiness::Ready {
            let since = entry.not_ready_since.unwrap_or(sight.now);
            let sick_at = since + sync.spec.policy.sick_after;
            if sick_at > sight.now {
                return Stand::Later(sick_at);
            }
        }
        let never = |key: &ObjectKey| self.guard_id(key).is_some_and(|id| self.guard(id).never);
        if load.stuck || (!sync.force(name) && load.under.keys().any(never)) {
            return Stand::Aside;
        }
        match (seen.available(), cordoned) {
            (true, _) if sight.index.is_own(name) => Stand::Own,
            (true, _) => Stand::Service,
            (false, true) => Stand::Cordoned,
            (false, false) => Stand::Out,
        }
    }

    fn add(&mut self, name: &NodeName, stand: Stand, load: &Load, zone: Zone) {
        let (mut needs, mut longest, mut blocks) = (Vec::new(), Span(0), 0);
        for (key, need) in &load.under {
            let Some(id) = self.guard_id(key) else {
                continue;
            };
            let guard = &mut self.guards[id.0];
            let need = guard.need(*need);
            guard.all.insert(name.clone());
            guard.remaining += need;
            let rounds = u64::from(need.div_ceil(guard.spare.max(1)).saturating_sub(1));
            longest = longest.max(Span(guard.recovery.0.saturating_mul(rounds)));
            if stand.in_line() {
                guard.line.insert((need, name.clone()));
                blocks += u32::from(need > guard.room());
            }
            needs.push((id, need));
        }
        let rank = (Reverse(load.grace + longest), zone, name.clone());
        let pods = load.pods;
        let place = Place { stand, needs, pods, rank, blocks, wait: Span(0) };
        self.places.insert(name.clone(), place.clone());
        match stand {
            Stand::Later(at) => {
                self.due.insert((at, name.clone()));
            }
            Stand::Aside => {
                self.asides.insert(name.clone());
            }
            _ => {}
        }
        self.file(name);
        for (id, need) in &place.needs {
            self.shift(*id, if stand == Stand::InHand { i64::from(*need) } else { 0 });
        }
    }

    fn remove(&mut self, name: &NodeName) {
        self.unfile(name);
        let Some(place) = self.places.remove(name) else {
            return;
        };
        if let Stand::Later(at) = place.stand {
            self.due.remove(&(at, name.clone()));
        }
        self.asides.remove(name);
        for (id, need) in &place.needs {
            let guard = &mut self.guards[id.0];
            guard.all.remove(name);
            guard.line.remove(&(*need, name.clone()));
            guard.remaining -= need;
            self.shift(*id, if place.stand == Stand::InHand { -i64::from(*need) } else { 0 });
        }
    }

    /// More or less is promised to nodes in hand.
    fn shift(&mut self, id: GuardId, by: i64) {
        let guard = &mut self.guards[id.0];
        let before = guard.room();
        guard.promised = guard.promised.saturating_add_signed(by as i32);
        self.rechain(id);
        self.turn_over(id, before);
    }

    fn see_budget(&mut self, sight: &Sight<'_>, sync: &Sync, id: GuardId) {
        let guard = self.guard(id);
        let (before, lenient, never) = (guard.room(), guard.lenient, guard.never);
        self.read_budget(sight, id);
        self.rechain(id);
        self.turn_over(id, before);
        let guard = self.guard(id);
        if guard.lenient != lenient || guard.never != never {
            for name in guard.all.clone() {
                self.refresh(sight, sync, &name);
            }
        }
    }

    fn read_budget(&mut self, sight: &Sight<'_>, id: GuardId) {
        self.guards[id.0].read(sight);
        self.stale.insert(id);
    }

    /// The room of a budget has changed: nodes whose pods it now lets go all, or no longer does, are filed anew.
    fn turn_over(&mut self, id: GuardId, before: u32) {
        let guard = &self.guards[id.0];
        let after = guard.room();
        if before == after {
            return;
        }
        self.stale.insert(id);
        let (low, high) = (before.min(after) + 1, before.max(after) + 1);
        let first = NodeName::new("");
        let turned: Vec<NodeName> = guard
            .line
            .range((low, first.clone())..(high, first))
            .map(|(_, name)| name.clone())
            .collect();
        for name in turned {
            self.looked += 1;
            self.unfile(&name);
            if let Some(place) = self.places.get_mut(&name) {
                place.blocks = if after > before { place.blocks - 1 } else { place.blocks + 1 };
            }
            self.file(&name);
        }
    }

    /// Nodes under budgets that changed, and that would wait: for how long?
    fn rescore(&mut self) {
        for id in std::mem::take(&mut self.stale) {
            let guard = self.guard(id);
            let first = (guard.room() + 1, NodeName::new(""));
            let blocked: Vec<NodeName> =
                guard.line.range(first..).map(|(_, name)| name.clone()).collect();
            for name in blocked {
                self.looked += 1;
                self.unfile(&name);
                self.file(&name);
            }
        }
    }

    fn rechain(&mut self, id: GuardId) {
        let guard = &mut self.guards[id.0];
        let key = &guard.key;
        let chain = guard.chain();
        if chain != guard.chain && guard.free > 0 {
            self.chains.remove(&(Reverse(guard.chain), key.clone()));
            self.chains.insert((Reverse(chain), key.clone()));
        }
        guard.chain = chain;
    }

    /// Puts a node into the sets where it is looked for.
    fn file(&mut self, name: &NodeName) {
        let Some(place) = self.places.get_mut(name) else {
            return;
        };
        let waits = place.blocks > 0;
        let (rank, zone) = (place.rank.clone(), place.rank.1.clone());
        match place.stand {
            Stand::Service if waits => {
                let wait = |(id, need): &(GuardId, u32)| self.guards[id.0].wait(*need);
                place.wait = place.needs.iter().map(wait).max().unwrap_or_default();
                self.wait.entry(zone).or_default().insert((place.wait, rank));
            }
            Stand::Service => {
                self.few.entry(zone.clone()).or_default().insert((place.pods, rank.clone()));
                if place.needs.is_empty() {
                    self.free.entry((None, zone)).or_default().insert(rank);
                    return;
                }
                for (id, _) in &place.needs {
                    let slot = (Some(*id), zone.clone());
                    self.free.entry(slot).or_default().insert(rank.clone());
                    let guard = &mut self.guards[id.0];
                    guard.free += 1;
                    if guard.free == 1 {
                        self.chains.insert((Reverse(guard.chain), guard.key.clone()));
                    }
                }
            }
            Stand::Own => {
                self.own.insert((waits, rank));
            }
            Stand::Out | Stand::Cordoned => {
                self.out.insert((place.stand == Stand::Cordoned, waits, rank));
            }
            Stand::InHand | Stand::Later(_) | Stand::Kept | Stand::Aside => {}
        }
    }

    fn unfile(&mut self, name: &NodeName) {
        let Some(place) = self.places.get(name) else {
            return;
        };
        let waits = place.blocks > 0;
        let (rank, zone) = (place.rank.clone(), place.rank.1.clone());
        match place.stand {
            Stand::Service if waits => take(&mut self.wait, &zone, &(place.wait, rank)),
            Stand::Service => {
                take(&mut self.few, &zone, &(place.pods, rank.clone()));
                if place.needs.is_empty() {
                    take(&mut self.free, &(None, zone), &rank);
                    return;
                }
                for (id, _) in &place.needs {
                    take(&mut self.free, &(Some(*id), zone.clone()), &rank);
                    let guard = &mut self.guards[id.0];
                    guard.free -= 1;
                    if guard.free == 0 {
                        self.chains.remove(&(Reverse(guard.chain), guard.key.clone()));
                    }
                }
            }
            Stand::Own => {
                self.own.remove(&(waits, rank));
            }
            Stand::Out | Stand::Cordoned => {
                self.out.remove(&(place.stand == Stand::Cordoned, waits, rank));
            }
            Stand::InHand | Stand::Later(_) | Stand::Kept | Stand::Aside => {}
        }
    }
}

/// Removes from a set of sets, and the set with its last element: what is empty is absent.
fn take<K: Ord, V: Ord>(sets: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(set) = sets.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}
