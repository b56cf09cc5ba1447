//! `GET .../jobs/{job}/nodes/{node}/output?attempt=&stage=&offset=`: what the steps of an attempt printed.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use evenkeel_api::Violation;
use serde_json::{Value, json};

use crate::http::auth::Call;
use crate::http::error::ApiError;
use crate::http::jobs::read;
use crate::http::ports::OutputQuery;
use crate::http::query::Params;
use crate::http::{ApiState, load};
use crate::sync::ports::Stage;

/// Largest attempt number that can have happened: ten retries, each counted once per give-back.
const MAX_ATTEMPT: u64 = 1000;

/// A piece of output. The node is named by id or by name; the last attempt and the stage `reset` are the defaults.
pub(in crate::http) async fn read(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    Path((_, job, node)): Path<(String, String, String)>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let params = Params::read(&uri)?;
    let found = read::find(&state, call.project(), &job).await?;
    let work =
        found.sync.works().find(|work| work.id.as_str() == node || work.name.as_str() == node);
    let missing = || ApiError::not_found("output of node", &node);
    let work = work.ok_or_else(missing)?;
    let stage = match params.get("stage") {
        None | Some("" | "reset") => Stage::Reset,
        Some("post") => Stage::Post,
        Some(other) => {
            let violation = Violation::new("stage", "is not one of reset, post")
                .with_value(&Value::from(other));
            return Err(ApiError::invalid(violation));
        }
    };
    let last = u64::from(work.attempt.max(1));
    let attempt = params.number("attempt", 1, MAX_ATTEMPT, last)?;
    let query = OutputQuery {
        cluster: found.cluster.clone(),
        job: found.sync.spec.job.clone(),
        node: work.name.clone(),
        node_id: work.id.clone(),
        attempt: u32::try_from(attempt).unwrap_or(u32::MAX),
        stage,
        offset: params.number("offset", 0, u64::MAX, 0)?,
    };
    let chunk = state.outputs.read(&query).await;
    let chunk =
        chunk.map_err(|error| ApiError::internal("a script's output could not be read", error))?;
    let chunk = chunk.ok_or_else(missing)?;
    let answer = json!({
        "node": work.name,
        "attempt": attempt,
        "text": String::from_utf8_lossy(&chunk.data),
        "data": STANDARD.encode(&chunk.data),
        "nextOffset": chunk.next_offset,
        "complete": chunk.complete,
    });
    load::json(StatusCode::OK, &answer)
}
