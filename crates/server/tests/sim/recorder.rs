//! The store, with a witness: what becomes durable is a fact, in its place among what happens in the world.

use crate::rig::Rig;
use async_trait::async_trait;
use evenkeel_engine::check::Fact;
use evenkeel_engine::ids::JobId;
use evenkeel_engine::sync::{Status, SyncState, Work};
use evenkeel_server::records;
use evenkeel_server::store::memory::MemoryStore;
use evenkeel_server::store::{
    KeyValue, LeaseId, Listing, Op, Page, Revision, Store, StoreError, Txn, TxnResult, Watch,
};
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone)]
pub struct Recorder {
    pub store: MemoryStore,
    pub rig: Arc<Rig>,
}

impl Recorder {
    fn witness(&self, txn: &Txn) {
        self.rig.with(|inner| {
            for op in &txn.then {
                let Op::Put { key, value, .. } = op else {
                    continue;
                };
                if let Some((_, rest)) = key.split_once("/works/") {
                    let job = JobId::new(rest.split('/').next().unwrap_or_default());
                    let work: Work = records::decode(key, value).expect("what we wrote");
                    inner.note(&format!(
                        "STORED {job} {} #{} {:?}",
                        work.name, work.attempt, work.phase
                    ));
                    if work.phase.is_active() {
                        inner.phases.insert(work.name.clone(), work.phase.word());
                    } else {
                        inner.phases.remove(&work.name);
                    }
                    inner.fact(&Fact::Stored { job, work: Box::new(work) });
                } else if let Some((_, job)) = key.split_once("/states/") {
                    let state: SyncState = records::decode(key, value).expect("what we wrote");
                    inner.note(&format!("STATE {job} {:?}", state.status));
                    if state.status != Status::Running {
                        inner.fact(&Fact::Verdict { job: JobId::new(job) });
                    }
                }
            }
        });
    }
}

#[async_trait]
impl Store for Recorder {
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<Option<KeyValue>, StoreError> {
        self.store.get(key, at).await
    }

    async fn list(&self, prefix: &str, page: Page) -> Result<Listing, StoreError> {
        self.store.list(prefix, page).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        // A store in trouble, now and then: before anything is stored, or after.
        let trouble = self.rig.with(|inner| {
            let on = inner.world.faults_on() && inner.life > 0;
            (on && inner.rng.chance(4)).then(|| inner.rng.chance(500))
        });
        let fail = |in_doubt| StoreError::Transient {
            during: "a simulated disk is slow",
            in_doubt,
            source: "simulated".into(),
        };
        if trouble == Some(false) {
            return Err(fail(false));
        }
        let done = self.store.txn(txn.clone()).await?;
        if done.succeeded {
            self.witness(&txn);
        }
        if trouble == Some(true) { Err(fail(true)) } else { Ok(done) }
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        self.store.watch(prefix, from).await
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.store.lease_grant(ttl).await
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.lease_keep_alive(lease).await
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.lease_revoke(lease).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.store.compact(revision).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.store.revision().await
    }
}
