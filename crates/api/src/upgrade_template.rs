//! The node template of a sync, read from three generations of clients into one form.
//!
//! | generation | scripts in | recognised by |
//! |---|---|---|
//! | A | `lifeCycle` | `imageID`, `runtimeConfig` |
//! | B | `extendParam`, under `alpha.cce/` | any other key of a pool template |
//! | C | `lifeCycle` | only `lifeCycle`, `login`, `volumeConfig` |
//!
//! Entry point: [`UpgradeTemplate::read`].
//! Deliberately absent: what of it applies. In a custom pool the template of the pool wins; the
//! fields that then have no effect are listed by [`UpgradeTemplate::ignored_fields`].

use crate::initialized::{InitializedCondition, check_conditions};
use crate::json::At;
use crate::login::{LoginSpec, LoginUse, check_login};
use crate::pool_rules::{check_scripts, check_volume_config};
use crate::upgrade::PoolRef;
use crate::violation::Violation;

/// Which clients send a template of this form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    A,
    B,
    C,
}

/// Decoded script; at most 7,680 bytes.
pub type Script = Vec<u8>;

/// A template in one form, whatever client it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpgradeTemplate {
    pub generation: Generation,
    pub pre_install: Option<Script>,
    pub post_install: Option<Script>,
    pub wait_post_install_finish: Option<bool>,
    pub initialized: Vec<InitializedCondition>,
    pub login: Option<LoginSpec>,
    pub volume_reset: VolumeReset,
    pub os: Option<String>,
    pub image_id: Option<String>,
    /// `docker` or `containerd`.
    pub runtime: Option<String>,
    /// Every leaf that was sent, as written, relative to `nodeTemplate`.
    pub fields: Vec<String>,
}

/// What happens to the data volumes of a node that is reset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum VolumeReset {
    /// `reset_managed_volumes`: those that the service manages are wiped.
    #[default]
    ManagedVolumes,
    /// `retain_custom_volumes`: those that users added are kept.
    RetainCustomVolumes,
}

/// Keys that only generation A has.
const A_KEYS: &[&str] = &["imageID", "runtimeConfig"];

/// Keys of generation B, the template of a pool, without those it shares with C.
const B_KEYS: &[&str] = &[
    "flavor",
    "az",
    "os",
    "rootVolume",
    "dataVolumes",
    "storage",
    "publicIP",
    "nodeNicSpec",
    "count",
    "billingMode",
    "taints",
    "waitPostInstallFinish",
    "k8sTags",
    "ecsGroupId",
    "dedicatedHostId",
    "userTags",
    "runtime",
    "initializedConditions",
    "extendParam",
    "hostnameConfig",
    "serverEnterpriseProjectID",
    "partition",
    "configurationsOverride",
    "nodeNameTemplate",
];

/// Leaves that take effect where the pool has no template of its own, in lower case.
const EFFECTIVE: &[&str] = &[
    "lifecycle.preinstall",
    "lifecycle.postinstall",
    "lifecycle.waitpostinstallfinish",
    "waitpostinstallfinish",
    "initializedconditions",
    "login.sshkey",
    "login.userpassword.username",
    "login.userpassword.password",
    "volumeconfig.volumeresetpolicy",
    "os",
    "imageid",
    "runtime.name",
    "runtimeconfig.runtime.name",
    "extendparam.alpha.cce/preinstall",
    "extendparam.alpha.cce/postinstall",
    "extendparam.alpha.cce/nodeimageid",
];

impl UpgradeTemplate {
    /// Reads and checks `spec.nodeTemplate`. Use the result only if nothing was added to `found`.
    pub fn read(template: &At<'_>, found: &mut Vec<Violation>) -> Option<Self> {
        let template = template.object(found)?;
        let generation = generation(&template);
        let life_cycle = template.get("lifeCycle").and_then(|at| at.object(found));
        let login = template.get("login");
        if generation == Generation::C {
            let is_sent = |key: &str| template.get(key).is_some();
            for key in ["lifeCycle", "login"].into_iter().filter(|key| !is_sent(key)) {
                let violation = Violation::new(template.child_path(key), "is mandatory");
                let way_out = format!("send {key}, or leave nodeTemplate out");
                found.push(violation.with_way_out(way_out));
            }
        }
        let extend = template.get("extendParam").and_then(|at| at.object(found));
        let mut script = |key: &str| {
            let new = life_cycle.as_ref().and_then(|at| at.get(key));
            let old = extend.as_ref().and_then(|at| at.get(&format!("alpha.cce/{key}")));
            one_of_two(new, old, found)
        };
        let (pre, post) = (script("preInstall"), script("postInstall"));
        let (pre_install, post_install) = check_scripts(pre, post, found);
        let wait = one_of_two(
            life_cycle.as_ref().and_then(|at| at.get("waitPostInstallFinish")),
            template.get("waitPostInstallFinish"),
            found,
        );
        let image = inner(extend.as_ref(), "alpha.cce/NodeImageID");
        let image = one_of_two(template.get("imageID"), image, found);
        let old_runtime = template.get("runtimeConfig").and_then(|at| at.get("runtime"));
        let runtime = one_of_two(
            inner(template.get("runtime").as_ref(), "name"),
            inner(old_runtime.as_ref(), "name"),
            found,
        );
        let retain = check_volume_config(&template, found);
        Some(Self {
            generation,
            pre_install,
            post_install,
            wait_post_install_finish: wait.and_then(|at| at.boolean(found)),
            initialized: template
                .get("initializedConditions")
                .map(|at| check_conditions(&at, found))
                .unwrap_or_default(),
            login: login.and_then(|login| check_login(&login, LoginUse::Sync, found)),
            volume_reset: match retain {
                Some(true) => VolumeReset::RetainCustomVolumes,
                _ => VolumeReset::ManagedVolumes,
            },
            os: text(template.get("os"), found),
            image_id: text(image, found),
            runtime: runtime
                .filter(|at| at.value != "")
                .and_then(|at| at.one_of(&["docker", "containerd"], found))
                .map(str::to_owned),
            fields: leaves(&template),
        })
    }

    /// The fields that were sent and change nothing: in a custom pool all of them, because the
    /// template of the pool wins; in the default pool those that a reset has no use for.
    pub fn ignored_fields(&self, pool: &PoolRef) -> Vec<String> {
        let is_ignored = |field: &&String| match pool {
            PoolRef::Id(_) => true,
            PoolRef::Default => !EFFECTIVE.contains(&field.to_ascii_lowercase().as_str()),
        };
        self.fields.iter().filter(is_ignored).cloned().collect()
    }
}

fn generation(template: &At<'_>) -> Generation {
    let has = |keys: &[&str]| keys.iter().any(|key| template.get(key).is_some());
    if has(A_KEYS) {
        Generation::A
    } else if has(B_KEYS) {
        Generation::B
    } else {
        Generation::C
    }
}

/// Two places for one setting: either may be used, both only if they agree.
fn one_of_two<'a>(
    first: Option<At<'a>>,
    second: Option<At<'a>>,
    found: &mut Vec<Violation>,
) -> Option<At<'a>> {
    if let (Some(first), Some(second)) = (&first, &second)
        && first.value != second.value
    {
        let rule = format!("differs from {}, which means the same", second.path);
        let violation = Violation::new(first.path.clone(), rule);
        found.push(violation.with_way_out("send one of the two"));
    }
    first.or(second)
}

fn inner<'a>(at: Option<&At<'a>>, key: &str) -> Option<At<'a>> {
    at.and_then(|at| at.get(key))
}

fn text(at: Option<At<'_>>, found: &mut Vec<Violation>) -> Option<String> {
    let text = at?.string(found)?;
    (!text.is_empty()).then(|| text.to_owned())
}

fn leaves(template: &At<'_>) -> Vec<String> {
    let mut all = Vec::new();
    collect(&At { path: String::new(), value: template.value }, &mut all);
    all
}

fn collect(at: &At<'_>, all: &mut Vec<String>) {
    for (_, field) in at.fields() {
        if field.value.as_object().is_some_and(|object| !object.is_empty()) {
            collect(&field, all);
        } else if !field.value.is_null() {
            all.push(field.path);
        }
    }
}
