//! `GET .../nodepools`.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use evenkeel_api::nodepool::NodePoolList;

use super::answer::Scene;
use crate::http::auth::Call;
use crate::http::error::ApiError;
use crate::http::query::Params;
use crate::http::{ApiState, load};
use crate::records::{PoolRecord, keys};

/// All pools by name; the default one first, if asked for. There are no scaling groups, so `advanceStatus` changes
/// nothing.
pub(in crate::http) async fn list(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    Path((_, cluster)): Path<(String, String)>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let params = Params::read(&uri)?;
    let with_default = params.flag("showDefaultNodePool")?;
    params.flag("advanceStatus")?;
    let cluster = load::cluster(&*state.store, call.project(), &cluster).await?.record;
    let mut pools =
        load::list::<PoolRecord>(&*state.store, &keys::pools(call.project(), &cluster.id)).await?;
    pools.sort_by(|a, b| a.record.name.cmp(&b.record.name));
    let scene = Scene::read(&state, &call, &cluster.id).await?;
    let mut items = Vec::new();
    if with_default {
        items.push(scene.default_pool());
    }
    for pool in &pools {
        items.push(scene.pool(&state, &pool.record)?);
    }
    load::json(StatusCode::OK, &NodePoolList::new(items))
}
