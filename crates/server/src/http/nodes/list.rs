//! `GET .../nodes`, in pages.

use std::collections::BTreeMap;

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use evenkeel_api::Violation;
use evenkeel_api::node::{NodeList, PAGE_LIMIT};
use evenkeel_engine::ids::{NodeId, PoolId};
use serde_json::Value;

use super::show::in_hand;
use crate::http::auth::Call;
use crate::http::convert::{self, View};
use crate::http::error::ApiError;
use crate::http::query::Params;
use crate::http::{ApiState, load};
use crate::records::{self, NodeRecord, PoolRecord, keys};
use crate::store::Page;

/// A page of the cluster's nodes in the order of their ids.
pub(in crate::http) async fn list(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    Path((_, cluster)): Path<(String, String)>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let params = Params::read(&uri)?;
    let limit = params.number("limit", 1, PAGE_LIMIT as u64, PAGE_LIMIT as u64)? as usize;
    let cluster = load::cluster(&*state.store, call.project(), &cluster).await?.record;
    let after = match params.get("marker").filter(|marker| !marker.is_empty()) {
        None => None,
        // A marker is only a place in the order: the node behind it may be gone by now.
        Some(marker) if load::is_id(marker) => {
            Some(keys::node(call.project(), &cluster.id, &NodeId::new(marker)))
        }
        Some(marker) => {
            let violation = Violation::new("marker", "is not the id of a node")
                .with_value(&Value::from(marker));
            return Err(ApiError::invalid(violation));
        }
    };
    let page = Page { after, limit, at: None };
    let listing = state.store.list(&keys::nodes(call.project(), &cluster.id), page).await?;
    let pools =
        load::list::<PoolRecord>(&*state.store, &keys::pools(call.project(), &cluster.id)).await?;
    let pools: BTreeMap<PoolId, PoolRecord> =
        pools.into_iter().map(|pool| (pool.record.id.clone(), pool.record)).collect();
    let in_hand = in_hand(&state, call.project(), &cluster.id).await?;
    let snapshot = state.board.get(&cluster.id);
    let view = View { snapshot: snapshot.as_deref(), in_hand: &in_hand, now_ms: (state.clock)() };
    let mut items = Vec::with_capacity(listing.items.len());
    for kv in &listing.items {
        let record: NodeRecord = records::decode(&kv.key, &kv.value)?;
        items.push(convert::node(view, &record, pools.get(&record.pool)));
    }
    load::json(StatusCode::OK, &NodeList::page(items, listing.more))
}
