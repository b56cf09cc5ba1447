//! Clients that hang up, send too much, or mean more than they say.

use crate::support::*;
use axum::body::Body;
use axum::http::Request;
use evenkeel_engine::ids::{ClusterId, JobId, PoolId};
use evenkeel_engine::sync::{Status, SyncState};
use evenkeel_engine::time::Time;
use evenkeel_server::records::{JobRecord, PoolRecord, keys};
use evenkeel_server::store::{Store, Txn};
use serde_json::json;
use std::future::Future;
use std::task::{Context, Waker};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::ServiceExt;

/// More than the sockets of both sides hold, far beyond the limit of 256 KiB.
const FAR_TOO_LONG: usize = 11 * 1024 * 1024;

#[tokio::test]
async fn a_client_that_hangs_up_leaves_nothing_half_done() {
    for polls in 1..6 {
        let world = World::new().await;
        let signed = world.sign(&call("POST", &upgrade_path(POOL), &minimal(POOL).to_string()));
        let mut request = Request::builder().method("POST").uri(&signed.target);
        for (name, value) in &signed.headers {
            request = request.header(name, value);
        }
        let request = request.body(Body::from(signed.body.clone())).unwrap();
        let mut answer = Box::pin(world.router.clone().oneshot(request));
        for _ in 0..polls {
            let waiting = answer.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(waiting.is_pending(), "it is gone before the end");
        }
        drop(answer);
        // Other tasks of this thread go on whenever this one gives way.
        for _ in 0..10_000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(world.jobs().await, 3, "header, right and index of one job");
        let again = world.send(&signed).await;
        assert_eq!(again.status.as_u16(), 200, "{}", again.text);
        assert_eq!(world.jobs().await, 3, "and its answer was remembered");
    }
}

#[tokio::test]
async fn a_body_far_too_long_is_answered_and_not_cut_off() {
    let world = World::new().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = world.router.clone();
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let signed = world.sign(&call("POST", &upgrade_path(POOL), "{}"));
    let mut head = format!("POST {} HTTP/1.1\r\ncontent-length: {FAR_TOO_LONG}\r\n", signed.target);
    for (name, value) in &signed.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("connection: close\r\n\r\n");
    let talk = async {
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        socket.write_all(head.as_bytes()).await.unwrap();
        let sent = socket.write_all(&vec![b' '; FAR_TOO_LONG]).await;
        sent.expect("all of it is taken");
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    };
    let limit = Duration::from_secs(30);
    let answer = tokio::time::timeout(limit, talk).await.expect("an answer within 30 s");
    server.abort();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("longer than 262144 bytes"), "{answer}");
}

#[tokio::test]
async fn a_switch_of_credentials_takes_the_old_one_off_the_nodes() {
    let world = World::new().await;
    let path = format!("{}/nodepools/{POOL}", base());
    let login = |login: serde_json::Value| {
        json!({ "spec": { "ignoreInitialNodeCount": true, "nodeTemplate": { "login": login } } })
            .to_string()
    };
    let ops = json!({ "userPassword": { "username": "ops", "password": CANARY_PASSWORD } });
    // (login, whose password is taken off, whose keys are taken off)
    let rows = [
        (json!({ "userPassword": { "password": CANARY_PASSWORD } }), None, None),
        (json!({ "sshKey": "kp", "removeUserPassword": true }), Some("root"), None),
        (
            json!({ "userPassword": { "password": CANARY_PASSWORD }, "removeSSHKey": true }),
            None,
            Some("root"),
        ),
        (json!({ "sshKey": "kp" }), None, None),
        // A key pair is root's; the password was of somebody else.
        (ops.clone(), None, None),
        (json!({ "sshKey": "kp", "removeUserPassword": true }), Some("ops"), None),
        (ops.clone(), None, None),
        (json!({ "sshKey": "kp" }), None, None),
        (json!({ "removeUserPassword": true }), Some("ops"), None),
        (ops, None, None),
        (json!({ "removeSSHKey": true }), None, Some("root")),
        (json!({ "removeUserPassword": true }), Some("ops"), Some("root")),
    ];
    for (sent, password_off, keys_off) in rows {
        let answer = world.call("PUT", &path, &login(sent.clone())).await;
        assert_eq!(answer.status.as_u16(), 200, "{}", answer.text);
        let key = keys::pool(PROJECT, &ClusterId::new(CLUSTER), &PoolId::new(POOL));
        let record: PoolRecord = world.record(&key).await.unwrap();
        let kept = record.template.login;
        let removed = (kept.remove_password.as_deref(), kept.remove_keys.as_deref());
        assert_eq!(removed, (password_off, keys_off), "{sent}");
    }
}

#[tokio::test]
async fn storage_is_checked_for_at_most_200_nodes_even_unnamed() {
    let world = World::new().await;
    for number in 0..199 {
        let id = format!("eeeeeeee-1111-4000-8000-{number:012}");
        let name = format!("many-{number}");
        world.node(PROJECT, CLUSTER, &id, &name, POOL).await;
    }
    let mut body = minimal(POOL);
    body["spec"]["validateStorage"] = json!(true);
    let answer = world.upgrade(POOL, &body).await;
    assert_eq!(answer.status.as_u16(), 400, "{}", answer.text);
    assert!(answer.message().contains("201 nodes"), "{}", answer.message());
    assert_eq!(world.jobs().await, 0);
    body["spec"]["skippedNodes"] = json!([NODE_A]);
    let answer = world.upgrade(POOL, &body).await;
    assert_eq!(answer.status.as_u16(), 200, "200 are left: {}", answer.text);
}

#[tokio::test]
async fn a_job_without_a_reset_says_so_in_every_state() {
    let world = World::new().await;
    let template = json!({ "lifeCycle": {}, "login": { "sshKey": "kp" },
        "volumeConfig": { "volumeResetPolicy": "retain_custom_volumes" } });
    let mut body = minimal("DefaultPool");
    body["spec"]["nodeTemplate"] = template;
    let answer = world.upgrade("DefaultPool", &body).await;
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text);
    let job = answer.json["jobid"].as_str().unwrap().to_owned();
    let field = "spec.nodeTemplate.volumeConfig.volumeResetPolicy";
    let params = &answer.json["spec"]["extendParam"];
    assert!(
        params["ignoredFields"].as_str().unwrap().contains(field),
        "nothing is emptied, so nothing is retained: {params}"
    );
    let pool = world.get(&format!("/clusters/{CLUSTER}/nodepools/DefaultPool")).await;
    assert_eq!(
        pool.json["status"]["configurationSyncedNodeCount"], 0,
        "none carries what the running job brings: {}",
        pool.text
    );
    let cluster = ClusterId::new(CLUSTER);
    let key = keys::job_state(PROJECT, &cluster, &JobId::new(&job));
    let at = Time(1_000_001);
    let failed = Status::Failed { at, reason: "node-d failed".into() };
    for status in [Status::Running, Status::Success { at }, failed] {
        let mut state: SyncState = world.record(&key).await.unwrap();
        state.status = status.clone();
        let txn = Txn::new().put(&key, evenkeel_server::records::encode(&state));
        world.store.txn(txn).await.unwrap();
        let shown = world.get(&format!("/jobs/{job}")).await;
        let reason = shown.json["status"]["reason"].as_str().unwrap();
        assert!(
            reason.contains("nothing was reset") || reason.contains("nothing is reset"),
            "{status:?}: {reason}"
        );
    }
    let header: JobRecord =
        world.record(&keys::job(PROJECT, &cluster, &JobId::new(&job))).await.unwrap();
    assert!(!header.spec.resets);
}

#[tokio::test]
async fn control_plane_nodes_are_moved_into_no_pool() {
    let world = World::new().await;
    let path = format!("{}/nodepools/{POOL}/nodes/migrate", base());
    let body =
        json!({ "kind": "List", "apiVersion": "v3", "nodeList": [{ "nodeID": NODE_CONTROL }] });
    let answer = world.call("PUT", &path, &body.to_string()).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (400, "CCE.01400001"), "{}", answer.text);
    assert!(answer.message().contains("control-plane"));
}
