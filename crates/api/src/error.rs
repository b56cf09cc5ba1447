//! The catalogue of error codes and the body of every refusing answer.
//!
//! Entry points: [`ErrorCode`] and [`ErrorBody::new`].
//! Deliberately absent: a `message` key in the body. Three SDKs append it to the text they already
//! show, so the cleanest answer has both key families and nothing else.

use serde::Serialize;
use serde_json::Value;

use crate::violation::{self, Violation};

macro_rules! catalogue {
    ($($variant:ident = $code:literal, $status:literal, $summary:literal;)*) => {
        /// The codes that this API answers with. The numbers and texts are those of the public
        /// CCE error table; the `APIGW` family is that of the gateway in front of it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ErrorCode {
            $(#[doc = concat!($code, ": ", $summary)] $variant,)*
        }

        impl ErrorCode {
            /// Every code, in the order of the catalogue.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$variant,)*];

            /// The code as it stands on the wire.
            pub fn code(self) -> &'static str {
                match self { $(ErrorCode::$variant => $code,)* }
            }

            /// The HTTP status that belongs to the code.
            pub fn http_status(self) -> u16 {
                match self { $(ErrorCode::$variant => $status,)* }
            }

            /// The text of the public table, the first part of every message.
            pub fn summary(self) -> &'static str {
                match self { $(ErrorCode::$variant => $summary,)* }
            }
        }
    };
}

catalogue! {
    InvalidRequest = "CCE.01400001", 400, "Invalid request.";
    ContentTypeNotSupported = "CCE.01400006", 400, "Content type not supported.";
    TooManyNodes = "CCE.01400014", 400, "Excessive nodes in the cluster.";
    VersionNotSupported = "CCE.01400015", 400, "Version not supported.";
    ScalingConflict = "CCE.01400023", 400, "Operation conflict: the cluster is being scaled.";
    DeletionProtected = "CCE.01400034", 400, "Deletion protection is on.";
    AuthorizationFailed = "CCE.01401001", 401, "Authorization failed.";
    Forbidden = "CCE.01403001", 403, "Forbidden.";
    PoolStateForbidsDeletion = "CCE.01403003", 403, "The node pool status forbids deletion.";
    PoolHasBusyNodes = "CCE.01403006", 403, "The node pool has installing or deleting nodes.";
    ClusterStateForbids = "CCE.01403009", 403, "The cluster status forbids the operation.";
    NotFound = "CCE.01404001", 404, "Resource not found.";
    AlreadyExists = "CCE.01409001", 409, "The resource already exists.";
    StaleVersion = "CCE.01409002", 409, "Resource updated with out-of-date version.";
    Locked = "CCE.01429002", 429, "Resource locked by other requests.";
    TooManyTasks = "CCE.01429003", 429, "Too many concurrent tasks.";
    TooManyRequests = "CCE.02429001", 429, "The throttling threshold has been reached.";
    Internal = "CCE.01500001", 500, "Internal error.";
    ApiNotFound = "APIGW.0101", 404, "The API does not exist or has not been published.";
    BackendTimeout = "APIGW.0201", 504, "Backend timeout.";
    BadCredentials = "APIGW.0301", 401, "Incorrect IAM authentication information";
    BadTime = "APIGW.0303", 401, "Incorrect app authentication information";
    Throttled = "APIGW.0308", 429, "The throttling threshold has been reached.";
}

impl ErrorCode {
    /// The code with this text on the wire, if the catalogue has it.
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|known| known.code() == code)
    }
}

/// The body of a refusing answer. Old clients read one key family, new ones the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorBody {
    pub error_code: String,
    pub error_msg: String,
    #[serde(rename = "errorCode")]
    pub public_code: String,
    #[serde(rename = "errorMessage")]
    pub public_message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

impl ErrorBody {
    /// `detail` is the part that only this request knows; it follows the summary of the code.
    pub fn new(code: ErrorCode, detail: impl AsRef<str>) -> Self {
        let (summary, detail) = (code.summary(), detail.as_ref().trim());
        let text = if detail.is_empty() {
            summary.to_owned()
        } else if detail.starts_with(summary) {
            detail.to_owned()
        } else {
            let link = if summary.ends_with('.') { " " } else { ": " };
            format!("{summary}{link}{detail}")
        };
        Self::from_parts(code.code().to_owned(), text)
    }

    /// The answer to a request that breaks rules: all of them at once.
    pub fn invalid(violations: &[Violation]) -> Self {
        Self::new(ErrorCode::InvalidRequest, violation::join(violations))
    }

    pub fn with_request_id(mut self, request_id: impl Into<String>) -> Self {
        self.request_id = Some(request_id.into());
        self
    }

    /// Reads any of the error shapes that CCE, its gateway and its IAM answer with. `None` if the
    /// bytes are not such a body.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(body).ok()?;
        let inner = value.get("error").filter(|error| error.is_object()).unwrap_or(&value);
        let text = |keys: &[&str]| {
            keys.iter().find_map(|key| match inner.get(key) {
                Some(Value::String(text)) => Some(text.clone()),
                Some(Value::Number(number)) => Some(number.to_string()),
                _ => None,
            })
        };
        let code = text(&["error_code", "errorCode", "code"])?;
        let message = text(&["error_msg", "errorMessage", "errorMsg", "message"])?;
        let mut parsed = Self::from_parts(code, message);
        parsed.request_id = text(&["request_id"]);
        Some(parsed)
    }

    fn from_parts(code: String, message: String) -> Self {
        Self {
            public_code: code.clone(),
            public_message: message.clone(),
            error_code: code,
            error_msg: message,
            request_id: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn codes_are_unique_and_their_status_is_in_their_number() {
        let codes: BTreeSet<_> = ErrorCode::ALL.iter().map(|code| code.code()).collect();
        assert_eq!(codes.len(), ErrorCode::ALL.len());
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_code(code.code()), Some(*code));
            if let Some(number) = code.code().strip_prefix("CCE.") {
                assert_eq!(number[2..5], code.http_status().to_string(), "{}", code.code());
            }
        }
        assert_eq!(ErrorCode::from_code("CCE.99999999"), None);
    }

    #[test]
    fn a_body_has_both_families_and_no_message() {
        let body = ErrorBody::new(ErrorCode::NotFound, "node pool x").with_request_id("r-1");
        assert_eq!(
            serde_json::to_value(&body).unwrap(),
            json!({
                "error_code": "CCE.01404001", "error_msg": "Resource not found. node pool x",
                "errorCode": "CCE.01404001", "errorMessage": "Resource not found. node pool x",
                "request_id": "r-1"
            })
        );
        let bare = ErrorBody::new(ErrorCode::Internal, "");
        assert_eq!(bare.error_msg, "Internal error.");
    }

    #[test]
    fn foreign_shapes_are_read() {
        let iam = br#"{"error":{"code":401,"message":"bad","title":"Unauthorized"}}"#;
        let parsed = ErrorBody::parse(iam).unwrap();
        assert_eq!((parsed.error_code.as_str(), parsed.error_msg.as_str()), ("401", "bad"));
        let public = br#"{"errorCode":"CCE.01400001","errorMessage":"m"}"#;
        assert_eq!(ErrorBody::parse(public).unwrap().error_code, "CCE.01400001");
        assert_eq!(ErrorBody::parse(b"<html>"), None);
    }
}
