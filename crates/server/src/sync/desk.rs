//! Where an actor lends what it sees to whoever has a question that changes nothing.
//!
//! Entry points: [`Desks::ask`] and, for the actor, [`Desks::open`]. The actor gives a copy away and goes on: whatever
//! is worked out from it is worked out elsewhere.

use super::ports::Cluster;
use evenkeel_engine::ids::ClusterId;
use evenkeel_engine::index::Index;
use evenkeel_engine::learn::Learned;
use evenkeel_engine::time::Time;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Questions that may wait for one actor; a preview takes it some milliseconds.
const QUEUE: usize = 16;
/// An actor that gives no answer for so long is in trouble: a turn takes milliseconds.
const LIMIT: Duration = Duration::from_secs(10);

/// What an actor saw when it was asked.
pub struct Glimpse {
    /// The cluster.
    pub index: Index,
    /// What earlier nodes taught.
    pub learned: Learned,
    /// Now, on the cluster's clock.
    pub now: Time,
    /// Its API server.
    pub kube: Arc<dyn Cluster>,
}

/// Where one actor takes its questions from.
pub type Questions = mpsc::Receiver<oneshot::Sender<Glimpse>>;

/// All actors' desks.
#[derive(Clone, Debug, Default)]
pub struct Desks(Arc<RwLock<BTreeMap<ClusterId, mpsc::Sender<oneshot::Sender<Glimpse>>>>>);

impl Desks {
    /// Opens a cluster's desk; an earlier one is closed.
    pub fn open(&self, cluster: &ClusterId) -> Questions {
        let (sender, questions) = mpsc::channel(QUEUE);
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(cluster.clone(), sender);
        questions
    }

    /// What the actor of a cluster sees; nothing if none answers.
    pub async fn ask(&self, cluster: &ClusterId) -> Option<Glimpse> {
        let desk = self.0.read().unwrap_or_else(PoisonError::into_inner).get(cluster).cloned()?;
        let (sender, glimpse) = oneshot::channel();
        let asked = async {
            desk.send(sender).await.ok()?;
            glimpse.await.ok()
        };
        tokio::time::timeout(LIMIT, asked).await.ok().flatten()
    }
}
