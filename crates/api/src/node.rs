//! Nodes on the wire, and the bodies that name nodes.
//!
//! Entry points: [`Node`], [`NodeList`], [`MigrateRequest::parse`].
//! Deliberately absent: creating, accepting and removing nodes; the machines are brought along.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::json::{At, parse_request};
use crate::nodepool::{NodeTemplate, api_version, list_kind};
use crate::violation::Violation;

/// Most nodes that one call moves to a pool (documented).
pub const MIGRATE_LIMIT: usize = 50;

/// Largest page of a node list, and its size if the client names none (documented).
pub const PAGE_LIMIT: usize = 2000;

/// Annotation that names the pool of a node.
pub const POOL_ANNOTATION: &str = "kubernetes.io/node-pool.id";

fn kind() -> String {
    "Node".to_owned()
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    #[serde(default = "kind")]
    pub kind: String,
    #[serde(default = "api_version")]
    pub api_version: String,
    pub metadata: NodeMetadata,
    pub spec: NodeTemplate,
    pub status: NodeStatus,
}

impl Node {
    pub fn new(metadata: NodeMetadata, spec: NodeTemplate, status: NodeStatus) -> Self {
        Self { kind: kind(), api_version: api_version(), metadata, spec, status }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeList {
    #[serde(default = "list_kind")]
    pub kind: String,
    #[serde(default = "api_version")]
    pub api_version: String,
    pub items: Vec<Node>,
    #[serde(default)]
    pub page_info: PageInfo,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PageInfo {
    pub current_count: usize,
    /// Uid of the last node of this page; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_marker: Option<String>,
}

impl NodeList {
    /// One page. `has_more` sets the marker to the last node of the page.
    pub fn page(items: Vec<Node>, has_more: bool) -> Self {
        let last = items.last().map(|node| node.metadata.uid.clone());
        let page_info =
            PageInfo { current_count: items.len(), next_marker: last.filter(|_| has_more) };
        Self { kind: list_kind(), api_version: api_version(), items, page_info }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeMetadata {
    pub name: String,
    /// Minted here; neither the id of the machine nor that of the Kubernetes object.
    pub uid: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_timestamp: Option<String>,
    /// An object here, not a list as in Kubernetes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner_references: Option<NodeOwner>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeOwner {
    #[serde(rename = "nodepoolName")]
    pub pool_name: String,
    #[serde(rename = "nodepoolID")]
    pub pool_id: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    pub phase: NodePhase,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_probe_time: Option<String>,
    #[serde(default, rename = "jobID", skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_id: Option<String>,
    #[serde(default, rename = "privateIP", skip_serializing_if = "Option::is_none")]
    pub private_ip: Option<String>,
    #[serde(default, rename = "privateIPv6IP", skip_serializing_if = "Option::is_none")]
    pub private_ipv6: Option<String>,
    #[serde(default, rename = "publicIP", skip_serializing_if = "Option::is_none")]
    pub public_ip: Option<String>,
    /// False from the change of the pool until the node has been reset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration_up_to_date: Option<bool>,
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodePhase {
    Build,
    Installing,
    /// In a sync.
    Upgrading,
    Active,
    Abnormal,
    Deleting,
    Error,
    Repairing,
    RepairFailed,
}

/// `PUT .../nodepools/{id}/nodes/migrate`: the nodes that move into the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrateRequest {
    pub node_ids: Vec<String>,
}

impl MigrateRequest {
    pub fn parse(body: &[u8]) -> Result<Self, Vec<Violation>> {
        let request = parse_request(body)?;
        let root = At::root(&request);
        let mut found = Vec::new();
        check_envelope(&root, "List", &mut found);
        let mut node_ids = Vec::new();
        match root.get("nodeList") {
            None => found.push(Violation::new("nodeList", "is mandatory")),
            Some(list) => {
                let items = list.items(&mut found).unwrap_or_default();
                if items.is_empty() && found.is_empty() {
                    found.push(Violation::new(list.path.clone(), "is empty"));
                }
                if items.len() > MIGRATE_LIMIT {
                    let rule = format!("has {} nodes, at most 50 are allowed", items.len());
                    let violation = Violation::new(list.path.clone(), rule);
                    found.push(violation.with_way_out("move the rest in another call"));
                }
                let mut ids = Vec::new();
                for item in &items {
                    match item.get("nodeID") {
                        Some(id) => ids.push(id),
                        None => {
                            found.push(Violation::new(item.child_path("nodeID"), "is mandatory"));
                        }
                    }
                }
                node_ids = check_node_ids(&ids, &mut found);
            }
        }
        if found.is_empty() { Ok(Self { node_ids }) } else { Err(found) }
    }
}

/// `kind` and `apiVersion`, where a client sends them at all.
pub(crate) fn check_envelope(root: &At<'_>, kind: &str, found: &mut Vec<Violation>) {
    for (key, wanted) in [("kind", kind), ("apiVersion", "v3")] {
        if let Some(at) = root.get(key) {
            at.one_of(&[wanted], found);
        }
    }
}

/// Ids that can be ids, each once. Whether they exist is for the server to find out.
pub(crate) fn check_node_ids(ids: &[At<'_>], found: &mut Vec<Violation>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut texts = Vec::new();
    for at in ids {
        let Some(id) = at.string(found) else { continue };
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if id.is_empty() || id.len() > 64 || !id.bytes().all(allowed) {
            let violation = at.violation("is not the id of a node");
            found.push(violation.with_way_out("send metadata.uid of the node"));
        } else if !seen.insert(id.to_ascii_lowercase()) {
            let violation = at.violation("is in the list more than once");
            found.push(violation.with_way_out("name each node once"));
        } else {
            texts.push(id.to_owned());
        }
    }
    texts
}
