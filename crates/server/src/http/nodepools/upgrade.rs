//! `POST .../nodepools/{pool}/operation/upgrade`: the main operation. Accepting it is one transaction; what it leads to
//! is the work of the cluster's actor.

use std::collections::BTreeSet;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use evenkeel_api::ErrorCode;
use evenkeel_api::upgrade::{Upgrade, UpgradeAnswer, UpgradeRequest};
use evenkeel_engine::ids::{ClusterId, NodeId, PoolId};

use super::accept::{self, Offer, Wish};
use super::check::require_json;
use crate::http::auth::Call;
use crate::http::error::ApiError;
use crate::http::jobs::read::Found;
use crate::http::load::{self, DEFAULT_POOL, Stored};
use crate::http::replay::{self, Remembered};
use crate::http::{ApiState, convert, jobs};
use crate::records::{AgentRecord, ClusterRecord, JobIndexRecord, NodeRecord, PoolRecord, keys};
use crate::store::{KeyValue, LeaseId, StoreError, Txn};

/// How often acceptance starts over because something that was read changed. Each loss means that another write won.
const TRIES: usize = 8;

/// Accepts a synchronization, or says with all reasons why not.
pub(in crate::http) async fn upgrade(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    Path((_, cluster, pool)): Path<(String, String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let project = call.project();
    let (id, pool_id, upgrade) =
        requested(&state, project, &cluster, &pool, &headers, &body).await?;
    for _ in 0..TRIES {
        let Some(seen) = Seen::read(&state, project, &id, &pool_id).await? else {
            continue;
        };
        let facts = seen.facts();
        let wish = accept::wish(&state, project, &upgrade, &facts).await?;
        // Compared before anything else is checked: a request that was accepted once keeps its job, whatever became
        // of its nodes.
        if let Some(running) = &seen.running {
            return same_job(running, &wish);
        }
        let offer = accept::offer(&state, &call, &upgrade, &pool_id, &facts, wish).await?;
        let txn = seen.unchanged(project, &pool_id);
        if let Some(response) = commit(&state, &call, &seen.cluster.record, txn, &offer).await? {
            return Ok(response);
        }
    }
    let text = format!("Node pool {pool} is being changed by others at the same time; try again");
    Err(ApiError::refused(ErrorCode::Locked, text))
}

/// What a request asks for, and of which pool of which cluster.
pub(super) async fn requested(
    state: &ApiState,
    project: &str,
    cluster: &str,
    pool: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(ClusterId, PoolId, Upgrade), ApiError> {
    require_json(headers)?;
    let id = load::cluster(&*state.store, project, cluster).await?.record.id;
    if pool != DEFAULT_POOL {
        load::pool(&*state.store, project, &id, pool).await?;
    }
    let cap = state.config.max_unavailable_cap;
    let upgrade = UpgradeRequest::parse(body, pool, cap).map_err(ApiError::Invalid)?;
    Ok((id, PoolId::new(pool), upgrade))
}

/// What acceptance rests on, as it was read.
pub(super) struct Seen {
    membership: Option<KeyValue>,
    cluster: Stored<ClusterRecord>,
    /// Absent for `DefaultPool`.
    pool: Option<Stored<PoolRecord>>,
    nodes: Vec<NodeRecord>,
    agents: BTreeSet<NodeId>,
    pub(super) running: Option<Found>,
}

impl Seen {
    /// Reads it. `None`: the running job ended while it was read.
    pub(super) async fn read(
        state: &ApiState,
        project: &str,
        cluster: &ClusterId,
        pool: &PoolId,
    ) -> Result<Option<Self>, ApiError> {
        let store = &*state.store;
        // First of all: what these two change to afterwards is caught by the compares.
        let active = load::active(store, project, cluster, pool).await?;
        let membership = store.get(&keys::membership(project, cluster, pool), None).await?;
        let running = match active {
            None => None,
            Some(active) => {
                match jobs::read::read(state, project, cluster.clone(), active.record).await? {
                    Some(job) => Some(job),
                    None => return Ok(None),
                }
            }
        };
        let nodes = load::list::<NodeRecord>(store, &keys::nodes(project, cluster)).await?;
        let agents = load::list::<AgentRecord>(store, &keys::agents(project, cluster)).await?;
        let agents = agents.into_iter().map(|found| found.record);
        Ok(Some(Self {
            membership,
            cluster: load::cluster(store, project, cluster.as_str()).await?,
            pool: match pool.as_str() {
                DEFAULT_POOL => None,
                id => Some(load::pool(store, project, cluster, id).await?),
            },
            nodes: nodes.into_iter().map(|node| node.record).collect(),
            agents: agents.filter(|one| one.agent.is_some()).map(|one| one.node).collect(),
            running,
        }))
    }

    pub(super) fn facts(&self) -> accept::Facts<'_> {
        accept::Facts {
            cluster: &self.cluster.record,
            pool: self.pool.as_ref().map(|pool| &pool.record),
            nodes: &self.nodes,
            agents: &self.agents,
            running: self.running.as_ref().map(|job| &job.record),
        }
    }

    /// The condition that all of it is still so, and that the pool is free.
    fn unchanged(&self, project: &str, pool: &PoolId) -> Txn {
        let cluster = &self.cluster.record.id;
        let mut txn = Txn::new()
            .when_mod_revision(&self.cluster.key, self.cluster.revision)
            .when_absent(keys::active(project, cluster, pool));
        txn = match &self.membership {
            Some(kv) => txn.when_mod_revision(&kv.key, kv.mod_revision),
            None => txn.when_absent(keys::membership(project, cluster, pool)),
        };
        match &self.pool {
            Some(pool) => txn.when_mod_revision(&pool.key, pool.revision),
            None => txn,
        }
    }
}

/// The answer while a job holds the pool: its id for the same request, 429 for another one.
fn same_job(running: &Found, wish: &Wish) -> Result<Response, ApiError> {
    let spec = &running.record.spec;
    if running.record.fingerprint == wish.fingerprint {
        let wall = |time| running.wall(time);
        let job = convert::job(&running.view(&wall));
        let jobid = job.metadata.uid.clone();
        return load::json(StatusCode::OK, &UpgradeAnswer { jobid, job: Some(job) });
    }
    let why = if *wish.revision() == spec.revision {
        "the same revision with other parameters".to_owned()
    } else {
        format!("revision {}, while the job works on {}", wish.revision(), spec.revision)
    };
    let text = format!(
        "Node pool {} is being synchronized by job {}; this request asks for {why}. Wait for that job to end, or \
         send the same request again to get its id",
        spec.pool, spec.job
    );
    Err(ApiError::refused(ErrorCode::Locked, text))
}

/// Stores job, state, index, the pool's right and the remembered answer at once. `None`: something had changed.
async fn commit(
    state: &ApiState,
    call: &Call,
    cluster: &ClusterRecord,
    txn: Txn,
    offer: &Offer,
) -> Result<Option<Response>, ApiError> {
    let job = accept::answer(cluster, offer, (state.clock)());
    let answer = UpgradeAnswer { jobid: job.metadata.uid.clone(), job: Some(job) };
    let body = serde_json::to_string(&answer)
        .map_err(|error| ApiError::internal("an answer could not be written as JSON", error))?;
    let mut txn = accept::writes(txn, call.project(), &cluster.id, offer);
    let mut lease: Option<LeaseId> = None;
    if let Some(key) = &call.replay {
        let (value, granted) =
            replay::record(state, key, &call.request_id, StatusCode::OK, &body).await?;
        lease = Some(granted);
        txn = txn.put_leased(&key.store_key, value, granted);
    }
    let accepted = match state.store.txn(txn).await {
        Ok(result) => result.succeeded,
        Err(error) if error.may_have_applied() => settle(state, call, offer, error).await?,
        Err(error) => return Err(error.into()),
    };
    if !accepted {
        if let Some(lease) = lease
            && let Err(error) = state.store.lease_revoke(lease).await
        {
            tracing::debug!(%error, "an unused lease runs out by itself");
        }
        return Ok(None);
    }
    let mut response = load::json(StatusCode::OK, &answer)?;
    response.extensions_mut().insert(Remembered);
    Ok(Some(response))
}

/// The store's answer was lost: the job's own key tells whether it was accepted.
async fn settle(
    state: &ApiState,
    call: &Call,
    offer: &Offer,
    error: StoreError,
) -> Result<bool, ApiError> {
    let key = keys::job_index(call.project(), &offer.record.spec.job);
    match load::find::<JobIndexRecord>(&*state.store, key).await {
        Ok(Some(_)) => Ok(true),
        _ => Err(error.into()),
    }
}
