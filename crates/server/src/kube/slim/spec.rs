//! A pod's spec, and what a node offers and whom it turns away, from their JSON. Extended resources (GPUs and the like) are
//! absent on purpose: they seldom decide alone, and each would cost every pod its place in memory.

use super::quantity;
use evenkeel_engine::place::{
    NAME_FIELD, Needs, NodeAffinity, NodeTerm, Resources, Taint, Toleration,
};
use evenkeel_engine::selector::Requirement;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::kube::intern::Interner;

/// `cpu`, `memory` and `pods` of a list of resources.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Amounts {
    cpu: Option<String>,
    memory: Option<String>,
    pods: Option<String>,
}

impl Amounts {
    /// As numbers; what cannot be read counts as nothing.
    pub(super) fn resources(&self) -> Resources {
        let read = |text: &Option<String>, read: fn(&str) -> Option<u64>| {
            text.as_deref().and_then(read).unwrap_or(0)
        };
        Resources {
            cpu_m: read(&self.cpu, quantity::milli),
            memory: read(&self.memory, quantity::whole),
            pods: u32::try_from(read(&self.pods, quantity::whole)).unwrap_or(u32::MAX),
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ResourceBlock {
    requests: Option<Amounts>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    resources: Option<ResourceBlock>,
    restart_policy: Option<String>,
}

impl Container {
    fn requests(&self) -> Resources {
        let block = self.resources.as_ref().and_then(|r| r.requests.as_ref());
        block.map(Amounts::resources).unwrap_or_default()
    }
}

/// A pod's spec.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodSpec {
    pub(super) node_name: Option<String>,
    pub(super) termination_grace_period_seconds: Option<i64>,
    volumes: Option<Vec<Volume>>,
    containers: Option<Vec<Container>>,
    init_containers: Option<Vec<Container>>,
    overhead: Option<Amounts>,
    resources: Option<ResourceBlock>,
    node_selector: Option<BTreeMap<String, String>>,
    affinity: Option<Affinity>,
    tolerations: Option<Vec<SpecToleration>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Volume {
    name: String,
    empty_dir: Option<IgnoredAny>,
    persistent_volume_claim: Option<ClaimSource>,
    ephemeral: Option<IgnoredAny>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ClaimSource {
    claim_name: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Affinity {
    node_affinity: Option<SpecNodeAffinity>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct SpecNodeAffinity {
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    required: Option<NodeSelector>,
}

/// `NodeSelector`, as pods and volumes carry it.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::kube) struct NodeSelector {
    node_selector_terms: Option<Vec<SpecTerm>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct SpecTerm {
    match_expressions: Option<Vec<super::Expression>>,
    match_fields: Option<Vec<super::Expression>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct SpecToleration {
    key: Option<String>,
    operator: Option<String>,
    value: Option<String>,
    effect: Option<String>,
}

/// A taint as the API writes it.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct SpecTaint {
    key: String,
    value: Option<String>,
    effect: String,
}

impl SpecTaint {
    pub(super) fn taint(&self, interner: &Interner) -> Taint {
        Taint {
            key: interner.text(&self.key),
            value: interner.text(self.value.as_deref().unwrap_or_default()),
            effect: interner.text(&self.effect),
        }
    }
}

impl PodSpec {
    /// Whether an eviction loses data of an emptyDir.
    pub(super) fn local_data(&self) -> bool {
        self.volumes.iter().flatten().any(|v| v.empty_dir.is_some())
    }

    /// The claims that the pod uses; a generic ephemeral volume has one named after pod and volume.
    pub(super) fn claims(&self, pod: &str, interner: &Interner) -> Box<[Arc<str>]> {
        let claim = |v: &Volume| match (&v.persistent_volume_claim, &v.ephemeral) {
            (Some(source), _) => Some(interner.text(&source.claim_name)),
            (None, Some(_)) => Some(Arc::from(format!("{pod}-{}", v.name))),
            (None, None) => None,
        };
        self.volumes.iter().flatten().filter_map(claim).collect()
    }

    /// Where it can run.
    pub(super) fn needs(self, interner: &Interner) -> Needs {
        let requests = self.requests();
        let filled = |text: Option<String>| {
            text.filter(|text| !text.is_empty()).map(|text| interner.text(&text))
        };
        let toleration = |t: SpecToleration| Toleration {
            key: filled(t.key),
            // Equal is what an absent operator means.
            value: match t.operator.as_deref() {
                Some("Exists") => None,
                _ => Some(interner.text(t.value.as_deref().unwrap_or_default())),
            },
            effect: filled(t.effect),
        };
        Needs {
            requests,
            selector: self.node_selector.unwrap_or_default(),
            affinity: self
                .affinity
                .and_then(|a| a.node_affinity)
                .and_then(|a| a.required)
                .and_then(NodeSelector::affinity),
            tolerations: self.tolerations.into_iter().flatten().map(toleration).collect(),
        }
    }

    /// As the scheduler adds them up (`PodRequests` of k8s.io/component-helpers): what runs at once, or the largest
    /// init container beside the sidecars that were started before it; then the overhead.
    fn requests(&self) -> Resources {
        let mut running = Resources::default();
        for container in self.containers.iter().flatten() {
            running += container.requests();
        }
        let mut sidecars = Resources::default();
        let mut starting = Resources::default();
        for container in self.init_containers.iter().flatten() {
            let own = container.requests();
            if container.restart_policy.as_deref() == Some("Always") {
                running += own;
                sidecars += own;
                starting = larger(starting, sidecars);
            } else {
                starting = larger(starting, own + sidecars);
            }
        }
        let mut all = larger(running, starting);
        if let Some(whole) = self.resources.as_ref().and_then(|r| r.requests.as_ref()) {
            // What is said for the pod as a whole replaces the sum.
            let said = whole.resources();
            all.cpu_m = if whole.cpu.is_some() { said.cpu_m } else { all.cpu_m };
            all.memory = if whole.memory.is_some() { said.memory } else { all.memory };
        }
        all += self.overhead.as_ref().map(Amounts::resources).unwrap_or_default();
        Resources { pods: 1, ..all }
    }
}

fn larger(a: Resources, b: Resources) -> Resources {
    Resources { cpu_m: a.cpu_m.max(b.cpu_m), memory: a.memory.max(b.memory), pods: 0 }
}

impl NodeSelector {
    pub(in crate::kube) fn affinity(self) -> NodeAffinity {
        let term = |term: SpecTerm| NodeTerm {
            labels: requirements(term.match_expressions, false),
            names: requirements(term.match_fields, true),
        };
        self.node_selector_terms.map(|terms| terms.into_iter().map(term).collect())
    }
}

fn requirements(given: Option<Vec<super::Expression>>, fields: bool) -> Vec<Requirement> {
    let one = |e: super::Expression| {
        if fields && e.key != NAME_FIELD {
            return Requirement::Unknown(e.operator);
        }
        let than = e.values.as_ref().and_then(|v| v.first()).and_then(|v| v.parse().ok());
        match (e.operator.as_str(), than) {
            ("Gt", Some(than)) => Requirement::Above(e.key, than),
            ("Lt", Some(than)) => Requirement::Below(e.key, than),
            _ => e.requirement(),
        }
    };
    given.into_iter().flatten().map(one).collect()
}
