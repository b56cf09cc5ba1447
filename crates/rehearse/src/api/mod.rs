//! A Kubernetes API server in this process, as far as a controller of nodes needs one: discovery, reads, lists in
//! pages, watches, node patches, evictions, deletions, Leases, Events and access reviews.
//!
//! Entry point: [`serve`]. Statuses, reasons and messages follow kube-apiserver 1.36. Absent: TLS, tables,
//! protobuf, server-side apply, and every kind that is not asked for.

mod answer;
mod read;
mod render;
mod rights;
mod select;
mod watch;
mod write;

use answer::{ok, refuse, text};
use axum::Router;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use evenkeel_sim::World;
use evenkeel_sim::status::Refusal;
use evenkeel_sim::world::{Call, Failure};
use http::{HeaderMap, Method, StatusCode, Uri, header};
use select::Query;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;

/// A lock that outlives a panicking test.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The server's state.
pub(crate) struct Api {
    /// The cluster that is played.
    pub(crate) world: Arc<Mutex<World>>,
    /// World milliseconds per real millisecond.
    pub(crate) scale: f64,
    /// The bearer token that is taken.
    pub(crate) token: String,
    /// Ticks whenever watches may have something to see.
    pub(crate) tick: tokio::sync::watch::Receiver<u64>,
    snapshots: Mutex<read::Snapshots>,
    events: Arc<Mutex<Vec<Value>>>,
}

impl Api {
    pub(crate) fn new(
        world: Arc<Mutex<World>>,
        scale: f64,
        token: String,
        tick: tokio::sync::watch::Receiver<u64>,
        events: Arc<Mutex<Vec<Value>>>,
    ) -> Self {
        Self { world, scale, token, tick, snapshots: Mutex::default(), events }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }

    /// Makes a call of the world with the faults of a network, and waits as long as the answer takes.
    async fn call<T>(
        &self,
        call: Call,
        apply: impl FnOnce(&mut World) -> Result<T, Refusal>,
    ) -> Result<T, Failure> {
        let reply = self.world().call(call, apply);
        tokio::time::sleep(Duration::from_secs_f64(reply.after_ms as f64 / 1000.0 / self.scale))
            .await;
        reply.result
    }
}

/// The kinds that can be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Nodes,
    Pods,
    Budgets,
    Leases,
    Claims,
    Volumes,
}

impl Kind {
    fn kind(self) -> &'static str {
        match self {
            Kind::Nodes => "Node",
            Kind::Pods => "Pod",
            Kind::Budgets => "PodDisruptionBudget",
            Kind::Leases => "Lease",
            Kind::Claims => "PersistentVolumeClaim",
            Kind::Volumes => "PersistentVolume",
        }
    }

    fn api_version(self) -> &'static str {
        match self {
            Kind::Nodes | Kind::Pods | Kind::Claims | Kind::Volumes => "v1",
            Kind::Budgets => "policy/v1",
            Kind::Leases => "coordination.k8s.io/v1",
        }
    }

    /// Claims and volumes are asked for only as lists.
    fn is_listed_only(self) -> bool {
        matches!(self, Kind::Claims | Kind::Volumes)
    }

    fn is_watched(self) -> bool {
        matches!(self, Kind::Nodes | Kind::Pods | Kind::Budgets)
    }

    /// Selectable fields beside name and namespace.
    fn fields(self) -> &'static [&'static str] {
        match self {
            Kind::Nodes => &["spec.unschedulable"],
            Kind::Pods => &["spec.nodeName", "status.phase"],
            Kind::Budgets | Kind::Leases | Kind::Claims | Kind::Volumes => &[],
        }
    }
}

/// What a path names.
#[derive(Clone, Debug)]
struct Target {
    kind: Kind,
    namespace: Option<String>,
    name: Option<String>,
    sub: Option<String>,
}

impl Target {
    /// Reads the part of a path after the group version.
    fn read(group: &str, rest: &[&str]) -> Option<Self> {
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => {
                (Some((*namespace).to_owned()), rest)
            }
            rest => (None, rest),
        };
        let kind = match (group, *rest.first()?, namespace.is_some()) {
            ("v1", "nodes", false) => Kind::Nodes,
            ("v1", "pods", _) => Kind::Pods,
            ("v1", "persistentvolumeclaims", _) => Kind::Claims,
            ("v1", "persistentvolumes", false) => Kind::Volumes,
            ("policy/v1", "poddisruptionbudgets", _) => Kind::Budgets,
            ("coordination.k8s.io/v1", "leases", _) => Kind::Leases,
            _ => return None,
        };
        let part = |index: usize| rest.get(index).map(|text| (*text).to_owned());
        let named = rest.len() > 1;
        if rest.len() > 3 || (named && namespace.is_none() && kind != Kind::Nodes) {
            return None;
        }
        Some(Self { kind, namespace, name: part(1), sub: part(2) })
    }
}

/// Serves until the task is dropped.
pub(crate) async fn serve(listener: TcpListener, api: Arc<Api>) {
    let router = Router::new().fallback(handle).with_state(api);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::warn!(%error, "the played API server ended");
    }
}

async fn handle(
    State(api): State<Arc<Api>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let path = uri.path().trim_matches('/').to_owned();
    if matches!(path.as_str(), "healthz" | "readyz" | "livez") {
        return text(StatusCode::OK, "ok");
    }
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if bearer.and_then(|value| value.strip_prefix("Bearer ")) != Some(api.token.as_str()) {
        return refuse(&Refusal {
            code: 401,
            reason: "Unauthorized",
            message: "Unauthorized".to_owned(),
            ..Refusal::default()
        });
    }
    let query = Query::parse(uri.query());
    let parts: Vec<&str> = path.split('/').collect();
    let (group, rest) = match parts.as_slice() {
        ["version"] => return ok(StatusCode::OK, &version()),
        ["api"] => {
            return ok(StatusCode::OK, &json!({"kind": "APIVersions", "versions": ["v1"]}));
        }
        ["apis"] => return ok(StatusCode::OK, &groups()),
        ["api", "v1"] => return ok(StatusCode::OK, &resources("v1")),
        ["apis", group, "v1"] => return ok(StatusCode::OK, &resources(&format!("{group}/v1"))),
        ["api", "v1", rest @ ..] => ("v1".to_owned(), rest),
        ["apis", group, "v1", rest @ ..] => (format!("{group}/v1"), rest),
        ["api" | "apis", ..] => return refuse(&nowhere()),
        _ => return text(StatusCode::NOT_FOUND, "404 page not found\n"),
    };
    if let Some(refusal) = rights::forbidden(&method, &group, rest, &query) {
        return refusal;
    }
    if method != Method::PATCH && !body.is_empty() && !is_json(&headers) {
        return refuse(&write::unsupported(
            "the body of the request was in an unknown format - accepted media types include: \
             application/json, application/yaml, application/vnd.kubernetes.protobuf",
        ));
    }
    if let ["namespaces", namespace, "events", name @ ..] = rest
        && ["v1", "events.k8s.io/v1"].contains(&group.as_str())
    {
        return api.event(&method, &group, namespace, name.first().copied(), &body).await;
    }
    if (group.as_str(), rest) == ("authorization.k8s.io/v1", &["selfsubjectaccessreviews"]) {
        return rights::access_review(&body);
    }
    let Some(target) = Target::read(&group, rest) else {
        return refuse(&nowhere());
    };
    dispatch(&api, &method, &target, &query, &headers, &body).await
}

/// Whether the body is JSON, as it is taken to be when nothing is said. (YAML and protobuf are not played.)
fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_none_or(|kind| kind.split(';').next().unwrap_or_default().trim() == "application/json")
}

/// 404 of a path that no resource has.
fn nowhere() -> Refusal {
    Refusal {
        code: 404,
        reason: "NotFound",
        message: "the server could not find the requested resource".to_owned(),
        bare_details: true,
        ..Refusal::default()
    }
}

async fn dispatch(
    api: &Arc<Api>,
    method: &Method,
    target: &Target,
    query: &Query,
    headers: &HeaderMap,
    body: &[u8],
) -> Response {
    let name = target.name.as_deref();
    match (method.as_str(), name, target.sub.as_deref(), target.kind) {
        ("GET", None, None, kind) if query.is("watch") && kind.is_watched() => {
            api.watch(target, query)
        }
        ("GET", None, None, _) => api.list(target, query).await,
        ("GET", Some(name), None, kind) if !kind.is_listed_only() => api.get(target, name).await,
        ("PATCH", Some(name), None, Kind::Nodes) => {
            api.patch_node(name, query, headers, body).await
        }
        ("DELETE", Some(name), None, Kind::Nodes) => api.delete_node(name).await,
        ("DELETE", Some(name), None, Kind::Pods) => api.delete_pod(target, name, query, body).await,
        ("POST", Some(name), Some("eviction"), Kind::Pods) => {
            api.evict(target, name, query, body).await
        }
        _ => refuse(&Refusal {
            code: 405,
            reason: "MethodNotAllowed",
            message: "the server does not allow this method on the requested resource".to_owned(),
            ..Refusal::default()
        }),
    }
}

fn version() -> Value {
    json!({
        "major": "1",
        "minor": "36",
        "gitVersion": "v1.36.3",
        "gitCommit": "rehearsal",
        "gitTreeState": "clean",
        "buildDate": "2026-01-01T00:00:00Z",
        "goVersion": "go1.26",
        "compiler": "gc",
        "platform": "linux/amd64",
    })
}

fn groups() -> Value {
    let names = ["policy", "coordination.k8s.io", "events.k8s.io", "authorization.k8s.io"];
    let groups = names.map(|name| {
        let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
        json!({"name": name, "versions": [version], "preferredVersion": version})
    });
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn resources(group: &str) -> Value {
    let all = [
        ("v1", "nodes", "Node", false, &["delete", "get", "list", "patch", "watch"] as &[&str]),
        ("v1", "pods", "Pod", true, &["delete", "get", "list", "watch"]),
        ("v1", "pods/eviction", "Eviction", true, &["create"]),
        ("v1", "events", "Event", true, &["create", "patch"]),
        ("v1", "persistentvolumeclaims", "PersistentVolumeClaim", true, &["list"]),
        ("v1", "persistentvolumes", "PersistentVolume", false, &["list"]),
        (
            "policy/v1",
            "poddisruptionbudgets",
            "PodDisruptionBudget",
            true,
            &["get", "list", "watch"],
        ),
        ("coordination.k8s.io/v1", "leases", "Lease", true, &["get", "list"]),
        ("events.k8s.io/v1", "events", "Event", true, &["create", "patch"]),
        (
            "authorization.k8s.io/v1",
            "selfsubjectaccessreviews",
            "SelfSubjectAccessReview",
            false,
            &["create"],
        ),
    ];
    let found: Vec<_> = all
        .iter()
        .filter(|(of, ..)| *of == group)
        .map(|(_, name, kind, namespaced, verbs)| {
            json!({"name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": verbs})
        })
        .collect();
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": found})
}
