//! One actor for every registered cluster, started and stopped as clusters come and go.

use crate::http::vault;
use crate::kube;
use crate::records::{self, ClusterRecord, PlaceRecord, keys};
use crate::secrets::KeyFile;
use crate::store::{KeyValue, Page, Store, StoreError};
use crate::sync::actor::{self, Setup};
use crate::sync::board::{Board, Snapshot};
use crate::sync::chain;
use crate::sync::clock::WallClock;
use crate::sync::points::Points;
use crate::sync::ports::Machines;
use evenkeel_engine::ids::Uid;
use evenkeel_engine::time::Span;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::AbortHandle;

/// Pause before the list of clusters is read again after the store failed.
const PAUSE: Duration = Duration::from_secs(1);
/// Pause before a cluster whose client could not be built is tried again.
const CLIENT_PAUSE: Duration = Duration::from_secs(10);

/// See the module.
pub struct Clusters {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Opens kubeconfigs.
    pub secrets: Arc<KeyFile>,
    /// The machines.
    pub machines: Arc<dyn Machines>,
    /// Where actors publish.
    pub board: Board,
    /// The wall clock.
    pub wall: WallClock,
    /// How API servers may be reached.
    pub options: kube::Options,
    /// Test points.
    pub points: Points,
    /// How long an ended job is kept.
    pub retention: Span,
    /// The pod that this process runs in.
    pub own_pod: Option<Uid>,
}

/// An actor at work; it ends with this.
struct Alive(AbortHandle);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Clusters {
    /// Runs until dropped.
    pub async fn run(self) {
        let mut alive = BTreeMap::new();
        loop {
            if let Err(error) = self.follow(&mut alive).await {
                tracing::warn!(error = chain(&error), "the list of clusters is read again");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn follow(&self, alive: &mut BTreeMap<String, Alive>) -> Result<(), StoreError> {
        let listing = self.store.list(keys::CLUSTER_PLACES, Page::all()).await?;
        alive.retain(|key, _| listing.items.iter().any(|kv| kv.key == *key));
        for kv in &listing.items {
            self.take(alive, kv).await?;
        }
        let mut watch = self.store.watch(keys::CLUSTER_PLACES, listing.revision + 1).await?;
        loop {
            for event in watch.next().await?.events {
                match event {
                    crate::store::Event::Put(kv) => self.take(alive, &kv).await?,
                    crate::store::Event::Delete { key } => {
                        alive.remove(&key);
                    }
                }
            }
        }
    }

    /// Starts the actor of a cluster that has none.
    async fn take(
        &self,
        alive: &mut BTreeMap<String, Alive>,
        kv: &KeyValue,
    ) -> Result<(), StoreError> {
        if alive.contains_key(&kv.key) {
            return Ok(());
        }
        let place: PlaceRecord = match records::decode(&kv.key, &kv.value) {
            Ok(place) => place,
            Err(error) => return left_out(&kv.key, &error),
        };
        let key = keys::cluster(&place.project, &place.cluster);
        let Some(stored) = self.store.get(&key, None).await? else {
            return Ok(());
        };
        let record: ClusterRecord = match records::decode(&key, &stored.value) {
            Ok(record) => record,
            Err(error) => return left_out(&key, &error),
        };
        let task = tokio::spawn(one(self.parts(&place.project), record)).abort_handle();
        alive.insert(kv.key.clone(), Alive(task));
        Ok(())
    }

    fn parts(&self, project: &str) -> Parts {
        Parts {
            project: project.to_owned(),
            store: self.store.clone(),
            secrets: self.secrets.clone(),
            machines: self.machines.clone(),
            board: self.board.clone(),
            wall: self.wall.clone(),
            options: self.options.clone(),
            points: self.points.clone(),
            own_pod: self.own_pod.clone(),
            retention: self.retention,
        }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the other clusters go on")]
fn left_out(key: &str, error: &records::RecordError) -> Result<(), StoreError> {
    tracing::error!(key, error = chain(error), "a cluster is left out");
    Ok(())
}

struct Parts {
    project: String,
    store: Arc<dyn Store>,
    secrets: Arc<KeyFile>,
    machines: Arc<dyn Machines>,
    board: Board,
    wall: WallClock,
    options: kube::Options,
    points: Points,
    own_pod: Option<Uid>,
    retention: Span,
}

async fn one(parts: Parts, record: ClusterRecord) {
    let kube = loop {
        match connect(&parts, &record).await {
            Ok(kube) => break kube,
            Err(trouble) => {
                tracing::error!(cluster.id = %record.id, reason = trouble, "no client");
                let trouble = Some(trouble);
                parts.board.publish(&record.id, Snapshot { trouble, ..Snapshot::default() });
                tokio::time::sleep(CLIENT_PAUSE).await;
            }
        }
    };
    let setup = Setup {
        project: parts.project,
        cluster: record.id,
        store: parts.store,
        kube: Arc::new(kube),
        machines: parts.machines,
        board: parts.board,
        wall: parts.wall,
        // SQLite's file lock keeps every other process out.
        exclusive: true,
        points: parts.points,
        own_pod: parts.own_pod,
        retention: parts.retention,
    };
    actor::run(setup).await;
}

async fn connect(parts: &Parts, record: &ClusterRecord) -> Result<kube::Api, String> {
    let place = vault::kubeconfig(&parts.project, &record.id);
    let clear = parts.secrets.unseal(&place, &record.kubeconfig).map_err(|e| chain(&e))?;
    let text = std::str::from_utf8(&clear).map_err(|e| chain(&e))?;
    kube::Api::connect(text, &parts.options).await.map_err(|e| chain(&e))
}
