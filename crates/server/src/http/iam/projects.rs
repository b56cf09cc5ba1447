//! `GET /v3/projects`, by which SDKs turn the name of their region into a project, and `GET /v3/auth/projects`.

use axum::Extension;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use evenkeel_api::iam::{Links, Project, ProjectList};

use crate::http::auth::Call;
use crate::http::error::ApiError;
use crate::http::query::Params;
use crate::http::{ApiState, load};
use crate::records::ProjectRecord;

/// The caller's project, if the name is its own or that of the region: exactly one, as SDKs demand.
pub(in crate::http) async fn list(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let params = Params::read(&uri)?;
    let project = &call.principal.project;
    let by_name = params
        .get("name")
        .is_none_or(|name| name == project.name || name == state.config.region_name);
    let by_domain = params.get("domain_id").is_none_or(|id| id == project.domain_id);
    let by_state = params.get("enabled").is_none_or(|enabled| enabled.eq_ignore_ascii_case("true"));
    let found = (by_name && by_domain && by_state).then(|| wire(project));
    answer(found.into_iter().collect(), "/v3/projects")
}

/// The projects that the caller can work in.
pub(in crate::http) async fn list_own(
    Extension(call): Extension<Call>,
) -> Result<Response, ApiError> {
    answer(vec![wire(&call.principal.project)], "/v3/auth/projects")
}

fn answer(projects: Vec<Project>, this: &str) -> Result<Response, ApiError> {
    let links = Links { this: this.to_owned(), ..Links::default() };
    load::json(StatusCode::OK, &ProjectList { projects, links })
}

fn wire(project: &ProjectRecord) -> Project {
    Project {
        id: project.id.clone(),
        name: project.name.clone(),
        domain_id: project.domain_id.clone(),
        parent_id: project.domain_id.clone(),
        is_domain: false,
        enabled: true,
        description: String::new(),
        links: Links { this: format!("/v3/projects/{}", project.id), ..Links::default() },
    }
}
