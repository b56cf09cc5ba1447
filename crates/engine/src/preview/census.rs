//! What has to leave each node, pod by pod, by the same classification as the drain itself.

use crate::drain::{self, Disposition};
use crate::facts::{BudgetSeen, Owner, PodPhase, PodSeen};
use crate::ids::{NodeName, ObjectKey};
use crate::index::Index;
use crate::place::Resources;
use crate::time::Span;
use std::collections::BTreeMap;
use std::sync::Arc;

type Labels = BTreeMap<String, String>;

/// What becomes of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lot {
    /// It belongs to the node, or has ended.
    Stays,
    /// It is ending already.
    Ending,
    /// It is evicted.
    Moves,
    /// It cannot be evicted as things are.
    Barred,
}

/// A pod of a node that is to be synchronized.
#[derive(Clone, Debug)]
pub struct PodView<'a> {
    /// The pod.
    pub pod: &'a PodSeen,
    /// What becomes of it.
    pub lot: Lot,
    /// The budget that guards it.
    pub budget: Option<&'a BudgetSeen>,
    /// What keeps it.
    pub bar: Option<drain::Bar<'a>>,
}

/// A node and its pods.
#[derive(Clone, Debug)]
pub struct NodeView<'a> {
    /// The node.
    pub name: NodeName,
    /// Its pods, in the order of namespace and name.
    pub pods: Vec<PodView<'a>>,
    /// The longest grace of the pods that have to leave.
    pub grace: Span,
    /// What the pods that have to find another place ask for.
    pub moving: Resources,
}

/// Pods under one budget that have to leave.
#[derive(Clone, Debug, Default)]
pub struct Guarded {
    /// By node; only nodes with such pods.
    pub by_node: BTreeMap<NodeName, u32>,
    /// In all.
    pub total: u32,
}

/// All targets.
#[derive(Clone, Debug, Default)]
pub struct Census<'a> {
    /// In the order of the list.
    pub nodes: Vec<NodeView<'a>>,
    /// By budget.
    pub budgets: BTreeMap<ObjectKey, Guarded>,
}

/// Looks at every pod of the given nodes.
pub fn census<'a>(
    index: &'a Index,
    nodes: impl Iterator<Item = &'a NodeName>,
    force: bool,
) -> Census<'a> {
    let mut census = Census::default();
    // Pods of a workload share their labels: which budgets cover them is asked once.
    let mut covers: BTreeMap<(*const Labels, &str), Vec<&BudgetSeen>> = BTreeMap::new();
    for name in nodes {
        let mut view = NodeView {
            name: name.clone(),
            pods: Vec::new(),
            grace: Span(0),
            moving: Resources::default(),
        };
        for pod in index.pods_on(name) {
            let budgets = covers
                .entry((Arc::as_ptr(&pod.labels), &pod.key.namespace))
                .or_insert_with(|| index.budgets_of(pod).collect());
            let seen = look(pod, budgets, force);
            if matches!(seen.lot, Lot::Moves | Lot::Barred | Lot::Ending) {
                view.grace = view.grace.max(Span::secs(pod.grace_s.into()));
            }
            if matches!(seen.lot, Lot::Moves | Lot::Barred) && pod.owner != Owner::Nobody {
                view.moving += pod.needs.requests;
            }
            if seen.lot == Lot::Moves
                && pod.ready
                && let Some(budget) = seen.budget
            {
                let guarded = census.budgets.entry(budget.key.clone()).or_default();
                *guarded.by_node.entry(name.clone()).or_default() += 1;
                guarded.total += 1;
            }
            view.pods.push(seen);
        }
        view.pods.sort_by(|a, b| a.pod.key.cmp(&b.pod.key));
        census.nodes.push(view);
    }
    census
}

pub(super) fn look<'a>(pod: &'a PodSeen, budgets: &[&'a BudgetSeen], force: bool) -> PodView<'a> {
    let lot = match drain::classify(pod, budgets, force) {
        Disposition::Stays(_) => Lot::Stays,
        Disposition::Ending => Lot::Ending,
        Disposition::Evict { .. } => Lot::Moves,
        Disposition::Blocked(_) => Lot::Barred,
    };
    let guarded = pod.phase != PodPhase::Pending && lot != Lot::Stays;
    PodView {
        pod,
        lot,
        budget: budgets.first().copied().filter(|_| guarded),
        bar: if lot == Lot::Barred { drain::bar(pod, budgets, force) } else { None },
    }
}

/// How many evictions a budget allows at once when all its pods are well.
pub fn at_once(budget: &BudgetSeen) -> u32 {
    let spare = budget.expected.saturating_sub(budget.desired).max(budget.allowed);
    u32::try_from(spare).unwrap_or(0)
}
