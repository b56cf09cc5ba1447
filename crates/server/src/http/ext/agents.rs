//! `/evenkeel/v1/projects/{project}/clusters/{cluster}/agents`: which nodes are reached through an agent, tokens for
//! new ones, and their end.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use evenkeel_api::ErrorCode;
use evenkeel_api::meta::iam_time;
use serde_json::{Value, json};
use std::time::Duration;

use crate::http::agent::{hashed, secret};
use crate::http::auth::Call;
use crate::http::error::ApiError;
use crate::http::{ApiState, load};
use crate::records::{self, AgentPlace, AgentRecord, EnrolToken, keys};
use crate::store::Txn;

/// Life of a token: it is made when somebody is about to use it.
const TOKEN_LIFE: Duration = Duration::from_hours(1);

/// Makes a one-time token for a node. An older one that was not used is worth nothing from then on.
pub(in crate::http) async fn token(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    Path((_, cluster, node)): Path<(String, String, String)>,
) -> Result<Response, ApiError> {
    let project = call.project();
    let cluster = load::cluster(&*state.store, project, &cluster).await?.record.id;
    let node = load::node(&*state.store, project, &cluster, &node).await?.record;
    let token = secret()?;
    let expires_ms = (state.clock)() + TOKEN_LIFE.as_millis() as i64;
    let key = keys::agent(project, &cluster, &node.id);
    let old = load::find::<AgentRecord>(&*state.store, key.clone()).await?;
    let record = AgentRecord {
        node: node.id.clone(),
        name: node.name.clone(),
        token: Some(EnrolToken { sha256: hashed(&token), expires_ms, by: call.requested_by() }),
        agent: old.as_ref().and_then(|old| old.record.agent.clone()),
    };
    let place = AgentPlace { project: project.to_owned(), cluster, node: node.id.clone() };
    let lease = state.store.lease_grant(TOKEN_LIFE).await?;
    let mut txn = Txn::new()
        .put_leased(keys::agent_token(&hashed(&token)), records::encode(&place), lease)
        .put(&key, records::encode(&record));
    txn = match &old {
        Some(old) => txn.when_mod_revision(&old.key, old.revision),
        None => txn.when_absent(&key),
    };
    if let Some(unused) = old.and_then(|old| old.record.token) {
        txn = txn.delete(keys::agent_token(&unused.sha256));
    }
    if !state.store.txn(txn).await?.succeeded {
        let text = format!("The agent of node {} is being changed by others; try again", node.name);
        return Err(ApiError::refused(ErrorCode::Locked, text));
    }
    let body = json!({
        "node": node.name,
        "nodeID": node.id,
        "token": token,
        "expiresAt": iam_time(expires_ms),
    });
    load::json(StatusCode::CREATED, &body)
}

/// All agents of a cluster, by node.
pub(in crate::http) async fn list(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    Path((_, cluster)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let cluster = load::cluster(&*state.store, call.project(), &cluster).await?.record.id;
    let prefix = keys::agents(call.project(), &cluster);
    let all = load::list::<AgentRecord>(&*state.store, &prefix).await?;
    let items: Vec<Value> = all.iter().map(|found| shown(&state, &found.record)).collect();
    load::json(StatusCode::OK, &json!({ "items": items }))
}

fn shown(state: &ApiState, record: &AgentRecord) -> Value {
    let now = (state.clock)();
    let seen = record.agent.as_ref().and_then(|agent| state.agents.seen(&agent.id));
    let waits = record.token.as_ref().filter(|token| token.expires_ms > now);
    json!({
        "node": record.name,
        "nodeID": record.node,
        "agent": record.agent.as_ref().map(|agent| agent.id.as_str()),
        "version": record.agent.as_ref().map(|agent| agent.version.as_str()),
        "enrolledAt": record.agent.as_ref().map(|agent| iam_time(agent.enrolled_ms)),
        "connected": seen.as_ref().is_some_and(|seen| seen.connected),
        "lastSeenSecondsAgo": seen.as_ref().map(|seen| seen.ago.as_secs()),
        "refused": seen.and_then(|seen| seen.misfit).map(|misfit| misfit.to_string()),
        "tokenExpiresAt": waits.map(|token| iam_time(token.expires_ms)),
    })
}

/// Takes a node's agent, and a token that was not used, their rights at once.
pub(in crate::http) async fn revoke(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    Path((_, cluster, node)): Path<(String, String, String)>,
) -> Result<Response, ApiError> {
    let project = call.project();
    let cluster = load::cluster(&*state.store, project, &cluster).await?.record.id;
    let missing = || ApiError::not_found("agent of node", &node);
    if !load::is_id(&node) {
        return Err(missing());
    }
    // A node that has left its cluster may still have an agent.
    let key = keys::agent(project, &cluster, &node.as_str().into());
    let found = load::find::<AgentRecord>(&*state.store, key).await?.ok_or_else(missing)?;
    let mut txn = Txn::new().when_mod_revision(&found.key, found.revision).delete(&found.key);
    if let Some(token) = &found.record.token {
        txn = txn.delete(keys::agent_token(&token.sha256));
    }
    if let Some(agent) = &found.record.agent {
        txn = txn.delete(keys::agent_id(&agent.id));
    }
    if !state.store.txn(txn).await?.succeeded {
        let name = &found.record.name;
        let text = format!("The agent of node {name} is being changed by others; try again");
        return Err(ApiError::refused(ErrorCode::Locked, text));
    }
    // After the store: whoever asks from now on is let in no more.
    if let Some(agent) = &found.record.agent {
        state.agents.revoke(&agent.id);
    }
    load::json(StatusCode::OK, &json!({ "node": found.record.name, "revoked": true }))
}
