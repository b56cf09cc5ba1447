//! What of a pool's configuration goes into the KubeletConfiguration of its nodes. Pure.

use crate::records::{Dress, Taint};
use serde_json::{Map, Value, json};

/// CCE's names, their place in the KubeletConfiguration, and the unit that CCE counts in (its API page).
const RESERVED: &[(&str, &str, &str, &str)] = &[
    ("kubeReservedMem", "kubeReserved", "memory", "Mi"),
    ("kubeReservedCpu", "kubeReserved", "cpu", "m"),
    ("kubeReservedPid", "kubeReserved", "pid", ""),
    ("kubeReservedStorage", "kubeReserved", "ephemeral-storage", "Gi"),
    ("systemReservedMem", "systemReserved", "memory", "Mi"),
    ("systemReservedCpu", "systemReserved", "cpu", "m"),
    ("systemReservedPid", "systemReserved", "pid", ""),
    ("systemReservedStorage", "systemReserved", "ephemeral-storage", "Gi"),
];

/// The fragment for a node template, as the client wrote it.
pub(super) fn configuration(template: &Value) -> Map<String, Value> {
    let mut config = Map::new();
    let Some(extend) = template.get("extendParam") else {
        return config;
    };
    if let Some(pods) = extend.get("maxPods").and_then(Value::as_u64) {
        config.insert("maxPods".to_owned(), Value::from(pods));
    }
    for (name, group, resource, unit) in RESERVED {
        let Some(amount) = extend.get(*name).and_then(Value::as_u64) else {
            continue;
        };
        let group = config.entry(*group).or_insert_with(|| json!({}));
        group[*resource] = Value::from(format!("{amount}{unit}"));
    }
    config
}

/// OS, private image and runtime that a template names, in words. Only a reinstallation changes them.
pub(super) fn image(template: &Value) -> Option<String> {
    let named: Vec<String> = [
        ("os", "/os"),
        ("image", "/extendParam/alpha.cce~1NodeImageID"),
        ("runtime", "/runtime/name"),
    ]
    .iter()
    .filter_map(|(word, at)| {
        let value = template.pointer(at).and_then(Value::as_str).filter(|text| !text.is_empty())?;
        Some(format!("{word} {value}"))
    })
    .collect();
    (!named.is_empty()).then(|| named.join(", "))
}

/// Labels (`k8sTags`) and taints that nodes of the pool carry.
pub(super) fn dress(template: &Value) -> Dress {
    let text = |value: &Value, key: &str| {
        value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let labels = template.get("k8sTags").and_then(Value::as_object).into_iter().flatten();
    let taints = template.get("taints").and_then(Value::as_array).into_iter().flatten();
    Dress {
        labels: labels
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect(),
        taints: taints
            .map(|taint| Taint {
                key: text(taint, "key"),
                value: text(taint, "value"),
                effect: text(taint, "effect"),
            })
            .collect(),
    }
}

/// Whether data directories are kept: `volumeConfig.volumeResetPolicy`.
pub(super) fn retains_volumes(template: &Value) -> bool {
    template.pointer("/volumeConfig/volumeResetPolicy").and_then(Value::as_str)
        == Some("retain_custom_volumes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_resources_and_pods_become_kubelet_settings() {
        let template = json!({"extendParam": {
            "maxPods": 64, "kubeReservedMem": 512, "kubeReservedCpu": 100, "systemReservedPid": 1000,
            "systemReservedStorage": 2, "alpha.cce/preInstall": "ZWNobyAx"
        }, "volumeConfig": {"volumeResetPolicy": "retain_custom_volumes"}});
        let expected = json!({
            "maxPods": 64,
            "kubeReserved": {"memory": "512Mi", "cpu": "100m"},
            "systemReserved": {"pid": "1000", "ephemeral-storage": "2Gi"},
        });
        assert_eq!(Value::Object(configuration(&template)), expected);
        assert!(retains_volumes(&template));
        let template = json!({"os": "Debian 12", "runtime": {"name": "containerd"},
            "extendParam": {"alpha.cce/NodeImageID": "img-1"}});
        assert_eq!(
            image(&template).as_deref(),
            Some("os Debian 12, image img-1, runtime containerd")
        );
        assert_eq!(image(&json!({"os": ""})), None);
        let template = json!({"k8sTags": {"a": "b"}, "taints": [{"key": "k", "value": "v", "effect": "NoExecute"}]});
        let dress = dress(&template);
        assert_eq!(dress.labels["a"], "b");
        assert_eq!(dress.taints[0].effect, "NoExecute");
        assert!(configuration(&json!({})).is_empty() && !retains_volumes(&json!({})));
    }
}
