//! `PUT .../nodepools/{pool}/nodes/migrate`: moves nodes between pools. No machine is touched; with `asCurrent=true`
//! the pool's template counts as applied to them.

use std::collections::{BTreeMap, BTreeSet};

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use evenkeel_api::node::MigrateRequest;
use evenkeel_api::{ErrorCode, Violation};
use evenkeel_engine::ids::{ClusterId, PoolId};
use serde_json::{Value, json};

use super::check::{is_control_plane, require_json};
use crate::http::ApiState;
use crate::http::auth::Call;
use crate::http::error::ApiError;
use crate::http::load::{self, DEFAULT_POOL, Stored};
use crate::http::query::Params;
use crate::records::{self, NodeRecord, PoolRecord, keys};
use crate::store::{MAX_TXN_OPS, Txn};
use crate::sync::board::Snapshot;

/// How often it is done again over records that changed meanwhile.
const TRIES: usize = 5;

/// Moves nodes into a pool.
pub(in crate::http) async fn migrate(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    Path((_, cluster, pool)): Path<(String, String, String)>,
    headers: HeaderMap,
    uri: Uri,
    body: Bytes,
) -> Result<Response, ApiError> {
    require_json(&headers)?;
    let as_current = Params::read(&uri)?.flag("asCurrent")?;
    let project = call.project();
    let cluster = load::cluster(&*state.store, project, &cluster).await?.record.id;
    if pool != DEFAULT_POOL {
        load::pool(&*state.store, project, &cluster, &pool).await?;
    }
    let request = MigrateRequest::parse(&body).map_err(ApiError::Invalid)?;
    if as_current && pool == DEFAULT_POOL {
        let violation =
            Violation::new("asCurrent", "has no meaning for DefaultPool, which stores no template");
        return Err(ApiError::invalid(violation.with_way_out("leave it out")));
    }
    for _ in 0..TRIES {
        let target = match pool.as_str() {
            DEFAULT_POOL => None,
            id => Some(load::pool(&*state.store, project, &cluster, id).await?),
        };
        let nodes =
            load::list::<NodeRecord>(&*state.store, &keys::nodes(project, &cluster)).await?;
        let plan = Move { project, cluster: &cluster, to: PoolId::new(&pool), target, as_current };
        let snapshot = state.board.get(&cluster);
        let chosen = Move::choose(&request, &nodes, snapshot.as_deref())?;
        plan.refuse_busy(&state, &chosen).await?;
        let txn = plan.txn(&state, &chosen, &nodes).await?;
        if txn.then.is_empty() || state.store.txn(txn).await?.succeeded {
            return load::json(StatusCode::OK, &json!({}));
        }
    }
    Err(ApiError::refused(
        ErrorCode::StaleVersion,
        "The nodes are being changed by others at the same time; try again",
    ))
}

struct Move<'a> {
    project: &'a str,
    cluster: &'a ClusterId,
    to: PoolId,
    /// Absent for `DefaultPool`.
    target: Option<Stored<PoolRecord>>,
    as_current: bool,
}

impl Move<'_> {
    fn choose<'n>(
        request: &MigrateRequest,
        nodes: &'n [Stored<NodeRecord>],
        snapshot: Option<&Snapshot>,
    ) -> Result<Vec<&'n Stored<NodeRecord>>, ApiError> {
        let by_id: BTreeMap<&str, &Stored<NodeRecord>> =
            nodes.iter().map(|node| (node.record.id.as_str(), node)).collect();
        let mut found = Vec::new();
        let mut chosen = Vec::new();
        for (index, id) in request.node_ids.iter().enumerate() {
            match by_id.get(id.as_str()) {
                Some(node) if is_control_plane(&node.record, snapshot) => found.push(
                    Violation::new(
                        format!("nodeList[{index}].nodeID"),
                        "is a control-plane node, which is in no pool",
                    )
                    .with_value(&Value::from(id.as_str()))
                    .with_way_out("leave it out"),
                ),
                Some(node) => chosen.push(*node),
                None => found.push(
                    Violation::new(
                        format!("nodeList[{index}].nodeID"),
                        "is not a node of this cluster",
                    )
                    .with_value(&Value::from(id.as_str()))
                    .with_way_out("send metadata.uid of a node, as the node list shows it"),
                ),
            }
        }
        if found.is_empty() { Ok(chosen) } else { Err(ApiError::Invalid(found)) }
    }

    /// The pools that nodes leave.
    fn sources(&self, chosen: &[&Stored<NodeRecord>]) -> BTreeSet<PoolId> {
        let leaves = |node: &&&Stored<NodeRecord>| node.record.pool != self.to;
        chosen.iter().filter(leaves).map(|node| node.record.pool.clone()).collect()
    }

    /// A job works on a frozen list: while one runs, its pool keeps its nodes.
    async fn refuse_busy(
        &self,
        state: &ApiState,
        chosen: &[&Stored<NodeRecord>],
    ) -> Result<(), ApiError> {
        let mut pools = self.sources(chosen);
        if self.as_current {
            // What a running job is about to apply must not be declared applied beside it.
            pools.insert(self.to.clone());
        }
        for pool in pools {
            if let Some(active) =
                load::active(&*state.store, self.project, self.cluster, &pool).await?
            {
                let text = format!(
                    "Node pool {pool} is being synchronized by job {}, its nodes stay until that job has ended",
                    active.record
                );
                return Err(ApiError::refused(ErrorCode::PoolHasBusyNodes, text));
            }
        }
        Ok(())
    }

    async fn txn(
        &self,
        state: &ApiState,
        chosen: &[&Stored<NodeRecord>],
        nodes: &[Stored<NodeRecord>],
    ) -> Result<Txn, ApiError> {
        let now = (state.clock)();
        let applied = self
            .target
            .as_ref()
            .filter(|_| self.as_current)
            .map(|pool| pool.record.revision.clone());
        let mut txn = Txn::new();
        if let Some(target) = &self.target {
            txn = txn.when_mod_revision(&target.key, target.revision);
        }
        for node in chosen {
            let mut record = node.record.clone();
            if record.pool == self.to && applied.is_none() {
                continue;
            }
            record.pool = self.to.clone();
            if let Some(pool) = self.target.as_ref().filter(|_| applied.is_some()) {
                record.image.clone_from(&pool.record.template.image);
                record.carries.clone_from(&pool.record.template.parts);
            }
            record.applied = applied.clone().or(record.applied);
            record.updated_ms = now.max(record.updated_ms);
            txn = txn
                .when_mod_revision(&node.key, node.revision)
                .put(&node.key, records::encode(&record));
        }
        if txn.then.is_empty() {
            return Ok(txn);
        }
        let sources = self.sources(chosen);
        let mut touched = sources.clone();
        touched.insert(self.to.clone());
        for pool in &touched {
            if sources.contains(pool) || self.as_current {
                txn = txn.when_absent(keys::active(self.project, self.cluster, pool));
            }
            let stamp = format!("{now}");
            txn = txn.put(keys::membership(self.project, self.cluster, pool), stamp.into_bytes());
        }
        txn = self.counts(state, txn, chosen, nodes).await?;
        if txn.then.len() > MAX_TXN_OPS || txn.compares.len() > MAX_TXN_OPS {
            let violation =
                Violation::new("nodeList", "names nodes of too many pools for one call");
            return Err(ApiError::invalid(
                violation.with_way_out("move the nodes of each pool in a call of its own"),
            ));
        }
        Ok(txn)
    }

    /// Lets the wanted counts of the pools follow the move.
    async fn counts(
        &self,
        state: &ApiState,
        mut txn: Txn,
        chosen: &[&Stored<NodeRecord>],
        nodes: &[Stored<NodeRecord>],
    ) -> Result<Txn, ApiError> {
        let count =
            |pool: &PoolId| nodes.iter().filter(|node| node.record.pool == *pool).count() as i32;
        let moved = chosen.iter().filter(|node| node.record.pool != self.to).count() as i32;
        if let Some(target) = &self.target {
            let after = count(&self.to) + moved;
            if let Some(record) = with_count(&target.record, |wanted| wanted.max(after)) {
                txn = txn.put(&target.key, records::encode(&record));
            }
        }
        for pool in self.sources(chosen).iter().filter(|pool| pool.as_str() != DEFAULT_POOL) {
            let stored =
                load::pool(&*state.store, self.project, self.cluster, pool.as_str()).await?;
            let gone = chosen.iter().filter(|node| node.record.pool == *pool).count() as i32;
            let after = count(pool) - gone;
            if let Some(record) = with_count(&stored.record, |wanted| (wanted - gone).max(after)) {
                txn = txn
                    .when_mod_revision(&stored.key, stored.revision)
                    .put(&stored.key, records::encode(&record));
            }
        }
        Ok(txn)
    }
}

/// The wanted count follows nodes that are moved by hand; otherwise a client would see a scaling that nobody asked for.
fn with_count(pool: &PoolRecord, count: impl FnOnce(i32) -> i32) -> Option<PoolRecord> {
    let old = pool.spec.get("initialNodeCount").and_then(Value::as_i64).unwrap_or(0) as i32;
    let new = count(old);
    let mut record = pool.clone();
    record.spec.as_object_mut()?.insert("initialNodeCount".to_owned(), Value::from(new));
    (new != old).then_some(record)
}
