//! People with kubectl, who do not know what we are doing.

use super::{DeleteOptions, NodeChange, Precondition, Task, World};
use crate::faults::Person;
use crate::history::Actor;
use crate::objects::{Amount, Budget, BudgetStatus, Limit, Node};
use evenkeel_engine::facts::{CLAIM_ANNOTATION, HOLD_ANNOTATION, Owner};
use evenkeel_engine::ids::{NodeName, ObjectKey, Uid};
use evenkeel_engine::selector::{Requirement, Selector};
use std::sync::Arc;

impl World {
    pub(super) fn person_acts(&mut self, index: usize) {
        let Some((_, person)) = self.plan.people.get(index).cloned() else {
            return;
        };
        if self.person(&person) {
            let word = format!("{person:?}");
            let word = word.split([' ', '(', '{']).next().unwrap_or_default().to_owned();
            *self.coverage.people.entry(word).or_default() += 1;
        }
    }

    /// Does it; false if there was nothing to do it to.
    pub fn person(&mut self, person: &Person) -> bool {
        let change = |unschedulable| NodeChange {
            unschedulable: Some(unschedulable),
            ..NodeChange::default()
        };
        let note = |key: &str, value: Option<&str>| NodeChange {
            annotations: [(key.to_owned(), value.map(str::to_owned))].into(),
            ..NodeChange::default()
        };
        match person {
            Person::CordonAny => self
                .on_some_node(|node| !node.unschedulable && node.mark().is_none(), &change(true)),
            Person::UncordonAny => self
                .on_some_node(|node| node.unschedulable && node.mark().is_none(), &change(false)),
            Person::UncordonClaimed => self
                .on_some_node(|node| node.unschedulable && node.mark().is_some(), &change(false)),
            Person::HoldAny => self.on_some_node(
                |node| !node.annotations.contains_key(HOLD_ANNOTATION),
                &note(HOLD_ANNOTATION, Some("hands off")),
            ),
            Person::Unhold => self.on_some_node(
                |node| node.annotations.contains_key(HOLD_ANNOTATION),
                &note(HOLD_ANNOTATION, None),
            ),
            Person::RemoveMark => {
                self.on_some_node(|node| node.mark().is_some(), &note(CLAIM_ANNOTATION, None))
            }
            Person::Relabel => {
                let change = NodeChange {
                    labels: [("team".to_owned(), Some(format!("t{}", self.now)))].into(),
                    ..NodeChange::default()
                };
                self.on_some_node(|_| true, &change)
            }
            Person::DeleteAny => self.delete_some_node(|_| true),
            Person::DeleteClaimed => self.delete_some_node(|node| node.mark().is_some()),
            Person::DeletePod => self.delete_some_pod(),
            Person::NeverBudget { lift_after_ms } => self.forbid_some_app(*lift_after_ms),
        }
    }

    fn some_node(&mut self, fits: impl Fn(&Node) -> bool) -> Option<NodeName> {
        let names: Vec<_> =
            self.nodes.values().filter(|node| fits(node)).map(|node| node.name.clone()).collect();
        self.fault_rng.pick(&names).cloned()
    }

    fn on_some_node(&mut self, fits: impl Fn(&Node) -> bool, change: &NodeChange) -> bool {
        let Some(name) = self.some_node(fits) else {
            return false;
        };
        self.patch_node(Actor::Person, &name, &Precondition::default(), change).is_ok()
    }

    fn delete_some_node(&mut self, fits: impl Fn(&Node) -> bool) -> bool {
        let Some(name) = self.some_node(fits) else {
            return false;
        };
        self.delete_node(Actor::Person, &name).is_ok()
    }

    fn delete_some_pod(&mut self) -> bool {
        let replaced = |owner: &Owner| matches!(owner, Owner::Controller(_));
        let keys: Vec<_> = self
            .pods
            .values()
            .filter(|pod| replaced(&pod.owner))
            .map(|pod| pod.key.clone())
            .collect();
        let Some(key) = self.fault_rng.pick(&keys).cloned() else {
            return false;
        };
        self.delete_pod(Actor::Person, &key, &DeleteOptions::default()).is_ok()
    }

    /// A budget appears that allows nothing, over an app that had none (two budgets would be another fault).
    fn forbid_some_app(&mut self, lift_after_ms: Option<u64>) -> bool {
        let free: Vec<_> = self
            .pods
            .values()
            .filter(|pod| matches!(pod.owner, Owner::Controller(_)))
            .filter(|pod| !self.budgets.values().any(|budget| budget.covers(pod)))
            .filter_map(|pod| {
                pod.labels.get("app").map(|app| (pod.key.namespace.clone(), app.clone()))
            })
            .collect();
        let Some((namespace, app)) = self.fault_rng.pick(&free).cloned() else {
            return false;
        };
        let key = ObjectKey::new(namespace, format!("never-{app}"));
        let selector = Selector::All(vec![Requirement::In("app".to_owned(), vec![app])]);
        let budget = new_budget(key.clone(), selector, Limit::MaxUnavailable(Amount::Pods(0)));
        let made = self.create_budget(budget).is_ok();
        if let (true, Some(after)) = (made, lift_after_ms) {
            self.later(after, Task::LiftBudget(key));
        }
        made
    }

    /// A finalizer is put on a pod; it will stay Terminating once it goes.
    pub fn stick_pod(&mut self, key: &ObjectKey) -> bool {
        self.change_pod(key, |pod| pod.finalizer = true).is_ok()
    }

    /// The finalizer is taken off; a pod that has ended goes.
    pub fn unstick_pod(&mut self, key: &ObjectKey) -> bool {
        let done = self.change_pod(key, |pod| pod.finalizer = false);
        done.is_ok_and(|pod: Arc<_>| {
            if pod.deleting_since.is_some() {
                self.later(10, Task::PodEnd(key.clone(), pod.uid.clone()));
            }
            true
        })
    }
}

/// A budget as it is posted, before the server has filled anything in.
pub(crate) fn new_budget(key: ObjectKey, selector: Selector, limit: Limit) -> Budget {
    Budget {
        key,
        uid: Uid::new(""),
        rv: 0,
        created_ms: 0,
        generation: 1,
        selector,
        limit,
        always_allow_unready: false,
        status: BudgetStatus::default(),
    }
}
