//! `PUT .../nodepools/{pool}/configuration`: sets parameters. They are part of the template: nodes are out of date until
//! a synchronization brings them.

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use evenkeel_api::configuration::{Configuration, ConfigurationUpdate};
use evenkeel_api::nodepool::NodePoolSpec;
use evenkeel_api::{ErrorCode, Violation};

use crate::http::ApiState;
use crate::http::auth::Call;
use crate::http::error::ApiError;
use crate::http::load;
use crate::http::nodepools::check::require_json;
use crate::http::nodepools::node_config;
use crate::http::nodepools::template::Clear;
use crate::http::vault::TemplateOwner;
use crate::records::{self, PoolRecord};
use crate::store::Txn;

/// How often a change is made again over a pool that changed meanwhile. Writers of one pool are few.
const TRIES: usize = 5;

/// Changes parameters.
pub(in crate::http) async fn update(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    Path((_, cluster, pool)): Path<(String, String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    require_json(&headers)?;
    for _ in 0..TRIES {
        let stored = super::pool(&state, &call, &cluster, &pool).await?;
        let change = ConfigurationUpdate::parse(&body).map_err(ApiError::Invalid)?;
        let record = changed(&state, call.project(), &stored.record, &change)?;
        let txn = Txn::new()
            .when_mod_revision(&stored.key, stored.revision)
            .put(&stored.key, records::encode(&record));
        if state.store.txn(txn).await?.succeeded {
            let answer = Configuration::of(record.id.as_str(), &record.configuration);
            return load::json(StatusCode::OK, &answer);
        }
    }
    Err(ApiError::refused(
        ErrorCode::StaleVersion,
        "The pool is being changed by others at the same time; try again",
    ))
}

fn changed(
    state: &ApiState,
    project: &str,
    record: &PoolRecord,
    change: &ConfigurationUpdate,
) -> Result<PoolRecord, ApiError> {
    let owner = TemplateOwner::Pool(&record.id);
    let mut clear = Clear::open(state, project, owner, &record.template)?;
    let spec: NodePoolSpec = serde_json::from_value(record.spec.clone())
        .map_err(|error| ApiError::internal("a stored pool cannot be read", error))?;
    let template = &spec.node_template;
    clear.configuration = change.apply(&record.configuration).map_err(ApiError::invalid)?;
    clear.set_config(template);
    if node_config::lacks_reserved_cpu(&clear.config) {
        let violation = Violation::new(
            "kubelet cpu-manager-policy",
            "is static, which a kubelet refuses without CPUs that are set aside",
        );
        return Err(ApiError::invalid(violation.with_way_out(
            "set extendParam.kubeReservedCpu or systemReservedCpu of the pool first",
        )));
    }
    Ok(PoolRecord {
        revision: clear.settle(template),
        template: clear.seal(state, project, owner)?,
        configuration: clear.configuration,
        updated_ms: (state.clock)().max(record.updated_ms),
        ..record.clone()
    })
}
