//! `POST .../nodepools/{pool}/operation/upgrade`: the main operation. Accepting it is one transaction; what it leads to
//! is the work of the cluster's actor.

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use evenkeel_api::ErrorCode;
use evenkeel_api::upgrade::{PoolRef, UpgradeAnswer, UpgradeRequest};
use evenkeel_engine::ids::{JobId, PoolId};

use super::accept::{self, Offer};
use super::check::require_json;
use crate::http::auth::Call;
use crate::http::error::ApiError;
use crate::http::load::{self, DEFAULT_POOL};
use crate::http::replay::{self, Remembered};
use crate::http::{ApiState, convert, jobs};
use crate::records::{ClusterRecord, JobIndexRecord, NodeRecord, keys};
use crate::store::{LeaseId, StoreError, Txn};

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
    require_json(&headers)?;
    let project = call.project();
    let id = load::cluster(&*state.store, project, &cluster)
        .await?
        .record
        .id;
    if pool != DEFAULT_POOL {
        load::pool(&*state.store, project, &id, &pool).await?;
    }
    let cap = state.config.max_unavailable_cap;
    let upgrade = UpgradeRequest::parse(&body, &pool, cap).map_err(ApiError::Invalid)?;
    let pool_id = PoolId::new(&pool);
    for _ in 0..TRIES {
        // Read before everything else: what it changes to afterwards is caught by the compares.
        let active = load::active(&*state.store, project, &id, &pool_id).await?;
        let membership = state
            .store
            .get(&keys::membership(project, &id, &pool_id), None)
            .await?;
        let cluster = load::cluster(&*state.store, project, &cluster).await?;
        let stored = match upgrade.pool {
            PoolRef::Default => None,
            PoolRef::Id(_) => Some(load::pool(&*state.store, project, &id, &pool).await?),
        };
        let nodes = load::list::<NodeRecord>(&*state.store, &keys::nodes(project, &id)).await?;
        let running = match active {
            None => None,
            Some(active) => {
                match jobs::read::read(&state, project, id.clone(), active.record).await? {
                    Some(job) => Some(job),
                    None => continue,
                }
            }
        };
        let facts = accept::Facts {
            cluster: &cluster.record,
            pool: stored.as_ref().map(|stored| &stored.record),
            nodes: nodes.into_iter().map(|node| node.record).collect(),
            running: running.as_ref().map(|job| &job.record),
        };
        let offer = accept::offer(&state, &call, &upgrade, &pool_id, facts).await?;
        if let Some(running) = running {
            if running.record.fingerprint != offer.record.fingerprint {
                return Err(locked(
                    &running.record.spec.job,
                    &pool,
                    &offer,
                    &running.record,
                ));
            }
            let wall = |time| running.wall(time);
            let job = convert::job(&running.view(&wall));
            return load::json(
                StatusCode::OK,
                &UpgradeAnswer {
                    jobid: job.metadata.uid.clone(),
                    job: Some(job),
                },
            );
        }
        let mut txn = Txn::new()
            .when_mod_revision(&cluster.key, cluster.revision)
            .when_absent(keys::active(project, &id, &pool_id));
        txn = match &membership {
            Some(kv) => txn.when_mod_revision(&kv.key, kv.mod_revision),
            None => txn.when_absent(keys::membership(project, &id, &pool_id)),
        };
        if let Some(stored) = &stored {
            txn = txn.when_mod_revision(&stored.key, stored.revision);
        }
        if let Some(response) = commit(&state, &call, &cluster.record, txn, &offer).await? {
            return Ok(response);
        }
    }
    let text = format!("Node pool {pool} is being changed by others at the same time; try again");
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
    let answer = UpgradeAnswer {
        jobid: job.metadata.uid.clone(),
        job: Some(job),
    };
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

fn locked(job: &JobId, pool: &str, offer: &Offer, running: &crate::records::JobRecord) -> ApiError {
    let (new, old) = (&offer.record.spec.revision, &running.spec.revision);
    let why = if new == old {
        "the same revision with other parameters".to_owned()
    } else {
        format!("revision {new}, while the job works on {old}")
    };
    let text = format!(
        "Node pool {pool} is being synchronized by job {job}; this request asks for {why}. Wait for that job to end, \
         or send the same request again to get its id"
    );
    ApiError::refused(ErrorCode::Locked, text)
}
