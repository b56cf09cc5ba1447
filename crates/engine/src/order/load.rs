//! What draining a node asks of whom: pods by budget.

use super::Sight;
use crate::drain::KUBELET_GONE_MARGIN;
use crate::facts::{Owner, PodPhase, Readiness};
use crate::ids::{NodeName, ObjectKey};
use crate::time::Span;
use std::collections::BTreeMap;

/// Pods of one node under one budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Ready pods: each costs the budget one.
    pub ready: u32,
    /// Pods that are not ready: they cost nothing while enough others are healthy.
    pub unready: u32,
}

/// What has to leave a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Pods to evict, by the one budget that covers them.
    pub under: BTreeMap<ObjectKey, Need>,
    /// Pods to evict in all.
    pub pods: u32,
    /// The longest grace of all pods that have to leave.
    pub grace: Span,
    /// Some pod cannot be evicted as things are, whatever the budgets' status.
    pub stuck: bool,
}

impl Load {
    /// Reads the pods of a node. O(its pods).
    pub fn of(sight: &Sight<'_>, node: &NodeName, force: bool) -> Self {
        let mut load = Self::default();
        let dead = sight.index.node(node).is_some_and(|e| {
            e.seen.ready != Readiness::Ready
                && e.not_ready_since.is_some_and(|t| sight.now - t >= KUBELET_GONE_MARGIN)
        });
        for pod in sight.index.pods_on(node) {
            let stays = matches!(pod.owner, Owner::DaemonSet | Owner::Static);
            if stays || pod.phase == PodPhase::Finished || (pod.deleting && dead) {
                continue;
            }
            load.grace = load.grace.max(Span::secs(pod.grace_s.into()));
            if pod.deleting || sight.ledger.was_evicted(&pod.uid) {
                continue;
            }
            load.pods += 1;
            load.stuck |= !force && (pod.owner == Owner::Nobody || pod.protected);
            if pod.phase == PodPhase::Pending {
                continue;
            }
            let mut budgets = sight.index.budgets_of(pod);
            match (budgets.next(), budgets.next()) {
                (None, _) => {}
                (Some(budget), None) => {
                    let need = load.under.entry(budget.key.clone()).or_default();
                    if pod.ready { need.ready += 1 } else { need.unready += 1 }
                }
                (Some(_), Some(_)) => load.stuck |= !force,
            }
        }
        load
    }
}
