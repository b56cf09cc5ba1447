//! The main operation: one row per rule. A refused request leaves no trace.

use crate::support::*;
use evenkeel_engine::ids::{ClusterId, NodeId, PoolId};
use evenkeel_server::http::vault;
use evenkeel_server::records::{
    AddressRule, AgentRecord, EnrolledAgent, Hook, Image, Kubeadm, MachineSettings, NodeRecord,
    PoolRecord, Recipe, Reimage, keys,
};
use serde_json::{Value, json};

/// The minimal request with one field set.
fn with(pool: &str, field: &str, value: Value) -> Value {
    let mut body = minimal(pool);
    body["spec"][field] = value;
    body
}

fn without(field: &str) -> Value {
    let mut body = minimal(POOL);
    body["spec"].as_object_mut().unwrap().remove(field);
    body
}

fn template(value: Value) -> Value {
    with("DefaultPool", "nodeTemplate", value)
}

/// (what, pool of the path, body, text that the message has)
pub fn refused() -> Vec<(&'static str, &'static str, Value, &'static str)> {
    let life = json!({ "preInstall": "ZWNobyAx" });
    let key = json!({ "sshKey": "kp" });
    let big = "A".repeat(10_244);
    vec![
        ("no maxUnavailable", POOL, without("maxUnavailable"), "spec.maxUnavailable"),
        ("zero", POOL, with(POOL, "maxUnavailable", json!(0)), "spec.maxUnavailable: 0"),
        ("over the cap", POOL, with(POOL, "maxUnavailable", json!(21)), "spec.maxUnavailable: 21"),
        ("fraction", POOL, with(POOL, "maxUnavailable", json!(2.5)), "2.5"),
        ("text", POOL, with(POOL, "maxUnavailable", json!("5")), "\"5\""),
        ("no pool", POOL, without("nodePoolID"), "spec.nodePoolID"),
        (
            "other pool",
            POOL,
            with(POOL, "nodePoolID", json!(OTHER_POOL)),
            "is not the pool of the path",
        ),
        ("empty list", POOL, with(POOL, "nodeIDs", json!([])), "leave it out to mean all"),
        ("unknown node", POOL, with(POOL, "nodeIDs", json!(["nope"])), "spec.nodeIDs[0]: \"nope\""),
        (
            "foreign node",
            POOL,
            with(POOL, "nodeIDs", json!([NODE_FOREIGN])),
            "is not a node of this cluster",
        ),
        (
            "node of another pool",
            POOL,
            with(POOL, "nodeIDs", json!([NODE_A, NODE_ELSEWHERE])),
            "spec.nodeIDs[1]",
        ),
        ("duplicates", POOL, with(POOL, "nodeIDs", json!([NODE_A, NODE_A])), "more than once"),
        (
            "unknown skipped",
            POOL,
            with(POOL, "skippedNodes", json!(["nope"])),
            "spec.skippedNodes[0]",
        ),
        ("retries", POOL, with(POOL, "retryTimes", json!(11)), "from 0 to 10"),
        ("force", POOL, with(POOL, "force", json!("yes")), "spec.force"),
        ("no spec", POOL, json!({ "kind": "NodePool" }), "spec is mandatory"),
        ("kind", POOL, json!({ "kind": "Node", "spec": minimal(POOL)["spec"] }), "kind"),
        ("no template", "DefaultPool", minimal("DefaultPool"), "is mandatory for DefaultPool"),
        ("no login", "DefaultPool", template(json!({ "lifeCycle": life })), "nodeTemplate.login"),
        (
            "no lifeCycle",
            "DefaultPool",
            template(json!({ "login": key })),
            "nodeTemplate.lifeCycle",
        ),
        (
            "not base64",
            "DefaultPool",
            template(json!({ "lifeCycle": { "preInstall": "%%" }, "login": key })),
            "nodeTemplate.lifeCycle.preInstall",
        ),
        (
            "scripts too long",
            "DefaultPool",
            template(json!({ "lifeCycle": { "preInstall": big }, "login": key })),
            "10240",
        ),
        (
            "no such key pair",
            "DefaultPool",
            template(json!({ "lifeCycle": life, "login": { "sshKey": "nobody" } })),
            "evenkeel keypair import",
        ),
        (
            "both logins",
            "DefaultPool",
            template(json!({ "lifeCycle": life,
                "login": { "sshKey": "kp", "userPassword": { "password": CANARY_PASSWORD } } })),
            "exactly one",
        ),
        (
            "weak password",
            "DefaultPool",
            template(
                json!({ "lifeCycle": life, "login": { "userPassword": { "password": "aaaaaaaa" } } }),
            ),
            "fewer than three",
        ),
        (
            "control plane",
            "DefaultPool",
            {
                let mut body = template(json!({ "lifeCycle": life, "login": key }));
                body["spec"]["nodeIDs"] = json!([NODE_CONTROL]);
                body
            },
            "is a control-plane node",
        ),
    ]
}

#[tokio::test]
async fn every_rule_is_checked_and_a_refusal_is_inert() {
    let world = World::new().await;
    for (what, pool, body, text) in refused() {
        let before = world.dump().await;
        let answer = world.upgrade(pool, &body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code()),
            (400, "CCE.01400001"),
            "{what}: {}",
            answer.text
        );
        assert!(answer.message().contains(text), "{what}: {}", answer.message());
        assert_eq!(world.jobs().await, 0, "{what}");
        assert_eq!(world.dump().await, before, "{what}: a refused call stores nothing");
    }
}

#[tokio::test]
async fn all_violations_come_in_one_answer() {
    let world = World::new().await;
    let body = json!({ "spec": { "nodePoolID": OTHER_POOL, "maxUnavailable": 0, "retryTimes": 99, "nodeIDs": [] } });
    let answer = world.upgrade(POOL, &body).await;
    for field in ["nodePoolID", "maxUnavailable", "retryTimes", "nodeIDs"] {
        assert!(answer.message().contains(field), "{field}: {}", answer.message());
    }
    world.cluster(|cluster| cluster.recipe = None).await;
    let answer = world.upgrade(POOL, &with(POOL, "nodeIDs", json!(["x", NODE_ELSEWHERE]))).await;
    for text in ["evenkeel cluster set-machines lab", "nodeIDs[0]", "nodeIDs[1]"] {
        assert!(answer.message().contains(text), "{text}: {}", answer.message());
    }
    assert_eq!(world.jobs().await, 0);
}

#[tokio::test]
async fn a_recipe_that_needs_machines_needs_them_set() {
    let world = World::new().await;
    let script = Recipe::Script {
        teardown: "a".into(),
        install: "b".into(),
        limit_s: 1,
        needs: vec![],
        reimage: None,
        resume: false,
    };
    world.cluster(|cluster| cluster.recipe = Some(script)).await;
    let answer = world.upgrade(POOL, &minimal(POOL)).await;
    assert_eq!(answer.status.as_u16(), 400);
    assert!(answer.message().contains("no SSH access"), "{}", answer.message());
    assert_eq!(world.jobs().await, 0);
}

#[tokio::test]
async fn bodies_and_content_types() {
    let world = World::new().await;
    let good = minimal(POOL).to_string();
    let rows: Vec<(&str, &str, String, u16, &str)> = vec![
        ("pem", "application/x-pem-file", good.clone(), 400, "CCE.01400006"),
        ("form", "multipart/form-data; boundary=x", good.clone(), 400, "CCE.01400006"),
        ("text", "text/plain", good.clone(), 400, "CCE.01400006"),
        ("not JSON", "application/json", "{\"spec\":\n  {]".into(), 400, "CCE.01400001"),
        ("empty", "application/json", String::new(), 400, "CCE.01400001"),
        ("list", "application/json", "[]".into(), 400, "CCE.01400001"),
        ("twice", "application/json", "{\"spec\":{},\"Spec\":{}}".into(), 400, "CCE.01400001"),
        ("too long", "application/json", " ".repeat(256 * 1024 + 1), 400, "CCE.01400001"),
        ("charset", "application/json;charset=utf-8", good.clone(), 200, ""),
    ];
    for (what, kind, body, status, code) in rows {
        world.clock.fetch_add(1000, std::sync::atomic::Ordering::SeqCst);
        let mut request = call("POST", &upgrade_path(POOL), &body);
        request.headers = vec![("content-type", kind.to_owned())];
        let answer = world.send(&world.sign(&request)).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code()),
            (status, code),
            "{what}: {}",
            answer.text
        );
        if what == "not JSON" {
            assert!(answer.message().contains("line 2 column"), "{}", answer.message());
        }
    }
}

#[tokio::test]
async fn unknown_pools_are_missing() {
    let world = World::new().await;
    for pool in ["nope", "12345678-0000-4000-8000-000000000000"] {
        let answer = world.upgrade(pool, &minimal(pool)).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (404, "CCE.01404001"), "{pool}");
    }
}

/// A recipe that works inside the installed system cannot bring another OS: that is refused, not ignored.
#[tokio::test]
async fn another_image_needs_a_recipe_that_reinstalls() {
    let world = World::new().await;
    let cluster = ClusterId::new(CLUSTER);
    let pool_key = keys::pool(PROJECT, &cluster, &PoolId::new(POOL));
    let mut pool: PoolRecord = world.record(&pool_key).await.unwrap();
    pool.template.image = Some(os("Debian 13"));
    world.put(pool_key, &pool).await;
    let node_key = keys::node(PROJECT, &cluster, &NodeId::new(NODE_A));
    let mut node: NodeRecord = world.record(&node_key).await.unwrap();
    node.image = Some(os("Debian 12"));
    world.put(node_key, &node).await;
    world.cluster(|c| c.recipe = Some(kubeadm(None))).await;
    let refused = world.upgrade(POOL, &minimal(POOL)).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (400, "CCE.01400001"));
    for part in ["os Debian 13", "node-a", "os Debian 12", "reinstall"] {
        assert!(refused.message().contains(part), "{}", refused.message());
    }
    assert_eq!(world.jobs().await, 0);
    assert!(refused.message().contains("--reimage"), "{}", refused.message());
    // With a hook the machines are reinstalled: it is accepted.
    reinstalling(&world).await;
    assert_eq!(world.upgrade(POOL, &minimal(POOL)).await.status.as_u16(), 200);
    assert!(world.jobs().await > 0);
}

/// SSH access, and the recipe `kubeadm` with a hook that reinstalls machines.
async fn reinstalling(world: &World) {
    let hook = Hook::Program { argv: vec!["/opt/reinstall".into()] };
    let hook = Reimage { hook, limit_s: 60, return_limit_s: 60, teardown: true };
    let cluster = ClusterId::new(CLUSTER);
    let key = world.keys.seal(&vault::private_key(PROJECT, &cluster), b"key").unwrap();
    world
        .cluster(|c| {
            c.machines = Some(MachineSettings {
                user: "root".into(),
                port: 22,
                private_key: key,
                public_key: PUBLIC_KEY.into(),
                sudo: false,
                address: AddressRule::InternalIp,
                overrides: [].into(),
                host_keys: [].into(),
                host_cas: Vec::new(),
            });
            c.recipe = Some(kubeadm(Some(hook)));
        })
        .await;
}

fn kubeadm(reimage: Option<Reimage>) -> Recipe {
    Recipe::Kubeadm(Kubeadm {
        limit_s: 60,
        endpoint: None,
        cri_socket: None,
        ignore_preflight: Vec::new(),
        data_dirs: Vec::new(),
        reimage,
    })
}

/// An agent would go with the disk: refused before a job exists, by name, with the ways out.
#[tokio::test]
async fn what_reinstalls_machines_is_refused_for_nodes_with_agents() {
    let world = World::new().await;
    reinstalling(&world).await;
    let (cluster, node) = (ClusterId::new(CLUSTER), NodeId::new(NODE_A));
    let key = keys::agent(PROJECT, &cluster, &node);
    let mut record = AgentRecord { node, name: "node-a".into(), token: None, agent: None };
    // A token that nobody has used yet is no agent.
    world.put(key.clone(), &record).await;
    assert_eq!(world.upgrade(POOL, &minimal(POOL)).await.status.as_u16(), 200);

    let world = World::new().await;
    reinstalling(&world).await;
    record.agent = Some(EnrolledAgent {
        id: "agent-1".into(),
        secret_sha256: "0".into(),
        enrolled_ms: 0,
        version: "0.1.0".into(),
    });
    world.put(key, &record).await;
    let refused = world.upgrade(POOL, &minimal(POOL)).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (400, "CCE.01400001"));
    for part in ["1 of the nodes (node-a)", "through agents", "agent revoke", "skippedNodes"] {
        assert!(refused.message().contains(part), "{part}: {}", refused.message());
    }
    assert_eq!(world.jobs().await, 0);
    // Skipped, it is in nobody's way; without the hook an agent is welcome.
    let mut body = minimal(POOL);
    body["spec"]["skippedNodes"] = json!([NODE_A]);
    assert_eq!(world.upgrade(POOL, &body).await.status.as_u16(), 200);
    let world = World::new().await;
    reinstalling(&world).await;
    world.put(keys::agent(PROJECT, &cluster, &NodeId::new(NODE_A)), &record).await;
    world.cluster(|c| c.recipe = Some(kubeadm(None))).await;
    assert_eq!(world.upgrade(POOL, &minimal(POOL)).await.status.as_u16(), 200);
}

fn os(name: &str) -> Image {
    Image { os: Some(name.into()), ..Image::default() }
}
