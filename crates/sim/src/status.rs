//! How the API server says no: the `Status` object as the real server fills it (apimachinery `api/errors`).

use std::fmt;

/// One entry of `details.causes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// `reason`.
    pub reason: &'static str,
    /// `message`.
    pub message: String,
    /// `field`; empty if there is none.
    pub field: &'static str,
}

/// A refused call. Messages follow the real server word by word.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Refusal {
    /// HTTP status.
    pub code: u16,
    /// `reason`; empty where the server leaves it out.
    pub reason: &'static str,
    /// `message`.
    pub message: String,
    /// `details.group`.
    pub group: &'static str,
    /// `details.kind`.
    pub kind: &'static str,
    /// `details.name`.
    pub name: String,
    /// `details.causes`.
    pub causes: Vec<Cause>,
    /// `details` is there although it is empty.
    pub bare_details: bool,
    /// `details.retryAfterSeconds` and the header `Retry-After`.
    pub retry_after_s: Option<u32>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.code, self.reason, self.message)
    }
}

/// The name of a resource in messages: `nodes`, `poddisruptionbudgets.policy`.
fn qualified(kind: &str, group: &str) -> String {
    if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") }
}

impl Refusal {
    /// 404 of an object.
    pub fn not_found(kind: &'static str, group: &'static str, name: &str) -> Self {
        Self {
            code: 404,
            reason: "NotFound",
            message: format!("{} {name:?} not found", qualified(kind, group)),
            group,
            kind,
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// 409 of a create.
    pub fn already_exists(kind: &'static str, group: &'static str, name: &str) -> Self {
        Self {
            code: 409,
            reason: "AlreadyExists",
            message: format!("{} {name:?} already exists", qualified(kind, group)),
            group,
            kind,
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// 409 of a write.
    pub fn conflict(kind: &'static str, group: &'static str, name: &str, why: &str) -> Self {
        Self {
            code: 409,
            reason: "Conflict",
            message: format!(
                "Operation cannot be fulfilled on {} {name:?}: {why}",
                qualified(kind, group)
            ),
            group,
            kind,
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// 409 of a write at an old resourceVersion.
    pub fn modified(kind: &'static str, group: &'static str, name: &str) -> Self {
        const WHY: &str = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(kind, group, name, WHY)
    }

    /// 409 of a deletion whose UID precondition fails. The server names the kind here, not the resource.
    pub fn other_uid(kind: &'static str, name: &str, wanted: &str, found: &str) -> Self {
        let why = format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({found}). \
             The object might have been deleted and then recreated"
        );
        Self::conflict(kind, "", name, &why)
    }

    /// 403.
    pub fn forbidden(kind: &'static str, group: &'static str, name: &str, why: &str) -> Self {
        Self {
            code: 403,
            reason: "Forbidden",
            message: format!("{} {name:?} is forbidden: {why}", qualified(kind, group)),
            group,
            kind,
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self { code: 400, reason: "BadRequest", message: message.into(), ..Self::default() }
    }

    /// 401: the credential is not, or no longer, accepted.
    pub fn unauthorized() -> Self {
        Self {
            code: 401,
            reason: "Unauthorized",
            message: "Unauthorized".to_owned(),
            ..Self::default()
        }
    }

    /// 410 of a list or watch that asks for what is no longer kept.
    pub fn expired(message: impl Into<String>) -> Self {
        Self { code: 410, reason: "Expired", message: message.into(), ..Self::default() }
    }

    /// 422 with one cause.
    pub fn invalid(
        kind: &'static str,
        group: &'static str,
        name: &str,
        field: &'static str,
        problem: &str,
    ) -> Self {
        Self {
            code: 422,
            reason: "Invalid",
            message: format!("{} {name:?} is invalid: {field}: {problem}", qualified(kind, group)),
            group,
            kind,
            name: name.to_owned(),
            causes: vec![Cause { reason: "FieldValueInvalid", message: problem.to_owned(), field }],
            ..Self::default()
        }
    }

    /// 500 of a number that is none, as Go's `strconv` says it: a Status without a reason.
    pub fn unparsed(message: String) -> Self {
        Self { code: 500, message, ..Self::default() }
    }

    /// 429 of the eviction API: a budget says no.
    pub fn budget(cause: String, retry_after_s: Option<u32>) -> Self {
        Self {
            code: 429,
            reason: "TooManyRequests",
            message: "Cannot evict pod as it would violate the pod's disruption budget.".to_owned(),
            causes: vec![Cause { reason: "DisruptionBudget", message: cause, field: "" }],
            retry_after_s,
            ..Self::default()
        }
    }

    /// 500 of an eviction under more than one budget: a Status without a reason.
    pub fn two_budgets() -> Self {
        Self {
            code: 500,
            message: "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
                .to_owned(),
            ..Self::default()
        }
    }

    /// 429 of priority and fairness, before anything was looked at.
    pub fn flow_control() -> Self {
        Self {
            code: 429,
            reason: "TooManyRequests",
            message: "Too many requests, please try again later.".to_owned(),
            retry_after_s: Some(1),
            ..Self::default()
        }
    }

    /// 500, 503 and 504, as a server in trouble gives them.
    pub fn trouble(code: u16) -> Self {
        let (reason, message) = match code {
            503 => ("ServiceUnavailable", "the server is currently unable to handle the request"),
            504 => ("Timeout", "Timeout: request did not complete within the allotted timeout"),
            _ => ("InternalError", "Internal error occurred: etcdserver: leader changed"),
        };
        Self { code, reason, message: message.to_owned(), ..Self::default() }
    }
}
