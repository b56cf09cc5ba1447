//! `GET .../clusters`.

use axum::Extension;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use evenkeel_api::cluster::ClusterList;

use super::show::answer;
use crate::http::auth::Call;
use crate::http::error::ApiError;
use crate::http::query::Params;
use crate::http::{ApiState, load};
use crate::records::{ClusterRecord, keys};

/// All clusters of the project, by name.
pub(in crate::http) async fn list(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let params = Params::read(&uri)?;
    let detail = params.flag("detail")?;
    let mut clusters =
        load::list::<ClusterRecord>(&*state.store, &keys::clusters(call.project())).await?;
    clusters.sort_by(|a, b| a.record.name.cmp(&b.record.name));
    let mut items = Vec::new();
    for cluster in &clusters {
        items.push(answer(&state, &call, &cluster.record, detail).await?);
    }
    let wanted = |filter: &str, value: &str| {
        params.get(filter).is_none_or(|text| text.is_empty() || text == value)
    };
    items.retain(|item| {
        wanted("status", &format!("{:?}", item.status.phase))
            && wanted("type", &item.spec.cluster_type)
            && wanted("version", &item.spec.version)
    });
    load::json(StatusCode::OK, &ClusterList::new(items))
}
