//! Writes: node patches, evictions, deletions, Events, and the question what we may do.

use super::answer::{failed, ok, refuse};
use super::{Api, Target, lock, render};
use crate::api::select::{Query, number};
use axum::response::Response;
use evenkeel_engine::ids::{NodeName, ObjectKey, Uid};
use evenkeel_sim::World;
use evenkeel_sim::history::Actor;
use evenkeel_sim::objects::{Node, Taint};
use evenkeel_sim::status::Refusal;
use evenkeel_sim::world::{Call, DeleteOptions, NodeChange, Precondition};
use http::{HeaderMap, Method, StatusCode, header};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// How many Events are kept for whoever wants to look.
const EVENTS_MAX: usize = 1000;

/// What the server says to a PATCH that is none.
const NO_PATCH: &str = "415: Unsupported Media Type";

/// How a patch is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PatchKind {
    Merge,
    Strategic,
    Json,
}

/// 415.
pub(super) fn unsupported(message: &str) -> Refusal {
    Refusal {
        code: 415,
        reason: "UnsupportedMediaType",
        message: message.to_owned(),
        bare_details: message == NO_PATCH,
        ..Refusal::default()
    }
}

fn patch_kind(headers: &HeaderMap) -> Result<PatchKind, Refusal> {
    let text =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match text.split(';').next().unwrap_or_default().trim() {
        "application/merge-patch+json" => Ok(PatchKind::Merge),
        "application/strategic-merge-patch+json" => Ok(PatchKind::Strategic),
        "application/json-patch+json" => Ok(PatchKind::Json),
        _ => Err(unsupported(NO_PATCH)),
    }
}

/// Applies a patch to an object as the server does; the result is not yet checked.
fn patched(mut object: Value, kind: PatchKind, body: &[u8]) -> Result<Value, Refusal> {
    let bad = |error: &dyn std::fmt::Display| {
        Refusal::bad_request(format!("error decoding patch: {error}"))
    };
    match kind {
        // Of a Node's fields that can be changed here none has a merge key: without directives a strategic
        // patch is a merge patch.
        PatchKind::Merge | PatchKind::Strategic => {
            let patch: Map<String, Value> =
                serde_json::from_slice(body).map_err(|error| bad(&error))?;
            let patch = Value::Object(patch);
            if kind == PatchKind::Strategic && has_directive(&patch) {
                return Err(Refusal::bad_request("patch directives are not played here"));
            }
            json_patch::merge(&mut object, &patch);
        }
        PatchKind::Json => {
            let invalid = || Refusal {
                code: 422,
                reason: "Invalid",
                message: "the server rejected our request due to an error in our request"
                    .to_owned(),
                bare_details: true,
                ..Refusal::default()
            };
            let list: Vec<Value> = serde_json::from_slice(body).map_err(|error| bad(&error))?;
            let patch: json_patch::Patch =
                serde_json::from_value(list.into()).map_err(|_| invalid())?;
            json_patch::patch(&mut object, &patch).map_err(|_| invalid())?;
        }
    }
    Ok(object)
}

/// `$patch`, `$setElementOrder` and their like.
fn has_directive(patch: &Value) -> bool {
    match patch {
        Value::Object(map) => {
            map.iter().any(|(key, value)| key.starts_with('$') || has_directive(value))
        }
        Value::Array(list) => list.iter().any(has_directive),
        _ => false,
    }
}

fn differences(
    before: &BTreeMap<String, String>,
    after: Option<&Value>,
) -> BTreeMap<String, Option<String>> {
    let none = Map::new();
    let after = after.and_then(Value::as_object).unwrap_or(&none);
    let gone = before.keys().filter(|key| !after.contains_key(*key)).map(|key| (key.clone(), None));
    let set = after.iter().filter_map(|(key, value)| {
        let value = value.as_str()?;
        (before.get(key).map(String::as_str) != Some(value))
            .then(|| (key.clone(), Some(value.to_owned())))
    });
    gone.chain(set).collect()
}

/// What a patched document asks for, seen from the node that it was made from.
fn wanted(node: &Node, after: &Value) -> Result<(Precondition, NodeChange), Refusal> {
    let text =
        |path: &str| after.pointer(path).and_then(Value::as_str).filter(|text| !text.is_empty());
    let precondition = Precondition {
        uid: text("/metadata/uid").map(Uid::new),
        resource_version: text("/metadata/resourceVersion").map(str::to_owned),
    };
    if let Some(version) = &precondition.resource_version {
        number(version).map_err(Refusal::unparsed)?;
    }
    let word = |taint: &Value, key: &str| taint[key].as_str().unwrap_or_default().to_owned();
    let taints = after.pointer("/spec/taints").and_then(Value::as_array).map(|taints| {
        let read = |t: &Value| Taint {
            key: word(t, "key"),
            value: word(t, "value"),
            effect: word(t, "effect"),
        };
        taints.iter().map(read).collect::<Vec<_>>()
    });
    let unschedulable =
        after.pointer("/spec/unschedulable").and_then(Value::as_bool).unwrap_or(false);
    let change = NodeChange {
        unschedulable: (unschedulable != node.unschedulable).then_some(unschedulable),
        annotations: differences(&node.annotations, after.pointer("/metadata/annotations")),
        labels: differences(&node.labels, after.pointer("/metadata/labels")),
        taints: Some(taints.unwrap_or_default()),
    };
    Ok((precondition, change))
}

/// Reads `DeleteOptions`, of a body or of an Eviction.
fn delete_options(options: Option<&Value>, query: &Query) -> DeleteOptions {
    let none = Value::Null;
    let options = options.unwrap_or(&none);
    let text = |path: &str| options.pointer(path).and_then(Value::as_str);
    let all = |value: &Value| value.as_array().is_some_and(|list| list.iter().any(|v| v == "All"));
    DeleteOptions {
        precondition: Precondition {
            uid: text("/preconditions/uid").map(Uid::new),
            resource_version: text("/preconditions/resourceVersion").map(str::to_owned),
        },
        grace_s: options["gracePeriodSeconds"].as_u64().map(|seconds| seconds as u32),
        dry_run: all(&options["dryRun"]) || query.get("dryRun") == Some("All"),
    }
}

pub(super) fn parse(body: &[u8]) -> Result<Value, Refusal> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(body).map_err(|error| {
        Refusal::bad_request(format!("couldn't get version/kind; json parse error: {error}"))
    })
}

impl Api {
    /// PATCH of a node.
    pub(super) async fn patch_node(
        &self,
        name: &str,
        query: &Query,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Response {
        let dry_run = query.get("dryRun") == Some("All");
        let kind = match patch_kind(headers) {
            Ok(kind) => kind,
            Err(refusal) => return refuse(&refusal),
        };
        let name = NodeName::new(name);
        let answer = self
            .call(Call::Write, |world| {
                let node = world.node(&name)?;
                let after = patched(render::node(world, &node), kind, body)?;
                let (precondition, change) = wanted(&node, &after)?;
                let mut copy = dry_run.then(|| world.clone());
                let world = copy.as_mut().unwrap_or(world);
                let node = world.patch_node(Actor::Us, &name, &precondition, &change)?;
                Ok(render::typed("v1", "Node", render::node(world, &node)))
            })
            .await;
        match answer {
            Ok(body) => ok(StatusCode::OK, &body),
            Err(failure) => failed(&failure),
        }
    }

    /// DELETE of a node; nobody but a person does that.
    pub(super) async fn delete_node(&self, name: &str) -> Response {
        let name = NodeName::new(name);
        match self.call(Call::Write, |world| world.delete_node(Actor::Person, &name)).await {
            Ok(node) => {
                let details = json!({"name": node.name, "kind": "nodes", "uid": node.uid});
                let status = json!({
                    "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
                });
                ok(StatusCode::OK, &status)
            }
            Err(failure) => failed(&failure),
        }
    }

    /// DELETE of a pod.
    pub(super) async fn delete_pod(
        &self,
        target: &Target,
        name: &str,
        query: &Query,
        body: &[u8],
    ) -> Response {
        let options = match parse(body) {
            Ok(value) => delete_options(Some(&value), query),
            Err(refusal) => return refuse(&refusal),
        };
        let key = ObjectKey::new(target.namespace.as_deref().unwrap_or_default(), name);
        let answer = self
            .call(Call::Write, |world| {
                let pod = world.delete_pod(Actor::Us, &key, &options)?;
                Ok(render::typed("v1", "Pod", render::pod(world, &pod)))
            })
            .await;
        match answer {
            Ok(body) => ok(StatusCode::OK, &body),
            Err(failure) => failed(&failure),
        }
    }

    /// POST of an Eviction.
    pub(super) async fn evict(
        &self,
        target: &Target,
        name: &str,
        query: &Query,
        body: &[u8],
    ) -> Response {
        let eviction = match parse(body) {
            Ok(value) => value,
            Err(refusal) => return refuse(&refusal),
        };
        let options = delete_options(eviction.get("deleteOptions"), query);
        let body_name =
            eviction.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let key = ObjectKey::new(target.namespace.as_deref().unwrap_or_default(), name);
        match self.call(Call::Write, |world| world.evict(&key, body_name, &options)).await {
            Ok(()) => {
                let status = json!({
                    "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
                });
                ok(StatusCode::CREATED, &status)
            }
            Err(failure) => failed(&failure),
        }
    }

    /// POST and PATCH of Events.
    pub(super) async fn event(
        &self,
        method: &Method,
        group: &str,
        namespace: &str,
        name: Option<&str>,
        body: &[u8],
    ) -> Response {
        let event = match parse(body) {
            Ok(value) => value,
            Err(refusal) => return refuse(&refusal),
        };
        let events = self.events.clone();
        let answer = self
            .call(Call::Write, |world| {
                let mut events = lock(&events);
                match (method, name) {
                    (&Method::POST, None) => Ok((
                        StatusCode::CREATED,
                        add_event(world, &mut events, group, namespace, event)?,
                    )),
                    (&Method::PATCH, Some(name)) => {
                        let found = events.iter_mut().find(|e| e["metadata"]["name"] == name);
                        let found = found.ok_or_else(|| Refusal::not_found("events", "", name))?;
                        json_patch::merge(found, &event);
                        Ok((StatusCode::OK, found.clone()))
                    }
                    _ => Err(Refusal {
                        code: 405,
                        reason: "MethodNotAllowed",
                        message: "the server does not allow this method on the requested resource"
                            .to_owned(),
                        ..Refusal::default()
                    }),
                }
            })
            .await;
        match answer {
            Ok((code, body)) => ok(code, &body),
            Err(failure) => failed(&failure),
        }
    }
}

/// Stores an Event, with what the server adds to it.
fn add_event(
    world: &World,
    events: &mut Vec<Value>,
    group: &str,
    namespace: &str,
    mut event: Value,
) -> Result<Value, Refusal> {
    let named = event["metadata"]["namespace"].as_str();
    if named.is_some_and(|named| !named.is_empty() && named != namespace) {
        return Err(Refusal::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let number = events.len() + 1;
    let name = match event["metadata"]["name"].as_str() {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => {
            let base = event["metadata"]["generateName"].as_str();
            format!("{}{number}", base.unwrap_or("event."))
        }
    };
    let meta = |event: &Value, key: &str| event["metadata"][key].as_str().map(str::to_owned);
    let taken = |event: &Value| {
        meta(event, "name").as_deref() == Some(&name)
            && meta(event, "namespace").as_deref() == Some(namespace)
    };
    if events.iter().any(taken) {
        return Err(Refusal::already_exists("events", "", &name));
    }
    event["metadata"]["name"] = name.into();
    event["metadata"]["namespace"] = namespace.into();
    event["metadata"]["uid"] = format!("00000000-0000-4000-8000-{number:012x}").into();
    event["metadata"]["resourceVersion"] = number.to_string().into();
    event["metadata"]["creationTimestamp"] = render::time(world, world.now()).into();
    // What Go writes although it is empty.
    for (key, empty) in [
        ("source", json!({})),
        ("firstTimestamp", Value::Null),
        ("lastTimestamp", Value::Null),
        ("eventTime", Value::Null),
        ("reportingComponent", json!("")),
        ("reportingInstance", json!("")),
    ] {
        if event.get(key).is_none() {
            event[key] = empty;
        }
    }
    let event = render::typed(group, "Event", event);
    if events.len() < EVENTS_MAX {
        events.push(event.clone());
    }
    Ok(event)
}
