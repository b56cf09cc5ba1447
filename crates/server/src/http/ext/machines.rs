//! `PUT /evenkeel/v1/projects/{project}/clusters/{cluster}/machines`: how the machines of a cluster are reached, and
//! what a reset of them is. A part that is left out stays as it is.
//!
//! ```json
//! {"machines": {"user": "root", "port": 22, "privateKey": "-----BEGIN OPENSSH ...", "sudo": false,
//!               "address": "internal-ip", "overrides": {"node-1": "10.0.0.1:2222"}, "hostKeys": {"node-1": "ssh-ed25519 ..."},
//!               "hostCAs": ["ssh-ed25519 ..."]},
//!  "recipe": {"type": "script", "teardown": "...", "install": "...", "limitSeconds": 1800, "needs": ["kubeadm"],
//!             "resume": false, "reimage": {"webhook": {"url": "https://...", "secret": "..."}, "limitSeconds": 3600}},
//!  "policy": {"settle": 10000}}
//! ```

mod hook;

use std::collections::BTreeMap;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use evenkeel_api::json::{At, parse_request};
use evenkeel_api::password::Secret;
use evenkeel_api::{ErrorCode, Violation};
use evenkeel_engine::ids::ClusterId;
use evenkeel_engine::sync::Policy;
use serde_json::{Map, Value, json};
use ssh_key::{HashAlg, PrivateKey};

use super::keypairs::public_key_line;
use crate::http::auth::Call;
use crate::http::error::ApiError;
use crate::http::{ApiState, convert, load, vault};
use crate::records::{self, AddressRule, ClusterRecord, Kubeadm, MachineSettings, Recipe};
use crate::store::Txn;

/// A step of a recipe may take a second to a day.
const LIMIT_SECONDS: (i64, i64) = (1, 86_400);
/// What a step may take if nothing is said: CCE's limit for the whole of a node's installation.
const DEFAULT_LIMIT_S: u32 = 1800;
/// Longest time limit: how long a job is kept (30 days, and a day to read it). Larger ones are typing errors.
const MAX_SPAN_MS: u64 = 31 * 86_400_000;
/// Longest login name of the machines: as long as useradd takes, and twice that for directory services.
const USER_LIMIT: usize = 64;
/// How often it is done again over a record that changed meanwhile.
const TRIES: usize = 5;

/// Sets access, recipe and limits.
pub(in crate::http) async fn set(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    Path((_, cluster)): Path<(String, String)>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let project = call.project();
    load::cluster(&*state.store, project, &cluster).await?;
    let request = parse_request(&body).map_err(ApiError::Invalid)?;
    let mut found = Vec::new();
    let asked = read(&At::root(&request), &mut found);
    if !found.is_empty() {
        return Err(ApiError::Invalid(found));
    }
    for _ in 0..TRIES {
        let stored = load::cluster(&*state.store, project, &cluster).await?;
        let record = asked.apply(&state, project, &stored.record)?;
        let txn = Txn::new()
            .when_mod_revision(&stored.key, stored.revision)
            .put(&stored.key, records::encode(&record));
        if state.store.txn(txn).await?.succeeded {
            return load::json(StatusCode::OK, &shown(&record));
        }
    }
    Err(ApiError::refused(
        ErrorCode::StaleVersion,
        "The cluster is being changed by others at the same time; try again",
    ))
}

/// What was set, without keys and commands: those may hold secrets.
fn shown(record: &ClusterRecord) -> Value {
    let machines = record.machines.as_ref().map(|machines| {
        json!({
            "user": machines.user,
            "port": machines.port,
            "sudo": machines.sudo,
            "address": machines.address,
            "publicKey": machines.public_key,
            "overrides": machines.overrides,
            "hostKeys": machines.host_keys,
            "hostCAs": machines.host_cas,
        })
    });
    json!({
        "cluster": record.id,
        "machines": machines,
        "recipe": record.recipe.as_ref().map(convert::recipe_word),
        "reimage": record.recipe.as_ref().and_then(|recipe| Some(hook::word(&recipe.reimage()?.hook))),
        "policy": record.policy,
    })
}

struct Asked {
    machines: Option<Access>,
    recipe: Option<Recipe>,
    policy: Option<Map<String, Value>>,
}

struct Access {
    user: String,
    port: u16,
    private_key: Option<(Secret, String)>,
    sudo: bool,
    address: AddressRule,
    overrides: BTreeMap<String, String>,
    host_keys: BTreeMap<String, String>,
    host_cas: Vec<String>,
}

impl Asked {
    fn apply(
        &self,
        state: &ApiState,
        project: &str,
        old: &ClusterRecord,
    ) -> Result<ClusterRecord, ApiError> {
        let mut record = old.clone();
        if let Some(access) = &self.machines {
            record.machines =
                Some(access.settings(state, project, &old.id, old.machines.as_ref())?);
        }
        if let Some(recipe) = &self.recipe {
            let sealed = vault::seal_recipe(state, project, &old.id, recipe.clone())?;
            record.recipe = Some(sealed);
        }
        if let Some(policy) = &self.policy {
            record.policy = overlaid(&old.policy, policy)?;
        }
        Ok(record)
    }
}

impl Access {
    fn settings(
        &self,
        state: &ApiState,
        project: &str,
        cluster: &ClusterId,
        old: Option<&MachineSettings>,
    ) -> Result<MachineSettings, ApiError> {
        let (private_key, public_key) = match (&self.private_key, old) {
            (Some((private, public)), _) => (
                vault::seal(state, &vault::private_key(project, cluster), private.expose())?,
                public.clone(),
            ),
            (None, Some(old)) => (old.private_key.clone(), old.public_key.clone()),
            (None, None) => {
                let violation =
                    Violation::new("machines.privateKey", "is mandatory the first time");
                return Err(ApiError::invalid(
                    violation.with_way_out("send an OpenSSH private key"),
                ));
            }
        };
        Ok(MachineSettings {
            user: self.user.clone(),
            port: self.port,
            private_key,
            public_key,
            sudo: self.sudo,
            address: self.address,
            overrides: self.overrides.clone(),
            host_keys: self.host_keys.clone(),
            host_cas: self.host_cas.clone(),
        })
    }
}

fn read(root: &At<'_>, found: &mut Vec<Violation>) -> Asked {
    let part =
        |key: &str, found: &mut Vec<Violation>| root.get(key).and_then(|at| at.object(found));
    let machines = part("machines", found);
    let recipe = part("recipe", found);
    let policy = part("policy", found);
    if machines.is_none() && recipe.is_none() && policy.is_none() && found.is_empty() {
        found.push(Violation::new("body", "has none of machines, recipe and policy"));
    }
    Asked {
        machines: machines.and_then(|at| read_access(&at, found)),
        recipe: recipe.and_then(|at| read_recipe(&at, found)),
        policy: policy.and_then(|at| match serde_json::from_value::<Policy>(at.value.clone()) {
            Ok(_) => {
                check_spans(&at, found);
                at.value.as_object().cloned()
            }
            Err(error) => {
                let violation = Violation::new("policy", format!("cannot be read: {error}"));
                found.push(
                    violation.with_way_out("send spans as milliseconds, and only known names"),
                );
                None
            }
        }),
    }
}

/// Every number of a policy is a span, or a count that is far below.
fn check_spans(policy: &At<'_>, found: &mut Vec<Violation>) {
    for (_, at) in policy.fields() {
        if at.value.as_u64().is_some_and(|ms| ms > MAX_SPAN_MS) {
            let violation = at.violation("is longer than 31 days");
            found.push(violation.with_way_out("send spans as milliseconds"));
        }
    }
}

/// The old limits with the given ones in their place.
fn overlaid(old: &Policy, given: &Map<String, Value>) -> Result<Policy, ApiError> {
    let unread = |error| ApiError::internal("limits could not be put together", error);
    let mut fields = serde_json::to_value(old).map_err(unread)?;
    if let Some(fields) = fields.as_object_mut() {
        fields.extend(given.clone());
    }
    serde_json::from_value(fields).map_err(unread)
}

/// A host name or address, with a port or without one; IPv6 with a port stands in brackets.
pub(super) fn is_place(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    let port_fits = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    !host.is_empty() && host.bytes().all(plain) && port.is_none_or(port_fits)
}

fn read_access(at: &At<'_>, found: &mut Vec<Violation>) -> Option<Access> {
    let user = text(at, "user", found).unwrap_or_else(|| "root".to_owned());
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._@".contains(&b);
    if user.len() > USER_LIMIT || user.starts_with('-') || !user.bytes().all(plain) {
        let rule = "is not a login name (letters, digits, and - . _ @)";
        let violation = Violation::new(at.child_path("user"), rule);
        found.push(violation.with_value(&Value::from(user.as_str())));
    }
    let port = at.get("port").map_or(Some(22), |port| port.integer(1, 65_535, found));
    let sudo = at.get("sudo").and_then(|sudo| sudo.boolean(found)).unwrap_or(user != "root");
    let address = match at.get("address").map(|at| at.one_of(&["internal-ip", "name"], found)) {
        Some(Some("name")) => AddressRule::Name,
        _ => AddressRule::InternalIp,
    };
    let overrides = map(at, "overrides", found);
    let host_keys = map(at, "hostKeys", found);
    for (node, place) in &overrides {
        if !is_place(place) {
            let rule = "is not host or host:port";
            let violation = Violation::new(format!("{}.overrides.{node}", at.path), rule);
            found.push(violation.with_value(&Value::from(place.as_str())));
        }
    }
    for (node, line) in &host_keys {
        if public_key_line(line).is_none() {
            let rule = "is not an OpenSSH public key line";
            found.push(Violation::new(format!("{}.hostKeys.{node}", at.path), rule));
        }
    }
    let host_cas = strings(at, "hostCAs", found);
    for line in host_cas.iter().filter(|line| public_key_line(line).is_none()) {
        let rule = "holds a line that is not an OpenSSH public key";
        let violation = Violation::new(at.child_path("hostCAs"), rule);
        found.push(violation.with_value(&Value::from(line.as_str())));
    }
    let private_key = at.get("privateKey").and_then(|key| read_private_key(&key, found));
    Some(Access {
        user,
        port: u16::try_from(port?).ok()?,
        private_key,
        sudo,
        address,
        overrides,
        host_keys,
        host_cas,
    })
}

/// The private key and its public line. The key is never quoted.
fn read_private_key(at: &At<'_>, found: &mut Vec<Violation>) -> Option<(Secret, String)> {
    let parsed = at.value.as_str().and_then(|text| {
        Some((text, PrivateKey::from_openssh(text).ok().filter(|key| !key.is_encrypted())?))
    });
    let Some((text, key)) = parsed else {
        let violation =
            Violation::new(at.path.clone(), "is not an OpenSSH private key without a passphrase");
        found.push(violation.with_way_out("make one with `ssh-keygen -t ed25519 -N ''`"));
        return None;
    };
    match key.public_key().to_openssh() {
        Ok(line) => Some((Secret::new(text), line)),
        Err(_) => {
            let kind = key.public_key().fingerprint(HashAlg::Sha256);
            found.push(Violation::new(at.path.clone(), format!("has no public line ({kind})")));
            None
        }
    }
}

fn read_recipe(at: &At<'_>, found: &mut Vec<Violation>) -> Option<Recipe> {
    let (min, max) = LIMIT_SECONDS;
    let limit = at
        .get("limitSeconds")
        .map_or(Some(i64::from(DEFAULT_LIMIT_S)), |at| at.integer(min, max, found));
    let limit_s = u32::try_from(limit?).ok()?;
    let kind = match at.get("type") {
        Some(kind) => kind.one_of(&["script", "kubeadm", "command", "none"], found)?,
        None => {
            let violation = Violation::new(at.child_path("type"), "is mandatory");
            found.push(violation.with_way_out("send script, kubeadm, command or none"));
            return None;
        }
    };
    match kind {
        "script" => {
            let (teardown, install) = (text(at, "teardown", found), text(at, "install", found));
            for (key, value) in [("teardown", &teardown), ("install", &install)] {
                if value.is_none() {
                    let rule = "is mandatory for the recipe `script`, as a text that is not empty";
                    found.push(Violation::new(at.child_path(key), rule));
                }
            }
            Some(Recipe::Script {
                teardown: teardown?,
                install: install?,
                limit_s,
                needs: strings(at, "needs", found),
                reimage: hook::reimage(at, found),
                resume: at.get("resume").and_then(|at| at.boolean(found)).unwrap_or(false),
            })
        }
        "kubeadm" => Some(Recipe::Kubeadm(Kubeadm {
            limit_s,
            endpoint: text(at, "endpoint", found),
            cri_socket: text(at, "criSocket", found),
            ignore_preflight: strings(at, "ignorePreflight", found),
            data_dirs: data_dirs(at, found),
            reimage: hook::reimage(at, found),
        })),
        "command" => Some(Recipe::Command { hook: hook::hook(at, found)?, limit_s }),
        _ => Some(Recipe::None),
    }
}

/// Directories whose content a teardown deletes: absolute, at least two levels deep, without `..`.
fn data_dirs(at: &At<'_>, found: &mut Vec<Violation>) -> Vec<String> {
    let dirs = strings(at, "dataDirs", found);
    for dir in &dirs {
        let parts: Vec<&str> = dir.split('/').filter(|part| !part.is_empty()).collect();
        if !dir.starts_with('/') || parts.len() < 2 || parts.contains(&"..") {
            let rule = format!("{dir:?} is not an absolute path of at least two levels");
            let violation = Violation::new(at.child_path("dataDirs"), rule);
            found.push(violation.with_way_out("name directories such as /data/containers"));
        }
    }
    dirs
}

fn text(at: &At<'_>, key: &str, found: &mut Vec<Violation>) -> Option<String> {
    let text = at.get(key)?.string(found)?;
    (!text.trim().is_empty()).then(|| text.to_owned())
}

pub(super) fn strings(at: &At<'_>, key: &str, found: &mut Vec<Violation>) -> Vec<String> {
    let items = at.get(key).and_then(|at| at.items(found)).unwrap_or_default();
    items.iter().filter_map(|item| item.string(found)).map(str::to_owned).collect()
}

pub(super) fn map(at: &At<'_>, key: &str, found: &mut Vec<Violation>) -> BTreeMap<String, String> {
    let Some(at) = at.get(key).and_then(|at| at.object(found)) else {
        return BTreeMap::new();
    };
    let pairs = at
        .fields()
        .filter_map(|(key, value)| Some((key.to_owned(), value.string(found)?.to_owned())));
    pairs.collect()
}
