//! The order of choice, rule by rule, and what a decision costs in a large pool.

use crate::common::{Case, NOW, budget, pod};
use evenkeel_engine::facts::BudgetSeen;
use evenkeel_engine::ids::ObjectKey;
use evenkeel_engine::order::Order;
use evenkeel_engine::phase::{Cause, Phase};
use evenkeel_engine::time::{Span, Time};
use std::sync::Arc;

/// What stands on each node, one word a pod: the first letter is its budget, the rest tells pods apart. A node is
/// `zone:pods`.
struct Scene {
    nodes: &'static [&'static str],
    /// letter, pods expected, healthy ones needed, allowed now, learned recovery in seconds.
    budgets: &'static [(&'static str, i32, i32, i32, u64)],
    /// Another node has come back.
    rolling: bool,
    max: u32,
}

fn build(scene: &Scene) -> Case {
    let count = scene.nodes.len();
    let mut case = Case::new(count + usize::from(scene.rolling), scene.max);
    for (n, text) in scene.nodes.iter().enumerate() {
        let (zone, pods) = text.split_once(':').expect("zone:pods");
        if !zone.is_empty() {
            case.node(n + 1, |node| node.zone = Some(zone.into()));
        }
        for (i, word) in pods.split_whitespace().enumerate() {
            let app = &word[..1];
            let mut one = pod(app, n + 1);
            one.uid = format!("{word}-{n}-{i}").into();
            one.key = ObjectKey::new("default", format!("{word}-{n}-{i}"));
            one.grace_s = word[1..].parse().unwrap_or(30);
            case.pod(one);
        }
    }
    for (app, expected, desired, allowed, recovery) in scene.budgets {
        let healthy = desired + allowed;
        case.index.see_budget(budget(app, (*expected, *desired, healthy, *allowed)));
        let mut samples = evenkeel_engine::learn::Samples::default();
        samples.take(Span::secs(*recovery));
        case.learned.restore_budget(ObjectKey::new("default", app), samples);
    }
    if scene.rolling {
        case.stands(count + 1, Phase::Done { at: NOW }, |_| ());
    }
    case
}

fn taken(case: &Case) -> Vec<String> {
    let plan = case.once();
    let names = plan.works.iter().filter(|(_, w)| w.phase.word() == "Claiming");
    names.map(|(_, w)| w.name.to_string()).collect()
}

#[test]
fn the_rules_of_the_order() {
    let none: &[(&str, i32, i32, i32, u64)] = &[];
    let rows: &[(Scene, &str, &str)] = &[
        (
            Scene { nodes: &[":x10", ":x90", ":x40"], budgets: none, rolling: true, max: 2 },
            "n2 n3",
            "no budgets: the longest drain first",
        ),
        (
            Scene {
                nodes: &[":a", ":b", ":b"],
                budgets: &[("a", 3, 2, 1, 100), ("b", 9, 8, 1, 60)],
                rolling: true,
                max: 1,
            },
            "n2",
            "2 pods x 60 s > 1 pod x 100 s: the longest chain",
        ),
        (
            Scene {
                nodes: &[":a", ":b", ":b"],
                budgets: &[("a", 3, 2, 1, 100), ("b", 9, 7, 2, 60)],
                rolling: true,
                max: 1,
            },
            "n1",
            "b lets two go at once: half the chain",
        ),
        (
            Scene {
                nodes: &[":a", ":b", ":b"],
                budgets: &[("a", 3, 2, 1, 100), ("b", 9, 8, 0, 60)],
                rolling: true,
                max: 1,
            },
            "n1",
            "b's chain is longer, but b allows nothing now",
        ),
        (
            Scene {
                nodes: &[":a b", ":b", ":x"],
                budgets: &[("a", 9, 8, 1, 100), ("b", 9, 8, 0, 60)],
                rolling: true,
                max: 1,
            },
            "n3",
            "n1 could only begin: all of its pods must be free to go",
        ),
        (
            Scene {
                nodes: &[":a a", ":b b b"],
                budgets: &[("a", 9, 8, 0, 100), ("b", 9, 8, 0, 10)],
                rolling: true,
                max: 1,
            },
            "n2",
            "all would wait: 3 x 10 s ends before 2 x 100 s",
        ),
        (
            Scene {
                nodes: &[":a", ":a", ":x", ":x"],
                budgets: &[("a", 9, 8, 1, 100)],
                rolling: true,
                max: 3,
            },
            "n1 n3 n4",
            "the one that a lets go is promised to n1: n2 would wait",
        ),
        (
            Scene { nodes: &["b:x", "a:x", "b:x"], budgets: none, rolling: true, max: 2 },
            "n2 n1",
            "ties: zone after zone, then the name",
        ),
    ];
    for (scene, expected, why) in rows {
        assert_eq!(taken(&build(scene)).join(" "), *expected, "{why}");
    }
}

/// The canary and the pair after it: the fewest pods depend on a configuration that may be bad.
#[test]
fn while_a_configuration_is_proven_the_emptiest_goes_first() {
    let nodes = &[":x90 x", ":x", ":x90 x x"];
    let case = build(&Scene { nodes, budgets: &[], rolling: false, max: 1 });
    assert_eq!(taken(&case), ["n1"], "proven: the longest drain");
    assert_eq!(taken(&case.spec(|spec| spec.proven = false)), ["n2"]);
}

#[test]
fn zones_the_own_node_and_the_control_plane() {
    let scene = Scene { nodes: &["a:", "a:", "b:", "b:"], budgets: &[], rolling: true, max: 4 };
    let mut case = build(&scene).spec(|spec| spec.policy.zone_max = Some(1));
    assert_eq!(taken(&case), ["n1", "n3"], "one of each zone");
    case.in_hand(1, Phase::Resetting { since: NOW }, |_| ());
    assert_eq!(taken(&case), ["n3"], "zone a has its node in hand");
    case.in_hand(3, Phase::Resetting { since: NOW }, |_| ());
    let why = case.once().reports[&case.sync.spec.job].next.clone().expect("a reason").to_string();
    assert!(why.contains("zone a"), "{why}");

    let mut own = build(&scene);
    let controller = pod("controller", 1);
    own.index.set_own_pod(Some(controller.uid.clone()));
    own.pod(controller);
    assert_eq!(taken(&own), ["n2", "n3", "n4", "n1"], "the controller's own node is the last");

    let mut master = build(&scene);
    master.node(2, |node| node.control_plane = true);
    assert_eq!(taken(&master), ["n1", "n3", "n4"], "a control-plane node is never touched");
}

/// A node that was taken asks for its budgets from the claim on, not only from its first eviction.
#[test]
fn what_is_promised_is_not_promised_again() {
    let scene = Scene {
        nodes: &[":a x", ":a", ":x"],
        budgets: &[("a", 9, 8, 1, 100)],
        rolling: true,
        max: 2,
    };
    let mut case = build(&scene);
    case.in_hand(1, Phase::Draining { since: NOW, cordoned: true }, |_| ());
    assert_eq!(taken(&case), ["n3"]);
    case.index.lose_pod(&"a-0-0".into());
    assert_eq!(taken(&case), ["n2"], "its pod has gone and the budget has room again");
}

fn status(app: &str, version: u64, allowed: i32) -> BudgetSeen {
    let mut seen = budget(app, (20, 19, 19 + allowed, allowed));
    seen.resource_version = Arc::from(version.to_string());
    seen
}

/// Nodes looked at per event, at most, over a run of events of each kind.
fn cost(count: usize) -> Vec<(&'static str, u64)> {
    let mut case = Case::new(count, 10);
    // Twenty replicas a budget, however many nodes there are.
    for n in 1..=count {
        for (set, app) in ["s", "t"].iter().zip([n / 20, count + n % (count / 20)]) {
            let mut one = pod("app", n);
            one.uid = format!("{set}{n}").into();
            one.key = ObjectKey::new("default", format!("{set}{n}"));
            one.labels = Arc::new([("app".to_owned(), format!("b{app}"))].into());
            case.pod(one);
        }
    }
    for b in (0..=count / 20).chain(count..count + count / 20) {
        case.index.see_budget(status(&format!("b{b}"), 1, 1));
    }
    let mut order = Order::default();
    case.follow(&mut order);
    let mut costs = Vec::new();
    let mut measure =
        |case: &mut Case, what: &'static str, event: &mut dyn FnMut(&mut Case, u64)| {
            let mut most = 0;
            for round in 0..40 {
                let before = order.looked();
                event(case, round);
                case.follow(&mut order);
                let _ = case.with(&order);
                most = most.max(order.looked() - before);
            }
            costs.push((what, most));
        };
    measure(&mut case, "a budget's status", &mut |case, round| {
        case.index.see_budget(status("b1", 2 + round, (round % 2) as i32));
    });
    measure(&mut case, "a pod comes and goes", &mut |case, round| {
        let mut one = pod("app", 7);
        one.uid = "fresh".into();
        one.labels = Arc::new([("app".to_owned(), "b1".to_owned())].into());
        if round % 2 == 0 { case.pod(one) } else { case.index.lose_pod(&one.uid) }
    });
    measure(&mut case, "a node turns", &mut |case, round| {
        case.node(9, |node| node.hold = round % 2 == 0);
    });
    measure(&mut case, "a node is taken and done", &mut |case, round| {
        let n = 20 + round as usize / 2;
        if round % 2 == 0 {
            case.in_hand(n, Phase::Draining { since: NOW, cordoned: true }, |_| ());
        } else {
            case.stands(n, Phase::Done { at: NOW }, |_| ());
        }
    });
    measure(&mut case, "a node is given back", &mut |case, round| {
        let cause = Cause::NoRoom { message: String::new() };
        let until = case.now + Span(1);
        case.stands(
            70 + round as usize % 9,
            Phase::Waiting { since: Time(0), until, cause },
            |_| (),
        );
        case.pass(Span(2));
    });
    costs
}

/// What an event costs depends on the nodes under the budget that changed, never on the size of the pool.
#[test]
fn a_decision_in_a_large_pool_looks_at_no_more_nodes() {
    let (small, large) = (cost(100), cost(10_000));
    for ((what, few), (_, many)) in small.iter().zip(&large) {
        assert!(*few > 0, "{what}: nothing was looked at");
        assert!(many <= few, "{what}: {few} nodes of 100 are looked at, {many} of 10,000");
        assert!(*many <= 100, "{what}: {many} nodes are looked at, 20 stand under a budget");
    }
}
