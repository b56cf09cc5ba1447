//! `GET .../nodes/{node}`.

use std::collections::BTreeMap;

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use evenkeel_engine::ids::{ClusterId, JobId, NodeName};
use evenkeel_engine::sync::Work;

use crate::http::ApiState;
use crate::http::auth::Call;
use crate::http::convert::{self, View};
use crate::http::error::ApiError;
use crate::http::load::{self, DEFAULT_POOL};
use crate::records::keys;

/// One node.
pub(in crate::http) async fn show(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    Path((_, cluster, node)): Path<(String, String, String)>,
) -> Result<Response, ApiError> {
    let cluster = load::cluster(&*state.store, call.project(), &cluster).await?.record;
    let node = load::node(&*state.store, call.project(), &cluster.id, &node).await?.record;
    let pool = match node.pool.as_str() {
        DEFAULT_POOL => None,
        id => Some(load::pool(&*state.store, call.project(), &cluster.id, id).await?.record),
    };
    let in_hand = in_hand(&state, call.project(), &cluster.id).await?;
    let snapshot = state.board.get(&cluster.id);
    let view = View { snapshot: snapshot.as_deref(), in_hand: &in_hand, now_ms: (state.clock)() };
    load::json(StatusCode::OK, &convert::node(view, &node, pool.as_ref()))
}

/// The nodes of a cluster that are in hand, and the jobs that hold them.
pub(in crate::http) async fn in_hand(
    state: &ApiState,
    project: &str,
    cluster: &ClusterId,
) -> Result<BTreeMap<NodeName, JobId>, ApiError> {
    let mut held = BTreeMap::new();
    for active in load::list::<JobId>(&*state.store, &keys::actives(project, cluster)).await? {
        let works =
            load::list::<Work>(&*state.store, &keys::works(project, cluster, &active.record))
                .await?;
        let names = works
            .into_iter()
            .filter(|work| work.record.phase.is_active())
            .map(|work| work.record.name);
        held.extend(names.map(|name| (name, active.record.clone())));
    }
    Ok(held)
}
