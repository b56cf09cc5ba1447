//! The preview over HTTP: it reads and refuses as the upgrade call does, and leaves nothing behind.

use crate::support::*;
use crate::upgrade::refused;
use evenkeel_engine::ids::{ClusterId, NodeId, TemplateRevision};
use evenkeel_server::records::{NodeRecord, Recipe, keys};
use evenkeel_server::store::Store;
use serde_json::{Value, json};

fn path(project: &str, cluster: &str, pool: &str) -> String {
    format!(
        "/evenkeel/v1/projects/{project}/clusters/{cluster}/nodepools/{pool}/operation/upgrade/preview"
    )
}

async fn ask(world: &World, pool: &str, body: &Value) -> Answer {
    world.call("POST", &path(PROJECT, CLUSTER, pool), &body.to_string()).await
}

#[tokio::test]
async fn it_refuses_what_the_upgrade_call_refuses_in_the_same_words() {
    let world = World::new().await;
    for (what, pool, body, _) in refused() {
        let upgrade = world.upgrade(pool, &body).await;
        let preview = ask(&world, pool, &body).await;
        assert_eq!(preview.stable(&[]), upgrade.stable(&[]), "{what}");
    }
}

#[tokio::test]
async fn it_leaves_no_trace_and_may_be_repeated() {
    let world = World::new().await;
    let revision = world.store.revision().await.unwrap();
    let request =
        world.sign(&call("POST", &path(PROJECT, CLUSTER, POOL), &minimal(POOL).to_string()));
    let first = world.send(&request).await;
    let second = world.send(&request).await;
    assert_eq!((first.status.as_u16(), second.status.as_u16()), (200, 200), "{}", first.text);
    assert_eq!(first.json, second.json);
    assert_eq!(world.store.revision().await.unwrap(), revision, "the store was written to");
    assert_eq!(world.jobs().await, 0);
}

#[tokio::test]
async fn unknown_and_foreign_ids_are_missing_ids() {
    let world = World::new().await;
    let revision = world.store.revision().await.unwrap();
    let absent = "12345678-0000-4000-8000-000000000000";
    let rows = [
        ("cluster", path(PROJECT, absent, POOL)),
        ("cluster of another project", path(PROJECT, OTHER_CLUSTER, POOL)),
        ("project", path(OTHER_PROJECT, OTHER_CLUSTER, "DefaultPool")),
        ("pool", path(PROJECT, CLUSTER, absent)),
    ];
    for (what, path) in rows {
        let answer = world.call("POST", &path, &minimal(POOL).to_string()).await;
        assert_eq!(answer.status.as_u16(), 404, "{what}: {}", answer.text);
        assert_eq!(answer.code(), "CCE.01404001", "{what}: {}", answer.text);
    }
    let unseen = json!({ "spec": { "nodePoolID": POOL, "maxUnavailable": 19 } });
    let answer = ask(&world, POOL, &unseen).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (403, "CCE.01403009"), "{}", answer.text);
    assert!(answer.message().contains("watches are down"), "{}", answer.message());
    assert_eq!(world.store.revision().await.unwrap(), revision);
}

#[tokio::test]
async fn a_cluster_without_machine_settings_is_previewed_and_says_what_is_missing() {
    let world = World::new().await;
    let script = Recipe::Script {
        teardown: String::new(),
        install: String::new(),
        limit_s: 60,
        needs: Vec::new(),
        resume: false,
        reimage: None,
    };
    for (recipe, words) in [(None, "has no recipe"), (Some(script), "has no SSH access")] {
        world.cluster(|cluster| cluster.recipe = recipe).await;
        assert_eq!(world.upgrade(POOL, &minimal(POOL)).await.status.as_u16(), 400);
        let answer = ask(&world, POOL, &minimal(POOL)).await;
        assert_eq!(answer.status.as_u16(), 200, "{}", answer.text);
        let missing = answer.json["missing"].to_string();
        assert!(missing.contains(words) && missing.contains("set-machines lab"), "{missing}");
        assert_eq!(answer.json["nodes"].as_array().unwrap().len(), 2);
    }
}

#[tokio::test]
async fn a_pool_that_is_being_synchronized_is_previewed_and_says_so() {
    let world = World::new().await;
    let job = world.upgrade(POOL, &minimal(POOL)).await.json["jobid"].as_str().unwrap().to_owned();
    let answer = ask(&world, POOL, &minimal(POOL)).await;
    assert!(answer.json["missing"][0].as_str().unwrap().contains(&job), "{}", answer.text);
}

#[tokio::test]
async fn drift_compares_the_pool_with_what_was_applied() {
    let world = World::new().await;
    let body = json!({ "metadata": { "name": "pool-0" }, "spec": { "nodeTemplate": { "os": "EulerOS 2.9",
        "k8sTags": { "tier": "back" }, "extendParam": { "alpha.cce/preInstall": "ZWNobyAx" } } } });
    let target = format!("{}/nodepools/{POOL}", base());
    let changed = world.call("PUT", &target, &body.to_string()).await;
    assert_eq!(changed.status.as_u16(), 200, "{}", changed.text);
    let key = keys::node(PROJECT, &ClusterId::new(CLUSTER), &NodeId::new(NODE_A));
    let mut node: NodeRecord = world.record(&key).await.unwrap();
    node.applied = Some(TemplateRevision::new("earlier"));
    node.carries.reset.insert("os".into(), "EulerOS 2.5".into());
    world.put(key, &node).await;
    let answer = ask(&world, POOL, &minimal(POOL)).await;
    let nodes = answer.json["nodes"].as_array().unwrap();
    let drift = |name: &str, field: &str| -> Value {
        let node = nodes.iter().find(|node| node["name"] == name).unwrap();
        let found = node["drift"].as_array().unwrap().iter().find(|drift| drift["field"] == field);
        found.unwrap_or_else(|| panic!("{name} {field}: {node}")).clone()
    };
    assert_eq!(
        drift("node-a", "os"),
        json!({ "field": "os", "wanted": "EulerOS 2.9", "found": "EulerOS 2.5", "applied": "reset" })
    );
    assert_eq!(drift("node-b", "os")["found"], Value::Null);
    let script = drift("node-a", "preInstall");
    assert!(script["wanted"].as_str().unwrap().starts_with("sha256:"), "{script}");
    assert!(!answer.text.contains("ZWNobyAx"), "a preview shows no script");
}
