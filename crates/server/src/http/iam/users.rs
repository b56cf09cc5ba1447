//! `GET /v3/users`, by which the Terraform provider finds itself.

use axum::Extension;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde_json::json;

use crate::http::auth::Call;
use crate::http::error::ApiError;
use crate::http::query::Params;
use crate::http::{ApiState, load};
use crate::records::{UserRecord, keys};

/// The caller; nobody else, whatever name is asked for.
pub(in crate::http) async fn list(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let name = &call.principal.user;
    let wanted = Params::read(&uri)?.get("name").is_none_or(|wanted| wanted == name);
    let found = load::find::<UserRecord>(&*state.store, keys::user(name)).await?;
    let users: Vec<_> = found
        .filter(|_| wanted)
        .map(|user| {
            json!({
                "id": user.record.id,
                "name": user.record.name,
                "domain_id": call.principal.project.domain_id,
                "enabled": true,
                "password_expires_at": null,
                "links": { "self": format!("/v3/users/{}", user.record.id) },
            })
        })
        .into_iter()
        .collect();
    load::json(StatusCode::OK, &json!({ "users": users, "links": { "self": "/v3/users" } }))
}
