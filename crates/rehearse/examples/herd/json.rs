//! The objects as JSON, of the size that real ones have.

use crate::herd::{Budget, Node, Pod};
use serde_json::{Value, json};
use std::sync::LazyLock;

/// What a pod's JSON is filled up to, in bytes: a usual pod with its managedFields.
pub const POD_BYTES: usize = 4096;
const BORN: &str = "2026-01-01T00:00:00Z";

pub fn node_name(index: usize) -> String {
    format!("node-{index:05}")
}

pub fn node_index(name: &str) -> Option<usize> {
    name.strip_prefix("node-")?.parse().ok()
}

pub fn pod_name(id: u64, app: usize) -> String {
    format!("app-{app:05}-{id:08}")
}

pub fn pod_id(name: &str) -> Option<u64> {
    name.rsplit_once('-')?.1.parse().ok()
}

pub fn pod_uid(id: u64) -> String {
    format!("00000000-0000-4000-8000-{id:012}")
}

pub fn node(index: usize, node: &Node) -> Value {
    let name = node_name(index);
    let sizes = json!({"cpu": "32", "memory": "128Gi", "pods": "110"});
    let mut spec = json!({"providerID": format!("played://{name}")});
    if node.unschedulable {
        spec["unschedulable"] = true.into();
    }
    if !node.taints.is_null() {
        spec["taints"] = node.taints.clone();
    }
    json!({
        "kind": "Node", "apiVersion": "v1",
        "metadata": {
            "name": name, "uid": format!("10000000-0000-4000-8000-{index:012}"),
            "resourceVersion": node.rv.to_string(), "creationTimestamp": BORN, "annotations": node.annotations,
            "labels": {
                "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
                "topology.kubernetes.io/zone": format!("zone-{}", index % 3),
            },
        },
        "spec": spec,
        "status": {
            "capacity": sizes, "allocatable": sizes,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
            "addresses": [{"type": "InternalIP", "address": format!("127.78.{}.{}", index / 250, index % 250 + 1)}],
            "nodeInfo": {
                "machineID": format!("{index:032x}"), "systemUUID": format!("{index:032x}"), "bootID": "b",
                "kernelVersion": "6.12.0", "osImage": "Debian GNU/Linux 13 (trixie)", "operatingSystem": "linux",
                "containerRuntimeVersion": "containerd://2.1.4", "kubeletVersion": "v1.36.3", "architecture": "amd64",
            },
        },
    })
}

/// What the API server keeps of who set which field; a controller has to skip it.
static FIELDS: LazyLock<Value> = LazyLock::new(|| {
    let mut fields = serde_json::Map::new();
    for index in 0..48 {
        fields.insert(
            format!("f:field-{index:02}"),
            json!({".": {}, "f:mountPath": {}, "f:name": {}}),
        );
    }
    json!([{
        "manager": "kubelet", "operation": "Update", "apiVersion": "v1", "time": BORN,
        "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": fields}, "subresource": "status",
    }])
});

pub fn pod(pod: &Pod) -> Value {
    let app = format!("app-{:05}", pod.app);
    let yes = |value| if value { "True" } else { "False" };
    let mut object = json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {
            "name": pod_name(pod.id, pod.app), "namespace": "default", "uid": pod_uid(pod.id),
            "resourceVersion": pod.rv.to_string(), "creationTimestamp": BORN,
            "labels": {"app": app, "pod-template-hash": "5d8c7f9b64"},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{app}-5d8c7f9b64"),
                "uid": format!("20000000-0000-4000-8000-{:012}", pod.app), "controller": true,
            }],
            "managedFields": *FIELDS,
        },
        "spec": {
            "nodeName": node_name(pod.node), "terminationGracePeriodSeconds": 30, "restartPolicy": "Always",
            "containers": [{
                "name": "main", "image": "registry.example/app:1",
                "resources": {"requests": {"cpu": "100m", "memory": "268435456"}},
            }],
            "tolerations": [
                {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
                {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
            ],
        },
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": yes(pod.ready)}, {"type": "PodScheduled", "status": "True"}],
        },
    });
    if pod.deleting {
        object["metadata"]["deletionTimestamp"] = BORN.into();
        object["metadata"]["deletionGracePeriodSeconds"] = 30.into();
    }
    let missing = POD_BYTES.saturating_sub(object.to_string().len() + r#","env":"""#.len());
    object["spec"]["containers"][0]["env"] = "x".repeat(missing).into();
    object
}

pub fn budget(app: usize, budget: &Budget, replicas: usize) -> Value {
    let out = budget.out.len();
    json!({
        "kind": "PodDisruptionBudget", "apiVersion": "policy/v1",
        "metadata": {
            "name": format!("app-{app:05}"), "namespace": "default", "generation": 1,
            "uid": format!("30000000-0000-4000-8000-{app:012}"),
            "resourceVersion": budget.rv.to_string(), "creationTimestamp": BORN,
        },
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": format!("app-{app:05}")}}},
        "status": {
            "observedGeneration": 1, "disruptionsAllowed": 1_usize.saturating_sub(out),
            "currentHealthy": replicas - out.min(replicas), "desiredHealthy": replicas - 1, "expectedPods": replicas,
        },
    })
}
