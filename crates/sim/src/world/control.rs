//! What Kubernetes' own controllers do: disruption, replicas, scheduling, and nodes that fell silent.

use super::{Task, World};
use crate::history::{Actor, Happened};
use crate::objects::{Kind, Limit, Node, Pod, Workload, ZONE_LABEL};
use evenkeel_engine::facts::{Owner, PodPhase, Readiness};
use evenkeel_engine::ids::{NodeName, ObjectKey, Uid};
use evenkeel_engine::place::{Needs, Resources};
use std::collections::BTreeSet;
use std::sync::Arc;

impl World {
    /// The disruption controller's turn for one budget (`pkg/controller/disruption`).
    pub(super) fn sync_budget(&mut self, key: &ObjectKey) {
        let Some(budget) = self.budgets.get(key).cloned() else {
            return;
        };
        let pods: Vec<_> = self.pods.values().filter(|pod| budget.covers(pod)).cloned().collect();
        let timeout = self.tunables.disruption_timeout_ms;
        let mut status = budget.status.clone();
        // By name: the replacement of the same name keeps the entry of a pod that is gone.
        status.disrupted.retain(|name, at| {
            let pod = pods.iter().find(|pod| *pod.key.name == **name);
            pod.is_some_and(|pod| pod.deleting_since.is_none()) && *at + timeout > self.now
        });
        let healthy = pods
            .iter()
            .filter(|pod| pod.healthy() && !status.disrupted.contains_key(&*pod.key.name))
            .count() as i32;
        let workloads: BTreeSet<_> = pods.iter().filter_map(|pod| pod.workload.clone()).collect();
        let scale: u32 =
            workloads.iter().filter_map(|key| self.workloads.get(key)).map(|w| w.replicas).sum();
        let (expected, desired) = match budget.limit {
            Limit::MinAvailable(crate::objects::Amount::Pods(n)) => (pods.len() as u32, n),
            Limit::MinAvailable(share) => (scale, share.of(scale)),
            Limit::MaxUnavailable(amount) => (scale, scale.saturating_sub(amount.of(scale))),
        };
        let room = healthy - desired as i32;
        status.allowed = if expected == 0 { 0 } else { room.max(0) };
        status.current = healthy;
        status.desired = desired as i32;
        status.expected = expected as i32;
        status.observed_generation = budget.generation;
        let recheck = status.disrupted.values().min().map(|at| at + timeout + 1000 - self.now);
        if status != budget.status {
            let mut after = budget.as_ref().clone();
            after.status = status;
            self.put_budget(after);
        }
        if let Some(delay) = recheck {
            self.later(delay, Task::BudgetRecheck(key.clone()));
        }
    }

    /// Makes the pods that a workload lacks.
    pub(super) fn reconcile_workload(&mut self, key: &ObjectKey) {
        let Some(workload) = self.workloads.get(key).cloned() else {
            return;
        };
        let live: Vec<_> = self
            .pods
            .values()
            .filter(|pod| pod.workload.as_ref() == Some(key) && pod.deleting_since.is_none())
            .cloned()
            .collect();
        match workload.kind {
            Kind::Deployment => {
                for _ in live.len() as u32..workload.replicas {
                    let name = format!("{}-{}", workload.key.name, self.rng.suffix(5));
                    self.create_pod(&workload, &name, None);
                }
            }
            Kind::StatefulSet => {
                for index in 0..workload.replicas {
                    let name = format!("{}-{index}", workload.key.name);
                    self.create_pod(&workload, &name, None);
                }
            }
            Kind::DaemonSet | Kind::Static => self.reconcile_per_node(&workload, &live),
            // Made once by the scenario; nobody replaces them.
            Kind::Bare | Kind::Finished => {}
        }
    }

    fn reconcile_per_node(&mut self, workload: &Workload, live: &[std::sync::Arc<Pod>]) {
        for node in self.nodes.keys().cloned().collect::<Vec<_>>() {
            if live.iter().any(|pod| pod.node.as_ref() == Some(&node)) {
                continue;
            }
            let name = match workload.kind {
                Kind::Static => format!("{}-{node}", workload.key.name),
                _ => format!("{}-{}", workload.key.name, self.rng.suffix(5)),
            };
            self.create_pod(workload, &name, Some(node));
        }
    }

    /// Creates a pod unless one of its name exists. A pod with a node is bound at once.
    pub(crate) fn create_pod(&mut self, workload: &Workload, name: &str, node: Option<NodeName>) {
        let key = ObjectKey::new(&workload.key.namespace, name);
        if self.pods.contains_key(&key) {
            return;
        }
        let uid = Uid::new(self.rng.uuid());
        let finished = workload.kind == Kind::Finished;
        let pod = Pod {
            key: key.clone(),
            uid: uid.clone(),
            rv: 0,
            created_ms: self.now,
            node: None,
            labels: workload.labels.clone(),
            owner: workload.owner(),
            workload: (workload.kind != Kind::Bare).then(|| workload.key.clone()),
            phase: if finished { PodPhase::Finished } else { PodPhase::Pending },
            ready: false,
            deleting_since: None,
            grace_s: workload.grace_s,
            stop_ms: workload.stop_ms,
            start_ms: if workload.broken { u64::MAX } else { workload.start_ms },
            local_data: workload.local_data,
            protected: workload.protected,
            needs: workload.needs.clone(),
            claims: workload.claim(name).into_iter().collect(),
            finalizer: self.faults_on && self.fault_rng.chance(self.plan.stuck_pod_per_mille),
            evicted: false,
        };
        if pod.finalizer {
            self.coverage.stuck_pods += 1;
        }
        self.put_pod(pod);
        if let Some(node) = node {
            self.bind(&key, &uid, &node);
        }
    }

    /// Chooses a node for each waiting pod. The binding lands a moment later, also on a node that was cordoned in
    /// between: the real scheduler works from a cache, too.
    pub(super) fn schedule(&mut self) {
        let waiting: Vec<_> = self
            .pods
            .values()
            .filter(|pod| pod.node.is_none() && pod.deleting_since.is_none())
            .filter(|pod| !self.binding(&pod.uid))
            .cloned()
            .collect();
        for pod in waiting {
            let promised = |node: &NodeName| {
                self.queued.iter().filter(|t| matches!(t, Task::Bind(_, _, n) if n == node)).count()
            };
            let best = self
                .nodes
                .values()
                .filter(|node| node.takes_pods() && self.suits(&pod, node))
                .filter_map(|node| {
                    let here: Vec<_> = self.pods_on(&node.name).collect();
                    let load = here.len() + promised(&node.name);
                    let same = here.iter().filter(|p| p.workload == pod.workload).count();
                    let avoided =
                        node.taints.iter().any(|taint| taint.effect == "PreferNoSchedule");
                    (load < node.capacity as usize)
                        .then(|| (avoided, same, load, node.name.clone()))
                })
                .min();
            if let Some((_, _, _, node)) = best {
                self.later_between(5, 100, Task::Bind(pod.key.clone(), pod.uid.clone(), node));
            }
        }
    }

    /// Whether the pod may run there and fits, beside the number of pods.
    fn suits(&self, pod: &Pod, node: &Node) -> bool {
        let at_home = pod.claims.iter().all(|claim| {
            let key = ObjectKey { namespace: pod.key.namespace.clone(), name: claim.clone() };
            self.volumes.get(&key).is_none_or(|home| *home == node.name)
        });
        if *pod.needs == Needs::nothing() {
            return at_home;
        }
        let mut taken = Resources::default();
        for other in self.pods_on(&node.name).filter(|p| p.phase != PodPhase::Finished) {
            taken += other.needs.requests;
        }
        at_home
            && pod.needs.accepts(&node.seen())
            && pod.needs.requests.fits(&node.allocatable().minus(&taken))
    }

    fn binding(&self, uid: &Uid) -> bool {
        self.queued.iter().any(|task| matches!(task, Task::Bind(_, bound, _) if bound == uid))
    }

    pub(super) fn bind(&mut self, key: &ObjectKey, uid: &Uid, node: &NodeName) {
        let Some(pod) = self.pods.get(key).filter(|pod| pod.uid == *uid && pod.node.is_none())
        else {
            return;
        };
        if !self.nodes.contains_key(node) {
            self.later_between(5, 50, Task::Schedule);
            return;
        }
        let zone = self.nodes.get(node).and_then(|n| n.labels.get(ZONE_LABEL).cloned());
        if self.nodes.get(node).is_some_and(|n| n.unschedulable) && pod.owner != Owner::DaemonSet {
            self.coverage.bound_after_cordon += 1;
        }
        let mut pod = pod.as_ref().clone();
        pod.node = Some(node.clone());
        for claim in &pod.claims {
            let key = ObjectKey { namespace: pod.key.namespace.clone(), name: claim.clone() };
            self.volumes.entry(key).or_insert_with(|| node.clone());
        }
        if let Some(zone) = zone {
            // Admission copies the topology to bound pods (PodTopologyLabels, Kubernetes 1.35).
            Arc::make_mut(&mut pod.labels).insert(ZONE_LABEL.to_owned(), zone);
        }
        let pod = self.put_pod(pod);
        if pod.phase == PodPhase::Pending {
            self.later(pod.start_ms.min(600_000) / 3, Task::PodRunning(key.clone(), uid.clone()));
        }
    }

    /// The node lifecycle controller looks at a node's Lease.
    pub(super) fn monitor(&mut self, name: &NodeName) {
        let (Some(node), Some(lease)) = (self.nodes.get(name), self.leases.get(name)) else {
            return;
        };
        let due = lease.observed_ms + self.tunables.monitor_grace_ms;
        if due > self.now {
            self.later(due - self.now, Task::Monitor(name.clone()));
            return;
        }
        if node.ready == Readiness::Unknown {
            return;
        }
        let mut node = node.as_ref().clone();
        node.ready = Readiness::Unknown;
        node.ready_since_ms = self.now;
        self.put_node(node, Actor::System);
        for pod in self.pods_on(name).filter(|pod| pod.ready).cloned().collect::<Vec<_>>() {
            let mut pod = pod.as_ref().clone();
            pod.ready = false;
            self.put_pod(pod);
        }
        self.later(self.tunables.pod_eviction_ms, Task::TaintEvict(name.clone(), self.now));
    }

    /// Pods do not tolerate an unreachable node for ever.
    pub(super) fn taint_evict(&mut self, name: &NodeName, since: u64) {
        let still = |node: &crate::objects::Node| {
            node.ready == Readiness::Unknown && node.ready_since_ms == since
        };
        if !self.nodes.get(name).is_some_and(|node| still(node)) {
            return;
        }
        let pods: Vec<_> = self
            .pods_on(name)
            .filter(|pod| {
                !matches!(pod.owner, Owner::DaemonSet | Owner::Static)
                    && pod.deleting_since.is_none()
            })
            .cloned()
            .collect();
        for pod in pods {
            self.happened(Happened::PodDeleted { uid: pod.uid.clone(), by: Actor::System });
            self.begin_delete(&pod.key, None);
        }
    }

    /// Pods of a node that is no more.
    pub(super) fn collect_pods(&mut self, name: &NodeName) {
        if self.nodes.contains_key(name) {
            return;
        }
        let keys: Vec<_> = self.pods_on(name).map(|pod| pod.key.clone()).collect();
        for key in keys {
            self.remove_pod(&key);
        }
    }
}
