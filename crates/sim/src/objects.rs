//! The objects of the cluster, and how they look as the engine's facts.

use evenkeel_engine::facts::{
    BudgetSeen, CLAIM_ANNOTATION, HOLD_ANNOTATION, Mark, NodeSeen, Owner, PodPhase, PodSeen,
    Readiness, STARTUP_EFFECT, STARTUP_TAINT, STARTUP_VALUE, STEER_EFFECT, STEER_TAINT,
};
use evenkeel_engine::ids::{NodeName, ObjectKey, Uid};
use evenkeel_engine::place::{self, Needs, Resources};
use evenkeel_engine::selector::Selector;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Labels or annotations.
pub type Map = BTreeMap<String, String>;

/// The zone label.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// The control-plane label.
pub const CONTROL_PLANE_LABEL: &str = "node-role.kubernetes.io/control-plane";

/// What every node offers beside its places for pods.
pub const NODE_CPU_M: u64 = 8000;
/// See [`NODE_CPU_M`]; 32 GiB.
pub const NODE_MEMORY: u64 = 32 << 30;

/// An entry of `spec.taints`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value; may be empty.
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

impl Taint {
    /// What a Node carries that a join has made anew.
    pub fn startup() -> Self {
        Self {
            key: STARTUP_TAINT.to_owned(),
            value: STARTUP_VALUE.to_owned(),
            effect: STARTUP_EFFECT.to_owned(),
        }
    }

    /// What asks pods to prefer other nodes while this one is still to do.
    pub fn steer() -> Self {
        Self { key: STEER_TAINT.to_owned(), value: String::new(), effect: STEER_EFFECT.to_owned() }
    }

    /// The taint as the engine sees it.
    pub fn seen(&self) -> place::Taint {
        place::Taint {
            key: self.key.as_str().into(),
            value: self.value.as_str().into(),
            effect: self.effect.as_str().into(),
        }
    }
}

/// A Node.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Name.
    pub name: NodeName,
    /// UID.
    pub uid: Uid,
    /// resourceVersion.
    pub rv: u64,
    /// Creation, in world time.
    pub created_ms: u64,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// Labels.
    pub labels: Arc<Map>,
    /// Annotations.
    pub annotations: Map,
    /// Taints that somebody put there. (Those of the node lifecycle controller are not played.)
    pub taints: Vec<Taint>,
    /// The Ready condition.
    pub ready: Readiness,
    /// Its lastTransitionTime, in world time.
    pub ready_since_ms: u64,
    /// Conditions beside Ready that are True.
    pub met: BTreeSet<String>,
    /// `status.nodeInfo.machineID`.
    pub machine_id: Arc<str>,
    /// `status.nodeInfo.systemUUID`.
    pub system_uuid: Arc<str>,
    /// `status.nodeInfo.bootID`.
    pub boot_id: Arc<str>,
    /// `spec.providerID`.
    pub provider_id: Option<Arc<str>>,
    /// The InternalIP address.
    pub internal_ip: Arc<str>,
    /// `status.nodeInfo.kubeletVersion`.
    pub kubelet_version: Arc<str>,
    /// How many pods fit.
    pub capacity: u32,
}

impl Node {
    /// Our claim, if the annotation holds one.
    pub fn mark(&self) -> Option<Mark> {
        self.annotations.get(CLAIM_ANNOTATION).and_then(|text| serde_json::from_str(text).ok())
    }

    /// Whether the scheduler may place pods here.
    pub fn takes_pods(&self) -> bool {
        self.ready == Readiness::Ready
            && !self.unschedulable
            && self.taints.iter().all(|taint| taint.effect == "PreferNoSchedule")
    }

    /// The node as the engine sees it.
    pub fn seen(&self) -> NodeSeen {
        NodeSeen {
            name: self.name.clone(),
            uid: self.uid.clone(),
            resource_version: self.rv.to_string().into(),
            unschedulable: self.unschedulable,
            ready: self.ready,
            mark: self.mark(),
            hold: self.annotations.contains_key(HOLD_ANNOTATION),
            zone: self.labels.get(ZONE_LABEL).map(|zone| Arc::from(zone.as_str())),
            control_plane: self.labels.contains_key(CONTROL_PLANE_LABEL),
            machine_id: Some(self.machine_id.clone()),
            system_uuid: Some(self.system_uuid.clone()),
            provider_id: self.provider_id.clone(),
            internal_ip: Some(self.internal_ip.clone()),
            kubelet_version: Some(self.kubelet_version.clone()),
            labels: self.labels.clone(),
            taints: self.taints.iter().map(Taint::seen).collect(),
            allocatable: self.allocatable(),
            met: Arc::new(self.conditions_met()),
        }
    }

    /// All conditions that are True.
    fn conditions_met(&self) -> BTreeSet<String> {
        let ready = (self.ready == Readiness::Ready).then(|| "Ready".to_owned());
        self.met.iter().cloned().chain(ready).collect()
    }

    /// What it offers.
    pub fn allocatable(&self) -> Resources {
        Resources { cpu_m: NODE_CPU_M, memory: NODE_MEMORY, pods: self.capacity }
    }
}

/// A node's Lease in kube-node-lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// UID.
    pub uid: Uid,
    /// resourceVersion.
    pub rv: u64,
    /// `spec.renewTime` by the host's own clock, ms since the epoch.
    pub renew_wall_ms: i64,
    /// When the control plane saw that renewal, in world time.
    pub observed_ms: u64,
}

/// A Pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// Namespace and name.
    pub key: ObjectKey,
    /// UID.
    pub uid: Uid,
    /// resourceVersion.
    pub rv: u64,
    /// Creation, in world time.
    pub created_ms: u64,
    /// Where it is bound.
    pub node: Option<NodeName>,
    /// Labels.
    pub labels: Arc<Map>,
    /// Who made it.
    pub owner: Owner,
    /// The workload it belongs to.
    pub workload: Option<ObjectKey>,
    /// Phase.
    pub phase: PodPhase,
    /// Ready condition.
    pub ready: bool,
    /// When deletion was asked for, in world time.
    pub deleting_since: Option<u64>,
    /// `terminationGracePeriodSeconds`, or `deletionGracePeriodSeconds` once deleting.
    pub grace_s: u32,
    /// How long its containers take to stop when asked, at most the grace period.
    pub stop_ms: u64,
    /// How long it takes from bound to Ready.
    pub start_ms: u64,
    /// Has an emptyDir volume.
    pub local_data: bool,
    /// Carries an annotation that forbids moving it.
    pub protected: bool,
    /// What it asks of a node.
    pub needs: Arc<Needs>,
    /// Claims on volumes of its own node's disks.
    pub claims: Box<[Arc<str>]>,
    /// Carries a finalizer that nobody removes: it stays Terminating.
    pub finalizer: bool,
    /// The eviction API has put the condition DisruptionTarget on it.
    pub evicted: bool,
}

impl Pod {
    /// The pod as the engine sees it.
    pub fn seen(&self) -> PodSeen {
        PodSeen {
            uid: self.uid.clone(),
            key: self.key.clone(),
            node: self.node.clone(),
            labels: self.labels.clone(),
            owner: self.owner.clone(),
            phase: self.phase,
            ready: self.ready,
            deleting: self.deleting_since.is_some(),
            grace_s: self.grace_s,
            local_data: self.local_data,
            protected: self.protected,
            needs: self.needs.clone(),
            claims: self.claims.clone(),
        }
    }

    /// Whether the disruption controller would count it as healthy.
    pub fn healthy(&self) -> bool {
        self.ready && self.deleting_since.is_none()
    }
}

/// A number of pods or a share of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So many pods.
    Pods(u32),
    /// Percent of the expected pods, rounded up.
    Percent(u32),
}

impl Amount {
    /// The number of pods out of `expected`.
    pub fn of(self, expected: u32) -> u32 {
        match self {
            Amount::Pods(n) => n,
            Amount::Percent(percent) => (expected * percent).div_ceil(100),
        }
    }
}

/// What a budget asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `minAvailable`.
    MinAvailable(Amount),
    /// `maxUnavailable`.
    MaxUnavailable(Amount),
}

/// A PodDisruptionBudget with the status that the disruption controller keeps.
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    /// Namespace and name.
    pub key: ObjectKey,
    /// UID.
    pub uid: Uid,
    /// resourceVersion.
    pub rv: u64,
    /// Creation, in world time.
    pub created_ms: u64,
    /// `metadata.generation`.
    pub generation: u64,
    /// `spec.selector`.
    pub selector: Selector,
    /// `spec.minAvailable` or `spec.maxUnavailable`.
    pub limit: Limit,
    /// `spec.unhealthyPodEvictionPolicy` is AlwaysAllow.
    pub always_allow_unready: bool,
    /// `status`.
    pub status: BudgetStatus,
}

/// `status` of a budget.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BudgetStatus {
    /// `observedGeneration`.
    pub observed_generation: u64,
    /// `disruptionsAllowed`.
    pub allowed: i32,
    /// `currentHealthy`.
    pub current: i32,
    /// `desiredHealthy`.
    pub desired: i32,
    /// `expectedPods`.
    pub expected: i32,
    /// `disruptedPods`: pod name and world time of the eviction.
    pub disrupted: BTreeMap<String, u64>,
}

impl Budget {
    /// The budget as the engine sees it.
    pub fn seen(&self) -> BudgetSeen {
        BudgetSeen {
            key: self.key.clone(),
            selector: self.selector.clone(),
            resource_version: self.rv.to_string().into(),
            allowed: self.status.allowed,
            healthy: self.status.current,
            desired: self.status.desired,
            expected: self.status.expected,
            disrupted: self.status.disrupted.len() as u32,
            observed: self.status.observed_generation >= self.generation,
            always_allow_unready: self.always_allow_unready,
        }
    }

    /// Whether it covers the pod.
    pub fn covers(&self, pod: &Pod) -> bool {
        self.key.namespace == pod.key.namespace && self.selector.matches(&pod.labels)
    }
}

/// How a workload treats its pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A ReplicaSet: a replacement with a new name as soon as a pod starts to go.
    Deployment,
    /// Pods with fixed names; a replacement only once the old pod is gone.
    StatefulSet,
    /// One pod on each node, cordoned or not.
    DaemonSet,
    /// One static pod on each node, seen as its mirror.
    Static,
    /// Pods that nobody replaces.
    Bare,
    /// Pods that have already ended well.
    Finished,
}

/// What makes pods.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Kind.
    pub kind: Kind,
    /// How many pods; unused where there is one per node.
    pub replicas: u32,
    /// Labels of its pods.
    pub labels: Arc<Map>,
    /// Grace period of its pods.
    pub grace_s: u32,
    /// How long a pod takes to stop.
    pub stop_ms: u64,
    /// How long a pod takes from bound to Ready.
    pub start_ms: u64,
    /// Its pods have emptyDir data.
    pub local_data: bool,
    /// Its pods forbid being moved.
    pub protected: bool,
    /// What its pods ask of a node.
    pub needs: Arc<Needs>,
    /// Each of its pods has a volume on the disk of the node where it first ran (StatefulSets only).
    pub local_volume: bool,
    /// New pods never become Ready: a broken release.
    pub broken: bool,
}

impl Workload {
    /// A workload in `default` whose pods carry `app=name` and take 1 s to stop and 3 s to start.
    pub fn new(name: &str, kind: Kind, replicas: u32) -> Self {
        Self {
            key: ObjectKey::new("default", name),
            kind,
            replicas,
            labels: Arc::new(BTreeMap::from([("app".to_owned(), name.to_owned())])),
            grace_s: 30,
            stop_ms: 1000,
            start_ms: 3000,
            local_data: false,
            protected: false,
            needs: Arc::new(Needs::nothing()),
            local_volume: false,
            broken: false,
        }
    }

    /// The claim of its pod of this name.
    pub fn claim(&self, pod: &str) -> Option<Arc<str>> {
        (self.local_volume && self.kind == Kind::StatefulSet).then(|| format!("data-{pod}").into())
    }

    /// The owner its pods carry.
    pub fn owner(&self) -> Owner {
        match self.kind {
            Kind::Deployment => Owner::Controller(format!("ReplicaSet/{}", self.key.name).into()),
            Kind::StatefulSet => Owner::Controller(format!("StatefulSet/{}", self.key.name).into()),
            Kind::Finished => Owner::Controller(format!("Job/{}", self.key.name).into()),
            Kind::DaemonSet => Owner::DaemonSet,
            Kind::Static => Owner::Static,
            Kind::Bare => Owner::Nobody,
        }
    }
}
