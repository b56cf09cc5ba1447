//! `GET /evenkeel/v1/projects/{project}/jobs/{job}`: everything that is known of a synchronization, for people.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use evenkeel_api::meta::iam_time;
use evenkeel_engine::account::Account;
use evenkeel_engine::time::Time;
use serde_json::{Map, Value, json};

use super::why;
use crate::http::auth::Call;
use crate::http::error::ApiError;
use crate::http::jobs::read::{self, Found};
use crate::http::{ApiState, convert, load};
use crate::records::keys;

/// A job in full.
pub(in crate::http) async fn describe(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    Path((_, job)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let found = read::find(&state, call.project(), &job).await?;
    let now = load::cluster_time(&state, call.project(), &found.cluster).await?;
    let key = keys::account(call.project(), &found.cluster, &found.sync.spec.job);
    let account = load::find::<Account>(&*state.store, key).await?;
    let account = account.map(|stored| stored.record).unwrap_or_default();
    load::json(StatusCode::OK, &document(&found, &account, now))
}

fn document(found: &Found, account: &Account, now: Time) -> Value {
    let (spec, record) = (&found.sync.spec, &found.record);
    let wall = |time| iam_time(found.wall(time));
    let report = found.snapshot.as_ref().and_then(|snapshot| snapshot.reports.get(&spec.job));
    let mut works = Map::new();
    for work in found.sync.works() {
        let log: Vec<Value> = work
            .log
            .iter()
            .map(|line| json!({ "at": wall(line.at), "word": line.word, "note": line.note }))
            .collect();
        let on = report.and_then(|report| report.nodes.get(&work.name));
        let entry = json!({
            "nodeID": work.id,
            "subJob": convert::sub_job_id(&spec.job, &work.id),
            "phase": work.phase.word(),
            "detail": work.phase,
            "since": wall(work.phase.since()),
            "inHand": work.phase.is_active(),
            "attempt": work.attempt,
            "tries": work.tries,
            "waitingOn": on,
            "waitingFor": on.map(ToString::to_string),
            "nextTry": report.and_then(|report| report.again.get(&work.name)).map(|at| wall(*at)),
            "chosen": why::chosen(work),
            "lastFailure": work.last_cause.as_ref().map(ToString::to_string),
            "log": log,
        });
        works.insert(work.name.to_string(), entry);
    }
    let names = |list: &[evenkeel_engine::sync::TargetNode]| -> Vec<Value> {
        list.iter().map(|node| json!({ "id": node.id, "name": node.name })).collect()
    };
    json!({
        "job": spec.job,
        "cluster": found.cluster,
        "pool": spec.pool,
        "poolName": found.pool_name,
        "revision": spec.revision,
        "state": found.sync.state.status,
        "counts": found.sync.counts(),
        "maxUnavailable": spec.max_unavailable,
        "retryTimes": spec.retry_times,
        "force": spec.force,
        "named": spec.named,
        "recipe": convert::recipe_word(&record.recipe),
        "resets": spec.resets,
        "control": super::control::shown(&found.sync.control, &|at| found.wall(at)),
        "targets": names(&spec.targets),
        "skippedNodes": names(&spec.skipped),
        "ignoredFields": record.ignored,
        "requestedBy": record.requested_by,
        "requestId": record.request_id,
        "acceptedAt": iam_time(record.accepted_ms),
        "stalledSince": found.sync.state.stalled_since.map(wall),
        "next": report.and_then(|report| report.next.as_ref()),
        "nextReason": report.and_then(|report| report.next.as_ref()).map(ToString::to_string),
        "live": found.snapshot.as_ref().is_some_and(|snapshot| snapshot.live),
        "trouble": found.snapshot.as_ref().and_then(|snapshot| snapshot.trouble.clone()),
        "queue": why::queue(found, report.map(AsRef::as_ref), now),
        "costs": why::costs(account, now),
        "nodes": works,
    })
}
