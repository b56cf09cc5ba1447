//! From a pool's parameters to what kubelet and runtime read on its hosts. Pure.
//!
//! Three places say something, the later ones win: `extendParam`, `configurationsOverride` of the template, and what was
//! set with `PUT .../configuration`.

use crate::records::NodeConfig;
use evenkeel_api::configuration::{self, Settings};
use serde_json::{Map, Value, json};

/// `extendParam` names, their place in the KubeletConfiguration, and the unit that CCE counts in (its API page).
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

/// Where a parameter stands in the KubeletConfiguration.
enum Place {
    /// A field that takes the value as it is.
    Field(&'static str),
    /// A field that takes an amount in MiB.
    Mebibytes(&'static str),
    /// The memory of a reservation, in MiB.
    Reserved(&'static str),
}

fn place(name: &str) -> Option<Place> {
    Some(match name {
        "cpu-manager-policy" => Place::Field("cpuManagerPolicy"),
        "kube-api-qps" => Place::Field("kubeAPIQPS"),
        "kube-api-burst" => Place::Field("kubeAPIBurst"),
        "max-pods" => Place::Field("maxPods"),
        "pod-pids-limit" => Place::Field("podPidsLimit"),
        "event-qps" => Place::Field("eventRecordQPS"),
        "event-burst" => Place::Field("eventBurst"),
        "allowed-unsafe-sysctls" => Place::Field("allowedUnsafeSysctls"),
        "topology-manager-policy" => Place::Field("topologyManagerPolicy"),
        "topology-manager-scope" => Place::Field("topologyManagerScope"),
        "resolv-conf" => Place::Field("resolvConf"),
        "runtime-request-timeout" => Place::Field("runtimeRequestTimeout"),
        "serialize-image-pulls" => Place::Field("serializeImagePulls"),
        "registry-pull-qps" => Place::Field("registryPullQPS"),
        "registry-burst" => Place::Field("registryBurst"),
        "container-log-max-files" => Place::Field("containerLogMaxFiles"),
        "container-log-max-size" => Place::Mebibytes("containerLogMaxSize"),
        "image-gc-high-threshold" => Place::Field("imageGCHighThresholdPercent"),
        "image-gc-low-threshold" => Place::Field("imageGCLowThresholdPercent"),
        "kube-reserved-mem" => Place::Reserved("kubeReserved"),
        "system-reserved-mem" => Place::Reserved("systemReserved"),
        _ => return None,
    })
}

/// Directives of containerd's systemd unit; its containers inherit them.
fn directive(name: &str) -> Option<&'static str> {
    match name {
        "limitcore" => Some("LimitCORE"),
        "default-ulimit-nofile" => Some("LimitNOFILE"),
        _ => None,
    }
}

/// What goes to the hosts, for a template as the client wrote it.
pub(super) fn of(template: &Value, settings: &Settings) -> NodeConfig {
    let mut config = NodeConfig { kubelet: extended(template), ..NodeConfig::default() };
    let overrides = configuration::overrides(&template["configurationsOverride"]);
    for settings in [&overrides, settings] {
        for (name, value) in settings.get("kubelet").into_iter().flatten() {
            set(&mut config.kubelet, name, value);
        }
        for (name, value) in settings.get("containerd").into_iter().flatten() {
            if let (Some(directive), Some(text)) = (directive(name), value.as_str()) {
                config.containerd.insert(directive.to_owned(), text.to_owned());
            }
        }
    }
    config
}

/// Whether the kubelet would refuse to start: its static CPU manager needs CPUs that are set aside.
pub(super) fn lacks_reserved_cpu(config: &NodeConfig) -> bool {
    let kubelet = &config.kubelet;
    let reserved = |group: &str| kubelet.get(group).is_some_and(|group| group.get("cpu").is_some());
    kubelet.get("cpuManagerPolicy").and_then(Value::as_str) == Some("static")
        && !reserved("kubeReserved")
        && !reserved("systemReserved")
}

fn set(kubelet: &mut Map<String, Value>, name: &str, value: &Value) {
    match place(name) {
        Some(Place::Field(field)) => {
            kubelet.insert(field.to_owned(), value.clone());
        }
        Some(Place::Mebibytes(field)) => {
            kubelet.insert(field.to_owned(), Value::from(format!("{value}Mi")));
        }
        Some(Place::Reserved(group)) => reserve(kubelet, group, "memory", format!("{value}Mi")),
        None => {}
    }
}

fn reserve(kubelet: &mut Map<String, Value>, group: &str, resource: &str, amount: String) {
    kubelet.entry(group).or_insert_with(|| json!({}))[resource] = Value::from(amount);
}

fn extended(template: &Value) -> Map<String, Value> {
    let mut kubelet = Map::new();
    let Some(extend) = template.get("extendParam") else {
        return kubelet;
    };
    // Terraform sends 0 for what it does not set.
    if let Some(pods) = extend.get("maxPods").and_then(Value::as_u64).filter(|pods| *pods > 0) {
        kubelet.insert("maxPods".to_owned(), Value::from(pods));
    }
    for (name, group, resource, unit) in RESERVED {
        if let Some(amount) = extend.get(*name).and_then(Value::as_u64) {
            reserve(&mut kubelet, group, resource, format!("{amount}{unit}"));
        }
    }
    kubelet
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_api::configuration::PARAMETERS;
    use std::collections::BTreeMap;

    fn settings(package: &str, items: &[(&str, Value)]) -> Settings {
        let items = items.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        Settings::from([(package.to_owned(), items.collect::<BTreeMap<_, _>>())])
    }

    #[test]
    fn the_later_place_wins() {
        let template = json!({
            "extendParam": {
                "maxPods": 64, "kubeReservedMem": 512, "kubeReservedCpu": 100, "systemReservedPid": 1000,
                "systemReservedStorage": 2, "alpha.cce/preInstall": "ZWNobyAx",
            },
            "configurationsOverride": [{"name": "kubelet", "configurations": [
                {"name": "max-pods", "value": 65}, {"name": "event-qps", "value": 7}]}],
        });
        let set = settings(
            "kubelet",
            &[
                ("max-pods", json!(66)),
                ("kube-reserved-mem", json!(1024)),
                ("container-log-max-size", json!(20)),
            ],
        );
        let expected = json!({
            "maxPods": 66,
            "eventRecordQPS": 7,
            "containerLogMaxSize": "20Mi",
            "kubeReserved": {"memory": "1024Mi", "cpu": "100m"},
            "systemReserved": {"pid": "1000", "ephemeral-storage": "2Gi"},
        });
        assert_eq!(Value::Object(of(&template, &set).kubelet), expected);
        assert_eq!(
            of(&json!({"extendParam": {"maxPods": 0}}), &Settings::new()),
            NodeConfig::default()
        );
    }

    #[test]
    fn every_parameter_has_its_place() {
        for parameter in PARAMETERS {
            let known = place(parameter.name).is_some() || directive(parameter.name).is_some();
            assert!(known, "{} reaches no host", parameter.name);
        }
    }

    #[test]
    fn a_static_cpu_manager_needs_reserved_cpus() {
        let set = settings("kubelet", &[("cpu-manager-policy", json!("static"))]);
        assert!(lacks_reserved_cpu(&of(&json!({}), &set)));
        let template = json!({"extendParam": {"systemReservedCpu": 200}});
        assert!(!lacks_reserved_cpu(&of(&template, &set)));
        assert!(!lacks_reserved_cpu(&NodeConfig::default()));
    }
}
