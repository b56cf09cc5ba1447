#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;
use evenkeel_engine::place::Resources;
use serde_json::{Value, json};

fn fact<K: Slim>(object: Value) -> Option<K::Fact> {
    serde_json::from_value::<K>(object).unwrap().fact(&Interner::default())
}

fn node_json() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "future": {"x": [1]},
        "metadata": {
            "name": "n1", "uid": "u1", "resourceVersion": "17", "creationTimestamp": null,
            "managedFields": [{"manager": "kubelet"}],
            "labels": {"topology.kubernetes.io/zone": "az1", "a": "b"},
            "annotations": {
                "evenkeel.io/claim": r#"{"job":"j1","epoch":3,"was_unschedulable":true}"#,
                "other": "x"
            }
        },
        "spec": {"unschedulable": true, "providerID": "pid://1", "taints": []},
        "status": {
            "conditions": [
                {"type": "MemoryPressure", "status": "False"},
                {"type": "Ready", "status": "True", "lastHeartbeatTime": "x"}
            ],
            "addresses": [{"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "10.0.0.5"}],
            "nodeInfo": {"machineID": "m1", "systemUUID": "S1", "kubeletVersion": "v1.36.3"},
            "images": [{"names": ["big"]}]
        }
    })
}

#[test]
fn a_node_keeps_what_matters() {
    let node = fact::<Node>(node_json()).unwrap();
    assert_eq!(node.name.as_str(), "n1");
    assert_eq!(node.uid.as_str(), "u1");
    assert_eq!(&*node.resource_version, "17");
    assert!(node.unschedulable && !node.hold && !node.control_plane);
    assert_eq!(node.ready, Readiness::Ready);
    let mark = Mark { job: "j1".into(), epoch: 3, was_unschedulable: true };
    assert_eq!(node.mark, Some(mark));
    assert_eq!(node.zone.as_deref(), Some("az1"));
    assert_eq!(node.machine_id.as_deref(), Some("m1"));
    assert_eq!(node.system_uuid.as_deref(), Some("S1"));
    assert_eq!(node.provider_id.as_deref(), Some("pid://1"));
    assert_eq!(node.internal_ip.as_deref(), Some("10.0.0.5"));
    assert_eq!(node.kubelet_version.as_deref(), Some("v1.36.3"));
    assert_eq!(node.labels["a"], "b");
}

#[test]
fn a_bare_or_odd_node_is_unknown_not_an_error() {
    let bare = fact::<Node>(json!({"metadata": {"name": "n", "uid": "u"}})).unwrap();
    assert_eq!(bare.ready, Readiness::Unknown);
    assert!(!bare.unschedulable && bare.mark.is_none() && bare.internal_ip.is_none());
    let rows = [
        (json!({"conditions": [{"type": "Ready", "status": "False"}]}), Readiness::NotReady),
        (json!({"conditions": [{"type": "Ready", "status": "Unknown"}]}), Readiness::Unknown),
        (json!({"conditions": null, "addresses": null, "nodeInfo": null}), Readiness::Unknown),
    ];
    for (status, expected) in rows {
        let object = json!({"metadata": {"name": "n", "uid": "u", "labels": null, "annotations": null},
            "spec": {}, "status": status});
        assert_eq!(fact::<Node>(object).unwrap().ready, expected);
    }
    let marked = json!({"metadata": {"name": "n", "uid": "u",
        "labels": {"node-role.kubernetes.io/control-plane": ""},
        "annotations": {"evenkeel.io/claim": "not json", "evenkeel.io/hold": ""}}});
    let node = fact::<Node>(marked).unwrap();
    assert!(node.mark.is_none() && node.hold && node.control_plane);
    assert!(fact::<Node>(json!({"metadata": {}})).is_none());
}

fn pod(metadata: Value, spec: Value, status: Value) -> PodSeen {
    let mut meta = json!({"name": "p", "namespace": "d", "uid": "u"});
    meta.as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
    fact::<Pod>(json!({"metadata": meta, "spec": spec, "status": status})).unwrap()
}

#[test]
fn owners_are_told_apart() {
    let owned = |kind: &str, controller: Value| json!({"ownerReferences": [{"kind": kind, "name": "x", "controller": controller}]});
    let rows = [
        (json!({}), Owner::Nobody),
        (json!({"ownerReferences": null}), Owner::Nobody),
        (owned("ReplicaSet", json!(true)), Owner::Controller("ReplicaSet/x".into())),
        (owned("ReplicaSet", json!(false)), Owner::Nobody),
        (owned("ReplicaSet", Value::Null), Owner::Nobody),
        (owned("DaemonSet", json!(true)), Owner::DaemonSet),
        (owned("Node", json!(true)), Owner::Static),
        (json!({"annotations": {"kubernetes.io/config.mirror": "h"}}), Owner::Static),
    ];
    for (metadata, expected) in rows {
        assert_eq!(pod(metadata.clone(), json!({}), json!({})).owner, expected, "{metadata}");
    }
}

#[test]
fn phases_grace_and_protection() {
    for (phase, expected) in [
        (json!("Pending"), PodPhase::Pending),
        (json!("Running"), PodPhase::Running),
        (json!("Succeeded"), PodPhase::Finished),
        (json!("Failed"), PodPhase::Finished),
        (json!("Unknown"), PodPhase::Unknown),
        (Value::Null, PodPhase::Pending),
    ] {
        assert_eq!(pod(json!({}), json!({}), json!({"phase": phase})).phase, expected);
    }
    let deleting =
        json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 5});
    let rows = [
        (json!({}), json!({}), 30, false),
        (json!({}), json!({"terminationGracePeriodSeconds": 600}), 600, false),
        (deleting, json!({"terminationGracePeriodSeconds": 600}), 5, true),
        (json!({}), json!({"terminationGracePeriodSeconds": -1}), 0, false),
    ];
    for (metadata, spec, grace, deleting) in rows {
        let p = pod(metadata, spec, json!({}));
        assert_eq!((p.grace_s, p.deleting), (grace, deleting));
    }
    for (note, value, expected) in [
        ("karpenter.sh/do-not-disrupt", "true", true),
        ("karpenter.sh/do-not-disrupt", "false", false),
        ("cluster-autoscaler.kubernetes.io/safe-to-evict", "false", true),
        ("cluster-autoscaler.kubernetes.io/safe-to-evict", "true", false),
    ] {
        let p = pod(json!({"annotations": {note: value}}), json!({}), json!({}));
        assert_eq!(p.protected, expected, "{note}={value}");
    }
}

#[test]
fn volumes_place_and_readiness() {
    let spec = json!({"nodeName": "n1", "volumes": [{"name": "a", "configMap": {}}, {"name": "b", "emptyDir": {}}]});
    let p = pod(
        json!({"labels": {"app": "db"}}),
        spec,
        json!({"conditions": [{"type": "Ready", "status": "True"}]}),
    );
    assert!(p.local_data && p.ready);
    assert_eq!(p.node.unwrap().as_str(), "n1");
    assert_eq!(p.labels["app"], "db");
    let p = pod(json!({}), json!({"nodeName": "", "volumes": null}), json!({}));
    assert!(p.node.is_none() && !p.local_data && !p.ready);
    let without_status: PodSeen =
        fact::<Pod>(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}})).unwrap();
    assert_eq!(without_status.phase, PodPhase::Pending);
}

#[test]
fn budgets_and_their_selectors() {
    let budget = fact::<Budget>(json!({
        "metadata": {"name": "b", "namespace": "d", "resourceVersion": "5", "generation": 2},
        "spec": {"minAvailable": "50%", "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": {"app": "db"}, "matchExpressions": [
                {"key": "t", "operator": "NotIn", "values": ["x"]}, {"key": "e", "operator": "Exists"},
                {"key": "a", "operator": "DoesNotExist"}, {"key": "g", "operator": "Gt", "values": ["1"]}]}},
        "status": {"observedGeneration": 2, "disruptionsAllowed": 1, "currentHealthy": 3, "desiredHealthy": 2,
            "expectedPods": 3, "disruptedPods": {"p1": "2026-01-01T00:00:00Z"}}
    }))
    .unwrap();
    assert_eq!((budget.allowed, budget.healthy, budget.desired, budget.expected), (1, 3, 2, 3));
    assert_eq!((budget.disrupted, budget.observed, budget.always_allow_unready), (1, true, true));
    let expected = vec![
        Requirement::In("app".into(), vec!["db".into()]),
        Requirement::NotIn("t".into(), vec!["x".into()]),
        Requirement::Exists("e".into()),
        Requirement::Absent("a".into()),
        Requirement::Unknown("Gt".into()),
    ];
    assert_eq!(budget.selector, Selector::All(expected));

    let rows = [
        (json!({"spec": {"selector": {}}}), Selector::All(vec![])),
        (json!({"spec": {"selector": null}}), Selector::Nothing),
        (json!({}), Selector::Nothing),
    ];
    for (mut object, expected) in rows {
        object["metadata"] = json!({"name": "b", "namespace": "d", "generation": 1});
        let budget = fact::<Budget>(object).unwrap();
        assert_eq!(budget.selector, expected);
        assert!(!budget.observed && budget.allowed == 0, "no status yet");
    }
}

#[test]
fn a_page_without_items_is_empty() {
    let page: Page<Pod> = serde_json::from_value(
        json!({"metadata": {"resourceVersion": "9", "continue": ""}, "items": null}),
    )
    .unwrap();
    assert!(page.items.is_none());
    assert_eq!(page.metadata.resource_version, "9");
}

#[test]
fn what_a_pod_asks_of_a_node_is_added_up_as_the_scheduler_does() {
    let asks = |cpu: &str, memory: &str| json!({"resources": {"requests": {"cpu": cpu, "memory": memory}}});
    let sidecar = json!({"restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}});
    let rows = [
        (json!({}), (0, 0)),
        (json!({"containers": [asks("100m", "1Mi"), asks("0.2", "1Mi")]}), (300, 2 << 20)),
        (
            json!({"containers": [asks("100m", "4Mi")], "initContainers": [asks("1", "1Mi")]}),
            (1000, 4 << 20),
        ),
        (
            json!({"containers": [asks("100m", "0")], "initContainers": [sidecar, asks("300m", "0")],
                   "overhead": {"cpu": "10m", "memory": "1k"}}),
            (360, 1000),
        ),
        (
            json!({"containers": [asks("100m", "1Mi")], "resources": {"requests": {"cpu": "2"}}}),
            (2000, 1 << 20),
        ),
        (json!({"containers": [asks("nonsense", "1Mi")], "initContainers": null}), (0, 1 << 20)),
    ];
    for (spec, (cpu_m, memory)) in rows {
        let requests = pod(json!({}), spec.clone(), json!({})).needs.requests;
        assert_eq!((requests.cpu_m, requests.memory, requests.pods), (cpu_m, memory, 1), "{spec}");
    }
}

#[test]
fn where_a_pod_may_run_follows_selector_affinity_and_tolerations() {
    let node = |labels: Value, taints: Value| {
        let node = json!({"metadata": {"name": "n1", "uid": "u", "labels": labels},
            "spec": {"taints": taints},
            "status": {"allocatable": {"cpu": "7900m", "memory": "1Gi", "pods": "110"}}});
        fact::<Node>(node).unwrap()
    };
    let plain = node(json!({"disk": "ssd", "gen": "4"}), json!([]));
    assert_eq!(plain.allocatable, Resources { cpu_m: 7900, memory: 1 << 30, pods: 110 });
    let required = |terms: Value| {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        {"nodeSelectorTerms": terms}}}})
    };
    let expression = |key: &str, operator: &str, values: Value| json!({"key": key, "operator": operator, "values": values});
    let rows = [
        (json!({}), true),
        (json!({"nodeSelector": {"disk": "ssd"}}), true),
        (json!({"nodeSelector": {"disk": "hdd"}}), false),
        (required(json!([{"matchExpressions": [expression("disk", "In", json!(["ssd"]))]}])), true),
        (required(json!([{"matchExpressions": [expression("gen", "Gt", json!(["4"]))]}])), false),
        (required(json!([{"matchExpressions": [expression("gen", "Lt", json!(["5"]))]}])), true),
        (
            required(
                json!([{}, {"matchExpressions": [expression("gpu", "DoesNotExist", json!(null))]}]),
            ),
            true,
        ),
        (required(json!([{}])), false),
        (
            required(json!([{"matchFields": [expression("metadata.name", "In", json!(["n2"]))]}])),
            false,
        ),
        (
            required(json!([{"matchFields": [expression("metadata.name", "In", json!(["n1"]))]}])),
            true,
        ),
    ];
    for (spec, expected) in rows {
        let needs = pod(json!({}), spec.clone(), json!({})).needs;
        assert_eq!(needs.accepts(&plain), expected, "{spec}");
    }
    let tainted =
        |effect: &str| node(json!({}), json!([{"key": "gpu", "value": "a", "effect": effect}]));
    let tolerating = |t: Value| json!({"tolerations": [t]});
    let rows = [
        (tainted("NoSchedule"), json!({}), false),
        (tainted("PreferNoSchedule"), json!({}), true),
        (tainted("NoExecute"), tolerating(json!({"operator": "Exists"})), true),
        (tainted("NoSchedule"), tolerating(json!({"key": "gpu", "value": "a"})), true),
        (tainted("NoSchedule"), tolerating(json!({"key": "gpu", "value": "b"})), false),
        (
            tainted("NoSchedule"),
            tolerating(json!({"key": "gpu", "operator": "Exists", "effect": "NoExecute"})),
            false,
        ),
        (
            node(
                json!({}),
                json!([{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]),
            ),
            json!({}),
            true,
        ),
    ];
    for (node, spec, expected) in rows {
        let needs = pod(json!({}), spec.clone(), json!({})).needs;
        assert_eq!(needs.accepts(&node), expected, "{spec} {:?}", node.taints);
    }
}

#[test]
fn claims_are_known_by_name_and_pods_of_a_workload_share_their_needs() {
    let spec = json!({"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-0"}},
        {"name": "tmp", "ephemeral": {"volumeClaimTemplate": {}}}, {"name": "s", "secret": {}}]});
    let names: Vec<_> =
        pod(json!({}), spec, json!({})).claims.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["data-db-0", "p-tmp"]);
    let interner = Interner::default();
    let one = |name: &str| {
        let object = json!({"metadata": {"name": name, "uid": name, "namespace": "d"},
            "spec": {"containers": [{"resources": {"requests": {"cpu": "1"}}}]}});
        serde_json::from_value::<Pod>(object).unwrap().fact(&interner).unwrap()
    };
    assert!(std::sync::Arc::ptr_eq(&one("a").needs, &one("b").needs));
}
