//! Canaries: a password, a script and a secret key may stand nowhere but behind a seal.

use crate::support::*;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use std::io;
use std::sync::{Arc, Mutex};
use tracing_subscriber::fmt::MakeWriter;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Log;
    fn make_writer(&'a self) -> Log {
        self.clone()
    }
}

fn pool_with_secrets() -> String {
    json!({ "metadata": { "name": "canaries" }, "spec": { "nodeTemplate": {
        "os": "x",
        "login": { "userPassword": { "username": "root", "password": CANARY_PASSWORD } },
        "extendParam": { "alpha.cce/preInstall": STANDARD.encode(CANARY_SCRIPT), "init-node-password": CANARY_PASSWORD },
    } } })
    .to_string()
}

#[tokio::test]
async fn canaries_are_in_no_record_no_log_and_no_foreign_answer() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(log.clone());
    let guard = tracing::subscriber::set_default(subscriber.finish());
    let world = World::new().await;
    let pools = format!("{}/nodepools", base());
    let made = world.call("POST", &pools, &pool_with_secrets()).await;
    assert_eq!(made.status.as_u16(), 201, "{}", made.text);
    let id = made.json["metadata"]["uid"].as_str().unwrap().to_owned();
    let script = STANDARD.encode(CANARY_SCRIPT);
    assert!(made.text.contains(&script), "whoever may read the pool may read its scripts");
    let default = json!({ "spec": { "nodePoolID": "DefaultPool", "maxUnavailable": 1, "nodeTemplate": {
        "lifeCycle": { "preInstall": script }, "login": { "userPassword": { "password": CANARY_PASSWORD } } } } });
    let mut refused = default.clone();
    refused["spec"]["maxUnavailable"] = json!(0);
    refused["spec"]["nodeTemplate"]["login"]["userPassword"]["password"] = json!([CANARY_PASSWORD]);
    let answers = [
        world.upgrade("DefaultPool", &default).await,
        world.upgrade("DefaultPool", &refused).await,
        world.upgrade(POOL, &default).await,
        world.call("POST", &pools, &pool_with_secrets()).await,
        world.call("GET", "/v3/auth/domains", "").await,
    ];
    let job = answers[0].json["jobid"].as_str().unwrap().to_owned();
    assert_eq!(answers[1].status.as_u16(), 400);
    let detail =
        world.call("GET", &format!("/evenkeel/v1/projects/{PROJECT}/jobs/{job}"), "").await;
    let token = json!({ "auth": { "identity": { "methods": ["password"],
        "password": { "user": { "name": "admin", "password": USER_PASSWORD } } } } });
    let token = world.call("POST", "/v3/auth/tokens", &token.to_string()).await;
    assert_eq!(token.status.as_u16(), 201);
    let token = token.headers["x-subject-token"].to_str().unwrap().to_owned();
    drop(guard);

    let canaries =
        [CANARY_SCRIPT, CANARY_PASSWORD, &script, SK, USER_PASSWORD, "canary-kubeconfig", &token];
    for answer in answers.iter().chain([&detail]) {
        for canary in canaries {
            assert!(!answer.text.contains(canary), "{canary} in {}", answer.text);
        }
    }
    assert!(!made.text.contains(CANARY_PASSWORD) && !made.text.contains("$6$"));
    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for canary in canaries {
        assert!(!logged.contains(canary), "{canary} in the log");
    }
    let dump = world.dump().await;
    assert!(dump.iter().any(|(key, _)| key.contains(&id)));
    for (key, value) in &dump {
        let text = format!("{key} {}", String::from_utf8_lossy(value));
        for canary in canaries {
            assert!(!text.contains(canary), "{canary} in {key}");
        }
        assert!(!text.contains("$6$"), "a node's password hash in {key}");
    }
}

#[tokio::test]
async fn every_mutating_call_leaves_one_audit_record() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_max_level(tracing::Level::INFO)
        .with_writer(log.clone());
    let guard = tracing::subscriber::set_default(subscriber.finish());
    let world = World::new().await;
    let accepted = world.upgrade(POOL, &minimal(POOL)).await;
    let refused = world.upgrade(POOL, &json!({})).await;
    let unsigned = world
        .send(&world.sign(&call("PUT", &upgrade_path(POOL), "{}")).without("authorization"))
        .await;
    world.get("/clusters").await;
    drop(guard);
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let records: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|record| record["target"] == "audit")
        .collect();
    let ids: Vec<&str> =
        records.iter().map(|record| record["fields"]["request_id"].as_str().unwrap()).collect();
    let answers = [&accepted, &refused, &unsigned];
    let expected: Vec<&str> =
        answers.iter().map(|a| a.headers["x-request-id"].to_str().unwrap()).collect();
    assert_eq!(ids, expected, "reads leave none");
    let fields = |index: usize, key: &str| records[index]["fields"][key].clone();
    assert_eq!(
        (fields(0, "status"), fields(0, "accepted"), fields(0, "via")),
        (json!(200), json!(true), json!(AK))
    );
    assert_eq!((fields(1, "status"), fields(1, "code")), (json!(400), json!("CCE.01400001")));
    assert_eq!((fields(2, "status"), fields(2, "user")), (json!(401), json!("-")));
}
