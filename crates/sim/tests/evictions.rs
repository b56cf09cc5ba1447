//! Every row of the eviction API's table, and what a real API server was measured to do around it.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use evenkeel_engine::facts::PodPhase;
use evenkeel_engine::ids::{ObjectKey, Uid};
use evenkeel_engine::selector::Selector;
use evenkeel_sim::objects::{Amount, BudgetStatus, Kind, Limit, Pod, Workload};
use evenkeel_sim::status::Refusal;
use evenkeel_sim::world::{DeleteOptions, Precondition};
use evenkeel_sim::{Scenario, World};

const ONE: Limit = Limit::MaxUnavailable(Amount::Pods(1));

/// Three Ready pods of `app`, guarded by one budget that allows one eviction.
fn world() -> World {
    Scenario::new(1, 3).with(Workload::new("app", Kind::Deployment, 3)).guarded("app", ONE).build()
}

fn first(world: &World) -> ObjectKey {
    world.pods().next().unwrap().key.clone()
}

fn budget() -> ObjectKey {
    ObjectKey::new("default", "app")
}

fn evict(world: &mut World, key: &ObjectKey, options: &DeleteOptions) -> Result<(), Refusal> {
    world.evict(key, &key.name.clone(), options)
}

struct Row {
    name: &'static str,
    pod: fn(&mut Pod),
    status: fn(&mut BudgetStatus),
    always_allow: bool,
    code: u16,
    charged: bool,
}

const fn row(name: &'static str, code: u16) -> Row {
    Row { name, pod: |_| {}, status: |_| {}, always_allow: false, code, charged: false }
}

fn rows() -> Vec<Row> {
    let none: fn(&mut BudgetStatus) = |s| s.allowed = 0;
    let unready: fn(&mut Pod) = |p| p.ready = false;
    vec![
        Row { status: none, ..row("ready, none allowed", 429) },
        Row { charged: true, ..row("ready, one allowed", 200) },
        Row { pod: |p| p.phase = PodPhase::Pending, status: none, ..row("pending", 200) },
        Row { pod: |p| p.phase = PodPhase::Finished, status: none, ..row("finished", 200) },
        Row { pod: |p| p.deleting_since = Some(1), status: none, ..row("deleting", 200) },
        Row { pod: unready, status: |s| s.allowed = 0, ..row("not ready, enough healthy", 200) },
        Row {
            pod: unready,
            status: |s| (s.allowed, s.current, s.desired) = (0, 1, 2),
            ..row("not ready, too few healthy", 429)
        },
        Row {
            pod: unready,
            status: |s| (s.allowed, s.current, s.desired) = (0, 1, 2),
            always_allow: true,
            ..row("not ready, AlwaysAllow", 200)
        },
        Row { status: |s| s.observed_generation = 0, ..row("budget not observed", 429) },
        Row { status: |s| s.allowed = -1, ..row("negative allowance", 403) },
        Row {
            status: |s| s.disrupted = (0..2001).map(|n| (format!("p{n}"), 0)).collect(),
            ..row("too many disrupted pods", 403)
        },
    ]
}

fn set_up(row: &Row) -> (World, ObjectKey) {
    let mut world = world();
    let key = first(&world);
    if row.always_allow {
        world.change_budget(&budget(), |b| b.always_allow_unready = true).unwrap();
        world.advance(world.now() + 1000);
    }
    world.change_pod(&key, row.pod).unwrap();
    world.set_budget_status(&budget(), row.status).unwrap();
    (world, key)
}

#[test]
fn answers_follow_the_table() {
    for row in rows() {
        let (mut world, key) = set_up(&row);
        let before = world.budget(&budget()).unwrap().status.clone();
        let dry = DeleteOptions { dry_run: true, ..DeleteOptions::default() };
        let pods = world.pods().cloned().collect::<Vec<_>>();
        let code =
            |answer: Result<(), Refusal>| answer.map_or_else(|refusal| refusal.code, |()| 200);
        assert_eq!(code(evict(&mut world, &key, &dry)), row.code, "dry run: {}", row.name);
        assert_eq!(
            world.budget(&budget()).unwrap().status,
            before,
            "dry run changed it: {}",
            row.name
        );
        assert_eq!(
            world.pods().cloned().collect::<Vec<_>>(),
            pods,
            "dry run changed pods: {}",
            row.name
        );

        assert_eq!(
            code(evict(&mut world, &key, &DeleteOptions::default())),
            row.code,
            "{}",
            row.name
        );
        let after = world.budget(&budget()).unwrap().status.clone();
        assert_eq!(after.allowed < before.allowed, row.charged, "charge: {}", row.name);
        assert_eq!(after.disrupted.contains_key(&*key.name), row.charged, "entry: {}", row.name);
        let going = world.pod(&key).map_or(true, |pod| pod.deleting_since.is_some());
        assert_eq!(going, row.code == 200, "deletion: {}", row.name);
    }
}

#[test]
fn refusals_speak_as_the_server_does() {
    let mut world = world();
    let key = first(&world);
    world.set_budget_status(&budget(), |s| (s.allowed, s.current) = (0, 2)).unwrap();
    let refusal = evict(&mut world, &key, &DeleteOptions::default()).unwrap_err();
    assert_eq!(
        refusal.message,
        "Cannot evict pod as it would violate the pod's disruption budget."
    );
    assert_eq!(
        refusal.causes[0].message,
        "The disruption budget app needs 2 healthy pods and has 2 currently"
    );
    assert_eq!(refusal.retry_after_s, None, "an ordinary 429 names no time (E4)");

    world.set_budget_status(&budget(), |s| s.observed_generation = 0).unwrap();
    let refusal = evict(&mut world, &key, &DeleteOptions::default()).unwrap_err();
    assert_eq!(refusal.retry_after_s, Some(10));

    let refusal = world.evict(&key, "other", &DeleteOptions::default()).unwrap_err();
    assert_eq!((refusal.code, refusal.reason), (400, "BadRequest"));
    let nobody = ObjectKey::new("default", "nobody");
    let refusal = evict(&mut world, &nobody, &DeleteOptions::default()).unwrap_err();
    assert_eq!((refusal.code, refusal.message.as_str()), (404, "pods \"nobody\" not found"));
}

#[test]
fn no_budget_two_budgets_and_the_empty_selector() {
    let mut world = Scenario::new(2, 3).with(Workload::new("app", Kind::Deployment, 2)).build();
    let key = first(&world);
    let dry = DeleteOptions { dry_run: true, ..DeleteOptions::default() };
    evict(&mut world, &key, &dry).unwrap();

    let guarded =
        Scenario::new(2, 3).with(Workload::new("app", Kind::Deployment, 2)).guarded("app", ONE);
    let mut twice = guarded.clone();
    let again = twice.budgets[0].clone();
    twice.budgets.push(evenkeel_sim::scenario::BudgetSpec {
        key: ObjectKey::new("default", "everything"),
        selector: Selector::All(vec![]),
        ..again
    });
    let mut world = twice.build();
    let key = first(&world);
    let refusal = evict(&mut world, &key, &dry).unwrap_err();
    assert_eq!((refusal.code, refusal.reason), (500, ""));

    let mut all = guarded;
    all.budgets[0].selector = Selector::All(vec![]);
    all.budgets[0].limit = Limit::MaxUnavailable(Amount::Pods(0));
    let mut world = all.build();
    let key = first(&world);
    assert_eq!(evict(&mut world, &key, &dry).unwrap_err().code, 429);
}

#[test]
fn e1_a_stale_uid_burns_the_budget_until_the_entry_expires() {
    let mut world = world();
    let key = first(&world);
    let stale = Precondition { uid: Some(Uid::new("another")), resource_version: None };
    let options = DeleteOptions { precondition: stale, ..DeleteOptions::default() };
    let refusal = evict(&mut world, &key, &options).unwrap_err();
    assert_eq!((refusal.code, refusal.reason), (409, "Conflict"));
    assert!(refusal.message.contains("the UID in the precondition (another) does not match"));
    assert!(world.pod(&key).unwrap().deleting_since.is_none());
    let start = world.now();
    world.advance(start + 119_000);
    assert_eq!(world.budget(&budget()).unwrap().status.allowed, 0, "still burnt");
    world.advance(start + 123_000);
    assert_eq!(world.budget(&budget()).unwrap().status.allowed, 1, "free again");
}

#[test]
fn e2_a_quick_replacement_of_the_same_name_holds_the_budget() {
    let seeds = 1..60;
    let held = seeds.filter(|seed| {
        let mut quick = Workload::new("db", Kind::StatefulSet, 3);
        (quick.stop_ms, quick.start_ms) = (0, 50);
        let mut world = Scenario::new(*seed, 3).with(quick).guarded("db", ONE).build();
        let key = first(&world);
        evict(&mut world, &key, &DeleteOptions::default()).unwrap();
        world.advance(world.now() + 60_000);
        let all_back = world.pods().filter(|pod| pod.healthy()).count() == 3;
        let stuck = world.budget(&ObjectKey::new("default", "db")).unwrap().status.allowed == 0;
        all_back && stuck
    });
    assert!(held.count() > 0, "E2 never happened in 59 worlds");
}

#[test]
fn e3_parallel_evictions_under_one_budget_cost_half_a_second() {
    let two = Limit::MaxUnavailable(Amount::Pods(2));
    let mut world = Scenario::new(3, 3)
        .with(Workload::new("app", Kind::Deployment, 3))
        .guarded("app", two)
        .build();
    let keys: Vec<_> = world.pods().map(|pod| pod.key.clone()).collect();
    let mut cost = Vec::new();
    for key in &keys[..2] {
        let reply = world.call(evenkeel_sim::world::Call::Write, |w| {
            w.evict(key, &key.name, &DeleteOptions::default())
        });
        reply.result.unwrap();
        cost.push(reply.after_ms);
    }
    assert!(cost[0] < 100 && cost[1] >= 500, "{cost:?}");
    assert_eq!(world.coverage.budget_conflicts, 1);
}

#[test]
fn e5_evicting_a_going_pod_is_accepted_again_and_counted_once() {
    let mut world = world();
    let key = first(&world);
    evict(&mut world, &key, &DeleteOptions::default()).unwrap();
    evict(&mut world, &key, &DeleteOptions::default()).unwrap();
    let accepted = world
        .history
        .iter()
        .filter(|(_, what)| {
            matches!(what, evenkeel_sim::history::Happened::EvictionAccepted { .. })
        })
        .count();
    assert_eq!(accepted, 1);
}

#[test]
fn e6_a_replacement_that_is_not_ready_goes_for_free() {
    let mut world = world();
    let key = first(&world);
    world.change_pod(&key, |pod| pod.ready = false).unwrap();
    world.advance(world.now() + 1000);
    assert_eq!(world.budget(&budget()).unwrap().status.allowed, 0, "one is out already");
    evict(&mut world, &key, &DeleteOptions::default()).unwrap();
}
