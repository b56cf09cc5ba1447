//! Pools, nodes, clusters, key pairs: created, changed, shown.

use crate::support::*;
use evenkeel_engine::ids::{ClusterId, NodeId, PoolId};
use evenkeel_server::http::vault;
use evenkeel_server::records::{ClusterRecord, NodeRecord, PoolRecord, Recipe, keys};
use evenkeel_server::store::Store;
use serde_json::{Value, json};

fn pools() -> String {
    format!("{}/nodepools", base())
}

fn pool(name: &str, template: Value) -> String {
    json!({ "kind": "NodePool", "apiVersion": "v3", "metadata": { "name": name },
            "spec": { "initialNodeCount": 3, "nodeTemplate": template } })
    .to_string()
}

async fn stored(world: &World, id: &str) -> PoolRecord {
    world.record(&keys::pool(PROJECT, &ClusterId::new(CLUSTER), &PoolId::new(id))).await.unwrap()
}

async fn node(world: &World, id: &str) -> NodeRecord {
    world.record(&keys::node(PROJECT, &ClusterId::new(CLUSTER), &NodeId::new(id))).await.unwrap()
}

#[tokio::test]
async fn a_pool_comes_back_as_it_was_given() {
    let world = World::new().await;
    let template = json!({
        "flavor": "s6.large.2", "az": "cn-north-4a", "os": "EulerOS 2.9", "login": { "sshKey": "kp" },
        "rootVolume": { "size": 50, "volumetype": "SSD" }, "dataVolumes": [{ "size": 100, "volumetype": "SSD" }],
        "k8sTags": { "App": "b", "app": "c" }, "runtime": { "name": "containerd" }, "unknownField": { "x": [1, 2] },
        "extendParam": { "maxPods": 110, "alpha.cce/preInstall": "ZWNobyAx", "alpha.cce/postInstall": "ZWNobyAy" },
    });
    let made = world.call("POST", &pools(), &pool("pool-9", template.clone())).await;
    assert_eq!(made.status.as_u16(), 201, "{}", made.text);
    let id = made.json["metadata"]["uid"].as_str().unwrap().to_owned();
    let mut expected = template;
    expected["login"] = json!({ "sshKey": "kp", "userPassword": {} });
    expected["k8sTags"]["cce.cloud.com/cce-nodepool"] = json!("pool-9");
    for answer in [made, world.call("GET", &format!("{}/{id}", pools()), "").await] {
        assert_eq!(answer.json["spec"]["nodeTemplate"], expected);
        assert_eq!(answer.json["spec"]["initialNodeCount"], 3);
        assert_eq!(answer.json["status"]["phase"], "");
        assert_eq!(answer.json["status"]["currentNode"], 0);
        let conditions = answer.json["status"]["conditions"].as_array().unwrap();
        assert!(
            conditions
                .iter()
                .any(|c| c["type"] == "Scalable" && c["reason"] == "ResourceInsufficient")
        );
    }
    let again = world.call("POST", &pools(), &pool("pool-9", json!({ "os": "x" }))).await;
    assert_eq!((again.status.as_u16(), again.code()), (409, "CCE.01409001"));
    let bad = world
        .call("POST", &pools(), &pool("DefaultPool", json!({ "login": { "sshKey": "nobody" } })))
        .await;
    assert_eq!((bad.status.as_u16(), bad.code()), (400, "CCE.01400001"));
}

#[tokio::test]
async fn lists_show_the_default_pool_only_when_asked() {
    let world = World::new().await;
    let names = |answer: &Answer| -> Vec<String> {
        let items = answer.json["items"].as_array().unwrap();
        items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&world.call("GET", &pools(), "").await), ["pool-0", "pool-x"]);
    for query in ["showDefaultNodePool=true", "shownodepool=1&showdefaultnodepool=True"] {
        let listed = world.call("GET", &format!("{}?{query}", pools()), "").await;
        assert_eq!(names(&listed), ["DefaultPool", "pool-0", "pool-x"], "{}", listed.text);
        assert_eq!(listed.json["items"][0]["status"]["currentNode"], 2);
    }
    let wrong = world.call("GET", &format!("{}?showDefaultNodePool=maybe", pools()), "").await;
    assert_eq!(wrong.status.as_u16(), 400);
    let first = &world.call("GET", &pools(), "").await.json["items"][0];
    assert_eq!(
        (&first["status"]["currentNode"], &first["status"]["activeNode"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(first["status"]["configurationSyncedNodeCount"], 0);
}

#[tokio::test]
async fn an_update_keeps_what_it_does_not_name() {
    let world = World::new().await;
    let template = json!({ "os": "a", "login": { "userPassword": { "username": "root", "password": CANARY_PASSWORD } },
        "extendParam": { "alpha.cce/preInstall": "ZWNobyAx" }, "rootVolume": { "size": 50 } });
    let made = world.call("POST", &pools(), &pool("pool-9", template)).await;
    let id = made.json["metadata"]["uid"].as_str().unwrap().to_owned();
    let path = format!("{}/{id}", pools());
    let before = stored(&world, &id).await;
    // (change, whether nodes have to be reset for it)
    let rows = [
        (json!({}), false),
        (json!({ "k8sTags": { "a": "b" } }), false),
        (json!({ "login": { "userPassword": { "username": "", "password": "" } } }), false),
        (
            json!({ "login": { "userPassword": { "username": "root", "password": CANARY_PASSWORD } } }),
            false,
        ),
        (json!({ "rootVolumeUpdate": { "size": 60 } }), false),
        (json!({ "extendParam": { "alpha.cce/postInstall": "ZWNobyAy" } }), true),
        (json!({ "os": "b" }), true),
        (json!({ "login": { "userPassword": { "password": "Another-Pw-1" } } }), true),
        (json!({ "login": { "sshKey": "kp" } }), true),
        (json!({ "login": { "sshKey": "kp", "removeUserPassword": true } }), true),
        (json!({ "login": { "removeSSHKey": true } }), true),
    ];
    let mut revision = before.revision.clone();
    for (change, needs_reset) in rows {
        let body = json!({ "spec": { "ignoreInitialNodeCount": true, "nodeTemplate": change } });
        let answer = world.call("PUT", &path, &body.to_string()).await;
        assert_eq!(answer.status.as_u16(), 200, "{change}: {}", answer.text);
        assert_eq!(
            answer.json["spec"]["nodeTemplate"]["extendParam"]["alpha.cce/preInstall"], "ZWNobyAx",
            "{change}"
        );
        assert_eq!(answer.json["spec"]["initialNodeCount"], 3);
        let after = stored(&world, &id).await;
        assert_eq!(after.revision != revision, needs_reset, "{change}");
        revision = after.revision;
    }
    let record = stored(&world, &id).await;
    assert!(record.template.login.remove_keys.is_some() && record.template.login.ssh_key.is_none());
    assert_eq!(record.spec["nodeTemplate"]["rootVolume"]["size"], 60);
    let renamed = world
        .call("PUT", &path, &json!({ "metadata": { "name": "pool-0" }, "spec": {} }).to_string())
        .await;
    assert_eq!((renamed.status.as_u16(), renamed.code()), (409, "CCE.01409001"));
    let renamed = world
        .call("PUT", &path, &json!({ "metadata": { "name": "new" }, "spec": {} }).to_string())
        .await;
    assert_eq!(renamed.json["metadata"]["name"], "new");
    assert_eq!(renamed.json["spec"]["initialNodeCount"], 0, "left out means 0, as documented");
    let freed = world.call("POST", &pools(), &pool("pool-9", json!({ "os": "x" }))).await;
    assert_eq!(freed.status.as_u16(), 201, "the old name is free again: {}", freed.text);
    let default = world.call("PUT", &format!("{}/DefaultPool", pools()), "{\"spec\":{}}").await;
    assert_eq!((default.status.as_u16(), default.code()), (403, "CCE.01403001"));
}

#[tokio::test]
async fn nodes_move_unless_a_job_holds_their_pool() {
    let world = World::new().await;
    let into = |pool: &str, query: &str| format!("{}/{pool}/nodes/migrate{query}", pools());
    let list = |ids: &[&str]| {
        let ids: Vec<Value> = ids.iter().map(|id| json!({ "nodeID": id })).collect();
        json!({ "kind": "List", "apiVersion": "v3", "nodeList": ids }).to_string()
    };
    let moved = world.call("PUT", &into(POOL, "?asCurrent=true"), &list(&[NODE_LOOSE])).await;
    assert_eq!((moved.status.as_u16(), &moved.json), (200, &json!({})), "{}", moved.text);
    let record = node(&world, NODE_LOOSE).await;
    assert_eq!((record.pool.as_str(), record.applied.unwrap().as_str()), (POOL, "rev-1"));
    assert_eq!(stored(&world, POOL).await.spec["initialNodeCount"], 3, "the wanted count follows");
    let shown = world.get(&format!("/clusters/{CLUSTER}/nodes/{NODE_LOOSE}")).await;
    assert_eq!(shown.json["status"]["configurationUpToDate"], true);
    assert_eq!(shown.json["metadata"]["annotations"]["kubernetes.io/node-pool.id"], POOL);
    assert_eq!(shown.json["metadata"]["ownerReferences"]["nodepoolName"], "pool-0");
    assert_eq!(shown.json["status"]["privateIP"], "127.0.0.9");
    for (what, target, body, status, code) in [
        ("unknown", into(POOL, ""), list(&["nope"]), 400, "CCE.01400001"),
        ("foreign", into(POOL, ""), list(&[NODE_FOREIGN]), 400, "CCE.01400001"),
        ("51", into(POOL, ""), list(&[NODE_A; 51]), 400, "CCE.01400001"),
        ("none", into(POOL, ""), list(&[]), 400, "CCE.01400001"),
        (
            "no template",
            into("DefaultPool", "?asCurrent=true"),
            list(&[NODE_A]),
            400,
            "CCE.01400001",
        ),
        ("no pool", into("nope", ""), list(&[NODE_A]), 404, "CCE.01404001"),
    ] {
        let answer = world.call("PUT", &target, &body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code()),
            (status, code),
            "{what}: {}",
            answer.text
        );
    }
    assert_eq!(world.upgrade(POOL, &minimal(POOL)).await.status.as_u16(), 200);
    let held = world.call("PUT", &into("DefaultPool", ""), &list(&[NODE_A])).await;
    assert_eq!((held.status.as_u16(), held.code()), (403, "CCE.01403006"), "{}", held.text);
    let joins = world.call("PUT", &into(POOL, ""), &list(&[NODE_ELSEWHERE])).await;
    assert_eq!(
        joins.status.as_u16(),
        200,
        "joining a pool that is being synchronized is fine: {}",
        joins.text
    );
    world.release(POOL).await;
    let out = world.call("PUT", &into("DefaultPool", ""), &list(&[NODE_A])).await;
    assert_eq!(out.status.as_u16(), 200);
    assert_eq!(node(&world, NODE_A).await.pool.as_str(), "DefaultPool");
}

#[tokio::test]
async fn node_lists_have_pages() {
    let world = World::new().await;
    let mut seen = Vec::new();
    let mut marker = String::new();
    for _ in 0..10 {
        let page = world.get(&format!("/clusters/{CLUSTER}/nodes?limit=2&marker={marker}")).await;
        let items = page.json["items"].as_array().unwrap();
        assert_eq!(page.json["pageInfo"]["currentCount"], items.len());
        seen.extend(items.iter().map(|item| item["metadata"]["uid"].as_str().unwrap().to_owned()));
        match page.json["pageInfo"]["nextMarker"].as_str() {
            Some(next) => marker = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(seen, [NODE_A, NODE_B, NODE_ELSEWHERE, NODE_LOOSE, NODE_CONTROL]);
    for query in ["limit=0", "limit=2001", "limit=x", "marker=%2e%2e"] {
        let answer = world.get(&format!("/clusters/{CLUSTER}/nodes?{query}")).await;
        let expected = if query.starts_with("marker") { 200 } else { 400 };
        assert_eq!(answer.status.as_u16(), expected, "{query}");
    }
    let b = world.get(&format!("/clusters/{CLUSTER}/nodes/{NODE_B}")).await;
    assert_eq!(b.json["status"]["phase"], "Abnormal");
}

#[tokio::test]
async fn clusters_are_registered_and_get_their_machines() {
    let world = World::new().await;
    let path = format!("/evenkeel/v1/projects/{PROJECT}/clusters");
    let body = |name: &str, kubeconfig: &str| {
        json!({ "name": name, "kubeconfig": kubeconfig }).to_string()
    };
    for (name, kubeconfig, status, code) in [
        ("lab2", "unreachable", 400, "CCE.01400001"),
        ("lab2", "exec", 400, "CCE.01400001"),
        ("lab2", "weak", 403, "CCE.01403001"),
        ("Lab 2", "good", 400, "CCE.01400001"),
        ("lab2", "", 400, "CCE.01400001"),
    ] {
        let answer = world.call("POST", &path, &body(name, kubeconfig)).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code()),
            (status, code),
            "{kubeconfig}: {}",
            answer.text
        );
    }
    let made = world.call("POST", &path, &body("lab2", "canary-kubeconfig-2")).await;
    assert_eq!(made.status.as_u16(), 201, "{}", made.text);
    let id = made.json["metadata"]["uid"].as_str().unwrap().to_owned();
    assert_eq!(made.json["status"]["phase"], "Unavailable", "nobody has looked at it yet");
    assert_eq!(world.call("POST", &path, &body("lab2", "x")).await.code(), "CCE.01409001");
    let listed = world.get("/clusters?detail=true").await;
    assert_eq!(listed.json["items"][0]["metadata"]["annotations"]["totalNodesNumber"], "5");
    assert_eq!(listed.json["items"][0]["spec"]["eniNetwork"], json!({}));
    assert_eq!(listed.json["items"][0]["status"]["phase"], "Available");
    assert_eq!(listed.json["items"][0]["status"]["endpoints"][0]["type"], "External");

    let machines = format!("{path}/{id}/machines");
    let key =
        ssh_key::PrivateKey::random(&mut russh::keys::key::safe_rng(), ssh_key::Algorithm::Ed25519)
            .unwrap();
    let key = key.to_openssh(ssh_key::LineEnding::LF).unwrap().to_string();
    for (what, body) in [
        ("nothing", json!({})),
        ("bad key", json!({ "machines": { "privateKey": "canary-private-key" } })),
        ("no key", json!({ "machines": { "user": "root" } })),
        ("bad recipe", json!({ "recipe": { "type": "ansible" } })),
        ("half a recipe", json!({ "recipe": { "type": "script", "install": "x" } })),
        ("bad policy", json!({ "policy": { "nope": 1 } })),
        ("a span beyond reason", json!({ "policy": { "settle": 1_u64 << 63 } })),
        ("no program", json!({ "recipe": { "type": "command", "argv": [""] } })),
        ("bad user", json!({ "machines": { "user": "root; reboot", "privateKey": key } })),
        ("bad port", json!({ "machines": { "overrides": { "n": "h:99999" }, "privateKey": key } })),
        (
            "two host keys",
            json!({ "machines": { "hostKeys": { "n": format!("{PUBLIC_KEY}\nx") }, "privateKey": key } }),
        ),
    ] {
        let answer = world.call("PUT", &machines, &body.to_string()).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (400, "CCE.01400001"), "{what}");
        assert!(!answer.text.contains("canary-"), "{what}: {}", answer.text);
    }
    for place in ["h", "h:22", "fd00::1", "[fd00::1]:22"] {
        let body = json!({ "machines": { "overrides": { "n": place }, "privateKey": key } });
        let set = world.call("PUT", &machines, &body.to_string()).await;
        assert_eq!(set.json["machines"]["overrides"]["n"], place, "{}", set.text);
    }
    let body = json!({ "recipe": { "type": "script", "teardown": "canary-teardown", "install": "canary-install",
                       "limitSeconds": 60, "needs": ["kubeadm"] }, "policy": { "settle": 1000 } });
    let set = world.call("PUT", &machines, &body.to_string()).await;
    assert_eq!((set.status.as_u16(), &set.json["recipe"]), (200, &json!("script")), "{}", set.text);
    assert!(!set.text.contains("canary-"));
    let record: ClusterRecord =
        world.record(&keys::cluster(PROJECT, &ClusterId::new(&id))).await.unwrap();
    assert!(matches!(record.recipe, Some(Recipe::Script { limit_s: 60, .. })));
    assert_eq!(record.policy.settle.0, 1000);
    for (key, value) in world.dump().await {
        let text = String::from_utf8_lossy(&value).into_owned();
        assert!(!text.contains("canary-install"), "in clear in {key}");
    }
    let cluster = ClusterId::new(&id);
    let place = vault::recipe(PROJECT, &cluster);
    let opened = record.recipe.unwrap().map_commands(|command| {
        let clear = world.keys.unseal(&place, &serde_json::from_str(&command).unwrap());
        clear.map(|clear| String::from_utf8(clear.to_vec()).unwrap())
    });
    let Ok(Recipe::Script { teardown, install, .. }) = opened else {
        panic!("not the recipe that was set");
    };
    assert_eq!((&*teardown, &*install), ("canary-teardown", "canary-install"));
    let argv = json!(["/opt/reset", "--token", "canary-argument"]);
    let body = json!({ "recipe": { "type": "command", "argv": argv } });
    let set = world.call("PUT", &machines, &body.to_string()).await;
    assert_eq!(set.json["recipe"], "command", "{}", set.text);
    let key = keys::cluster(PROJECT, &cluster);
    let stored = world.store.get(&key, None).await.unwrap().unwrap();
    let stored = String::from_utf8_lossy(&stored.value).into_owned();
    assert!(stored.contains("/opt/reset") && !stored.contains("canary-argument"));
    let more = json!({ "policy": { "drain_tries": 7 } }).to_string();
    assert_eq!(
        world.call("PUT", &machines, &more).await.json["policy"]["settle"],
        1000,
        "what is left out stays"
    );
}

#[tokio::test]
async fn key_pairs_are_imported_once() {
    let world = World::new().await;
    let path = format!("/evenkeel/v1/projects/{PROJECT}/keypairs");
    let body = |name: &str, key: &str| json!({ "name": name, "publicKeys": [key] }).to_string();
    let other =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIHKqPQ2wLQ9LZ2XSgLFLrbbWmWqVsOUyZUk7nqEF3Wl x";
    for (name, key, status) in [
        ("new", PUBLIC_KEY, 201),
        ("new", PUBLIC_KEY, 201),
        ("new", other, 409),
        ("bad name", PUBLIC_KEY, 400),
        ("private", "-----BEGIN OPENSSH PRIVATE KEY-----", 400),
        ("second", &format!("{PUBLIC_KEY}\nssh-rsa AAAA x"), 400),
        ("return", &format!("{PUBLIC_KEY}\rx"), 400),
    ] {
        let answer = world.call("POST", &path, &body(name, key)).await;
        assert_eq!(answer.status.as_u16(), status, "{name}: {}", answer.text);
    }
    let listed = world.call("GET", &path, "").await;
    assert_eq!(listed.json["keypairs"].as_array().unwrap().len(), 2);
    assert!(listed.json["keypairs"][0]["fingerprints"][0].as_str().unwrap().starts_with("SHA256:"));
}

#[tokio::test]
async fn host_keys_are_shown_and_not_stored() {
    let world = World::new().await;
    let before = world.dump().await;
    let path = format!("/evenkeel/v1/projects/{PROJECT}/clusters/{CLUSTER}/machines/scan");
    let body = json!({ "nodes": ["node-a", "node-b"], "port": 2222, "address": "name",
                       "overrides": { "node-b": "gone" } });
    let shown = world.call("POST", &path, &body.to_string()).await;
    assert_eq!(shown.status.as_u16(), 200, "{}", shown.text);
    let hosts = &shown.json["hosts"];
    assert_eq!(hosts[0]["address"], "node-a:2222");
    assert_eq!(hosts[0]["fingerprint"], "SHA256:shown");
    assert_eq!(hosts[1]["error"], "host gone:22 cannot be reached");
    for (body, said) in [
        (json!({}), "nodes"),
        (json!({ "nodes": ["nope"] }), "nope"),
        (json!({ "nodes": ["node-a"], "overrides": { "node-a": "a b" } }), "overrides"),
    ] {
        let refused = world.call("POST", &path, &body.to_string()).await;
        assert_eq!(refused.status.as_u16(), 400, "{}", refused.text);
        assert!(refused.message().contains(said), "{}", refused.message());
    }
    let changed: Vec<_> =
        world.dump().await.into_iter().filter(|kv| !before.contains(kv)).map(|kv| kv.0).collect();
    assert!(changed.iter().all(|key| key.starts_with("replay/")), "{changed:?}");
}

#[tokio::test]
async fn a_webhook_is_stored_without_its_url_and_secret_in_clear() {
    let world = World::new().await;
    let path = format!("/evenkeel/v1/projects/{PROJECT}/clusters/{CLUSTER}/machines");
    let webhook = json!({ "url": "https://h/?t=canary-token", "secret": "canary-secret-0123" });
    for recipe in [
        json!({ "type": "command", "webhook": webhook }),
        json!({ "type": "kubeadm", "reimage": { "webhook": webhook, "returnLimitSeconds": 60 } }),
    ] {
        let body = json!({ "recipe": recipe }).to_string();
        let set = world.call("PUT", &path, &body).await;
        assert_eq!(set.status.as_u16(), 200, "{}", set.text);
        assert!(!set.text.contains("canary-"), "{}", set.text);
        for (key, value) in world.dump().await {
            let text = String::from_utf8_lossy(&value).into_owned();
            let named = ["canary-token", "canary-secret"];
            assert!(!named.iter().any(|canary| text.contains(canary)), "in clear in {key}");
        }
    }
    let key = keys::cluster(PROJECT, &ClusterId::new(CLUSTER));
    let record: ClusterRecord = world.record(&key).await.unwrap();
    assert_eq!(record.recipe.unwrap().reimage().unwrap().return_limit_s, 60);
}
