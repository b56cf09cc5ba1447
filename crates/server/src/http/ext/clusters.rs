//! `POST /evenkeel/v1/projects/{project}/clusters`: registers a cluster. The look at it is a port's work.

use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use evenkeel_api::json::{At, parse_request};
use evenkeel_api::password::Secret;
use evenkeel_api::{ErrorCode, Violation};
use evenkeel_engine::ids::ClusterId;

use crate::http::auth::Call;
use crate::http::clusters::show::answer;
use crate::http::error::ApiError;
use crate::http::ports::RegisterError;
use crate::http::{ApiState, load, vault};
use crate::records::{self, ClusterRecord, PlaceRecord, keys};
use crate::store::Txn;

/// Longest cluster name: that of a Kubernetes object's label value.
const NAME_LIMIT: usize = 63;

/// Registers a cluster: body `{"name": ..., "kubeconfig": ...}`.
pub(in crate::http) async fn register(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let (name, kubeconfig) = read(&body)?;
    let project = call.project();
    let name_key = keys::cluster_name(project, &name);
    if state.store.get(&name_key, None).await?.is_some() {
        return Err(taken(&name));
    }
    let seen = state.registrar.check(kubeconfig.expose()).await.map_err(|error| match error {
        RegisterError::Kubeconfig(text) | RegisterError::Unreachable(text) => {
            ApiError::invalid(Violation::new("kubeconfig", text))
        }
        RegisterError::Rights(text) => ApiError::refused(ErrorCode::Forbidden, text),
    })?;
    let id = ClusterId::new(uuid::Uuid::new_v4().to_string());
    let record = ClusterRecord {
        name,
        version: seen.version,
        server: seen.server,
        kubeconfig: vault::seal(&state, &vault::kubeconfig(project, &id), &seen.kubeconfig)?,
        machines: None,
        recipe: None,
        policy: state.config.policy.clone(),
        created_ms: (state.clock)(),
        id,
    };
    let place = PlaceRecord { project: project.to_owned(), cluster: record.id.clone() };
    let txn = Txn::new()
        .when_absent(&name_key)
        .put(&name_key, records::encode(&record.id))
        .put(keys::cluster(project, &record.id), records::encode(&record))
        .put(keys::cluster_place(&record.id), records::encode(&place));
    if !state.store.txn(txn).await?.succeeded {
        return Err(taken(&record.name));
    }
    load::json(StatusCode::CREATED, &answer(&state, &call, &record, false).await?)
}

fn read(body: &[u8]) -> Result<(String, Secret), ApiError> {
    let request = parse_request(body).map_err(ApiError::Invalid)?;
    let root = At::root(&request);
    let mut found = Vec::new();
    let name = root.get("name").and_then(|at| {
        let name = at.string(&mut found)?;
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let first = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
        if !first || name.len() > NAME_LIMIT || !name.bytes().all(plain) || name.ends_with('-') {
            found.push(at.violation("is not a cluster name (1 to 63 of a-z, 0-9 and -, a letter first, no - at the end)"));
        }
        Some(name.to_owned())
    });
    if name.is_none() && found.is_empty() {
        found.push(Violation::new("name", "is mandatory"));
    }
    // Never quoted: it is a credential.
    let kubeconfig = root
        .get("kubeconfig")
        .and_then(|at| at.value.as_str())
        .filter(|text| !text.trim().is_empty());
    if kubeconfig.is_none() {
        let violation = Violation::new("kubeconfig", "is mandatory, as a text that is not empty");
        found
            .push(violation.with_way_out("send the content of a kubeconfig file with inline data"));
    }
    match (name, kubeconfig) {
        (Some(name), Some(kubeconfig)) if found.is_empty() => Ok((name, Secret::new(kubeconfig))),
        _ => Err(ApiError::Invalid(found)),
    }
}

fn taken(name: &str) -> ApiError {
    let text = format!("name: a cluster {name} is registered already; choose another name");
    ApiError::refused(ErrorCode::AlreadyExists, text)
}
