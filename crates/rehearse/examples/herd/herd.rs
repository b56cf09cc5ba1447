//! The objects and what happens to them. Times are those of a quick cluster; nothing here depends on chance.

use crate::json;
use bytes::Bytes;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Pods of one workload: with 30 pods on a node there are as many workloads as nodes, as in real clusters.
const REPLICAS: usize = 30;
/// Every so many workloads have a budget, of maxUnavailable 1.
const GUARDED: usize = 5;

/// The three kinds that are watched.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Node,
    Pod,
    Budget,
}

pub struct Node {
    pub rv: u64,
    pub unschedulable: bool,
    pub annotations: Map<String, Value>,
    pub taints: Value,
}

pub struct Pod {
    pub rv: u64,
    pub id: u64,
    pub node: usize,
    pub app: usize,
    pub ready: bool,
    pub deleting: bool,
}

pub struct Budget {
    pub rv: u64,
    pub out: BTreeSet<u64>,
}

/// What an eviction comes to.
pub enum Evicted {
    Yes(u64),
    Refused,
    Gone,
    Conflict,
}

pub struct Herd {
    pub rv: u64,
    pub nodes: Vec<Node>,
    pub pods: BTreeMap<u64, Pod>,
    pub on_node: Vec<BTreeSet<u64>>,
    pub budgets: BTreeMap<usize, Budget>,
    /// Everything since the start: a run is short, and no watch may find its version gone.
    log: Vec<(u64, Kind, Bytes)>,
    pub changed: Arc<tokio::sync::Notify>,
    next: u64,
}

impl Herd {
    pub fn new(nodes: usize, pods_per_node: usize) -> Self {
        let node =
            |_| Node { rv: 1, unschedulable: false, annotations: Map::new(), taints: Value::Null };
        let mut herd = Self {
            rv: 1,
            nodes: (0..nodes).map(node).collect(),
            pods: BTreeMap::new(),
            on_node: vec![BTreeSet::new(); nodes],
            budgets: BTreeMap::new(),
            log: Vec::new(),
            changed: Arc::default(),
            next: 0,
        };
        for index in 0..nodes * pods_per_node {
            // Each workload is spread over the nodes as a scheduler spreads it.
            let (app, replica) = (index / REPLICAS, index % REPLICAS);
            let place = (app * 7919 + replica * nodes.div_ceil(REPLICAS)) % nodes;
            herd.add(app, place, true);
            if app.is_multiple_of(GUARDED) {
                herd.budgets.entry(app).or_insert(Budget { rv: 1, out: BTreeSet::new() });
            }
        }
        herd
    }

    fn add(&mut self, app: usize, node: usize, ready: bool) -> u64 {
        let id = self.next;
        self.next += 1;
        self.pods.insert(id, Pod { rv: self.rv, id, node, app, ready, deleting: false });
        self.on_node[node].insert(id);
        id
    }

    fn tell(&mut self, kind: Kind, word: &str, object: &Value) {
        let mut line = serde_json::json!({"type": word, "object": object}).to_string();
        line.push('\n');
        self.log.push((self.rv, kind, line.into()));
        self.changed.notify_waiters();
    }

    /// The events of a kind after a version.
    pub fn since(&self, rv: u64, kind: Kind) -> Vec<Bytes> {
        let from = self.log.partition_point(|(at, _, _)| *at <= rv);
        let told = self.log[from..].iter().filter(|(_, of, _)| *of == kind);
        told.map(|(_, _, line)| line.clone()).collect()
    }

    fn tell_pod(&mut self, id: u64, word: &str) {
        self.rv += 1;
        let rv = self.rv;
        let Some(pod) = self.pods.get_mut(&id) else { return };
        pod.rv = rv;
        let object = json::pod(pod);
        self.tell(Kind::Pod, word, &object);
    }

    fn tell_budget(&mut self, app: usize) {
        self.rv += 1;
        let rv = self.rv;
        let Some(budget) = self.budgets.get_mut(&app) else { return };
        budget.rv = rv;
        let object = json::budget(app, budget, REPLICAS);
        self.tell(Kind::Budget, "MODIFIED", &object);
    }

    pub fn budget(&self, app: usize) -> Option<Value> {
        Some(json::budget(app, self.budgets.get(&app)?, REPLICAS))
    }

    /// A merge patch of a node: annotations, taints, unschedulable. `None`: its resourceVersion is another.
    pub fn patch_node(&mut self, index: usize, patch: &Value) -> Option<Value> {
        let node = &mut self.nodes[index];
        let wanted = patch.pointer("/metadata/resourceVersion").and_then(Value::as_str);
        if wanted.is_some_and(|wanted| wanted != node.rv.to_string()) {
            return None;
        }
        for (key, value) in
            patch.pointer("/metadata/annotations").and_then(Value::as_object).into_iter().flatten()
        {
            match value {
                Value::Null => node.annotations.remove(key),
                value => node.annotations.insert(key.clone(), value.clone()),
            };
        }
        if let Some(value) = patch.pointer("/spec/unschedulable") {
            node.unschedulable = value.as_bool().unwrap_or(false);
        }
        if let Some(taints) = patch.pointer("/spec/taints") {
            node.taints = taints.clone();
        }
        self.rv += 1;
        node.rv = self.rv;
        let object = json::node(index, node);
        self.tell(Kind::Node, "MODIFIED", &object);
        Some(object)
    }

    /// Charges the budget and begins to end the pod.
    pub fn evict(&mut self, id: u64, uid: Option<&str>, dry_run: bool) -> Evicted {
        let Some(pod) = self.pods.get_mut(&id) else { return Evicted::Gone };
        let app = pod.app;
        if uid.is_some_and(|uid| uid != json::pod_uid(id)) {
            return Evicted::Conflict;
        }
        if pod.deleting {
            return Evicted::Yes(id);
        }
        if self.budgets.get(&app).is_some_and(|budget| !budget.out.is_empty()) {
            return Evicted::Refused;
        }
        if dry_run {
            return Evicted::Yes(id);
        }
        pod.deleting = true;
        if let Some(budget) = self.budgets.get_mut(&app) {
            budget.out.insert(id);
            self.tell_budget(app);
        }
        self.tell_pod(id, "MODIFIED");
        Evicted::Yes(id)
    }

    /// The pod is gone, another one starts on the next node that takes pods. Returns the new one.
    pub fn replace(&mut self, id: u64) -> Option<u64> {
        self.tell_pod(id, "DELETED");
        let gone = self.pods.remove(&id)?;
        self.on_node[gone.node].remove(&id);
        let count = self.nodes.len();
        let place = (1..count)
            .map(|step| (gone.node + step * 7) % count)
            .find(|n| !self.nodes[*n].unschedulable)?;
        let new = self.add(gone.app, place, false);
        if let Some(budget) = self.budgets.get_mut(&gone.app) {
            budget.out.insert(new);
            budget.out.remove(&id);
        }
        self.tell_pod(new, "ADDED");
        Some(new)
    }

    /// The new pod is Ready.
    pub fn ready(&mut self, id: u64) {
        let Some(pod) = self.pods.get_mut(&id) else { return };
        pod.ready = true;
        let app = pod.app;
        self.tell_pod(id, "MODIFIED");
        if self.budgets.get_mut(&app).is_some_and(|budget| budget.out.remove(&id)) {
            self.tell_budget(app);
        }
    }
}
