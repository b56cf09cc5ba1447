//! Lower bounds of a run: no order of the nodes is faster. With the times that are assumed or were learned, each
//! holds by itself, so the largest one counts.
//!
//! Entry points: [`bounds`] and [`useful`].

use super::capacity::Verdict;
use super::census::{Census, Guarded, Lot, NodeView, at_once};
use super::concern::Places;
use crate::ids::{NodeName, ObjectKey};
use crate::index::Index;
use crate::time::Span;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the bounds are made from.
pub struct Times<'a> {
    /// From the end of a node's drain until it is back in service.
    pub outage: Span,
    /// The least that a drain takes, by node.
    pub drain: &'a dyn Fn(&NodeView<'_>) -> Span,
    /// From an eviction under a budget until it is made good.
    pub recovery: &'a dyn Fn(&ObjectKey) -> Span,
}

/// What a bound is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Limit {
    /// One node takes so long.
    Node(NodeName),
    /// So many nodes, so few slots.
    Slots,
    /// A budget lets pods go one after the other.
    Budget(ObjectKey),
    /// A budget whose pods cannot run elsewhere while their nodes are out.
    Pinned(ObjectKey),
    /// So few nodes of one zone at once.
    Zone(Arc<str>),
    /// So few nodes at once before pods find no place.
    Capacity,
}

/// One lower bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// `LB1` to `LB5`; `LB3'` for pods that are pinned to their nodes.
    pub name: &'static str,
    /// No run is shorter.
    pub span: Span,
    /// What makes it so long; nothing where there is nothing of the kind.
    pub limit: Option<Limit>,
}

/// The bounds, and what makes a run impossible.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// All of them, in their order.
    pub all: Vec<Bound>,
    /// Budgets under which one node holds more pinned pods than may be out at once: that drain can never end.
    pub impossible: Vec<(ObjectKey, NodeName)>,
}

impl Bounds {
    /// The one that counts.
    pub fn largest(&self) -> Option<&Bound> {
        // The first of equals: a later bound explains no more.
        self.all.iter().rev().max_by_key(|bound| bound.span)
    }

    /// The largest of those that do not depend on how many slots there are.
    fn floor(&self) -> Option<&Bound> {
        let fixed = |b: &&Bound| !matches!(b.name, "LB2" | "LB5");
        self.all.iter().rev().filter(fixed).max_by_key(|bound| bound.span)
    }
}

/// Computes them. `slots` is maxUnavailable, `zone_max` the limit of a zone where one is set.
pub fn bounds(
    index: &Index,
    census: &Census<'_>,
    places: &Places<'_>,
    capacity: &Verdict,
    times: &Times<'_>,
    slots: u32,
    zone_max: Option<u32>,
) -> Bounds {
    let busy: BTreeMap<&NodeName, Span> =
        census.nodes.iter().map(|n| (&n.name, (times.drain)(n) + times.outage)).collect();
    let mut bounds = Bounds::default();
    let mut put = |name, span, limit| bounds.all.push(Bound { name, span, limit });
    let longest = busy.iter().max_by_key(|(_, span)| **span);
    let (node, span) = longest.map_or((None, Span(0)), |(n, s)| (Some((*n).clone()), *s));
    put("LB1", span, node.map(Limit::Node));
    let work: u64 = busy.values().map(|span| span.0).sum();
    put("LB2", Span(work.div_ceil(u64::from(slots.max(1)))), Some(Limit::Slots));
    let (span, budget) = chain(index, census, times);
    put("LB3", span, budget.map(Limit::Budget));
    let pinned = pinned(census, places);
    let (span, budget, impossible) = pinned_chain(index, &pinned, &busy);
    put("LB3'", span, budget.map(Limit::Pinned));
    let (span, zone) = zones(index, &busy, zone_max);
    put("LB4", span, zone.map(Limit::Zone));
    let tight = capacity.scarce.is_some() && capacity.k_cap < slots;
    let k = u64::from(capacity.k_cap.max(1));
    let span = if tight { Span(work.div_ceil(k)) } else { Span(0) };
    put("LB5", span, tight.then_some(Limit::Capacity));
    bounds.impossible = impossible;
    bounds
}

/// At most `a` evictions in any stretch of the recovery time, and the last one's node is still to be reset.
fn chain(index: &Index, census: &Census<'_>, times: &Times<'_>) -> (Span, Option<ObjectKey>) {
    let mut longest = (Span(0), None);
    for (key, guarded) in &census.budgets {
        let allowed = index.budget(key).map_or(0, at_once);
        if allowed == 0 {
            continue;
        }
        let rounds = u64::from(guarded.total.div_ceil(allowed).saturating_sub(1));
        let span = Span((times.recovery)(key).0.saturating_mul(rounds)) + times.outage;
        if span > longest.0 {
            longest = (span, Some(key.clone()));
        }
    }
    longest
}

/// Pods that cannot run elsewhere, by the budget that guards them.
fn pinned(census: &Census<'_>, places: &Places<'_>) -> BTreeMap<ObjectKey, Guarded> {
    let mut found: BTreeMap<ObjectKey, Guarded> = BTreeMap::new();
    for node in &census.nodes {
        for view in node.pods.iter().filter(|view| view.lot == Lot::Moves) {
            if let Some(budget) = view.budget
                && places.is_pinned(view.pod, &node.name)
            {
                let guarded = found.entry(budget.key.clone()).or_default();
                *guarded.by_node.entry(node.name.clone()).or_default() += 1;
                guarded.total += 1;
            }
        }
    }
    found
}

/// While its node is out, a pinned pod is down: it costs its budget the whole time.
fn pinned_chain(
    index: &Index,
    pinned: &BTreeMap<ObjectKey, Guarded>,
    busy: &BTreeMap<&NodeName, Span>,
) -> (Span, Option<ObjectKey>, Vec<(ObjectKey, NodeName)>) {
    let (mut longest, mut impossible) = ((Span(0), None), Vec::new());
    for (key, guarded) in pinned {
        let allowed = index.budget(key).map_or(0, at_once);
        let over = |(_, pods): &(&NodeName, &u32)| **pods > allowed;
        impossible
            .extend(guarded.by_node.iter().filter(over).map(|(n, _)| (key.clone(), n.clone())));
        let time = |(node, pods): (&NodeName, &u32)| {
            busy.get(node).map_or(0, |span| span.0.saturating_mul(u64::from(*pods)))
        };
        let total: u64 = guarded.by_node.iter().map(time).sum();
        let span = Span(total.div_ceil(u64::from(allowed.max(1))));
        if allowed > 0 && span > longest.0 {
            longest = (span, Some(key.clone()));
        }
    }
    (longest.0, longest.1, impossible)
}

fn zones(
    index: &Index,
    busy: &BTreeMap<&NodeName, Span>,
    zone_max: Option<u32>,
) -> (Span, Option<Arc<str>>) {
    let Some(max) = zone_max else {
        return (Span(0), None);
    };
    let mut by_zone: BTreeMap<Arc<str>, u64> = BTreeMap::new();
    for (name, span) in busy {
        if let Some(zone) = index.node(name).and_then(|e| e.seen.zone.clone()) {
            *by_zone.entry(zone).or_default() += span.0;
        }
    }
    let longest = by_zone.into_iter().max_by_key(|(_, work)| *work);
    longest.map_or((Span(0), None), |(zone, work)| {
        (Span(work.div_ceil(u64::from(max.max(1)))), Some(zone))
    })
}

/// How far more slots help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Useful {
    /// More than these gain nothing.
    pub max_unavailable: u32,
    /// In words.
    pub sentence: String,
}

/// The smallest number of slots that no larger one beats, by the bounds.
///
/// `most` is the largest that is taken.
pub fn useful(bounds: &Bounds, capacity: &Verdict, nodes: u32, slots: u32, most: u32) -> Useful {
    let work = bounds
        .all
        .iter()
        .find(|bound| bound.name == "LB2")
        .map_or(0, |bound| bound.span.0.saturating_mul(slots.max(1).into()));
    let floor = bounds.floor();
    let enough = match floor {
        Some(bound) if bound.span.0 > 0 => {
            u32::try_from(work.div_ceil(bound.span.0)).unwrap_or(u32::MAX)
        }
        _ => nodes,
    };
    let cap = if capacity.scarce.is_some() { capacity.k_cap.max(1) } else { nodes };
    let helps = enough.min(nodes).min(cap).max(1);
    let best = helps.min(most);
    let why = if best < helps {
        format!("more would help, but {most} is the most that is taken")
    } else if best == cap && capacity.scarce.is_some() && cap < enough {
        let scarce = capacity.scarce.map_or("room", |r| r.word());
        let place = capacity.group.as_ref().map(|g| format!(" on {g}")).unwrap_or_default();
        format!("{scarce}{place} is the limit")
    } else if nodes <= enough {
        format!("there are {nodes} nodes to do")
    } else {
        match floor.and_then(|bound| bound.limit.as_ref()) {
            Some(Limit::Budget(key) | Limit::Pinned(key)) => format!("budget {key} is the limit"),
            Some(Limit::Zone(zone)) => format!("zone {zone} is the limit"),
            Some(Limit::Node(node)) => format!("node {node} alone takes as long"),
            _ => format!("there are {nodes} nodes to do"),
        }
    };
    let sentence = match slots.cmp(&best) {
        _ if nodes == 0 => "there is nothing to do".to_owned(),
        std::cmp::Ordering::Greater => format!("{slots} gains nothing over {best}: {why}"),
        std::cmp::Ordering::Equal => format!("{slots} is as many as help: {why}"),
        std::cmp::Ordering::Less => {
            let more = if best < helps { "" } else { ", more gains nothing" };
            format!("{best} would be faster than {slots}{more}: {why}")
        }
    };
    Useful { max_unavailable: best, sentence }
}
