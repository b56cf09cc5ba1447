//! People steer a job: every button, twice, with who and when; and what is refused leaves no trace.

use crate::support::*;
use evenkeel_engine::control::Control;
use evenkeel_engine::ids::{ClusterId, JobId, NodeId, NodeName};
use evenkeel_engine::phase::{Cause, Left, Phase};
use evenkeel_engine::sync::{Status, SyncState, Work};
use evenkeel_engine::time::Time;
use evenkeel_server::records::{self, keys};
use evenkeel_server::store::{Store, Txn};
use serde_json::{Value, json};

fn cluster() -> ClusterId {
    ClusterId::new(CLUSTER)
}

async fn job(world: &World) -> String {
    let answer = world.upgrade(POOL, &minimal(POOL)).await;
    answer.json["jobid"].as_str().expect("accepted").to_owned()
}

impl World {
    async fn press(&self, job: &str, path: &str, body: &Value) -> Answer {
        let target = format!("/evenkeel/v1/projects/{PROJECT}/jobs/{job}/{path}");
        self.call("POST", &target, &body.to_string()).await
    }

    async fn control_of(&self, job: &str) -> Option<Control> {
        self.record(&keys::control(PROJECT, &cluster(), &JobId::new(job))).await
    }

    async fn stands(&self, job: &str, name: &str, id: &str, phase: Phase) {
        let work = Work {
            id: NodeId::new(id),
            name: NodeName::new(name),
            phase,
            attempt: 1,
            spent: 0,
            tries: 0,
            was_unschedulable: false,
            was_available: true,
            uncordons: 0,
            last_cause: None,
            log: vec![],
        };
        let key = keys::work(PROJECT, &cluster(), &JobId::new(job), &work.name);
        self.store.txn(Txn::new().put(key, records::encode(&work))).await.unwrap();
    }

    async fn ends(&self, job: &str, status: Status) {
        let key = keys::job_state(PROJECT, &cluster(), &JobId::new(job));
        let state: SyncState = self.record(&key).await.unwrap();
        self.put(key, &SyncState { status, ..state }).await;
    }
}

fn failed() -> Phase {
    let cause = Cause::Step { step: "install".into(), message: "exit status 3".into() };
    Phase::Failed { at: Time(1_000_500), cause, left: Left::Cordoned }
}

#[tokio::test]
async fn every_button_is_durable_idempotent_and_says_who() {
    let world = World::new().await;
    let job = job(&world).await;
    world.stands(&job, "node-b", NODE_B, failed()).await;
    let rows = [
        ("pause", json!({}), "/control/paused/by"),
        ("retry", json!({ "nodes": ["node-b"] }), "/control/nodes/node-b/retry/by"),
        ("skip", json!({ "nodes": [NODE_A] }), "/control/nodes/node-a/skip/by"),
        ("nodes/node-a/force", json!({}), "/control/nodes/node-a/force/by"),
        ("cancel", json!({}), "/control/cancelled/by"),
    ];
    for (path, body, who) in rows {
        let first = world.press(&job, path, &body).await;
        assert_eq!(first.status.as_u16(), 200, "{path}: {}", first.text);
        let by = first.json.pointer(who).and_then(Value::as_str);
        assert_eq!(by, Some(format!("admin/{AK}").as_str()), "{path}: {}", first.text);
        assert_eq!(first.json["changed"], true, "{path}");
        let before = world.dump().await;
        if path != "cancel" {
            // Whoever comes second changes nothing, and the first stays the one who did it.
            let again = world.press(&job, path, &body).await;
            assert_eq!((again.status.as_u16(), &again.json["changed"]), (200, &json!(false)));
            assert_eq!(again.json["control"], first.json["control"], "{path}");
        }
        let jobs = |dump: Vec<(String, bytes::Bytes)>| {
            dump.into_iter().filter(|(key, _)| key.contains("/controls/")).collect::<Vec<_>>()
        };
        assert_eq!(jobs(world.dump().await), jobs(before), "{path}");
    }
    let shown = world.call("GET", &format!("/evenkeel/v1/projects/{PROJECT}/jobs/{job}"), "").await;
    let log = shown.json.pointer("/control/log").and_then(Value::as_array).unwrap();
    let deeds: Vec<&str> = log.iter().filter_map(|line| line["deed"].as_str()).collect();
    assert_eq!(deeds, ["pause", "retry", "skip", "force", "cancel"]);
    assert!(log.iter().all(|line| line["at"].as_str().unwrap().starts_with("2026-11-23T17:2")));
    // A cancel that came through is confirmed also after the end of the job.
    let ended = Status::Failed { at: Time(1_000_900), reason: "cancelled".into() };
    world.ends(&job, ended).await;
    let again = world.press(&job, "cancel", &json!({})).await;
    assert_eq!((again.status.as_u16(), &again.json["changed"]), (200, &json!(false)));
}

#[tokio::test]
async fn resume_takes_a_pause_back() {
    let world = World::new().await;
    let job = job(&world).await;
    for (path, changed) in [("resume", false), ("pause", true), ("resume", true), ("resume", false)]
    {
        let answer = world.press(&job, path, &json!({})).await;
        assert_eq!((answer.status.as_u16(), &answer.json["changed"]), (200, &json!(changed)));
    }
    assert_eq!(world.control_of(&job).await.unwrap().paused, None);
    // An empty body is as good as an empty object.
    let target = format!("/evenkeel/v1/projects/{PROJECT}/jobs/{job}/pause");
    assert_eq!(world.call("POST", &target, "").await.status.as_u16(), 200);
}

#[tokio::test]
async fn what_is_refused_has_no_effect() {
    let world = World::new().await;
    let running = job(&world).await;
    world.stands(&running, "node-a", NODE_A, Phase::Done { at: Time(1_000_500) }).await;
    world.stands(&running, "node-b", NODE_B, Phase::Resetting { since: Time(1_000_500) }).await;
    let absent = "12345678-0000-4000-8000-000000000000";
    let node = |text: &str| json!({ "nodes": [text] });
    let rows = vec![
        (absent, "pause", json!({}), 404, "There is no job"),
        (absent, "skip", node("node-a"), 404, "There is no job"),
        (running.as_str(), "skip", node("node-a"), 400, "nothing to skip"),
        (running.as_str(), "retry", node("node-a"), 400, "is synchronized"),
        (running.as_str(), "skip", node("node-b"), 400, "carried through"),
        (running.as_str(), "retry", node("node-b"), 400, "has not failed"),
        (running.as_str(), "retry", json!({}), 400, "no node has failed"),
        (running.as_str(), "skip", json!({}), 400, "nodes is mandatory"),
        (running.as_str(), "skip", json!({ "nodes": [] }), 400, "is empty"),
        (running.as_str(), "skip", json!({ "nodes": [3] }), 400, "nodes[0]"),
        (running.as_str(), "skip", node(NODE_ELSEWHERE), 400, "not on the job's list"),
        (running.as_str(), "nodes/node-z/force", json!({}), 404, "There is no node of this job"),
        (running.as_str(), "nodes/node-a/force", json!({}), 400, "nothing to force"),
    ];
    for (job, path, body, status, words) in rows {
        let before = world.dump().await;
        let answer = world.press(job, path, &body).await;
        assert_eq!(answer.status.as_u16(), status, "{path} {body}: {}", answer.text);
        assert!(answer.message().contains(words), "{path} {body}: {}", answer.text);
        assert_eq!(world.control_of(job).await, None, "{path} {body}");
        assert_eq!(world.dump().await, before, "{path} {body}");
    }
    world.ends(&running, Status::Success { at: Time(1_000_900) }).await;
    let over = [
        ("pause", json!({})),
        ("resume", json!({})),
        ("cancel", json!({})),
        ("retry", json!({})),
        ("skip", node("node-a")),
        ("nodes/node-a/force", json!({})),
    ];
    for (path, body) in over {
        let before = world.dump().await;
        let answer = world.press(&running, path, &body).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (400, "CCE.01400001"), "{path}");
        assert!(answer.message().contains("has ended"), "{path}: {}", answer.text);
        assert_eq!(world.dump().await, before, "{path}");
    }
}

/// A job of another project is a missing job, to every button: the same answer, and no effect.
#[tokio::test]
async fn a_foreign_job_is_a_missing_job() {
    let world = World::new().await;
    let running = job(&world).await;
    let absent = "12345678-0000-4000-8000-000000000000";
    let node = json!({ "nodes": ["node-a"] });
    for path in ["pause", "resume", "cancel", "retry", "skip", "nodes/node-a/force"] {
        let before = world.dump().await;
        let mut answers = Vec::new();
        for job in [running.as_str(), absent] {
            let target = format!("/evenkeel/v1/projects/{OTHER_PROJECT}/jobs/{job}/{path}");
            let answer = world.call("POST", &target, &node.to_string()).await;
            assert_eq!((answer.status.as_u16(), answer.code()), (404, "CCE.01404001"), "{path}");
            answers.push(answer.message().replace(job, "JOB"));
        }
        assert_eq!(answers[0], answers[1], "{path}");
        assert_eq!(world.dump().await, before, "{path}");
    }
    assert_eq!(world.control_of(&running).await, None);
}

/// Many at once: each is told the truth, and nothing of anybody is lost.
#[tokio::test]
async fn buttons_at_the_same_time_lose_nothing() {
    for seed in 1..=20 {
        let world = World::new().await;
        let job = job(&world).await;
        world.store.seed(seed);
        let (none, skip) = (json!({}), json!({ "nodes": ["node-a"] }));
        let (a, b, c) = tokio::join!(
            world.press(&job, "pause", &none),
            world.press(&job, "skip", &skip),
            world.press(&job, "nodes/node-b/force", &none),
        );
        for answer in [a, b, c] {
            assert_eq!(answer.status.as_u16(), 200, "{}", answer.text);
        }
        let control = world.control_of(&job).await.unwrap();
        assert!(control.paused.is_some() && control.log.len() == 3, "{control:?}");
        assert!(
            control.skips(&NodeName::new("node-a")) && control.forces(&NodeName::new("node-b"))
        );
    }
}
