//! Node pools on the wire: what is created, stored and answered.
//!
//! Entry points: [`NodePool`], [`NodePool::parse_create`], [`NodePoolList`].
//! Fields that decide something here are typed; everything else of a template is kept in `extra`
//! and given back unchanged.
//! Deliberately absent: the update body (`pool_update`) and the rules (`pool_rules`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::json::{At, parse_request, typed};
use crate::login::{Login, LoginSpec};
use crate::pool_rules::{PoolUse, check_pool};
use crate::violation::Violation;

/// The id of the pool of all worker nodes that are in no other pool.
pub const DEFAULT_POOL: &str = "DefaultPool";

/// `apiVersion` of every resource.
pub fn api_version() -> String {
    "v3".to_owned()
}

fn kind() -> String {
    "NodePool".to_owned()
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodePool {
    #[serde(default = "kind")]
    pub kind: String,
    #[serde(default = "api_version")]
    pub api_version: String,
    pub metadata: NodePoolMetadata,
    pub spec: NodePoolSpec,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<NodePoolStatus>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodePoolList {
    #[serde(default = "list_kind")]
    pub kind: String,
    #[serde(default = "api_version")]
    pub api_version: String,
    pub items: Vec<NodePool>,
}

/// `kind` of every list.
pub fn list_kind() -> String {
    "List".to_owned()
}

impl NodePoolList {
    pub fn new(items: Vec<NodePool>) -> Self {
        Self { kind: list_kind(), api_version: api_version(), items }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodePoolMetadata {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_timestamp: Option<String>,
    /// Two clients read it as a 32-bit number and fail on more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<i32>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodePoolSpec {
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub pool_type: Option<String>,
    pub node_template: NodeTemplate,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_node_count: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_management: Option<Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taint_policy_on_existing_nodes: Option<ExistingNodes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_policy_on_existing_nodes: Option<ExistingNodes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_tags_policy_on_existing_nodes: Option<ExistingNodes>,
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Whether a changed label, taint or tag of the pool reaches the nodes it already has. Left out,
/// labels and taints are refreshed and tags ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExistingNodes {
    Refresh,
    Ignore,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Autoscaling {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_node_count: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_node_count: Option<i32>,
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The template of a pool, and the spec of a node. Every field may be absent, so that the same
/// type also says what an update changes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeTemplate {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flavor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub az: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login: Option<Login>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_config: Option<VolumeConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taints: Option<Vec<Taint>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_post_install_finish: Option<bool>,
    #[serde(rename = "k8sTags", skip_serializing_if = "Option::is_none")]
    pub k8s_tags: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_tags: Option<Vec<UserTag>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Runtime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initialized_conditions: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extend_param: Option<ExtendParam>,
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeConfig {
    /// Checked by the rules; empty means the default, `reset_managed_volumes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_reset_policy: Option<String>,
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taint {
    pub key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    pub effect: TaintEffect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TaintEffect {
    NoSchedule,
    PreferNoSchedule,
    NoExecute,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserTag {
    pub key: String,
    #[serde(default)]
    pub value: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Runtime {
    /// `docker` or `containerd`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExtendParam {
    /// Base64.
    #[serde(rename = "alpha.cce/preInstall", skip_serializing_if = "Option::is_none")]
    pub pre_install: Option<String>,
    /// Base64.
    #[serde(rename = "alpha.cce/postInstall", skip_serializing_if = "Option::is_none")]
    pub post_install: Option<String>,
    #[serde(rename = "alpha.cce/NodeImageID", skip_serializing_if = "Option::is_none")]
    pub node_image_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_pods: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_reinforcement_type: Option<String>,
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodePoolStatus {
    /// All nodes but those being deleted.
    pub current_node: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creating_node: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deleting_node: Option<i32>,
    /// Ready nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_node: Option<i32>,
    /// Nodes that carry the configuration of the pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configuration_synced_node_count: Option<i32>,
    /// Empty for an idle pool and during a sync: Terraform waits for that.
    pub phase: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<NodePoolCondition>,
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Type of the condition that shows a running sync.
pub const CONFIGURATION_SYNCHRONIZING: &str = "ConfigurationSynchronizing";

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodePoolCondition {
    #[serde(rename = "type")]
    pub condition_type: String,
    /// `True` or `False`.
    pub status: String,
    pub last_probe_time: String,
    pub last_transit_time: String,
    pub reason: String,
    pub message: String,
}

/// Keys of the pool bodies whose spelling is made canonical before they are read.
pub(crate) const POOL_KEYS: &[&str] = &[
    "kind",
    "apiVersion",
    "metadata",
    "spec",
    "status",
    "name",
    "uid",
    "annotations",
    "type",
    "nodeTemplate",
    "initialNodeCount",
    "ignoreInitialNodeCount",
    "autoscaling",
    "enable",
    "minNodeCount",
    "maxNodeCount",
    "nodeManagement",
    "nodeManagementUpdate",
    "serverGroupReference",
    "taintPolicyOnExistingNodes",
    "labelPolicyOnExistingNodes",
    "userTagsPolicyOnExistingNodes",
    "customSecurityGroups",
    "podSecurityGroups",
    "extensionScaleGroups",
    "flavor",
    "az",
    "os",
    "login",
    "sshKey",
    "userPassword",
    "username",
    "password",
    "removeUserPassword",
    "removeSSHKey",
    "volumeConfig",
    "volumeResetPolicy",
    "rootVolume",
    "rootVolumeUpdate",
    "dataVolumes",
    "dataVolumesUpdate",
    "size",
    "volumetype",
    "storage",
    "publicIP",
    "nodeNicSpec",
    "nodeNicSpecUpdate",
    "primaryNic",
    "subnetId",
    "subnetList",
    "count",
    "billingMode",
    "taints",
    "key",
    "value",
    "effect",
    "waitPostInstallFinish",
    "k8sTags",
    "ecsGroupId",
    "dedicatedHostId",
    "userTags",
    "runtime",
    "runtimeClass",
    "initializedConditions",
    "extendParam",
    "alpha.cce/preInstall",
    "alpha.cce/postInstall",
    "alpha.cce/NodeImageID",
    "maxPods",
    "securityReinforcementType",
    "hostnameConfig",
    "serverEnterpriseProjectID",
    "partition",
    "configurationsOverride",
    "nodeNameTemplate",
];

impl NodePool {
    /// Reads and checks the body that creates a pool. The second part is the login it asks for:
    /// the pool itself carries it masked only when written.
    pub fn parse_create(body: &[u8]) -> Result<(Self, Option<LoginSpec>), Vec<Violation>> {
        let request = parse_request(body)?;
        let mut found = Vec::new();
        let login = check_pool(&At::root(&request), PoolUse::Create, &mut found);
        if !found.is_empty() {
            return Err(found);
        }
        let mut pool: NodePool = typed(&request, POOL_KEYS)?;
        // Given by the server alone.
        pool.metadata = NodePoolMetadata { name: pool.metadata.name, ..Default::default() };
        pool.status = None;
        Ok((pool, login))
    }
}
