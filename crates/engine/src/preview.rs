//! What a synchronization would do, said before anything is done: drift, order, pods, capacity, bounds and an estimate.
//!
//! Entry point: [`preview`]. It reads the same index, classifies pods with the drain's own rules and takes nodes in the
//! order of the run's own rule. Nothing here changes anything.

pub mod bounds;
pub mod capacity;
pub mod census;
pub mod concern;
pub mod drift;
mod rehearse;

use crate::ids::{NodeName, ObjectKey, Uid};
use crate::index::Index;
use crate::learn::Learned;
use crate::sync::SyncSpec;
use crate::time::{Span, Time};
use bounds::{Bounds, Times, Useful};
use capacity::Verdict;
use census::{Census, Lot, at_once};
use concern::{Concern, Places, Volumes};
use drift::{Drift, Parts, Wanted};
use rehearse::Played;
use std::collections::BTreeMap;

/// Assumed from the end of a drain until a reset node is back, before a node of the pool has shown it: what others
/// publish for a node of a rolling update (5 minutes).
pub const RESET_GUESS: Span = Span::mins(5);
/// The same where nothing is reset.
pub const NO_RESET_GUESS: Span = Span::secs(15);
/// Assumed from an eviction until the budget has its pod back: an image that is there, a start, a probe.
pub const RECOVERY_GUESS: Span = Span::secs(60);
/// A pod that is asked to stop is assumed to need no longer than this, whatever its grace allows.
pub const STOP_GUESS: Span = Span::secs(30);
/// Evictions that are tried on the API server without effect.
pub const TRIALS_MAX: usize = 20;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The synchronization as it would be accepted.
    pub spec: SyncSpec,
    /// What the pool wants of its nodes.
    pub wanted: Wanted,
    /// The largest maxUnavailable that is taken.
    pub cap: u32,
    /// What was last applied, for nodes that have been synchronized.
    pub carried: BTreeMap<NodeName, Parts>,
}

/// What it is answered from.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The cluster as seen.
    pub index: &'a Index,
    /// Volumes that only some nodes reach.
    pub volumes: &'a Volumes,
    /// What earlier nodes taught.
    pub learned: &'a Learned,
    /// Now, on the cluster's clock.
    pub now: Time,
}

/// A pod that leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The pod.
    pub pod: ObjectKey,
    /// Its UID, for a trial.
    pub uid: Uid,
    /// The budget that guards it.
    pub budget: Option<ObjectKey>,
}

/// A node of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePlan {
    /// The node.
    pub name: NodeName,
    /// The rule that chose it.
    pub rule: Option<String>,
    /// When it would be taken, and when it would be back; nothing for a node that would not be taken.
    pub start: Option<Span>,
    /// See `start`.
    pub end: Option<Span>,
    /// How it differs from its pool.
    pub drift: Vec<Drift>,
    /// Pods that leave.
    pub moves: Vec<Move>,
    /// Pods that stay: they belong to the node, or have ended.
    pub stays: u32,
    /// What a person should know of its pods.
    pub concerns: Vec<Concern>,
}

impl NodePlan {
    /// Whether its drain cannot end as things are.
    pub fn is_blocked(&self) -> bool {
        self.concerns.iter().any(|c| c.kind.blocks())
    }
}

/// What the estimate rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// Nodes of this pool that have finished.
    Learned,
    /// Assumptions.
    Assumed,
}

/// When it would be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eta {
    /// Hardly earlier.
    pub low: Span,
    /// Most likely.
    pub likely: Span,
    /// Hardly later, if nothing goes wrong.
    pub high: Span,
    /// What it rests on.
    pub basis: Basis,
}

/// The answer.
#[derive(Clone, Debug)]
pub struct Preview {
    /// The nodes.
    pub nodes: Vec<NodePlan>,
    /// Room for what has to move.
    pub capacity: Verdict,
    /// No run is shorter.
    pub bounds: Bounds,
    /// More slots than these gain nothing.
    pub useful: Useful,
    /// When it would be done.
    pub eta: Eta,
    /// Evictions that are worth a trial: the tightest first, one of each budget before a second one.
    pub trials: Vec<Move>,
}

/// Answers.
pub fn preview(view: &View<'_>, ask: &Ask) -> Preview {
    let spec = &ask.spec;
    let names = spec.targets.iter().map(|target| &target.name);
    let census = census::census(view.index, names, spec.force);
    let mut places = Places::new(view.index, view.volumes);
    let mut nodes = Vec::with_capacity(census.nodes.len());
    for node in &census.nodes {
        let leaving = node.pods.iter().filter(|p| matches!(p.lot, Lot::Moves | Lot::Ending));
        let seen = view.index.node(&node.name).map(|entry| &entry.seen);
        nodes.push(NodePlan {
            name: node.name.clone(),
            rule: None,
            start: None,
            end: None,
            drift: drift::drift(&ask.wanted, ask.carried.get(&node.name), seen),
            moves: leaving
                .map(|p| Move {
                    pod: p.pod.key.clone(),
                    uid: p.pod.uid.clone(),
                    budget: p.budget.map(|b| b.key.clone()),
                })
                .collect(),
            stays: node.pods.iter().filter(|p| p.lot == Lot::Stays).count() as u32,
            concerns: concern::concerns(&mut places, node),
        });
    }
    let capacity = capacity::verdict(view.index, &census);
    let pace = Pace::of(view, spec);
    let times = Times {
        outage: pace.outage[1],
        drain: &|node| pace.drain.unwrap_or(Span(u64::MAX)).min(node.grace).min(STOP_GUESS),
        recovery: &|budget| view.learned.recovery(budget).unwrap_or(RECOVERY_GUESS),
    };
    let slots = spec.max_unavailable;
    let zone_max = spec.policy.zone_max;
    let bounds = bounds::bounds(view.index, &census, &places, &capacity, &times, slots, zone_max);
    let useful = bounds::useful(&bounds, &capacity, census.nodes.len() as u32, slots, ask.cap);
    let run = rehearse::rehearse(view, spec, &census, &times);
    // What was not played goes on at the same pace, but a chain that outlasts the turns played does not end sooner.
    let cut = !run.later.is_empty();
    let floor = bounds.largest().filter(|_| cut).map_or(Span(0), |bound| bound.span);
    let eta = pace.eta(run.end().max(floor));
    in_order(&mut nodes, run);
    Preview { trials: trials(view.index, &census), nodes, capacity, bounds, useful, eta }
}

/// How long a node of the pool takes.
struct Pace {
    /// The least that a drain took, where one is known.
    drain: Option<Span>,
    /// From the end of the drain until it is back: hardly less, likely, hardly more.
    outage: [Span; 3],
    basis: Basis,
}

impl Pace {
    fn of(view: &View<'_>, spec: &SyncSpec) -> Self {
        let learned = view.learned.times(&spec.pool);
        let quantile = |percent| {
            let times = learned?;
            Some(times.reset.quantile(percent)? + times.ready.quantile(percent)?)
        };
        if let (Some(times), Some(low), Some(high)) = (learned, quantile(10), quantile(90))
            && let Some(likely) = times.outage()
        {
            let drain = times.drain.quantile(0);
            return Self { drain, outage: [low, likely, high], basis: Basis::Learned };
        }
        // What was assumed may be off by half, or double.
        let guess = if spec.resets { RESET_GUESS } else { NO_RESET_GUESS };
        let outage = [Span(guess.0 / 2), guess, Span(guess.0 * 2)];
        Self { drain: None, outage, basis: Basis::Assumed }
    }

    /// The end of the run, longer and shorter as its nodes are.
    fn eta(&self, likely: Span) -> Eta {
        let scaled = |outage: Span| {
            let (of, to) = (u128::from(self.outage[1].0.max(1)), u128::from(outage.0));
            Span(u64::try_from(u128::from(likely.0) * to / of).unwrap_or(u64::MAX))
        };
        Eta {
            low: scaled(self.outage[0]).min(likely),
            likely,
            high: scaled(self.outage[2]).max(likely),
            basis: self.basis,
        }
    }
}

/// Puts the nodes into the order of the run; those that would not be taken come last.
fn in_order(nodes: &mut Vec<NodePlan>, run: Played) {
    let mut left: BTreeMap<NodeName, NodePlan> =
        nodes.drain(..).map(|node| (node.name.clone(), node)).collect();
    for turn in run.turns {
        if let Some(mut node) = left.remove(&turn.node) {
            (node.start, node.end) = (Some(turn.start), Some(turn.end));
            node.rule = Some(turn.rule);
            nodes.push(node);
        }
    }
    let (later, mut rest): (Vec<_>, Vec<_>) =
        left.into_values().partition(|node| run.later.contains(&node.name));
    for mut node in later {
        if node.is_blocked() {
            rest.push(node);
        } else {
            node.rule = Some("later, by the same rules".to_owned());
            nodes.push(node);
        }
    }
    nodes.extend(rest);
}

/// The hardest evictions: budgets that allow the least, then those with the most to let go.
fn trials(index: &Index, census: &Census<'_>) -> Vec<Move> {
    let mut by_budget: BTreeMap<&ObjectKey, Vec<Move>> = BTreeMap::new();
    for view in census.nodes.iter().flat_map(|node| &node.pods) {
        if let (Lot::Moves | Lot::Barred, Some(budget)) = (view.lot, view.budget) {
            let moves = by_budget.entry(&budget.key).or_default();
            if moves.len() < TRIALS_MAX {
                moves.push(Move {
                    pod: view.pod.key.clone(),
                    uid: view.pod.uid.clone(),
                    budget: Some(budget.key.clone()),
                });
            }
        }
    }
    let tightness = |key: &ObjectKey| {
        let budget = index.budget(key);
        let allowed = budget.map_or(0, |b| b.allowed.max(0));
        let rounds = census
            .budgets
            .get(key)
            .map_or(0, |g| g.total.div_ceil(budget.map_or(1, at_once).max(1)));
        (allowed, std::cmp::Reverse(rounds))
    };
    let mut order: Vec<&ObjectKey> = by_budget.keys().copied().collect();
    order.sort_by_cached_key(|key| (tightness(key), (*key).clone()));
    let mut chosen = Vec::new();
    for round in 0..TRIALS_MAX {
        for key in &order {
            if let Some(one) = by_budget.get(key).and_then(|moves| moves.get(round))
                && chosen.len() < TRIALS_MAX
            {
                chosen.push(one.clone());
            }
        }
    }
    chosen
}
