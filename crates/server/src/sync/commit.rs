//! One compare-and-set commit per turn: transitions, what follows from them, and the clock.

use super::state::State;
use crate::records::{self, ClockRecord, keys};
use crate::store::{Revision, Store, StoreError, Txn};
use evenkeel_engine::ids::{JobId, NodeName, PoolId, TemplateRevision};
use evenkeel_engine::phase::{Left, Phase};
use evenkeel_engine::plan::Plan;
use evenkeel_engine::sync::{Status, SyncState, Work};
use evenkeel_engine::time::Time;

/// Nodes per commit: each may write two records, and a transaction holds 128 steps.
const WORKS_MAX: usize = 40;

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
    let mut touched_nodes = Vec::new();
    for (job, work) in works {
        let key = keys::work(&project, &cluster, job, &work.name);
        txn = txn.put(key, records::encode(work));
        if let Some(applied) = applied(state, job, work)
            && let Some(kept) = state.nodes.get(&work.name)
            && kept.record.applied != applied
        {
            let mut record = kept.record.clone();
            if applied.is_some()
                && let Some(image) = state.brings.get(job).and_then(|b| b.image.as_ref())
            {
                record.image = Some(image.clone());
            }
            record.applied = applied;
            record.updated_ms = wall_ms;
            let key = keys::node(&project, &cluster, &record.id);
            txn = txn.when_mod_revision(&key, kept.revision).put(key, records::encode(&record));
            touched_nodes.push(work.name.clone());
        }
    }
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
    let clock = ClockRecord { at: now, wall_ms };
    txn = txn.put(keys::clock(&project, &cluster), records::encode(&clock));
    let done = store.txn(txn).await?;
    if !done.succeeded {
        return stale(store, state, &leader, epoch, &touched_nodes, &touched_pools).await;
    }
    apply(state, works, states);
    reread(store, state, &touched_nodes, &touched_pools).await?;
    Ok(Committed::Yes)
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
    nodes: &[NodeName],
    pools: &[PoolId],
) -> Result<Committed, StoreError> {
    let holder = store.get(leader, None).await?;
    if holder.is_none_or(|kv| kv.create_revision != epoch) {
        return Ok(Committed::Deposed);
    }
    reread(store, state, nodes, pools).await?;
    Ok(Committed::Stale)
}

async fn reread(
    store: &dyn Store,
    state: &mut State,
    nodes: &[NodeName],
    pools: &[PoolId],
) -> Result<(), StoreError> {
    let mut keys_to_read = Vec::new();
    for name in nodes {
        if let Some(kept) = state.nodes.get(name) {
            keys_to_read.push(keys::node(&state.project, &state.cluster, &kept.record.id));
        }
    }
    for pool in pools {
        keys_to_read.push(keys::pool(&state.project, &state.cluster, pool));
    }
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
