//! What a run cost its workloads: how often the pods of each were moved, and how long budgets were below what they ask.
//!
//! Entry points: [`Account::moved`] for each move, [`Account::see_budget`] for each change of a budget. Only what was seen
//! is counted: the moves of the last second before a crash may be missing.

use crate::facts::{BudgetSeen, Owner, PodSeen};
use crate::ids::ObjectKey;
use crate::time::{Span, Time};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Workloads, and budgets, that are counted by name. A cluster of 5,000 nodes seldom has more in one pool; what comes
/// later is counted together.
const NAMES_MAX: usize = 500;
/// Pods of a workload that are counted by name: those of a StatefulSet come back under their old names.
const PODS_MAX: usize = 50;
/// The label by which a Deployment marks the ReplicaSets that it makes.
const HASH_LABEL: &str = "pod-template-hash";

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// By workload, as `Kind namespace/name`.
    pub workloads: BTreeMap<String, Moves>,
    /// By budget, as `namespace/name`; those that cover a pod that was moved.
    pub budgets: BTreeMap<String, Below>,
    /// Moves of workloads beyond the bound.
    #[serde(default)]
    pub others: u32,
}

/// The moves of one workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moves {
    /// Pods that left, by eviction or deletion.
    pub moves: u32,
    /// Of these, deleted because of `force`.
    pub deleted: u32,
    /// By pod.
    pub pods: BTreeMap<String, u32>,
}

impl Moves {
    /// The pod that was moved most often.
    pub fn worst(&self) -> Option<(&str, u32)> {
        let worst = self.pods.iter().max_by(|a, b| a.1.cmp(b.1).then_with(|| b.0.cmp(a.0)));
        worst.map(|(pod, moves)| (pod.as_str(), *moves))
    }
}

/// How a budget fared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Below {
    /// Time with fewer healthy pods than it asks for, without the present one.
    pub total: Span,
    /// Since when it has fewer now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Most pods that were missing.
    pub worst: u32,
}

impl Below {
    /// Everything until now.
    pub fn until(&self, now: Time) -> Span {
        self.total + self.since.map_or(Span(0), |since| now - since)
    }
}

impl Account {
    /// A pod of ours has to leave its node; `budgets` are those that cover it.
    pub fn moved<'a>(
        &mut self,
        pod: &PodSeen,
        deleted: bool,
        budgets: impl Iterator<Item = &'a BudgetSeen>,
        now: Time,
    ) {
        for budget in budgets {
            if self.budgets.len() < NAMES_MAX {
                self.budgets.entry(budget.key.to_string()).or_default();
            }
            self.see_budget(budget, now);
        }
        let workload = workload(pod);
        if !self.workloads.contains_key(&workload) && self.workloads.len() >= NAMES_MAX {
            self.others += 1;
            return;
        }
        let entry = self.workloads.entry(workload).or_default();
        entry.moves += 1;
        entry.deleted += u32::from(deleted);
        let name = pod.key.name.to_string();
        if entry.pods.len() < PODS_MAX || entry.pods.contains_key(&name) {
            *entry.pods.entry(name).or_default() += 1;
        }
    }

    /// A budget changed. True if that is news for this account.
    pub fn see_budget(&mut self, budget: &BudgetSeen, now: Time) -> bool {
        let Some(below) = self.budgets.get_mut(&budget.key.to_string()) else {
            return false;
        };
        let before = below.clone();
        let missing = (budget.desired - budget.healthy).max(0) as u32;
        below.worst = below.worst.max(missing);
        if missing > 0 {
            below.since.get_or_insert(now);
        } else if let Some(since) = below.since.take() {
            below.total = below.total + (now - since);
        }
        *below != before
    }

    /// A budget is gone, or the run has ended: what is missing now is missing no longer. True if that is news.
    pub fn close(&mut self, budget: Option<&ObjectKey>, now: Time) -> bool {
        let mut changed = false;
        let wanted = budget.map(ToString::to_string);
        for (key, below) in &mut self.budgets {
            if wanted.as_ref().is_none_or(|w| w == key)
                && let Some(since) = below.since.take()
            {
                below.total = below.total + (now - since);
                changed = true;
            }
        }
        changed
    }
}

/// Whose pod it is. A ReplicaSet that a Deployment made is the Deployment.
fn workload(pod: &PodSeen) -> String {
    let (namespace, name) = (&pod.key.namespace, &pod.key.name);
    let Owner::Controller(owner) = &pod.owner else {
        return format!("Pod {namespace}/{name}");
    };
    let (kind, name) = owner.split_once('/').unwrap_or(("", owner.as_ref()));
    let hash = pod.labels.get(HASH_LABEL).map(|hash| format!("-{hash}"));
    match hash.and_then(|hash| name.strip_suffix(hash.as_str()).map(str::to_owned)) {
        Some(deployment) if kind == "ReplicaSet" => format!("Deployment {namespace}/{deployment}"),
        _ => format!("{kind} {namespace}/{name}"),
    }
}
