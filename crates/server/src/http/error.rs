//! The one place that knows status codes and the shape of a refusing answer.
//!
//! Entry points: [`ApiError`], which every handler returns, and [`render`], by which the outer layer turns it into
//! a body once the request id is known. Absent on purpose: texts about a single operation; handlers word those.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Response, StatusCode, header};
use axum::response::IntoResponse;
use evenkeel_api::sign::SignError;
use evenkeel_api::{ErrorBody, ErrorCode, Violation};

use crate::records::RecordError;
use crate::store::StoreError;

/// Why a call is not answered with what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The request breaks rules; all of them.
    #[error("{}", evenkeel_api::violation::join(.0))]
    Invalid(Vec<Violation>),
    /// Refused for one reason.
    #[error("{message}")]
    Refused {
        /// The code, which fixes the status.
        code: ErrorCode,
        /// What was wrong and the way out.
        message: String,
    },
    /// The store did not do it.
    #[error("the store failed")]
    Store(#[source] StoreError),
    /// A stored record cannot be read.
    #[error("a stored record cannot be read")]
    Record(#[source] RecordError),
    /// Something of ours is broken.
    #[error("{what}")]
    Internal {
        /// What, for the log.
        what: &'static str,
        /// The cause.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

impl ApiError {
    /// A refusal.
    pub fn refused(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::Refused { code, message: message.into() }
    }

    /// 404 for something named. The same words whether it never existed or is somebody else's (S17).
    pub fn not_found(kind: &str, id: &str) -> Self {
        let id: String = id.chars().take(64).collect();
        Self::refused(ErrorCode::NotFound, format!("There is no {kind} {id} here"))
    }

    /// 400 for one field.
    pub fn invalid(violation: Violation) -> Self {
        Self::Invalid(vec![violation])
    }

    /// A fault of ours with its cause.
    pub fn internal(
        what: &'static str,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::Internal { what, source: Some(Box::new(source)) }
    }

    /// The code that is answered.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Invalid(_) => ErrorCode::InvalidRequest,
            Self::Refused { code, .. } => *code,
            Self::Store(_) | Self::Record(_) | Self::Internal { .. } => ErrorCode::Internal,
        }
    }

    /// Whether the operator has to look, not the caller.
    pub fn is_ours(&self) -> bool {
        self.code().http_status() >= 500
    }

    fn body(&self) -> ErrorBody {
        match self {
            Self::Invalid(violations) => ErrorBody::invalid(violations),
            Self::Refused { code, message } => ErrorBody::new(*code, message),
            Self::Store(error) if error.may_have_applied() => ErrorBody::new(
                ErrorCode::Internal,
                "The store did not answer, so the outcome is unknown. Read the resource, or repeat the same request: \
                 what was accepted is not done twice",
            ),
            Self::Store(StoreError::Full) => ErrorBody::new(
                ErrorCode::Internal,
                "The store has no space left and nothing was accepted. Free disk space on the server, then repeat",
            ),
            Self::Store(error) if error.is_transient() => ErrorBody::new(
                ErrorCode::Internal,
                "The store failed for the moment and nothing was accepted. Repeat the request",
            ),
            Self::Store(_) | Self::Record(_) | Self::Internal { .. } => ErrorBody::new(
                ErrorCode::Internal,
                "Nothing was accepted. The server's log has the cause under this request id",
            ),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<RecordError> for ApiError {
    fn from(error: RecordError) -> Self {
        Self::Record(error)
    }
}

impl From<SignError> for ApiError {
    fn from(error: SignError) -> Self {
        Self::refused(error.code(), error.to_string())
    }
}

/// A refusal on its way to the outer layer, which adds the request id.
#[derive(Clone)]
pub(super) struct Pending(pub(super) Arc<ApiError>);

impl IntoResponse for ApiError {
    fn into_response(self) -> axum::response::Response {
        let mut response = status(self.code()).into_response();
        response.extensions_mut().insert(Pending(Arc::new(self)));
        response
    }
}

/// The status of a code.
pub(super) fn status(code: ErrorCode) -> StatusCode {
    StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The answer to a refused call.
pub(super) fn render(error: &ApiError, request_id: &str) -> Response<Body> {
    let body = error.body().with_request_id(request_id);
    let bytes = serde_json::to_vec(&body).unwrap_or_default();
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status(error.code());
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    if error.code() == ErrorCode::Locked {
        // A pool is locked for minutes; half a minute keeps a polling client from hammering.
        response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("30"));
    }
    response
}

/// The error with its causes in one line, for the log.
pub(super) fn chain(error: &ApiError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
