//! The long form of a job: why each node waits, which rule chose it, when it is tried again, and what the run cost.

use crate::support::*;
use evenkeel_engine::account::{Account, Below, Moves};
use evenkeel_engine::facts::Readiness;
use evenkeel_engine::ids::{ClusterId, JobId, NodeId, NodeName, ObjectKey};
use evenkeel_engine::phase::{Blocker, Cause, Phase};
use evenkeel_engine::report::{JobReport, WaitingOn};
use evenkeel_engine::sync::{LogEntry, Work};
use evenkeel_engine::time::{Span, Time};
use evenkeel_server::records::keys;
use evenkeel_server::sync::board::Snapshot;
use serde_json::{Value, json};
use std::sync::Arc;

fn cluster() -> ClusterId {
    ClusterId::new(CLUSTER)
}

fn blocker() -> Blocker {
    Blocker {
        pod: ObjectKey::new("default", "db-0"),
        budget: Some(ObjectKey::new("default", "db")),
        why: "it needs 3 healthy pods and has 3".to_owned(),
    }
}

fn work(name: &str, id: &str, phase: Phase, note: &str) -> Work {
    let line = |word: &str, note: &str| LogEntry {
        at: Time(999_000),
        word: word.to_owned(),
        note: note.to_owned(),
    };
    Work {
        id: NodeId::new(id),
        name: NodeName::new(name),
        phase,
        attempt: 0,
        spent: 0,
        tries: 1,
        was_unschedulable: false,
        was_available: true,
        uncordons: 0,
        last_cause: None,
        log: vec![line("Claiming", note), line("Draining", "")],
    }
}

async fn describe(world: &World, job: &str) -> Value {
    world.call("GET", &format!("/evenkeel/v1/projects/{PROJECT}/jobs/{job}"), "").await.json
}

#[tokio::test]
async fn every_node_says_what_it_waits_for() {
    let world = World::new().await;
    let answer = world.upgrade(POOL, &minimal(POOL)).await;
    let job = answer.json["jobid"].as_str().unwrap().to_owned();
    let id = JobId::new(&job);
    let draining = Phase::Draining { since: Time(1_000_100), cordoned: true };
    let held = work("node-a", NODE_A, draining, "chosen: can be drained now");
    world.put(keys::work(PROJECT, &cluster(), &id, &held.name), &held).await;
    let next = WaitingOn::Slot { in_hand: 1, limit: 1 };
    let report = JobReport {
        nodes: [(NodeName::new("node-a"), WaitingOn::Budget { blocker: blocker() })].into(),
        again: [(NodeName::new("node-a"), Time(1_005_000))].into(),
        next: Some(next),
        ..JobReport::default()
    };
    let before = world.board.get(&cluster()).unwrap();
    let mut nodes = (*before.nodes).clone();
    let publish = |nodes| {
        let reports = [(id.clone(), Arc::new(report.clone()))].into();
        let snapshot = Snapshot { reports, nodes: Arc::new(nodes), ..(*before).clone() };
        world.board.publish(&cluster(), snapshot);
    };
    publish(nodes.clone());
    let shown = describe(&world, &job).await;
    let node = &shown["nodes"]["node-a"];
    let words = "pod default/db-0 is held by budget default/db: it needs 3 healthy pods and has 3";
    assert_eq!((&node["waitingFor"], &node["phase"]), (&json!(words), &json!("Draining")));
    assert_eq!(
        node["waitingOn"]["blocker"]["budget"],
        json!({ "namespace": "default", "name": "db" })
    );
    assert_eq!(node["chosen"], "can be drained now");
    assert!(node["since"].as_str().unwrap() < node["nextTry"].as_str().unwrap(), "{node}");
    let slot = json!([{ "waitingOn": { "on": "slot", "in_hand": 1, "limit": 1 }, "nextTry": null,
        "waitingFor": "waiting for a slot: 1 of 1 in hand", "nodes": ["node-b"] }]);
    assert_eq!(shown["queue"], slot);
    // People, and a pause of its own, come before what all wait for.
    let node_b = nodes.get_mut(&NodeName::new("node-b")).unwrap();
    Arc::make_mut(node_b).ready = Readiness::Ready;
    Arc::make_mut(node_b).unschedulable = true;
    publish(nodes.clone());
    let queue = &describe(&world, &job).await["queue"][0];
    assert!(queue["waitingFor"].as_str().unwrap().contains("cordoned by somebody else"), "{queue}");
    Arc::make_mut(nodes.get_mut(&NodeName::new("node-b")).unwrap()).hold = true;
    publish(nodes.clone());
    let queue = &describe(&world, &job).await["queue"][0];
    assert!(queue["waitingFor"].as_str().unwrap().contains("evenkeel.io/hold"), "{queue}");
    let cause = Cause::Undrainable { blocker: blocker() };
    let until = Time(1_900_000);
    let waits = work("node-b", NODE_B, Phase::Waiting { since: Time(1_000_000), until, cause }, "");
    world.put(keys::work(PROJECT, &cluster(), &id, &waits.name), &waits).await;
    let queue = &describe(&world, &job).await["queue"][0];
    assert!(queue["waitingFor"].as_str().unwrap().contains("undrainable"), "{queue}");
    assert_eq!(queue["nextTry"], "2026-11-23T17:40:13.000000Z");
}

#[tokio::test]
async fn what_a_run_cost_is_in_its_long_form() {
    let world = World::new().await;
    let answer = world.upgrade(POOL, &minimal(POOL)).await;
    let job = answer.json["jobid"].as_str().unwrap().to_owned();
    let none = json!({ "workloads": [], "budgets": [], "otherMoves": 0 });
    assert_eq!(describe(&world, &job).await["costs"], none);
    let moves = |moves, pods: &[(&str, u32)]| Moves {
        moves,
        deleted: 1,
        pods: pods.iter().map(|(pod, n)| ((*pod).to_owned(), *n)).collect(),
    };
    let below = Below { total: Span::secs(30), since: Some(Time(1_000_000)), worst: 2 };
    let account = Account {
        workloads: [
            ("Deployment default/web".to_owned(), moves(2, &[("web-1", 1), ("web-2", 1)])),
            ("StatefulSet default/db".to_owned(), moves(3, &[("db-0", 2), ("db-1", 1)])),
        ]
        .into(),
        budgets: [("default/db".to_owned(), below)].into(),
        others: 4,
    };
    world.put(keys::account(PROJECT, &cluster(), &JobId::new(&job)), &account).await;
    let costs = &describe(&world, &job).await["costs"];
    let most = json!({ "workload": "StatefulSet default/db", "moves": 3, "deleted": 1, "worstPod": "db-0", "worstPodMoves": 2 });
    assert_eq!((&costs["workloads"][0], &costs["otherMoves"]), (&most, &json!(4)));
    let budget = &costs["budgets"][0];
    assert!(budget["secondsBelow"].as_u64().unwrap() >= 30, "{budget}");
    assert_eq!((&budget["isBelow"], &budget["mostMissing"]), (&json!(true), &json!(2)));
}
