//! Where a pod may run: what it asks of a node, what a node offers and whom it turns away.
//!
//! Entry point: [`Needs::accepts`]. Rules that compare pods with each other (spreading, pod affinity, host ports) and
//! scoring are absent on purpose: the answer here is "never on this node" or "perhaps".

use crate::facts::NodeSeen;
use crate::ids::NodeName;
use crate::selector::Requirement;
use std::collections::BTreeMap;
use std::ops::{Add, AddAssign, SubAssign};
use std::sync::Arc;

/// An amount of what nodes offer and pods ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub cpu_m: u64,
    /// Bytes.
    pub memory: u64,
    /// Pods; 1 for each pod.
    pub pods: u32,
}

impl Resources {
    /// Whether all of it fits into `free`.
    pub fn fits(&self, free: &Resources) -> bool {
        self.cpu_m <= free.cpu_m && self.memory <= free.memory && self.pods <= free.pods
    }

    /// What is left of it; nothing where more is taken than there is.
    #[must_use]
    pub fn minus(&self, taken: &Resources) -> Resources {
        Resources {
            cpu_m: self.cpu_m.saturating_sub(taken.cpu_m),
            memory: self.memory.saturating_sub(taken.memory),
            pods: self.pods.saturating_sub(taken.pods),
        }
    }
}

impl Add for Resources {
    type Output = Resources;
    fn add(self, other: Resources) -> Resources {
        Resources {
            cpu_m: self.cpu_m.saturating_add(other.cpu_m),
            memory: self.memory.saturating_add(other.memory),
            pods: self.pods.saturating_add(other.pods),
        }
    }
}

impl AddAssign for Resources {
    fn add_assign(&mut self, other: Resources) {
        *self = *self + other;
    }
}

impl SubAssign for Resources {
    fn sub_assign(&mut self, other: Resources) {
        *self = self.minus(&other);
    }
}

/// A taint of a node; known by its key and effect.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Taint {
    /// Key.
    pub key: Arc<str>,
    /// Value, may be empty.
    pub value: Arc<str>,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: Arc<str>,
}

impl Taint {
    /// Whether it keeps pods away that do not tolerate it. `PreferNoSchedule` is only a wish.
    pub fn repels(&self) -> bool {
        matches!(&*self.effect, "NoSchedule" | "NoExecute")
    }
}

/// Which taints a pod puts up with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Toleration {
    /// Key; absent: every key (with the operator Exists).
    pub key: Option<Arc<str>>,
    /// The value that it must have; absent: any (the operator Exists).
    pub value: Option<Arc<str>>,
    /// Effect; absent: every effect.
    pub effect: Option<Arc<str>>,
}

impl Toleration {
    /// Whether it covers the taint, as `ToleratesTaint` of Kubernetes decides it.
    pub fn covers(&self, taint: &Taint) -> bool {
        self.effect.as_ref().is_none_or(|effect| *effect == taint.effect)
            && self.key.as_ref().is_none_or(|key| *key == taint.key)
            && self.value.as_ref().is_none_or(|value| *value == taint.value)
    }
}

/// One term of a required node affinity; a term without any requirement matches no node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeTerm {
    /// Over the node's labels.
    pub labels: Vec<Requirement>,
    /// Over the node's name (`matchFields` knows no other field).
    pub names: Vec<Requirement>,
}

impl NodeTerm {
    fn matches(&self, name: &NodeName, labels: &BTreeMap<String, String>) -> bool {
        if self.labels.is_empty() && self.names.is_empty() {
            return false;
        }
        let field = || BTreeMap::from([(NAME_FIELD.to_owned(), name.as_str().to_owned())]);
        self.labels.iter().all(|r| r.holds(labels))
            && (self.names.is_empty() || self.names.iter().all(|r| r.holds(&field())))
    }
}

/// The one field that `matchFields` knows.
pub const NAME_FIELD: &str = "metadata.name";

/// A required node affinity: terms of which one must match; `None` matches every node.
pub type NodeAffinity = Option<Vec<NodeTerm>>;

/// Whether a node matches a required affinity.
pub fn matches(affinity: &NodeAffinity, node: &NodeSeen) -> bool {
    affinity
        .as_ref()
        .is_none_or(|terms| terms.iter().any(|term| term.matches(&node.name, &node.labels)))
}

/// What a pod asks of the node that is to run it. The pods of a workload share one value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Needs {
    /// Effective requests: containers, init containers and overhead, as the scheduler adds them up.
    pub requests: Resources,
    /// `nodeSelector`.
    pub selector: BTreeMap<String, String>,
    /// `affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution`.
    pub affinity: NodeAffinity,
    /// Tolerations.
    pub tolerations: Vec<Toleration>,
}

impl Needs {
    /// A pod that asks for nothing but its place.
    pub fn nothing() -> Self {
        Self { requests: Resources { pods: 1, ..Resources::default() }, ..Self::default() }
    }

    /// Whether labels, name and taints let the pod run there. Room and the node's state are not looked at, nor is the
    /// taint that a cordon brings.
    pub fn accepts(&self, node: &NodeSeen) -> bool {
        self.selector.iter().all(|(key, value)| node.labels.get(key) == Some(value))
            && matches(&self.affinity, node)
            && node.taints.iter().all(|taint| {
                !taint.repels()
                    || OF_STATE.contains(&&*taint.key)
                    || self.tolerations.iter().any(|t| t.covers(taint))
            })
    }
}

/// Taints that Kubernetes derives from a node's state: they come and go with it.
const OF_STATE: &[&str] = &[
    "node.kubernetes.io/unschedulable",
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
];
