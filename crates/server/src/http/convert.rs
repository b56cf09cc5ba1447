//! The one place where the API's types and the engine's meet.
//!
//! Entry points: [`pool_status`], [`node`], [`cluster`], [`job`]. Everything here is a function of its arguments.

use std::collections::BTreeMap;

use evenkeel_api::cluster::{
    Cluster, ClusterMetadata, ClusterPhase, ClusterSpec, ClusterStatus, Endpoint,
};
use evenkeel_api::job::{Job, JobPhase, JobSpec, RESET_NODE, SYNC_NODE_POOL};
use evenkeel_api::meta::wire_time;
use evenkeel_api::node::{Node, NodeMetadata, NodeOwner, NodePhase, NodeStatus, POOL_ANNOTATION};
use evenkeel_api::nodepool::{
    CONFIGURATION_SYNCHRONIZING, ExtendParam, NodePoolCondition, NodePoolStatus, NodeTemplate,
    Runtime,
};
use evenkeel_engine::facts::{NodeSeen, Readiness};
use evenkeel_engine::ids::{JobId, NodeId, NodeName, TemplateRevision};
use evenkeel_engine::phase::{Phase, SkipReason};
use evenkeel_engine::report::JobReport;
use evenkeel_engine::sync::{Counts, Status, Sync, Work};
use evenkeel_engine::time::Time;
use sha2::{Digest, Sha256};

use super::load::DEFAULT_POOL;
use crate::records::{ClusterRecord, JobRecord, NodeRecord, PoolRecord, Recipe};
use crate::sync::board::Snapshot;

/// What is known of the nodes of a cluster right now.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    /// As last published; absent until the cluster's actor has run.
    pub(super) snapshot: Option<&'a Snapshot>,
    /// Nodes in hand and the job that holds them.
    pub(super) in_hand: &'a BTreeMap<NodeName, JobId>,
    /// Wall clock, ms since the epoch.
    pub(super) now_ms: i64,
}

impl<'a> View<'a> {
    fn seen(&self, name: &str) -> Option<&'a NodeSeen> {
        self.snapshot?.nodes.get(&NodeName::new(name)).map(AsRef::as_ref)
    }

    fn ready(&self, name: &str) -> bool {
        self.seen(name).is_some_and(|node| node.ready == Readiness::Ready)
    }
}

/// Whether a node carries what its pool declares. `DefaultPool` declares nothing, so its nodes always do.
pub(super) fn up_to_date(node: &NodeRecord, declared: Option<&TemplateRevision>) -> bool {
    declared.is_none_or(|revision| node.applied.as_ref() == Some(revision))
}

/// The status of a pool. Its phase stays empty: clients wait for that.
pub(super) fn pool_status(
    view: View<'_>,
    nodes: &[&NodeRecord],
    declared: Option<&TemplateRevision>,
    active: Option<&JobId>,
    wanted: Option<i32>,
) -> NodePoolStatus {
    let current = nodes.len() as i32;
    let synced = nodes.iter().filter(|node| up_to_date(node, declared)).count() as i32;
    let mut conditions = vec![sync_condition(view, active, synced, current)];
    if let Some(wanted) = wanted.filter(|wanted| *wanted != current) {
        conditions.push(condition(
            view.now_ms,
            "Scalable",
            false,
            "ResourceInsufficient",
            format!(
                "initialNodeCount is {wanted}, the pool has {current} nodes; this server makes and deletes no \
                 machines: move nodes in or out with nodes/migrate"
            ),
        ));
    }
    NodePoolStatus {
        current_node: current,
        creating_node: Some(0),
        deleting_node: Some(0),
        active_node: Some(nodes.iter().filter(|node| view.ready(&node.name)).count() as i32),
        configuration_synced_node_count: Some(synced),
        phase: String::new(),
        job_id: active.map(ToString::to_string),
        conditions,
        extra: serde_json::Map::new(),
    }
}

fn sync_condition(
    view: View<'_>,
    active: Option<&JobId>,
    synced: i32,
    current: i32,
) -> NodePoolCondition {
    let message = match active {
        Some(job) => format!("{synced} of {current} nodes carry the configuration; job {job}"),
        None => format!("{synced} of {current} nodes carry the configuration"),
    };
    let reason = if active.is_some() { "Synchronizing" } else { "Idle" };
    condition(view.now_ms, CONFIGURATION_SYNCHRONIZING, active.is_some(), reason, message)
}

fn condition(
    now_ms: i64,
    kind: &str,
    status: bool,
    reason: &str,
    message: String,
) -> NodePoolCondition {
    NodePoolCondition {
        condition_type: kind.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        last_probe_time: wire_time(now_ms),
        last_transit_time: String::new(),
        reason: reason.to_owned(),
        message,
    }
}

/// A node.
pub(super) fn node(view: View<'_>, record: &NodeRecord, pool: Option<&PoolRecord>) -> Node {
    let seen = view.seen(&record.name);
    let label = |key: &str| seen.and_then(|node| node.labels.get(key)).cloned().unwrap_or_default();
    let zone = seen.and_then(|node| node.zone.as_deref()).unwrap_or_default().to_owned();
    let (flavor, os) = (label("node.kubernetes.io/instance-type"), label("kubernetes.io/os"));
    let (pool_id, pool_name) = match pool {
        Some(pool) => (pool.id.to_string(), pool.name.clone()),
        None => (format!("{zone}#{flavor}#{os}"), DEFAULT_POOL.to_owned()),
    };
    let job = view.in_hand.get(&NodeName::new(&record.name));
    let phase = match (job, seen) {
        (Some(_), _) => NodePhase::Upgrading,
        (None, Some(node)) if node.ready == Readiness::Ready => NodePhase::Active,
        (None, _) => NodePhase::Abnormal,
    };
    let metadata = NodeMetadata {
        name: record.name.clone(),
        uid: record.id.to_string(),
        annotations: BTreeMap::from([(POOL_ANNOTATION.to_owned(), pool_id)]),
        labels: BTreeMap::new(),
        creation_timestamp: Some(wire_time(record.created_ms)),
        update_timestamp: Some(wire_time(record.updated_ms)),
        owner_references: Some(NodeOwner { pool_name, pool_id: record.pool.to_string() }),
    };
    let spec = NodeTemplate {
        flavor: Some(flavor),
        az: Some(zone),
        os: pool
            .and_then(|pool| pool.spec.pointer("/nodeTemplate/os")?.as_str().map(str::to_owned))
            .or(Some(os)),
        runtime: Some(Runtime::default()),
        extend_param: Some(ExtendParam::default()),
        ..NodeTemplate::default()
    };
    let status = NodeStatus {
        phase,
        last_probe_time: view.snapshot.map(|snapshot| wire_time(snapshot.wall_ms)),
        job_id: job.map(ToString::to_string),
        server_id: record.machine_id.clone(),
        private_ip: seen.and_then(|node| node.internal_ip.as_deref()).map(str::to_owned),
        private_ipv6: None,
        public_ip: None,
        configuration_up_to_date: Some(up_to_date(record, pool.map(|pool| &pool.revision))),
        extra: serde_json::Map::new(),
    };
    Node::new(metadata, spec, status)
}

/// A cluster. `counts`: all nodes and those that are Ready, where the caller asked for details.
pub(super) fn cluster(
    record: &ClusterRecord,
    snapshot: Option<&Snapshot>,
    counts: Option<(usize, usize)>,
) -> Cluster {
    let (phase, reason) = match snapshot {
        Some(snapshot) if snapshot.live => (ClusterPhase::Available, String::new()),
        Some(snapshot) => {
            let trouble = snapshot.trouble.clone();
            (
                ClusterPhase::Unavailable,
                trouble.unwrap_or_else(|| "the API server is not being watched".to_owned()),
            )
        }
        None => (ClusterPhase::Unavailable, "the cluster has not been looked at yet".to_owned()),
    };
    let mut annotations = BTreeMap::new();
    if let Some((all, active)) = counts {
        annotations.insert("totalNodesNumber".to_owned(), all.to_string());
        annotations.insert("activeNodesNumber".to_owned(), active.to_string());
    }
    Cluster {
        kind: "Cluster".to_owned(),
        api_version: evenkeel_api::nodepool::api_version(),
        metadata: ClusterMetadata {
            name: record.name.clone(),
            uid: record.id.to_string(),
            alias: Some(record.name.clone()),
            annotations,
            labels: BTreeMap::new(),
            creation_timestamp: Some(wire_time(record.created_ms)),
            update_timestamp: Some(wire_time(record.created_ms)),
        },
        spec: ClusterSpec {
            category: "CCE".to_owned(),
            cluster_type: "VirtualMachine".to_owned(),
            flavor: "external".to_owned(),
            version: record.version.clone(),
            ..ClusterSpec::default()
        },
        status: ClusterStatus {
            phase,
            message: reason.clone(),
            reason,
            endpoints: vec![Endpoint {
                url: record.server.clone(),
                endpoint_type: "External".to_owned(),
            }],
        },
    }
}

/// A job with everything that is known of it.
pub(super) struct JobView<'a> {
    pub(super) cluster: &'a str,
    pub(super) pool_name: &'a str,
    pub(super) record: &'a JobRecord,
    pub(super) sync: &'a Sync,
    pub(super) report: Option<&'a JobReport>,
    /// Turns the cluster's clock into dates.
    pub(super) wall: &'a dyn Fn(Time) -> i64,
}

/// The parent job, with a sub-job for each touched node.
pub(super) fn job(view: &JobView<'_>) -> Job {
    let counts = view.sync.counts();
    let (phase, reason, end) = verdict(view, counts);
    let spec = JobSpec {
        job_type: SYNC_NODE_POOL.to_owned(),
        cluster_uid: view.cluster.to_owned(),
        resource_id: view.sync.spec.pool.to_string(),
        resource_name: view.pool_name.to_owned(),
        extend_param: job_params(view, counts),
        owner_job: None,
        sub_jobs: view.sync.works().map(|work| sub_job(view, work)).collect(),
    };
    let mut job = Job::new(view.sync.spec.job.as_str(), spec, phase);
    let touched = view.sync.works().map(|work| (view.wall)(work.phase.since())).max();
    let accepted = view.record.accepted_ms;
    job.metadata.creation_timestamp = Some(wire_time(accepted));
    job.metadata.update_timestamp =
        Some(wire_time(end.or(touched).unwrap_or(accepted).max(accepted)));
    job.status.reason.clone_from(&reason);
    job.status.message = Some(reason).filter(|text| !text.is_empty());
    job
}

fn verdict(view: &JobView<'_>, counts: Counts) -> (JobPhase, String, Option<i64>) {
    match &view.sync.state.status {
        Status::Running if view.sync.works().next().is_none() => {
            (JobPhase::Initializing, waiting(view, counts), None)
        }
        Status::Running => (JobPhase::Running, waiting(view, counts), None),
        Status::Success { at } => {
            let reason = if matches!(view.record.recipe, Recipe::None) && counts.total > 0 {
                "The recipe of this cluster is `none`: nodes were drained and put back, nothing was reset".to_owned()
            } else {
                String::new()
            };
            (JobPhase::Success, reason, Some((view.wall)(*at)))
        }
        Status::Failed { at, reason } => {
            let mut reason = reason.clone();
            if matches!(view.record.recipe, Recipe::None) {
                reason.push_str(". The recipe of this cluster is `none`: nothing was reset");
            }
            (JobPhase::Failed, reason, Some((view.wall)(*at)))
        }
    }
}

/// Why the job is not further: progress, then what each node in hand and the next one wait for.
fn waiting(view: &JobView<'_>, counts: Counts) -> String {
    let mut text = format!("{} of {} nodes synchronized", counts.ok, counts.total);
    if matches!(view.record.recipe, Recipe::None) {
        text.push_str(" (recipe `none`: drained and put back, nothing is reset)");
    }
    if counts.failed > 0 {
        text.push_str(&format!(", {} failed", counts.failed));
    }
    let Some(report) = view.report else {
        return text;
    };
    for (node, on) in &report.nodes {
        text.push_str(&format!("; {node}: {on}"));
    }
    if let Some(next) = &report.next {
        text.push_str(&format!("; next: {next}"));
    }
    text
}

fn job_params(view: &JobView<'_>, counts: Counts) -> BTreeMap<String, String> {
    let spec = &view.sync.spec;
    let mut params: BTreeMap<String, String> = [
        ("nodePoolID", spec.pool.to_string()),
        ("revision", spec.revision.to_string()),
        ("maxUnavailable", spec.max_unavailable.to_string()),
        ("retryTimes", spec.retry_times.to_string()),
        ("force", spec.force.to_string()),
        ("recipe", recipe_word(&view.record.recipe).to_owned()),
        ("total", counts.total.to_string()),
        ("ok", counts.ok.to_string()),
        ("failed", counts.failed.to_string()),
        ("skipped", counts.skipped.to_string()),
        ("inHand", counts.in_hand.to_string()),
        ("open", counts.open.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    if !view.record.ignored.is_empty() {
        params.insert("ignoredFields".to_owned(), view.record.ignored.join(", "));
    }
    params
}

/// The recipe in one word. Its commands may hold secrets and are never shown.
pub(super) fn recipe_word(recipe: &Recipe) -> &'static str {
    match recipe {
        Recipe::Script { .. } => "script",
        Recipe::Kubeadm(_) => "kubeadm",
        Recipe::Command { .. } => "command",
        Recipe::None => "none",
    }
}

/// The sub-job of one touched node.
pub(super) fn sub_job(view: &JobView<'_>, work: &Work) -> Job {
    let mut params: BTreeMap<String, String> = [
        ("phase", work.phase.word().to_owned()),
        ("since", wire_time((view.wall)(work.phase.since()))),
        ("attempt", work.attempt.to_string()),
        ("tries", work.tries.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    // The last word of the story, where it says more than the phase.
    let last = work.log.last().filter(|line| line.word != work.phase.word());
    if let Some(step) = last {
        params.insert("step".to_owned(), step.word.clone());
    }
    let on = view.report.and_then(|report| report.nodes.get(&work.name));
    let (phase, reason) = match &work.phase {
        Phase::Done { .. } => (JobPhase::Success, String::new()),
        Phase::Skipped { reason, .. } => {
            (JobPhase::Success, format!("skipped: {}", skip_words(reason)))
        }
        Phase::Failed { cause, .. } => (JobPhase::Failed, cause.to_string()),
        Phase::Waiting { cause, .. } => {
            (JobPhase::Running, format!("given back, to be tried again: {cause}"))
        }
        _ => (JobPhase::Running, on.map(ToString::to_string).unwrap_or_default()),
    };
    if !reason.is_empty() {
        params.insert("reason".to_owned(), reason.clone());
    }
    let spec = JobSpec {
        job_type: RESET_NODE.to_owned(),
        cluster_uid: view.cluster.to_owned(),
        resource_id: work.id.to_string(),
        resource_name: work.name.to_string(),
        extend_param: params,
        owner_job: Some(view.sync.spec.job.to_string()),
        sub_jobs: Vec::new(),
    };
    let mut job = Job::new(sub_job_id(&view.sync.spec.job, &work.id), spec, phase);
    let began = work.log.first().map_or(work.phase.since(), |line| line.at);
    job.metadata.creation_timestamp = Some(wire_time((view.wall)(began)));
    job.metadata.update_timestamp = Some(wire_time((view.wall)(work.phase.since())));
    job.status.message = Some(reason.clone()).filter(|text| !text.is_empty());
    job.status.reason = reason;
    job
}

/// Why a node was left alone, in words.
pub(super) fn skip_words(reason: &SkipReason) -> &'static str {
    match reason {
        SkipReason::Asked => "listed in skippedNodes",
        SkipReason::Gone => "the node is gone",
        SkipReason::Held => "annotated evenkeel.io/hold",
        SkipReason::CordonedByOthers => "cordoned by somebody else; name it in nodeIDs to reset it",
        SkipReason::UncordonedByPeople => "uncordoned twice while it was being drained",
        SkipReason::NotStarted => "the job ended before its turn",
        SkipReason::Person { cordoned: false } => "a person said so",
        SkipReason::Person { cordoned: true } => {
            "a person said so after its reset had failed; it stays cordoned: look at it, then uncordon it or sync it anew"
        }
        SkipReason::Cancelled => "the job was cancelled before its reset began",
    }
}

/// Leading characters that a sub-job's id shares with its job's: 48 random bits.
pub(super) const SHARED_ID_START: usize = 13;

/// The id of a node's sub-job: a UUID (version 8) that is the same at every reading. It begins like the id of its
/// job, so that it can be found without an index of its own.
pub(super) fn sub_job_id(job: &JobId, node: &NodeId) -> String {
    let hash = Sha256::digest(format!("{job}/{node}").as_bytes());
    let mut bytes = [0_u8; 16];
    bytes.copy_from_slice(&hash[..16]);
    if let Ok(parent) = uuid::Uuid::parse_str(job.as_str()) {
        bytes[..6].copy_from_slice(&parent.as_bytes()[..6]);
    }
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
}
