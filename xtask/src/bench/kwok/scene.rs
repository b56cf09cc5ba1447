//! The cluster that is rolled: nodes, services and budgets, placed by a seed and so the same for both sides.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Setting;
use super::scale::Scale;
use crate::run::wait_for;
use crate::testbed::Testbed;

/// The stateful services: six of 20 replicas, setting C of `rollout --sim`.
pub const HEAVY: (usize, usize) = (6, 20);
/// The others, as there: they have no budget here, so that the six are what binds.
const LIGHT: (usize, usize) = (40, 8);
/// Half of a service may be away: such a budget is there, and refuses nothing.
const LOOSE: usize = HEAVY.1 / 2;
/// Ten times what 200 nodes with 440 pods take on two busy cores.
const READY_LIMIT: Duration = Duration::from_mins(3);
/// Between two looks at all pods: each costs the API server some milliseconds.
const LOOK: Duration = Duration::from_millis(500);

/// One service.
struct Service {
    name: String,
    replicas: usize,
    ready: Duration,
    heavy: bool,
}

/// Pods of a budget that may be away at once.
pub fn at_once(setting: Setting) -> usize {
    match setting {
        Setting::Bind => 1,
        Setting::Free => LOOSE,
    }
}

/// The name of a node, from 0. Sorted by name they stand in this order.
pub fn node(number: usize) -> String {
    format!("node-{number:03}")
}

/// Replicas of each stateful service; all of them on different nodes.
pub fn heavy_replicas(nodes: usize) -> usize {
    HEAVY.1.min(nodes)
}

/// Makes the scene and waits until nothing in it moves any more; the number of its pods.
pub fn build(
    bed: &Testbed,
    scale: Scale,
    nodes: usize,
    setting: Setting,
    seed: u64,
) -> Result<usize> {
    create(bed, (0..nodes).map(|n| node_object(&node(n))).collect())?;
    create(bed, (0..nodes).map(|n| lease(&node(n))).collect())?;
    wait_for("the nodes to be Ready", READY_LIMIT, || {
        std::thread::sleep(LOOK);
        let ready = bed.ready_nodes()?;
        Ok((ready.values().filter(|status| *status == "True").count() == nodes).then_some(()))
    })?;
    let services = services(scale, nodes);
    let mut dice = Dice(seed);
    let mut pods = Vec::new();
    for service in &services {
        for (replica, place) in dice.places(nodes, service.replicas).into_iter().enumerate() {
            pods.push(first_pod(service, replica, &node(place), scale));
        }
    }
    let count = pods.len();
    create(bed, pods)?;
    wait_for("the pods to be ready", READY_LIMIT, || {
        std::thread::sleep(LOOK);
        Ok((ready_pods(bed)? == (count, count)).then_some(()))
    })?;
    // Only now: a controller that does not see them yet would make more.
    create(bed, services.iter().map(|service| owner(service, scale)).collect())?;
    let heavy = services.iter().filter(|service| service.heavy);
    create(bed, heavy.map(|service| budget(&service.name, at_once(setting))).collect())?;
    wait_for("controllers and budgets to settle", READY_LIMIT, || {
        std::thread::sleep(LOOK);
        settled(bed, services.len(), heavy_replicas(nodes), at_once(setting))
    })?;
    ensure!(ready_pods(bed)? == (count, count), "the owners made more pods instead of adopting");
    Ok(count)
}

fn services(scale: Scale, nodes: usize) -> Vec<Service> {
    let heavy = (0..HEAVY.0).map(|n| Service {
        name: format!("heavy-{n}"),
        replicas: heavy_replicas(nodes),
        ready: scale.heavy_ready(),
        heavy: true,
    });
    let light = (0..LIGHT.0).map(|n| Service {
        name: format!("light-{n}"),
        replicas: LIGHT.1.min(nodes),
        ready: scale.light_ready(),
        heavy: false,
    });
    heavy.chain(light).collect()
}

fn create(bed: &Testbed, objects: Vec<Value>) -> Result<()> {
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
    let made = bed.kubectl_as(
        "admin",
        &["create", "--validate=false", "-f", "-"],
        list.to_string().as_bytes(),
    );
    made.map(drop).context("make the scene")
}

fn get(bed: &Testbed, path: &str) -> Result<Vec<Value>> {
    let mut list: Value = serde_json::from_str(&bed.kubectl(&["get", "--raw", path])?)?;
    match list["items"].take() {
        Value::Array(items) => Ok(items),
        _ => Ok(Vec::new()),
    }
}

/// How many pods there are, and how many of them are ready.
fn ready_pods(bed: &Testbed) -> Result<(usize, usize)> {
    let pods = get(bed, "/api/v1/namespaces/default/pods")?;
    let ready = |pod: &&Value| {
        let conditions = pod["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    Ok((pods.len(), pods.iter().filter(ready).count()))
}

fn settled(bed: &Testbed, owners: usize, healthy: usize, allowed: usize) -> Result<Option<()>> {
    let sets = get(bed, "/apis/apps/v1/namespaces/default/replicasets")?;
    let full = |set: &Value| set["status"]["readyReplicas"] == set["spec"]["replicas"];
    let budgets = get(bed, "/apis/policy/v1/namespaces/default/poddisruptionbudgets")?;
    let open = |budget: &Value| {
        let status = &budget["status"];
        status["currentHealthy"] == healthy && status["disruptionsAllowed"] == allowed
    };
    let all = sets.len() == owners && sets.iter().all(full);
    Ok((all && budgets.len() == HEAVY.0 && budgets.iter().all(open)).then_some(()))
}

fn node_object(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": name,
            "labels": { "kubernetes.io/hostname": name },
            // A kubelet says that it is alive every 5 min while nothing changes; the test bed's hosts
            // say it every 2 to 5 s, which would be most of the cluster's work here.
            "annotations": {
                "kwok.x-k8s.io/node": "fake",
                "testbed.evenkeel.io/heartbeat-from": "60s",
                "testbed.evenkeel.io/heartbeat-to": "90s",
            },
        },
    })
}

/// Renewed only when its node has come back: nothing else here looks at it.
fn lease(name: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": name, "namespace": "kube-node-lease" },
        "spec": {
            "holderIdentity": name, "leaseDurationSeconds": 40,
            "renewTime": "2026-01-01T00:00:00.000000Z",
        },
    })
}

fn template(service: &Service, scale: Scale) -> Value {
    json!({
        "metadata": {
            "labels": { "app": service.name },
            "annotations": {
                "testbed.evenkeel.io/ready-after": format!("{}ms", service.ready.as_millis()),
            },
        },
        "spec": {
            "terminationGracePeriodSeconds": scale.grace_s(),
            "containers": [{ "name": "main", "image": "played" }],
            "topologySpreadConstraints": [{
                "maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": { "matchLabels": { "app": service.name } },
            }],
        },
    })
}

/// A pod where the seed wants it; its service's ReplicaSet adopts it. It need not wait to be ready.
fn first_pod(service: &Service, replica: usize, node: &str, scale: Scale) -> Value {
    let mut pod = template(service, scale);
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["name"] = json!(format!("{}-first-{replica}", service.name));
    pod["metadata"]["annotations"] = json!({});
    pod["spec"]["nodeName"] = json!(node);
    pod
}

fn owner(service: &Service, scale: Scale) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": { "name": service.name },
        "spec": {
            "replicas": service.replicas,
            "selector": { "matchLabels": { "app": service.name } },
            "template": template(service, scale),
        },
    })
}

fn budget(name: &str, at_once: usize) -> Value {
    json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": { "name": name },
        "spec": {
            "selector": { "matchLabels": { "app": name } },
            "maxUnavailable": at_once,
        },
    })
}

/// splitmix64 (Steele, Lea, Flood 2014): enough to place pods, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// So many different nodes.
    fn places(&mut self, nodes: usize, count: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..nodes).collect();
        for at in 0..count {
            let other = at + (self.roll() % (nodes - at) as u64) as usize;
            all.swap(at, other);
        }
        all.truncate(count);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_stand_on_different_nodes_and_a_seed_tells_where() {
        let places = Dice(7).places(100, 20);
        let mut different = places.clone();
        different.sort_unstable();
        different.dedup();
        assert_eq!(different.len(), 20);
        assert_eq!(places, Dice(7).places(100, 20));
        assert_ne!(places, Dice(8).places(100, 20));
    }
}
