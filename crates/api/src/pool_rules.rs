//! The rules of pool bodies, of their templates, labels, taints and scripts.
//!
//! Entry points: [`check_pool`] for a whole body; [`check_scripts`] is shared with the sync.
//! Deliberately absent: everything that needs to know what exists (names taken, cluster size).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::initialized::check_conditions;
use crate::json::At;
use crate::login::{LoginSpec, LoginUse, check_login};
use crate::node::check_envelope;
use crate::nodepool::DEFAULT_POOL;
use crate::violation::Violation;

/// Longest pool name (documented).
const NAME_LIMIT: usize = 50;

/// Most labels of a pool, and most taints (documented: 20 each).
const LABEL_LIMIT: usize = 20;
const TAINT_LIMIT: usize = 20;

/// Most server tags (documented).
const USER_TAG_LIMIT: usize = 8;

/// Both scripts together, after encoding, in characters (documented).
pub const SCRIPTS_LIMIT: usize = 10_240;

/// Label and taint syntax of Kubernetes: the name part, the prefix, a value.
const QUALIFIED_LIMIT: usize = 63;
const PREFIX_LIMIT: usize = 253;

/// Labels under this are answered by us and may come back in a body; they do not count.
const OWN_LABEL_PREFIX: &str = "cce.cloud.com/";

/// Bounds of `maxPods` (documented; the upper one is that of the runtime kuasar-vmm).
const MAX_PODS: (i64, i64) = (16, 1024);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolUse {
    Create,
    Update,
}

/// Checks the body that creates or updates a pool. Gives the login that it sets, if it does.
pub fn check_pool(root: &At<'_>, usage: PoolUse, found: &mut Vec<Violation>) -> Option<LoginSpec> {
    check_envelope(root, "NodePool", found);
    let name = root.get("metadata").and_then(|metadata| metadata.get("name"));
    match name {
        Some(name) => check_pool_name(&name, found),
        None if usage == PoolUse::Create => {
            found.push(Violation::new("metadata.name", "is mandatory"));
        }
        None => {}
    }
    let Some(spec) = root.get("spec").and_then(|spec| spec.object(found)) else {
        found.push(Violation::new("spec", "is mandatory, as an object"));
        return None;
    };
    check_spec(&spec, found);
    match spec.get("nodeTemplate") {
        Some(template) => {
            let template = template.object(found)?;
            check_template(&template, found);
            let login_use = match usage {
                PoolUse::Create => LoginUse::CreatePool,
                PoolUse::Update => LoginUse::UpdatePool,
            };
            check_login(&template.get("login")?, login_use, found)
        }
        None => {
            if usage == PoolUse::Create {
                found.push(Violation::new(spec.child_path("nodeTemplate"), "is mandatory"));
            }
            None
        }
    }
}

/// 1 to 50 characters, `a-z` first, then also digits and `-`, not `-` last, not `DefaultPool`.
pub fn check_pool_name(at: &At<'_>, found: &mut Vec<Violation>) {
    let Some(name) = at.string(found) else { return };
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    let rest = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let plain = first && name.bytes().all(rest) && !name.ends_with('-');
    if name == DEFAULT_POOL || !plain || name.len() > NAME_LIMIT {
        found.push(at.violation(
            "is not a pool name (1 to 50 of a-z, 0-9 and -, a letter first, no - at the end)",
        ));
    }
}

fn check_spec(spec: &At<'_>, found: &mut Vec<Violation>) {
    if let Some(at) = spec.get("type").filter(|at| at.value != "") {
        at.one_of(&["vm", "ElasticBMS", "pm"], found);
    }
    if let Some(at) = spec.get("initialNodeCount") {
        at.integer(0, i64::from(i32::MAX), found);
    }
    if let Some(at) = spec.get("ignoreInitialNodeCount") {
        at.boolean(found);
    }
    for key in [
        "taintPolicyOnExistingNodes",
        "labelPolicyOnExistingNodes",
        "userTagsPolicyOnExistingNodes",
    ] {
        if let Some(at) = spec.get(key) {
            at.one_of(&["refresh", "ignore"], found);
        }
    }
    if let Some(scaling) = spec.get("autoscaling").and_then(|at| at.object(found)) {
        if let Some(at) = scaling.get("enable") {
            at.boolean(found);
        }
        let mut count = |key: &str| {
            let at = scaling.get(key)?;
            Some((at.integer(0, i64::from(i32::MAX), found)?, at))
        };
        if let (Some((min, _)), Some((max, at))) = (count("minNodeCount"), count("maxNodeCount"))
            && max < min
        {
            found.push(at.violation(format!("is less than minNodeCount, {min}")));
        }
    }
}

fn check_template(template: &At<'_>, found: &mut Vec<Violation>) {
    for key in ["flavor", "az", "os"] {
        if let Some(at) = template.get(key) {
            at.string(found);
        }
    }
    for key in [
        "rootVolume",
        "rootVolumeUpdate",
        "storage",
        "publicIP",
        "nodeNicSpec",
        "nodeNicSpecUpdate",
        "hostnameConfig",
        "nodeNameTemplate",
    ] {
        if let Some(at) = template.get(key) {
            at.object(found);
        }
    }
    for key in ["dataVolumes", "dataVolumesUpdate", "configurationsOverride"] {
        if let Some(at) = template.get(key) {
            at.items(found);
        }
    }
    if let Some(labels) = template.get("k8sTags").and_then(|at| at.object(found)) {
        check_labels(&labels, found);
    }
    if let Some(taints) = template.get("taints").and_then(|at| at.items(found)) {
        check_taints(&taints, found);
    }
    if let Some(tags) = template.get("userTags").and_then(|at| at.items(found)) {
        check_user_tags(&tags, found);
    }
    if let Some(name) = template.get("runtime").and_then(|runtime| runtime.get("name"))
        && name.value != ""
    {
        name.one_of(&["docker", "containerd"], found);
    }
    if let Some(at) = template.get("waitPostInstallFinish") {
        at.boolean(found);
    }
    if let Some(at) = template.get("initializedConditions") {
        check_conditions(&at, found);
    }
    check_volume_config(template, found);
    if let Some(param) = template.get("extendParam").and_then(|at| at.object(found)) {
        let pre = param.get("alpha.cce/preInstall");
        check_scripts(pre, param.get("alpha.cce/postInstall"), found);
        if let Some(at) = param.get("maxPods").filter(|at| at.value != 0) {
            at.integer(MAX_PODS.0, MAX_PODS.1, found);
        }
        if let Some(at) = param.get("securityReinforcementType").filter(|at| at.value != "") {
            at.one_of(&["cybersecurity", "null"], found);
        }
    }
}

/// True if the data volumes that users added are to be kept. Absent and empty mean the default.
pub(crate) fn check_volume_config(template: &At<'_>, found: &mut Vec<Violation>) -> Option<bool> {
    let config = template.get("volumeConfig")?.object(found)?;
    let policy = config.get("volumeResetPolicy").filter(|at| at.value != "")?;
    let policy = policy.one_of(&["reset_managed_volumes", "retain_custom_volumes"], found)?;
    Some(policy == "retain_custom_volumes")
}

/// The two scripts, decoded. Absent and empty both mean: no script.
pub(crate) fn check_scripts(
    pre: Option<At<'_>>,
    post: Option<At<'_>>,
    found: &mut Vec<Violation>,
) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let mut total = 0;
    let last = post.as_ref().or(pre.as_ref()).map(|at| at.path.clone());
    let mut read = |at: Option<At<'_>>| {
        let at = at?;
        let text = at.string(found).filter(|text| !text.is_empty())?;
        total += text.len();
        let decoded = STANDARD.decode(text).ok();
        if decoded.is_none() {
            let violation = Violation::new(at.path, "is not base64 (standard alphabet, padded)");
            found.push(violation.with_way_out("encode it in one line: base64 -w0 < script"));
        }
        decoded
    };
    let scripts = (read(pre), read(post));
    if total > SCRIPTS_LIMIT {
        let rule = format!(
            "makes preInstall and postInstall together {total} characters long after encoding, \
             at most {SCRIPTS_LIMIT} are allowed"
        );
        let violation = Violation::new(last.unwrap_or_default(), rule);
        found.push(violation.with_way_out("fetch the bulk of the work from inside the script"));
    }
    scripts
}

fn check_labels(labels: &At<'_>, found: &mut Vec<Violation>) {
    let users = |key: &str| !key.starts_with(OWN_LABEL_PREFIX);
    let count = labels.fields().filter(|(key, _)| users(key)).count();
    if count > LABEL_LIMIT {
        let rule = format!("has {count} labels, at most {LABEL_LIMIT} are allowed");
        found.push(Violation::new(labels.path.clone(), rule));
    }
    for (key, at) in labels.fields() {
        if !is_qualified_name(key) {
            found.push(Violation::new(at.path.clone(), "is not a label key of Kubernetes"));
        }
        if at.string(found).is_some_and(|value| !is_label_value(value)) {
            found.push(at.violation("is not a label value of Kubernetes"));
        }
    }
}

fn check_taints(taints: &[At<'_>], found: &mut Vec<Violation>) {
    if taints.len() > TAINT_LIMIT {
        let path = taints[0].path.trim_end_matches("[0]").to_owned();
        let rule = format!("has {} taints, at most {TAINT_LIMIT} are allowed", taints.len());
        found.push(Violation::new(path, rule));
    }
    let mut seen = std::collections::BTreeSet::new();
    for taint in taints {
        let Some(taint) = taint.object(found) else {
            continue;
        };
        let key = match taint.get("key") {
            Some(at) => at.string(found).map(|key| (key, at)),
            None => {
                found.push(Violation::new(taint.child_path("key"), "is mandatory"));
                None
            }
        };
        if let Some((text, at)) = &key
            && !is_qualified_name(text)
        {
            found.push(at.violation("is not a taint key of Kubernetes"));
        }
        if let Some(at) = taint.get("value")
            && at.string(found).is_some_and(|value| !is_label_value(value))
        {
            found.push(at.violation("is not a taint value of Kubernetes"));
        }
        let effect = match taint.get("effect") {
            Some(at) => at.one_of(&["NoSchedule", "PreferNoSchedule", "NoExecute"], found),
            None => {
                found.push(Violation::new(taint.child_path("effect"), "is mandatory"));
                None
            }
        };
        if let (Some((key, at)), Some(effect)) = (key, effect)
            && !seen.insert((key, effect))
        {
            found.push(at.violation(format!("has the effect {effect} more than once")));
        }
    }
}

fn check_user_tags(tags: &[At<'_>], found: &mut Vec<Violation>) {
    if tags.len() > USER_TAG_LIMIT {
        let path = tags[0].path.trim_end_matches("[0]").to_owned();
        let rule = format!("has {} tags, at most {USER_TAG_LIMIT} are allowed", tags.len());
        found.push(Violation::new(path, rule));
    }
    for tag in tags {
        let Some(at) = tag.get("key") else {
            found.push(Violation::new(tag.child_path("key"), "is mandatory"));
            continue;
        };
        let Some(key) = at.string(found) else {
            continue;
        };
        if key.is_empty() || key.starts_with("CCE-") || key.starts_with("__type_baremetal") {
            found.push(at.violation("is empty or starts with a reserved prefix"));
        }
    }
}

/// `[prefix/]name`: a DNS name of up to 253 characters, then up to 63 of `A-Za-z0-9-_.`.
fn is_qualified_name(key: &str) -> bool {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let is_dns = |prefix: &str| {
        let part = |part: &str| {
            let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            !part.is_empty()
                && part.bytes().all(inner)
                && !part.starts_with('-')
                && !part.ends_with('-')
        };
        prefix.len() <= PREFIX_LIMIT && prefix.split('.').all(part)
    };
    prefix.is_none_or(is_dns) && !name.is_empty() && is_label_value(name)
}

fn is_label_value(value: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let ends = |b: Option<u8>| b.is_none_or(|b| b.is_ascii_alphanumeric());
    value.len() <= QUALIFIED_LIMIT
        && value.bytes().all(inner)
        && ends(value.bytes().next())
        && ends(value.bytes().last())
}
