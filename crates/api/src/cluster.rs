//! Clusters, as far as node pools need them.
//!
//! Entry points: [`Cluster`] and [`ClusterList`].
//! Deliberately absent: creating, resizing and upgrading clusters. They are brought, not made.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::nodepool::api_version;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    #[serde(default = "kind")]
    pub kind: String,
    #[serde(default = "api_version")]
    pub api_version: String,
    pub metadata: ClusterMetadata,
    pub spec: ClusterSpec,
    pub status: ClusterStatus,
}

fn kind() -> String {
    "Cluster".to_owned()
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterList {
    /// `Cluster`, also for the list: so the service answers.
    #[serde(default = "kind")]
    pub kind: String,
    #[serde(default = "api_version")]
    pub api_version: String,
    pub items: Vec<Cluster>,
}

impl ClusterList {
    pub fn new(items: Vec<Cluster>) -> Self {
        Self { kind: kind(), api_version: api_version(), items }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterMetadata {
    pub name: String,
    pub uid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// With `detail=true` also `totalNodesNumber` and `activeNodesNumber`, as strings.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_timestamp: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterSpec {
    pub category: String,
    #[serde(rename = "type")]
    pub cluster_type: String,
    pub flavor: String,
    pub version: String,
    pub host_network: HostNetwork,
    pub container_network: ContainerNetwork,
    /// Has to be in every answer, empty or not: the Terraform provider dereferences it unchecked.
    pub eni_network: Map<String, Value>,
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostNetwork {
    pub vpc: String,
    pub subnet: String,
    #[serde(rename = "SecurityGroup", skip_serializing_if = "Option::is_none")]
    pub security_group: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerNetwork {
    pub mode: String,
    pub cidr: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    pub phase: ClusterPhase,
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub message: String,
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
}

/// The phases that a cluster which is brought along can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClusterPhase {
    Available,
    Unavailable,
    Creating,
    Deleting,
    /// Any phase of the service that we never answer with; read by the client only.
    #[serde(other)]
    Error,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub url: String,
    /// `Internal` or `External`.
    #[serde(rename = "type")]
    pub endpoint_type: String,
}
