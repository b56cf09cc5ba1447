//! Gives every worker node an id and a pool, and forgets nodes that have left for good.

use super::state::{DEFAULT_POOL, State};
use crate::records::{self, NodeRecord, keys};
use crate::store::{Revision, Store, StoreError, Txn};
use evenkeel_engine::facts::NodeSeen;
use evenkeel_engine::ids::{NodeId, NodeName, PoolId};
use evenkeel_engine::preview::drift::Parts;
use evenkeel_engine::time::{Span, Time};
use std::collections::BTreeMap;

/// A node whose Node object stays away for this long, and which no job holds, has left: longer than any reset's
/// time between leaving and joining again.
const LEFT_AFTER: Span = Span::mins(60);
/// The whole cluster is looked at again after this: absences have to be noticed without any news.
const LOOK_EVERY: Span = Span::mins(1);
/// Nodes per commit: a transaction holds 128 compares.
const BATCH: usize = 100;

/// Whether two views of a node show the same object on the same machine.
pub(super) fn same_machine(a: &NodeSeen, b: &NodeSeen) -> bool {
    a.uid == b.uid
        && a.machine_id == b.machine_id
        && a.system_uuid == b.system_uuid
        && a.internal_ip == b.internal_ip
}

/// See the module.
#[derive(Debug, Default)]
pub struct Enrol {
    absent: BTreeMap<NodeName, Time>,
    looked: Option<Time>,
}

impl Enrol {
    /// Something about nodes has changed: look at the next turn.
    pub fn stir(&mut self) {
        self.looked = None;
    }

    /// Brings the records in line with what is seen, as the actor of `epoch`. Does nothing while the view is not
    /// live, and looks at the whole cluster only if something was stirred or a minute has passed.
    pub async fn enrol(
        &mut self,
        store: &dyn Store,
        state: &mut State,
        epoch: Revision,
        now: Time,
        wall_ms: i64,
    ) -> Result<(), StoreError> {
        let fresh_look = |at: Time| now - at < LOOK_EVERY;
        if !state.index.live() || self.looked.is_some_and(fresh_look) {
            return Ok(());
        }
        self.looked = Some(now);
        let leader = keys::leader(&state.project, &state.cluster);
        let fresh: Vec<NodeRecord> = state
            .index
            .nodes()
            .filter(|e| !e.seen.control_plane && !state.nodes.contains_key(&e.seen.name))
            .take(BATCH)
            .map(|e| NodeRecord {
                id: NodeId::new(uuid::Uuid::new_v4().to_string()),
                name: e.seen.name.to_string(),
                pool: PoolId::new(DEFAULT_POOL),
                machine_id: e.seen.machine_id.as_deref().map(str::to_owned),
                system_uuid: e.seen.system_uuid.as_deref().map(str::to_owned),
                internal_ip: e.seen.internal_ip.as_deref().map(str::to_owned),
                provider_id: e.seen.provider_id.as_deref().map(str::to_owned),
                applied: None,
                image: None,
                carries: Parts::default(),
                created_ms: wall_ms,
                updated_ms: wall_ms,
            })
            .collect();
        if !fresh.is_empty() {
            // A replica that was replaced must not give a node a second id.
            let mut txn = Txn::new().when_create_revision(leader, epoch);
            for record in &fresh {
                let key = keys::node(&state.project, &state.cluster, &record.id);
                txn = txn.when_absent(&key).put(key, records::encode(record));
            }
            store.txn(txn).await?;
            self.reread(store, state, fresh.iter().map(|r| &r.id)).await?;
            self.stir();
        }
        self.refresh(store, state, wall_ms).await?;
        self.forget(store, state, now).await
    }

    /// Keeps what leads to a machine up to date. Another machine under a node's name carries nothing of ours.
    async fn refresh(
        &mut self,
        store: &dyn Store,
        state: &mut State,
        wall_ms: i64,
    ) -> Result<(), StoreError> {
        let text = |seen: &Option<std::sync::Arc<str>>| seen.as_deref().map(str::to_owned);
        let changed: Vec<(NodeRecord, u64)> = state
            .nodes
            .values()
            .filter_map(|kept| {
                let seen = &state.index.node(&NodeName::new(&kept.record.name))?.seen;
                let mut record = kept.record.clone();
                record.machine_id = text(&seen.machine_id).or(record.machine_id);
                record.system_uuid = text(&seen.system_uuid).or(record.system_uuid);
                record.internal_ip = text(&seen.internal_ip).or(record.internal_ip);
                let same = record.machine_id == kept.record.machine_id
                    && record.system_uuid == kept.record.system_uuid
                    && record.internal_ip == kept.record.internal_ip;
                if kept.record.machine_id.is_some() && record.machine_id != kept.record.machine_id {
                    record.applied = None;
                }
                record.updated_ms = wall_ms;
                (!same).then_some((record, kept.revision))
            })
            .take(BATCH)
            .collect();
        for (record, revision) in &changed {
            let key = keys::node(&state.project, &state.cluster, &record.id);
            let txn =
                Txn::new().when_mod_revision(&key, *revision).put(key, records::encode(record));
            store.txn(txn).await?;
        }
        if changed.len() == BATCH {
            self.stir();
        }
        self.reread(store, state, changed.iter().map(|(r, _)| &r.id)).await
    }

    async fn reread(
        &self,
        store: &dyn Store,
        state: &mut State,
        ids: impl Iterator<Item = &NodeId>,
    ) -> Result<(), StoreError> {
        for id in ids {
            let key = keys::node(&state.project, &state.cluster, id);
            if let Some(kv) = store.get(&key, None).await?
                && let Err(error) = state.take_event(&crate::store::Event::Put(kv))
            {
                tracing::error!(error = super::chain(&error), "a node record is damaged");
            }
        }
        Ok(())
    }

    async fn forget(
        &mut self,
        store: &dyn Store,
        state: &mut State,
        now: Time,
    ) -> Result<(), StoreError> {
        self.absent.retain(|name, _| state.index.node(name).is_none());
        let held = |name: &NodeName| {
            state.syncs.values().any(|s| s.work(name).is_some_and(|w| w.phase.is_active()))
        };
        let gone: Vec<NodeName> = state
            .nodes
            .keys()
            .filter(|name| state.index.node(name).is_none() && !held(name))
            .cloned()
            .collect();
        for name in gone {
            let since = *self.absent.entry(name.clone()).or_insert(now);
            if now - since < LEFT_AFTER {
                continue;
            }
            if let Some(kept) = state.nodes.get(&name) {
                let key = keys::node(&state.project, &state.cluster, &kept.record.id);
                let txn = Txn::new().when_mod_revision(&key, kept.revision).delete(&key);
                if store.txn(txn).await?.succeeded {
                    state.nodes.remove(&name);
                    state.index.set_pool(&name, None);
                    self.absent.remove(&name);
                }
            }
        }
        Ok(())
    }
}
