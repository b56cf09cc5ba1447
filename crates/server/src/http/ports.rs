//! What handlers need of the outside but must not do themselves. The composition root implements these.
//!
//! Absent on purpose: Kubernetes and SSH types. A handler records what is wanted; whoever stands behind a port acts.

use async_trait::async_trait;
use evenkeel_engine::ids::{ClusterId, JobId, NodeId, NodeName};

use crate::sync::ports::Stage;

/// Looks at a cluster before it is registered.
#[async_trait]
pub trait Registrar: Send + Sync + 'static {
    /// Reads the kubeconfig strictly, reaches the API server and checks the rights that a synchronization needs.
    /// Changes nothing.
    async fn check(&self, kubeconfig: &str) -> Result<Registered, RegisterError>;
}

/// What a look at the cluster showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// `gitVersion` of the API server, such as `v1.34.1`.
    pub version: String,
    /// URL of the API server, for people.
    pub server: String,
    /// What is to be stored; may differ from what was given, for example after the exchange of a credential.
    pub kubeconfig: String,
}

/// Why a cluster was not registered. The texts reach the user: field, value, way out; no secrets.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// The kubeconfig is not acceptable.
    #[error("{0}")]
    Kubeconfig(String),
    /// The API server could not be reached or refused the credential.
    #[error("{0}")]
    Unreachable(String),
    /// Rights are missing.
    #[error("{0}")]
    Rights(String),
}

/// Which output is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputQuery {
    /// The cluster.
    pub cluster: ClusterId,
    /// The synchronization.
    pub job: JobId,
    /// The node.
    pub node: NodeName,
    /// Its id.
    pub node_id: NodeId,
    /// 1 for the first.
    pub attempt: u32,
    /// Which part.
    pub stage: Stage,
    /// Bytes to leave out at the start.
    pub offset: u64,
}

/// A piece of a script's output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutputChunk {
    /// The bytes.
    pub data: Vec<u8>,
    /// Where the next piece begins.
    pub next_offset: u64,
    /// Whether nothing will follow.
    pub complete: bool,
}

/// Reads what scripts printed. It is kept outside the store's revisions.
#[async_trait]
pub trait OutputSource: Send + Sync + 'static {
    /// The piece at `offset`; `None` if nothing is kept for that attempt.
    async fn read(&self, query: &OutputQuery) -> std::io::Result<Option<OutputChunk>>;
}

/// Turns clear passwords of nodes into what is stored. Both calls are slow on purpose; call them off the runtime.
pub trait Passwords: Send + Sync + 'static {
    /// A fresh sha512-crypt string, `$6$...`.
    fn hash(&self, clear: &str) -> Result<String, PasswordError>;
    /// Whether the hash was made from this password.
    fn matches(&self, clear: &str, hash: &str) -> bool;
}

/// No hash could be made.
#[derive(Debug, thiserror::Error)]
#[error("the password could not be hashed: {0}")]
pub struct PasswordError(pub String);
