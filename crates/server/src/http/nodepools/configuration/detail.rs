//! `GET .../nodepools/{pool}/configuration/detail`: what can be set.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use evenkeel_api::configuration;

use crate::http::auth::Call;
use crate::http::error::ApiError;
use crate::http::{ApiState, load};

/// Every parameter that a pool may set.
pub(in crate::http) async fn detail(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    Path((_, cluster, pool)): Path<(String, String, String)>,
) -> Result<Response, ApiError> {
    super::pool(&state, &call, &cluster, &pool).await?;
    load::json(StatusCode::OK, &configuration::detail())
}
