//! Judges what an actor did to a cluster from the kube-apiserver's audit log (JSON lines).
//!
//! Entry points: [`judge_file`], [`judge`]. The log must hold writes to nodes, pods and evictions
//! with bodies (level RequestResponse). Requests that were refused or were dry runs change nothing
//! and are counted apart. Writes to a Node are ordered by the resourceVersion they produced, which
//! is exact; lines of the log are only nearly in order.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The product's user name in test clusters.
pub const PRODUCT_USER: &str = "evenkeel";
/// Stands on a Node from the claim to the release.
pub const CLAIM_ANNOTATION: &str = "evenkeel.io/claim";

/// What one actor did.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Most nodes that were out by the actor at one moment, and the first such set.
    pub max_out: usize,
    pub max_out_nodes: BTreeSet<String>,
    /// Nodes that are still out by the actor at the end of the log.
    pub still_out: BTreeSet<String>,
    /// By pod UID (namespace/name when the eviction named no UID): evictions answered with 201.
    pub accepted_evictions: BTreeMap<String, u32>,
    /// By pod UID: evictions answered with 429.
    pub refused_evictions: BTreeMap<String, u32>,
    /// By status: evictions answered with anything else.
    pub other_evictions: BTreeMap<u16, u32>,
    pub dry_run_evictions: u32,
    pub evictions_without_uid: u32,
    /// By user, whoever it was: pods that were created.
    pub pods_made: BTreeMap<String, u32>,
    /// Pods (namespace/name) that the actor deleted without an eviction.
    pub bare_deletes: Vec<String>,
    /// When the API server received the write that first claimed or first cordoned a node.
    pub first_claim: Option<String>,
    pub first_cordon: Option<String>,
    /// Lines of the log that were read.
    pub events: usize,
}

impl Report {
    /// Pods with more than one accepted eviction; empty in a good run.
    pub fn evicted_twice(&self) -> Vec<&str> {
        let twice = self.accepted_evictions.iter().filter(|(_, count)| **count > 1);
        twice.map(|(pod, _)| pod.as_str()).collect()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    stage: String,
    #[serde(rename = "requestURI", default)]
    request_uri: String,
    verb: String,
    user: User,
    object_ref: Option<ObjectRef>,
    response_status: Option<ResponseStatus>,
    request_object: Option<Value>,
    response_object: Option<Value>,
    #[serde(default)]
    request_received_timestamp: String,
    #[serde(default)]
    stage_timestamp: String,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

#[derive(Deserialize, Default)]
struct ObjectRef {
    #[serde(default)]
    resource: String,
    #[serde(default)]
    subresource: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct ResponseStatus {
    #[serde(default)]
    code: u16,
}

/// A write that changed a Node, or its deletion.
struct NodeWrite {
    /// resourceVersion after the write; None for a deletion, whose answer does not tell it.
    version: Option<u64>,
    node: String,
    by_actor: bool,
    deleted: bool,
    claimed: bool,
    unschedulable: bool,
    received: String,
    answered: String,
}

/// Reads a log file; an unfinished last line is left out, as in the log of a running server.
pub fn judge_file(path: &Path, actor: &str, nodes: &BTreeSet<String>) -> Result<Report> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    judge(BufReader::new(file), actor, nodes).with_context(|| format!("read {}", path.display()))
}

/// Judges what `actor` did; an empty set of nodes means all nodes.
pub fn judge(mut log: impl BufRead, actor: &str, nodes: &BTreeSet<String>) -> Result<Report> {
    let mut report = Report::default();
    let mut writes = Vec::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        if log.read_until(b'\n', &mut line)? == 0 || line.last() != Some(&b'\n') {
            break;
        }
        report.events += 1;
        let event: Event = serde_json::from_slice(&line)
            .with_context(|| format!("line {} is no audit event", report.events))?;
        if event.stage == "ResponseComplete" {
            take(&event, actor, nodes, &mut report, &mut writes)?;
        }
    }
    replay(order(writes), &mut report);
    Ok(report)
}

fn take(
    event: &Event,
    actor: &str,
    nodes: &BTreeSet<String>,
    report: &mut Report,
    writes: &mut Vec<NodeWrite>,
) -> Result<()> {
    let Some(object) = &event.object_ref else {
        return Ok(());
    };
    let by_actor = event.user.username == actor;
    let code = event.response_status.as_ref().map_or(0, |status| status.code);
    match (object.resource.as_str(), object.subresource.as_str(), event.verb.as_str()) {
        ("nodes", "", "create" | "update" | "patch" | "delete") => {
            let wanted = nodes.is_empty() || nodes.contains(node_name(event, object));
            if wanted && (200..300).contains(&code) && !is_dry_run(event) {
                writes.push(node_write(event, object, by_actor)?);
            }
        }
        ("nodes", "", "deletecollection") if (200..300).contains(&code) => {
            bail!("{} deleted a collection of nodes: it cannot be told which", event.user.username);
        }
        ("pods", "eviction", "create") if by_actor => count_eviction(event, object, code, report),
        ("pods", "", "create") if code == 201 && !is_dry_run(event) => {
            *report.pods_made.entry(event.user.username.clone()).or_default() += 1;
        }
        ("pods", "", "delete" | "deletecollection")
            if by_actor && code < 300 && !is_dry_run(event) =>
        {
            report.bare_deletes.push(format!("{}/{}", object.namespace, object.name));
        }
        _ => {}
    }
    Ok(())
}

fn node_name<'a>(event: &'a Event, object: &'a ObjectRef) -> &'a str {
    if !object.name.is_empty() {
        return &object.name;
    }
    // A create names the Node only in its body.
    let named = event.response_object.as_ref().and_then(|body| body["metadata"]["name"].as_str());
    named.unwrap_or_default()
}

fn node_write(event: &Event, object: &ObjectRef, by_actor: bool) -> Result<NodeWrite> {
    let node = node_name(event, object).to_owned();
    let deleted = event.verb == "delete";
    let nothing = Value::Null;
    let body = event.response_object.as_ref().unwrap_or(&nothing);
    let version = body["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok());
    if !deleted && version.is_none() {
        bail!("a write to node {node} was logged without its answer; the policy must log it whole");
    }
    Ok(NodeWrite {
        version: if deleted { None } else { version },
        node,
        by_actor,
        deleted,
        claimed: !body["metadata"]["annotations"][CLAIM_ANNOTATION].is_null(),
        unschedulable: body["spec"]["unschedulable"] == true,
        received: event.request_received_timestamp.clone(),
        answered: event.stage_timestamp.clone(),
    })
}

fn is_dry_run(event: &Event) -> bool {
    let body = event.request_object.as_ref().unwrap_or(&Value::Null);
    event.request_uri.contains("dryRun=")
        || !body["dryRun"].is_null()
        || !body["deleteOptions"]["dryRun"].is_null()
}

fn count_eviction(event: &Event, object: &ObjectRef, code: u16, report: &mut Report) {
    if is_dry_run(event) {
        report.dry_run_evictions += 1;
        return;
    }
    let body = event.request_object.as_ref().unwrap_or(&Value::Null);
    let uid = body["deleteOptions"]["preconditions"]["uid"].as_str();
    report.evictions_without_uid += u32::from(uid.is_none());
    let pod = uid.map_or_else(|| format!("{}/{}", object.namespace, object.name), str::to_owned);
    let count = match code {
        201 => report.accepted_evictions.entry(pod).or_default(),
        429 => report.refused_evictions.entry(pod).or_default(),
        other => report.other_evictions.entry(other).or_default(),
    };
    *count += 1;
}

/// Sorts by resourceVersion. A deletion stands after the writes that were answered before it.
fn order(mut writes: Vec<NodeWrite>) -> Vec<NodeWrite> {
    writes.sort_by(|a, b| a.answered.cmp(&b.answered));
    let mut latest = BTreeMap::new();
    let mut keyed = Vec::new();
    for write in writes {
        let seen = latest.entry(write.node.clone()).or_insert(0);
        let key = write.version.unwrap_or(*seen);
        *seen = key.max(*seen);
        keyed.push(((key, write.deleted), write));
    }
    // Stable: writes that changed nothing keep the version and the order they had.
    keyed.sort_by_key(|(key, _)| *key);
    keyed.into_iter().map(|(_, write)| write).collect()
}

/// What is known of a Node at one moment.
#[derive(Default)]
struct Known {
    unschedulable: bool,
    claimed: bool,
    cordoned_by_actor: bool,
}

fn replay(writes: Vec<NodeWrite>, report: &mut Report) {
    let mut known: BTreeMap<String, Known> = BTreeMap::new();
    let mut out: BTreeSet<String> = BTreeSet::new();
    for write in writes {
        let node = known.entry(write.node.clone()).or_default();
        if write.deleted {
            *node = Known::default();
        } else {
            // A foreign cordon is not ours; a foreign uncordon does not give our node back either.
            if write.by_actor {
                let cordons = write.unschedulable && !node.unschedulable;
                node.cordoned_by_actor = write.unschedulable && (node.cordoned_by_actor || cordons);
                if cordons {
                    report.first_cordon.get_or_insert(write.received.clone());
                }
                if write.claimed && !node.claimed {
                    report.first_claim.get_or_insert(write.received.clone());
                }
                node.claimed = write.claimed;
            }
            node.unschedulable = write.unschedulable;
        }
        if node.claimed || node.cordoned_by_actor {
            out.insert(write.node);
        } else {
            out.remove(&write.node);
        }
        if out.len() > report.max_out {
            report.max_out = out.len();
            report.max_out_nodes = out.clone();
        }
    }
    report.still_out = out;
}

#[cfg(test)]
mod tests;
