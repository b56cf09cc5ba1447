//! `GET .../nodepools/{pool}`.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;

use super::answer::Scene;
use crate::http::ApiState;
use crate::http::auth::Call;
use crate::http::error::ApiError;
use crate::http::load::{self, DEFAULT_POOL};

/// One pool.
pub(in crate::http) async fn show(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    Path((_, cluster, pool)): Path<(String, String, String)>,
) -> Result<Response, ApiError> {
    let cluster = load::cluster(&*state.store, call.project(), &cluster).await?.record;
    if pool == DEFAULT_POOL {
        let scene = Scene::read(&state, &call, &cluster.id).await?;
        return load::json(StatusCode::OK, &scene.default_pool());
    }
    let pool = load::pool(&*state.store, call.project(), &cluster.id, &pool).await?.record;
    let scene = Scene::read(&state, &call, &cluster.id).await?;
    load::json(StatusCode::OK, &scene.pool(&state, &pool)?)
}
