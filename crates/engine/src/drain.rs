//! Pods in a drain: every pod is classified first, then acted on.

use crate::facts::{BudgetSeen, Owner, PodPhase, PodSeen, Readiness};
use crate::ids::{NodeName, ObjectKey};
use crate::index::Index;
use crate::ledger::Ledger;
use crate::phase::Blocker;
use crate::time::{Span, Time};

/// What a drain does with a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// It is no obstacle: belongs to the node, or has ended.
    Stays(&'static str),
    /// It is ending; wait.
    Ending,
    /// Evict it, under this budget if one covers it.
    Evict {
        /// The one budget that covers it.
        budget: Option<ObjectKey>,
    },
    /// It cannot be evicted as things are.
    Blocked(Blocker),
}

/// What keeps a pod from being evicted, however long one waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bar<'a> {
    /// No controller would make it again.
    Bare,
    /// It is annotated not to be disrupted.
    Protected,
    /// Its budget can never allow an eviction.
    NeverAllows(&'a ObjectKey),
    /// Two budgets cover it: the API server answers 500.
    TwoBudgets(&'a ObjectKey, &'a ObjectKey),
}

impl Bar<'_> {
    /// The budget that a person would look at.
    pub fn budget(&self) -> Option<&ObjectKey> {
        match self {
            Bar::Bare | Bar::Protected => None,
            Bar::NeverAllows(budget) | Bar::TwoBudgets(budget, _) => Some(budget),
        }
    }

    /// In words, with the way out.
    pub fn why(&self) -> String {
        match self {
            Bar::Bare => {
                "no controller would make it again: delete it yourself, or sync with force"
                    .to_owned()
            }
            Bar::Protected => {
                "annotated not to be disrupted: remove the annotation, or sync with force"
                    .to_owned()
            }
            Bar::NeverAllows(_) => {
                "it can never allow an eviction: raise the replicas or lower the budget".to_owned()
            }
            Bar::TwoBudgets(_, second) => format!(
                "budget {second} covers it as well, and the API server evicts no pod with two: \
                 let one budget go"
            ),
        }
    }
}

/// What bars a pod that would have to leave; `force` passes over what only the pod itself says.
pub fn bar<'a>(pod: &PodSeen, budgets: &[&'a BudgetSeen], force: bool) -> Option<Bar<'a>> {
    if pod.owner == Owner::Nobody && !force {
        return Some(Bar::Bare);
    }
    if pod.protected && !force {
        return Some(Bar::Protected);
    }
    // A pod that does not run yet is evicted whatever its budgets say.
    if pod.phase == PodPhase::Pending {
        return None;
    }
    match budgets {
        [] => None,
        [budget] => budget.never_allows().then_some(Bar::NeverAllows(&budget.key)),
        [first, second, ..] => Some(Bar::TwoBudgets(&first.key, &second.key)),
    }
}

/// A pod on a node whose kubelet is gone counts as gone this long after its grace ran out; the teardown on the host
/// then confirms it. One lease duration (40 s) and a margin.
pub const KUBELET_GONE_MARGIN: Span = Span::secs(60);

/// Classifies one pod. `budgets` are those that cover it.
pub fn classify(pod: &PodSeen, budgets: &[&BudgetSeen], force: bool) -> Disposition {
    match pod.owner {
        Owner::DaemonSet => return Disposition::Stays("DaemonSet pod"),
        Owner::Static => return Disposition::Stays("static pod"),
        Owner::Nobody | Owner::Controller(_) => {}
    }
    if pod.phase == PodPhase::Finished {
        return Disposition::Stays("finished");
    }
    if pod.deleting {
        return Disposition::Ending;
    }
    if let Some(bar) = bar(pod, budgets, force) {
        return Disposition::Blocked(Blocker {
            pod: pod.key.clone(),
            budget: bar.budget().cloned(),
            why: bar.why(),
        });
    }
    let budget = match budgets {
        [budget, ..] if pod.phase != PodPhase::Pending => Some(budget.key.clone()),
        _ => None,
    };
    Disposition::Evict { budget }
}

/// Whether an eviction under this budget has a chance now, by its status and our own ledger.
pub fn has_chance(pod: &PodSeen, budget: &BudgetSeen, ledger: &Ledger) -> bool {
    // A pod that is not ready costs the budget nothing while enough others are healthy.
    if !pod.ready && (budget.always_allow_unready || budget.healthy >= budget.desired) {
        return true;
    }
    let spent = ledger.spent(&budget.key, &budget.resource_version);
    budget.allowed > 0 && budget.allowed as u32 > spent
}

/// The state of one node's drain, from the cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrainView {
    /// Pods that are ending.
    pub ending: Vec<ObjectKey>,
    /// Pods to evict, with their budget.
    pub evict: Vec<(PodSeen, Option<ObjectKey>)>,
    /// Pods that cannot be evicted as things are.
    pub blocked: Vec<(PodSeen, Blocker)>,
    /// The longest grace of all pods that have to leave, seconds.
    pub longest_grace_s: u32,
}

impl DrainView {
    /// Whether nothing is left that has to leave.
    pub fn is_empty(&self) -> bool {
        self.ending.is_empty() && self.evict.is_empty() && self.blocked.is_empty()
    }
}

/// Classifies all pods of a node. With `now`, pods that outlived their grace on a dead kubelet are left out.
pub fn view<'a>(
    index: &Index,
    node: &NodeName,
    pods: impl Iterator<Item = &'a PodSeen>,
    force: bool,
    now: Time,
) -> DrainView {
    let dead = index.node(node).is_some_and(|e| {
        e.seen.ready != Readiness::Ready
            && e.not_ready_since.is_some_and(|t| now - t >= KUBELET_GONE_MARGIN)
    });
    let mut view = DrainView::default();
    for pod in pods {
        let budgets: Vec<&BudgetSeen> = index.budgets_of(pod).collect();
        match classify(pod, &budgets, force) {
            Disposition::Stays(_) => continue,
            Disposition::Ending => {
                let grace = Span::secs(pod.grace_s.into()) + KUBELET_GONE_MARGIN;
                let over = index.ending_since(&pod.uid).is_some_and(|t| now - t >= grace);
                if dead && over {
                    continue;
                }
                view.ending.push(pod.key.clone());
            }
            Disposition::Evict { budget } => view.evict.push((pod.clone(), budget)),
            Disposition::Blocked(blocker) => view.blocked.push((pod.clone(), blocker)),
        }
        view.longest_grace_s = view.longest_grace_s.max(pod.grace_s);
    }
    view
}
