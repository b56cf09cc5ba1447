//! The cluster as last seen, indexed by the questions that decisions ask.
//!
//! Which node is out, by pool; which pods are on a node; which budgets cover a pod; which nodes carry a mark. Every
//! update touches only what changed, and notes it for those who follow.

mod cover;
mod room;

use crate::changes::Changes;
use crate::facts::{BudgetSeen, NodeSeen, Owner, PodPhase, PodSeen};
use crate::ids::{NodeName, ObjectKey, PoolId, Uid};
use crate::place::Resources;
use crate::time::Time;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A node with what we remember about it.
#[derive(Clone, Debug)]
pub struct NodeEntry {
    /// As last seen.
    pub seen: NodeSeen,
    /// Since when it has not been Ready, as far as we watched.
    pub not_ready_since: Option<Time>,
}

/// What pods ask of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Asked {
    all: Resources,
    /// Of these, what goes elsewhere when the node is drained.
    moving: Resources,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Index {
    nodes: BTreeMap<NodeName, NodeEntry>,
    // Shared, so that a copy of the index costs little; twice, so that a node's pods are read without a search.
    pods: BTreeMap<Uid, Arc<PodSeen>>,
    pods_by_node: BTreeMap<NodeName, Arc<BTreeMap<Uid, Arc<PodSeen>>>>,
    asked: BTreeMap<NodeName, Asked>,
    room: room::Room,
    ending_since: BTreeMap<Uid, Time>,
    budgets: BTreeMap<ObjectKey, BudgetSeen>,
    cover: cover::Cover,
    changes: Changes,
    own_pod: Option<Uid>,
    pool_of: BTreeMap<NodeName, PoolId>,
    out: BTreeMap<PoolId, BTreeSet<NodeName>>,
    marked: BTreeSet<NodeName>,
    steered: BTreeSet<NodeName>,
    live: bool,
}

impl Index {
    /// Whether the view is live; while it is not, nothing new is started.
    pub fn live(&self) -> bool {
        self.live
    }

    /// The view was completed or lost.
    pub fn set_live(&mut self, live: bool) {
        self.live = live;
    }

    /// A node.
    pub fn node(&self, name: &NodeName) -> Option<&NodeEntry> {
        self.nodes.get(name)
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeEntry> {
        self.nodes.values()
    }

    /// A pod.
    pub fn pod(&self, uid: &Uid) -> Option<&PodSeen> {
        self.pods.get(uid).map(|pod| &**pod)
    }

    /// The pods bound to a node.
    pub fn pods_on(&self, node: &NodeName) -> impl Iterator<Item = &PodSeen> {
        let on = self.pods_by_node.get(node).into_iter().flat_map(|pods| pods.values());
        on.map(|pod| &**pod)
    }

    /// What the pods of a node ask for together; pods that have ended ask for nothing.
    pub fn requested(&self, node: &NodeName) -> Resources {
        self.asked.get(node).map_or_else(Resources::default, |asked| asked.all)
    }

    /// What its pods will ask of other nodes once it is drained.
    pub fn moving(&self, node: &NodeName) -> Resources {
        self.asked.get(node).map_or_else(Resources::default, |asked| asked.moving)
    }

    /// What workers in service have free together; `None` if none of them says what it offers. O(1).
    pub fn free(&self) -> Option<Resources> {
        self.room.total()
    }

    /// The part of one node in [`free`](Self::free).
    pub fn free_on(&self, node: &NodeName) -> Option<Resources> {
        self.room.on(node)
    }

    /// Since when a pod has been ending, as far as we watched.
    pub fn ending_since(&self, uid: &Uid) -> Option<Time> {
        self.ending_since.get(uid).copied()
    }

    /// The budgets that cover a pod, in the order of their keys.
    pub fn budgets_of<'a>(&'a self, pod: &'a PodSeen) -> impl Iterator<Item = &'a BudgetSeen> {
        self.cover
            .candidates(&pod.key.namespace, &pod.labels)
            .into_iter()
            .filter_map(|key| self.budgets.get(key))
            .filter(move |budget| budget.selector.matches(&pod.labels))
    }

    /// A budget.
    pub fn budget(&self, key: &ObjectKey) -> Option<&BudgetSeen> {
        self.budgets.get(key)
    }

    /// The pool of a node.
    pub fn pool_of(&self, node: &NodeName) -> Option<&PoolId> {
        self.pool_of.get(node)
    }

    /// Members of a pool that take no pods now, for any reason.
    pub fn out(&self, pool: &PoolId) -> impl Iterator<Item = &NodeName> {
        self.out.get(pool).into_iter().flatten()
    }

    /// How many members of a pool take no pods now.
    pub fn out_count(&self, pool: &PoolId) -> usize {
        self.out.get(pool).map_or(0, BTreeSet::len)
    }

    /// Whether a member is counted in [`out`](Self::out).
    pub fn is_out(&self, pool: &PoolId, node: &NodeName) -> bool {
        self.out.get(pool).is_some_and(|set| set.contains(node))
    }

    /// Nodes that carry a mark.
    pub fn marked(&self) -> impl Iterator<Item = &NodeEntry> {
        self.marked.iter().filter_map(|name| self.nodes.get(name))
    }

    /// Nodes that carry the taint of a node that is still to do.
    pub fn steered(&self) -> impl Iterator<Item = &NodeEntry> {
        self.steered.iter().filter_map(|name| self.nodes.get(name))
    }

    /// Says which pod the controller itself runs in.
    pub fn set_own_pod(&mut self, uid: Option<Uid>) {
        self.own_pod = uid;
    }

    /// Whether the controller itself runs on this node.
    pub fn is_own(&self, node: &NodeName) -> bool {
        let own = self.own_pod.as_ref().and_then(|uid| self.pods.get(uid));
        own.is_some_and(|pod| pod.node.as_ref() == Some(node))
    }

    /// What has changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// Puts a node into a pool, or takes it out of all.
    pub fn set_pool(&mut self, node: &NodeName, pool: Option<PoolId>) {
        if let Some(old) = self.pool_of.remove(node)
            && let Some(set) = self.out.get_mut(&old)
        {
            set.remove(node);
        }
        if let Some(pool) = pool {
            self.pool_of.insert(node.clone(), pool);
        }
        self.changes.nodes.insert(node.clone());
        self.count(node);
    }

    /// A node was added or changed.
    pub fn see_node(&mut self, seen: NodeSeen, now: Time) {
        let name = seen.name.clone();
        let earlier = self.nodes.get(&name).and_then(|e| e.not_ready_since);
        let not_ready_since =
            if seen.ready == crate::facts::Readiness::Ready { None } else { earlier.or(Some(now)) };
        if seen.mark.is_some() {
            self.marked.insert(name.clone());
        } else {
            self.marked.remove(&name);
        }
        if seen.steered() {
            self.steered.insert(name.clone());
        } else {
            self.steered.remove(&name);
        }
        let entry = NodeEntry { seen, not_ready_since };
        if self.nodes.get(&name).is_none_or(|old| !same(old, &entry)) {
            self.changes.nodes.insert(name.clone());
        }
        self.nodes.insert(name.clone(), entry);
        self.count(&name);
        self.weigh(&name);
    }

    /// A node is gone.
    pub fn lose_node(&mut self, name: &NodeName) {
        self.nodes.remove(name);
        self.marked.remove(name);
        self.steered.remove(name);
        self.changes.nodes.insert(name.clone());
        self.count(name);
        self.weigh(name);
    }

    /// A pod was added or changed.
    pub fn see_pod(&mut self, pod: PodSeen, now: Time) {
        let uid = pod.uid.clone();
        if let Some(old) = self.pods.get(&uid)
            && (old.node != pod.node || asks(old) != asks(&pod))
        {
            self.unbind(&uid);
        }
        self.changes.nodes.extend(pod.node.clone());
        let pod = Arc::new(pod);
        if let Some(node) = &pod.node {
            let on = Arc::make_mut(self.pods_by_node.entry(node.clone()).or_default());
            if on.insert(uid.clone(), pod.clone()).is_none() {
                let (asked, more) = (self.asked.entry(node.clone()).or_default(), asks(&pod));
                asked.all += more.all;
                asked.moving += more.moving;
                self.weigh(node);
            }
        }
        if pod.deleting {
            self.ending_since.entry(uid.clone()).or_insert(now);
        }
        self.pods.insert(uid, pod);
    }

    /// A pod is gone.
    pub fn lose_pod(&mut self, uid: &Uid) {
        self.unbind(uid);
        self.pods.remove(uid);
        self.ending_since.remove(uid);
    }

    /// A budget was added or changed.
    pub fn see_budget(&mut self, budget: BudgetSeen) {
        let key = budget.key.clone();
        match self.budgets.get(&key) {
            Some(old) if old.selector == budget.selector => {
                let more = budget.healthy - old.healthy;
                if more > 0 {
                    self.changes.rises.push((key.clone(), more as u32));
                }
                self.changes.budgets.insert(key.clone());
            }
            old => {
                if let Some(old) = old {
                    self.cover.remove(old);
                }
                self.cover.add(&budget);
                self.changes.everything = true;
            }
        }
        self.budgets.insert(key, budget);
    }

    /// A budget is gone.
    pub fn lose_budget(&mut self, key: &ObjectKey) {
        if let Some(old) = self.budgets.remove(key) {
            self.cover.remove(&old);
            self.changes.everything = true;
        }
    }

    /// The complete list of nodes: what is not in it is gone.
    pub fn relist_nodes(&mut self, all: Vec<NodeSeen>, now: Time) {
        let kept: BTreeSet<NodeName> = all.iter().map(|n| n.name.clone()).collect();
        let gone: Vec<NodeName> =
            self.nodes.keys().filter(|n| !kept.contains(*n)).cloned().collect();
        for name in &gone {
            self.lose_node(name);
        }
        for node in all {
            self.see_node(node, now);
        }
    }

    /// The complete list of pods; returns the UIDs that are gone.
    pub fn relist_pods(&mut self, all: Vec<PodSeen>, now: Time) -> Vec<Uid> {
        let kept: BTreeSet<Uid> = all.iter().map(|p| p.uid.clone()).collect();
        let gone: Vec<Uid> = self.pods.keys().filter(|u| !kept.contains(*u)).cloned().collect();
        for uid in &gone {
            self.lose_pod(uid);
        }
        for pod in all {
            self.see_pod(pod, now);
        }
        gone
    }

    /// The complete list of budgets.
    pub fn relist_budgets(&mut self, all: Vec<BudgetSeen>) {
        let kept: BTreeSet<ObjectKey> = all.iter().map(|b| b.key.clone()).collect();
        let gone: Vec<ObjectKey> =
            self.budgets.keys().filter(|key| !kept.contains(*key)).cloned().collect();
        for key in &gone {
            self.lose_budget(key);
        }
        for budget in all {
            self.see_budget(budget);
        }
    }

    fn unbind(&mut self, uid: &Uid) {
        let Some((node, asked)) =
            self.pods.get(uid).and_then(|p| p.node.clone().map(|node| (node, asks(p))))
        else {
            return;
        };
        self.changes.nodes.insert(node.clone());
        if let Some(set) = self.pods_by_node.get_mut(&node)
            && Arc::make_mut(set).remove(uid).is_some()
        {
            if let Some(sum) = self.asked.get_mut(&node) {
                sum.all -= asked.all;
                sum.moving -= asked.moving;
            }
            if set.is_empty() {
                self.pods_by_node.remove(&node);
                self.asked.remove(&node);
            }
            self.weigh(&node);
        }
    }

    /// A node that says of no pod that it may run there says nothing of what it offers.
    fn weigh(&mut self, name: &NodeName) {
        let offers =
            self.nodes.get(name).map(|entry| &entry.seen).filter(|seen| {
                seen.available() && !seen.control_plane && seen.allocatable.pods > 0
            });
        let free = offers.map(|seen| seen.allocatable.minus(&self.requested(name)));
        self.room.set(name, free);
    }

    fn count(&mut self, name: &NodeName) {
        let Some(pool) = self.pool_of.get(name) else {
            return;
        };
        let out = self.nodes.get(name).is_some_and(|e| !e.seen.available());
        let set = self.out.entry(pool.clone()).or_default();
        if out {
            set.insert(name.clone());
        } else {
            set.remove(name);
        }
    }
}

/// What a pod takes of its node.
fn asks(pod: &PodSeen) -> Asked {
    let all = match pod.phase {
        PodPhase::Finished => Resources::default(),
        PodPhase::Pending | PodPhase::Running | PodPhase::Unknown => pod.needs.requests,
    };
    let stays = matches!(pod.owner, Owner::DaemonSet | Owner::Static);
    Asked { all, moving: if stays { Resources::default() } else { all } }
}

/// Whether two states of a node are the same but for the version: kubelets write their status all the time.
fn same(a: &NodeEntry, b: &NodeEntry) -> bool {
    let version = a.seen.resource_version.clone();
    a.not_ready_since == b.not_ready_since
        && a.seen == NodeSeen { resource_version: version, ..b.seen.clone() }
}
