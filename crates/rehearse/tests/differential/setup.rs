//! The same small cluster on both sides: the played one is built first, and the real one is made like it.

use crate::bed::Bed;
use crate::pair::{LIMIT, MERGE, Pair, Req, Side, get, post, send};
use evenkeel_engine::ids::ObjectKey;
use evenkeel_engine::selector::Selector;
use evenkeel_rehearse::{Rehearsal, RehearseOptions};
use evenkeel_sim::objects::{Amount, Kind, Limit, Workload};
use evenkeel_sim::scenario::BudgetSpec;
use evenkeel_sim::{Scenario, World};
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

/// Budgets and pods of the eviction table: name, pods, least that must be available.
const GUARDED: &[(&str, u32, u32)] = &[
    ("tight", 2, 2),
    ("loose", 2, 1),
    ("spare", 2, 1),
    ("short", 2, 2),
    ("always", 2, 2),
    ("pending", 1, 1),
    ("finished", 1, 1),
    ("leaving", 2, 1),
    ("burned", 2, 1),
    ("dry", 2, 1),
    ("fresh", 2, 1),
    ("crowded", 2, 1),
    ("enough", 2, 1),
];

pub struct Both {
    pub pair: Pair,
    /// The administrator of the real cluster.
    pub admin: Side,
    pub bed: Bed,
    rehearsal: Rehearsal,
}

fn scenario() -> Scenario {
    let mut scenario = Scenario::new(1, 3);
    scenario.capacity = 100;
    // On the real side: KWOK leaves a node with this label alone.
    scenario.labels.insert("evenkeel.io/testbed-host".to_owned(), "none".to_owned());
    let bare = |namespace: &str, name: &str, pods| {
        let mut workload = Workload::new(name, Kind::Bare, pods);
        workload.key = ObjectKey::new(namespace, name);
        // Both sides use the whole grace period, so that a Terminating pod can be looked at.
        workload.stop_ms = 30_000;
        workload.start_ms = 100;
        workload
    };
    let available = |n| Limit::MinAvailable(Amount::Pods(n));
    for (name, pods, least) in GUARDED {
        scenario = scenario.with(bare("default", name, *pods)).guarded(name, available(*least));
    }
    for spec in &mut scenario.budgets {
        spec.always_allow_unready = &*spec.key.name == "always";
    }
    let mut quick = bare("default", "quick", 2);
    (quick.grace_s, quick.stop_ms) = (1, 1000);
    let mut scratch = bare("default", "scratch", 1);
    scratch.local_data = true;
    scenario = scenario.with(bare("default", "plain", 3)).with(quick).with(scratch);
    scenario = scenario.with(bare("default", "twice", 1)).guarded("twice", available(1));
    let budget = |namespace: &str, name: &str, selector: Selector| BudgetSpec {
        key: ObjectKey::new(namespace, name),
        selector,
        limit: available(1),
        always_allow_unready: false,
    };
    let twice = scenario.budgets.last().unwrap().selector.clone();
    scenario.budgets.push(budget("default", "twice-too", twice));
    scenario = scenario.with(bare("every", "some", 2));
    scenario.budgets.push(budget("every", "all", Selector::All(vec![])));
    scenario = scenario.with(bare("every-none", "alone", 1));
    scenario.budgets.push(budget("every-none", "nothing", Selector::Nothing));
    scenario
}

impl Both {
    pub async fn start() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let bed = Bed::up();
        let authority = reqwest::Certificate::from_pem_bundle(&bed.authority_pem()).unwrap();
        let client =
            reqwest::Client::builder().no_proxy().tls_certs_only(authority).build().unwrap();
        let real = |name, user| Side::new(name, client.clone(), bed.server(), bed.token(user));
        let (admin, real) = (real("admin", "admin"), real("real", "evenkeel"));
        let options = RehearseOptions::default();
        let token = options.token.clone();
        let rehearsal = Rehearsal::start(scenario(), options).await.unwrap();
        let address = format!("http://{}", rehearsal.api_addr());
        let played = Side::new("played", client, address, token);
        let pair = Pair { played, real, rows: Vec::new() };
        let both = Self { pair, admin, bed, rehearsal };
        both.make_nodes().await;
        both.make_pods().await;
        both.make_budgets().await;
        both
    }

    pub fn with_world<T>(&self, act: impl FnOnce(&mut World) -> T) -> T {
        let world = self.rehearsal.world();
        let mut world: MutexGuard<'_, World> = world.lock().unwrap();
        act(&mut world)
    }

    async fn items(&self, path: &str) -> Vec<Value> {
        let list = self.pair.played.must(&get(path)).await;
        list["items"].as_array().unwrap().clone()
    }

    async fn make_nodes(&self) {
        for node in self.items("/api/v1/nodes").await {
            let name = node["metadata"]["name"].as_str().unwrap();
            self.keep_lease(name).await;
            let body = json!({"metadata": {"name": name, "labels": node["metadata"]["labels"]}, "spec": node["spec"]});
            self.admin.must(&post("/api/v1/nodes", &body)).await;
            let status = json!({"status": node["status"]});
            self.admin
                .must(&send(Method::PATCH, format!("/api/v1/nodes/{name}/status"), MERGE, &status))
                .await;
        }
        self.until("the nodes to be without taints", async || {
            let nodes = self.pair.real.must(&get("/api/v1/nodes")).await;
            nodes["items"]
                .as_array()
                .unwrap()
                .iter()
                .all(|node| node["spec"].get("taints").is_none())
        })
        .await;
    }

    /// A Lease that is renewed as long as the test runs, as a kubelet does.
    async fn keep_lease(&self, node: &str) {
        const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        let now = || jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
        let mut lease = self.pair.played.must(&get(format!("{LEASES}/{node}"))).await;
        lease["metadata"] = json!({"name": node});
        lease["spec"]["renewTime"] = now().into();
        self.admin.must(&post(LEASES, &lease)).await;
        let keeper = Side::new(
            "keeper",
            self.admin.client.clone(),
            self.admin.base.clone(),
            self.admin.token.clone(),
        );
        let path = format!("{LEASES}/{node}");
        tokio::spawn(async move {
            loop {
                // The controller's grace period in the test bed is 5 s.
                tokio::time::sleep(Duration::from_secs(1)).await;
                let body = json!({"spec": {"renewTime": now()}});
                let renewed: Req = send(Method::PATCH, path.clone(), MERGE, &body);
                let _ = keeper.open(&renewed).timeout(LIMIT).send().await;
            }
        });
    }

    async fn make_pods(&self) {
        for namespace in ["every", "every-none"] {
            let body = json!({"metadata": {"name": namespace}});
            self.admin.must(&post("/api/v1/namespaces", &body)).await;
        }
        for pod in self.items("/api/v1/pods").await {
            self.make_pod(&pod).await;
        }
        self.until("KWOK to play the pods", async || {
            let pods = self
                .pair
                .real
                .must(&get("/api/v1/pods?fieldSelector=status.phase%3DPending"))
                .await;
            let pods = pods["items"].as_array().unwrap();
            pods.iter().all(|pod| pod["metadata"]["labels"]["app"] == "pending")
        })
        .await;
    }

    /// Makes a pod of the real server like this one, bound where it is bound.
    pub async fn make_pod(&self, pod: &Value) {
        let mut body = json!({"metadata": {"name": pod["metadata"]["name"], "labels": pod["metadata"]["labels"]},
            "spec": pod["spec"]});
        if pod["metadata"]["labels"]["app"] == "pending" {
            body["metadata"]["annotations"] = json!({"testbed.evenkeel.io/ready-after": "1h"});
        }
        let namespace = pod["metadata"]["namespace"].as_str().unwrap();
        self.admin.must(&post(format!("/api/v1/namespaces/{namespace}/pods"), &body)).await;
    }

    async fn make_budgets(&self) {
        for budget in self.items("/apis/policy/v1/poddisruptionbudgets").await {
            let meta = &budget["metadata"];
            let path = format!(
                "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
                meta["namespace"].as_str().unwrap()
            );
            let body = json!({"metadata": {"name": meta["name"]}, "spec": budget["spec"]});
            self.admin.must(&post(path, &body)).await;
        }
    }

    /// Waits for something on the real side.
    pub async fn until(&self, what: &str, done: impl AsyncFn() -> bool) {
        let begun = Instant::now();
        while !done().await {
            assert!(begun.elapsed() < LIMIT, "waited {LIMIT:?} for {what}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The real controller taints a cordoned node a moment later, which is one more version of it.
    pub async fn until_tainted(&self, node: &str, tainted: bool) {
        let what = format!("the taint of {node} to follow its cordon ({tainted})");
        self.until(&what, async || {
            let node = self.pair.real.find(&format!("nodes/{node}")).await;
            node.is_some_and(|node| node["spec"].get("taints").is_some() == tainted)
        })
        .await;
    }

    /// Sets a pod's phase and readiness on both sides. On the real one a pod cannot go back to Pending: KWOK has
    /// been told to leave that pod so.
    pub async fn set_pod(&self, name: &str, phase: &str, ready: bool) {
        use evenkeel_engine::facts::PodPhase;
        let played = match phase {
            "Pending" => PodPhase::Pending,
            "Running" => PodPhase::Running,
            _ => PodPhase::Finished,
        };
        self.with_world(|world| {
            world.change_pod(&ObjectKey::new("default", name), |pod| {
                (pod.phase, pod.ready) = (played, ready);
            })
        })
        .unwrap();
        if phase == "Pending" {
            return;
        }
        let word = if ready { "True" } else { "False" };
        let body =
            json!({"status": {"phase": phase, "conditions": [{"type": "Ready", "status": word}]}});
        let path = format!("/api/v1/namespaces/default/pods/{name}/status");
        self.admin.must(&send(Method::PATCH, path, MERGE, &body)).await;
    }
}
