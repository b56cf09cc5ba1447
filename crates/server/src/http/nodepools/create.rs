//! `POST .../nodepools`.

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use evenkeel_api::ErrorCode;
use evenkeel_api::login::{LoginSpec, mask_login};
use evenkeel_api::nodepool::{NodePool, NodePoolSpec};
use evenkeel_engine::ids::PoolId;
use serde_json::Value;

use super::answer::Scene;
use super::check::require_json;
use super::template::{self, Clear};
use crate::http::auth::Call;
use crate::http::error::ApiError;
use crate::http::vault::TemplateOwner;
use crate::http::{ApiState, load};
use crate::records::{self, PoolRecord, keys};
use crate::store::Txn;

/// Makes a pool without nodes; they are moved in afterwards.
pub(in crate::http) async fn create(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    Path((_, cluster)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    require_json(&headers)?;
    let project = call.project();
    let cluster = load::cluster(&*state.store, project, &cluster).await?.record;
    let (mut pool, login) = NodePool::parse_create(&body).map_err(ApiError::Invalid)?;
    if let Some(LoginSpec::SshKey(name)) = &login {
        let known =
            template::keypair(&state, project, name, "spec.nodeTemplate.login.sshKey").await?;
        known.map_err(ApiError::invalid)?;
    }
    let mut clear = Clear { user: "root".to_owned(), ..Clear::default() };
    clear.take_scripts(&mut pool.spec.node_template);
    if let Some(login) = &login {
        clear.set_login(&state, login).await?;
    }
    let id = PoolId::new(uuid::Uuid::new_v4().to_string());
    let now = (state.clock)();
    let record = PoolRecord {
        name: pool.metadata.name.clone(),
        revision: clear.settle(&pool.spec.node_template),
        template: clear.seal(&state, project, TemplateOwner::Pool(&id))?,
        configuration: clear.configuration,
        spec: stored_spec(&pool.spec)?,
        proven: None,
        created_ms: now,
        updated_ms: now,
        id,
    };
    let name_key = keys::pool_name(project, &cluster.id, &record.name);
    let txn = Txn::new()
        .when_absent(&name_key)
        .put(&name_key, records::encode(&record.id))
        .put(keys::pool(project, &cluster.id, &record.id), records::encode(&record));
    if !state.store.txn(txn).await?.succeeded {
        return Err(name_taken(&record.name));
    }
    let scene = Scene::read(&state, &call, &cluster.id).await?;
    load::json(StatusCode::CREATED, &scene.pool(&state, &record)?)
}

/// The part of a spec that may stand in the store in clear.
pub(super) fn stored_spec(spec: &NodePoolSpec) -> Result<Value, ApiError> {
    let mut value = serde_json::to_value(spec)
        .map_err(|error| ApiError::internal("a pool could not be written as JSON", error))?;
    mask_login(&mut value);
    Ok(value)
}

pub(super) fn name_taken(name: &str) -> ApiError {
    let text =
        format!("metadata.name: this cluster has a node pool {name} already; choose another name");
    ApiError::refused(ErrorCode::AlreadyExists, text)
}
