//! The body that changes a pool, and the one that scales it.
//!
//! Entry points: [`NodePoolUpdate::parse`], [`NodePoolUpdate::apply_to`], [`ScaleRequest::parse`].
//! The service spells some keys differently here (`rootVolumeUpdate`); both spellings are taken.
//! Deliberately absent: the effect on nodes. A changed template reaches them by a sync.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::json::{At, canonical_keys, parse_request, typed};
use crate::login::{Login, LoginSpec};
use crate::node::check_envelope;
use crate::nodepool::{Autoscaling, ExistingNodes, NodePool, NodeTemplate, POOL_KEYS};
use crate::pool_rules::{PoolUse, check_pool};
use crate::violation::Violation;

/// What an update asks for. Absent fields stay as they are, with one documented exception:
/// [`NodePoolUpdate::wanted_count`].
#[derive(Debug, Clone, PartialEq)]
pub struct NodePoolUpdate {
    pub name: Option<String>,
    pub spec: NodePoolUpdateSpec,
    pub login: LoginChange,
}

/// What becomes of the login of the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginChange {
    Keep,
    /// Replaces whatever was there.
    Set {
        /// The new way in.
        login: LoginSpec,
        /// Whether the credential of the other kind is taken off the nodes.
        remove_other: bool,
    },
    /// Drops the credentials of the named kinds.
    Remove {
        ssh_key: bool,
        user_password: bool,
    },
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodePoolUpdateSpec {
    pub initial_node_count: Option<i32>,
    pub ignore_initial_node_count: Option<bool>,
    pub node_template: Option<NodeTemplate>,
    pub autoscaling: Option<Autoscaling>,
    pub node_management: Option<Map<String, Value>>,
    pub taint_policy_on_existing_nodes: Option<ExistingNodes>,
    pub label_policy_on_existing_nodes: Option<ExistingNodes>,
    pub user_tags_policy_on_existing_nodes: Option<ExistingNodes>,
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Body {
    metadata: Option<BodyMetadata>,
    spec: NodePoolUpdateSpec,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct BodyMetadata {
    name: Option<String>,
}

/// (key of the update, key it stands for), in the spec and in the template.
const SPEC_ALIASES: &[(&str, &str)] = &[("nodeManagementUpdate", "nodeManagement")];
const TEMPLATE_ALIASES: &[(&str, &str)] = &[
    ("rootVolumeUpdate", "rootVolume"),
    ("dataVolumesUpdate", "dataVolumes"),
    ("nodeNicSpecUpdate", "nodeNicSpec"),
];

impl NodePoolUpdate {
    pub fn parse(body: &[u8]) -> Result<Self, Vec<Violation>> {
        let mut request = parse_request(body)?;
        let mut found = Vec::new();
        let set = check_pool(&At::root(&request), PoolUse::Update, &mut found);
        if !found.is_empty() {
            return Err(found);
        }
        canonical_keys(&mut request, POOL_KEYS);
        plain_spelling(&mut request, &mut found);
        if !found.is_empty() {
            return Err(found);
        }
        let body: Body = typed(&request, POOL_KEYS)?;
        let login = login_change(&body.spec, set);
        Ok(Self { name: body.metadata.and_then(|metadata| metadata.name), spec: body.spec, login })
    }

    /// The node count the pool is to have; `None` leaves it alone. A count that is left out means
    /// 0, as the service documents it, unless `ignoreInitialNodeCount` is true.
    pub fn wanted_count(&self) -> Option<i32> {
        let ignore = self.spec.ignore_initial_node_count == Some(true);
        (!ignore).then(|| self.spec.initial_node_count.unwrap_or(0))
    }

    /// True if the count is 0 only because the body has none: worth naming in the answer.
    pub fn count_is_implied(&self) -> bool {
        self.wanted_count().is_some() && self.spec.initial_node_count.is_none()
    }

    /// Brings the change into the pool: a given field replaces, an absent one stays;
    /// `extendParam` is merged key by key; an empty flavor or zone (which elsewhere deletes a
    /// scaling group) changes nothing. The login is brought in without its password.
    pub fn apply_to(&self, pool: &mut NodePool) {
        if let Some(name) = &self.name {
            pool.metadata.name.clone_from(name);
        }
        if let Some(count) = self.wanted_count() {
            pool.spec.initial_node_count = Some(count);
        }
        let (from, to) = (&self.spec, &mut pool.spec);
        replace(&mut to.autoscaling, from.autoscaling.as_ref());
        replace(&mut to.node_management, from.node_management.as_ref());
        replace(
            &mut to.taint_policy_on_existing_nodes,
            from.taint_policy_on_existing_nodes.as_ref(),
        );
        replace(
            &mut to.label_policy_on_existing_nodes,
            from.label_policy_on_existing_nodes.as_ref(),
        );
        let tags = from.user_tags_policy_on_existing_nodes.as_ref();
        replace(&mut to.user_tags_policy_on_existing_nodes, tags);
        to.extra.extend(given(&from.extra));
        if let Some(template) = &from.node_template {
            apply_template(template, &mut to.node_template);
        }
        match &self.login {
            LoginChange::Keep => {}
            LoginChange::Set { login, .. } => {
                to.node_template.login = Some(without_password(login));
            }
            LoginChange::Remove { ssh_key, user_password } => {
                if let Some(login) = &mut to.node_template.login {
                    if *ssh_key {
                        login.ssh_key = None;
                    }
                    if *user_password {
                        login.user_password = None;
                    }
                }
            }
        }
    }
}

fn apply_template(from: &NodeTemplate, to: &mut NodeTemplate) {
    replace(&mut to.flavor, not_empty(from.flavor.as_ref()));
    replace(&mut to.az, not_empty(from.az.as_ref()));
    replace(&mut to.os, not_empty(from.os.as_ref()));
    replace(&mut to.volume_config, from.volume_config.as_ref());
    replace(&mut to.taints, from.taints.as_ref());
    replace(&mut to.wait_post_install_finish, from.wait_post_install_finish.as_ref());
    replace(&mut to.k8s_tags, from.k8s_tags.as_ref());
    replace(&mut to.user_tags, from.user_tags.as_ref());
    replace(&mut to.runtime, from.runtime.as_ref());
    replace(&mut to.initialized_conditions, from.initialized_conditions.as_ref());
    to.extra.extend(given(&from.extra));
    if let Some(from) = &from.extend_param {
        let to = to.extend_param.get_or_insert_default();
        replace(&mut to.pre_install, from.pre_install.as_ref());
        replace(&mut to.post_install, from.post_install.as_ref());
        replace(&mut to.node_image_id, from.node_image_id.as_ref());
        replace(&mut to.max_pods, from.max_pods.as_ref());
        replace(&mut to.security_reinforcement_type, from.security_reinforcement_type.as_ref());
        to.extra.extend(given(&from.extra));
    }
}

fn not_empty(text: Option<&String>) -> Option<&String> {
    text.filter(|text| !text.is_empty())
}

fn replace<T: Clone>(to: &mut Option<T>, from: Option<&T>) {
    if let Some(from) = from {
        *to = Some(from.clone());
    }
}

fn given(map: &Map<String, Value>) -> impl Iterator<Item = (String, Value)> {
    let given = map.iter().filter(|(_, value)| !value.is_null());
    given.map(|(key, value)| (key.clone(), value.clone()))
}

fn without_password(spec: &LoginSpec) -> Login {
    match spec {
        LoginSpec::SshKey(name) => Login { ssh_key: Some(name.clone()), ..Login::default() },
        LoginSpec::Password { username, .. } => {
            let username = Some(username.clone());
            let user = crate::login::UserPassword { username, password: None };
            Login { user_password: Some(user), ..Login::default() }
        }
    }
}

fn login_change(spec: &NodePoolUpdateSpec, set: Option<LoginSpec>) -> LoginChange {
    let login = spec.node_template.as_ref().and_then(|template| template.login.as_ref());
    let flag = |flag: fn(&Login) -> Option<bool>| login.and_then(flag) == Some(true);
    let ssh_key = flag(|login| login.remove_ssh_key);
    let user_password = flag(|login| login.remove_user_password);
    if let Some(login) = set {
        let remove_other = match &login {
            LoginSpec::SshKey(_) => user_password,
            LoginSpec::Password { .. } => ssh_key,
        };
        return LoginChange::Set { login, remove_other };
    }
    if ssh_key || user_password {
        return LoginChange::Remove { ssh_key, user_password };
    }
    LoginChange::Keep
}

/// Gives the keys of the update the spelling they have everywhere else.
fn plain_spelling(request: &mut Value, found: &mut Vec<Violation>) {
    let Some(spec) = request.get_mut("spec") else {
        return;
    };
    rename(spec, SPEC_ALIASES, "spec", found);
    if let Some(template) = spec.get_mut("nodeTemplate") {
        rename(template, TEMPLATE_ALIASES, "spec.nodeTemplate", found);
    }
}

fn rename(value: &mut Value, aliases: &[(&str, &str)], path: &str, found: &mut Vec<Violation>) {
    let Some(object) = value.as_object_mut() else {
        return;
    };
    for (alias, plain) in aliases {
        let Some(value) = object.remove(*alias).filter(|value| !value.is_null()) else {
            continue;
        };
        if object.get(*plain).is_some_and(|other| !other.is_null() && *other != value) {
            let rule = format!("differs from {plain}, which means the same");
            let violation = Violation::new(format!("{path}.{alias}"), rule);
            found.push(violation.with_way_out("send one of the two"));
        }
        object.insert((*plain).to_owned(), value);
    }
}

/// `POST .../nodepools/{id}/operation/scale`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScaleRequest {
    /// The total, not a difference.
    pub desired_node_count: i32,
    pub scale_groups: Vec<String>,
}

impl ScaleRequest {
    pub fn parse(body: &[u8]) -> Result<Self, Vec<Violation>> {
        let request = parse_request(body)?;
        let root = At::root(&request);
        let mut found = Vec::new();
        check_envelope(&root, "NodePool", &mut found);
        let spec = root.get("spec").and_then(|spec| spec.object(&mut found));
        let count = match spec.as_ref().and_then(|spec| spec.get("desiredNodeCount")) {
            Some(at) => at.integer(0, i64::from(i32::MAX), &mut found),
            None => {
                found.push(Violation::new("spec.desiredNodeCount", "is mandatory"));
                None
            }
        };
        let groups = spec.and_then(|spec| spec.get("scaleGroups")?.items(&mut found));
        let groups = groups.unwrap_or_default();
        let scale_groups: Vec<String> =
            groups.iter().filter_map(|at| at.string(&mut found)).map(str::to_owned).collect();
        match count {
            Some(count) if found.is_empty() => {
                Ok(Self { desired_node_count: count as i32, scale_groups })
            }
            _ => Err(found),
        }
    }
}
