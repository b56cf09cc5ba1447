//! Parameters of kubelet and runtime that a pool sets.

use crate::support::*;
use evenkeel_engine::ids::{ClusterId, PoolId};
use evenkeel_server::records::{PoolRecord, Recipe, keys};
use serde_json::{Value, json};

fn path(pool: &str) -> String {
    format!("/api/v3/projects/{PROJECT}/clusters/{CLUSTER}/nodepools/{pool}/configuration")
}

fn body(package: &str, name: &str, value: &Value) -> String {
    let item = json!({"name": name, "value": value});
    json!({"kind": "Configuration", "apiVersion": "v3", "metadata": {"name": "configuration"},
        "spec": {"packages": [{"name": package, "configurations": [item]}]}})
    .to_string()
}

async fn stored(world: &World) -> PoolRecord {
    let key = keys::pool(PROJECT, &ClusterId::new(CLUSTER), &PoolId::new(POOL));
    world.record(&key).await.expect("the pool")
}

#[tokio::test]
async fn parameters_are_set_shown_and_part_of_the_template() {
    let world = World::new().await;
    let empty = world.call("GET", &path(POOL), "").await;
    assert_eq!((empty.status.as_u16(), &empty.json["spec"]["packages"]), (200, &json!([])));
    let before = stored(&world).await.revision;
    let set = world.call("PUT", &path(POOL), &body("kubelet", "max-pods", &json!(64))).await;
    assert_eq!(set.status.as_u16(), 200, "{}", set.text);
    let shown = world.call("GET", &path(POOL), "").await;
    assert_eq!(shown.json, set.json);
    assert_eq!(shown.json["metadata"]["labels"]["nodepool_id"], POOL);
    let packages =
        json!([{"name": "kubelet", "configurations": [{"name": "max-pods", "value": 64}]}]);
    assert_eq!(shown.json["spec"]["packages"], packages);
    let after = stored(&world).await;
    assert_ne!(after.revision, before, "its nodes are out of date");
    assert_eq!(after.template.config.kubelet["maxPods"], 64);
    let other = world.call("GET", &path(OTHER_POOL), "").await;
    assert_eq!(other.json["spec"]["packages"], json!([]));
    let detail = world.call("GET", &format!("{}/detail", path(POOL)), "").await;
    let names = detail.json["kubelet"].as_array().expect("a list");
    assert!(names.iter().any(|option| option["name"] == "max-pods"), "{}", detail.text);
}

#[tokio::test]
async fn what_cannot_be_brought_is_refused() {
    let world = World::new().await;
    let rows = [
        ("kubelet", "max-podz", json!(64), "max-podz"),
        ("kubelet", "max-pods", json!(1), "16 to 1024"),
        ("kubelet", "cpu-manager-policy", json!("static"), "kubeReservedCpu"),
        ("kube-proxy", "conntrack-min", json!(1), "ConfigMap"),
    ];
    for (package, name, value, words) in rows {
        let refused = world.call("PUT", &path(POOL), &body(package, name, &value)).await;
        assert_eq!((refused.status.as_u16(), refused.code()), (400, "CCE.01400001"), "{name}");
        assert!(refused.message().contains(words), "{name}: {}", refused.message());
    }
    assert!(stored(&world).await.configuration.is_empty());
    let default =
        world.call("PUT", &path("DefaultPool"), &body("kubelet", "max-pods", &json!(64))).await;
    assert_eq!(default.status.as_u16(), 403, "{}", default.text);
    // A recipe that hands its commands nothing does not bring them.
    let set = world.call("PUT", &path(POOL), &body("kubelet", "event-qps", &json!(7))).await;
    assert_eq!(set.status.as_u16(), 200, "{}", set.text);
    world
        .cluster(|c| {
            c.recipe = Some(Recipe::Script {
                teardown: "x".into(),
                install: "y".into(),
                limit_s: 60,
                needs: Vec::new(),
                reimage: None,
                resume: false,
            });
        })
        .await;
    let refused = world.upgrade(POOL, &minimal(POOL)).await;
    assert_eq!(refused.status.as_u16(), 400, "{}", refused.text);
    assert!(refused.message().contains("event-qps"), "{}", refused.message());
}
