//! What was seen in the cluster, in slim types of our own: only the fields that a decision or a reason needs.

use crate::ids::{JobId, NodeName, ObjectKey, Uid};
use crate::place::{Needs, Resources, Taint};
use crate::selector::Selector;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The annotation that marks a node as ours; its value is a [`Mark`] in JSON.
pub const CLAIM_ANNOTATION: &str = "evenkeel.io/claim";
/// The annotation by which people keep us away from a node.
pub const HOLD_ANNOTATION: &str = "evenkeel.io/hold";

/// The taint that keeps pods off a Node that is not initialized: CCE's key, which the agents that initialize nodes
/// tolerate already.
pub const STARTUP_TAINT: &str = "node.cloudprovider.kubernetes.io/uninitialized";
/// The value by which a startup taint is known as ours; that of a cloud provider is left to the provider.
pub const STARTUP_VALUE: &str = "evenkeel";
/// Effect of the startup taint.
pub const STARTUP_EFFECT: &str = "NoSchedule";

/// The taint by which nodes that are still to do are avoided, softly; see [`steer`](crate::steer).
pub const STEER_TAINT: &str = "evenkeel.io/outdated";
/// Effect of that taint: a wish, which no pod has to tolerate.
pub const STEER_EFFECT: &str = "PreferNoSchedule";

/// A Node's Ready condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Readiness {
    /// Ready=True.
    Ready,
    /// Ready=False: the kubelet says so.
    NotReady,
    /// Ready=Unknown or no condition at all: nobody has heard of the kubelet.
    Unknown,
}

/// Our claim on a node, as mirrored in its annotation. The truth is in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The synchronization that holds the node.
    pub job: JobId,
    /// The lease epoch of the actor that wrote the mark.
    pub epoch: u64,
    /// Whether the node was already unschedulable before us; then it ends unschedulable.
    pub was_unschedulable: bool,
}

/// A Node object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSeen {
    /// Name.
    pub name: NodeName,
    /// UID; a node that was deleted and joined again has another one.
    pub uid: Uid,
    /// Opaque version for conditional writes.
    pub resource_version: Arc<str>,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// The Ready condition.
    pub ready: Readiness,
    /// Our mark, or another replica's.
    pub mark: Option<Mark>,
    /// Annotated with [`HOLD_ANNOTATION`].
    pub hold: bool,
    /// `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// Carries the control-plane label.
    pub control_plane: bool,
    /// `status.nodeInfo.machineID` and `systemUUID`, as the kubelet reported them.
    pub machine_id: Option<Arc<str>>,
    /// See `machine_id`.
    pub system_uuid: Option<Arc<str>>,
    /// `spec.providerID`.
    pub provider_id: Option<Arc<str>>,
    /// The InternalIP address.
    pub internal_ip: Option<Arc<str>>,
    /// `status.nodeInfo.kubeletVersion`.
    pub kubelet_version: Option<Arc<str>>,
    /// All labels.
    pub labels: Arc<BTreeMap<String, String>>,
    /// `spec.taints`.
    pub taints: Arc<[Taint]>,
    /// `status.allocatable`.
    pub allocatable: Resources,
    /// Types of the conditions that are True.
    pub met: Arc<BTreeSet<String>>,
}

impl NodeSeen {
    /// Unschedulable without a mark of ours: somebody else's doing. A mark that an ended job left says that it was us.
    pub fn cordoned_by_others(&self) -> bool {
        self.unschedulable && self.mark.as_ref().is_none_or(|mark| mark.was_unschedulable)
    }

    /// Whether pods can be placed on it and run there.
    pub fn available(&self) -> bool {
        self.ready == Readiness::Ready && !self.unschedulable && !self.starting()
    }

    /// Whether it carries the taint of a node that is still to do.
    pub fn steered(&self) -> bool {
        self.taints.iter().any(|t| &*t.key == STEER_TAINT && &*t.effect == STEER_EFFECT)
    }

    /// Whether it carries our startup taint.
    pub fn starting(&self) -> bool {
        self.taints.iter().any(|t| &*t.key == STARTUP_TAINT && &*t.value == STARTUP_VALUE)
    }
}

/// Who made a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Nobody: it will not come back elsewhere.
    Nobody,
    /// A DaemonSet: it belongs to the node.
    DaemonSet,
    /// The node itself: a static pod, seen as its mirror.
    Static,
    /// Another controller, as `kind/name`.
    Controller(Arc<str>),
}

/// `status.phase` of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodPhase {
    /// Not yet running.
    Pending,
    /// Running.
    Running,
    /// Ended well or badly: no obstacle to a drain.
    Finished,
    /// The kubelet is gone and nobody knows.
    Unknown,
}

/// A Pod object. About 300 bytes; labels and owners are shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSeen {
    /// UID: two pods of one name are two pods.
    pub uid: Uid,
    /// Namespace and name.
    pub key: ObjectKey,
    /// Where it runs; absent while unscheduled.
    pub node: Option<NodeName>,
    /// Labels, for budgets.
    pub labels: Arc<BTreeMap<String, String>>,
    /// Who made it.
    pub owner: Owner,
    /// Its phase.
    pub phase: PodPhase,
    /// Its Ready condition.
    pub ready: bool,
    /// It carries a deletionTimestamp.
    pub deleting: bool,
    /// Seconds it is given to end: `deletionGracePeriodSeconds` once deleting, else `terminationGracePeriodSeconds`.
    pub grace_s: u32,
    /// It has an emptyDir volume, whose data an eviction loses.
    pub local_data: bool,
    /// It carries `karpenter.sh/do-not-disrupt: "true"` or `cluster-autoscaler.kubernetes.io/safe-to-evict: "false"`.
    pub protected: bool,
    /// What it asks of a node.
    pub needs: Arc<Needs>,
    /// Names of the PersistentVolumeClaims that it uses, of its own namespace.
    pub claims: Box<[Arc<str>]>,
}

/// A PodDisruptionBudget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetSeen {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Which pods it covers; `None` covers none.
    pub selector: Selector,
    /// Opaque version: a new one means that the status may allow more.
    pub resource_version: Arc<str>,
    /// `status.disruptionsAllowed`.
    pub allowed: i32,
    /// `status.currentHealthy`.
    pub healthy: i32,
    /// `status.desiredHealthy`.
    pub desired: i32,
    /// `status.expectedPods`.
    pub expected: i32,
    /// Number of `status.disruptedPods`: evictions the server has granted and not yet seen through.
    pub disrupted: u32,
    /// `status.observedGeneration >= metadata.generation`.
    pub observed: bool,
    /// `spec.unhealthyPodEvictionPolicy` is AlwaysAllow.
    pub always_allow_unready: bool,
}

impl BudgetSeen {
    /// A budget that can never allow an eviction: everything is healthy, nothing is in flight, and still none
    /// is allowed. The rule, and its rows, follow gardener's machine-controller-manager.
    pub fn never_allows(&self) -> bool {
        self.observed
            && self.allowed == 0
            && self.disrupted == 0
            && self.expected > 0
            && self.healthy >= self.expected
            && self.desired >= self.expected
    }
}
