//! The outer layer. Whatever route a request is for, it comes through here first and is let through only with a
//! proven identity; whatever is answered leaves through here as JSON with a request id.
//!
//! Entry point: [`gate`]. Absent on purpose: a list of protected routes. Everything is, except what the table of
//! routes marks as public.

use std::panic::AssertUnwindSafe;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use evenkeel_api::ErrorCode;
use evenkeel_api::sign::{self, RequestParts};
use evenkeel_node::protocol::agent::ANSWER_BYTES_MAX;
use futures::{FutureExt, StreamExt};

use super::auth::{self, Call};
use super::error::{self, ApiError, Pending};
use super::nodepools::preview;
use super::replay::{self, Inflight};
use super::{Access, ApiState, ROUTES, agent, audit};

/// What the layer needs.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) state: ApiState,
    pub(super) inflight: Inflight,
}

/// What is read, and thrown away, of a body beyond the limit: whoever still sends would not read the refusal but see
/// a reset connection. 12 MB is what the service itself takes in a signed call.
const DISCARD_LIMIT: usize = 12 * 1024 * 1024;

/// Longest body of an agent: what a host says, as a text inside JSON, where a character may take two.
const AGENT_BODY_LIMIT: usize = 2 * ANSWER_BYTES_MAX + 64 * 1024;

/// Checks, runs and dresses one call.
pub(super) async fn gate(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    if !is_mutating(request.method(), request.uri().path()) {
        return serve(gate, request, next).await;
    }
    // A client that hangs up drops this future in the middle of whatever it does. A task of its own goes on to the
    // end, so that what took effect is also audited and remembered.
    match tokio::spawn(serve(gate, request, next)).await {
        Ok(response) => response,
        Err(error) => {
            let request_id = uuid::Uuid::new_v4().to_string();
            let error = ApiError::internal("a call was broken off", error);
            error::render(&error, &request_id)
        }
    }
}

async fn serve(gate: Gate, request: Request, next: Next) -> Response {
    let request_id = uuid::Uuid::new_v4().to_string();
    let mut entry = audit::Entry::new(&request_id, request.method(), request.uri().path());
    let outcome =
        AssertUnwindSafe(pass(&gate, request, next, &request_id, &mut entry)).catch_unwind();
    let response = match outcome.await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => error.into_response(),
        Err(_) => ApiError::Internal { what: "a handler panicked", source: None }.into_response(),
    };
    let response = dress(response, &request_id, &mut entry);
    entry.write(response.status());
    response
}

/// Everything between the request and the answer that a handler, or a refusal, gives.
async fn pass(
    gate: &Gate,
    request: Request,
    next: Next,
    request_id: &str,
    entry: &mut audit::Entry,
) -> Result<Response, ApiError> {
    let (mut parts, body) = request.into_parts();
    let method = parts.method.as_str();
    let route = ROUTES.iter().find(|r| r.method == method && r.fits(parts.uri.path()));
    let access = route.map_or(Access::Principal, |route| route.access);
    let public = access == Access::Public;
    if !public
        && !parts.headers.contains_key("authorization")
        && !parts.headers.contains_key("x-auth-token")
    {
        return Err(sign::SignError::Missing.into());
    }
    if parts.headers.contains_key(header::TRANSFER_ENCODING)
        && parts.headers.contains_key(header::CONTENT_LENGTH)
    {
        let text = "Both Content-Length and Transfer-Encoding are sent; send one of them";
        return Err(ApiError::refused(ErrorCode::InvalidRequest, text));
    }
    if access == Access::Agent {
        // Before its body is read: only an agent may send one of that size.
        let caller = agent::authenticate(&gate.state, &parts.headers).await?;
        entry.agent(&caller.id);
        let body = read_body(&gate.state, body, AGENT_BODY_LIMIT).await?;
        parts.extensions.insert(caller);
        return Ok(next.run(Request::from_parts(parts, Body::from(body))).await);
    }
    let body = read_body(&gate.state, body, gate.state.config.body_limit).await?;
    if public {
        return Ok(next.run(Request::from_parts(parts, Body::from(body))).await);
    }
    let headers = plain_headers(&parts.headers)?;
    let wire = RequestParts {
        method: parts.method.as_str(),
        raw_path: parts.uri.path(),
        raw_query: parts.uri.query().unwrap_or(""),
        headers: &headers,
        body: &body,
    };
    let proven = auth::authenticate(&gate.state, &wire).await?;
    entry.caller(&proven.principal);
    check_project(&proven, wire.raw_path, &headers)?;
    let key = proven.replay.filter(|_| is_mutating(&parts.method, wire.raw_path));
    let call =
        Call { principal: proven.principal, request_id: request_id.into(), replay: key.clone() };
    let Some(key) = key else {
        parts.extensions.insert(call);
        return Ok(next.run(Request::from_parts(parts, Body::from(body))).await);
    };
    // One at a time per signature: the second of two finds the answer of the first.
    let _turn = gate.inflight.enter(&key.store_key).await;
    if let Some(first) = replay::first_answer(&gate.state, &key).await? {
        return Ok(first);
    }
    parts.extensions.insert(call);
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    replay::remember(&gate.state, &key, request_id, response).await
}

/// Whether a call may change something. A preview is a POST only because it has a body.
pub(super) fn is_mutating(method: &Method, path: &str) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
        && !path.ends_with(preview::PATH_END)
}

async fn read_body(state: &ApiState, body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let refused = |text: String| Err(ApiError::refused(ErrorCode::InvalidRequest, text));
    match tokio::time::timeout(state.config.body_timeout, collect(body, limit)).await {
        Ok(Ok(Some(bytes))) => Ok(bytes),
        Ok(Ok(None)) => refused(format!("The body is longer than {limit} bytes; send less")),
        Ok(Err(_)) => refused("The body broke off; send it again".to_owned()),
        Err(_) => refused("The body did not arrive in time; send it again".to_owned()),
    }
}

/// The body; `None` if it is longer than `limit`.
async fn collect(body: Body, limit: usize) -> Result<Option<Bytes>, axum::Error> {
    let (mut kept, mut total) = (Vec::new(), 0_usize);
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        total = total.saturating_add(chunk.len());
        if total <= limit {
            kept.extend_from_slice(&chunk);
        } else if total > DISCARD_LIMIT {
            break;
        } else {
            kept = Vec::new();
        }
    }
    Ok((total <= limit).then(|| kept.into()))
}

/// Header values as text. Bytes beyond ASCII are read differently by different parties, so they are refused.
fn plain_headers(headers: &HeaderMap) -> Result<Vec<(String, String)>, ApiError> {
    let text = |(name, value): (&header::HeaderName, &HeaderValue)| match value.to_str() {
        Ok(value) => Ok((name.as_str().to_owned(), value.to_owned())),
        Err(_) => {
            let text = format!("The header {name} has characters beyond ASCII; leave them out");
            Err(ApiError::refused(ErrorCode::InvalidRequest, text))
        }
    };
    headers.iter().map(text).collect()
}

/// A path of another project is a missing id, whether that project exists or not (S17).
fn check_project(
    proven: &auth::Proven,
    path: &str,
    headers: &[(String, String)],
) -> Result<(), ApiError> {
    let own = proven.principal.project.id.as_str();
    let rest = ["/api/v3/projects/", "/evenkeel/v1/projects/"]
        .iter()
        .find_map(|prefix| path.strip_prefix(prefix));
    if let Some(project) = rest.and_then(|rest| rest.split('/').next())
        && project != own
    {
        return Err(ApiError::not_found("project", project));
    }
    let named =
        headers.iter().find(|(name, _)| name == "x-project-id").map(|(_, value)| value.trim());
    let signed = proven.signed_headers.iter().any(|name| name == "x-project-id");
    if let Some(named) = named.filter(|named| signed && *named != own) {
        let named: String = named.chars().take(64).collect();
        let text = format!(
            "X-Project-Id names {named}, which is not the project of this credential; send its own"
        );
        return Err(ApiError::refused(ErrorCode::Forbidden, text));
    }
    Ok(())
}

/// Gives every answer its request id and JSON type, and every refusal its body.
fn dress(response: Response, request_id: &str, entry: &mut audit::Entry) -> Response {
    let pending = response.extensions().get::<Pending>().cloned();
    let mut response = match pending {
        None => response,
        Some(Pending(error)) => {
            if error.is_ours() {
                tracing::error!(request_id, error = %error::chain(&error), "a call failed");
            }
            entry.refused(&error);
            error::render(&error, request_id)
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(value) = HeaderValue::from_str(request_id) {
        headers.insert("x-request-id", value);
    }
    response
}
