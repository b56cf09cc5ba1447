//! `GET .../nodepools/{pool}/configuration`: what is set.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use evenkeel_api::configuration::Configuration;

use crate::http::auth::Call;
use crate::http::error::ApiError;
use crate::http::{ApiState, load};

/// The parameters that are set.
pub(in crate::http) async fn show(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    Path((_, cluster, pool)): Path<(String, String, String)>,
) -> Result<Response, ApiError> {
    let record = super::pool(&state, &call, &cluster, &pool).await?.record;
    let answer = Configuration::of(record.id.as_str(), &record.configuration);
    load::json(StatusCode::OK, &answer)
}
