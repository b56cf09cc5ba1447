//! Kubelets: Leases, the Ready condition, and the start and end of pods. A kubelet lives as long as its host
//! process; `life` tells an old kubelet's errands from a new one's.

use super::{Task, World};
use crate::history::Actor;
use crate::objects::{Lease, Node, Taint};
use evenkeel_engine::facts::{PodPhase, Readiness};
use evenkeel_engine::ids::{NodeName, ObjectKey, Uid};
use std::sync::Arc;

impl World {
    /// The kubelet's process starts: it registers soon.
    pub(super) fn kubelet_start(&mut self, name: &NodeName) {
        let Some(host) = self.hosts.get_mut(name) else {
            return;
        };
        host.kubelet_up = true;
        host.kubelet_life += 1;
        let life = host.kubelet_life;
        self.later_between(300, 1500, Task::Register(name.clone(), life));
    }

    /// The kubelet's process is gone. Nobody is told.
    pub(super) fn kubelet_stop(&mut self, name: &NodeName) {
        if let Some(host) = self.hosts.get_mut(name) {
            host.kubelet_up = false;
            host.kubelet_life += 1;
        }
    }

    fn kubelet_lives(&self, name: &NodeName, life: u64) -> bool {
        self.hosts.get(name).is_some_and(|host| host.kubelet_up && host.kubelet_life == life)
    }

    fn kubelet_up(&self, name: Option<&NodeName>) -> bool {
        name.and_then(|name| self.hosts.get(name)).is_some_and(|host| host.kubelet_up)
    }

    /// A started kubelet finds or creates its Node, and takes up what is bound to it.
    pub(super) fn register(&mut self, name: &NodeName, life: u64) {
        if !self.kubelet_lives(name, life) {
            return;
        }
        if let Some(node) = self.nodes.get(name) {
            let mut node = node.as_ref().clone();
            if let Some(host) = self.hosts.get(name) {
                node.boot_id = host.boot_id.clone();
            }
            // A fresh kubelet first says that its runtime is not ready, or is quick enough not to.
            if node.ready == Readiness::Ready && self.rng.chance(500) {
                node.ready = Readiness::NotReady;
                node.ready_since_ms = self.now;
            }
            self.put_node(node, Actor::System);
        } else if let Some(node) = self.fresh_node(name) {
            self.put_node(node, Actor::System);
        }
        if let Some(host) = self.hosts.get_mut(name) {
            host.joins = false;
        }
        if !self.initializers.is_empty() {
            if self.faults_on && self.fault_rng.chance(self.plan.uninitialized_per_mille) {
                self.coverage.uninitialized += 1;
            } else {
                self.later_between(200, 15_000, Task::Initialize(name.clone(), life));
            }
        }
        self.renew(name, life);
        self.later_between(300, 3000, Task::NodeReady(name.clone(), life));
        for pod in self.pods_on(name).cloned().collect::<Vec<_>>() {
            if pod.deleting_since.is_some() {
                self.later_between(50, 300, Task::PodEnd(pod.key.clone(), pod.uid.clone()));
            } else if pod.phase != PodPhase::Finished {
                let mut pod = pod.as_ref().clone();
                pod.ready = false;
                let pod = self.put_pod(pod);
                self.later(
                    pod.start_ms.min(600_000) / 3,
                    Task::PodRunning(pod.key.clone(), pod.uid.clone()),
                );
            }
        }
    }

    /// The Node as a joining kubelet creates it: schedulable, without anybody's marks.
    fn fresh_node(&mut self, name: &NodeName) -> Option<Node> {
        let host = self.hosts.get(name)?;
        let uid = Uid::new(self.rng.uuid());
        Some(Node {
            name: name.clone(),
            uid,
            rv: 0,
            created_ms: self.now,
            unschedulable: false,
            labels: Arc::new(host.labels.clone()),
            annotations: std::collections::BTreeMap::new(),
            taints: if host.joins { vec![Taint::startup()] } else { Vec::new() },
            ready: Readiness::NotReady,
            ready_since_ms: self.now,
            met: std::collections::BTreeSet::new(),
            machine_id: host.machine_id.clone(),
            system_uuid: host.product_uuid.clone(),
            boot_id: host.boot_id.clone(),
            provider_id: host.provider_id.clone(),
            internal_ip: host.internal_ip.clone(),
            kubelet_version: "v1.36.3".into(),
            capacity: host.capacity,
        })
    }

    /// Renews the Lease and asks to be called again.
    pub(super) fn renew(&mut self, name: &NodeName, life: u64) {
        if !self.kubelet_lives(name, life) || !self.nodes.contains_key(name) {
            return;
        }
        let Some(host) = self.hosts.get(name) else {
            return;
        };
        let renew_wall_ms = self.wall_ms() + host.skew_ms;
        let uid = match self.leases.get(name) {
            Some(lease) => lease.uid.clone(),
            None => Uid::new(self.rng.uuid()),
        };
        let rv = self.next_rv();
        let observed_ms = self.now;
        self.leases.insert(name.clone(), Lease { uid, rv, renew_wall_ms, observed_ms });
        self.later(self.tunables.lease_renew_ms, Task::Renew(name.clone(), life));
        self.later(self.tunables.monitor_grace_ms, Task::Monitor(name.clone()));
    }

    /// The kubelet says that it is ready.
    pub(super) fn node_ready(&mut self, name: &NodeName, life: u64) {
        if !self.kubelet_lives(name, life) {
            return;
        }
        let Some(node) = self.nodes.get(name).filter(|node| node.ready != Readiness::Ready) else {
            return;
        };
        let mut node = node.as_ref().clone();
        node.ready = Readiness::Ready;
        node.ready_since_ms = self.now;
        self.put_node(node, Actor::System);
    }

    /// Agents on the node have done their part and say so.
    pub(super) fn initialize(&mut self, name: &NodeName, life: u64) {
        if !self.kubelet_lives(name, life) {
            return;
        }
        let Some(node) = self.nodes.get(name) else {
            return;
        };
        let mut node = node.as_ref().clone();
        node.met.extend(self.initializers.iter().cloned());
        self.put_node(node, Actor::System);
    }

    /// Kubernetes was taken off the host: what agents said of the node no longer holds, and the recipe says so.
    pub(super) fn uninitialize(&mut self, name: &NodeName) {
        let Some(node) = self.nodes.get(name).filter(|node| !node.met.is_empty()) else {
            return;
        };
        let mut node = node.as_ref().clone();
        node.met.clear();
        self.put_node(node, Actor::System);
    }

    pub(super) fn pod_running(&mut self, key: &ObjectKey, uid: &Uid) {
        let Some(pod) = self.pods.get(key).filter(|pod| pod.uid == *uid) else {
            return;
        };
        if pod.deleting_since.is_some() || !self.kubelet_up(pod.node.as_ref()) {
            return;
        }
        let mut pod = pod.as_ref().clone();
        let start_ms = pod.start_ms;
        if pod.phase == PodPhase::Pending {
            pod.phase = PodPhase::Running;
            self.put_pod(pod);
        }
        if start_ms != u64::MAX {
            let jitter = self.rng.range(0, start_ms / 3);
            self.later(start_ms * 2 / 3 + jitter, Task::PodReady(key.clone(), uid.clone()));
        }
    }

    pub(super) fn pod_ready(&mut self, key: &ObjectKey, uid: &Uid) {
        let Some(pod) = self.pods.get(key).filter(|pod| pod.uid == *uid && !pod.ready) else {
            return;
        };
        if pod.deleting_since.is_some() || pod.phase != PodPhase::Running {
            return;
        }
        let Some(node) = pod.node.as_ref().and_then(|node| self.nodes.get(node)) else {
            return;
        };
        if !self.kubelet_up(Some(&node.name)) {
            return;
        }
        let mut pod = pod.as_ref().clone();
        pod.ready = true;
        self.put_pod(pod);
    }

    /// Asks a pod to end. `grace_s` of `None` means the pod's own; 0 removes the object at once.
    pub(super) fn begin_delete(&mut self, key: &ObjectKey, grace_s: Option<u32>) {
        let Some(pod) = self.pods.get(key) else {
            return;
        };
        let grace = grace_s.unwrap_or(pod.grace_s);
        let at_once = grace == 0 || pod.node.is_none() || pod.phase == PodPhase::Finished;
        if at_once && !pod.finalizer {
            self.remove_pod(key);
            return;
        }
        if pod.deleting_since.is_some() && grace >= pod.grace_s {
            return;
        }
        let mut pod = pod.as_ref().clone();
        pod.deleting_since.get_or_insert(self.now);
        pod.grace_s = grace;
        let pod = self.put_pod(pod);
        let stop = pod.stop_ms.min(u64::from(grace) * 1000);
        let jitter = self.rng.range(20, 200);
        self.later(stop + jitter, Task::PodEnd(key.clone(), pod.uid.clone()));
    }

    pub(super) fn pod_end(&mut self, key: &ObjectKey, uid: &Uid) {
        let Some(pod) = self.pods.get(key).filter(|pod| pod.uid == *uid) else {
            return;
        };
        if pod.deleting_since.is_none() || !self.kubelet_up(pod.node.as_ref()) {
            return;
        }
        if !pod.finalizer {
            self.remove_pod(key);
        } else if pod.ready {
            let mut pod = pod.as_ref().clone();
            pod.ready = false;
            self.put_pod(pod);
        }
    }
}
