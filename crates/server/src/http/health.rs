//! Whether the server answers and its store can be read. Public, so it says nothing else.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use super::error::ApiError;
use super::{ApiState, load};

/// `GET /healthz`.
pub(super) async fn health(State(state): State<ApiState>) -> Result<Response, ApiError> {
    state.store.revision().await?;
    load::json(StatusCode::OK, &json!({ "status": "ok" }))
}
