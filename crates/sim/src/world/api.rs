//! The API server's calls, apart from evictions: reads, node patches, deletions and creations.

use super::{Change, Op, Task, World};
use crate::history::{Actor, Happened};
use crate::hosts::Host;
use crate::objects::{Budget, Lease, Map, Node, Pod, Taint, Workload};
use crate::status::Refusal;
use evenkeel_engine::facts::HOLD_ANNOTATION;
use evenkeel_engine::ids::{NodeName, ObjectKey, Uid};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What must still hold of an object for a write to happen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Precondition {
    /// Still the same object.
    pub uid: Option<Uid>,
    /// Still the same version.
    pub resource_version: Option<String>,
}

/// What to change on a node; everything else stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeChange {
    /// `spec.unschedulable`.
    pub unschedulable: Option<bool>,
    /// Annotations to set, or to remove with `None`.
    pub annotations: BTreeMap<String, Option<String>>,
    /// Labels to set, or to remove with `None`.
    pub labels: BTreeMap<String, Option<String>>,
    /// All taints.
    pub taints: Option<Vec<Taint>>,
}

/// Options of a deletion or an eviction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// `preconditions`.
    pub precondition: Precondition,
    /// `gracePeriodSeconds`; absent: the pod's own.
    pub grace_s: Option<u32>,
    /// `dryRun: [All]`.
    pub dry_run: bool,
}

fn change_map(map: &mut Map, changes: &BTreeMap<String, Option<String>>) {
    for (key, value) in changes {
        match value {
            Some(value) => map.insert(key.clone(), value.clone()),
            None => map.remove(key),
        };
    }
}

impl World {
    /// All nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// All pods, by namespace and name.
    pub fn pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.values()
    }

    /// All pods bound to a node.
    pub fn pods_on(&self, node: &NodeName) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.values().filter(move |pod| pod.node.as_ref() == Some(node))
    }

    /// All budgets, by namespace and name.
    pub fn budgets(&self) -> impl Iterator<Item = &Arc<Budget>> {
        self.budgets.values()
    }

    /// All hosts, by node name.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values()
    }

    /// All workloads.
    pub fn workloads(&self) -> impl Iterator<Item = &Workload> {
        self.workloads.values()
    }

    /// Every claim on a volume, with the node whose disk it is bound to.
    pub fn volumes(&self) -> impl Iterator<Item = (&ObjectKey, &NodeName)> {
        self.volumes.iter()
    }

    /// GET of a node.
    pub fn node(&self, name: &NodeName) -> Result<Arc<Node>, Refusal> {
        self.nodes.get(name).cloned().ok_or_else(|| Refusal::not_found("nodes", "", name.as_str()))
    }

    /// GET of a pod.
    pub fn pod(&self, key: &ObjectKey) -> Result<Arc<Pod>, Refusal> {
        self.pods.get(key).cloned().ok_or_else(|| Refusal::not_found("pods", "", &key.name))
    }

    /// GET of a budget.
    pub fn budget(&self, key: &ObjectKey) -> Result<Arc<Budget>, Refusal> {
        self.budgets
            .get(key)
            .cloned()
            .ok_or_else(|| Refusal::not_found("poddisruptionbudgets", "policy", &key.name))
    }

    /// GET of a node's Lease in kube-node-lease.
    pub fn lease(&self, node: &NodeName) -> Result<Lease, Refusal> {
        self.leases
            .get(node)
            .cloned()
            .ok_or_else(|| Refusal::not_found("leases", "coordination.k8s.io", node.as_str()))
    }

    /// PATCH of a node.
    pub fn patch_node(
        &mut self,
        by: Actor,
        name: &NodeName,
        precondition: &Precondition,
        change: &NodeChange,
    ) -> Result<Arc<Node>, Refusal> {
        let node = self.node(name)?;
        if let Some(rv) = &precondition.resource_version
            && *rv != node.rv.to_string()
        {
            return Err(Refusal::modified("nodes", "", name.as_str()));
        }
        if let Some(uid) = &precondition.uid
            && *uid != node.uid
        {
            let problem = format!("Invalid value: \"{uid}\": field is immutable");
            let mut refusal = Refusal::invalid("Node", "", name.as_str(), "metadata.uid", &problem);
            // Two validations of the real server find it.
            refusal.causes.extend(refusal.causes.clone());
            return Err(refusal);
        }
        let mut after = node.as_ref().clone();
        if let Some(value) = change.unschedulable {
            after.unschedulable = value;
        }
        change_map(&mut after.annotations, &change.annotations);
        change_map(Arc::make_mut(&mut after.labels), &change.labels);
        if let Some(taints) = &change.taints {
            after.taints = taints.clone();
        }
        if after == *node {
            // A write that changes nothing makes no new version.
            return Ok(node);
        }
        let held = !node.annotations.contains_key(HOLD_ANNOTATION)
            && after.annotations.contains_key(HOLD_ANNOTATION);
        let after = self.put_node(after, by);
        if held {
            self.happened(Happened::Held { node: name.clone() });
        }
        Ok(after)
    }

    /// DELETE of a node. The kubelet behind it does not register again before it is restarted.
    pub fn delete_node(&mut self, by: Actor, name: &NodeName) -> Result<Arc<Node>, Refusal> {
        self.remove_node(name, by).ok_or_else(|| Refusal::not_found("nodes", "", name.as_str()))
    }

    /// DELETE of a pod, without asking budgets.
    pub fn delete_pod(
        &mut self,
        by: Actor,
        key: &ObjectKey,
        options: &DeleteOptions,
    ) -> Result<Arc<Pod>, Refusal> {
        let pod = self.pod(key)?;
        check_delete("Pod", &pod, &options.precondition)?;
        if options.dry_run {
            return Ok(pod);
        }
        if pod.deleting_since.is_none() {
            self.happened(Happened::PodDeleted { uid: pod.uid.clone(), by });
        }
        self.begin_delete(key, options.grace_s);
        Ok(self.pods.get(key).cloned().unwrap_or(pod))
    }

    /// Creates a budget; its status is empty until the disruption controller has seen it.
    pub fn create_budget(&mut self, mut budget: Budget) -> Result<Arc<Budget>, Refusal> {
        if self.budgets.contains_key(&budget.key) {
            return Err(Refusal::already_exists(
                "poddisruptionbudgets",
                "policy",
                &budget.key.name,
            ));
        }
        budget.uid = Uid::new(self.rng.uuid());
        budget.generation = 1;
        budget.created_ms = self.now;
        let key = budget.key.clone();
        let budget = self.put_budget(budget);
        self.later_between(10, 400, Task::BudgetSync(key));
        Ok(budget)
    }

    /// Replaces the spec of a budget: one more generation, not yet observed.
    pub fn change_budget(
        &mut self,
        key: &ObjectKey,
        change: impl FnOnce(&mut Budget),
    ) -> Result<(), Refusal> {
        let mut budget = self.budget(key)?.as_ref().clone();
        change(&mut budget);
        budget.generation += 1;
        self.put_budget(budget);
        self.later_between(10, 400, Task::BudgetSync(key.clone()));
        Ok(())
    }

    /// Replaces the status of a budget, as a disruption controller of a test's own would.
    pub fn set_budget_status(
        &mut self,
        key: &ObjectKey,
        change: impl FnOnce(&mut crate::objects::BudgetStatus),
    ) -> Result<(), Refusal> {
        let mut budget = self.budget(key)?.as_ref().clone();
        change(&mut budget.status);
        self.put_budget(budget);
        Ok(())
    }

    /// DELETE of a budget.
    pub fn delete_budget(&mut self, key: &ObjectKey) -> Result<(), Refusal> {
        let mut budget = self.budget(key)?.as_ref().clone();
        self.budgets.remove(key);
        budget.rv = self.next_rv();
        self.emit(Op::Deleted, Change::Budget(Arc::new(budget)));
        Ok(())
    }

    /// Creates a workload; its pods follow.
    pub fn create_workload(&mut self, workload: Workload) {
        let key = workload.key.clone();
        self.workloads.insert(key.clone(), workload);
        self.later_between(20, 200, Task::Workload(key));
    }

    /// Changes a workload; existing pods stay as they are.
    pub fn change_workload(&mut self, key: &ObjectKey, change: impl FnOnce(&mut Workload)) {
        if let Some(workload) = self.workloads.get_mut(key) {
            change(workload);
            self.later_between(20, 200, Task::Workload(key.clone()));
        }
    }

    /// Changes a pod in a way that no controller would: for tests of the eviction table.
    pub fn change_pod(
        &mut self,
        key: &ObjectKey,
        change: impl FnOnce(&mut Pod),
    ) -> Result<Arc<Pod>, Refusal> {
        let mut pod = self.pod(key)?.as_ref().clone();
        change(&mut pod);
        Ok(self.put_pod(pod))
    }
}

/// The preconditions of a deletion.
pub(super) fn check_delete(
    kind: &'static str,
    pod: &Pod,
    wanted: &Precondition,
) -> Result<(), Refusal> {
    if let Some(uid) = &wanted.uid
        && *uid != pod.uid
    {
        return Err(Refusal::other_uid(kind, &pod.key.name, uid.as_str(), pod.uid.as_str()));
    }
    if let Some(rv) = &wanted.resource_version
        && *rv != pod.rv.to_string()
    {
        let why = format!(
            "the ResourceVersion in the precondition ({rv}) does not match the ResourceVersion in record ({}). \
             The object might have been modified",
            pod.rv
        );
        return Err(Refusal::conflict(kind, "", &pod.key.name, &why));
    }
    Ok(())
}
