//! The recipe `command` by a webhook.

use crate::service::{SECRET, Service};
use crate::support::{LIMIT, Lab, permanent};
use evenkeel_server::records::{Hook, Recipe, Webhook};
use evenkeel_server::sync::ports::{HostState, Stage};
use serde_json::json;
use std::time::{Duration, Instant};

fn set(lab: &Lab, url: &str, secret: &str, limit_s: u32) {
    let hook = Hook::Webhook(Webhook { url: url.into(), secret: secret.into(), ca: None });
    lab.change(|brief| {
        brief.recipe = Recipe::Command { hook, limit_s };
        brief.reach = None;
        brief.facts_env.insert("EVENKEEL_CLUSTER_NAME".into(), "lab".into());
    });
}

fn failed(end: HostState) -> String {
    match end {
        HostState::Failed { step, reason } if step == "webhook" => {
            assert!(!reason.contains("canary"), "{reason}");
            reason
        }
        other => panic!("expected a failure of the webhook, got {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_resets_a_node_and_reports_the_outcome() {
    let lab = Lab::new().await;
    let service = Service::start().await;
    service
        .then(|_| (500, None, String::new()))
        .then(|_| (200, None, json!({"output": "reset it\n"}).to_string()));
    set(&lab, &service.url, SECRET, 20);
    lab.change(|brief| brief.template.pre_install_b64 = Some(crate::b64("echo pre")));
    lab.probe().await.unwrap();
    let order = lab.order(1, Stage::Reset);
    for _ in 0..2 {
        let end = lab.run(&order).await.0.unwrap();
        assert_eq!(end, HostState::Succeeded { ended_host_ms: None });
    }
    let asked = service.asked();
    assert_eq!(asked.len(), 2, "an end is never asked for again");
    assert!(asked.iter().all(|a| a.key == "job-1.node-1.1.reset"));
    let body = &asked[1].body;
    assert_eq!(body["facts"], json!({"cluster_name": "lab"}));
    assert_eq!((&body["node"], &body["epoch"]), (&json!("worker-1"), &json!(1)));
    assert_eq!(body["template"]["pre_install_b64"], "ZWNobyBwcmU=");
    assert_eq!(lab.output(1, Stage::Reset).await, "reset it\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_controller_goes_on_asking_where_it_was() {
    let mut lab = Lab::new().await;
    let service = Service::start().await;
    service
        .then(|_| (202, Some("/p"), String::new()))
        .then(|_| (202, None, String::new()))
        .then(|_| (202, None, String::new()))
        .then(|_| (200, None, r#"{"state": "failed", "reason": "no disk"}"#.into()));
    set(&lab, &service.url, SECRET, 20);
    let order = lab.order(1, Stage::Reset);
    let polled = async {
        let begun = Instant::now();
        while service.asked().len() < 2 {
            assert!(begun.elapsed() < LIMIT, "waited 60 s for a poll");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        (end, _) = lab.run(&order) => panic!("ended too early: {end:?}"),
        () = polled => {}
    }
    lab.restart();
    assert!(failed(lab.run(&order).await.0.unwrap()).ends_with("failed: no disk"));
    let posts = service.asked().iter().filter(|a| a.method == "POST").count();
    assert_eq!(posts, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_service_does_wrong_is_named_without_any_secret() {
    let service = Service::start().await;
    let lab = Lab::new().await;
    service.then(|_| (200, None, "x".repeat(2_000_000)));
    set(&lab, &service.url, SECRET, 20);
    let said = failed(lab.run(&lab.order(1, Stage::Reset)).await.0.unwrap());
    assert!(said.contains("more than 1048576 bytes"), "{said}");
    set(&lab, &service.url, "canary-another-secret", 20);
    let said = failed(lab.run(&lab.order(2, Stage::Reset)).await.0.unwrap());
    assert!(said.contains("HTTP 401: bad signature"), "{said}");
    // Nobody there: the limit ends it, and says what happened last.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    set(&lab, &format!("http://{closed}/canary"), SECRET, 1);
    let (end, steps) = lab.run(&lab.order(3, Stage::Reset)).await;
    let said = failed(end.unwrap());
    assert!(said.contains("time limit of 1 s") && said.contains("refused"), "{said}");
    assert!(steps.iter().any(|step| step.contains("cannot be reached")), "{steps:?}");
    set(&lab, "http://169.254.169.254/canary", SECRET, 1);
    assert!(permanent(lab.probe().await).contains("metadata"));
}
