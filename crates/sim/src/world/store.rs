//! The only places where objects change: each write takes the next resourceVersion, goes to the event log and
//! the history, and wakes whoever looks at such objects.

use super::{Change, Event, LOG_MAX, Op, Task, World};
use crate::history::{Actor, Happened};
use crate::objects::{Budget, Node, Pod, Taint};
use evenkeel_engine::facts::Readiness;
use evenkeel_engine::ids::{NodeName, ObjectKey};
use std::sync::Arc;

impl World {
    pub(super) fn emit(&mut self, op: Op, change: Change) {
        let lag = self.plan.lag_at(self.now);
        self.last_visible = self.last_visible.max(self.now + lag);
        if self.last_visible > self.now {
            self.coverage.stale_reads += 1;
        }
        let what = match &change {
            Change::Node(node) => {
                format!("{op:?} node {} {:?} {}", node.name, node.ready, node.unschedulable)
            }
            Change::Pod(pod, _) => {
                format!(
                    "{op:?} pod {} {} {:?} {:?} {}",
                    pod.key, pod.uid, pod.node, pod.phase, pod.ready
                )
            }
            Change::Budget(budget) => format!("{op:?} budget {} {:?}", budget.key, budget.status),
        };
        self.note_hash(&what);
        let event =
            Event { rv: self.rv, at_ms: self.now, visible_ms: self.last_visible, op, change };
        self.log.push_back(event);
        while self.log.len() > LOG_MAX {
            if let Some(old) = self.log.pop_front() {
                self.compacted_rv = old.rv;
            }
        }
    }

    /// Stores a node and records what changed by whom.
    pub(super) fn put_node(&mut self, mut node: Node, by: Actor) -> Arc<Node> {
        node.rv = self.next_rv();
        let name = node.name.clone();
        let node = Arc::new(node);
        let before = self.nodes.insert(name.clone(), node.clone());
        self.emit(
            if before.is_some() { Op::Modified } else { Op::Added },
            Change::Node(node.clone()),
        );
        let ready = node.ready == Readiness::Ready;
        match before {
            None => {
                let unschedulable = node.unschedulable;
                self.happened(Happened::NodeAdded { node: name.clone(), ready, unschedulable });
                for key in self.workloads.keys().cloned().collect::<Vec<_>>() {
                    self.later_between(20, 200, Task::Workload(key));
                }
            }
            Some(before) => self.note_node_changes(&before, &node, by),
        }
        if node.takes_pods() {
            self.later_between(5, 50, Task::Schedule);
        }
        node
    }

    fn note_node_changes(&mut self, before: &Node, after: &Node, by: Actor) {
        let node = after.name.clone();
        // The mark comes before the cordon in one write: the witness must not see our cordon without it.
        let marks = (before.mark(), after.mark());
        if let (old, Some(new)) = &marks
            && old.as_ref().is_none_or(|old| (&old.job, old.epoch) != (&new.job, new.epoch))
        {
            self.happened(Happened::MarkSet {
                node: node.clone(),
                job: new.job.clone(),
                epoch: new.epoch,
            });
        }
        if before.unschedulable != after.unschedulable {
            let node = node.clone();
            self.happened(if after.unschedulable {
                Happened::Cordoned { node, by }
            } else {
                Happened::Uncordoned { node, by }
            });
        }
        if let (Some(_), None) = &marks {
            self.happened(Happened::MarkCleared { node: node.clone() });
        }
        let known = |taint: &Taint| (taint.key.clone(), taint.effect.clone());
        let carries =
            |node: &Node, taint: &Taint| node.taints.iter().any(|t| known(t) == known(taint));
        let steered = carries(after, &Taint::steer());
        let ours = [Taint::steer(), Taint::startup()];
        let gone = before.taints.iter().filter(|t| !carries(after, t));
        let others = gone.filter(|t| ours.iter().all(|our| known(our) != known(t)));
        let lost: Vec<String> = others.map(|taint| taint.key.clone()).collect();
        if steered != carries(before, &Taint::steer()) || !lost.is_empty() {
            self.happened(Happened::Tainted { node: node.clone(), by, steered, lost });
        }
        for condition in after.met.difference(&before.met) {
            let (node, condition) = (node.clone(), condition.clone());
            self.happened(Happened::Initialized { node, condition });
        }
        let was = before.ready == Readiness::Ready;
        let ready = after.ready == Readiness::Ready;
        if was != ready {
            self.happened(Happened::ReadyChanged { node, ready });
        }
    }

    pub(super) fn remove_node(&mut self, name: &NodeName, by: Actor) -> Option<Arc<Node>> {
        let mut node = self.nodes.remove(name)?.as_ref().clone();
        node.rv = self.next_rv();
        let node = Arc::new(node);
        self.leases.remove(name);
        self.emit(Op::Deleted, Change::Node(node.clone()));
        self.happened(Happened::NodeGone { node: name.clone(), by });
        self.later_between(500, 3000, Task::PodGc(name.clone()));
        Some(node)
    }

    /// Stores a pod and wakes whoever looks at pods.
    pub(super) fn put_pod(&mut self, mut pod: Pod) -> Arc<Pod> {
        pod.rv = self.next_rv();
        let pod = Arc::new(pod);
        let before = self.pods.insert(pod.key.clone(), pod.clone());
        let op = if before.is_some() { Op::Modified } else { Op::Added };
        self.emit(op, Change::Pod(pod.clone(), before));
        self.wake_for(&pod);
        pod
    }

    pub(super) fn remove_pod(&mut self, key: &ObjectKey) -> Option<Arc<Pod>> {
        let before = self.pods.remove(key)?;
        let mut pod = before.as_ref().clone();
        pod.rv = self.next_rv();
        let pod = Arc::new(pod);
        self.emit(Op::Deleted, Change::Pod(pod.clone(), Some(before)));
        self.happened(Happened::PodGone { uid: pod.uid.clone(), node: pod.node.clone() });
        self.wake_for(&pod);
        self.later_between(5, 50, Task::Schedule);
        Some(pod)
    }

    fn wake_for(&mut self, pod: &Pod) {
        let covering: Vec<_> = self
            .budgets
            .values()
            .filter(|budget| budget.covers(pod))
            .map(|budget| budget.key.clone())
            .collect();
        for key in covering {
            // The disruption controller sees a change after 10 ms when idle, half a second under load.
            self.later_between(10, 400, Task::BudgetSync(key));
        }
        if let Some(workload) = &pod.workload {
            self.later_between(20, 200, Task::Workload(workload.clone()));
        }
        if pod.node.is_none() {
            self.later_between(5, 50, Task::Schedule);
        }
    }

    pub(super) fn put_budget(&mut self, mut budget: Budget) -> Arc<Budget> {
        budget.rv = self.next_rv();
        let budget = Arc::new(budget);
        let before = self.budgets.insert(budget.key.clone(), budget.clone());
        self.emit(
            if before.is_some() { Op::Modified } else { Op::Added },
            Change::Budget(budget.clone()),
        );
        budget
    }
}
