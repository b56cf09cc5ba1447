//! What the actor needs of the outside world. Production, the simulator and tests implement these.

use crate::records::Dress;
use async_trait::async_trait;
pub use evenkeel_engine::action::{EvictAnswer, HostState, Stage};
use evenkeel_engine::facts::{BudgetSeen, Mark, NodeSeen, PodSeen};
use evenkeel_engine::ids::{JobId, NodeId, NodeName, ObjectKey, Uid};
use evenkeel_engine::preview::concern::Volumes;
use secrecy::SecretString;
use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Why an effect did not happen, or may not have happened.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Worth trying again: the other side was slow, unreachable or busy. The effect may have been applied.
    #[error("{what}")]
    Transient {
        /// What was tried and what the other side said; no secrets.
        what: String,
        /// The cause.
        #[source]
        source: Option<Box<dyn StdError + Send + Sync>>,
    },
    /// The API server's flow control refused the request: nothing was applied, and fewer requests are wanted.
    #[error("{what}")]
    Busy {
        /// What was tried and what the server said.
        what: String,
    },
    /// Trying again will not help until a person changes something.
    #[error("{what}")]
    Permanent {
        /// What was tried, what is wrong, and the way out; no secrets.
        what: String,
        /// The cause.
        #[source]
        source: Option<Box<dyn StdError + Send + Sync>>,
    },
    /// The object changed since we looked: the next observation decides.
    #[error("{what}")]
    Conflict {
        /// What was tried.
        what: String,
    },
    /// The object is gone.
    #[error("{what}")]
    Gone {
        /// What was looked for.
        what: String,
    },
}

impl Fault {
    /// A transient fault without a cause.
    pub fn transient(what: impl Into<String>) -> Self {
        Self::Transient { what: what.into(), source: None }
    }

    /// A permanent fault without a cause.
    pub fn permanent(what: impl Into<String>) -> Self {
        Self::Permanent { what: what.into(), source: None }
    }
}

/// One change that a watch brought.
#[derive(Clone, Debug)]
pub enum Seen {
    /// A node was added or changed.
    Node(NodeSeen),
    /// A node is gone.
    NodeGone(NodeName),
    /// A pod was added or changed.
    Pod(PodSeen),
    /// A pod is gone.
    PodGone(Uid),
    /// A budget was added or changed.
    Budget(BudgetSeen),
    /// A budget is gone.
    BudgetGone(ObjectKey),
    /// A full list follows or replaces everything known of this kind: what is not in it is gone.
    Relisted(Listed),
    /// Whether the view is live. While it is not, nothing new is started.
    Live(bool),
}

/// The complete content of one kind.
#[derive(Clone, Debug)]
pub enum Listed {
    /// All nodes.
    Nodes(Vec<NodeSeen>),
    /// All pods that are bound to a node.
    Pods(Vec<PodSeen>),
    /// All budgets.
    Budgets(Vec<BudgetSeen>),
}

/// What a fresh read of a node and its pods showed.
#[derive(Clone, Debug)]
pub struct LiveNode {
    /// The node; absent if it is gone.
    pub node: Option<NodeSeen>,
    /// Every pod bound to it.
    pub pods: Vec<PodSeen>,
}

/// A pod to move.
#[derive(Clone, Debug)]
pub struct PodRef {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Precondition: another pod of this name is left alone.
    pub uid: Uid,
}

/// The managed cluster's API server.
#[async_trait]
pub trait Cluster: Send + Sync + 'static {
    /// Starts listing and watching nodes, pods and budgets until the receiver is dropped. Reconnects by itself;
    /// says [`Seen::Live`] when the view is complete and when it is lost.
    async fn watch(&self) -> Result<mpsc::Receiver<Vec<Seen>>, Fault>;
    /// Writes our mark, only if the node is still at this UID and resourceVersion.
    async fn claim(&self, node: &NodeSeen, mark: &Mark) -> Result<(), Fault>;
    /// Sets `spec.unschedulable` (to false: and takes our taints away), only if the node is still at this UID and resourceVersion: a request that was held
    /// up on its way must not close a node that has been given back since.
    async fn set_unschedulable(&self, node: &NodeSeen, value: bool) -> Result<(), Fault>;
    /// Removes our mark and, if `uncordon`, makes the node schedulable, in one write at this resourceVersion.
    /// With `dress`, its labels and taints are set in the same write; those that people gave the node stay. Our startup
    /// taint goes with either, our steering taint always.
    async fn release(
        &self,
        node: &NodeSeen,
        uncordon: bool,
        dress: Option<&Dress>,
    ) -> Result<(), Fault>;
    /// Puts the steering taint on a node, or takes it off, at this UID and resourceVersion; all other taints stay.
    async fn steer(&self, node: &NodeSeen, away: bool) -> Result<(), Fault>;
    /// `policy/v1` eviction with UID precondition.
    async fn evict(&self, pod: &PodRef) -> Result<EvictAnswer, Fault>;
    /// The same without effect (`dryRun=All`): what the server would say now.
    async fn try_evict(&self, pod: &PodRef) -> Result<EvictAnswer, Fault>;
    /// Volumes that only some nodes reach, by the claim that is bound to them. Read anew at each call.
    async fn volumes(&self) -> Result<Volumes, Fault>;
    /// Deletes a pod with its own grace period and UID precondition: only with `force`.
    async fn delete(&self, pod: &PodRef) -> Result<(), Fault>;
    /// Reads the node and its pods from the API server, not from a cache.
    async fn confirm(&self, node: &NodeName) -> Result<LiveNode, Fault>;
    /// `spec.renewTime` of the node's Lease, in milliseconds since the epoch by the host's clock.
    async fn heartbeat(&self, node: &NodeName) -> Result<Option<i64>, Fault>;
    /// Leaves an Event on a node for people with kubectl.
    async fn event(
        &self,
        node: &NodeSeen,
        reason: &str,
        message: &str,
        warning: bool,
    ) -> Result<(), Fault>;
}

/// Everything needed to find a machine and prove that it is the right one.
#[derive(Clone, Debug)]
pub struct Target {
    /// The node's id.
    pub node_id: NodeId,
    /// The node's name.
    pub node: NodeName,
    /// Address as Kubernetes reports it; the cluster's address rule may override it.
    pub internal_ip: Option<Arc<str>>,
    /// Machine id as the kubelet reported it.
    pub machine_id: Option<Arc<str>>,
    /// Product UUID as the kubelet reported it.
    pub system_uuid: Option<Arc<str>>,
}

/// An order to a machine; (job, node, attempt, stage) runs at most once.
#[derive(Clone, Debug)]
pub struct HostOrder {
    /// The synchronization.
    pub job: JobId,
    /// The machine.
    pub target: Target,
    /// 1 for the first.
    pub attempt: u32,
    /// Which part.
    pub stage: Stage,
    /// The actor's lease epoch.
    pub epoch: u64,
}

/// What a machine needs to join its cluster again.
pub struct Ticket {
    /// URL of the API server.
    pub server: String,
    /// Its CA, base64 of PEM; absent if the kubeconfig has none.
    pub ca_data: Option<String>,
    /// Bootstrap token, `id.secret`.
    pub token: SecretString,
    /// The part of the token by which it is withdrawn.
    pub token_id: String,
}

/// The managed cluster's side of a join, for recipes that join by bootstrap token.
#[async_trait]
pub trait Joiner: Send + Sync + 'static {
    /// The API server's version, as `v1.36.3`.
    async fn version(&self) -> Result<String, Fault>;
    /// Makes a bootstrap token that expires by itself after `life`.
    async fn ticket(&self, node: &NodeName, life: Duration) -> Result<Ticket, Fault>;
    /// Deletes a bootstrap token; one that is gone is fine.
    async fn withdraw(&self, token_id: &str) -> Result<(), Fault>;
    /// Says that the node's kubelet was stopped, and that what `conditions` said of it no longer holds, in one write;
    /// a node that is gone is fine.
    async fn kubelet_stopped(&self, node: &NodeName, conditions: &[String]) -> Result<(), Fault>;
}

/// The machines behind the nodes.
#[async_trait]
pub trait Machines: Send + Sync + 'static {
    /// Reaches the machine, proves its identity and that the recipe can run there. Changes nothing.
    async fn probe(&self, job: &JobId, target: &Target) -> Result<(), Fault>;
    /// Makes sure the order was given (once) and follows it to its end. Progress goes to `progress` as it is
    /// seen. An `Err` means that the outcome is unknown (transient) or that the order was refused (permanent);
    /// calling again re-attaches.
    async fn run(
        &self,
        order: &HostOrder,
        progress: mpsc::Sender<HostState>,
    ) -> Result<HostState, Fault>;
    /// Removes what is kept of a job that has ended: outputs, and which orders machines were given. Nothing is done
    /// on a machine. Removing what is not there is no error.
    async fn forget(&self, job: &JobId) -> Result<(), Fault>;
}
