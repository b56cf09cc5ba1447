//! Reading records on behalf of a caller: every key begins with the caller's project, so that an id of another
//! project is a missing id (S17).
//!
//! Entry points: [`find`], [`list`] and the lookups by kind. Absent on purpose: writes.

use axum::http::StatusCode;
use evenkeel_engine::ids::{ClusterId, JobId, NodeId, PoolId};
use evenkeel_engine::time::Time;
use serde::de::DeserializeOwned;

use super::ApiState;
use super::error::ApiError;
use crate::records::{self, ClockRecord, ClusterRecord, NodeRecord, PoolRecord, keys};
use crate::store::{Page, Revision, Store};
use crate::sync::clock::RESTART_DELTA_MAX;

/// Longest id taken from a path. Ours have 36 characters; a longer one cannot exist and must not reach a key.
const MAX_ID: usize = 64;

/// The literal id of the nodes that are in no pool.
pub const DEFAULT_POOL: &str = "DefaultPool";

/// A record with what a compare needs.
#[derive(Clone, Debug)]
pub struct Stored<T> {
    /// The record.
    pub record: T,
    /// Its key.
    pub key: String,
    /// When it was last written.
    pub revision: Revision,
}

/// One record, if it is there.
pub async fn find<T: DeserializeOwned>(
    store: &dyn Store,
    key: String,
) -> Result<Option<Stored<T>>, ApiError> {
    let Some(kv) = store.get(&key, None).await? else {
        return Ok(None);
    };
    let record = records::decode(&key, &kv.value)?;
    Ok(Some(Stored { record, key, revision: kv.mod_revision }))
}

/// Every record under a prefix, in the order of the keys.
pub async fn list<T: DeserializeOwned>(
    store: &dyn Store,
    prefix: &str,
) -> Result<Vec<Stored<T>>, ApiError> {
    let listing = store.list(prefix, Page::all()).await?;
    let read = |kv: crate::store::KeyValue| {
        let record = records::decode(&kv.key, &kv.value)?;
        Ok(Stored { record, key: kv.key, revision: kv.mod_revision })
    };
    listing.items.into_iter().map(read).collect()
}

/// Whether a text from a path may become part of a key.
pub fn is_id(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_ID
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// A cluster of the project.
pub async fn cluster(
    store: &dyn Store,
    project: &str,
    id: &str,
) -> Result<Stored<ClusterRecord>, ApiError> {
    let missing = || ApiError::not_found("cluster", id);
    if !is_id(id) {
        return Err(missing());
    }
    find(store, keys::cluster(project, &ClusterId::new(id))).await?.ok_or_else(missing)
}

/// A node pool of a cluster that is known to exist; not `DefaultPool`, which has no record.
pub async fn pool(
    store: &dyn Store,
    project: &str,
    cluster: &ClusterId,
    id: &str,
) -> Result<Stored<PoolRecord>, ApiError> {
    let missing = || ApiError::not_found("node pool", id);
    if !is_id(id) || id == DEFAULT_POOL {
        return Err(missing());
    }
    find(store, keys::pool(project, cluster, &PoolId::new(id))).await?.ok_or_else(missing)
}

/// A node of a cluster that is known to exist.
pub async fn node(
    store: &dyn Store,
    project: &str,
    cluster: &ClusterId,
    id: &str,
) -> Result<Stored<NodeRecord>, ApiError> {
    let missing = || ApiError::not_found("node", id);
    if !is_id(id) {
        return Err(missing());
    }
    find(store, keys::node(project, cluster, &NodeId::new(id))).await?.ok_or_else(missing)
}

/// The synchronization that a pool is in, if any.
pub async fn active(
    store: &dyn Store,
    project: &str,
    cluster: &ClusterId,
    pool: &PoolId,
) -> Result<Option<Stored<JobId>>, ApiError> {
    find(store, keys::active(project, cluster, pool)).await
}

/// Now, on the cluster's clock.
pub(super) async fn cluster_time(
    state: &ApiState,
    project: &str,
    cluster: &ClusterId,
) -> Result<Time, ApiError> {
    let (at, wall_ms) = match state.board.get(cluster) {
        Some(snapshot) => (snapshot.now, snapshot.wall_ms),
        None => match find::<ClockRecord>(&*state.store, keys::clock(project, cluster)).await? {
            Some(clock) => (clock.record.at, clock.record.wall_ms),
            None => return Ok(Time::default()),
        },
    };
    // What the cluster's actor adds after a restart.
    let gap = ((state.clock)() - wall_ms).clamp(0, RESTART_DELTA_MAX.0 as i64);
    Ok(Time(at.0 + gap as u64))
}

/// A JSON answer with this status.
pub fn json(
    status: StatusCode,
    value: &impl serde::Serialize,
) -> Result<axum::response::Response, ApiError> {
    use axum::response::IntoResponse;
    let bytes = serde_json::to_vec(value)
        .map_err(|error| ApiError::internal("an answer could not be written as JSON", error))?;
    Ok((status, [(axum::http::header::CONTENT_TYPE, "application/json")], bytes).into_response())
}
