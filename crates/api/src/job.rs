//! Jobs: how the progress of a long operation is shown.
//!
//! Entry point: [`Job`].
//! Deliberately absent: our own detail (waits, reasons, timing); that has its own paths.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `spec.type` of the parent job of a sync. No public text names one.
pub const SYNC_NODE_POOL: &str = "SyncNodePool";

/// `spec.type` of the sub-job of one node of a sync.
pub const RESET_NODE: &str = "ResetNode";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    #[serde(default = "kind")]
    pub kind: String,
    #[serde(default = "crate::nodepool::api_version")]
    pub api_version: String,
    pub metadata: JobMetadata,
    pub spec: JobSpec,
    pub status: JobStatus,
}

fn kind() -> String {
    "Job".to_owned()
}

impl Job {
    pub fn new(uid: impl Into<String>, spec: JobSpec, phase: JobPhase) -> Self {
        Self {
            kind: kind(),
            api_version: crate::nodepool::api_version(),
            metadata: JobMetadata { uid: uid.into(), ..JobMetadata::default() },
            spec,
            status: JobStatus { phase, reason: String::new(), message: None },
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobMetadata {
    /// A UUID: the Java client reads it as one.
    pub uid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_timestamp: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobSpec {
    #[serde(rename = "type")]
    pub job_type: String,
    #[serde(rename = "clusterUID")]
    pub cluster_uid: String,
    #[serde(rename = "resourceID")]
    pub resource_id: String,
    pub resource_name: String,
    /// Values have to be strings: strict clients read a map of strings.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extend_param: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner_job: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sub_jobs: Vec<Job>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    pub phase: JobPhase,
    /// What clients print; empty while there is nothing to say.
    #[serde(default)]
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobPhase {
    Initializing,
    Running,
    Failed,
    Success,
}

impl JobPhase {
    pub fn is_final(self) -> bool {
        matches!(self, JobPhase::Failed | JobPhase::Success)
    }
}
