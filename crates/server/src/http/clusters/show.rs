//! `GET .../clusters/{cluster}`.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use evenkeel_api::cluster::Cluster;
use evenkeel_engine::facts::Readiness;

use crate::http::auth::Call;
use crate::http::error::ApiError;
use crate::http::query::Params;
use crate::http::{ApiState, convert, load};
use crate::records::{ClusterRecord, NodeRecord, keys};

/// One cluster.
pub(in crate::http) async fn show(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    Path((_, cluster)): Path<(String, String)>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let detail = Params::read(&uri)?.flag("detail")?;
    let cluster = load::cluster(&*state.store, call.project(), &cluster).await?;
    load::json(StatusCode::OK, &answer(&state, &call, &cluster.record, detail).await?)
}

/// A cluster as it is answered; `detail` adds the number of its nodes.
pub(in crate::http) async fn answer(
    state: &ApiState,
    call: &Call,
    record: &ClusterRecord,
    detail: bool,
) -> Result<Cluster, ApiError> {
    let snapshot = state.board.get(&record.id);
    let counts = if detail {
        let nodes =
            load::list::<NodeRecord>(&*state.store, &keys::nodes(call.project(), &record.id))
                .await?;
        let ready = |name: &str| {
            let seen = snapshot.as_ref().and_then(|snapshot| snapshot.nodes.get(&name.into()));
            seen.is_some_and(|node| node.ready == Readiness::Ready)
        };
        Some((nodes.len(), nodes.iter().filter(|node| ready(&node.record.name)).count()))
    } else {
        None
    };
    Ok(convert::cluster(record, snapshot.as_deref(), counts))
}
