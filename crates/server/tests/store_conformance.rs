//! One suite for every store: random sequences against a model, and the cases worth a name.
//!
//! The model keeps a full snapshot per revision, so that it shares no idea with any backend.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use evenkeel_server::store::memory::MemoryStore;
use evenkeel_server::store::sqlite::{SqliteOptions, SqliteStore};
use evenkeel_server::store::{
    Batch, Compare, Event, KeyValue, LeaseId, Listing, MAX_KEY_BYTES, MAX_TXN_OPS, MAX_VALUE_BYTES,
    Op, Page, Revision, Store, StoreError, Txn, TxnResult, Watch,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use tempfile::TempDir;

/// How long a watch may take for a batch that is already in the store.
const DELIVERY: Duration = Duration::from_secs(20);
/// Steps of one random sequence.
const STEPS: usize = 40;

/// Keys that are neighbours in all the ways that matter to prefixes.
const KEYS: [&str; 7] = ["a", "a/", "a/1", "a/2", "a/\u{d7ff}", "ab", "b/\u{10ffff}x"];
const PREFIXES: [&str; 7] = ["", "a", "a/", "a/\u{d7ff}", "b/\u{10ffff}", "b", "zz"];

/// A store with a clock that the test moves.
#[async_trait]
trait Bench: Send + Sync {
    fn store(&self) -> &dyn Store;
    async fn advance(&self, by: Duration);
}

struct Memory(MemoryStore);

#[async_trait]
impl Bench for Memory {
    fn store(&self) -> &dyn Store {
        &self.0
    }
    async fn advance(&self, by: Duration) {
        tokio::time::advance(by).await;
    }
}

struct Sqlite {
    store: SqliteStore,
    now: Arc<Mutex<Instant>>,
    _dir: TempDir,
}

impl Sqlite {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let now = Arc::new(Mutex::new(Instant::now()));
        let clock = Arc::clone(&now);
        let options =
            SqliteOptions { clock: Arc::new(move || *clock.lock().unwrap()), ..Default::default() };
        let store = SqliteStore::open(&dir.path().join("store.db"), options).unwrap();
        Self { store, now, _dir: dir }
    }
}

#[async_trait]
impl Bench for Sqlite {
    fn store(&self) -> &dyn Store {
        &self.store
    }
    async fn advance(&self, by: Duration) {
        *self.now.lock().unwrap() += by;
        // Any change makes the store look at its clock.
        self.store.lease_keep_alive(LeaseId(u64::MAX)).await.unwrap_err();
    }
}

/// Runs a test on each backend; the memory one under a paused clock.
fn on_each<F: Future<Output = ()>>(test: impl Fn(Box<dyn Bench>) -> F) {
    let paused = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    paused.block_on(test(Box::new(Memory(MemoryStore::new()))));
    let real = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    real.block_on(test(Box::new(Sqlite::new())));
}

async fn next(watch: &mut Watch) -> Result<Batch, StoreError> {
    tokio::time::timeout(DELIVERY, watch.next()).await.expect("a watch delivers what is stored")
}

/// Errors as far as backends must agree on them.
fn kind(error: StoreError) -> String {
    match error {
        StoreError::Compacted { compact_revision, .. } => format!("compacted {compact_revision}"),
        StoreError::FutureRevision { revision, .. } => format!("future {revision}"),
        StoreError::LeaseNotFound(lease) => format!("no lease {lease}"),
        StoreError::Invalid(_) => "invalid".to_owned(),
        other => format!("unexpected: {other:?}"),
    }
}

// ---- the model ----

#[derive(Default)]
struct Model {
    /// All keys after each revision; the first entry is revision 0.
    states: Vec<BTreeMap<String, KeyValue>>,
    events: Vec<Batch>,
    compacted: Revision,
    leases: BTreeMap<LeaseId, (u64, u64)>,
    granted: u64,
    now: u64,
}

impl Model {
    fn new() -> Self {
        Self { states: vec![BTreeMap::new()], ..Self::default() }
    }

    fn revision(&self) -> Revision {
        self.states.len() as u64 - 1
    }

    fn at(&self, at: Option<Revision>) -> Result<Revision, String> {
        match at {
            Some(at) if at < self.compacted => Err(format!("compacted {}", self.compacted)),
            Some(at) if at > self.revision() => Err(format!("future {}", self.revision())),
            other => Ok(other.unwrap_or(self.revision())),
        }
    }

    fn get(&self, key: &str, at: Option<Revision>) -> Result<Option<KeyValue>, String> {
        Ok(self.states[self.at(at)? as usize].get(key).cloned())
    }

    fn list(&self, prefix: &str, page: &Page) -> Result<Listing, String> {
        let revision = self.at(page.at)?;
        let mut items: Vec<_> = self.states[revision as usize]
            .values()
            .filter(|kv| kv.key.starts_with(prefix))
            .filter(|kv| page.after.as_ref().is_none_or(|after| kv.key > *after))
            .cloned()
            .collect();
        let more = items.len() > page.limit;
        items.truncate(page.limit);
        Ok(Listing { items, revision, more })
    }

    fn write(&mut self, writes: Vec<Op>) -> Vec<Option<KeyValue>> {
        let revision = self.revision() + 1;
        let mut state = self.states.last().unwrap().clone();
        let (mut events, mut reads) = (Vec::new(), Vec::new());
        for op in writes {
            match op {
                Op::Put { key, value, lease } => {
                    let old = state.get(&key);
                    let kv = KeyValue {
                        key: key.clone(),
                        value,
                        create_revision: old.map_or(revision, |old| old.create_revision),
                        mod_revision: revision,
                        version: old.map_or(1, |old| old.version + 1),
                        lease,
                    };
                    events.push(Event::Put(kv.clone()));
                    state.insert(key, kv);
                }
                Op::Delete { key } => {
                    if state.remove(&key).is_some() {
                        events.push(Event::Delete { key });
                    }
                }
                Op::DeletePrefix { prefix } => {
                    let keys: Vec<_> =
                        state.keys().filter(|key| key.starts_with(&prefix)).cloned().collect();
                    for key in keys {
                        state.remove(&key);
                        events.push(Event::Delete { key });
                    }
                }
                Op::Get { key } => reads.push(state.get(&key).cloned()),
            }
        }
        if !events.is_empty() {
            self.states.push(state);
            self.events.push(Batch { revision, events });
        }
        reads
    }

    fn txn(&mut self, txn: Txn) -> Result<TxnResult, String> {
        for ops in [&txn.then, &txn.otherwise] {
            let writes = |key: &str, at: usize| {
                ops.iter().enumerate().any(|(i, op)| match op {
                    Op::Put { key: put, .. } => i != at && put == key,
                    Op::Delete { key: gone } => gone == key,
                    Op::DeletePrefix { prefix } => key.starts_with(prefix.as_str()),
                    Op::Get { .. } => false,
                })
            };
            let twice = ops
                .iter()
                .enumerate()
                .any(|(i, op)| matches!(op, Op::Put { key, .. } if writes(key, i)));
            if twice {
                return Err("invalid".to_owned());
            }
        }
        let state = self.states.last().unwrap();
        let succeeded = txn.compares.iter().all(|compare| match compare {
            Compare::Absent(key) => !state.contains_key(key),
            Compare::ModRevision(key, at) => {
                state.get(key).is_some_and(|kv| kv.mod_revision == *at)
            }
            Compare::CreateRevision(key, at) => {
                state.get(key).is_some_and(|kv| kv.create_revision == *at)
            }
            Compare::Value(key, value) => state.get(key).is_some_and(|kv| kv.value == *value),
        });
        let ops = if succeeded { txn.then } else { txn.otherwise };
        for op in &ops {
            if let Op::Put { lease: Some(lease), .. } = op
                && !self.leases.contains_key(lease)
            {
                return Err(format!("no lease {lease}"));
            }
        }
        let reads = self.write(ops);
        Ok(TxnResult { succeeded, revision: self.revision(), reads })
    }

    fn end_lease(&mut self, lease: LeaseId) -> Result<(), String> {
        self.leases.remove(&lease).ok_or(format!("no lease {lease}"))?;
        let state = self.states.last().unwrap();
        let keys = state.values().filter(|kv| kv.lease == Some(lease)).map(|kv| kv.key.clone());
        let ops = keys.map(|key| Op::Delete { key }).collect();
        self.write(ops);
        Ok(())
    }

    fn advance(&mut self, seconds: u64) {
        self.now += seconds;
        let mut due: Vec<_> = self.leases.iter().map(|(id, (_, end))| (*end, *id)).collect();
        due.retain(|(end, _)| *end <= self.now);
        due.sort_unstable();
        for (_, lease) in due {
            self.end_lease(lease).unwrap();
        }
    }

    /// The first batch under `prefix` from revision `from` on.
    fn next_batch(&self, prefix: &str, from: Revision) -> Option<Batch> {
        self.events.iter().filter(|batch| batch.revision >= from).find_map(|batch| {
            let events: Vec<_> =
                batch.events.iter().filter(|e| e.key().starts_with(prefix)).cloned().collect();
            (!events.is_empty()).then_some(Batch { revision: batch.revision, events })
        })
    }
}

// ---- random sequences ----

#[derive(Debug, Clone)]
enum Step {
    Txn { compares: Vec<Pick>, then: Vec<Pick>, otherwise: Vec<Pick> },
    Get { key: &'static str, back: Option<u64> },
    List { prefix: &'static str, after: Option<&'static str>, limit: usize, back: Option<u64> },
    Watch { prefix: &'static str, back: u64 },
    Drain(usize),
    Grant(u64),
    KeepAlive(u64),
    Revoke(u64),
    Advance(u64),
    Compact { back: u64 },
}

/// A compare or an operation, as numbers that the run makes sense of.
#[derive(Debug, Clone)]
struct Pick {
    what: u8,
    key: &'static str,
    number: u64,
}

fn picks(most: usize) -> impl Strategy<Value = Vec<Pick>> {
    let pick = (0u8..8, select(&KEYS[..]), 0u64..6);
    vec(pick.prop_map(|(what, key, number)| Pick { what, key, number }), 0..=most)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let back = || prop::option::of(0u64..12);
    let step = prop_oneof![
        8 => (picks(2), picks(4), picks(2))
            .prop_map(|(compares, then, otherwise)| Step::Txn { compares, then, otherwise }),
        2 => (select(&KEYS[..]), back()).prop_map(|(key, back)| Step::Get { key, back }),
        2 => (select(&PREFIXES[..]), prop::option::of(select(&KEYS[..])), 0usize..5, back())
            .prop_map(|(prefix, after, limit, back)| Step::List { prefix, after, limit, back }),
        1 => (select(&PREFIXES[..]), 0u64..12).prop_map(|(prefix, back)| Step::Watch { prefix, back }),
        2 => (0usize..8).prop_map(Step::Drain),
        1 => (1u64..9).prop_map(Step::Grant),
        1 => (1u64..5).prop_map(Step::KeepAlive),
        1 => (1u64..5).prop_map(Step::Revoke),
        1 => (1u64..6).prop_map(Step::Advance),
        1 => (0u64..12).prop_map(|back| Step::Compact { back }),
    ];
    vec(step, 1..STEPS)
}

struct Running {
    watch: Watch,
    prefix: &'static str,
    next: Revision,
}

struct Run<'a> {
    bench: &'a dyn Bench,
    model: Model,
    watches: Vec<Running>,
    /// Watches that met a compaction and went on from a new listing.
    resumed: usize,
}

impl Run<'_> {
    fn compare(&self, pick: &Pick) -> Compare {
        let key = pick.key.to_owned();
        let known = self.model.states.last().unwrap().get(pick.key);
        let off = u64::from(pick.number == 0);
        match pick.what {
            0 | 1 => Compare::Absent(key),
            2 | 3 => Compare::ModRevision(key, known.map_or(0, |kv| kv.mod_revision + off)),
            4 | 5 => Compare::CreateRevision(key, known.map_or(0, |kv| kv.create_revision + off)),
            _ => Compare::Value(key, Bytes::from(pick.number.to_string())),
        }
    }

    fn op(pick: &Pick) -> Op {
        let key = pick.key.to_owned();
        let value = Bytes::from(pick.number.to_string());
        match pick.what {
            0..=2 => Op::Put { key, value, lease: None },
            3 => Op::Put { key, value, lease: Some(LeaseId(pick.number)) },
            4 => Op::Delete { key },
            5 if pick.number == 0 => Op::DeletePrefix { prefix: key },
            _ => Op::Get { key },
        }
    }

    fn back(&self, back: Option<u64>) -> Option<Revision> {
        // One step ahead of the store is part of the game.
        back.map(|back| (self.model.revision() + 1).saturating_sub(back))
    }

    async fn step(&mut self, step: &Step) {
        let store = self.bench.store();
        match step {
            Step::Txn { compares, then, otherwise } => {
                let txn = Txn {
                    compares: compares.iter().map(|pick| self.compare(pick)).collect(),
                    then: then.iter().map(Self::op).collect(),
                    otherwise: otherwise.iter().map(Self::op).collect(),
                };
                let got = store.txn(txn.clone()).await.map_err(kind);
                assert_eq!(got, self.model.txn(txn));
            }
            Step::Get { key, back } => {
                let at = self.back(*back);
                let got = store.get(key, at).await.map_err(kind);
                assert_eq!(got, self.model.get(key, at));
            }
            Step::List { prefix, after, limit, back } => {
                let after = after.map(str::to_owned);
                let page = Page { after, limit: *limit, at: self.back(*back) };
                let got = store.list(prefix, page.clone()).await.map_err(kind);
                assert_eq!(got, self.model.list(prefix, &page));
            }
            Step::Watch { prefix, back } => {
                let next = self.back(Some(*back)).unwrap();
                match store.watch(prefix, next).await {
                    Ok(watch) => {
                        assert!(next >= self.model.compacted, "watch from a compacted revision");
                        self.watches.push(Running { watch, prefix, next });
                    }
                    Err(error) => {
                        assert!(next < self.model.compacted);
                        assert_eq!(kind(error), format!("compacted {}", self.model.compacted));
                    }
                }
            }
            Step::Drain(index) => {
                if !self.watches.is_empty() {
                    let index = index % self.watches.len();
                    self.drain(index).await;
                }
            }
            Step::Grant(seconds) => {
                let ttl = Duration::from_millis(seconds * 1000 - 1);
                self.model.granted += 1;
                let lease = LeaseId(self.model.granted);
                self.model.leases.insert(lease, (*seconds, self.model.now + seconds));
                assert_eq!(store.lease_grant(ttl).await.unwrap(), lease);
            }
            Step::KeepAlive(lease) => {
                let lease = LeaseId(*lease);
                let now = self.model.now;
                let known = self.model.leases.get_mut(&lease).map(|(ttl, end)| *end = now + *ttl);
                let got = store.lease_keep_alive(lease).await.map_err(kind);
                assert_eq!(got, known.ok_or(format!("no lease {lease}")));
            }
            Step::Revoke(lease) => {
                let lease = LeaseId(*lease);
                let got = store.lease_revoke(lease).await.map_err(kind);
                assert_eq!(got, self.model.end_lease(lease));
            }
            Step::Advance(seconds) => {
                self.model.advance(*seconds);
                self.bench.advance(Duration::from_secs(*seconds)).await;
            }
            Step::Compact { back } => {
                let to = self.back(Some(*back)).unwrap();
                let got = store.compact(to).await.map_err(kind);
                if to > self.model.revision() {
                    assert_eq!(got, Err(format!("future {}", self.model.revision())));
                } else {
                    assert_eq!(got, Ok(()));
                    self.model.compacted = self.model.compacted.max(to);
                }
            }
        }
        assert_eq!(store.revision().await.unwrap(), self.model.revision());
    }

    /// Reads a watch up to the end of the model; after a compaction from a new listing on.
    async fn drain(&mut self, index: usize) {
        let model = &self.model;
        let running = &mut self.watches[index];
        while let Some(expected) = model.next_batch(running.prefix, running.next) {
            match next(&mut running.watch).await {
                Ok(batch) => {
                    assert_eq!(batch, expected);
                    running.next = batch.revision + 1;
                }
                Err(error) => {
                    assert!(running.next < model.compacted, "{error}");
                    assert_eq!(kind(error), format!("compacted {}", model.compacted));
                    let store = self.bench.store();
                    let listing = store.list(running.prefix, Page::all()).await.unwrap();
                    assert_eq!(listing, model.list(running.prefix, &Page::all()).unwrap());
                    running.next = listing.revision + 1;
                    running.watch = store.watch(running.prefix, running.next).await.unwrap();
                    self.resumed += 1;
                }
            }
        }
    }
}

/// Runs a sequence, then proves that no watch holds anything that the model does not.
async fn check(bench: Box<dyn Bench>, steps: Vec<Step>) {
    let mut run = Run { bench: &*bench, model: Model::new(), watches: Vec::new(), resumed: 0 };
    for step in &steps {
        run.step(step).await;
    }
    for key in KEYS {
        let pick = Pick { what: 0, key, number: 9 };
        run.step(&Step::Txn { compares: vec![], then: vec![pick], otherwise: vec![] }).await;
    }
    for index in 0..run.watches.len() {
        run.drain(index).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn memory_agrees_with_the_model(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time().start_paused(true).build().unwrap();
        runtime.block_on(check(Box::new(Memory(MemoryStore::new())), steps));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, ..ProptestConfig::default() })]
    #[test]
    fn sqlite_agrees_with_the_model(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(check(Box::new(Sqlite::new()), steps));
    }
}

// ---- cases worth a name ----

#[test]
fn a_watch_resumes_after_a_compaction() {
    on_each(|bench| async move {
        let mut run = Run { bench: &*bench, model: Model::new(), watches: Vec::new(), resumed: 0 };
        let put = |key| Step::Txn {
            compares: vec![],
            then: vec![Pick { what: 0, key, number: 1 }],
            otherwise: vec![],
        };
        run.step(&Step::Watch { prefix: "a", back: 0 }).await;
        for _ in 0..5 {
            run.step(&put("a/1")).await;
        }
        run.step(&Step::Compact { back: 1 }).await;
        assert_eq!(run.model.compacted, 5);
        run.drain(0).await;
        assert_eq!(run.resumed, 1, "the watch must learn that it missed something");
        run.step(&put("a/2")).await;
        run.drain(0).await;
        assert_eq!((run.resumed, run.watches[0].next), (1, 7));
    });
}

#[test]
fn a_watch_far_behind_gets_everything_in_order() {
    on_each(|bench| async move {
        let store = bench.store();
        let mut watch = store.watch("n/", 1).await.unwrap();
        for n in 1..=150u64 {
            store.txn(Txn::new().put(format!("n/{n}"), "x").put("other", "x")).await.unwrap();
        }
        for n in 1..=150 {
            let batch = next(&mut watch).await.unwrap();
            assert_eq!((batch.revision, batch.events.len()), (n, 1));
            assert_eq!(batch.events[0].key(), format!("n/{n}"));
        }
    });
}

#[test]
fn a_waiting_watch_wakes_up_for_a_put_and_for_a_lease_that_ends() {
    on_each(|bench| async move {
        let store = bench.store();
        let mut watch = store.watch("a/", 1).await.unwrap();
        let lease = store.lease_grant(Duration::from_secs(3)).await.unwrap();
        let put = async {
            tokio::task::yield_now().await;
            store.txn(Txn::new().put_leased("a/1", "x", lease)).await.unwrap();
        };
        let (batch, ()) = tokio::join!(next(&mut watch), put);
        assert!(matches!(&batch.unwrap().events[..], [Event::Put(kv)] if kv.lease == Some(lease)));
        let end = async {
            tokio::task::yield_now().await;
            bench.advance(Duration::from_secs(3)).await;
        };
        let (batch, ()) = tokio::join!(next(&mut watch), end);
        assert_eq!(batch.unwrap().events, [Event::Delete { key: "a/1".to_owned() }]);
        assert!(matches!(
            store.lease_keep_alive(lease).await,
            Err(StoreError::LeaseNotFound(gone)) if gone == lease
        ));
    });
}

#[test]
fn a_fenced_write_fails_once_the_leader_is_another_one() {
    on_each(|bench| async move {
        let store = bench.store();
        let lease = store.lease_grant(Duration::from_secs(2)).await.unwrap();
        let lead = Txn::new().when_absent("leader").put_leased("leader", "a", lease);
        let epoch = store.txn(lead.clone()).await.unwrap().revision;
        let write = Txn::new().when_create_revision("leader", epoch).put("k", "1");
        assert!(store.txn(write.clone()).await.unwrap().succeeded);
        bench.advance(Duration::from_secs(2)).await;
        assert!(!store.txn(write.clone()).await.unwrap().succeeded, "also without a new leader");
        store.txn(Txn::new().when_absent("leader").put("leader", "b")).await.unwrap();
        assert!(!store.txn(write).await.unwrap().succeeded);
    });
}

#[test]
fn limits_are_refused_and_nothing_is_stored() {
    on_each(|bench| async move {
        let store = bench.store();
        let many = |n: usize| (0..n).fold(Txn::new(), |txn, n| txn.put(format!("k/{n}"), "x"));
        let big = |n: usize| Bytes::from(vec![7; n]);
        let long = |n: usize| "k".repeat(n);
        let too_large = [
            many(MAX_TXN_OPS + 1),
            Txn::new().put("k", big(MAX_VALUE_BYTES + 1)),
            Txn::new().put("k", big(MAX_VALUE_BYTES)).put("l", big(MAX_VALUE_BYTES)),
            Txn::new().put(long(MAX_KEY_BYTES + 1), "x"),
            (0..=MAX_TXN_OPS).fold(Txn::new(), |txn, _| txn.when_absent("k")),
        ];
        for txn in too_large {
            let error = store.txn(txn).await.unwrap_err();
            assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
            assert!(!error.is_transient() && !error.may_have_applied());
        }
        for txn in [
            Txn::new().put("", "x"),
            Txn::new().put("a\0b", "x"),
            Txn::new().delete_prefix(""),
            Txn::new().put("k", "x").put("k", "y"),
            Txn::new().put("k/1", "x").delete_prefix("k/"),
        ] {
            let error = store.txn(txn).await.unwrap_err();
            assert!(matches!(error, StoreError::Invalid(_)), "{error}");
        }
        assert_eq!(store.revision().await.unwrap(), 0);
        store.txn(many(MAX_TXN_OPS)).await.unwrap();
        store.txn(Txn::new().put(long(MAX_KEY_BYTES), big(MAX_VALUE_BYTES))).await.unwrap();
        assert_eq!(store.revision().await.unwrap(), 2);
    });
}

#[test]
fn a_compaction_keeps_everything_from_its_revision_on() {
    on_each(|bench| async move {
        let mut run = Run { bench: &*bench, model: Model::new(), watches: Vec::new(), resumed: 0 };
        // Puts (what 0) and deletes (what 4) of two keys; revision 4 is a deletion.
        for (what, key) in
            [(0, "a/1"), (0, "a/2"), (0, "a/1"), (4, "a/2"), (0, "a/1"), (0, "a/2"), (4, "a/1")]
        {
            let then = vec![Pick { what, key, number: 1 }];
            run.step(&Step::Txn { compares: vec![], then, otherwise: vec![] }).await;
        }
        for back in [5, 4, 1] {
            run.step(&Step::Compact { back }).await;
            // From the revision behind the last one down to 0.
            for back in 0..=8 {
                for key in ["a/1", "a/2"] {
                    run.step(&Step::Get { key, back: Some(back) }).await;
                }
                let list = Step::List { prefix: "a/", after: None, limit: 9, back: Some(back) };
                run.step(&list).await;
                run.step(&Step::Watch { prefix: "a/", back }).await;
            }
            // Those that were just opened start at what is kept: none has to list again.
            for running in &mut run.watches {
                while let Some(expected) = run.model.next_batch(running.prefix, running.next) {
                    assert_eq!(next(&mut running.watch).await.unwrap(), expected);
                    running.next = expected.revision + 1;
                }
            }
            assert!(!run.watches.is_empty());
            run.watches.clear();
        }
    });
}
