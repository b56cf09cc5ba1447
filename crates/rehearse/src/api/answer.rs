//! Answers over HTTP: objects, `Status` objects, and connections that end without one.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use evenkeel_sim::status::Refusal;
use evenkeel_sim::world::Failure;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

/// A JSON answer.
pub(super) fn ok(code: StatusCode, body: &Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = code;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A text answer.
pub(super) fn text(code: StatusCode, body: &'static str) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = code;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

/// The `Status` object of a refusal.
pub(super) fn status(refusal: &Refusal) -> Value {
    let mut details = Map::new();
    let mut set = |key: &str, value: Value| details.insert(key.to_owned(), value);
    if !refusal.name.is_empty() {
        set("name", refusal.name.clone().into());
    }
    if !refusal.group.is_empty() {
        set("group", refusal.group.into());
    }
    if !refusal.kind.is_empty() {
        set("kind", refusal.kind.into());
    }
    if !refusal.causes.is_empty() {
        let causes = refusal.causes.iter().map(|cause| {
            let mut entry = json!({"reason": cause.reason, "message": cause.message});
            if !cause.field.is_empty() {
                entry["field"] = cause.field.into();
            }
            entry
        });
        set("causes", causes.collect());
    }
    if let Some(seconds) = refusal.retry_after_s {
        set("retryAfterSeconds", seconds.into());
    }
    let mut body = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": refusal.message,
        "code": refusal.code,
    });
    if !refusal.reason.is_empty() {
        body["reason"] = refusal.reason.into();
    }
    if !details.is_empty() || refusal.bare_details {
        body["details"] = Value::Object(details);
    }
    body
}

/// A refusal over HTTP.
pub(super) fn refuse(refusal: &Refusal) -> Response {
    let code = StatusCode::from_u16(refusal.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = ok(code, &status(refusal));
    if let Some(seconds) = refusal.retry_after_s {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// What is left of a failed call.
pub(super) fn failed(failure: &Failure) -> Response {
    match failure {
        Failure::Status(refusal) if *refusal == Refusal::flow_control() => {
            // Priority and fairness answers before anything that knows of Status objects.
            let mut response =
                text(StatusCode::TOO_MANY_REQUESTS, "Too many requests, please try again later.\n");
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            response
        }
        Failure::Status(refusal) => refuse(refusal),
        Failure::Lost => cut(),
    }
}

/// The connection ends in the middle of the answer.
fn cut() -> Response {
    let end = futures::stream::iter([
        Ok(Bytes::from_static(b"{\"kind\":")),
        Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset)),
    ]);
    let mut response = Response::new(Body::from_stream(end));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
