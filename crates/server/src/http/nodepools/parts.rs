//! What a pool's template says beside login and scripts: image, labels, taints, volumes and awaited conditions. Pure.

use crate::records::{Dress, Image, Taint};
use evenkeel_api::initialized::InitializedCondition;
use evenkeel_engine::sync::Awaited;
use evenkeel_engine::time::Span;
use serde_json::Value;

/// OS, private image and runtime that a template names. Only a reinstallation changes them.
pub(super) fn image(template: &Value) -> Option<Image> {
    let text = |at: &str| template.pointer(at).and_then(Value::as_str).map(str::to_owned);
    Image::named(&text("/os"), &text("/extendParam/alpha.cce~1NodeImageID"), &text("/runtime/name"))
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

/// Conditions that a node owes before it goes into service: `initializedConditions`, checked before.
pub(super) fn awaited<'a>(conditions: impl IntoIterator<Item = &'a String>) -> Vec<Awaited> {
    let parsed = conditions.into_iter().filter_map(|text| InitializedCondition::parse(text));
    parsed.map(|condition| of(&condition)).collect()
}

/// One of them, as the engine waits for it.
pub(super) fn of(condition: &InitializedCondition) -> Awaited {
    Awaited { condition: condition.name.clone(), limit: condition.limit_s.map(Span::secs) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn parts_of_a_template() {
        let template = json!({"os": "Debian 12", "runtime": {"name": "containerd"},
            "extendParam": {"alpha.cce/NodeImageID": "img-1"},
            "volumeConfig": {"volumeResetPolicy": "retain_custom_volumes"},
            "k8sTags": {"a": "b"}, "taints": [{"key": "k", "value": "v", "effect": "NoExecute"}]});
        assert_eq!(
            image(&template).map(|image| image.to_string()).as_deref(),
            Some("os Debian 12, image img-1, runtime containerd")
        );
        assert_eq!(image(&json!({"os": ""})), None);
        assert!(retains_volumes(&template) && !retains_volumes(&json!({})));
        let dress = dress(&template);
        assert_eq!(dress.labels["a"], "b");
        assert_eq!(dress.taints[0].effect, "NoExecute");
        let found = awaited(&["Net:15m".to_owned(), "Gpu".to_owned()]);
        assert_eq!((found[0].condition.as_str(), found[0].limit), ("Net", Some(Span::mins(15))));
        assert_eq!((found[1].condition.as_str(), found[1].limit), ("Gpu", None));
    }
}
