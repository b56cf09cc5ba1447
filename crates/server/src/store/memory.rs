//! The store in memory: for tests, rehearsals and the simulator.
//!
//! Entry point: [`MemoryStore`]. It starts no thread or task and takes the time from tokio's
//! clock, so that it is deterministic and follows a paused clock: leases end when somebody looks,
//! and a waiting watch looks at the next deadline. Clones share one state, as processes share a
//! disk. Absent on purpose: durability.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;

use super::tail::{TAIL_BATCHES, Tail, TailRead, TailWatch};
use super::txn::check_key;
use super::types::{check_readable, lease_ttl};
use super::{
    Batch, Event, KeyValue, LeaseId, Listing, Op, Page, Revision, Store, StoreError, Txn,
    TxnResult, Watch,
};

/// A store that lives as long as its last clone.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<Revision>,
}

#[derive(Default)]
struct State {
    revision: Revision,
    compacted: Revision,
    /// Versions of each key, oldest first; never empty.
    keys: BTreeMap<String, Vec<Version>>,
    log: BTreeMap<Revision, Vec<Event>>,
    leases: BTreeMap<LeaseId, Lease>,
    last_lease: u64,
}

struct Version {
    revision: Revision,
    /// `None` is a deletion.
    kv: Option<KeyValue>,
}

struct Lease {
    ttl: Duration,
    deadline: Instant,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        let shared = Shared { state: Mutex::default(), changed: watch::Sender::new(0) };
        Self { shared: Arc::new(shared) }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Shared {
    /// Runs `f` on the state after ending the leases that are due, then tells the watches.
    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        state.expire(Instant::now());
        let result = f(&mut state);
        let revision = state.revision;
        drop(state);
        self.changed.send_if_modified(|seen| std::mem::replace(seen, revision) != revision);
        result
    }

    /// The state stays consistent if a holder panics: it panics before it changes anything.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn at(&self, key: &str, revision: Revision) -> Option<&KeyValue> {
        let versions = self.keys.get(key)?;
        versions.iter().rev().find(|v| v.revision <= revision)?.kv.as_ref()
    }

    fn now(&self, key: &str) -> Option<&KeyValue> {
        self.keys.get(key)?.last()?.kv.as_ref()
    }

    fn under(&self, prefix: &str) -> Vec<String> {
        self.keys
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter(|(_, versions)| versions.last().is_some_and(|v| v.kv.is_some()))
            .map(|(key, _)| key.clone())
            .collect()
    }

    fn expire(&mut self, now: Instant) {
        let mut due: Vec<_> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.deadline <= now)
            .map(|(id, lease)| (lease.deadline, *id))
            .collect();
        due.sort_unstable();
        for (_, id) in due {
            self.end_lease(id);
        }
    }

    fn end_lease(&mut self, id: LeaseId) {
        self.leases.remove(&id);
        let keys: Vec<_> = self
            .under("")
            .into_iter()
            .filter(|key| self.now(key).is_some_and(|kv| kv.lease == Some(id)))
            .collect();
        let revision = self.revision + 1;
        for key in keys {
            self.delete(&key, revision);
        }
        self.settle(revision);
    }

    fn put(&mut self, key: &str, value: &bytes::Bytes, lease: Option<LeaseId>, revision: Revision) {
        let (create_revision, version) =
            self.now(key).map_or((revision, 1), |old| (old.create_revision, old.version + 1));
        let kv = KeyValue {
            key: key.to_owned(),
            value: value.clone(),
            create_revision,
            mod_revision: revision,
            version,
            lease,
        };
        self.log.entry(revision).or_default().push(Event::Put(kv.clone()));
        self.keys.entry(key.to_owned()).or_default().push(Version { revision, kv: Some(kv) });
    }

    fn delete(&mut self, key: &str, revision: Revision) {
        if self.now(key).is_some() {
            self.log.entry(revision).or_default().push(Event::Delete { key: key.to_owned() });
            self.keys.entry(key.to_owned()).or_default().push(Version { revision, kv: None });
        }
    }

    /// Takes the revision if something was logged under it.
    fn settle(&mut self, revision: Revision) {
        if self.log.contains_key(&revision) {
            self.revision = revision;
        }
    }

    fn txn(&mut self, txn: &Txn) -> Result<TxnResult, StoreError> {
        let succeeded = txn.compares.iter().all(|compare| compare.holds(self.now(compare.key())));
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        for op in ops {
            if let Op::Put { lease: Some(lease), .. } = op
                && !self.leases.contains_key(lease)
            {
                return Err(StoreError::LeaseNotFound(*lease));
            }
        }
        let revision = self.revision + 1;
        let mut reads = Vec::new();
        for op in ops {
            match op {
                Op::Put { key, value, lease } => self.put(key, value, *lease, revision),
                Op::Delete { key } => self.delete(key, revision),
                Op::DeletePrefix { prefix } => {
                    for key in self.under(prefix) {
                        self.delete(&key, revision);
                    }
                }
                Op::Get { key } => reads.push(self.now(key).cloned()),
            }
        }
        self.settle(revision);
        Ok(TxnResult { succeeded, revision: self.revision, reads })
    }

    fn list(&self, prefix: &str, page: &Page) -> Result<Listing, StoreError> {
        let revision = check_readable(page.at, self.compacted, self.revision)?;
        let start = match page.after.as_deref() {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut found = self
            .keys
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter_map(|(key, _)| self.at(key, revision));
        let items: Vec<_> = found.by_ref().take(page.limit).cloned().collect();
        let more = found.next().is_some();
        Ok(Listing { items, revision, more })
    }

    fn tail(&self, prefix: &str, from: Revision) -> Result<TailRead, StoreError> {
        if from < self.compacted {
            let compact_revision = self.compacted;
            return Err(StoreError::Compacted { requested: from, compact_revision });
        }
        let mut batches = Vec::new();
        for (&revision, events) in self.log.range(from..) {
            let events: Vec<_> =
                events.iter().filter(|e| e.key().starts_with(prefix)).cloned().collect();
            if !events.is_empty() {
                batches.push(Batch { revision, events });
                if batches.len() == TAIL_BATCHES {
                    return Ok(TailRead { batches, next: revision + 1 });
                }
            }
        }
        Ok(TailRead { batches, next: from.max(self.revision + 1) })
    }

    fn compact(&mut self, to: Revision) -> Result<(), StoreError> {
        check_readable(Some(to), 0, self.revision)?;
        if to <= self.compacted {
            return Ok(());
        }
        self.compacted = to;
        self.log = self.log.split_off(&to);
        self.keys.retain(|_, versions| {
            let keep = versions.iter().rposition(|v| v.revision <= to).unwrap_or(0);
            versions.drain(..keep);
            versions.len() > 1 || versions[0].kv.is_some()
        });
        Ok(())
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<Option<KeyValue>, StoreError> {
        check_key(key)?;
        self.shared.with(|state| {
            let revision = check_readable(at, state.compacted, state.revision)?;
            Ok(state.at(key, revision).cloned())
        })
    }

    async fn list(&self, prefix: &str, page: Page) -> Result<Listing, StoreError> {
        self.shared.with(|state| state.list(prefix, &page))
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        txn.validate()?;
        self.shared.with(|state| state.txn(&txn))
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        let changed = self.shared.changed.subscribe();
        TailWatch::start(Arc::clone(&self.shared), changed, prefix, from).await.map(Watch::new)
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let ttl = lease_ttl(ttl);
        Ok(self.shared.with(|state| {
            state.last_lease += 1;
            let id = LeaseId(state.last_lease);
            state.leases.insert(id, Lease { ttl, deadline: Instant::now() + ttl });
            id
        }))
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.shared.with(|state| {
            let known = state.leases.get_mut(&lease).ok_or(StoreError::LeaseNotFound(lease))?;
            known.deadline = Instant::now() + known.ttl;
            Ok(())
        })
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.shared.with(|state| {
            if !state.leases.contains_key(&lease) {
                return Err(StoreError::LeaseNotFound(lease));
            }
            state.end_lease(lease);
            Ok(())
        })
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.shared.with(|state| state.compact(revision))
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        Ok(self.shared.with(|state| state.revision))
    }
}

#[async_trait]
impl Tail for Shared {
    async fn read_tail(&self, prefix: &str, from: Revision) -> Result<TailRead, StoreError> {
        self.with(|state| state.tail(prefix, from))
    }

    fn wake_at(&self) -> Option<Instant> {
        self.lock().leases.values().map(|lease| lease.deadline).min()
    }
}
