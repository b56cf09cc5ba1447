//! Slim types of our own for nodes, pods and budgets: they take from list and watch JSON only what a decision
//! or a reason needs, and turn into the engine's facts. Unknown fields, nulls and a missing status are fine.

mod quantity;
pub(super) mod spec;

use super::intern::{Interner, Labels};
use crate::sync::ports::{Listed, Seen};
use evenkeel_engine::facts::{BudgetSeen, Mark, NodeSeen, Owner, PodPhase, PodSeen, Readiness};
use evenkeel_engine::ids::{ObjectKey, Uid};
use evenkeel_engine::selector::{Requirement, Selector};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use spec::{Amounts, PodSpec, SpecTaint};
use std::collections::BTreeMap;
use std::sync::Arc;

/// `terminationGracePeriodSeconds` where a pod does not say (the API server's default).
const DEFAULT_GRACE_S: i64 = 30;

/// A kind that is listed.
pub(super) trait Kind: DeserializeOwned + Send + Sync + 'static {
    /// What it becomes.
    type Fact: Send;
    /// The resource, for messages.
    const RESOURCE: &'static str;
    /// The collection's path.
    const PATH: &'static str;
    /// The fact; `None` for something without a name or UID.
    fn fact(self, interner: &Interner) -> Option<Self::Fact>;
}

/// A kind that is watched as well.
pub(super) trait Slim: Kind {
    /// Field selector.
    const FIELDS: Option<&'static str>;
    /// `metadata.resourceVersion`.
    fn version(&self) -> &str;
    /// It was added or changed.
    fn seen(fact: Self::Fact) -> Seen;
    /// It was deleted.
    fn gone(self) -> Seen;
    /// All of them.
    fn listed(facts: Vec<Self::Fact>) -> Listed;
}

/// A page of a list.
#[derive(Deserialize)]
#[serde(bound = "T: DeserializeOwned")]
pub(super) struct Page<T> {
    /// Version and continue token.
    pub metadata: PageMeta,
    /// The objects; Go writes null for none.
    pub items: Option<Vec<T>>,
}

/// `metadata` of a list.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PageMeta {
    /// Where a watch continues.
    pub resource_version: String,
    /// More pages follow.
    #[serde(rename = "continue")]
    pub token: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    name: String,
    namespace: String,
    uid: String,
    resource_version: String,
    generation: i64,
    deletion_timestamp: Option<IgnoredAny>,
    deletion_grace_period_seconds: Option<i64>,
    labels: Option<Labels>,
    annotations: Option<Annotations>,
    owner_references: Option<Vec<OwnerReference>>,
}

/// The annotations that matter; all others are skipped without a copy.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Annotations {
    #[serde(rename = "evenkeel.io/claim")]
    claim: Option<String>,
    #[serde(rename = "evenkeel.io/hold")]
    hold: Option<IgnoredAny>,
    #[serde(rename = "kubernetes.io/config.mirror")]
    mirror: Option<IgnoredAny>,
    #[serde(rename = "karpenter.sh/do-not-disrupt")]
    do_not_disrupt: Option<String>,
    #[serde(rename = "cluster-autoscaler.kubernetes.io/safe-to-evict")]
    safe_to_evict: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct OwnerReference {
    kind: String,
    name: String,
    controller: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

/// A Node.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Node {
    metadata: Meta,
    spec: Option<NodeSpec>,
    status: Option<NodeStatus>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct NodeSpec {
    unschedulable: Option<bool>,
    #[serde(rename = "providerID")]
    provider_id: Option<String>,
    taints: Option<Vec<SpecTaint>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct NodeStatus {
    allocatable: Option<Amounts>,
    conditions: Option<Vec<Condition>>,
    addresses: Option<Vec<Address>>,
    node_info: Option<NodeInfo>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct NodeInfo {
    #[serde(rename = "machineID")]
    machine_id: Option<String>,
    #[serde(rename = "systemUUID")]
    system_uuid: Option<String>,
    kubelet_version: Option<String>,
}

impl Kind for Node {
    type Fact = NodeSeen;
    const RESOURCE: &'static str = "nodes";
    const PATH: &'static str = "/api/v1/nodes";

    fn fact(self, interner: &Interner) -> Option<NodeSeen> {
        let meta = self.metadata;
        if meta.name.is_empty() || meta.uid.is_empty() {
            return None;
        }
        let spec = self.spec.unwrap_or_default();
        let status = self.status.unwrap_or_default();
        let info = status.node_info.unwrap_or_default();
        let labels = meta.labels.unwrap_or_default();
        let notes = meta.annotations.unwrap_or_default();
        let text = |t: Option<String>| t.filter(|t| !t.is_empty()).map(|t| Arc::from(t.as_str()));
        let conditions = status.conditions.unwrap_or_default();
        Some(NodeSeen {
            mark: notes.claim.and_then(|claim| mark(&meta.name, &claim)),
            name: interner.node(&meta.name),
            uid: Uid::from(meta.uid),
            resource_version: meta.resource_version.into(),
            unschedulable: spec.unschedulable.unwrap_or(false),
            ready: readiness(&conditions),
            met: interner.set(
                conditions.into_iter().filter(|c| c.status == "True").map(|c| c.kind).collect(),
            ),
            hold: notes.hold.is_some(),
            zone: labels.get("topology.kubernetes.io/zone").map(|z| interner.text(z)),
            control_plane: labels.contains_key("node-role.kubernetes.io/control-plane")
                || labels.contains_key("node-role.kubernetes.io/master"),
            machine_id: text(info.machine_id),
            system_uuid: text(info.system_uuid),
            provider_id: text(spec.provider_id),
            internal_ip: status
                .addresses
                .unwrap_or_default()
                .into_iter()
                .find(|a| a.kind == "InternalIP")
                .and_then(|a| text(Some(a.address))),
            kubelet_version: info.kubelet_version.as_deref().map(|v| interner.text(v)),
            labels: interner.labels(labels),
            taints: spec.taints.iter().flatten().map(|taint| taint.taint(interner)).collect(),
            allocatable: status.allocatable.map(|a| a.resources()).unwrap_or_default(),
        })
    }
}

impl Slim for Node {
    const FIELDS: Option<&'static str> = None;

    fn version(&self) -> &str {
        &self.metadata.resource_version
    }

    fn seen(fact: NodeSeen) -> Seen {
        Seen::Node(fact)
    }

    fn gone(self) -> Seen {
        Seen::NodeGone(self.metadata.name.into())
    }

    fn listed(facts: Vec<NodeSeen>) -> Listed {
        Listed::Nodes(facts)
    }
}

/// An unreadable mark is none: the truth is in the store, and a claim is conditional on the resourceVersion.
fn mark(node: &str, claim: &str) -> Option<Mark> {
    serde_json::from_str(claim)
        .inspect_err(|_| {
            tracing::warn!(node, "the node's evenkeel.io/claim annotation is unreadable");
        })
        .ok()
}

fn readiness(conditions: &[Condition]) -> Readiness {
    match conditions.iter().find(|c| c.kind == "Ready").map(|c| c.status.as_str()) {
        Some("True") => Readiness::Ready,
        Some("False") => Readiness::NotReady,
        _ => Readiness::Unknown,
    }
}

/// A Pod.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Pod {
    metadata: Meta,
    spec: Option<PodSpec>,
    status: Option<PodStatus>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct PodStatus {
    phase: Option<String>,
    conditions: Option<Vec<Condition>>,
}

impl Kind for Pod {
    type Fact = PodSeen;
    const RESOURCE: &'static str = "pods";
    const PATH: &'static str = "/api/v1/pods";

    fn fact(self, interner: &Interner) -> Option<PodSeen> {
        let meta = self.metadata;
        if meta.name.is_empty() || meta.uid.is_empty() {
            return None;
        }
        let mut spec = self.spec.unwrap_or_default();
        let status = self.status.unwrap_or_default();
        let notes = meta.annotations.unwrap_or_default();
        let owners = meta.owner_references.unwrap_or_default();
        let deleting = meta.deletion_timestamp.is_some();
        let own = spec.termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE_S);
        let grace = match meta.deletion_grace_period_seconds {
            Some(given) if deleting => given,
            _ => own,
        };
        let claims = spec.claims(&meta.name, interner);
        Some(PodSeen {
            uid: Uid::from(meta.uid),
            key: ObjectKey { namespace: interner.text(&meta.namespace), name: meta.name.into() },
            node: spec.node_name.take().filter(|n| !n.is_empty()).map(|n| interner.node(&n)),
            labels: interner.labels(meta.labels.unwrap_or_default()),
            owner: owner(notes.mirror.is_some(), &owners, interner),
            phase: match status.phase.as_deref() {
                Some("Running") => PodPhase::Running,
                Some("Succeeded" | "Failed") => PodPhase::Finished,
                Some("Unknown") => PodPhase::Unknown,
                _ => PodPhase::Pending,
            },
            ready: readiness(&status.conditions.unwrap_or_default()) == Readiness::Ready,
            deleting,
            grace_s: u32::try_from(grace.max(0)).unwrap_or(u32::MAX),
            local_data: spec.local_data(),
            protected: notes.do_not_disrupt.as_deref() == Some("true")
                || notes.safe_to_evict.as_deref() == Some("false"),
            claims,
            needs: interner.needs(spec.needs(interner)),
        })
    }
}

impl Slim for Pod {
    const FIELDS: Option<&'static str> = Some("spec.nodeName!=");

    fn version(&self) -> &str {
        &self.metadata.resource_version
    }

    fn seen(fact: PodSeen) -> Seen {
        Seen::Pod(fact)
    }

    fn gone(self) -> Seen {
        Seen::PodGone(self.metadata.uid.into())
    }

    fn listed(facts: Vec<PodSeen>) -> Listed {
        Listed::Pods(facts)
    }
}

fn owner(mirror: bool, owners: &[OwnerReference], interner: &Interner) -> Owner {
    if mirror {
        return Owner::Static;
    }
    match owners.iter().find(|o| o.controller == Some(true)) {
        None => Owner::Nobody,
        Some(o) if o.kind == "DaemonSet" => Owner::DaemonSet,
        // The kubelet names its node as the owner of the mirrors of its static pods.
        Some(o) if o.kind == "Node" => Owner::Static,
        Some(o) => Owner::Controller(interner.text(&format!("{}/{}", o.kind, o.name))),
    }
}

/// A PodDisruptionBudget.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Budget {
    metadata: Meta,
    spec: Option<BudgetSpec>,
    status: Option<BudgetStatus>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct BudgetSpec {
    selector: Option<LabelSelector>,
    unhealthy_pod_eviction_policy: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct LabelSelector {
    match_labels: Option<Labels>,
    match_expressions: Option<Vec<Expression>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Expression {
    key: String,
    operator: String,
    values: Option<Vec<String>>,
}

impl Expression {
    fn requirement(self) -> Requirement {
        let values = self.values.unwrap_or_default();
        match self.operator.as_str() {
            "In" => Requirement::In(self.key, values),
            "NotIn" => Requirement::NotIn(self.key, values),
            "Exists" => Requirement::Exists(self.key),
            "DoesNotExist" => Requirement::Absent(self.key),
            _ => Requirement::Unknown(self.operator),
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
#[expect(
    clippy::zero_sized_map_values,
    reason = "serde reads a JSON object into a map; only its size matters"
)]
struct BudgetStatus {
    observed_generation: i64,
    disruptions_allowed: i32,
    current_healthy: i32,
    desired_healthy: i32,
    expected_pods: i32,
    disrupted_pods: Option<BTreeMap<String, IgnoredAny>>,
}

impl Kind for Budget {
    type Fact = BudgetSeen;
    const RESOURCE: &'static str = "poddisruptionbudgets";
    const PATH: &'static str = "/apis/policy/v1/poddisruptionbudgets";

    fn fact(self, interner: &Interner) -> Option<BudgetSeen> {
        let meta = self.metadata;
        if meta.name.is_empty() {
            return None;
        }
        let spec = self.spec.unwrap_or_default();
        let status = self.status.unwrap_or_default();
        Some(BudgetSeen {
            key: ObjectKey { namespace: interner.text(&meta.namespace), name: meta.name.into() },
            selector: spec.selector.map_or(Selector::Nothing, selector),
            resource_version: meta.resource_version.into(),
            allowed: status.disruptions_allowed,
            healthy: status.current_healthy,
            desired: status.desired_healthy,
            expected: status.expected_pods,
            disrupted: status.disrupted_pods.map_or(0, |pods| pods.len() as u32),
            observed: status.observed_generation >= meta.generation,
            always_allow_unready: spec.unhealthy_pod_eviction_policy.as_deref()
                == Some("AlwaysAllow"),
        })
    }
}

impl Slim for Budget {
    const FIELDS: Option<&'static str> = None;

    fn version(&self) -> &str {
        &self.metadata.resource_version
    }

    fn seen(fact: BudgetSeen) -> Seen {
        Seen::Budget(fact)
    }

    fn gone(self) -> Seen {
        Seen::BudgetGone(ObjectKey::new(self.metadata.namespace, self.metadata.name))
    }

    fn listed(facts: Vec<BudgetSeen>) -> Listed {
        Listed::Budgets(facts)
    }
}

fn selector(given: LabelSelector) -> Selector {
    let mut all: Vec<Requirement> = given
        .match_labels
        .unwrap_or_default()
        .into_iter()
        .map(|(key, value)| Requirement::In(key, vec![value]))
        .collect();
    all.extend(given.match_expressions.into_iter().flatten().map(Expression::requirement));
    Selector::All(all)
}

#[cfg(test)]
mod tests;
