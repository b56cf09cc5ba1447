//! Answers as text.
//!
//! Entry points: one function for each kind of answer. All are functions of the answer alone; a field that is absent
//! is a dash, so that the real service's answers are shown too.

pub(crate) mod why;

use evenkeel_api::job::{Job, JobPhase};
use evenkeel_api::nodepool::CONFIGURATION_SYNCHRONIZING;
use serde_json::Value;

use crate::lookup::{Item, text};
use crate::text::{facts, plain, table};

pub(crate) fn clusters(items: &[Item]) -> String {
    let row = |item: &Item| {
        vec![
            item.name.clone(),
            item.uid.clone(),
            item.text("/status/phase"),
            item.text("/spec/version"),
            item.text("/metadata/annotations/totalNodesNumber"),
            item.text("/metadata/annotations/activeNodesNumber"),
        ]
    };
    let rows: Vec<_> = items.iter().map(row).collect();
    table(&["NAME", "ID", "PHASE", "VERSION", "NODES", "READY"], &rows)
}

pub(crate) fn cluster(item: &Item) -> String {
    let endpoints = item.value.pointer("/status/endpoints").and_then(Value::as_array);
    let urls: Vec<String> =
        endpoints.into_iter().flatten().map(|endpoint| text(endpoint, "/url")).collect();
    facts(&[
        ("Cluster", item.name.clone()),
        ("ID", item.uid.clone()),
        ("Phase", item.text("/status/phase")),
        ("Reason", item.text("/status/reason")),
        ("Version", item.text("/spec/version")),
        ("API server", urls.join(", ")),
        ("Nodes", item.text("/metadata/annotations/totalNodesNumber")),
        ("Ready", item.text("/metadata/annotations/activeNodesNumber")),
        ("Registered", item.text("/metadata/creationTimestamp")),
    ])
}

/// What was set for machines. Keys of hosts are counted, not listed: `--output json` has them.
pub(crate) fn machines(answer: &Value) -> String {
    let count = |pointer: &str| match answer.pointer(pointer).and_then(Value::as_object) {
        Some(map) => map.len().to_string(),
        None => String::new(),
    };
    facts(&[
        ("Cluster", text(answer, "/cluster")),
        ("Recipe", text(answer, "/recipe")),
        ("User", text(answer, "/machines/user")),
        ("Port", text(answer, "/machines/port")),
        ("Sudo", text(answer, "/machines/sudo")),
        ("Address", text(answer, "/machines/address")),
        ("Other hosts", count("/machines/overrides")),
        ("Host keys", count("/machines/hostKeys")),
        ("Public key", text(answer, "/machines/publicKey")),
    ])
}

pub(crate) fn keypairs(pairs: &[Value]) -> String {
    let rows: Vec<_> = pairs
        .iter()
        .map(|pair| {
            let prints = pair.get("fingerprints").and_then(Value::as_array);
            let prints: Vec<&str> =
                prints.into_iter().flatten().filter_map(Value::as_str).collect();
            vec![text(pair, "/name"), prints.join(" ")]
        })
        .collect();
    table(&["NAME", "FINGERPRINTS"], &rows)
}

pub(crate) fn agents(agents: &[Item]) -> String {
    let rows: Vec<_> = agents
        .iter()
        .map(|agent| {
            let (id, ago) = (agent.text("/agent"), agent.text("/lastSeenSecondsAgo"));
            let state = match (id.as_str(), agent.text("/connected").as_str(), ago.as_str()) {
                ("", ..) => "to be enrolled".to_owned(),
                _ if !agent.text("/refused").is_empty() => "refused: another version".to_owned(),
                (_, "true", _) => "connected".to_owned(),
                (_, _, "") => "not seen yet".to_owned(),
                (.., ago) => format!("last seen {ago} s ago"),
            };
            vec![agent.name.clone(), state, agent.text("/version"), agent.text("/enrolledAt"), id]
        })
        .collect();
    table(&["NODE", "STATE", "VERSION", "ENROLLED", "AGENT"], &rows)
}

fn condition<'a>(pool: &'a Item, kind: &str) -> Option<&'a Value> {
    let conditions = pool.value.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().find(|condition| text(condition, "/type") == kind)
}

fn is_synchronizing(pool: &Item) -> bool {
    condition(pool, CONFIGURATION_SYNCHRONIZING)
        .is_some_and(|condition| text(condition, "/status") == "True")
}

pub(crate) fn pools(items: &[Item]) -> String {
    let row = |item: &Item| {
        let job = item.text("/status/jobId");
        vec![
            item.name.clone(),
            item.uid.clone(),
            item.text("/status/currentNode"),
            item.text("/status/activeNode"),
            item.text("/status/configurationSyncedNodeCount"),
            if is_synchronizing(item) { job } else { String::new() },
        ]
    };
    let rows: Vec<_> = items.iter().map(row).collect();
    table(&["NAME", "ID", "NODES", "READY", "SYNCED", "JOB"], &rows)
}

pub(crate) fn pool(item: &Item) -> String {
    let mut pairs = vec![
        ("Pool", item.name.clone()),
        ("ID", item.uid.clone()),
        ("Phase", item.text("/status/phase")),
        ("Nodes", item.text("/status/currentNode")),
        ("Wanted", item.text("/spec/initialNodeCount")),
        ("Ready", item.text("/status/activeNode")),
        ("Synced", item.text("/status/configurationSyncedNodeCount")),
        ("Job", item.text("/status/jobId")),
        ("OS", item.text("/spec/nodeTemplate/os")),
        ("Flavor", item.text("/spec/nodeTemplate/flavor")),
        ("Runtime", item.text("/spec/nodeTemplate/runtime/name")),
        ("Key pair", item.text("/spec/nodeTemplate/login/sshKey")),
    ];
    let conditions = item.value.pointer("/status/conditions").and_then(Value::as_array);
    for condition in conditions.into_iter().flatten() {
        let parts =
            ["/type", "/status", "/reason", "/message"].map(|pointer| text(condition, pointer));
        let [kind, status, reason, message] = parts;
        pairs.push(("Condition", format!("{kind}={status} {reason}: {message}")));
    }
    facts(&pairs)
}

/// Whether a node is in this pool, by owner or by annotation.
pub(crate) fn is_in_pool(node: &Item, pool: &Item) -> bool {
    let owner = node.text("/metadata/ownerReferences/nodepoolID");
    let noted = node
        .value
        .pointer("/metadata/annotations")
        .and_then(|map| map.get(evenkeel_api::node::POOL_ANNOTATION));
    let noted = noted.and_then(Value::as_str).unwrap_or_default();
    if pool.uid == evenkeel_api::nodepool::DEFAULT_POOL {
        // The real service notes zone#flavor#os for nodes of no pool.
        return owner == pool.uid
            || (owner.is_empty() && (noted.is_empty() || noted.contains('#')));
    }
    owner == pool.uid || noted == pool.uid
}

pub(crate) fn nodes(items: &[Item]) -> String {
    let row = |item: &Item| {
        let current = match item.text("/status/configurationUpToDate").as_str() {
            "true" => "yes",
            "false" => "no",
            _ => "",
        };
        vec![
            item.name.clone(),
            item.uid.clone(),
            item.text("/metadata/ownerReferences/nodepoolName"),
            item.text("/status/phase"),
            item.text("/status/privateIP"),
            current.to_owned(),
        ]
    };
    let rows: Vec<_> = items.iter().map(row).collect();
    table(&["NAME", "ID", "POOL", "PHASE", "ADDRESS", "UP-TO-DATE"], &rows)
}

/// The word of a phase, as the API writes it.
pub(crate) fn phase(phase: JobPhase) -> &'static str {
    match phase {
        JobPhase::Initializing => "Initializing",
        JobPhase::Running => "Running",
        JobPhase::Failed => "Failed",
        JobPhase::Success => "Success",
    }
}

/// A value of `extendParam`; empty if the server sends none.
pub(crate) fn param<'a>(job: &'a Job, key: &str) -> &'a str {
    job.spec.extend_param.get(key).map_or("", String::as_str)
}

/// `3 of 8 nodes ok, 1 failed, 2 in hand, 2 open`; empty if the server counts nothing.
pub(crate) fn counts(job: &Job) -> String {
    let total = param(job, "total");
    if total.is_empty() {
        return String::new();
    }
    let mut text = format!("{} of {total} ok", param(job, "ok"));
    for (key, word) in
        [("failed", "failed"), ("skipped", "skipped"), ("inHand", "in hand"), ("open", "open")]
    {
        let count = param(job, key);
        if !count.is_empty() && count != "0" {
            text.push_str(&format!(", {count} {word}"));
        }
    }
    text
}

/// The phase of a node: the finer word where the server has one.
pub(crate) fn node_phase(sub: &Job) -> String {
    let word = param(sub, "phase");
    if word.is_empty() { phase(sub.status.phase).to_owned() } else { word.to_owned() }
}

pub(crate) fn job(job: &Job) -> String {
    let pool = match (job.spec.resource_name.as_str(), job.spec.resource_id.as_str()) {
        ("", id) => id.to_owned(),
        (name, id) if name == id => name.to_owned(),
        (name, id) => format!("{name} ({id})"),
    };
    let own = |key: &str| param(job, key).to_owned();
    let mut out = facts(&[
        ("Job", job.metadata.uid.clone()),
        ("Type", job.spec.job_type.clone()),
        ("Resource", pool),
        ("Phase", phase(job.status.phase).to_owned()),
        ("Reason", job.status.reason.clone()),
        ("Nodes", counts(job)),
        ("Max unavailable", own("maxUnavailable")),
        ("Recipe", own("recipe")),
        ("Ignored fields", own("ignoredFields")),
        ("Part of job", job.spec.owner_job.clone().unwrap_or_default()),
        ("Node phase", own("phase")),
        ("Step", own("step")),
        ("Attempt", own("attempt")),
        ("Accepted", job.metadata.creation_timestamp.clone().unwrap_or_default()),
        ("Last change", job.metadata.update_timestamp.clone().unwrap_or_default()),
    ]);
    if !job.spec.sub_jobs.is_empty() {
        let row = |sub: &Job| {
            vec![
                sub.spec.resource_name.clone(),
                node_phase(sub),
                param(sub, "step").to_owned(),
                param(sub, "attempt").to_owned(),
                param(sub, "since").to_owned(),
                sub.status.reason.clone(),
            ]
        };
        let rows: Vec<_> = job.spec.sub_jobs.iter().map(row).collect();
        out.push('\n');
        out.push_str(&table(&["NODE", "PHASE", "STEP", "ATTEMPT", "SINCE", "REASON"], &rows));
    }
    out
}

/// When nodes of a pool may be taken.
pub(crate) fn policy(pool: &str, answer: &Value) -> String {
    let windows = answer.get("windows").and_then(Value::as_array);
    let window = |window: &Value| {
        let zone = text(window, "/timeZone");
        let cron = text(window, "/cron");
        if cron.is_empty() {
            let days = window.get("days").and_then(Value::as_array).into_iter().flatten();
            let days: Vec<&str> = days.filter_map(Value::as_str).collect();
            let (from, to) = (text(window, "/from"), text(window, "/to"));
            return format!("{} {from}-{to} {zone}", days.join(","));
        }
        match text(window, "/durationSeconds") {
            lasts if lasts.is_empty() => format!("{cron} {zone}"),
            lasts => format!("{cron} for {lasts} s {zone}"),
        }
    };
    let windows: Vec<String> = windows.into_iter().flatten().map(window).collect();
    let is_open = answer.get("open") == Some(&Value::Bool(true));
    let is_strict = answer.get("strictCapacity") == Some(&Value::Bool(true));
    let mut pairs = vec![("Pool", pool.to_owned())];
    if windows.is_empty() {
        pairs.push(("Window", "always".to_owned()));
    }
    pairs.extend(windows.into_iter().map(|words| ("Window", words)));
    pairs.extend([
        ("Now", if is_open { "open".to_owned() } else { "closed".to_owned() }),
        ("Because", text(answer, "/closedBecause")),
        ("Soak", format!("{} s", text(answer, "/soakSeconds"))),
        ("Capacity", if is_strict { "strict".to_owned() } else { "at least one node".to_owned() }),
        ("Set by", text(answer, "/updatedBy")),
        ("Set at", text(answer, "/updatedAt")),
    ]);
    facts(&pairs)
}

/// The steps of each node, from the long form of a job.
pub(crate) fn job_log(described: &Value) -> String {
    let mut out = String::new();
    let nodes = described.get("nodes").and_then(Value::as_object);
    for (name, node) in nodes.into_iter().flatten() {
        out.push_str(&format!("\n{}\n", plain(name)));
        let lines = node.get("log").and_then(Value::as_array);
        for line in lines.into_iter().flatten() {
            let parts = ["/at", "/word", "/note"].map(|pointer| plain(&text(line, pointer)));
            out.push_str(&format!("  {}\n", parts.join("  ").trim_end()));
        }
    }
    out
}

#[cfg(test)]
mod tests;
