//! The preview of a synchronization: what it would do, and what stands in its way. Ours; CCE has no such call.
//!
//! Entry point: [`Preview`]. Times are whole seconds from the start of the run.

use serde::{Deserialize, Serialize};

/// The answer to `.../operation/upgrade/preview`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Preview {
    pub cluster: String,
    pub cluster_name: String,
    pub pool: String,
    pub pool_name: String,
    /// The configuration that the nodes would get.
    pub revision: String,
    pub max_unavailable: u32,
    /// `learned` from nodes of this pool, or `assumed`.
    pub basis: String,
    /// What a sync would be refused for as things are; empty: it would be accepted.
    pub missing: Vec<String>,
    /// What the preview itself could not find out.
    pub unknown: Vec<String>,
    pub ignored_fields: Vec<String>,
    /// The nodes, in the order in which they would be taken.
    pub nodes: Vec<Node>,
    pub skipped_nodes: Vec<String>,
    pub capacity: Capacity,
    /// Lower bounds; the largest one counts.
    pub bounds: Vec<Bound>,
    pub eta: Eta,
    pub useful: Useful,
    /// Evictions that the API server was asked to try without effect.
    pub trials: Vec<Trial>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Node {
    #[serde(rename = "nodeID")]
    pub node_id: String,
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// Which rule of the order chose it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rule: String,
    /// Expected start and end; absent for a node that would not be taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_seconds: Option<u64>,
    pub drift: Vec<Drift>,
    /// Pods that leave, as `namespace/name`.
    pub moves: Vec<String>,
    /// How many pods stay: they belong to the node, or have ended.
    pub stays: u32,
    pub concerns: Vec<Concern>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Drift {
    pub field: String,
    pub wanted: Option<String>,
    /// Null where nothing is there or nothing is known.
    pub found: Option<String>,
    /// `inPlace`, `reset` or `newNodesOnly`.
    pub applied: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Concern {
    pub pod: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<String>,
    /// `budgetNeverAllows`, `twoBudgets`, `noController`, `doNotDisrupt`, `localData`, `pinnedVolume`,
    /// `fitsNowhereElse`.
    pub kind: String,
    /// Whether the drain cannot end while it lasts.
    pub blocks: bool,
    pub why: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Capacity {
    /// So many of the nodes may be out at once before pods find no place; 0: not even one.
    pub nodes: u32,
    /// Whether that is fewer than asked for.
    pub limits: bool,
    pub sentence: String,
    pub offered: Resources,
    pub requested: Resources,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Resources {
    pub cpu_milli: u64,
    pub memory_bytes: u64,
    pub pods: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Bound {
    /// `LB1` to `LB5`.
    pub name: String,
    pub seconds: u64,
    /// What makes it so long.
    pub what: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Eta {
    pub low_seconds: u64,
    pub likely_seconds: u64,
    pub high_seconds: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Useful {
    pub max_unavailable: u32,
    pub sentence: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Trial {
    pub pod: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<String>,
    /// `allowed`, `refused`, `impossible`, `gone` or `unanswered`.
    pub answer: String,
    /// The server's sentence, where it did not allow it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}
