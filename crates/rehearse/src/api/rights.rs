//! What the one user may do: exactly what the shipped ClusterRole grants. Entry points: [`forbidden`], asked before
//! each call, and [`access_review`].

use super::answer::{ok, refuse};
use super::render;
use super::select::Query;
use super::write::parse;
use axum::response::Response;
use http::{Method, StatusCode};
use serde_json::{Value, json};

/// What deploy/rbac.yaml grants.
const GRANTED: &[(&str, &str, &[&str])] = &[
    ("", "nodes", &["get", "list", "watch", "patch"]),
    ("", "pods", &["list", "watch", "delete"]),
    ("", "pods/eviction", &["create"]),
    ("policy", "poddisruptionbudgets", &["list", "watch"]),
    ("coordination.k8s.io", "leases", &["get"]),
    ("", "events", &["create", "patch"]),
    ("", "persistentvolumeclaims", &["list"]),
    ("", "persistentvolumes", &["list"]),
    // The built-in role system:basic-user grants this one to everybody.
    ("authorization.k8s.io", "selfsubjectaccessreviews", &["create"]),
];
/// The user's name, as the kubeconfig says it.
const USER: &str = "evenkeel";

fn granted(group: &str, resource: &str, verb: &str) -> bool {
    GRANTED
        .iter()
        .any(|(of, name, verbs)| *of == group && *name == resource && verbs.contains(&verb))
}

/// The 403 for a call that is not granted; `group` is the group version, `rest` the path after it.
pub(super) fn forbidden(
    method: &Method,
    group: &str,
    rest: &[&str],
    query: &Query,
) -> Option<Response> {
    let group = group.rsplit_once('/').map_or("", |(group, _)| group);
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(*namespace), rest),
        rest => (None, rest),
    };
    let kind = *rest.first()?;
    let name = rest.get(1).copied();
    let resource = rest.get(2).map_or_else(|| kind.to_owned(), |sub| format!("{kind}/{sub}"));
    let verb = match (method.as_str(), name) {
        ("GET", Some(_)) => "get",
        ("GET", None) if query.is("watch") => "watch",
        ("GET", None) => "list",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", Some(_)) => "delete",
        ("DELETE", None) => "deletecollection",
        _ => return None,
    };
    if granted(group, &resource, verb) {
        return None;
    }
    let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
    let shown = name.map_or_else(|| qualified.clone(), |name| format!("{qualified} {name:?}"));
    let scope = namespace.map_or_else(
        || "at the cluster scope".to_owned(),
        |namespace| format!("in the namespace {namespace:?}"),
    );
    let body = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": format!(
            "{shown} is forbidden: User {USER:?} cannot {verb} resource {resource:?} in API group {group:?} {scope}"
        ),
        "reason": "Forbidden",
        "details": render::dense(json!({
            "name": name,
            "group": Some(group).filter(|group| !group.is_empty()),
            "kind": kind,
        })),
        "code": 403,
    });
    Some(ok(StatusCode::FORBIDDEN, &body))
}

/// POST of a SelfSubjectAccessReview.
pub(super) fn access_review(body: &[u8]) -> Response {
    let review = match parse(body) {
        Ok(value) => value,
        Err(refusal) => return refuse(&refusal),
    };
    let asked = &review["spec"]["resourceAttributes"];
    let text = |key: &str| asked[key].as_str().unwrap_or_default();
    let resource = match text("subresource") {
        "" => text("resource").to_owned(),
        sub => format!("{}/{sub}", text("resource")),
    };
    let allowed = granted(text("group"), &resource, text("verb"));
    let said = asked.as_object().into_iter().flatten();
    let said: serde_json::Map<_, _> = said
        .filter(|(_, value)| value.as_str() != Some(""))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let mut answer = json!({
        "kind": "SelfSubjectAccessReview",
        "apiVersion": "authorization.k8s.io/v1",
        "metadata": {},
        "spec": {"resourceAttributes": Value::Object(said)},
        "status": {"allowed": allowed},
    });
    if allowed {
        answer["status"]["reason"] = format!(
            "RBAC: allowed by ClusterRoleBinding {USER:?} of ClusterRole {USER:?} to User {USER:?}"
        )
        .into();
    }
    ok(StatusCode::CREATED, &answer)
}
