//! Agents: tokens that work once, credentials that see one node, and their end.

use crate::support::*;
use evenkeel_server::agents::CallError;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::time::Duration;

fn base_path() -> String {
    format!("/evenkeel/v1/projects/{PROJECT}/clusters/{CLUSTER}/agents")
}

const POLL: &str = "/evenkeel/v1/agent/calls?boot_id=boot-1&version=0.1.0&protocol=1";

async fn token(world: &World, node: &str) -> String {
    let made = world.call("POST", &format!("{}/{node}/token", base_path()), "{}").await;
    assert_eq!(made.status.as_u16(), 201, "{}", made.text);
    made.json["token"].as_str().unwrap().to_owned()
}

fn plain(method: &str, target: &str, body: &Value) -> Signed {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    Signed { method: method.into(), target: target.into(), headers: vec![], body }
}

async fn enrol(world: &World, token: &str, machine: &str) -> Answer {
    let body = json!({ "token": token, "machine_id": machine, "version": "0.1.0" });
    world.send(&plain("POST", "/evenkeel/v1/agent/enrol", &body)).await
}

/// An agent of a node: its credential and its id.
async fn agent(world: &World, node: &str, machine: &str) -> (String, String) {
    let enrolled = enrol(world, &token(world, node).await, machine).await;
    assert_eq!(enrolled.status.as_u16(), 201, "{}", enrolled.text);
    let text = |key: &str| enrolled.json[key].as_str().unwrap().to_owned();
    (text("credential"), text("agent"))
}

fn bearer(method: &str, target: &str, body: &Value, credential: &str) -> Signed {
    plain(method, target, body).with("authorization", &format!("Bearer {credential}"))
}

fn end(boot: &str) -> Value {
    json!({ "boot_id": boot, "status": 0, "stdout": "{}", "stderr": "" })
}

#[tokio::test]
async fn a_token_works_once_for_one_host() {
    let world = World::new().await;
    let first = token(&world, NODE_A).await;
    let newer = token(&world, NODE_A).await;
    let refused = |answer: &Answer| {
        assert_eq!(
            (answer.status.as_u16(), answer.code()),
            (401, "CCE.01401001"),
            "{}",
            answer.text
        );
    };
    refused(&enrol(&world, &first, "machine-node-a").await);
    refused(&enrol(&world, "nonsense", "machine-node-a").await);
    let other = enrol(&world, &newer, "machine-node-b").await;
    assert_eq!((other.status.as_u16(), other.code()), (403, "CCE.01403001"), "{}", other.text);
    assert!(other.message().contains("machine-node-b"), "{}", other.text);
    let malformed = world.send(&plain("POST", "/evenkeel/v1/agent/enrol", &json!({}))).await;
    assert_eq!(malformed.status.as_u16(), 400);
    let enrolled = enrol(&world, &newer, "machine-node-a").await;
    assert_eq!(enrolled.status.as_u16(), 201, "{}", enrolled.text);
    assert_eq!(
        (&enrolled.json["node"], &enrolled.json["cluster"]),
        (&json!("node-a"), &json!("lab"))
    );
    refused(&enrol(&world, &newer, "machine-node-a").await);
    let late = token(&world, NODE_B).await;
    world.clock.fetch_add(3_600_001, Ordering::SeqCst);
    refused(&enrol(&world, &late, "machine-node-b").await);
    // Neither a token nor a credential stands anywhere but as a hash.
    let credential = enrolled.json["credential"].as_str().unwrap();
    let secret = credential.split_once('.').unwrap().1;
    for (key, value) in world.dump().await {
        let value = String::from_utf8_lossy(&value).into_owned();
        for hidden in [newer.as_str(), late.as_str(), secret] {
            assert!(!key.contains(hidden) && !value.contains(hidden), "{key}");
        }
    }
}

#[tokio::test]
async fn two_hosts_with_one_token_are_one_too_many() {
    let world = World::new().await;
    let token = token(&world, NODE_A).await;
    let (one, two) = tokio::join!(
        enrol(&world, &token, "machine-node-a"),
        enrol(&world, &token, "machine-node-a")
    );
    let mut statuses = [one.status.as_u16(), two.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 401]);
}

#[tokio::test(start_paused = true)]
async fn an_agent_sees_the_calls_of_its_own_node() {
    let world = World::new().await;
    let (a, id_a) = agent(&world, NODE_A, "machine-node-a").await;
    let (b, _) = agent(&world, NODE_B, "machine-node-b").await;
    let exchange = world.agents.clone();
    let asked = tokio::spawn(async move {
        exchange.call(&id_a, vec!["probe".into()], "{}".into(), Duration::from_secs(20)).await
    });
    tokio::task::yield_now().await;
    let nothing = world.send(&bearer("GET", POLL, &Value::Null, &b)).await;
    assert_eq!(nothing.json, json!({ "call": null }), "a call to another node");
    // Half a minute has passed in that poll: nobody waits any more.
    assert!(matches!(asked.await.unwrap(), Err(CallError::Away(_))));
    let (exchange, id_a) = (world.agents.clone(), a.split_once('.').unwrap().0.to_owned());
    let asked = tokio::spawn(async move {
        exchange.call(&id_a, vec!["probe".into()], "{}".into(), Duration::from_secs(20)).await
    });
    let call = world.send(&bearer("GET", POLL, &Value::Null, &a)).await;
    assert_eq!(call.json["call"]["args"], json!(["probe"]), "{}", call.text);
    let target = format!("/evenkeel/v1/agent/calls/{}", call.json["call"]["id"].as_str().unwrap());
    for (credential, boot, status) in
        [(&b, "boot-1", 404), (&a, "boot-2", 404), (&a, "boot-1", 200), (&a, "boot-1", 404)]
    {
        let answer = world.send(&bearer("POST", &target, &end(boot), credential)).await;
        assert_eq!(answer.status.as_u16(), status, "{boot}: {}", answer.text);
    }
    assert_eq!(asked.await.unwrap().unwrap().stdout, "{}");
    let taken =
        world.send(&bearer("GET", &POLL.replace("boot-1", "boot-2"), &Value::Null, &a)).await;
    assert_eq!((taken.status.as_u16(), taken.code()), (409, "CCE.01409001"), "{}", taken.text);
    let odd = world.send(&bearer("GET", &POLL.replace("boot-1", "%2F"), &Value::Null, &a)).await;
    assert_eq!(odd.status.as_u16(), 400);
}

#[tokio::test(start_paused = true)]
async fn revoking_works_at_once() {
    let world = World::new().await;
    let (a, _) = agent(&world, NODE_A, "machine-node-a").await;
    let open = token(&world, NODE_A).await;
    let shown = world.call("GET", &base_path(), "").await;
    let item = &shown.json["items"][0];
    assert_eq!(
        (&item["node"], &item["connected"]),
        (&json!("node-a"), &json!(false)),
        "{}",
        shown.text
    );
    assert!(item["tokenExpiresAt"].is_string() && item.get("token").is_none(), "{}", shown.text);
    let request = bearer("GET", POLL, &Value::Null, &a);
    let begun = tokio::time::Instant::now();
    let (polled, revoked) = tokio::join!(world.send(&request), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.call("DELETE", &format!("{}/{NODE_A}", base_path()), "").await
    });
    assert_eq!(revoked.status.as_u16(), 200, "{}", revoked.text);
    assert_eq!((polled.status.as_u16(), polled.code()), (401, "APIGW.0301"), "{}", polled.text);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    for (method, target) in [("GET", POLL), ("POST", "/evenkeel/v1/agent/calls/x")] {
        let answer = world.send(&bearer(method, target, &Value::Null, &a)).await;
        assert_eq!(answer.status.as_u16(), 401, "{target}");
    }
    assert_eq!(enrol(&world, &open, "machine-node-a").await.status.as_u16(), 401, "nor a token");
    let again = world.call("DELETE", &format!("{}/{NODE_A}", base_path()), "").await;
    assert_eq!(again.status.as_u16(), 404);
    assert_eq!(world.count("agents/").await + world.count("agent-tokens/").await, 0);
}

#[tokio::test]
async fn a_new_enrolment_replaces_the_old_one() {
    let world = World::new().await;
    let (old, _) = agent(&world, NODE_A, "machine-node-a").await;
    let (_new, _) = agent(&world, NODE_A, "machine-node-a").await;
    let answer = world.send(&bearer("GET", POLL, &Value::Null, &old)).await;
    assert_eq!(answer.status.as_u16(), 401);
    assert_eq!(world.count("agents/").await, 1);
}

#[tokio::test]
async fn credentials_do_not_cross_over() {
    let world = World::new().await;
    let (credential, id) = agent(&world, NODE_A, "machine-node-a").await;
    // An agent is nobody to the rest of the API.
    for target in ["/v3/projects".to_owned(), format!("{}/nodes", base()), base_path()] {
        let answer = world.send(&bearer("GET", &target, &Value::Null, &credential)).await;
        assert_eq!(answer.status.as_u16(), 401, "{target}");
    }
    // Whoever may do everything else is no agent, and a wrong secret is none.
    let signed = world.sign(&call("GET", POLL, ""));
    assert_eq!(world.send(&signed).await.status.as_u16(), 401);
    let unsigned = plain("GET", POLL, &Value::Null);
    assert_eq!(world.send(&unsigned).await.status.as_u16(), 401);
    for wrong in [format!("{id}.wrong"), id.clone(), format!("{id}."), "../x.y".to_owned()] {
        let answer = world.send(&bearer("GET", POLL, &Value::Null, &wrong)).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (401, "APIGW.0301"), "{wrong}");
    }
    let twice = bearer("GET", POLL, &Value::Null, &credential)
        .with("authorization", &format!("Bearer {credential}"));
    assert_eq!(world.send(&twice).await.status.as_u16(), 401);
}

#[tokio::test(start_paused = true)]
async fn an_agent_of_another_version_is_refused_by_name() {
    let world = World::new().await;
    let (a, id) = agent(&world, NODE_A, "machine-node-a").await;
    // Newer versions may send more than this one knows.
    let newer = POLL.replace("version=0.1.0&protocol=1", "version=0.9.0&protocol=2&hint=x");
    let refused = world.send(&bearer("GET", &newer, &Value::Null, &a)).await;
    assert_eq!(
        (refused.status.as_u16(), refused.code()),
        (400, "CCE.01400001"),
        "{}",
        refused.text
    );
    let ours = env!("CARGO_PKG_VERSION");
    for words in ["0.9.0", "protocol 2", ours, "protocol 1", "restart its agent"] {
        assert!(refused.message().contains(words), "{words}: {}", refused.text);
    }
    let begun = tokio::time::Instant::now();
    let asked = world.agents.call(&id, vec!["probe".into()], "{}".into(), Duration::from_secs(20));
    assert!(matches!(asked.await, Err(CallError::Misfit(_))));
    assert_eq!(begun.elapsed(), Duration::ZERO);
    let shown = world.call("GET", &base_path(), "").await;
    let item = &shown.json["items"][0];
    assert_eq!(item["connected"], json!(false));
    assert!(item["refused"].as_str().unwrap().contains("0.9.0"), "{}", shown.text);
}
