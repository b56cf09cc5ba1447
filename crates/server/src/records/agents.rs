//! Agents: which node has one, and the token for the next. Of secrets only the hash is kept.

use evenkeel_engine::ids::{ClusterId, NodeId};
use serde::{Deserialize, Serialize};

/// The agent of a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AgentRecord {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// A token that was not used yet.
    pub token: Option<EnrolToken>,
    /// The agent through which the node is reached.
    pub agent: Option<EnrolledAgent>,
}

/// A one-time token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnrolToken {
    /// SHA-256 of the token.
    pub sha256: String,
    /// Wall clock, ms since the epoch.
    pub expires_ms: i64,
    /// Who made it: `user/AK` or `user/token`.
    pub by: String,
}

/// An agent that has a credential.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnrolledAgent {
    /// Id; another enrolment of the node makes another one.
    pub id: String,
    /// SHA-256 of the secret part of its credential.
    pub secret_sha256: String,
    /// Version of its binary at its enrolment.
    pub version: String,
    /// Wall clock, ms since the epoch.
    pub enrolled_ms: i64,
}

/// Where a token or an agent belongs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AgentPlace {
    /// The project.
    pub project: String,
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
}
