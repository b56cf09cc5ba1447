//! A preview of a whole cluster through the real server and the real Kubernetes client: what it finds, and that it
//! leaves nothing behind, neither in the store nor in the cluster.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use evenkeel_api::preview::{Node, Preview};
use evenkeel_cli::{Client, Method, Place, Settings};
use evenkeel_rehearse::{Rehearsal, RehearseOptions};
use evenkeel_server::app;
use evenkeel_server::config::{Clusters, Config};
use evenkeel_server::sync::points::Points;
use evenkeel_sim::Scenario;
use evenkeel_sim::objects::{Amount, Kind, Limit, Workload};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The first list of a small cluster takes well under a second.
const NODES_LIMIT: Duration = Duration::from_secs(30);

fn scenario() -> Scenario {
    let one = Limit::MaxUnavailable(Amount::Pods(1));
    let never = Limit::MaxUnavailable(Amount::Pods(0));
    let mut data = Workload::new("scratch", Kind::Deployment, 1);
    data.local_data = true;
    let mut local = Workload::new("pg", Kind::StatefulSet, 3);
    local.local_volume = true;
    let mut keep = Workload::new("keep", Kind::Deployment, 1);
    keep.protected = true;
    let mut scenario = Scenario::new(11, 4)
        .with(Workload::new("web", Kind::Deployment, 8))
        .guarded("web", one)
        .with(Workload::new("frozen", Kind::Deployment, 1))
        .guarded("frozen", never)
        .with(Workload::new("lone", Kind::Bare, 1))
        .with(Workload::new("batch", Kind::Finished, 1))
        .with(Workload::new("agent", Kind::DaemonSet, 0))
        .with(Workload::new("proxy", Kind::Static, 0))
        .with(data)
        .with(keep)
        .with(local)
        .guarded("pg", one);
    scenario.capacity = 40;
    scenario
}

async fn previewed(client: &Client, cluster: &str, body: &Value) -> Preview {
    let place = Place::Evenkeel(&[
        "clusters",
        cluster,
        "nodepools",
        "DefaultPool",
        "operation",
        "upgrade",
        "preview",
    ]);
    let answer = client.send(Method::POST, place, &[], body).await.unwrap();
    serde_json::from_value(answer).unwrap()
}

fn kinds(preview: &Preview, pod: &str) -> Vec<String> {
    let all = preview.nodes.iter().flat_map(|node| &node.concerns);
    let of = all.filter(|concern| concern.pod.starts_with(&format!("default/{pod}")));
    let mut kinds: Vec<String> = of.map(|concern| concern.kind.clone()).collect();
    kinds.dedup();
    kinds
}

fn moves(preview: &Preview, pod: &str) -> usize {
    let all = preview.nodes.iter().flat_map(|node: &Node| &node.moves);
    all.filter(|moved| moved.starts_with(&format!("default/{pod}"))).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_cluster_is_previewed_and_nothing_is_touched() {
    let home = tempfile::tempdir().unwrap();
    let rehearsal = Rehearsal::start(scenario(), RehearseOptions::default()).await.unwrap();
    let config = Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        data_dir: home.path().join("data"),
        key_file: home.path().join("key"),
        clusters: Clusters { allow_loopback: true, ..Clusters::default() },
        ..Config::default()
    };
    let server = app::start(config, Points::default()).await.unwrap();
    let first = server.bootstrap.clone().unwrap();
    let endpoint = format!("http://{}", server.address);
    let settings = Settings::new(&endpoint, &first.ak, &first.sk, &first.project_id).unwrap();
    let client = Client::new(settings).unwrap();
    let body = json!({ "name": "lab", "kubeconfig": rehearsal.kubeconfig_yaml() });
    let answer =
        client.send(Method::POST, Place::Evenkeel(&["clusters"]), &[], &body).await.unwrap();
    let cluster = answer["metadata"]["uid"].as_str().unwrap().to_owned();
    let begun = Instant::now();
    loop {
        let answer = client.get(Place::Cce(&["clusters", &cluster, "nodes"]), &[]).await.unwrap();
        if answer["items"].as_array().is_some_and(|nodes| nodes.len() == 4) {
            break;
        }
        assert!(begun.elapsed() < NODES_LIMIT, "waited {NODES_LIMIT:?} for four nodes");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let revision = server.store.revision().await.unwrap();
    let world = rehearsal.world();
    let version = world.lock().unwrap().resource_version();

    let template = json!({ "lifeCycle": { "preInstall": "ZWNobyAx" }, "login": { "userPassword":
        { "username": "root", "password": "Canary-Pw-9" } } });
    let request = json!({ "spec": { "nodePoolID": "DefaultPool", "maxUnavailable": 2, "nodeTemplate": template } });
    let preview = previewed(&client, &cluster, &request).await;

    assert!(preview.missing[0].contains("has no recipe"), "{:?}", preview.missing);
    assert!(preview.unknown.is_empty(), "{:?}", preview.unknown);
    assert_eq!(preview.nodes.len(), 4);
    let rows = [
        // pods, how many leave, what is said of them
        ("web", 8, vec![]),
        ("frozen", 0, vec!["budgetNeverAllows"]),
        ("lone", 0, vec!["noController"]),
        ("keep", 0, vec!["doNotDisrupt"]),
        ("batch", 0, vec![]),
        ("agent", 0, vec![]),
        ("proxy", 0, vec![]),
        ("scratch", 1, vec!["localData"]),
        ("pg", 3, vec!["pinnedVolume"]),
    ];
    for (pod, leave, said) in rows {
        assert_eq!(moves(&preview, pod), leave, "{pod}: {preview:#?}");
        assert_eq!(kinds(&preview, pod), said, "{pod}");
    }
    // Two daemons on each node, and the finished pod.
    assert_eq!(preview.nodes.iter().map(|node| node.stays).sum::<u32>(), 9);
    let bound = preview.bounds.iter().max_by_key(|bound| bound.seconds).unwrap();
    assert_eq!(
        (bound.name.as_str(), bound.what.contains("default/pg")),
        ("LB3'", true),
        "{bound:?}"
    );
    let refused = preview.trials.iter().find(|trial| trial.pod.starts_with("default/frozen"));
    assert_eq!(refused.unwrap().answer, "refused", "{:?}", preview.trials);
    assert!(preview.trials.iter().any(|trial| trial.answer == "allowed"), "{:?}", preview.trials);
    assert!(preview.trials.iter().all(|trial| trial.answer != "unanswered"));
    let fields: Vec<&str> =
        preview.nodes[0].drift.iter().map(|drift| drift.field.as_str()).collect();
    assert_eq!(fields, ["login.password", "login.user", "preInstall"]);

    assert_eq!(server.store.revision().await.unwrap(), revision, "the store was written to");
    let world = world.lock().unwrap();
    // Kubelets renew their Leases meanwhile; nodes, pods and budgets stay as they are.
    let changes = world.events_since(version).unwrap();
    assert!(changes.is_empty(), "the cluster was written to: {changes:?}");
    assert!(world.history.is_empty(), "{:?}", world.history);
}
