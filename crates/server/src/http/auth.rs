//! Who calls: an access key's signature, or a token.
//!
//! Entry point: [`authenticate`]. An unknown and a disabled access key cost the same work and get the same words as a
//! wrong signature. Absent on purpose: what a caller may do; whoever belongs to a project may do everything in it.

use std::sync::Arc;

use evenkeel_api::ErrorCode;
use evenkeel_api::sign::{self, RequestParts, SignError};
use sha2::{Digest, Sha256};

use super::error::ApiError;
use super::replay::ReplayKey;
use super::{ApiState, load, vault};
use crate::records::{AccessKeyRecord, ProjectRecord, TokenRecord, keys};

/// A caller whose identity is proven.
#[derive(Clone, Debug)]
pub(super) struct Principal {
    /// The project, with its domain.
    pub(super) project: ProjectRecord,
    /// Name of the user.
    pub(super) user: String,
    /// How it was proven: the AK, or `token`.
    pub(super) via: String,
}

/// What a handler knows of its caller.
#[derive(Clone, Debug)]
pub(super) struct Call {
    /// Who.
    pub(super) principal: Principal,
    /// `X-Request-Id` of the answer.
    pub(super) request_id: Arc<str>,
    /// Where the answer of a signed, mutating call is kept.
    pub(super) replay: Option<ReplayKey>,
}

impl Call {
    /// The id of the project, with which every key begins.
    pub(super) fn project(&self) -> &str {
        &self.principal.project.id
    }

    /// `user/AK` or `user/token`.
    pub(super) fn requested_by(&self) -> String {
        format!("{}/{}", self.principal.user, self.principal.via)
    }
}

/// The result of the check.
#[derive(Debug)]
pub(super) struct Proven {
    pub(super) principal: Principal,
    /// Lower case; empty for a token.
    pub(super) signed_headers: Vec<String>,
    pub(super) replay: Option<ReplayKey>,
}

/// Checks signature or token.
pub(super) async fn authenticate(
    state: &ApiState,
    wire: &RequestParts<'_>,
) -> Result<Proven, ApiError> {
    let has = |wanted: &str| wire.headers.iter().any(|(name, _)| name == wanted);
    if has("authorization") || !has("x-auth-token") {
        return by_signature(state, wire).await;
    }
    sign::check_path(wire.raw_path)?;
    sign::check_query(wire.raw_query)?;
    by_token(state, wire).await
}

async fn by_signature(state: &ApiState, wire: &RequestParts<'_>) -> Result<Proven, ApiError> {
    let now = (state.clock)().div_euclid(1000);
    let credentials = sign::credentials(wire)?;
    let found =
        load::find::<AccessKeyRecord>(&*state.store, keys::access_key(&credentials.ak)).await?;
    let Some(key) = found.map(|stored| stored.record).filter(|key| key.enabled) else {
        return Err(sign::refuse_unknown_key(wire, now).into());
    };
    let secret = vault::open(state, &vault::access_key(&key.project, &key.ak), &key.secret)?;
    sign::verify(wire, secret.expose().as_bytes(), now)?;
    let signature = hex::encode(credentials.signature);
    Ok(Proven {
        principal: principal(state, &key.project, key.user, key.ak.clone()).await?,
        signed_headers: credentials.signed_headers,
        replay: Some(ReplayKey::new(&key.project, &key.ak, &signature)),
    })
}

async fn by_token(state: &ApiState, wire: &RequestParts<'_>) -> Result<Proven, ApiError> {
    let mut values =
        wire.headers.iter().filter(|(name, _)| name == "x-auth-token").map(|(_, value)| value);
    let (Some(token), None) = (values.next(), values.next()) else {
        return Err(SignError::DuplicateHeader("x-auth-token".to_owned()).into());
    };
    let record = token_record(state, token.trim()).await?;
    Ok(Proven {
        principal: principal(state, &record.project, record.user, "token".to_owned()).await?,
        signed_headers: Vec::new(),
        replay: None,
    })
}

/// The record of a token that is still good; the same 401 for every other one.
pub(super) async fn token_record(state: &ApiState, token: &str) -> Result<TokenRecord, ApiError> {
    let refused = |text: &str| ApiError::refused(ErrorCode::BadCredentials, text);
    let found = load::find::<TokenRecord>(&*state.store, keys::token(&token_hash(token))).await?;
    let record = found.ok_or_else(|| refused("decrypt token fail"))?.record;
    if record.expires_ms <= (state.clock)() {
        let at = evenkeel_api::meta::iam_time(record.expires_ms);
        return Err(refused(&format!(
            "token expires, expires_at:{at}; get a new one from POST /v3/auth/tokens"
        )));
    }
    Ok(record)
}

/// What is stored of a token.
pub(super) fn token_hash(token: &str) -> String {
    hex::encode(Sha256::digest(token.as_bytes()))
}

async fn principal(
    state: &ApiState,
    project: &str,
    user: String,
    via: String,
) -> Result<Principal, ApiError> {
    let found = load::find::<ProjectRecord>(&*state.store, keys::project(project)).await?;
    let project = found.ok_or(ApiError::Internal {
        what: "a credential names a project that is gone",
        source: None,
    })?;
    Ok(Principal { project: project.record, user, via })
}
