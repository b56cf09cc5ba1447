//! The revision of a template: a hash over everything that only a reset brings to a node.
//!
//! Entry points: [`revision`], and [`parts`], which says the same field by field. Labels, taints, tags, counts, disk
//! sizes and names are absent on purpose: they are applied in place, or to new nodes only. So are
//! `waitPostInstallFinish` and `initializedConditions`: they change how a reset runs, not its result.

use evenkeel_api::configuration::Settings;
use evenkeel_api::nodepool::NodeTemplate;
use evenkeel_api::upgrade::UpgradeTemplate;
use evenkeel_engine::ids::TemplateRevision;
use evenkeel_engine::preview::drift::Parts;
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
    /// Whose password login is taken away.
    pub remove_password: Option<&'a str>,
    /// Whose keys are taken away.
    pub remove_keys: Option<&'a str>,
}

/// The revision of a pool's template.
pub fn revision(
    template: &NodeTemplate,
    configuration: &Settings,
    hidden: &Hidden<'_>,
) -> TemplateRevision {
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
        "configuration": configuration,
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

/// The same fields in words, to be compared with what a node carries. What is secret appears as a digest.
pub fn parts(template: &NodeTemplate, configuration: &Settings, hidden: &Hidden<'_>) -> Parts {
    let mut parts = Parts { reset: hidden_words(hidden), ..Parts::default() };
    let extend = template.extend_param.as_ref();
    let runtime = template.runtime.as_ref();
    let reinforcement = extend.and_then(|extend| extend.security_reinforcement_type.as_deref());
    let texts = [
        ("os", filled(template.os.as_deref())),
        ("image", extend.and_then(|extend| filled(extend.node_image_id.as_deref()))),
        ("runtime", runtime.and_then(|runtime| filled(runtime.name.as_deref()))),
        ("securityReinforcementType", filled(reinforcement).filter(|text| *text != "null")),
    ];
    for (field, text) in texts {
        parts.reset.extend(text.map(|text| (field.to_owned(), text.to_owned())));
    }
    let max_pods = extend.and_then(|extend| extend.max_pods).map(|pods| json!(pods));
    let values = [
        ("maxPods", max_pods.as_ref()),
        ("runtimeClass", runtime.and_then(|runtime| runtime.extra.get("runtimeClass"))),
        ("storage", template.extra.get("storage")),
        ("configurationsOverride", template.extra.get("configurationsOverride")),
    ];
    let params =
        KUBELET_PARAMS.iter().map(|key| (*key, extend.and_then(|extend| extend.extra.get(*key))));
    for (field, value) in values.into_iter().chain(params) {
        parts.reset.extend(words(value).map(|text| (field.to_owned(), text)));
    }
    for (package, items) in configuration {
        for (name, value) in items {
            parts.reset.extend(words(Some(value)).map(|text| (format!("{package} {name}"), text)));
        }
    }
    let plain = [("flavor", template.flavor.as_deref()), ("az", template.az.as_deref())];
    for (field, text) in plain {
        parts.new_nodes.extend(filled(text).map(|text| (field.to_owned(), text.to_owned())));
    }
    for field in ["rootVolume", "dataVolumes", "nodeNicSpec", "nodeNameTemplate"] {
        let text = words(template.extra.get(field));
        parts.new_nodes.extend(text.map(|text| (field.to_owned(), text)));
    }
    parts
}

/// As [`parts`], for a template that came with the request.
pub fn parts_of_request(template: &UpgradeTemplate, hidden: &Hidden<'_>) -> Parts {
    let mut parts = Parts { reset: hidden_words(hidden), ..Parts::default() };
    let texts =
        [("os", &template.os), ("image", &template.image_id), ("runtime", &template.runtime)];
    for (field, text) in texts {
        let text = filled(text.as_deref());
        parts.reset.extend(text.map(|text| (field.to_owned(), text.to_owned())));
    }
    parts
}

/// Longest value that is shown; a longer one is told apart by its digest.
const SHOWN_MAX: usize = 120;

fn words(value: Option<&Value>) -> Option<String> {
    let value = value.filter(|value| !is_unset(value))?;
    let text = match value {
        Value::String(text) => text.clone(),
        other => canonical(other),
    };
    Some(if text.len() > SHOWN_MAX { short(&text) } else { text })
}

fn hidden_words(hidden: &Hidden<'_>) -> std::collections::BTreeMap<String, String> {
    let plain = |text: Option<&str>| filled(text).map(str::to_owned);
    let fields = [
        ("preInstall", filled(hidden.pre_install).map(short)),
        ("postInstall", filled(hidden.post_install).map(short)),
        ("login.user", plain(Some(hidden.user))),
        ("login.sshKey", plain(hidden.ssh_key)),
        ("login.password", filled(hidden.password_hash).map(short)),
        ("login.removeUserPassword", plain(hidden.remove_password)),
        ("login.removeSSHKey", plain(hidden.remove_keys)),
    ];
    fields.into_iter().filter_map(|(field, text)| Some((field.to_owned(), text?))).collect()
}

/// Hex digits of a digest that stands for a value: two of one node are told apart, and nothing can be guessed back.
const SHORT_DIGITS: usize = 8;

fn short(text: &str) -> String {
    let hash = Sha256::new().chain_update(SCHEME).chain_update(text).finalize();
    format!("sha256:{}", &hex::encode(hash)[..SHORT_DIGITS])
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
        revision(&template, &Settings::new(), &Hidden { user: "root", ..Hidden::default() })
    }

    fn words_of(template: Value) -> Parts {
        let template: NodeTemplate = serde_json::from_value(template).expect("a template");
        parts(&template, &Settings::new(), &Hidden { user: "root", ..Hidden::default() })
    }

    /// How the difference between two templates reaches a node that is there.
    fn reaches(before: &Value, after: &Value) -> &'static str {
        let read = |value: &Value| {
            let key = value.pointer("/login/sshKey").and_then(Value::as_str).map(str::to_owned);
            let template: NodeTemplate = serde_json::from_value(value.clone()).expect("a template");
            let hidden = Hidden { user: "root", ssh_key: key.as_deref(), ..Hidden::default() };
            let parts = parts(&template, &Settings::new(), &hidden);
            (parts, revision(&template, &Settings::new(), &hidden))
        };
        let ((old, old_revision), (new, new_revision)) = (read(before), read(after));
        assert_eq!(old.reset == new.reset, old_revision == new_revision, "{after}");
        match (old.reset == new.reset, old.new_nodes == new.new_nodes) {
            (false, _) => "reset",
            (true, false) => "new nodes",
            (true, true) => "in place",
        }
    }

    #[test]
    fn changes_against_upstream() {
        let base = json!({ "os": "a", "runtime": { "name": "containerd" } });
        let lines =
            include_str!("revision/changes.txt").lines().filter(|line| !line.starts_with('#'));
        for line in lines.skip(1) {
            let cells: Vec<&str> =
                line.split(" | ").map(|cell| cell.trim_end_matches(" |")).collect();
            let (case, upstream, ours) = (cells[0], cells[1], cells[2]);
            let mut after = base.clone();
            let more: Map<String, Value> = serde_json::from_str(case).expect("a template");
            after.as_object_mut().expect("a template").extend(more);
            assert_eq!(reaches(&base, &after), ours, "{case}");
            let agree = matches!((upstream, ours), ("none", "in place") | ("reboot", "reset"));
            assert_eq!(agree, cells.len() == 3, "{case}: say why, or nothing");
        }
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
            let reset = |template: Value| words_of(template).reset;
            assert_eq!(reset(template.clone()) != reset(base.clone()), differs, "{template}");
        }
    }

    #[test]
    fn every_hidden_part_counts() {
        let (template, none) = (NodeTemplate::default(), Settings::new());
        let base = Hidden { user: "root", ..Hidden::default() };
        let rows = [
            Hidden { pre_install: Some("YQ=="), ..base },
            Hidden { post_install: Some("YQ=="), ..base },
            Hidden { user: "admin", ..base },
            Hidden { ssh_key: Some("kp"), ..base },
            Hidden { password_hash: Some("$6$a$b"), ..base },
            Hidden { remove_password: Some("root"), ..base },
            Hidden { remove_keys: Some("root"), ..base },
        ];
        let mut seen = std::collections::BTreeSet::from([revision(&template, &none, &base)]);
        for hidden in &rows {
            assert!(seen.insert(revision(&template, &none, hidden)), "{hidden:?}");
            let words = parts(&template, &none, hidden);
            assert_ne!(words, parts(&template, &none, &base), "{hidden:?}");
            assert!(!format!("{words:?}").contains("YQ=="), "a script is shown");
        }
        assert!(seen.iter().all(|revision| revision.as_str().len() == DIGITS));
    }
}
