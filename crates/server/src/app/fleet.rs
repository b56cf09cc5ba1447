//! One actor for every registered cluster, started and stopped as clusters come and go.

use crate::http::vault;
use crate::kube;
use crate::records::{self, ClusterRecord};
use crate::secrets::KeyFile;
use crate::store::{KeyValue, Page, Store, StoreError};
use crate::sync::actor::{self, Setup};
use crate::sync::board::{Board, Snapshot};
use crate::sync::chain;
use crate::sync::clock::WallClock;
use crate::sync::points::Points;
use crate::sync::ports::Machines;
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
}

struct Alive {
    kubeconfig: crate::secrets::Sealed,
    task: AbortHandle,
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.task.abort();
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
        let listing = self.store.list("p/", Page::all()).await?;
        let mut seen = Vec::new();
        for kv in &listing.items {
            if is_cluster(&kv.key) {
                self.take(alive, kv);
                seen.push(kv.key.clone());
            }
        }
        alive.retain(|key, _| seen.contains(key));
        let mut watch = self.store.watch("p/", listing.revision + 1).await?;
        loop {
            for event in watch.next().await?.events {
                match event {
                    crate::store::Event::Put(kv) if is_cluster(&kv.key) => self.take(alive, &kv),
                    crate::store::Event::Delete { key } if is_cluster(&key) => {
                        alive.remove(&key);
                    }
                    _ => {}
                }
            }
        }
    }

    fn take(&self, alive: &mut BTreeMap<String, Alive>, kv: &KeyValue) {
        let record: ClusterRecord = match records::decode(&kv.key, &kv.value) {
            Ok(record) => record,
            Err(error) => {
                tracing::error!(key = kv.key, error = chain(&error), "a cluster is left out");
                return;
            }
        };
        if alive.get(&kv.key).is_some_and(|a| a.kubeconfig == record.kubeconfig) {
            return;
        }
        let Some(project) = kv.key.split('/').nth(1) else {
            return;
        };
        let task = tokio::spawn(one(self.parts(project), record.clone())).abort_handle();
        alive.insert(kv.key.clone(), Alive { kubeconfig: record.kubeconfig, task });
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
        }
    }
}

fn is_cluster(key: &str) -> bool {
    let mut parts = key.split('/');
    parts.next() == Some("p") && parts.nth(1) == Some("clusters")
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
    };
    actor::run(setup).await;
}

async fn connect(parts: &Parts, record: &ClusterRecord) -> Result<kube::Api, String> {
    let place = vault::kubeconfig(&parts.project, &record.id);
    let clear = parts.secrets.unseal(&place, &record.kubeconfig).map_err(|e| chain(&e))?;
    let text = std::str::from_utf8(&clear).map_err(|e| chain(&e))?;
    kube::Api::connect(text, &parts.options).await.map_err(|e| chain(&e))
}
