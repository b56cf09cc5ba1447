//! The world moves by itself as Kubernetes and machines do, and always the same way for the same seed.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use evenkeel_engine::facts::{CLAIM_ANNOTATION, Mark, Readiness};
use evenkeel_engine::ids::{JobId, NodeName, ObjectKey, Uid};
use evenkeel_sim::faults::{HostTrouble, Lag, Person, StepFault, StepTrouble};
use evenkeel_sim::history::{Actor, Happened};
use evenkeel_sim::hosts::{HostFailure, Order, OrderKey, OrderState, RefusalKind, Stage};
use evenkeel_sim::objects::{Amount, Kind, Limit, Workload};
use evenkeel_sim::world::{Call, DeleteOptions, NodeChange, Precondition};
use evenkeel_sim::{FaultPlan, Scenario, World};

fn node(n: u32) -> NodeName {
    NodeName::new(format!("node-{n}"))
}

fn cordon(value: bool) -> NodeChange {
    NodeChange { unschedulable: Some(value), ..NodeChange::default() }
}

fn order(world: &World, name: &NodeName, attempt: u32, stage: Stage, epoch: u64) -> Order {
    let key = OrderKey { job: "job".into(), node: name.to_string(), attempt, stage };
    Order::usual(key, epoch, &world.host(name).unwrap().machine_id)
}

/// A clumsy controller: cordon, evict, reset, post, uncordon, one node after the other, through all faults.
fn drive(seed: u64) -> World {
    let mut world = Scenario::seeded(seed).build();
    let names: Vec<_> = world.nodes().map(|n| n.name.clone()).collect();
    for name in names {
        let mark = Mark { job: JobId::new("job"), epoch: 1, was_unschedulable: false };
        let claim = NodeChange {
            annotations: [(CLAIM_ANNOTATION.to_owned(), serde_json::to_string(&mark).ok())].into(),
            ..cordon(true)
        };
        let _ = world.call(Call::Write, |w| {
            w.patch_node(Actor::Us, &name, &Precondition::default(), &claim)
        });
        for _ in 0..60 {
            let pods: Vec<_> = world.pods_on(&name).map(|pod| pod.key.clone()).collect();
            for key in pods {
                let _ = world
                    .call(Call::Write, |w| w.evict(&key, &key.name, &DeleteOptions::default()));
            }
            world.advance(world.now() + 1000);
        }
        for stage in [Stage::Reset, Stage::Post] {
            let order = order(&world, &name, 1, stage, 1);
            for _ in 0..100 {
                let _ = world.over_ssh(&name, |w| w.host_accept(&name, &order));
                world.advance(world.now() + 700);
            }
        }
        let release = NodeChange {
            annotations: [(CLAIM_ANNOTATION.to_owned(), None)].into(),
            ..cordon(false)
        };
        let _ = world.call(Call::Write, |w| {
            w.patch_node(Actor::Us, &name, &Precondition::default(), &release)
        });
    }
    world
}

#[test]
fn the_same_seed_and_calls_give_the_same_hash() {
    let mut hashes = std::collections::BTreeSet::new();
    for seed in 0..12 {
        let (one, two) = (drive(seed), drive(seed));
        assert_eq!(one.hash(), two.hash(), "seed {seed}");
        assert_eq!(one.history, two.history, "seed {seed}");
        hashes.insert(one.hash());
    }
    assert_eq!(hashes.len(), 12, "different seeds are different worlds");
}

#[test]
fn seeded_worlds_meet_every_fault() {
    let mut all = evenkeel_sim::Coverage::default();
    for seed in 0..150 {
        all.add(&drive(seed).coverage);
    }
    // Counted by a driver that watches, stores and crashes; this one only polls.
    let not_here = [
        "budget_conflicts",
        "clock_jumps",
        "clock_jumps_over_restart",
        "crash_loops",
        "crashes_after_write",
        "crashes_before_write",
        "duplicates",
        "gone_410",
        "held_up",
        "liveness_runs",
        "reordered",
        "safety_runs",
        "stale_lists",
        "store_errors",
        "store_errors_after",
        "store_slow",
        "usurped",
    ];
    for (name, count) in all.counters() {
        assert!(count > 0 || not_here.contains(&name), "no {name} in 150 worlds: {all:?}");
    }
    assert!(all.people.len() >= 8, "{:?}", all.people);
}

#[test]
fn workloads_recover_after_evictions() {
    let one = Limit::MaxUnavailable(Amount::Pods(1));
    let mut world = Scenario::new(5, 4)
        .with(Workload::new("web", Kind::Deployment, 6))
        .guarded("web", one)
        .with(Workload::new("db", Kind::StatefulSet, 3))
        .with(Workload::new("agent", Kind::DaemonSet, 0))
        .build();
    assert_eq!(world.pods().filter(|pod| pod.healthy()).count(), 6 + 3 + 4);
    let name = node(1);
    world.patch_node(Actor::Us, &name, &Precondition::default(), &cordon(true)).unwrap();
    for _ in 0..60 {
        let on: Vec<_> =
            world.pods_on(&name).filter(|p| p.deleting_since.is_none()).cloned().collect();
        for pod in on.iter().filter(|pod| pod.owner != evenkeel_engine::facts::Owner::DaemonSet) {
            let _ = world.evict(&pod.key, &pod.key.name, &DeleteOptions::default());
        }
        world.advance(world.now() + 1000);
        let healthy =
            world.pods().filter(|p| p.healthy() && p.labels.get("app").unwrap() == "web").count();
        assert!(healthy >= 5, "the budget was broken");
    }
    assert_eq!(world.pods_on(&name).count(), 1, "only the DaemonSet's pod is left");
    assert_eq!(
        world.pods().filter(|pod| pod.healthy()).count(),
        6 + 3 + 4,
        "all are back elsewhere"
    );
}

#[test]
fn a_reset_takes_the_kubelet_down_and_up_again() {
    let mut world = Scenario::new(6, 3).with(Workload::new("agent", Kind::DaemonSet, 0)).build();
    world.tunables.steps_ms.insert("install".into(), (50_000, 50_000));
    let name = node(2);
    let before = world.lease(&name).unwrap().renew_wall_ms;
    let reset = order(&world, &name, 1, Stage::Reset, 1);
    world.host_accept(&name, &reset).unwrap();
    world.advance(world.now() + 20_000);
    assert_eq!(world.node(&name).unwrap().ready, Readiness::Ready, "40 s of grace prove nothing");
    world.advance(world.now() + 29_000);
    assert_eq!(world.node(&name).unwrap().ready, Readiness::Unknown);
    world.advance(world.now() + 60_000);
    let done = world.host_order(&name, &reset.key).unwrap().clone();
    assert_eq!(done.state, OrderState::Succeeded);
    assert_eq!(world.node(&name).unwrap().ready, Readiness::Ready);
    let lease = world.lease(&name).unwrap().renew_wall_ms;
    assert!(
        lease > before && lease > done.ended_ms.unwrap(),
        "a renewal after the end, by the host's clock"
    );
    assert!(world.pods_on(&name).all(|pod| pod.ready));
    let steps: Vec<_> = world.runs.iter().map(|run| run.step.as_str()).collect();
    assert_eq!(steps, ["teardown", "login", "pre_install", "install"]);
}

#[test]
fn hosts_run_an_order_once_and_refuse_old_ones() {
    let mut world = Scenario::new(7, 2).build();
    let name = node(1);
    let kind = |answer: Result<_, HostFailure>| match answer {
        Err(HostFailure::Refused { kind, .. }) => kind,
        other => panic!("{other:?}"),
    };
    let first = order(&world, &name, 1, Stage::Reset, 5);
    world.host_accept(&name, &first).unwrap();
    let second = order(&world, &name, 2, Stage::Reset, 5);
    // An order begins within a moment of its acceptance.
    world.advance(world.now() + 100);
    assert_eq!(kind(world.host_accept(&name, &second).map(|_| ())), RefusalKind::Busy);
    world.advance(world.now() + 120_000);
    let again = world.host_accept(&name, &first).unwrap();
    assert_eq!(again.state, OrderState::Succeeded, "the same order is only looked up");
    assert_eq!(world.runs.len(), 4);
    let old = order(&world, &name, 2, Stage::Reset, 4);
    assert_eq!(kind(world.host_accept(&name, &old).map(|_| ())), RefusalKind::Fenced);
    world.host_accept(&name, &second).unwrap();
    world.advance(world.now() + 120_000);
    let late = order(&world, &name, 1, Stage::Post, 5);
    assert_eq!(kind(world.host_accept(&name, &late).map(|_| ())), RefusalKind::Fenced);
    let mut elsewhere = order(&world, &name, 3, Stage::Reset, 5);
    elsewhere.machine_id = "another".into();
    assert_eq!(kind(world.host_accept(&name, &elsewhere).map(|_| ())), RefusalKind::WrongMachine);
}

#[test]
fn steps_fail_hang_flood_and_reboot_as_planned() {
    let rows = [
        (StepTrouble::Exit(7), "Failed { step: \"pre_install\", reason: \"exit status 7\" }"),
        (
            StepTrouble::Hang,
            "Failed { step: \"pre_install\", reason: \"stopped: time limit passed\" }",
        ),
        (StepTrouble::Flood, "Succeeded"),
        (
            StepTrouble::Reboot,
            "Interrupted { step: \"pre_install\", reason: \"the host was rebooted while it ran\" }",
        ),
        (
            StepTrouble::KillRunner,
            "Interrupted { step: \"pre_install\", reason: \"the runner was killed\" }",
        ),
    ];
    for (trouble, expected) in rows {
        let mut scenario = Scenario::new(8, 2);
        let fault = StepFault { node: None, step: "pre_install".into(), attempts: 1..=1, trouble };
        scenario.faults.steps = vec![fault];
        let mut world = scenario.build();
        let name = node(1);
        let reset = order(&world, &name, 1, Stage::Reset, 1);
        world.host_accept(&name, &reset).unwrap();
        world.advance(world.now() + 2_000_000);
        let state = format!("{:?}", world.host_order(&name, &reset.key).unwrap().state);
        assert_eq!(state, expected, "{trouble:?}");
        let output = world.host_order(&name, &reset.key).unwrap().output.len();
        assert!(output <= 1024 * 1024, "output is bounded: {output}");
        let again = order(&world, &name, 2, Stage::Reset, 1);
        world.host_accept(&name, &again).unwrap();
        world.advance(world.now() + 120_000);
        assert_eq!(world.host_order(&name, &again.key).unwrap().state, OrderState::Succeeded);
        assert_eq!(world.node(&name).unwrap().ready, Readiness::Ready);
    }
}

#[test]
fn watches_can_be_late_cut_and_expired_while_reads_are_fresh() {
    let mut scenario = Scenario::new(9, 2);
    scenario.faults = FaultPlan {
        lags: vec![Lag { from_ms: 0, to_ms: 1000, by_ms: 3000 }],
        watch_drops: vec![500],
        compactions: vec![5000],
        ..FaultPlan::default()
    };
    let mut world = scenario.build();
    let (start, rv) = (world.now(), world.resource_version());
    world.patch_node(Actor::Us, &node(1), &Precondition::default(), &cordon(true)).unwrap();
    assert!(world.node(&node(1)).unwrap().unschedulable, "GET is fresh");
    assert!(world.events_since(rv).unwrap().is_empty(), "the watch is not");
    assert!(!world.watch_dropped(start));
    world.advance(start + 2999);
    assert!(world.events_since(rv).unwrap().is_empty());
    assert!(world.watch_dropped(start) && !world.watch_dropped(start + 501));
    world.advance(start + 3000);
    assert_eq!(world.events_since(rv).unwrap().len(), 1);
    world.advance(start + 5001);
    assert!(world.events_since(rv).is_err(), "410");
}

#[test]
fn node_writes_are_conditional_and_recorded_with_their_actor() {
    let mut world = Scenario::new(10, 2).build();
    let name = node(1);
    let seen = world.node(&name).unwrap().seen();
    let mark = Mark { job: JobId::new("j"), epoch: 3, was_unschedulable: false };
    let text = serde_json::to_string(&mark).unwrap();
    let claim = NodeChange {
        annotations: [(CLAIM_ANNOTATION.to_owned(), Some(text))].into(),
        ..cordon(true)
    };
    let at = Precondition {
        uid: Some(seen.uid.clone()),
        resource_version: Some(seen.resource_version.to_string()),
    };
    let after = world.patch_node(Actor::Us, &name, &at, &claim).unwrap();
    assert_eq!(after.seen().mark, Some(mark));
    let refusal = world.patch_node(Actor::Us, &name, &at, &cordon(false)).unwrap_err();
    assert_eq!((refusal.code, refusal.reason), (409, "Conflict"));
    let other = Precondition { uid: Some(Uid::new("x")), resource_version: None };
    assert_eq!(world.patch_node(Actor::Us, &name, &other, &cordon(false)).unwrap_err().code, 422);
    assert!(world.person(&Person::UncordonClaimed));
    let told: Vec<_> = world.history.iter().map(|(_, what)| what.clone()).collect();
    let job = JobId::new("j");
    assert_eq!(
        told,
        [
            Happened::MarkSet { node: name.clone(), job, epoch: 3 },
            Happened::Cordoned { node: name.clone(), by: Actor::Us },
            Happened::Uncordoned { node: name, by: Actor::Person },
        ]
    );
}

#[test]
fn dead_hosts_wrong_machines_and_new_identities() {
    let mut scenario = Scenario::new(11, 4).with(Workload::new("web", Kind::Deployment, 4));
    scenario.faults.hosts = vec![
        (100, node(1), HostTrouble::Dead),
        (100, node(2), HostTrouble::OtherMachine),
        (100, node(3), HostTrouble::Denies),
        (100, node(4), HostTrouble::RejoinsAnew),
    ];
    let mut world = scenario.build();
    let orders: Vec<_> = (1..=4).map(|n| order(&world, &node(n), 1, Stage::Reset, 1)).collect();
    let uid = world.node(&node(4)).unwrap().uid.clone();
    world.advance(world.now() + 200);
    let mut answers = Vec::new();
    for (n, order) in (1..=4).zip(&orders) {
        answers.push(world.over_ssh(&node(n), |w| w.host_accept(&node(n), order)).result);
    }
    assert!(matches!(answers[0], Err(HostFailure::Unreachable(_))));
    assert!(matches!(
        answers[1],
        Err(HostFailure::Refused { kind: RefusalKind::WrongMachine, .. })
    ));
    assert_eq!(answers[2], Err(HostFailure::Denied));
    assert!(answers[3].is_ok());
    world.advance(world.now() + 60_000);
    assert_eq!(world.node(&node(1)).unwrap().ready, Readiness::Unknown);
    let joined = world.node(&node(4)).unwrap();
    assert!(joined.uid != uid && !joined.unschedulable && joined.ready == Readiness::Ready);
    world.advance(world.now() + 400_000);
    let left: Vec<_> = world.pods_on(&node(1)).collect();
    assert!(left.iter().all(|pod| pod.deleting_since.is_some()), "nobody confirms that they ended");
    let healthy = world.pods().filter(|pod| pod.healthy()).count();
    assert_eq!(healthy, 4, "the workload moved on");
}

#[test]
fn a_pod_with_a_finalizer_stays_until_it_is_taken_off() {
    let mut world = Scenario::new(12, 2).with(Workload::new("web", Kind::Deployment, 1)).build();
    let key: ObjectKey = world.pods().next().unwrap().key.clone();
    assert!(world.stick_pod(&key));
    world.evict(&key, &key.name, &DeleteOptions::default()).unwrap();
    world.advance(world.now() + 600_000);
    assert!(world.pod(&key).unwrap().deleting_since.is_some());
    assert!(world.unstick_pod(&key));
    world.advance(world.now() + 1000);
    assert_eq!(world.pod(&key).unwrap_err().code, 404);
}

#[test]
fn worlds_begin_settled() {
    let mut scenarios: Vec<_> = (0..100).map(Scenario::seeded).collect();
    scenarios.push(Scenario::demo(6));
    for scenario in scenarios {
        let world = scenario.build();
        let seed = scenario.seed;
        assert_eq!(world.nodes().count() as u32, scenario.nodes, "seed {seed}");
        assert!(world.nodes().all(|node| node.ready == Readiness::Ready), "seed {seed}");
        let bound =
            |pod: &evenkeel_sim::objects::Pod| pod.node.is_none() || pod.ready || pod.start_ms == 0;
        let finished = evenkeel_engine::facts::PodPhase::Finished;
        assert!(world.pods().all(|pod| bound(pod) || pod.phase == finished), "seed {seed}");
        assert!(world.budgets().all(|b| b.seen().observed), "seed {seed}");
    }
    let demo = Scenario::demo(6).build();
    assert!(demo.budgets().all(|budget| budget.status.allowed > 0), "a demo begins unblocked");
    assert!(
        (1..=6).all(|n| demo.pods_on(&node(n)).count() > 3),
        "every node has something to drain"
    );
}
