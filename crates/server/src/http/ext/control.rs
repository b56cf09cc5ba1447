//! `POST /evenkeel/v1/projects/{project}/jobs/{job}/{pause,resume,cancel,retry,skip}` and
//! `.../jobs/{job}/nodes/{node}/force`: people steer a running synchronization.
//!
//! `retry` and `skip` take `{"nodes": ["id or name", ...]}`; without it `retry` means every node that has failed.
//! What is asked is one record beside the job, written on the condition that neither has changed since it was read.
//! The actor's commits carry the same condition, so that after the answer to `pause` or `cancel` no node is taken that
//! was not in hand before.

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use evenkeel_api::json::{At, parse_request};
use evenkeel_api::meta::iam_time;
use evenkeel_api::{ErrorCode, Violation};
use evenkeel_engine::control::{self, By, Control, Deed, Refused};
use evenkeel_engine::ids::NodeName;
use evenkeel_engine::phase::Phase;
use evenkeel_engine::time::Time;
use serde_json::{Map, Value, json};

use crate::http::auth::Call;
use crate::http::error::ApiError;
use crate::http::jobs::read::{self, Found};
use crate::http::{ApiState, load};
use crate::records::{self, keys};
use crate::store::Txn;

/// How often it is done again over a job that moved meanwhile; a commit of the actor takes milliseconds.
const TRIES: usize = 20;

/// Takes no new node until it is resumed.
pub(in crate::http) async fn pause(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    Path((_, job)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    press(&state, &call, &job, |_| Ok(vec![Deed::Pause])).await
}

/// Goes on.
pub(in crate::http) async fn resume(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    Path((_, job)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    press(&state, &call, &job, |_| Ok(vec![Deed::Resume])).await
}

/// Takes no new node any more and gives back what has not begun its reset.
pub(in crate::http) async fn cancel(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    Path((_, job)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    press(&state, &call, &job, |_| Ok(vec![Deed::Cancel])).await
}

/// Tries failed nodes again.
pub(in crate::http) async fn retry(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    Path((_, job)): Path<(String, String)>,
    body: Bytes,
) -> Result<Response, ApiError> {
    // An unknown job is missing, whatever the body says.
    read::find(&state, call.project(), &job).await?;
    let named = nodes(&body)?;
    press(&state, &call, &job, |found| {
        let names = match &named {
            Some(named) => resolve(found, named)?,
            None => failed(found)?,
        };
        Ok(names.into_iter().map(Deed::Retry).collect())
    })
    .await
}

/// Leaves nodes alone.
pub(in crate::http) async fn skip(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    Path((_, job)): Path<(String, String)>,
    body: Bytes,
) -> Result<Response, ApiError> {
    read::find(&state, call.project(), &job).await?;
    let Some(named) = nodes(&body)? else {
        let violation = Violation::new("nodes", "is mandatory");
        return Err(ApiError::invalid(violation.with_way_out("name the nodes to leave alone")));
    };
    press(&state, &call, &job, |found| {
        Ok(resolve(found, &named)?.into_iter().map(Deed::Skip).collect())
    })
    .await
}

/// Deletes what a node's drain cannot evict.
pub(in crate::http) async fn force(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    Path((_, job, node)): Path<(String, String, String)>,
) -> Result<Response, ApiError> {
    press(&state, &call, &job, |found| {
        let name = target(found, &node);
        let name = name.ok_or_else(|| ApiError::not_found("node of this job", &node))?;
        Ok(vec![Deed::Force(name)])
    })
    .await
}

/// The nodes that a body names; `None` if it names none. An empty body is an empty object.
fn nodes(body: &Bytes) -> Result<Option<Vec<String>>, ApiError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let request = parse_request(body).map_err(ApiError::Invalid)?;
    let mut found = Vec::new();
    let root = At::root(&request);
    let named = root.get("nodes").map(|at| {
        let items = at.items(&mut found).unwrap_or_default();
        let named: Vec<String> =
            items.iter().filter_map(|at| at.string(&mut found)).map(str::to_owned).collect();
        if items.is_empty() {
            found.push(at.violation("is empty").with_way_out("name at least one node"));
        }
        named
    });
    if found.is_empty() { Ok(named) } else { Err(ApiError::Invalid(found)) }
}

fn target(found: &Found, text: &str) -> Option<NodeName> {
    let targets = &found.sync.spec.targets;
    let node = targets.iter().find(|t| t.id.as_str() == text || t.name.as_str() == text);
    node.map(|node| node.name.clone())
}

fn resolve(found: &Found, named: &[String]) -> Result<Vec<NodeName>, ApiError> {
    let mut violations = Vec::new();
    let mut names = Vec::new();
    for (index, text) in named.iter().enumerate() {
        match target(found, text) {
            Some(name) => names.push(name),
            None => {
                let rule = "is not on the job's list of nodes";
                let violation = Violation::new(format!("nodes[{index}]"), rule);
                violations.push(violation.with_value(&Value::from(text.as_str())));
            }
        }
    }
    if violations.is_empty() { Ok(names) } else { Err(ApiError::Invalid(violations)) }
}

/// Every node that has failed, and those that are being tried again because somebody asked.
fn failed(found: &Found) -> Result<Vec<NodeName>, ApiError> {
    let sync = &found.sync;
    let asked = |name: &NodeName| sync.control.nodes.get(name).is_some_and(|n| n.retry.is_some());
    let works = sync.works().filter(|w| match w.phase {
        Phase::Failed { .. } => true,
        Phase::Done { .. } | Phase::Skipped { .. } => false,
        _ => asked(&w.name),
    });
    let names: Vec<NodeName> = works.map(|w| w.name.clone()).collect();
    if names.is_empty() && sync.running() {
        let text = format!("Job {}: no node has failed; there is nothing to retry", sync.spec.job);
        return Err(ApiError::refused(ErrorCode::InvalidRequest, text));
    }
    Ok(names)
}

/// Records what is asked, or says that it was so already.
async fn press(
    state: &ApiState,
    call: &Call,
    job: &str,
    deeds: impl Fn(&Found) -> Result<Vec<Deed>, ApiError>,
) -> Result<Response, ApiError> {
    let project = call.project();
    for _ in 0..TRIES {
        let mut found = read::find(state, project, job).await?;
        let at = load::cluster_time(state, project, &found.cluster).await?;
        let by = By { who: call.requested_by(), at };
        if !found.sync.running() && found.sync.control.cancelled.is_none() {
            return Err(refused(&found, &Refused::Ended));
        }
        let before = found.sync.control.clone();
        for deed in deeds(&found)? {
            match control::press(&found.sync, &deed, &by) {
                Ok(Some(next)) => found.sync.control = next,
                Ok(None) => {}
                Err(why) => return Err(refused(&found, &why)),
            }
        }
        if found.sync.control == before || write(state, project, &found).await? {
            return load::json(StatusCode::OK, &answer(&found, before != found.sync.control));
        }
    }
    Err(ApiError::refused(
        ErrorCode::StaleVersion,
        "The job is being changed by others at the same time; try again",
    ))
}

async fn write(state: &ApiState, project: &str, found: &Found) -> Result<bool, ApiError> {
    let job = &found.sync.spec.job;
    let key = keys::control(project, &found.cluster, job);
    let stands = keys::job_state(project, &found.cluster, job);
    let txn = Txn::new().when_mod_revision(stands, found.state_revision);
    let txn = match found.control_revision {
        Some(revision) => txn.when_mod_revision(&key, revision),
        None => txn.when_absent(&key),
    };
    let txn = txn.put(key, records::encode(&found.sync.control));
    Ok(state.store.txn(txn).await?.succeeded)
}

fn refused(found: &Found, why: &Refused) -> ApiError {
    let text = format!("Job {}: {why}", found.sync.spec.job);
    ApiError::refused(ErrorCode::InvalidRequest, text)
}

fn answer(found: &Found, changed: bool) -> Value {
    json!({
        "job": found.sync.spec.job,
        "state": found.sync.state.status,
        "changed": changed,
        "control": shown(&found.sync.control, &|at| found.wall(at)),
    })
}

/// What people ask of a job, with dates.
pub(super) fn shown(control: &Control, wall: &dyn Fn(Time) -> i64) -> Value {
    let by = |by: &By| json!({ "by": by.who, "at": iam_time(wall(by.at)) });
    let nodes: Map<String, Value> = control
        .nodes
        .iter()
        .map(|(name, node)| {
            let entry = json!({
                "retry": node.retry.as_ref().map(|retry| by(&retry.by)),
                "skip": node.skip.as_ref().map(by),
                "force": node.force.as_ref().map(by),
            });
            (name.to_string(), entry)
        })
        .collect();
    let log: Vec<Value> = control
        .log
        .iter()
        .map(|line| {
            json!({
                "at": iam_time(wall(line.by.at)),
                "by": line.by.who,
                "deed": line.deed.word(),
                "node": line.deed.node(),
            })
        })
        .collect();
    json!({
        "paused": control.paused.as_ref().map(by),
        "cancelled": control.cancelled.as_ref().map(by),
        "nodes": nodes,
        "log": log,
    })
}
