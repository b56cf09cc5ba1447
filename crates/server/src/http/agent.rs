//! What agents call: `POST /evenkeel/v1/agent/enrol`, which carries its own token, and `GET` and `POST
//! /evenkeel/v1/agent/calls`, which see the calls of one node: that of the credential.
//!
//! Absent on purpose: what a call means; it is handed on as it is.

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use evenkeel_api::ErrorCode;
use evenkeel_node::protocol::agent::{CallEnd, EnrolRequest, Enrolled, POLL_LIMIT, Poll, Polled};
use sha2::{Digest, Sha256};

use super::error::ApiError;
use super::{ApiState, load};
use crate::agents::PollError;
use crate::records::{
    self, AgentPlace, AgentRecord, ClusterRecord, EnrolledAgent, NodeRecord, keys,
};
use crate::secrets::random_text;
use crate::store::{Store, Txn};

/// Credentials and tokens are 43 of these: 256 bits.
const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const SECRET_LEN: usize = 43;

/// Longest text of an agent that is kept, for people.
const VERSION_MAX: usize = 40;

/// An agent whose credential is proven.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// Its id.
    pub(super) id: String,
}

/// A fresh secret.
pub(super) fn secret() -> Result<String, ApiError> {
    random_text(ALPHABET, SECRET_LEN)
        .map_err(|error| ApiError::internal("no random bytes for a secret", error))
}

/// What is stored of a secret. It has 256 random bits, so a slow hash would add nothing.
pub(super) fn hashed(secret: &str) -> String {
    hex::encode(Sha256::digest(secret.as_bytes()))
}

/// The agent of `Authorization: Bearer <id>.<secret>`; the same 401 for every other one.
pub(super) async fn authenticate(
    state: &ApiState,
    headers: &HeaderMap,
) -> Result<Caller, ApiError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let bearer = match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")),
        _ => None,
    };
    let (id, secret) = bearer.and_then(|text| text.split_once('.')).ok_or_else(refused)?;
    let agent = enrolled(&*state.store, id).await?.ok_or_else(refused)?;
    // Hashes are compared: how long that takes says nothing about the secret.
    if agent.secret_sha256 == hashed(secret) {
        Ok(Caller { id: id.to_owned() })
    } else {
        Err(refused())
    }
}

fn refused() -> ApiError {
    ApiError::refused(ErrorCode::BadCredentials, "the agent is unknown or revoked")
}

/// The agent of this id, if it is still the one of its node.
async fn enrolled(store: &dyn Store, id: &str) -> Result<Option<EnrolledAgent>, ApiError> {
    if !load::is_id(id) {
        return Ok(None);
    }
    let Some(place) = load::find::<AgentPlace>(store, keys::agent_id(id)).await? else {
        return Ok(None);
    };
    let place = place.record;
    let key = keys::agent(&place.project, &place.cluster, &place.node);
    let found = load::find::<AgentRecord>(store, key).await?;
    Ok(found.and_then(|found| found.record.agent).filter(|agent| agent.id == id))
}

/// Changes a one-time token into a credential.
pub(super) async fn enrol(
    State(state): State<ApiState>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let request: EnrolRequest = serde_json::from_slice(&body).map_err(|_| {
        ApiError::refused(ErrorCode::InvalidRequest, "The body is not an enrolment of an agent")
    })?;
    let store = &*state.store;
    let now = (state.clock)();
    let token_key = keys::agent_token(&hashed(request.token.expose()));
    let token = load::find::<AgentPlace>(store, token_key).await?.ok_or_else(spent)?;
    let AgentPlace { project, cluster, node } = &token.record;
    let key = keys::agent(project, cluster, node);
    let old = load::find::<AgentRecord>(store, key).await?.ok_or_else(spent)?;
    let fits =
        |t: &records::EnrolToken| keys::agent_token(&t.sha256) == token.key && t.expires_ms > now;
    if !old.record.token.as_ref().is_some_and(fits) {
        return Err(spent());
    }
    let node_key = keys::node(project, cluster, node);
    let node_record = load::find::<NodeRecord>(store, node_key).await?.ok_or_else(spent)?.record;
    same_machine(&node_record, &request)?;
    let cluster_key = keys::cluster(project, cluster);
    let cluster_name =
        load::find::<ClusterRecord>(store, cluster_key).await?.ok_or_else(spent)?.record.name;
    let (id, secret) = (uuid::Uuid::new_v4().to_string(), secret()?);
    let agent = EnrolledAgent {
        id: id.clone(),
        secret_sha256: hashed(&secret),
        version: request.version.chars().take(VERSION_MAX).collect(),
        enrolled_ms: now,
    };
    let replaced = old.record.agent.as_ref().map(|agent| agent.id.clone());
    let record = AgentRecord { token: None, agent: Some(agent), ..old.record };
    let mut txn = Txn::new()
        .when_mod_revision(&old.key, old.revision)
        .when_mod_revision(&token.key, token.revision)
        .put(&old.key, records::encode(&record))
        .put(keys::agent_id(&id), records::encode(&token.record))
        .delete(&token.key);
    if let Some(replaced) = &replaced {
        txn = txn.delete(keys::agent_id(replaced));
    }
    if !state.store.txn(txn).await?.succeeded {
        return Err(spent());
    }
    if let Some(replaced) = &replaced {
        state.agents.revoke(replaced);
    }
    tracing::info!(agent = id, node = %record.name, cluster.id = %cluster, "an agent is enrolled");
    let enrolled = Enrolled {
        credential: format!("{id}.{secret}").into(),
        agent: id,
        node: record.name,
        cluster: cluster_name,
    };
    load::json(StatusCode::CREATED, &enrolled)
}

fn spent() -> ApiError {
    let text = "The enrolment token is unknown, used or too old; make one with `evenkeel agent enrol NODE`";
    ApiError::refused(ErrorCode::AuthorizationFailed, text)
}

/// Whoever has the token of another node learns here that it is the wrong host; the probe looks again before each
/// reset.
fn same_machine(node: &NodeRecord, request: &EnrolRequest) -> Result<(), ApiError> {
    let Some(wanted) = node.machine_id.as_deref().map(str::trim).filter(|id| !id.is_empty()) else {
        return Ok(());
    };
    if wanted.eq_ignore_ascii_case(request.machine_id.trim()) {
        return Ok(());
    }
    let found: String = request.machine_id.trim().chars().take(64).collect();
    let text = format!(
        "This host has the machine id {found:?}, node {} has {wanted:?}; use the token on the node's own host",
        node.name
    );
    Err(ApiError::refused(ErrorCode::Forbidden, text))
}

/// The next call to the caller's node, or none after half a minute.
pub(super) async fn next(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Query(poll): Query<Poll>,
) -> Result<Response, ApiError> {
    if !load::is_id(&poll.boot_id) {
        return Err(ApiError::refused(ErrorCode::InvalidRequest, "boot_id: is not an id"));
    }
    let call = match state.agents.poll(&caller.id, &poll, POLL_LIMIT).await {
        Ok(call) => call,
        Err(PollError::Revoked) => return Err(refused()),
        Err(PollError::Taken) => {
            tracing::warn!(agent = caller.id, "two machines ask with the credential of one agent");
            let text = "Another machine with the credential of this agent is at work; if that is not meant to be, \
                        revoke the agent and enrol this host again";
            return Err(ApiError::refused(ErrorCode::AlreadyExists, text));
        }
        Err(PollError::Misfit(misfit)) => {
            return Err(ApiError::refused(ErrorCode::InvalidRequest, misfit.to_string()));
        }
    };
    // It may have been revoked between the check of its credential and its poll.
    if enrolled(&*state.store, &caller.id).await?.is_none() {
        state.agents.revoke(&caller.id);
        return Err(refused());
    }
    load::json(StatusCode::OK, &Polled { call })
}

/// How a call to the caller's node ended.
pub(super) async fn answer(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let end: CallEnd = serde_json::from_slice(&body).map_err(|_| {
        ApiError::refused(ErrorCode::InvalidRequest, "The body is not the end of a call")
    })?;
    if !state.agents.answer(&caller.id, &id, end) {
        return Err(ApiError::not_found("call", &id));
    }
    load::json(StatusCode::OK, &serde_json::json!({}))
}
