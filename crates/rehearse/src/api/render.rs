//! The world's objects as the JSON of the Kubernetes API.

use evenkeel_engine::facts::{Owner, PodPhase, Readiness};
use evenkeel_engine::ids::{NodeName, ObjectKey};
use evenkeel_engine::place::{NodeAffinity, NodeTerm, Toleration};
use evenkeel_engine::selector::{Requirement, Selector};
use evenkeel_sim::World;
use evenkeel_sim::objects::{
    Amount, Budget, Lease, Limit, NODE_CPU_M, NODE_MEMORY, Node, Pod, Taint,
};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// `2026-01-01T00:00:00Z`, as `metav1.Time`.
pub(super) fn time(world: &World, at_ms: u64) -> String {
    wall(world.wall_at(at_ms), "%Y-%m-%dT%H:%M:%SZ")
}

fn wall(ms: i64, format: &str) -> String {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH).strftime(format).to_string()
}

/// Takes out what the real server leaves out: nulls, empty maps and empty lists.
pub(super) fn dense(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .map(|(key, value)| (key, dense(value)))
            .filter(|(_, value)| match value {
                Value::Null => false,
                Value::Object(map) => !map.is_empty(),
                Value::Array(list) => !list.is_empty(),
                _ => true,
            })
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(list) => list.into_iter().map(dense).collect(),
        other => other,
    }
}

/// Adds what single objects and watch events carry and items of a list do not.
pub(super) fn typed(api_version: &str, kind: &str, item: Value) -> Value {
    let mut map = Map::new();
    map.insert("kind".to_owned(), kind.into());
    map.insert("apiVersion".to_owned(), api_version.into());
    if let Value::Object(rest) = item {
        map.extend(rest);
    }
    Value::Object(map)
}

fn taints(node: &Node) -> Value {
    let taint = |taint: &Taint| {
        let value = (!taint.value.is_empty()).then(|| taint.value.clone());
        json!({"key": taint.key, "value": value, "effect": taint.effect})
    };
    node.taints.iter().map(taint).collect()
}

/// `status.conditions` of a Node: Ready, and what agents have set.
fn conditions(world: &World, node: &Node) -> Vec<Value> {
    let since = time(world, node.ready_since_ms);
    let (status, reason, message) = match node.ready {
        Readiness::Ready => ("True", "KubeletReady", "kubelet is posting ready status"),
        Readiness::NotReady => (
            "False",
            "KubeletNotReady",
            "container runtime status check may not have completed yet",
        ),
        Readiness::Unknown => {
            ("Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status.")
        }
    };
    let ready = json!({
        "type": "Ready",
        "status": status,
        "lastHeartbeatTime": time(world, world.now()),
        "lastTransitionTime": since,
        "reason": reason,
        "message": message,
    });
    let others = node.met.iter().map(|kind| json!({"type": kind, "status": "True"}));
    std::iter::once(ready).chain(others).collect()
}

/// A Node, as an item of a list.
pub(super) fn node(world: &World, node: &Node) -> Value {
    let conditions = conditions(world, node);
    let sizes = json!({
        "cpu": (NODE_CPU_M / 1000).to_string(),
        "memory": format!("{}Gi", NODE_MEMORY >> 30),
        "pods": node.capacity.to_string(),
    });
    let mut item = dense(json!({
        "metadata": {
            "name": node.name,
            "uid": node.uid,
            "resourceVersion": node.rv.to_string(),
            "creationTimestamp": time(world, node.created_ms),
            "annotations": node.annotations,
        },
        "spec": {
            "providerID": node.provider_id,
            "taints": taints(node),
            "unschedulable": node.unschedulable.then_some(true),
        },
        "status": {
            "capacity": sizes,
            "allocatable": sizes,
            "conditions": conditions,
            "addresses": [
                {"type": "InternalIP", "address": node.internal_ip},
                {"type": "Hostname", "address": node.name},
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
            "nodeInfo": {
                "machineID": node.machine_id,
                "systemUUID": node.system_uuid,
                "bootID": node.boot_id,
                "kernelVersion": "6.12.0",
                "osImage": "Debian GNU/Linux 13 (trixie)",
                "containerRuntimeVersion": "containerd://2.1.4",
                "kubeletVersion": node.kubelet_version,
                "kubeProxyVersion": "",
                "operatingSystem": "linux",
                "architecture": "amd64",
            },
        },
    }));
    // An empty label value is a value, and so is the empty spec of a node without taints.
    item["metadata"]["labels"] = json!(*node.labels);
    if item.get("spec").is_none() {
        item["spec"] = json!({});
    }
    item
}

/// A Node of which nothing is known, as Go writes it.
pub(super) fn no_node() -> Value {
    json!({"spec": {}, "status": {
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
        "nodeInfo": {
            "machineID": "", "systemUUID": "", "bootID": "", "kernelVersion": "", "osImage": "",
            "containerRuntimeVersion": "", "kubeletVersion": "", "kubeProxyVersion": "",
            "operatingSystem": "", "architecture": "",
        },
    }})
}

/// A Pod, as an item of a list.
pub(super) fn pod(world: &World, pod: &Pod) -> Value {
    let mut annotations = Map::new();
    if pod.owner == Owner::Static {
        annotations.insert("kubernetes.io/config.mirror".into(), pod.uid.as_str().into());
        annotations.insert("kubernetes.io/config.source".into(), "file".into());
    }
    if pod.protected {
        annotations.insert("cluster-autoscaler.kubernetes.io/safe-to-evict".into(), "false".into());
    }
    let phase = match pod.phase {
        PodPhase::Pending => "Pending",
        PodPhase::Running => "Running",
        PodPhase::Finished => "Succeeded",
        PodPhase::Unknown => "Unknown",
    };
    let yes = |value| if value { "True" } else { "False" };
    let mut conditions = Vec::new();
    if pod.evicted {
        conditions.push(json!({
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting",
        }));
    }
    // The kubelet is the first to say something of it.
    if pod.ready || pod.phase != PodPhase::Pending {
        conditions.push(json!({"type": "Ready", "status": yes(pod.ready)}));
    }
    conditions.push(json!({"type": "PodScheduled", "status": yes(pod.node.is_some())}));
    let deletion = pod.deleting_since.map(|at| time(world, at + u64::from(pod.grace_s) * 1000));
    let mut item = dense(json!({
        "metadata": {
            "name": pod.key.name,
            "namespace": pod.key.namespace,
            "uid": pod.uid,
            "resourceVersion": pod.rv.to_string(),
            "creationTimestamp": time(world, pod.created_ms),
            "deletionTimestamp": deletion,
            "deletionGracePeriodSeconds": pod.deleting_since.map(|_| pod.grace_s),
            "labels": *pod.labels,
            "annotations": annotations,
            "ownerReferences": owner(pod),
            "finalizers": pod.finalizer.then(|| json!(["rehearsal.evenkeel.io/stays"])),
        },
        "spec": {
            "containers": [{
                "name": "main",
                "image": "registry.example/app:1",
                "resources": requests(pod),
            }],
            "nodeSelector": pod.needs.selector,
            "affinity": affinity(&pod.needs.affinity),
            "tolerations": pod.needs.tolerations.iter().map(toleration).collect::<Vec<_>>(),
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": pod.grace_s,
            "nodeName": pod.node,
        },
        "status": {"phase": phase, "conditions": conditions},
    }));
    let volumes = volumes(pod);
    if !volumes.is_empty() {
        item["spec"]["volumes"] = volumes.into();
    }
    item
}

fn volumes(pod: &Pod) -> Vec<Value> {
    let scratch = pod.local_data.then(|| json!({"name": "scratch", "emptyDir": {}}));
    let claims = pod
        .claims
        .iter()
        .map(|claim| json!({"name": "data", "persistentVolumeClaim": {"claimName": claim}}));
    scratch.into_iter().chain(claims).collect()
}

fn requests(pod: &Pod) -> Value {
    let asked = &pod.needs.requests;
    let amount = |n: u64, text: String| (n > 0).then_some(text);
    json!({"requests": {
        "cpu": amount(asked.cpu_m, format!("{}m", asked.cpu_m)),
        "memory": amount(asked.memory, asked.memory.to_string()),
    }})
}

fn affinity(affinity: &NodeAffinity) -> Value {
    let Some(terms) = affinity else {
        return Value::Null;
    };
    json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": node_selector(terms)}})
}

fn node_selector(terms: &[NodeTerm]) -> Value {
    let all = |list: &[Requirement]| list.iter().map(expression).collect::<Vec<_>>();
    let term = |term: &NodeTerm| json!({"matchExpressions": all(&term.labels), "matchFields": all(&term.names)});
    json!({"nodeSelectorTerms": terms.iter().map(term).collect::<Vec<_>>()})
}

fn toleration(toleration: &Toleration) -> Value {
    let operator = if toleration.value.is_some() { "Equal" } else { "Exists" };
    json!({
        "key": toleration.key,
        "operator": operator,
        "value": toleration.value,
        "effect": toleration.effect,
    })
}

/// A PersistentVolumeClaim that is bound, as an item of a list.
pub(super) fn claim(key: &ObjectKey) -> Value {
    json!({
        "metadata": {"name": key.name, "namespace": key.namespace, "uid": format!("claim-{key}")},
        "spec": {"volumeName": volume_name(key)},
        "status": {"phase": "Bound"},
    })
}

/// The local PersistentVolume that a claim is bound to, as an item of a list.
pub(super) fn volume(key: &ObjectKey, node: &NodeName) -> Value {
    let here = Requirement::In(HOSTNAME_LABEL.to_owned(), vec![node.to_string()]);
    let term = NodeTerm { labels: vec![here], names: Vec::new() };
    dense(json!({
        "metadata": {"name": volume_name(key), "uid": format!("volume-{key}")},
        "spec": {
            "claimRef": {"namespace": key.namespace, "name": key.name},
            "local": {"path": "/srv/data"},
            "nodeAffinity": {"required": node_selector(&[term])},
        },
        "status": {"phase": "Bound"},
    }))
}

fn volume_name(key: &ObjectKey) -> String {
    format!("local-{}-{}", key.namespace, key.name)
}

/// The label that names a node.
const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";

fn owner(pod: &Pod) -> Value {
    let node = pod.node.as_ref().map_or("", NodeName::as_str);
    let made_by = pod.workload.as_ref().map_or("", |key| &key.name);
    let (api, kind, name) = match &pod.owner {
        Owner::Nobody => return Value::Null,
        Owner::DaemonSet => ("apps/v1", "DaemonSet", made_by),
        Owner::Static => ("v1", "Node", node),
        Owner::Controller(text) => match text.split_once('/') {
            Some(("Job", name)) => ("batch/v1", "Job", name),
            Some((kind, name)) => ("apps/v1", kind, name),
            None => ("apps/v1", "ReplicaSet", &**text),
        },
    };
    json!([{"apiVersion": api, "kind": kind, "name": name, "uid": format!("owner-{name}"), "controller": true}])
}

fn expression(requirement: &Requirement) -> Value {
    let (key, operator, values) = match requirement {
        Requirement::In(key, values) => (key, "In", values.clone()),
        Requirement::NotIn(key, values) => (key, "NotIn", values.clone()),
        Requirement::Exists(key) => (key, "Exists", vec![]),
        Requirement::Absent(key) => (key, "DoesNotExist", vec![]),
        Requirement::Above(key, than) => (key, "Gt", vec![than.to_string()]),
        Requirement::Below(key, than) => (key, "Lt", vec![than.to_string()]),
        Requirement::Unknown(key) => (key, "Unknown", vec![]),
    };
    json!({"key": key, "operator": operator, "values": values})
}

fn selector(selector: &Selector) -> Value {
    let Selector::All(requirements) = selector else {
        return Value::Null;
    };
    let mut labels = Map::new();
    let mut expressions = Vec::new();
    for requirement in requirements {
        match requirement {
            Requirement::In(key, values) if values.len() == 1 && !labels.contains_key(key) => {
                labels.insert(key.clone(), values[0].clone().into());
            }
            other => expressions.push(expression(other)),
        }
    }
    dense(json!({"matchLabels": labels, "matchExpressions": expressions}))
}

/// A PodDisruptionBudget, as an item of a list.
pub(super) fn budget(world: &World, budget: &Budget) -> Value {
    let amount = |amount: Amount| match amount {
        Amount::Pods(n) => json!(n),
        Amount::Percent(n) => json!(format!("{n}%")),
    };
    let (least, most) = match budget.limit {
        Limit::MinAvailable(n) => (amount(n), Value::Null),
        Limit::MaxUnavailable(n) => (Value::Null, amount(n)),
    };
    let status = &budget.status;
    let disrupted: Map<_, _> =
        status.disrupted.iter().map(|(pod, at)| (pod.clone(), time(world, *at).into())).collect();
    let (allowed, reason) =
        if status.allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let conditions = (status.observed_generation > 0).then(|| {
        json!([{
            "type": "DisruptionAllowed",
            "status": allowed,
            "observedGeneration": status.observed_generation,
            "lastTransitionTime": time(world, budget.created_ms),
            "reason": reason,
            "message": "",
        }])
    });
    let mut item = dense(json!({
        "metadata": {
            "name": budget.key.name,
            "namespace": budget.key.namespace,
            "uid": budget.uid,
            "resourceVersion": budget.rv.to_string(),
            "generation": budget.generation,
            "creationTimestamp": time(world, budget.created_ms),
        },
        "spec": {
            "minAvailable": least,
            "maxUnavailable": most,
            "unhealthyPodEvictionPolicy": budget.always_allow_unready.then_some("AlwaysAllow"),
        },
        "status": {
            "observedGeneration": (status.observed_generation > 0).then_some(status.observed_generation),
            "disruptedPods": disrupted,
            "disruptionsAllowed": status.allowed,
            "currentHealthy": status.current,
            "desiredHealthy": status.desired,
            "expectedPods": status.expected,
            "conditions": conditions,
        },
    }));
    // The empty selector covers everything and must not be lost.
    let selector = selector(&budget.selector);
    if !selector.is_null() {
        item["spec"]["selector"] = selector;
    }
    item
}

/// A Lease of kube-node-lease.
pub(super) fn lease(world: &World, node: &Node, lease: &Lease) -> Value {
    json!({
        "metadata": {
            "name": node.name,
            "namespace": "kube-node-lease",
            "uid": lease.uid,
            "resourceVersion": lease.rv.to_string(),
            // The kubelet makes it when it registers the node.
            "creationTimestamp": time(world, node.created_ms),
        },
        "spec": {
            "holderIdentity": node.name,
            "leaseDurationSeconds": 40,
            "renewTime": wall(lease.renew_wall_ms, "%Y-%m-%dT%H:%M:%S.%6fZ"),
        },
    })
}
