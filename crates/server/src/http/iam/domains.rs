//! `GET /v3/auth/domains`.

use axum::Extension;
use axum::http::StatusCode;
use axum::response::Response;
use evenkeel_api::iam::{Domain, DomainList, Links};

use crate::http::auth::Call;
use crate::http::error::ApiError;
use crate::http::load;

/// The caller's domain.
pub(in crate::http) async fn list(Extension(call): Extension<Call>) -> Result<Response, ApiError> {
    let project = &call.principal.project;
    let domain = Domain {
        id: project.domain_id.clone(),
        name: project.domain_name.clone(),
        enabled: true,
        description: String::new(),
        links: Links { this: format!("/v3/domains/{}", project.domain_id), ..Links::default() },
    };
    let links = Links { this: "/v3/auth/domains".to_owned(), ..Links::default() };
    load::json(StatusCode::OK, &DomainList { domains: vec![domain], links })
}
