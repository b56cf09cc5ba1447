//! `PUT .../nodepools/{pool}`: changes what the pool declares. A synchronization that runs meanwhile keeps the
//! revision it started with.

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use evenkeel_api::ErrorCode;
use evenkeel_api::login::{Login, LoginSpec, UserPassword};
use evenkeel_api::nodepool::{NodePool, NodePoolMetadata, NodePoolSpec, api_version};
use evenkeel_api::pool_update::{LoginChange, NodePoolUpdate};

use super::answer::Scene;
use super::check::require_json;
use super::create::{name_taken, stored_spec};
use super::template::{self, Clear};
use crate::http::ApiState;
use crate::http::auth::Call;
use crate::http::error::ApiError;
use crate::http::load::{self, DEFAULT_POOL, Stored};
use crate::http::vault::TemplateOwner;
use crate::records::{self, PoolRecord, keys};
use crate::store::Txn;

/// How often an update is done again over a pool that changed meanwhile. Writers of one pool are few.
const TRIES: usize = 5;

/// Changes a pool.
pub(in crate::http) async fn update(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    Path((_, cluster, pool)): Path<(String, String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    require_json(&headers)?;
    let project = call.project();
    let cluster = load::cluster(&*state.store, project, &cluster).await?.record;
    if pool == DEFAULT_POOL {
        let text = "DefaultPool stores no template and cannot be changed; create a pool and move its nodes there";
        return Err(ApiError::refused(ErrorCode::Forbidden, text));
    }
    for _ in 0..TRIES {
        let stored = load::pool(&*state.store, project, &cluster.id, &pool).await?;
        let change = NodePoolUpdate::parse(&body).map_err(ApiError::Invalid)?;
        if let LoginChange::Set { login: LoginSpec::SshKey(name), .. } = &change.login {
            let known =
                template::keypair(&state, project, name, "spec.nodeTemplate.login.sshKey").await?;
            known.map_err(ApiError::invalid)?;
        }
        let record = changed(&state, project, &stored, &change).await?;
        let renamed = record.name != stored.record.name;
        let mut txn = Txn::new().when_mod_revision(&stored.key, stored.revision);
        let name_key = keys::pool_name(project, &cluster.id, &record.name);
        if renamed {
            if state.store.get(&name_key, None).await?.is_some() {
                return Err(name_taken(&record.name));
            }
            txn = txn
                .when_absent(&name_key)
                .put(&name_key, records::encode(&record.id))
                .delete(keys::pool_name(project, &cluster.id, &stored.record.name));
        }
        if state.store.txn(txn.put(&stored.key, records::encode(&record))).await?.succeeded {
            let scene = Scene::read(&state, &call, &cluster.id).await?;
            return load::json(StatusCode::OK, &scene.pool(&state, &record)?);
        }
    }
    Err(ApiError::refused(
        ErrorCode::StaleVersion,
        "The pool is being changed by others at the same time; try again",
    ))
}

async fn changed(
    state: &ApiState,
    project: &str,
    stored: &Stored<PoolRecord>,
    change: &NodePoolUpdate,
) -> Result<PoolRecord, ApiError> {
    let record = &stored.record;
    let owner = TemplateOwner::Pool(&record.id);
    let mut clear = Clear::open(state, project, owner, &record.template)?;
    clear.configuration.clone_from(&record.configuration);
    let spec: NodePoolSpec = serde_json::from_value(record.spec.clone())
        .map_err(|error| ApiError::internal("a stored pool cannot be read", error))?;
    let mut pool = NodePool {
        kind: "NodePool".to_owned(),
        api_version: api_version(),
        metadata: NodePoolMetadata { name: record.name.clone(), ..NodePoolMetadata::default() },
        spec,
        status: None,
    };
    // The stored spec has neither: an update that leaves them out keeps them.
    clear.give_scripts(&mut pool.spec.node_template);
    pool.spec.node_template.login = Some(Login {
        ssh_key: clear.ssh_key.clone(),
        user_password: clear.password_hash.as_ref().map(|_| UserPassword::default()),
        ..Login::default()
    });
    change.apply_to(&mut pool);
    clear.change_login(state, &change.login).await?;
    clear.take_scripts(&mut pool.spec.node_template);
    check_scripts_together(&clear)?;
    Ok(PoolRecord {
        id: record.id.clone(),
        name: pool.metadata.name.clone(),
        revision: clear.settle(&pool.spec.node_template),
        template: clear.seal(state, project, owner)?,
        configuration: clear.configuration,
        spec: stored_spec(&pool.spec)?,
        proven: record.proven.clone(),
        created_ms: record.created_ms,
        updated_ms: (state.clock)().max(record.updated_ms),
    })
}

/// One script of the body and the other of the store can be too long together.
fn check_scripts_together(clear: &Clear) -> Result<(), ApiError> {
    let length = |script: &Option<evenkeel_api::password::Secret>| {
        script.as_ref().map_or(0, |s| s.expose().len())
    };
    let total = length(&clear.pre_install) + length(&clear.post_install);
    if total <= evenkeel_api::pool_rules::SCRIPTS_LIMIT {
        return Ok(());
    }
    let rule = format!(
        "has both scripts together {total} characters long after encoding, at most 10240 are allowed"
    );
    let violation = evenkeel_api::Violation::new("spec.nodeTemplate.extendParam", rule);
    Err(ApiError::invalid(
        violation.with_way_out("shorten one, or fetch the bulk of the work from inside it"),
    ))
}
