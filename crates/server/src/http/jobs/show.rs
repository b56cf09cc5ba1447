//! `GET /api/v3/projects/{project}/jobs/{job}`: a job with its sub-jobs, or one sub-job.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;

use super::read;
use crate::http::auth::Call;
use crate::http::error::ApiError;
use crate::http::{ApiState, convert, load};

/// One job.
pub(in crate::http) async fn show(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    Path((_, job)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let found = read::find(&state, call.project(), &job).await?;
    let wall = |time| found.wall(time);
    let view = found.view(&wall);
    let work = found.node.as_ref().and_then(|name| found.sync.work(name));
    let answer = match work {
        Some(work) => convert::sub_job(&view, work),
        None => convert::job(&view),
    };
    load::json(StatusCode::OK, &answer)
}
