//! Which budgets may cover a pod, by the labels that their selectors ask for.

use crate::facts::BudgetSeen;
use crate::ids::ObjectKey;
use crate::selector::{Requirement, Selector};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Budgets by namespace and by one label that their pods must carry. O(labels of the pod) to ask.
#[derive(Clone, Debug, Default)]
pub(super) struct Cover(BTreeMap<Arc<str>, Namespace>);

#[derive(Clone, Debug, Default)]
struct Namespace {
    /// By label and value.
    keyed: BTreeMap<String, BTreeMap<String, BTreeSet<ObjectKey>>>,
    /// Those whose selectors name no value.
    broad: BTreeSet<ObjectKey>,
}

/// The label by which a selector is found, with the values that it takes.
fn handle(selector: &Selector) -> Option<(&String, &Vec<String>)> {
    let Selector::All(requirements) = selector else {
        return None;
    };
    requirements.iter().find_map(|r| match r {
        Requirement::In(label, values) => Some((label, values)),
        _ => None,
    })
}

impl Cover {
    pub(super) fn add(&mut self, budget: &BudgetSeen) {
        let space = self.0.entry(budget.key.namespace.clone()).or_default();
        let Some((label, values)) = handle(&budget.selector) else {
            space.broad.insert(budget.key.clone());
            return;
        };
        let by_value = space.keyed.entry(label.clone()).or_default();
        for value in values {
            by_value.entry(value.clone()).or_default().insert(budget.key.clone());
        }
    }

    pub(super) fn remove(&mut self, budget: &BudgetSeen) {
        let Some(space) = self.0.get_mut(&budget.key.namespace) else {
            return;
        };
        space.broad.remove(&budget.key);
        if let Some((label, values)) = handle(&budget.selector)
            && let Some(by_value) = space.keyed.get_mut(label)
        {
            for value in values {
                if let Some(keys) = by_value.get_mut(value) {
                    keys.remove(&budget.key);
                    if keys.is_empty() {
                        by_value.remove(value);
                    }
                }
            }
        }
    }

    /// Candidates in the order of their keys; their selectors still have to be asked.
    pub(super) fn candidates(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> BTreeSet<&ObjectKey> {
        let Some(space) = self.0.get(namespace) else {
            return BTreeSet::new();
        };
        let keyed =
            labels.iter().filter_map(|(label, value)| space.keyed.get(label)?.get(value)).flatten();
        keyed.chain(&space.broad).collect()
    }
}
