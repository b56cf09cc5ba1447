//! The main operation: bring the nodes of a pool to the configuration of the pool.
//!
//! Entry points: [`UpgradeRequest::parse`] (server), [`UpgradeRequest`] itself (client),
//! [`UpgradeAnswer`].
//! Deliberately absent: everything that needs to know which nodes and pools exist.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::job::Job;
use crate::json::{At, parse_request};
use crate::node::{check_envelope, check_node_ids};
use crate::nodepool::DEFAULT_POOL;
pub use crate::upgrade_template::{Generation, Script, UpgradeTemplate, VolumeReset};
use crate::violation::Violation;

/// Largest `maxUnavailable` of the API page. A server may be set to take more.
pub const MAX_UNAVAILABLE_LIMIT: u16 = 20;

/// Most repetitions per node. Ours: the API page gives no range.
pub const MAX_RETRY_TIMES: u8 = 10;

/// Repetitions per node if the client names none. Ours: the API page gives no default.
pub const DEFAULT_RETRY_TIMES: u8 = 1;

/// Most nodes of a sync that checks storage first (documented).
pub const VALIDATE_STORAGE_LIMIT: usize = 200;

/// The pool of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolRef {
    Default,
    /// A UUID, in lower case.
    Id(String),
}

impl PoolRef {
    /// `DefaultPool` or a UUID; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        if text == DEFAULT_POOL {
            return Some(PoolRef::Default);
        }
        is_uuid(text).then(|| PoolRef::Id(text.to_ascii_lowercase()))
    }

    pub fn as_str(&self) -> &str {
        match self {
            PoolRef::Default => DEFAULT_POOL,
            PoolRef::Id(id) => id,
        }
    }
}

fn is_uuid(text: &str) -> bool {
    let is_dash = |index| matches!(index, 8 | 13 | 18 | 23);
    text.len() == 36
        && text.bytes().enumerate().all(
            |(i, b)| {
                if is_dash(i) { b == b'-' } else { b.is_ascii_hexdigit() }
            },
        )
}

/// A checked request, defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    pub pool: PoolRef,
    /// From 1 to the cap that the server allows.
    pub max_unavailable: u16,
    /// `None`: every node of the pool that is not up to date. In the order of the request.
    pub node_ids: Option<Vec<String>>,
    pub skipped_nodes: Vec<String>,
    pub retry_times: u8,
    pub force: bool,
    pub validate_storage: bool,
    pub template: Option<UpgradeTemplate>,
}

/// The request as a client writes it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeRequest {
    pub kind: String,
    pub api_version: String,
    pub spec: UpgradeSpec,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeSpec {
    #[serde(rename = "nodePoolID")]
    pub node_pool_id: String,
    pub max_unavailable: u16,
    #[serde(rename = "nodeIDs", skip_serializing_if = "Option::is_none")]
    pub node_ids: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skipped_nodes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_times: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_template: Option<Value>,
}

/// The answer: the id of the job, and where a server sends it the job itself. The one shape that
/// every client generation reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeAnswer {
    pub jobid: String,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub job: Option<Job>,
}

impl UpgradeRequest {
    pub fn new(spec: UpgradeSpec) -> Self {
        let api_version = crate::nodepool::api_version();
        Self { kind: "NodePool".to_owned(), api_version, spec }
    }

    /// Reads and checks a body. `path_pool_id` is the pool of the path, `max_unavailable_cap` the
    /// largest `maxUnavailable` taken, normally [`MAX_UNAVAILABLE_LIMIT`]. All violations are
    /// found in one go.
    pub fn parse(
        body: &[u8],
        path_pool_id: &str,
        max_unavailable_cap: u16,
    ) -> Result<Upgrade, Vec<Violation>> {
        let request = parse_request(body)?;
        let root = At::root(&request);
        let mut found = Vec::new();
        check_envelope(&root, "NodePool", &mut found);
        let upgrade = match root.get("spec") {
            Some(spec) => spec
                .object(&mut found)
                .and_then(|spec| read_spec(&spec, path_pool_id, max_unavailable_cap, &mut found)),
            None => {
                found.push(Violation::new("spec", "is mandatory"));
                None
            }
        };
        match upgrade {
            Some(upgrade) if found.is_empty() => Ok(upgrade),
            _ => Err(found),
        }
    }
}

fn read_spec(
    spec: &At<'_>,
    path_pool_id: &str,
    cap: u16,
    found: &mut Vec<Violation>,
) -> Option<Upgrade> {
    let pool = read_pool(spec, path_pool_id, found);
    let max_unavailable = match spec.get("maxUnavailable") {
        Some(at) => at.integer(1, i64::from(cap), found),
        None => {
            let violation = Violation::new(spec.child_path("maxUnavailable"), "is mandatory");
            found.push(violation.with_way_out(format!("send an integer from 1 to {cap}")));
            None
        }
    };
    let node_ids = read_node_ids(spec, found);
    let skipped_nodes = match spec.get("skippedNodes").and_then(|at| at.items(found)) {
        Some(items) => check_node_ids(&without_repeats(&items), found),
        None => Vec::new(),
    };
    let retry_times = match spec.get("retryTimes") {
        Some(at) => at.integer(0, i64::from(MAX_RETRY_TIMES), found),
        None => Some(i64::from(DEFAULT_RETRY_TIMES)),
    };
    let force = spec.get("force").and_then(|at| at.boolean(found)).unwrap_or(false);
    let validate = spec.get("validateStorage");
    let validate_storage = validate.and_then(|at| at.boolean(found)).unwrap_or(false);
    let named = node_ids.as_ref().map_or(0, Vec::len);
    if validate_storage && named > VALIDATE_STORAGE_LIMIT {
        let rule = format!("names {named} nodes, at most 200 together with validateStorage");
        let violation = Violation::new(spec.child_path("nodeIDs"), rule);
        found.push(violation.with_way_out("leave validateStorage out, or name fewer nodes"));
    }
    let sent = spec.get("nodeTemplate");
    if sent.is_none() && path_pool_id == DEFAULT_POOL {
        let rule = "is mandatory for DefaultPool, which has no template of its own";
        let violation = Violation::new(spec.child_path("nodeTemplate"), rule);
        found.push(violation.with_way_out("send it with lifeCycle and login"));
    }
    let template = sent.and_then(|at| UpgradeTemplate::read(&at, found));
    Some(Upgrade {
        pool: pool?,
        max_unavailable: u16::try_from(max_unavailable?).ok()?,
        node_ids,
        skipped_nodes,
        retry_times: u8::try_from(retry_times?).ok()?,
        force,
        validate_storage,
        template,
    })
}

fn read_pool(spec: &At<'_>, path_pool_id: &str, found: &mut Vec<Violation>) -> Option<PoolRef> {
    let Some(at) = spec.get("nodePoolID") else {
        let violation = Violation::new(spec.child_path("nodePoolID"), "is mandatory");
        found.push(violation.with_way_out("send the id of the pool in the path"));
        return None;
    };
    let pool = PoolRef::parse(at.string(found)?);
    if pool.is_none() {
        found.push(at.violation("is neither a UUID nor DefaultPool"));
    } else if pool != PoolRef::parse(path_pool_id) {
        let violation = at.violation("is not the pool of the path");
        found.push(violation.with_way_out("send the same id in both places"));
    }
    pool
}

fn read_node_ids(spec: &At<'_>, found: &mut Vec<Violation>) -> Option<Vec<String>> {
    let at = spec.get("nodeIDs")?;
    let items = at.items(found)?;
    if items.is_empty() {
        let violation = Violation::new(at.path, "is empty");
        found.push(violation.with_way_out("leave it out to mean all nodes that need it"));
        return None;
    }
    Some(check_node_ids(&items, found))
}

/// A node skipped twice is skipped: no harm, no violation.
fn without_repeats<'a>(items: &[At<'a>]) -> Vec<At<'a>> {
    let mut kept: Vec<At<'a>> = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for item in items {
        if seen.insert(item.value.to_string().to_ascii_lowercase()) {
            kept.push(item.clone());
        }
    }
    kept
}
