//! The world's objects as the JSON of the Kubernetes API.

use evenkeel_engine::facts::{Owner, PodPhase, Readiness};
use evenkeel_engine::ids::NodeName;
use evenkeel_engine::selector::{Requirement, Selector};
use evenkeel_sim::World;
use evenkeel_sim::objects::{Amount, Budget, Lease, Limit, Node, Pod, Taint};
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

/// A Node, as an item of a list.
pub(super) fn node(world: &World, node: &Node) -> Value {
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
    let sizes = json!({"cpu": "8", "memory": "32Gi", "pods": node.capacity.to_string()});
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
            "conditions": [{
                "type": "Ready",
                "status": status,
                "lastHeartbeatTime": time(world, world.now()),
                "lastTransitionTime": since,
                "reason": reason,
                "message": message,
            }],
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
            "containers": [{"name": "main", "image": "registry.example/app:1"}],
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": pod.grace_s,
            "nodeName": pod.node,
        },
        "status": {"phase": phase, "conditions": conditions},
    }));
    if pod.local_data {
        item["spec"]["volumes"] = json!([{"name": "scratch", "emptyDir": {}}]);
    }
    item
}

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

fn selector(selector: &Selector) -> Value {
    let Selector::All(requirements) = selector else {
        return Value::Null;
    };
    let mut labels = Map::new();
    let mut expressions = Vec::new();
    for requirement in requirements {
        let (key, operator, values) = match requirement {
            Requirement::In(key, values) if values.len() == 1 && !labels.contains_key(key) => {
                labels.insert(key.clone(), values[0].clone().into());
                continue;
            }
            Requirement::In(key, values) => (key, "In", values.clone()),
            Requirement::NotIn(key, values) => (key, "NotIn", values.clone()),
            Requirement::Exists(key) => (key, "Exists", vec![]),
            Requirement::Absent(key) => (key, "DoesNotExist", vec![]),
            Requirement::Unknown(key) => (key, "Unknown", vec![]),
        };
        expressions.push(json!({"key": key, "operator": operator, "values": values}));
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
