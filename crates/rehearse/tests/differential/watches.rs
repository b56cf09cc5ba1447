//! Rows: watches from a version on, their first events, bookmarks, ends and 410.

use crate::pair::{Pair, Side, Stream, get, merge, post};
use crate::setup::Both;
use evenkeel_engine::facts::Owner;
use evenkeel_engine::ids::{NodeName, ObjectKey};
use evenkeel_sim::history::Actor;
use evenkeel_sim::objects::{Kind, Pod, Workload, ZONE_LABEL};
use serde_json::{Value, json};
use std::sync::Arc;

const NODES: &str = "/api/v1/nodes";
/// What the product watches.
const BOUND: &str = "/api/v1/pods?fieldSelector=spec.nodeName!%3D";

pub async fn run(both: &mut Both) {
    changes(both).await;
    bookmarks(both).await;
    binding(both).await;
    refused(both).await;
    expired(both).await;
}

async fn version(side: &Side, path: &str) -> String {
    let list = side.must(&get(path)).await;
    list["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

/// Opens the same watch on both sides, each from the version of a list made just before.
async fn open(pair: &Pair, path: &str) -> (Stream, Stream) {
    let more = if path.contains('?') { "&" } else { "?" };
    let from = async |side: &Side| {
        let version = version(side, path).await;
        Stream::open(side, &format!("{path}{more}watch=1&resourceVersion={version}")).await
    };
    (from(&pair.played).await, from(&pair.real).await)
}

async fn patch_both(pair: &Pair, body: &Value) {
    for side in [&pair.played, &pair.real] {
        side.must(&merge("/api/v1/nodes/node-2", body)).await;
    }
}

async fn changes(both: &mut Both) {
    both.until_tainted("node-1", false).await;
    let pair = &mut both.pair;
    let (mut played, mut real) = open(pair, NODES).await;
    for step in ["one", "two"] {
        patch_both(pair, &json!({"metadata": {"annotations": {"step": step}}})).await;
    }
    let events = (played.take(2).await, real.take(2).await);
    pair.values("watch: two changes", &events.0, &events.1);
    pair.values("watch: both are MODIFIED", &words(&events.1), &json!(["MODIFIED", "MODIFIED"]));
    drop((played, real));
    let again = async |side: &Side, events: &Value| {
        let version = events[0]["object"]["metadata"]["resourceVersion"].as_str().unwrap();
        let path = format!("{NODES}?watch=1&resourceVersion={version}");
        Stream::open(side, &path).await.take(1).await
    };
    let resumed = (again(&pair.played, &events.0).await, again(&pair.real, &events.1).await);
    pair.values("watch resumed after the first", &resumed.0, &resumed.1);
    let first = |events: &Value| json!([events[1]]);
    pair.values("played: resuming loses and repeats nothing", &resumed.0, &first(&events.0));
    pair.values("real: resuming loses and repeats nothing", &resumed.1, &first(&events.1));
    for (name, path, count) in [
        ("watch from 0 begins with what is there", format!("{NODES}?watch=1&resourceVersion=0"), 3),
        ("watch from nowhere begins with what is there", format!("{NODES}?watch=1"), 3),
        ("watch of one", format!("{NODES}?watch=1&fieldSelector=metadata.name%3Dnode-2"), 1),
        (
            "watch with initial events",
            format!(
                "{NODES}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
            ),
            4,
        ),
        (
            "watch from 0 with bookmarks",
            format!("{NODES}?watch=1&resourceVersion=0&allowWatchBookmarks=true"),
            4,
        ),
    ] {
        let begin = async |side: &Side| Stream::open(side, &path).await.take(count).await;
        let (played, real) = (begin(&pair.played).await, begin(&pair.real).await);
        pair.values(name, &by_name(&played), &by_name(&real));
    }
}

fn words(events: &Value) -> Value {
    events.as_array().unwrap().iter().map(|event| event["type"].clone()).collect()
}

/// First events come in any order.
fn by_name(events: &Value) -> Value {
    let mut events = events.as_array().unwrap().clone();
    let key = |event: &Value| {
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or("~last");
        name.to_owned()
    };
    events.sort_by_key(key);
    events.into()
}

/// Reads a watch with a time limit to its end, with a change in between.
async fn bookmarks(both: &mut Both) {
    let pair = &mut both.pair;
    for seconds in [1, 4] {
        let from = async |side: &Side| {
            let version = version(side, NODES).await;
            let ask = "watch=1&allowWatchBookmarks=true";
            let path = format!("{NODES}?{ask}&timeoutSeconds={seconds}&resourceVersion={version}");
            Stream::open(side, &path).await
        };
        let (mut played, mut real) = (from(&pair.played).await, from(&pair.real).await);
        patch_both(pair, &json!({"metadata": {"annotations": {"at": seconds.to_string()}}})).await;
        let (played, real) = tokio::join!(played.take(100), real.take(100));
        let name = format!("watch of {seconds} s to its end");
        pair.values(&name, &once(&played), &once(&real));
    }
}

/// The real server may repeat a bookmark within the last two seconds.
fn once(events: &Value) -> Value {
    let mut events = events.as_array().unwrap().clone();
    events.dedup_by(|a, b| a["type"] == "BOOKMARK" && b["type"] == "BOOKMARK");
    events.into()
}

/// A pod is bound, changes and goes, as the product's watch of bound pods sees it.
async fn binding(both: &mut Both) {
    let (mut played, mut real) = open(&both.pair, BOUND).await;
    for side in [&both.pair.played, &both.pair.real] {
        let uid = json!({"preconditions": {"uid": side.find("pods/default/quick-0").await.unwrap()["metadata"]["uid"]}});
        side.must(&crate::pair::delete("/api/v1/namespaces/default/pods/quick-0", &uid)).await;
    }
    let events = (until_deleted(&mut played).await, until_deleted(&mut real).await);
    both.pair.values("watch of bound pods: one is deleted", &events.0, &events.1);

    // A pod that no scheduler takes: on the played side because all nodes are cordoned.
    let late = ObjectKey::new("default", "late-0");
    cordon_played(both, json!(true)).await;
    both.with_world(|world| world.create_workload(Workload::new("late", Kind::StatefulSet, 1)));
    both.until("the played pod to be made", async || {
        both.pair.played.find("pods/default/late-0").await.is_some()
    })
    .await;
    // Without an owner: the real garbage collector would look for it.
    let change = |pod: &mut Pod| pod.owner = Owner::Nobody;
    both.with_world(|world| world.change_pod(&late, change)).unwrap();
    let mut pod = both.pair.played.find("pods/default/late-0").await.unwrap();
    pod["spec"]["schedulerName"] = "nobody".into();
    both.make_pod(&pod).await;
    let (mut played, mut real) = open(&both.pair, BOUND).await;
    let bind =
        json!({"metadata": {"name": "late-0"}, "target": {"kind": "Node", "name": "node-1"}});
    let path = "/api/v1/namespaces/default/pods/late-0/binding";
    both.admin.must(&post(path, &bind)).await;
    both.with_world(|world| {
        let zone = world.node(&NodeName::new("node-1")).unwrap().labels[ZONE_LABEL].clone();
        world.change_pod(&late, |pod| {
            pod.node = Some(NodeName::new("node-1"));
            Arc::make_mut(&mut pod.labels).insert(ZONE_LABEL.to_owned(), zone);
        })
    })
    .unwrap();
    let events = (played.take(1).await, real.take(1).await);
    let pair = &mut both.pair;
    pair.values("watch of bound pods: one is bound", &events.0, &events.1);
    let added = json!(["ADDED"]);
    pair.values("real: a pod that is bound is ADDED", &words(&events.1), &added);
    cordon_played(both, Value::Null).await;
    both.until("KWOK to play the pod", async || {
        let pod = both.pair.real.find("pods/default/late-0").await;
        pod.is_some_and(|pod| pod["status"]["phase"] == "Running")
    })
    .await;
    both.set_pod("late-0", "Running", true).await;
}

async fn cordon_played(both: &Both, value: Value) {
    for name in ["node-1", "node-2", "node-3"] {
        let body = json!({"spec": {"unschedulable": value}});
        both.pair.played.must(&merge(format!("{NODES}/{name}"), &body)).await;
    }
}

/// Events of quick-0 until it is gone: the first that says it is Terminating, and the last.
async fn until_deleted(stream: &mut Stream) -> Value {
    let mut kept = Vec::new();
    loop {
        let event = stream.next().await.expect("the watch is open");
        if event["object"]["metadata"]["name"] != "quick-0" {
            continue;
        }
        let last = event["type"] == "DELETED";
        if last || kept.is_empty() {
            // How the last state of a killed pod looks is the kubelet's affair.
            let meta = &event["object"]["metadata"];
            kept.push(json!({"type": event["type"], "object": {"metadata": {
                "uid": meta["uid"], "name": meta["name"], "deletionTimestamp": meta["deletionTimestamp"]}}}));
        }
        if last {
            return kept.into();
        }
    }
}

async fn refused(both: &mut Both) {
    let rows = [
        ("watch from a version that is none", 500, format!("{NODES}?watch=1&resourceVersion=abc")),
        (
            "watch with a field that cannot be selected",
            400,
            format!("{NODES}?watch=1&fieldSelector=spec.x%3D1"),
        ),
        (
            "watch from a version of the future, to its end",
            200,
            format!("{NODES}?watch=1&resourceVersion=99999999&timeoutSeconds=1"),
        ),
    ];
    for (name, code, path) in rows {
        both.pair.row(name, code, |_| get(path.clone())).await;
    }
}

/// The real server keeps the events of a kind in memory from its own start on; only a kind that came later makes
/// it say 410 without a wait of minutes. The sentence does not depend on the kind.
async fn expired(both: &mut Both) {
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let kind = json!({
        "metadata": {"name": "things.test.evenkeel.io"},
        "spec": {"group": "test.evenkeel.io", "scope": "Cluster",
            "names": {"plural": "things", "singular": "thing", "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}]},
    });
    both.admin.must(&post(path, &kind)).await;
    let things = "/apis/test.evenkeel.io/v1/things";
    both.until("the new kind to be served", async || {
        both.admin.ask(&get(things)).await.code == 200
    })
    .await;
    both.with_world(evenkeel_sim::World::compact);
    let played = both.pair.played.ask(&get(format!("{NODES}?watch=1&resourceVersion=5"))).await;
    let real = both.admin.ask(&get(format!("{things}?watch=1&resourceVersion=5"))).await;
    both.pair.answers("watch from an old version: an ERROR event", 200, played, real);
}

/// Last, because a node that goes takes its pods with it.
pub async fn node_deleted(both: &mut Both) {
    let (mut played, mut real) = open(&both.pair, NODES).await;
    both.with_world(|world| world.delete_node(Actor::Person, &NodeName::new("node-3"))).unwrap();
    both.admin.must(&crate::pair::delete("/api/v1/nodes/node-3", &json!({}))).await;
    let events = (played.take(1).await, real.take(1).await);
    both.pair.values("watch: a node is deleted", &events.0, &events.1);
    both.pair.values("real: DELETED", &words(&events.1), &json!(["DELETED"]));
    both.pair.row("the node is gone", 404, |_| get("/api/v1/nodes/node-3")).await;
}
