//! The store, with a witness: what becomes durable is a fact, in its place among what happens in the world. It
//! is one controller's way to the store: it dies with it, before or after a write, and can be cut.

use crate::reaper::{Reaper, Side};
use crate::rig::Rig;
use async_trait::async_trait;
use evenkeel_engine::check::Fact;
use evenkeel_engine::ids::JobId;
use evenkeel_engine::sync::{Status, SyncState, Work};
use evenkeel_server::records;
use evenkeel_server::store::memory::MemoryStore;
use evenkeel_server::store::{
    Batch, KeyValue, LeaseId, Listing, Op, Page, Revision, Store, StoreError, Txn, TxnResult,
    Watch, WatchSource,
};
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone)]
pub struct Recorder {
    pub store: MemoryStore,
    pub rig: Arc<Rig>,
    pub reaper: Arc<Reaper>,
    /// A planted defect: a write that failed is reported as done.
    pub lies: bool,
}

/// What the disk does with a write.
enum Disk {
    Well,
    Fails,
    FailsAfterwards,
}

impl Recorder {
    /// Waits while the way to the store is cut. Whoever is dead waits for ever.
    async fn reach(&self) {
        loop {
            if self.reaper.is_dead() {
                std::future::pending::<()>().await;
            }
            let now = self.rig.now();
            let Some(left) = self.reaper.cut_until().checked_sub(now).filter(|ms| *ms > 0) else {
                return;
            };
            tokio::time::sleep(Duration::from_millis(left)).await;
        }
    }

    /// A store in trouble, now and then: before anything is stored, or after; or it takes its time.
    fn disk(&self) -> (Disk, u64) {
        self.rig.with(|inner| {
            if !inner.world.faults_on() {
                return (Disk::Well, 0);
            }
            let plan = inner.world.plan();
            let (fails, slow) = (plan.store_per_mille, plan.store_slow_per_mille);
            let mut ms = 0;
            if slow > 0 && inner.rng.chance(slow) {
                inner.world.coverage.store_slow += 1;
                ms = inner.rng.range(500, 5000);
            }
            let disk = match inner.rng.chance(fails) {
                false => Disk::Well,
                true if inner.rng.chance(500) => Disk::Fails,
                true => Disk::FailsAfterwards,
            };
            let coverage = &mut inner.world.coverage;
            coverage.store_errors += u64::from(matches!(disk, Disk::Fails));
            coverage.store_errors_after += u64::from(matches!(disk, Disk::FailsAfterwards));
            (disk, ms)
        })
    }

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

/// A watch ends when the way to the store is cut.
struct CutWatch {
    watch: Watch,
    way: Recorder,
}

#[async_trait]
impl WatchSource for CutWatch {
    async fn next(&mut self) -> Result<Batch, StoreError> {
        if self.way.reaper.cut_until() > 0 {
            self.way.reach().await;
            return Err(StoreError::Closed);
        }
        self.watch.next().await
    }
}

#[async_trait]
impl Store for Recorder {
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<Option<KeyValue>, StoreError> {
        self.reach().await;
        self.store.get(key, at).await
    }

    async fn list(&self, prefix: &str, page: Page) -> Result<Listing, StoreError> {
        self.reach().await;
        self.store.list(prefix, page).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        self.reach().await;
        let fail = |in_doubt| StoreError::Transient {
            during: "a simulated disk is slow",
            in_doubt,
            source: "simulated".into(),
        };
        let (disk, ms) = self.disk();
        tokio::time::sleep(Duration::from_millis(ms)).await;
        self.reach().await;
        self.reaper.writes(Side::Before).await;
        match disk {
            Disk::Fails if self.lies => {
                let revision = self.store.revision().await?;
                return Ok(TxnResult { succeeded: true, revision, reads: Vec::new() });
            }
            Disk::Fails => return Err(fail(false)),
            Disk::Well | Disk::FailsAfterwards => {}
        }
        let done = self.store.txn(txn.clone()).await?;
        if done.succeeded {
            self.witness(&txn);
        }
        self.reaper.writes(Side::After).await;
        if matches!(disk, Disk::FailsAfterwards) { Err(fail(true)) } else { Ok(done) }
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        self.reach().await;
        let watch = self.store.watch(prefix, from).await?;
        Ok(Watch::new(CutWatch { watch, way: self.clone() }))
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.reach().await;
        self.store.lease_grant(ttl).await
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.reach().await;
        self.store.lease_keep_alive(lease).await
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.reach().await;
        self.store.lease_revoke(lease).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.store.compact(revision).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.store.revision().await
    }
}
