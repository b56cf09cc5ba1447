//! What an actor keeps in memory: the records of its cluster as stored, and what the engine needs of them.

use super::act::About;
use super::costs::Costs;
use crate::records::{
    self, ClockRecord, Dress, Image, JobRecord, NodeRecord, PaceRecord, PoolRecord, RecordError,
    Template, keys,
};
use crate::store::{Event, KeyValue, Page, Revision, Store, StoreError};
use crate::windows::{self, Stand};
use evenkeel_engine::changes::Changes;
use evenkeel_engine::control::Control;
use evenkeel_engine::ids::{ClusterId, JobId, NodeId, NodeName, ObjectKey, PoolId, Uid};
use evenkeel_engine::index::Index;
use evenkeel_engine::learn::{Learned, Samples, Times};
use evenkeel_engine::ledger::Ledger;
use evenkeel_engine::order::{Order, Sight};
use evenkeel_engine::pace::{Pace, Window};
use evenkeel_engine::phase::{Outcome, Phase};
use evenkeel_engine::plan::Ctx;
use evenkeel_engine::preview::drift::Parts;
use evenkeel_engine::sync::{Sync, SyncState, Work};
use evenkeel_engine::time::{Span, Time};
use jiff::Timestamp;
use std::collections::BTreeMap;

/// The id of the pool that holds every worker node of no other pool.
pub const DEFAULT_POOL: &str = "DefaultPool";

/// An ended job is kept for so long: a mark that a late request of ours writes is taken away again. Requests are
/// given up after half a minute, and whatever still arrives later finds the node changed.
const LINGER: Span = Span::mins(2);

/// Windows are looked at again after this where none opens any more: somebody may set the clock right.
const NO_WINDOW_AHEAD: Span = Span::mins(60);

fn pace(record: &PaceRecord, now: Time, wall: Timestamp) -> Pace {
    let window = match windows::stand(&record.windows, wall) {
        Stand::Open => Window::Open,
        Stand::Closed { opens, words } => {
            let ahead = opens.map(|at| at.as_millisecond() - wall.as_millisecond());
            let ahead = ahead.map_or(NO_WINDOW_AHEAD, |ms| Span(ms.max(0) as u64));
            Window::Closed { opens: now + ahead, words }
        }
    };
    let soak = Span::secs(record.soak_s.into());
    Pace { window, soak, strict: record.strict_capacity }
}

/// Whether a job still needs somebody.
pub(super) fn keeps(sync: &Sync, now: Time) -> bool {
    sync.ended_at().is_none_or(|at| now - at < LINGER)
}

/// A record with the revision it was read at.
#[derive(Clone, Debug)]
pub struct Kept<T> {
    /// The record.
    pub record: T,
    /// Its mod revision.
    pub revision: Revision,
}

/// See the module.
#[derive(Debug)]
pub struct State {
    pub(super) project: String,
    pub(super) cluster: ClusterId,
    /// The cluster as seen.
    pub index: Index,
    /// What came back from actions.
    pub ledger: Ledger,
    /// Who goes next in each job.
    pub order: Order,
    /// What earlier nodes taught.
    pub learned: Learned,
    /// Jobs that run, or ended a moment ago.
    pub syncs: BTreeMap<JobId, Sync>,
    pub(super) pools: BTreeMap<PoolId, Kept<PoolRecord>>,
    pub(super) nodes: BTreeMap<NodeName, Kept<NodeRecord>>,
    /// Revision up to which changes are in.
    pub(super) revision: Revision,
    pub(super) clock: Option<ClockRecord>,
    /// What running jobs bring beside what the engine decides on.
    pub(super) brings: BTreeMap<JobId, Brings>,
    /// What people ask of jobs, as stored.
    controls: BTreeMap<JobId, Kept<Control>>,
    /// When nodes of pools may be taken.
    paces: BTreeMap<PoolId, PaceRecord>,
    /// What running jobs cost their workloads.
    pub(super) costs: Costs,
}

/// What a job brings to its nodes beside what the engine decides on.
#[derive(Clone, Debug, Default)]
pub(super) struct Brings {
    /// OS, image and runtime.
    pub image: Option<Image>,
    /// Labels and taints.
    pub dress: Dress,
    /// Its fields, in words.
    pub parts: Parts,
}

impl Brings {
    fn of(template: Template) -> Self {
        Self { image: template.image, dress: template.dress, parts: template.parts }
    }
}

/// Why the records of a cluster cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The store failed.
    #[error("the records of cluster {cluster} could not be read")]
    Store {
        /// The cluster.
        cluster: ClusterId,
        /// The cause.
        #[source]
        source: StoreError,
    },
    /// A record is unreadable.
    #[error("the records of cluster {cluster} are damaged")]
    Record {
        /// The cluster.
        cluster: ClusterId,
        /// The cause.
        #[source]
        source: RecordError,
    },
}

impl State {
    /// Reads everything that is stored of a cluster.
    pub async fn load(
        store: &dyn Store,
        project: &str,
        cluster: &ClusterId,
    ) -> Result<Self, StateError> {
        let fail = |source| StateError::Store { cluster: cluster.clone(), source };
        let prefix = keys::inside(project, cluster);
        let listing = store.list(&prefix, Page::all()).await.map_err(fail)?;
        let mut state = Self {
            project: project.to_owned(),
            cluster: cluster.clone(),
            index: Index::default(),
            ledger: Ledger::default(),
            order: Order::default(),
            learned: Learned::default(),
            syncs: BTreeMap::new(),
            pools: BTreeMap::new(),
            nodes: BTreeMap::new(),
            revision: listing.revision,
            clock: None,
            brings: BTreeMap::new(),
            controls: BTreeMap::new(),
            paces: BTreeMap::new(),
            costs: Costs::default(),
        };
        let by_key: BTreeMap<&str, &KeyValue> =
            listing.items.iter().map(|kv| (kv.key.as_str(), kv)).collect();
        let bad = |source| StateError::Record { cluster: cluster.clone(), source };
        for kv in &listing.items {
            state.take_record(kv).map_err(bad)?;
        }
        state.learned = learned(&by_key, project, cluster).map_err(bad)?;
        let jobs = keys::jobs(project, cluster);
        for (key, kv) in by_key.range(jobs.as_str()..).take_while(|(k, _)| k.starts_with(&jobs)) {
            let job: JobRecord = records::decode(key, &kv.value).map_err(bad)?;
            let id = job.spec.job.clone();
            let state_key = keys::job_state(project, cluster, &id);
            let Some(verdict) = by_key.get(state_key.as_str()) else {
                continue;
            };
            let verdict: SyncState = records::decode(&state_key, &verdict.value).map_err(bad)?;
            let works_prefix = keys::works(project, cluster, &id);
            let mut works = Vec::new();
            for (key, kv) in by_key
                .range(works_prefix.as_str()..)
                .take_while(|(k, _)| k.starts_with(&works_prefix))
            {
                works.push(records::decode::<Work>(key, &kv.value).map_err(bad)?);
            }
            let brings = Brings::of(job.template);
            let sync = state.controlled(Sync::new(job.spec, verdict, works));
            let now = state.clock.as_ref().map_or(Time(0), |clock| clock.at);
            if keeps(&sync, now) {
                state.brings.insert(id.clone(), brings);
                let key = keys::account(project, cluster, &id);
                if let Some(kv) = by_key.get(key.as_str()) {
                    let account = records::decode(&key, &kv.value).map_err(bad)?;
                    state.costs.resume(id.clone(), account);
                }
                state.syncs.insert(id, sync);
            }
        }
        state.forget_ended();
        Ok(state)
    }

    /// Brings what decisions are made from up to date with what came since the last one.
    pub(super) fn follow(&mut self, now: Time) {
        let syncs = self.syncs.values_mut();
        let changes = Changes::take(&mut self.index, &mut self.ledger, syncs);
        self.learned.follow(&self.index, &changes, now);
        let sight = Sight { index: &self.index, ledger: &self.ledger, learned: &self.learned, now };
        self.order.follow(&sight, &changes, self.syncs.values());
        self.costs.follow(&self.index, &self.syncs, &changes, now);
    }

    /// A pod was deleted because of `force`.
    pub(super) fn count_deleted(&mut self, uid: &Uid, now: Time) {
        self.costs.deleted(&self.index, &self.syncs, uid, now);
    }

    /// Stores what running jobs cost, and says when to do so again.
    pub(super) async fn keep_costs(
        &mut self,
        store: &dyn Store,
        epoch: Revision,
        now: Time,
    ) -> Result<Option<Time>, StoreError> {
        let place = (self.project.as_str(), &self.cluster);
        self.costs.keep(store, place, epoch, now).await
    }

    /// What a decision looks at.
    pub(super) fn ctx(&self, now: Time) -> Ctx<'_> {
        Ctx {
            index: &self.index,
            ledger: &self.ledger,
            order: &self.order,
            learned: &self.learned,
            now,
        }
    }

    /// Takes one change from the store's watch; returns the job if a new one was accepted.
    pub fn take_event(&mut self, event: &Event) -> Result<Option<JobId>, RecordError> {
        match event {
            Event::Put(kv) => self.take_record(kv),
            Event::Delete { key } => {
                self.lose_record(key);
                Ok(None)
            }
        }
    }

    fn take_record(&mut self, kv: &KeyValue) -> Result<Option<JobId>, RecordError> {
        let key = kv.key.as_str();
        let (project, cluster) = (self.project.as_str(), &self.cluster);
        if key.starts_with(&keys::pools(project, cluster)) {
            let record: PoolRecord = records::decode(key, &kv.value)?;
            let kept = Kept { record, revision: kv.mod_revision };
            self.pools.insert(kept.record.id.clone(), kept);
        } else if key.starts_with(&keys::nodes(project, cluster)) {
            let record: NodeRecord = records::decode(key, &kv.value)?;
            let name = NodeName::new(&record.name);
            // Our own commits are read back at once; what the watch brings of before is old.
            if self.nodes.get(&name).is_some_and(|k| k.revision > kv.mod_revision) {
                return Ok(None);
            }
            self.index.set_pool(&name, Some(record.pool.clone()));
            self.nodes.insert(name, Kept { record, revision: kv.mod_revision });
        } else if key.starts_with(&keys::jobs(project, cluster)) {
            let record: JobRecord = records::decode(key, &kv.value)?;
            return Ok(Some(record.spec.job));
        } else if let Some(pool) = key.strip_prefix(&keys::paces(project, cluster)) {
            self.paces.insert(PoolId::new(pool), records::decode(key, &kv.value)?);
        } else if let Some(job) = key.strip_prefix(&keys::controls(project, cluster)) {
            let record: Control = records::decode(key, &kv.value)?;
            self.take_control(JobId::new(job), Kept { record, revision: kv.mod_revision });
        } else if key == keys::clock(project, cluster) {
            self.clock = Some(records::decode(key, &kv.value)?);
        }
        Ok(None)
    }

    /// Works out how the windows of pools with a running job stand at this moment, by both clocks.
    pub(super) fn keep_pace(&mut self, now: Time, wall_ms: i64) {
        let wall = Timestamp::from_millisecond(wall_ms).unwrap_or(Timestamp::UNIX_EPOCH);
        for sync in self.syncs.values_mut().filter(|sync| sync.running()) {
            sync.pace = match self.paces.get(&sync.spec.pool) {
                None => Pace::default(),
                Some(record) => pace(record, now, wall),
            };
        }
    }

    /// Old news of the watch never undoes what was read since.
    fn take_control(&mut self, job: JobId, kept: Kept<Control>) {
        if self.controls.get(&job).is_some_and(|k| k.revision >= kept.revision) {
            return;
        }
        if let Some(sync) = self.syncs.get_mut(&job) {
            sync.steer(kept.record.clone());
        }
        self.controls.insert(job, kept);
    }

    fn controlled(&self, mut sync: Sync) -> Sync {
        if let Some(kept) = self.controls.get(&sync.spec.job) {
            sync.steer(kept.record.clone());
        }
        sync
    }

    /// The revision of what people ask of a job, as this state knows it; none if nobody has asked.
    pub(super) fn control_revision(&self, job: &JobId) -> Option<Revision> {
        self.controls.get(job).map(|kept| kept.revision)
    }

    /// Drops what belongs to jobs that are no longer kept.
    pub(super) fn forget_ended(&mut self) {
        let kept = &self.syncs;
        self.brings.retain(|job, _| kept.contains_key(job));
        self.controls.retain(|job, _| kept.contains_key(job));
        self.costs.forget(kept);
    }

    /// Whether a key is that of a node's record.
    pub(super) fn is_node(&self, key: &str) -> bool {
        key.starts_with(&keys::nodes(&self.project, &self.cluster))
    }

    fn lose_record(&mut self, key: &str) {
        let pools = keys::pools(&self.project, &self.cluster);
        let nodes = keys::nodes(&self.project, &self.cluster);
        if let Some(id) = key.strip_prefix(&pools) {
            self.pools.remove(&PoolId::new(id));
        } else if let Some(id) = key.strip_prefix(&nodes) {
            let id = NodeId::new(id);
            let name = self.nodes.iter().find(|(_, k)| k.record.id == id).map(|(n, _)| n.clone());
            if let Some(name) = name {
                self.nodes.remove(&name);
                self.index.set_pool(&name, None);
            }
        }
    }

    /// What is known of a node, for an action on it.
    pub(super) fn about(&self, name: &NodeName) -> About {
        let done = |sync: &&Sync| {
            let phase = sync.work(name).map(|work| &work.phase);
            matches!(phase, Some(Phase::Releasing { then: Outcome::Done, .. }))
        };
        let job = self.syncs.values().find(done).map(|sync| &sync.spec.job);
        About {
            seen: self.index.node(name).map(|entry| entry.seen.clone()),
            record: self.nodes.get(name).map(|kept| kept.record.clone()),
            dress: job.and_then(|job| self.brings.get(job)).map(|brings| brings.dress.clone()),
        }
    }

    /// Loads a job that was accepted after the start.
    pub async fn take_job(&mut self, store: &dyn Store, job: &JobId) -> Result<(), StateError> {
        if self.syncs.contains_key(job) {
            return Ok(());
        }
        let fail = |source| StateError::Store { cluster: self.cluster.clone(), source };
        let bad = |source| StateError::Record { cluster: self.cluster.clone(), source };
        let header_key = keys::job(&self.project, &self.cluster, job);
        let state_key = keys::job_state(&self.project, &self.cluster, job);
        let header = store.get(&header_key, None).await.map_err(fail)?;
        let verdict = store.get(&state_key, None).await.map_err(fail)?;
        let (Some(header), Some(verdict)) = (header, verdict) else {
            return Ok(());
        };
        let header: JobRecord = records::decode(&header_key, &header.value).map_err(bad)?;
        let verdict: SyncState = records::decode(&state_key, &verdict.value).map_err(bad)?;
        let brings = Brings::of(header.template);
        let sync = self.controlled(Sync::new(header.spec, verdict, []));
        if sync.running() {
            self.brings.insert(job.clone(), brings);
            self.syncs.insert(job.clone(), sync);
        }
        Ok(())
    }
}

/// What is stored of earlier nodes and evictions.
fn learned(
    by_key: &BTreeMap<&str, &KeyValue>,
    project: &str,
    cluster: &ClusterId,
) -> Result<Learned, RecordError> {
    let mut learned = Learned::default();
    for (pool, kv) in under(by_key, &keys::learned_pools(project, cluster)) {
        let times: Times = records::decode(&kv.key, &kv.value)?;
        learned.restore_pool(PoolId::new(pool), times);
    }
    for (budget, kv) in under(by_key, &keys::learned_budgets(project, cluster)) {
        let samples: Samples = records::decode(&kv.key, &kv.value)?;
        if let Some((namespace, name)) = budget.split_once('/') {
            learned.restore_budget(ObjectKey::new(namespace, name), samples);
        }
    }
    Ok(learned)
}

/// Records below a prefix, by the rest of their keys.
fn under<'a>(
    by_key: &BTreeMap<&'a str, &'a KeyValue>,
    prefix: &str,
) -> Vec<(&'a str, &'a KeyValue)> {
    let all = by_key.values().copied();
    all.filter_map(|kv| Some((kv.key.strip_prefix(prefix)?, kv))).collect()
}
