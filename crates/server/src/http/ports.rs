//! What handlers need of the outside but must not do themselves. The composition root implements these.
//!
//! Absent on purpose: Kubernetes and SSH types. A handler records what is wanted; whoever stands behind a port acts.

use async_trait::async_trait;
use evenkeel_engine::action::EvictAnswer;
use evenkeel_engine::ids::{ClusterId, JobId, NodeId, NodeName, ObjectKey};
use evenkeel_engine::preview::{Ask, Preview};
use std::collections::BTreeMap;
use std::sync::Arc;

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

/// Says what a synchronization would do, from what is seen of a cluster now.
#[async_trait]
pub trait Previews: Send + Sync + 'static {
    /// Changes nothing; the API server is only read, and asked to try evictions without effect.
    async fn preview(&self, cluster: &ClusterId, ask: Ask) -> Result<Foreseen, PreviewError>;
}

/// A preview, and what was asked of the API server for it.
#[derive(Clone, Debug)]
pub struct Foreseen {
    /// The preview.
    pub preview: Preview,
    /// What the API server said to the hardest evictions.
    pub trials: Vec<Trial>,
    /// What could not be found out, in words.
    pub unknown: Vec<String>,
    /// Zones of the nodes.
    pub zones: BTreeMap<NodeName, Arc<str>>,
}

/// An eviction that was tried without effect.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The pod.
    pub pod: ObjectKey,
    /// The budget that guards it.
    pub budget: Option<ObjectKey>,
    /// The server's answer; nothing if there was none in time.
    pub answer: Option<EvictAnswer>,
    /// Why there was none.
    pub trouble: String,
}

/// Why there is no preview.
#[derive(Debug, thiserror::Error)]
pub enum PreviewError {
    /// Nothing, or nothing current, is seen of the cluster.
    #[error("the cluster is not seen: {0}")]
    NotSeen(String),
    /// A defect of ours.
    #[error("making the preview broke off")]
    Broken(#[source] tokio::task::JoinError),
}

/// Reads the SSH host keys of machines, before anybody trusts them.
#[async_trait]
pub trait Scanner: Send + Sync + 'static {
    /// What the machine at `place` (`host` or `host:port`) shows, without logging in. An error is in words for people.
    async fn scan(&self, place: &str, port: u16) -> Result<Scanned, String>;
}

/// A host key as it was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scanned {
    /// `host:port`.
    pub address: String,
    /// OpenSSH public key line.
    pub host_key: String,
    /// Its SHA-256 fingerprint.
    pub fingerprint: String,
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
