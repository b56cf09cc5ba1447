//! The calls that the product makes.

use crate::herd::{Evicted, Herd, Kind};
use crate::json;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{Method, StatusCode, Uri, header};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;

/// From an eviction to the end of the pod, and from there to a Ready replacement: short, so that a run has many decisions.
const STOP: Duration = Duration::from_millis(200);
const START: Duration = Duration::from_millis(500);
/// kube-apiserver sends a bookmark about once a minute.
const BOOKMARK: Duration = Duration::from_mins(1);

type Shared = Arc<Mutex<Herd>>;

fn lock(herd: &Shared) -> MutexGuard<'_, Herd> {
    herd.lock().unwrap_or_else(PoisonError::into_inner)
}

pub async fn serve(listener: TcpListener, herd: Shared) {
    let router = Router::new().fallback(handle).with_state(herd);
    if let Err(error) = axum::serve(listener, router).await {
        eprintln_once(&error.to_string());
    }
}

#[expect(clippy::print_stderr, reason = "a command line tool complains on stderr")]
fn eprintln_once(what: &str) {
    eprintln!("herd: {what}");
}

fn answer(code: StatusCode, value: &Value) -> Response {
    (code, [(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

fn refuse(code: u16, reason: &str, message: &str) -> Response {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message,
        "details": {"causes": if code == 429 { json!([{"reason": "DisruptionBudget", "message": message}]) } else { json!([]) }},
    });
    answer(StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &status)
}

async fn handle(State(herd): State<Shared>, method: Method, uri: Uri, body: Bytes) -> Response {
    let path = uri.path().trim_matches('/').to_owned();
    let parts: Vec<&str> = path.split('/').collect();
    let query: BTreeMap<&str, &str> = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .collect();
    match (method.as_str(), parts.as_slice()) {
        ("GET", ["version"]) => {
            answer(StatusCode::OK, &json!({"major": "1", "minor": "36", "gitVersion": "v1.36.3"}))
        }
        ("POST", ["apis", "authorization.k8s.io", "v1", "selfsubjectaccessreviews"]) => {
            let mut review: Value = serde_json::from_slice(&body).unwrap_or_default();
            review["status"] = json!({"allowed": true});
            answer(StatusCode::CREATED, &review)
        }
        ("POST" | "PATCH", [.., "events"] | [.., "events", _]) => answer(
            StatusCode::CREATED,
            &json!({"kind": "Event", "apiVersion": "events.k8s.io/v1", "metadata": {"name": "e"}}),
        ),
        ("GET", ["api", "v1", "nodes"]) => list(&herd, Kind::Node, &query),
        ("GET", ["api", "v1", "pods"]) => list(&herd, Kind::Pod, &query),
        ("GET", ["apis", "policy", "v1", "poddisruptionbudgets"]) => {
            list(&herd, Kind::Budget, &query)
        }
        ("GET", ["api", "v1", "nodes", name]) => one_node(&herd, name, None),
        ("PATCH", ["api", "v1", "nodes", name]) => {
            one_node(&herd, name, Some(serde_json::from_slice(&body).unwrap_or_default()))
        }
        ("POST", ["api", "v1", "namespaces", _, "pods", name, "eviction"]) => {
            evict(&herd, name, &body, &query)
        }
        ("GET", [.., "leases", name]) => answer(
            StatusCode::OK,
            &json!({
                "kind": "Lease", "apiVersion": "coordination.k8s.io/v1",
                "metadata": {"name": name, "namespace": "kube-node-lease", "resourceVersion": "1"},
                "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": "2026-01-01T00:00:00.000000Z"},
            }),
        ),
        ("GET", [.., "persistentvolumeclaims" | "persistentvolumes"]) => answer(
            StatusCode::OK,
            &json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []}),
        ),
        _ => refuse(404, "NotFound", "the server could not find the requested resource"),
    }
}

fn one_node(herd: &Shared, name: &str, patch: Option<Value>) -> Response {
    let mut herd = lock(herd);
    let Some(index) = json::node_index(name).filter(|index| *index < herd.nodes.len()) else {
        return refuse(404, "NotFound", "no such node");
    };
    match patch {
        None => answer(StatusCode::OK, &json::node(index, &herd.nodes[index])),
        Some(patch) => match herd.patch_node(index, &patch) {
            Some(node) => answer(StatusCode::OK, &node),
            None => refuse(409, "Conflict", "the object has been modified"),
        },
    }
}

fn evict(herd: &Shared, name: &str, body: &[u8], query: &BTreeMap<&str, &str>) -> Response {
    let eviction: Value = serde_json::from_slice(body).unwrap_or_default();
    let uid = eviction.pointer("/deleteOptions/preconditions/uid").and_then(Value::as_str);
    let dry = eviction
        .pointer("/deleteOptions/dryRun")
        .is_some_and(|all| !all.as_array().is_none_or(Vec::is_empty))
        || query.get("dryRun") == Some(&"All");
    let Some(id) = json::pod_id(name) else {
        return refuse(404, "NotFound", "no such pod");
    };
    let evicted = lock(herd).evict(id, uid, dry);
    match evicted {
        Evicted::Yes(id) => {
            if !dry {
                let herd = herd.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(STOP).await;
                    let new = lock(&herd).replace(id);
                    tokio::time::sleep(START).await;
                    if let Some(new) = new {
                        lock(&herd).ready(new);
                    }
                });
            }
            answer(
                StatusCode::CREATED,
                &json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}),
            )
        }
        Evicted::Refused => refuse(
            429,
            "TooManyRequests",
            "Cannot evict pod as it would violate the pod's disruption budget.",
        ),
        Evicted::Gone => refuse(404, "NotFound", "no such pod"),
        Evicted::Conflict => refuse(409, "Conflict", "the UID in the precondition does not match"),
    }
}

fn list(herd: &Shared, kind: Kind, query: &BTreeMap<&str, &str>) -> Response {
    if matches!(query.get("watch"), Some(&"true" | &"1")) {
        return watch(herd.clone(), kind, query);
    }
    let herd = lock(herd);
    let limit =
        query.get("limit").and_then(|n| n.parse().ok()).filter(|n| *n > 0).unwrap_or(usize::MAX);
    // The token is the version of the first page and the place after the last item.
    let token = query.get("continue").and_then(|token| token.split_once('.'));
    let (rv, from): (u64, u64) = token
        .and_then(|(rv, at)| Some((rv.parse().ok()?, at.parse().ok()?)))
        .unwrap_or((herd.rv, 0));
    let here = query
        .get("fieldSelector")
        .and_then(|f| f.split("nodeName%3D").nth(1))
        .and_then(json::node_index);
    let (items, next): (Vec<Value>, Option<u64>) = match kind {
        Kind::Node => cut(
            (from..herd.nodes.len() as u64)
                .map(|n| (n, json::node(n as usize, &herd.nodes[n as usize]))),
            limit,
        ),
        Kind::Budget => cut(
            herd.budgets
                .range(from as usize..)
                .filter_map(|(app, _)| Some((*app as u64, herd.budget(*app)?))),
            limit,
        ),
        Kind::Pod => match here {
            Some(node) => cut(
                herd.on_node[node].range(from..).map(|id| (*id, json::pod(&herd.pods[id]))),
                limit,
            ),
            None => cut(herd.pods.range(from..).map(|(id, pod)| (*id, json::pod(pod))), limit),
        },
    };
    let mut metadata = json!({"resourceVersion": rv.to_string()});
    if let Some(next) = next {
        metadata["continue"] = format!("{rv}.{next}").into();
    }
    answer(
        StatusCode::OK,
        &json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}),
    )
}

/// A page, and where the next one begins.
fn cut(mut all: impl Iterator<Item = (u64, Value)>, limit: usize) -> (Vec<Value>, Option<u64>) {
    let items = all.by_ref().take(limit).map(|(_, item)| item).collect();
    (items, all.next().map(|(at, _)| at))
}

fn watch(herd: Shared, kind: Kind, query: &BTreeMap<&str, &str>) -> Response {
    let from: u64 = query.get("resourceVersion").and_then(|rv| rv.parse().ok()).unwrap_or(0);
    let stream = futures::stream::unfold((herd, from), move |(herd, from)| async move {
        loop {
            let changed = lock(&herd).changed.clone();
            // Armed before the look, so that nothing that comes between is missed.
            let waiting = changed.notified();
            tokio::pin!(waiting);
            waiting.as_mut().enable();
            let (lines, rv) = {
                let herd = lock(&herd);
                (herd.since(from, kind), herd.rv)
            };
            if !lines.is_empty() {
                let out = Bytes::from(lines.concat());
                return Some((Ok::<_, std::io::Error>(out), (herd, rv)));
            }
            if tokio::time::timeout(BOOKMARK, waiting).await.is_err() {
                let name = match kind {
                    Kind::Node => "Node",
                    Kind::Pod => "Pod",
                    Kind::Budget => "PodDisruptionBudget",
                };
                let mark = json!({"type": "BOOKMARK", "object": {"kind": name, "apiVersion": "v1", "metadata": {"resourceVersion": rv.to_string()}}});
                return Some((Ok(format!("{mark}\n").into()), (herd, rv)));
            }
        }
    });
    Response::builder()
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from_stream(stream))
        .unwrap_or_default()
}
