//! The writes and the fresh reads. Each write is one request, conditional on what it was decided on: a UID, and
//! where a lost update would matter, a resourceVersion. Nothing is tried again here.

use super::intern::Interner;
use super::slim::{Kind as _, Node, Pod};
use super::watch::list;
use super::wire::{Answer, Call, Status, Wire, built, segment};
use crate::records::{Dress, Taint};
use crate::sync::ports::{EvictAnswer, Fault, LiveNode, PodRef};
use ::kube::api::{PostParams, Request};
use ::kube::core::params::GetParams;
use evenkeel_engine::facts::{
    CLAIM_ANNOTATION, Mark, NodeSeen, STARTUP_TAINT, STARTUP_VALUE, STEER_EFFECT, STEER_TAINT,
};
use evenkeel_engine::ids::NodeName;
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta, Preconditions};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Where kubelets keep their Leases.
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Events about objects without a namespace must stand here.
const EVENT_NAMESPACE: &str = "default";
/// The API server refuses longer messages of Events.
const MAX_EVENT_MESSAGE: usize = 1024;
/// Who writes, in `managedFields` and Events.
const MANAGER: &str = "evenkeel";

pub(super) async fn claim(wire: &Wire, node: &NodeSeen, mark: &Mark) -> Result<(), Fault> {
    let text = serde_json::to_string(mark).map_err(|e| Fault::Permanent {
        what: "the mark cannot be written as JSON".to_owned(),
        source: Some(Box::new(e)),
    })?;
    let body = json!({"metadata": {
        "uid": node.uid,
        "resourceVersion": node.resource_version,
        "annotations": {CLAIM_ANNOTATION: text},
    }});
    patch_node(wire, node, &body).await
}

pub(super) async fn set_unschedulable(
    wire: &Wire,
    node: &NodeSeen,
    value: bool,
) -> Result<(), Fault> {
    // Null removes the field, as `kubectl uncordon` leaves a node.
    let field = if value { Value::Bool(true) } else { Value::Null };
    // The version as well: a request that was held up must not close a node that was given back since.
    let mut body = json!({
        "metadata": {"uid": node.uid, "resourceVersion": node.resource_version},
        "spec": {"unschedulable": field},
    });
    if !value && (node.starting() || node.steered()) {
        let there = taints(wire, node).await?;
        body["spec"]["taints"] = json!(with_taints(there, &[], true, true));
    }
    patch_node(wire, node, &body).await
}

pub(super) async fn release(
    wire: &Wire,
    node: &NodeSeen,
    uncordon: bool,
    dress: Option<&Dress>,
) -> Result<(), Fault> {
    let mut body = json!({"metadata": {
        "uid": node.uid,
        "resourceVersion": node.resource_version,
        "annotations": {CLAIM_ANNOTATION: null},
    }});
    if uncordon {
        body["spec"] = json!({"unschedulable": null});
    }
    if let Some(dress) = dress.filter(|dress| !dress.labels.is_empty()) {
        body["metadata"]["labels"] = json!(dress.labels);
    }
    let ours = dress.map_or(&[][..], |dress| &dress.taints);
    let opens = uncordon || dress.is_some();
    // A patch replaces the list of taints, so those that are there have to be read; the version keeps them.
    if !ours.is_empty() || (node.starting() && opens) || node.steered() {
        let there = taints(wire, node).await?;
        body["spec"]["taints"] = json!(with_taints(there, ours, uncordon, opens));
    }
    patch_node(wire, node, &body).await
}

pub(super) async fn steer(wire: &Wire, node: &NodeSeen, away: bool) -> Result<(), Fault> {
    let mut taints = taints(wire, node).await?;
    taints.retain(|taint| !steers(taint));
    if away {
        taints.push(json!({"key": STEER_TAINT, "effect": STEER_EFFECT}));
    }
    let body = json!({
        "metadata": {"uid": node.uid, "resourceVersion": node.resource_version},
        "spec": {"taints": taints},
    });
    patch_node(wire, node, &body).await
}

fn steers(taint: &Value) -> bool {
    taint["key"] == STEER_TAINT && taint["effect"] == STEER_EFFECT
}

/// The taints of a node as they are now, unless it changed since it was seen.
async fn taints(wire: &Wire, node: &NodeSeen) -> Result<Vec<Value>, Fault> {
    let call = Call { verb: "get", resource: "nodes", name: node.name.as_str() };
    let name = segment(&call, node.name.as_str())?;
    let request = http::Request::get(format!("{}/{name}", Node::PATH)).body(Vec::new());
    let seen: Value = wire.send(&call, built(&call, request)?).await?.decode(&call)?;
    if seen.pointer("/metadata/resourceVersion").and_then(Value::as_str)
        != Some(&*node.resource_version)
    {
        return Err(Fault::Conflict { what: format!("{call}: it changed since it was seen") });
    }
    Ok(seen.pointer("/spec/taints").and_then(Value::as_array).cloned().unwrap_or_default())
}

/// A taint is known by key and effect: ours replace those of the same name, all others stay. The taint of a cordon
/// goes with the cordon: the API server's controllers keep it. The startup taint goes when the node is opened, the
/// steering taint in any case.
fn with_taints(mut there: Vec<Value>, ours: &[Taint], uncordon: bool, opens: bool) -> Vec<Value> {
    let same = |taint: &Value, our: &Taint| {
        taint["key"] == our.key.as_str() && taint["effect"] == our.effect.as_str()
    };
    there.retain(|taint| {
        let of_cordon = uncordon && taint["key"] == "node.kubernetes.io/unschedulable";
        let of_start = opens && taint["key"] == STARTUP_TAINT && taint["value"] == STARTUP_VALUE;
        !of_cordon && !of_start && !steers(taint) && !ours.iter().any(|o| same(taint, o))
    });
    there.extend(ours.iter().map(|our| json!(our)));
    there
}

/// A merge patch: with a resourceVersion in it the answer to a lost race is 409, with a foreign UID 422.
async fn patch_node(wire: &Wire, node: &NodeSeen, body: &Value) -> Result<(), Fault> {
    let call = Call { verb: "patch", resource: "nodes", name: node.name.as_str() };
    let name = segment(&call, node.name.as_str())?;
    let request = http::Request::patch(format!("{}/{name}?fieldManager={MANAGER}", Node::PATH))
        .header(http::header::CONTENT_TYPE, "application/merge-patch+json")
        .body(body.to_string().into_bytes());
    wire.send(&call, built(&call, request)?).await?.done(&call)
}

pub(super) async fn evict(wire: &Wire, pod: &PodRef) -> Result<EvictAnswer, Fault> {
    post_eviction(wire, pod, None).await
}

/// What the server would answer; nothing happens.
pub(super) async fn try_evict(wire: &Wire, pod: &PodRef) -> Result<EvictAnswer, Fault> {
    post_eviction(wire, pod, Some(vec!["All".to_owned()])).await
}

async fn post_eviction(
    wire: &Wire,
    pod: &PodRef,
    dry_run: Option<Vec<String>>,
) -> Result<EvictAnswer, Fault> {
    let shown = pod.key.to_string();
    let call = Call { verb: "create", resource: "pods/eviction", name: &shown };
    let (namespace, name) = (segment(&call, &pod.key.namespace)?, segment(&call, &pod.key.name)?);
    // Built from the API's own type: kube's evict() writes the options under a name the server ignores.
    let eviction = Eviction {
        delete_options: Some(DeleteOptions {
            preconditions: Some(Preconditions {
                uid: Some(pod.uid.to_string()),
                ..Preconditions::default()
            }),
            dry_run,
            ..DeleteOptions::default()
        }),
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
    };
    let request = http::Request::post(format!(
        "/api/v1/namespaces/{namespace}/pods/{name}/eviction?fieldManager={MANAGER}"
    ))
    .header(http::header::CONTENT_TYPE, "application/json")
    .body(json!(eviction).to_string().into_bytes());
    let answer = wire.send(&call, built(&call, request)?).await?;
    eviction_answer(&call, &answer)
}

/// What the API server meant by its answer to an eviction.
fn eviction_answer(call: &Call<'_>, answer: &Answer) -> Result<EvictAnswer, Fault> {
    if answer.status.is_success() {
        return Ok(EvictAnswer::Accepted);
    }
    let status = answer.api_status().unwrap_or_default();
    let message = status.sentence();
    let lower = message.to_ascii_lowercase();
    let cause = |reason: &str| status.causes().iter().any(|c| c.reason == reason);
    // A webhook may use any code; 429 from one means "not yet", as from a budget.
    let webhook = lower.contains("admission webhook");
    match answer.status.as_u16() {
        404 if status.says_gone(call) => Ok(EvictAnswer::Gone),
        409 if lower.contains("uid") || lower.contains("precondition") => Ok(EvictAnswer::Gone),
        429 if cause("DisruptionBudget") || lower.contains("disruption budget") || webhook => {
            Ok(EvictAnswer::Refused { message, retry_after_s: retry_after(answer, &status) })
        }
        // The namespace goes, and the pod with it; the eviction is in vain, but not impossible.
        403 if cause("NamespaceTerminating") => {
            Ok(EvictAnswer::Refused { message, retry_after_s: retry_after(answer, &status) })
        }
        500 if lower.contains("poddisruptionbudget") => Ok(EvictAnswer::Impossible { message }),
        403 if lower.contains("cannot create resource") => Err(answer.fault(call)),
        400 | 403 | 422 if status.kind == "Status" => Ok(EvictAnswer::Impossible { message }),
        code if webhook && (400..500).contains(&code) => Ok(EvictAnswer::Impossible { message }),
        _ => Err(answer.fault(call)),
    }
}

fn retry_after(answer: &Answer, status: &Status) -> Option<u32> {
    let named = status.details.as_ref().and_then(|d| d.retry_after_seconds);
    answer.retry_after_s.or(named).filter(|s| *s > 0)
}

pub(super) async fn delete(wire: &Wire, pod: &PodRef) -> Result<(), Fault> {
    let shown = pod.key.to_string();
    let call = Call { verb: "delete", resource: "pods", name: &shown };
    let (namespace, name) = (segment(&call, &pod.key.namespace)?, segment(&call, &pod.key.name)?);
    // No gracePeriodSeconds: the pod's own applies.
    let body = json!({
        "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": pod.uid},
    });
    let request = http::Request::delete(format!("/api/v1/namespaces/{namespace}/pods/{name}"))
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body.to_string().into_bytes());
    wire.send(&call, built(&call, request)?).await?.done(&call)
}

pub(super) async fn confirm(
    wire: &Wire,
    interner: &Interner,
    name: &NodeName,
) -> Result<LiveNode, Fault> {
    let call = Call { verb: "get", resource: "nodes", name: name.as_str() };
    segment(&call, name.as_str())?;
    // No resourceVersion: the API server answers from etcd's quorum, or proves its cache to be as new.
    let request = built(&call, Request::new(Node::PATH).get(name.as_str(), &GetParams::default()))?;
    let node = match wire.send(&call, request).await?.decode::<Node>(&call) {
        Ok(node) => node.fact(interner),
        Err(Fault::Gone { .. }) => None,
        Err(other) => return Err(other),
    };
    // The node first: a pod that is bound between the two reads is then seen.
    let fields = format!("spec.nodeName={name}");
    let (pods, _) = list::<Pod>(wire, interner, Some(&fields)).await?;
    Ok(LiveNode { node, pods })
}

pub(super) async fn heartbeat(wire: &Wire, node: &NodeName) -> Result<Option<i64>, Fault> {
    #[derive(Deserialize)]
    struct Lease {
        spec: Option<Spec>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Spec {
        renew_time: Option<jiff::Timestamp>,
    }
    let call = Call { verb: "get", resource: "leases", name: node.as_str() };
    segment(&call, node.as_str())?;
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{LEASE_NAMESPACE}/leases");
    let request = built(&call, Request::new(path).get(node.as_str(), &GetParams::default()))?;
    match wire.send(&call, request).await?.decode::<Lease>(&call) {
        Ok(lease) => Ok(lease.spec.and_then(|s| s.renew_time).map(|t| t.as_millisecond())),
        Err(Fault::Gone { .. }) => Ok(None),
        Err(other) => Err(other),
    }
}

pub(super) async fn event(
    wire: &Wire,
    node: &NodeSeen,
    reason: &str,
    message: &str,
    warning: bool,
) -> Result<(), Fault> {
    let message: String = message.chars().take(MAX_EVENT_MESSAGE / 4).collect();
    let name = event_name(node, reason, &message);
    let call = Call { verb: "create", resource: "events", name: &name };
    segment(&call, &name)?;
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let body = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": EVENT_NAMESPACE},
        "involvedObject": {"apiVersion": "v1", "kind": "Node", "name": node.name, "uid": node.uid},
        "reason": reason,
        "message": message,
        "type": if warning { "Warning" } else { "Normal" },
        "source": {"component": MANAGER},
        "reportingComponent": MANAGER,
        "reportingInstance": MANAGER,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    });
    let path = format!("/api/v1/namespaces/{EVENT_NAMESPACE}/events");
    let created = Request::new(&path).create(&PostParams::default(), body.to_string().into_bytes());
    let answer = wire.send(&call, built(&call, created)?).await?;
    if answer.status != http::StatusCode::CONFLICT {
        return answer.done(&call);
    }
    // Said before: only the time is new.
    let call = Call { verb: "patch", resource: "events", name: &name };
    let request = http::Request::patch(format!("{path}/{name}"))
        .header(http::header::CONTENT_TYPE, "application/merge-patch+json")
        .body(json!({"lastTimestamp": now}).to_string().into_bytes());
    wire.send(&call, built(&call, request)?).await?.done(&call)
}

/// The same words about the same node are the same Event.
fn event_name(node: &NodeSeen, reason: &str, message: &str) -> String {
    let mut hash = Sha256::new();
    for part in [node.uid.as_str(), reason, message] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest = hex::encode(&hash.finalize()[..8]);
    // 253 characters are allowed; 17 of them are the hash and its dot.
    let stem: String = node.name.as_str().chars().take(200).collect();
    format!("{}.{digest}", stem.trim_end_matches(['.', '-']))
}

#[cfg(test)]
mod tests;
