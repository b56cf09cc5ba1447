//! The revision of a template: a hash over everything that only a reset brings to a node.
//!
//! Entry point: [`revision`]. Labels, taints, tags, counts, disk sizes and names are absent on purpose: they are
//! applied in place, or to new nodes only. So is `waitPostInstallFinish`: it changes how a reset runs, not its result.

use evenkeel_api::nodepool::NodeTemplate;
use evenkeel_api::upgrade::UpgradeTemplate;
use evenkeel_engine::ids::TemplateRevision;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// Hex digits of a revision: 64 bits tell the revisions of one pool apart, and fit into a table column.
const DIGITS: usize = 16;

/// Changes whenever the input below means something else: then every node counts as out of date once.
const SCHEME: &str = "evenkeel-template-1";

/// `extendParam` keys that end up in the kubelet's configuration.
const KUBELET_PARAMS: &[&str] = &[
    "kubeReservedMem",
    "systemReservedMem",
    "kubeReservedCpu",
    "systemReservedCpu",
    "kubeReservedPid",
    "systemReservedPid",
    "kubeReservedStorage",
    "systemReservedStorage",
    "containerBaseSize",
    "dockerBaseSize",
    "DockerLVMConfigOverride",
];

/// Login and scripts in clear, as the revision reads them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hidden<'a> {
    /// Base64.
    pub pre_install: Option<&'a str>,
    /// Base64.
    pub post_install: Option<&'a str>,
    /// Login user.
    pub user: &'a str,
    /// Name of the key pair.
    pub ssh_key: Option<&'a str>,
    /// sha512-crypt hash.
    pub password_hash: Option<&'a str>,
    /// Whether the password login is taken away.
    pub remove_password: bool,
    /// Whether the keys are taken away.
    pub remove_keys: bool,
}

/// The revision of a pool's template.
pub fn revision(template: &NodeTemplate, hidden: &Hidden<'_>) -> TemplateRevision {
    let extend = template.extend_param.as_ref();
    let mut kubelet = Map::new();
    if let Some(extend) = extend {
        kubelet.insert("maxPods".to_owned(), json!(extend.max_pods));
        for key in KUBELET_PARAMS {
            kubelet
                .insert((*key).to_owned(), extend.extra.get(*key).cloned().unwrap_or(Value::Null));
        }
    }
    // `null` is the documented word for "none"; absent means the same on a new pool.
    let reinforcement = extend.and_then(|extend| extend.security_reinforcement_type.as_deref());
    digest(&json!({
        "os": filled(template.os.as_deref()),
        "image": extend.and_then(|extend| filled(extend.node_image_id.as_deref())),
        "runtime": template.runtime.as_ref().and_then(|runtime| filled(runtime.name.as_deref())),
        "runtimeClass": template.runtime.as_ref().and_then(|runtime| runtime.extra.get("runtimeClass")),
        "reinforcement": reinforcement.filter(|text| *text != "null" && !text.is_empty()),
        "storage": template.extra.get("storage"),
        "kubelet": kubelet,
        "components": template.extra.get("configurationsOverride"),
        "hidden": hidden_parts(hidden),
    }))
}

/// The revision of a template that came with the request, for `DefaultPool`.
pub fn revision_of_request(template: &UpgradeTemplate, hidden: &Hidden<'_>) -> TemplateRevision {
    digest(&json!({
        "os": filled(template.os.as_deref()),
        "image": filled(template.image_id.as_deref()),
        "runtime": filled(template.runtime.as_deref()),
        "hidden": hidden_parts(hidden),
    }))
}

fn filled(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

fn hidden_parts(hidden: &Hidden<'_>) -> Value {
    json!({
        "pre": filled(hidden.pre_install),
        "post": filled(hidden.post_install),
        "user": hidden.user,
        "key": hidden.ssh_key,
        "password": hidden.password_hash,
        "removePassword": hidden.remove_password,
        "removeKeys": hidden.remove_keys,
    })
}

fn digest(value: &Value) -> TemplateRevision {
    let text = canonical(value);
    let hash = hex::encode(Sha256::new().chain_update(SCHEME).chain_update(text).finalize());
    TemplateRevision::new(&hash[..DIGITS])
}

/// JSON with sorted keys and without nulls, so that an absent field and an unset one are the same.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let mut parts: Vec<String> = fields
                .iter()
                .filter(|(_, value)| !is_unset(value))
                .map(|(key, value)| format!("{}:{}", Value::from(key.as_str()), canonical(value)))
                .collect();
            parts.sort();
            format!("{{{}}}", parts.join(","))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.values().all(is_unset),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(template: Value) -> TemplateRevision {
        let template: NodeTemplate = serde_json::from_value(template).expect("a template");
        revision(&template, &Hidden { user: "root", ..Hidden::default() })
    }

    #[test]
    fn what_needs_a_reset_changes_the_revision_and_nothing_else_does() {
        let base = json!({ "os": "a", "runtime": { "name": "containerd" } });
        let rows = [
            (json!({ "os": "b", "runtime": { "name": "containerd" } }), true),
            (json!({ "os": "a", "runtime": { "name": "docker" } }), true),
            (
                json!({ "os": "a", "runtime": { "name": "containerd", "runtimeClass": "kata" } }),
                true,
            ),
            (
                json!({ "os": "a", "runtime": { "name": "containerd" }, "extendParam": { "maxPods": 64 } }),
                true,
            ),
            (
                json!({ "os": "a", "runtime": { "name": "containerd" },
                        "extendParam": { "securityReinforcementType": "cybersecurity" } }),
                true,
            ),
            (
                json!({ "os": "a", "runtime": { "name": "containerd" },
                        "extendParam": { "securityReinforcementType": "null" } }),
                false,
            ),
            (
                json!({ "os": "a", "runtime": { "name": "containerd" }, "storage": { "x": 1 } }),
                true,
            ),
            (
                json!({ "os": "a", "runtime": { "name": "containerd" }, "k8sTags": { "a": "b" } }),
                false,
            ),
            (json!({ "os": "a", "runtime": { "name": "containerd" }, "extendParam": {} }), false),
            (
                json!({ "os": "a", "runtime": { "name": "containerd" }, "waitPostInstallFinish": true }),
                false,
            ),
            (
                json!({ "os": "a", "runtime": { "name": "containerd" }, "rootVolume": { "size": 9 } }),
                false,
            ),
            (json!({ "runtime": { "name": "containerd" }, "os": "a" }), false),
        ];
        for (template, differs) in rows {
            assert_eq!(of(template.clone()) != of(base.clone()), differs, "{template}");
        }
    }

    #[test]
    fn every_hidden_part_counts() {
        let template = NodeTemplate::default();
        let base = Hidden { user: "root", ..Hidden::default() };
        let rows = [
            Hidden { pre_install: Some("YQ=="), ..base },
            Hidden { post_install: Some("YQ=="), ..base },
            Hidden { user: "admin", ..base },
            Hidden { ssh_key: Some("kp"), ..base },
            Hidden { password_hash: Some("$6$a$b"), ..base },
            Hidden { remove_password: true, ..base },
            Hidden { remove_keys: true, ..base },
        ];
        let mut seen = std::collections::BTreeSet::from([revision(&template, &base)]);
        for hidden in &rows {
            assert!(seen.insert(revision(&template, hidden)), "{hidden:?}");
        }
        assert!(seen.iter().all(|revision| revision.as_str().len() == DIGITS));
    }
}
