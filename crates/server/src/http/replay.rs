//! The same signature again: the scheme has no nonce, so a mutating call that arrives twice within the window gets
//! the answer of the first and is not done again.
//!
//! Entry points: [`first_answer`], [`remember`], and [`record`] for operations that store the answer in the same
//! transaction as their effect. Refusals are not remembered: they had no effect.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::response::Response;
use tokio::sync::OwnedMutexGuard;

use super::error::ApiError;
use super::{ApiState, load, vault};
use crate::records::{self, ReplayRecord, keys};
use crate::store::{LeaseId, Txn};

/// Twice the 15 minutes that a signature's time may be off: after that it is refused anyway.
pub(super) const WINDOW: Duration = Duration::from_mins(30);

/// Largest answer that is kept; the store takes 1 MiB per value.
const MAX_ANSWER: usize = 512 * 1024;

/// Where the answer of one signed call is kept.
#[derive(Clone, Debug)]
pub(super) struct ReplayKey {
    pub(super) project: String,
    pub(super) store_key: String,
    pub(super) signature: String,
}

impl ReplayKey {
    pub(super) fn new(project: &str, ak: &str, signature: &str) -> Self {
        Self {
            project: project.to_owned(),
            store_key: keys::replay(ak, signature),
            signature: signature.to_owned(),
        }
    }
}

/// Marks an answer whose record was stored together with its effect.
#[derive(Clone, Copy)]
pub(super) struct Remembered;

/// The answer that this signature got before, if it did.
pub(super) async fn first_answer(
    state: &ApiState,
    key: &ReplayKey,
) -> Result<Option<Response>, ApiError> {
    let Some(found) = load::find::<ReplayRecord>(&*state.store, key.store_key.clone()).await?
    else {
        return Ok(None);
    };
    let body = vault::open(state, &vault::replay(key), &found.record.body)?;
    let mut response = Response::new(Body::from(body.expose().to_owned()));
    *response.status_mut() = StatusCode::from_u16(found.record.status).unwrap_or(StatusCode::OK);
    Ok(Some(response))
}

/// The stored form of an answer, and the lease it is kept under. Sealed: an answer may echo a script.
pub(super) async fn record(
    state: &ApiState,
    key: &ReplayKey,
    request_id: &str,
    status: StatusCode,
    body: &str,
) -> Result<(Vec<u8>, LeaseId), ApiError> {
    let record = ReplayRecord {
        status: status.as_u16(),
        body: vault::seal(state, &vault::replay(key), body)?,
        request_id: request_id.to_owned(),
    };
    let lease = state.store.lease_grant(WINDOW).await?;
    Ok((records::encode(&record), lease))
}

/// Keeps the answer of a call that took effect. A store that fails here is logged, not answered: the effect stands.
pub(super) async fn remember(
    state: &ApiState,
    key: &ReplayKey,
    request_id: &str,
    response: Response,
) -> Result<Response, ApiError> {
    if !response.status().is_success() || response.extensions().get::<Remembered>().is_some() {
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX)
        .await
        .map_err(|error| ApiError::internal("an answer could not be collected", error))?;
    if let Err(error) = keep(state, key, request_id, parts.status, &bytes).await {
        tracing::warn!(request_id, error = %super::error::chain(&error), "an answer was not kept for a repeated call");
    }
    Ok(Response::from_parts(parts, Body::from(bytes)))
}

async fn keep(
    state: &ApiState,
    key: &ReplayKey,
    request_id: &str,
    status: StatusCode,
    bytes: &Bytes,
) -> Result<(), ApiError> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Ok(());
    };
    if text.len() > MAX_ANSWER {
        return Ok(());
    }
    let (value, lease) = record(state, key, request_id, status, text).await?;
    state.store.txn(Txn::new().put_leased(&key.store_key, value, lease)).await?;
    Ok(())
}

/// Calls that are being served, by key.
#[derive(Clone, Default)]
pub(super) struct Inflight(Arc<Mutex<BTreeMap<String, Weak<tokio::sync::Mutex<()>>>>>);

impl Inflight {
    /// Waits until no other call with this key is being served.
    pub(super) async fn enter(&self, key: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| turn.strong_count() > 0);
            let known = turns.get(key).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let turn = Arc::new(tokio::sync::Mutex::new(()));
                turns.insert(key.to_owned(), Arc::downgrade(&turn));
                turn
            })
        };
        turn.lock_owned().await
    }
}
