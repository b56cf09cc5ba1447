//! One compare-and-set commit per turn: transitions, what follows from them, and the clock.

use super::state::State;
use crate::records::{self, ClockRecord, keys};
use crate::store::{Revision, Store, StoreError, Txn};
use evenkeel_engine::ids::{JobId, NodeName, ObjectKey, PoolId, TemplateRevision};
use evenkeel_engine::learn::Times;
use evenkeel_engine::phase::{Left, Phase};
use evenkeel_engine::plan::Plan;
use evenkeel_engine::sync::{Status, SyncState, Work};
use evenkeel_engine::time::Time;
use std::collections::{BTreeMap, BTreeSet};

/// Nodes per commit: each may write two records, and a transaction holds 128 steps.
const WORKS_MAX: usize = 40;

/// Budgets per commit of which something new is stored: they go with nodes that finish, so there is always a next one.
const LESSONS_MAX: usize = 16;

/// How a commit ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Committed {
    /// Everything is stored.
    Yes,
    /// A record had changed meanwhile, and was read again: plan anew.
    Stale,
    /// Another actor holds the lease: stop at once.
    Deposed,
}

/// Stores what a plan decided, under the actor's epoch. Applies it to `state` once it is durable.
pub async fn commit(
    store: &dyn Store,
    state: &mut State,
    epoch: Revision,
    plan: &Plan,
    now: Time,
    wall_ms: i64,
) -> Result<Committed, StoreError> {
    let (project, cluster) = (state.project.clone(), state.cluster.clone());
    let leader = keys::leader(&project, &cluster);
    let mut txn = Txn::new().when_create_revision(&leader, epoch);
    let works: &[(JobId, Work)] = &plan.works[..plan.works.len().min(WORKS_MAX)];
    // A verdict counts the nodes: it waits for the commit in which all of them are stored.
    let states: &[(JobId, SyncState)] =
        if works.len() == plan.works.len() { &plan.states } else { &[] };
    let jobs: BTreeSet<&JobId> =
        works.iter().map(|(job, _)| job).chain(states.iter().map(|(job, _)| job)).collect();
    txn = as_asked(state, &jobs, txn);
    let touched_nodes;
    (txn, touched_nodes) = put_works(state, works, wall_ms, txn);
    let mut touched_pools: Vec<PoolId> = Vec::new();
    for (job, verdict) in states {
        txn = txn.put(keys::job_state(&project, &cluster, job), records::encode(verdict));
        if verdict.status != Status::Running
            && let Some(sync) = state.syncs.get(job)
        {
            txn = txn.delete(keys::active(&project, &cluster, &sync.spec.pool));
            if sync.proofs() > 0
                && let Some(kept) = state.pools.get(&sync.spec.pool)
                && kept.record.proven.as_ref() != Some(&sync.spec.revision)
            {
                let mut record = kept.record.clone();
                record.proven = Some(sync.spec.revision.clone());
                let key = keys::pool(&project, &cluster, &record.id);
                txn = txn.when_mod_revision(&key, kept.revision).put(key, records::encode(&record));
                touched_pools.push(record.id);
            }
        }
    }
    let lessons = lessons(state, works);
    txn = lessons.put(state, txn);
    let clock = ClockRecord { at: now, wall_ms };
    txn = txn.put(keys::clock(&project, &cluster), records::encode(&clock));
    let done = store.txn(txn).await?;
    if !done.succeeded {
        let again = record_keys(state, &touched_nodes, &touched_pools)
            .chain(jobs.iter().map(|job| keys::control(&project, &cluster, job)))
            .collect();
        return stale(store, state, &leader, epoch, again).await;
    }
    apply(state, works, states);
    lessons.keep(state);
    let written = record_keys(state, &touched_nodes, &touched_pools).collect();
    reread(store, state, written).await?;
    Ok(Committed::Yes)
}

/// Only while people ask of these jobs what the plan was made for: whoever was told that a job stops must not see
/// another node taken.
fn as_asked(state: &State, jobs: &BTreeSet<&JobId>, mut txn: Txn) -> Txn {
    for job in jobs {
        let key = keys::control(&state.project, &state.cluster, job);
        txn = match state.control_revision(job) {
            Some(revision) => txn.when_mod_revision(key, revision),
            None => txn.when_absent(key),
        };
    }
    txn
}

/// New standings, and what nodes carry after them; with the nodes whose own records are written.
fn put_works(
    state: &State,
    works: &[(JobId, Work)],
    wall_ms: i64,
    mut txn: Txn,
) -> (Txn, Vec<NodeName>) {
    let (project, cluster) = (&state.project, &state.cluster);
    let mut touched_nodes = Vec::new();
    for (job, work) in works {
        let key = keys::work(project, cluster, job, &work.name);
        txn = txn.put(key, records::encode(work));
        if let Some(applied) = applied(state, job, work)
            && let Some(kept) = state.nodes.get(&work.name)
            && kept.record.applied != applied
        {
            let mut record = kept.record.clone();
            if applied.is_some()
                && let Some(brings) = state.brings.get(job)
            {
                if let Some(image) = &brings.image {
                    record.image = Some(image.over(record.image));
                }
                record.carries.clone_from(&brings.parts);
            }
            record.applied = applied;
            record.updated_ms = wall_ms;
            let key = keys::node(project, cluster, &record.id);
            txn = txn.when_mod_revision(&key, kept.revision).put(key, records::encode(&record));
            touched_nodes.push(work.name.clone());
        }
    }
    (txn, touched_nodes)
}

/// What is stored of what was learned, with the nodes that finish in this commit.
#[derive(Default)]
struct Lessons {
    pools: BTreeMap<PoolId, Times>,
    budgets: Vec<ObjectKey>,
}

impl Lessons {
    fn put(&self, state: &State, mut txn: Txn) -> Txn {
        let (project, cluster) = (&state.project, &state.cluster);
        for (pool, times) in &self.pools {
            let key = keys::learned_pool(project, cluster, pool);
            txn = txn.put(key, records::encode(times));
        }
        for budget in &self.budgets {
            if let Some(samples) = state.learned.recoveries(budget) {
                let key = keys::learned_budget(project, cluster, budget);
                txn = txn.put(key, records::encode(samples));
            }
        }
        txn
    }

    /// They are stored now.
    fn keep(self, state: &mut State) {
        for (pool, times) in self.pools {
            state.learned.restore_pool(pool, times);
        }
        state.learned.stored(self.budgets.iter());
    }
}

fn lessons(state: &State, works: &[(JobId, Work)]) -> Lessons {
    let mut lessons = Lessons::default();
    for (job, work) in works.iter().filter(|(_, w)| matches!(w.phase, Phase::Done { .. })) {
        let Some(sync) = state.syncs.get(job) else {
            continue;
        };
        let pool = &sync.spec.pool;
        let known = || state.learned.times(pool).cloned().unwrap_or_default();
        lessons.pools.entry(pool.clone()).or_insert_with(known).finished(work);
    }
    if !lessons.pools.is_empty() {
        let news = state.learned.unstored(LESSONS_MAX);
        lessons.budgets = news.map(|(budget, _)| budget.clone()).collect();
    }
    lessons
}

/// What is durable now becomes what the next plan sees.
fn apply(state: &mut State, works: &[(JobId, Work)], states: &[(JobId, SyncState)]) {
    for (job, work) in works {
        if work.phase.is_terminal() {
            state.ledger.forget_node(&work.name);
        }
        if let Some(sync) = state.syncs.get_mut(job) {
            sync.put(work.clone());
        }
    }
    for (job, verdict) in states {
        if let Some(sync) = state.syncs.get_mut(job) {
            sync.state = verdict.clone();
        }
    }
}

/// What a node carries after this standing: the job's revision once the reset was carried through, nothing known
/// once it was begun and not ended, and no change otherwise.
#[expect(clippy::option_option, reason = "no change, or a new value that may be none")]
fn applied(state: &State, job: &JobId, work: &Work) -> Option<Option<TemplateRevision>> {
    let spec = &state.syncs.get(job)?.spec;
    match &work.phase {
        Phase::Done { .. } => Some(Some(spec.revision.clone())),
        Phase::Resetting { .. } => Some(None),
        Phase::Failed { left: Left::Cordoned | Left::InServiceHoldingSlot, .. } => Some(None),
        _ => None,
    }
}

async fn stale(
    store: &dyn Store,
    state: &mut State,
    leader: &str,
    epoch: Revision,
    again: Vec<String>,
) -> Result<Committed, StoreError> {
    let holder = store.get(leader, None).await?;
    if holder.is_none_or(|kv| kv.create_revision != epoch) {
        return Ok(Committed::Deposed);
    }
    reread(store, state, again).await?;
    Ok(Committed::Stale)
}

/// The keys of these records.
fn record_keys(
    state: &State,
    nodes: &[NodeName],
    pools: &[PoolId],
) -> impl Iterator<Item = String> + use<> {
    let known = nodes.iter().filter_map(|name| state.nodes.get(name));
    let nodes = known.map(|kept| keys::node(&state.project, &state.cluster, &kept.record.id));
    let pools = pools.iter().map(|pool| keys::pool(&state.project, &state.cluster, pool));
    nodes.chain(pools).collect::<Vec<_>>().into_iter()
}

async fn reread(
    store: &dyn Store,
    state: &mut State,
    keys_to_read: Vec<String>,
) -> Result<(), StoreError> {
    for key in keys_to_read {
        let event = match store.get(&key, None).await? {
            Some(kv) => crate::store::Event::Put(kv),
            None => crate::store::Event::Delete { key: key.clone() },
        };
        if let Err(error) = state.take_event(&event) {
            tracing::error!(key, error = &error as &dyn std::error::Error, "a record is damaged");
        }
    }
    Ok(())
}
