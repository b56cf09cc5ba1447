//! What a preview says, one row per rule. The graphs are small enough to be worked out by hand.

use crate::common::{Case, budget, name, pod};
use evenkeel_engine::facts::{Owner, PodPhase, PodSeen};
use evenkeel_engine::ids::{NodeId, ObjectKey, Uid};
use evenkeel_engine::place::{Needs, NodeTerm, Resources, Taint, Toleration};
use evenkeel_engine::preview::bounds::Limit;
use evenkeel_engine::preview::concern::{Kind, Volumes};
use evenkeel_engine::preview::drift::{Applied, Parts, Wanted, drift};
use evenkeel_engine::preview::{Ask, Preview, RESET_GUESS, STOP_GUESS, View, preview};
use evenkeel_engine::selector::Requirement;
use evenkeel_engine::sync::TargetNode;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A node's whole time with pods that have 30 s of grace, and without any.
const BUSY_S: u64 = (RESET_GUESS.0 + STOP_GUESS.0) / 1000;
const EMPTY_S: u64 = RESET_GUESS.0 / 1000;

fn look(case: &Case, volumes: &Volumes) -> Preview {
    let ask = Ask {
        spec: case.sync.spec.clone(),
        wanted: Wanted::default(),
        cap: 20,
        carried: BTreeMap::new(),
    };
    preview(&View { index: &case.index, volumes, learned: &case.learned, now: case.now }, &ask)
}

fn see(case: &Case) -> Preview {
    look(case, &Volumes::new())
}

/// Several pods of an app on one node.
fn pods(case: &mut Case, app: &str, on: usize, count: usize, change: impl Fn(&mut PodSeen)) {
    for index in 0..count {
        let mut one = pod(app, on);
        one.key = ObjectKey::new("default", format!("{app}-{on}-{index}"));
        one.uid = Uid::new(format!("uid-{app}-{on}-{index}"));
        change(&mut one);
        case.pod(one);
    }
}

fn kinds(found: &Preview, node: usize) -> Vec<Kind> {
    let plan = found.nodes.iter().find(|plan| plan.name == name(node)).expect("the node is there");
    plan.concerns.iter().map(|concern| concern.kind).collect()
}

fn bound(found: &Preview, wanted: &str) -> (u64, Option<Limit>) {
    let bound = found.bounds.all.iter().find(|bound| bound.name == wanted).expect("the bound");
    (bound.span.as_secs(), bound.limit.clone())
}

#[test]
fn what_stands_in_the_way_of_a_pod_is_named() {
    let never = budget("web", (1, 1, 1, 0));
    let roomy = budget("web", (3, 2, 3, 1));
    let second = {
        let mut second = budget("web", (3, 2, 3, 1));
        second.key = ObjectKey::new("default", "web-too");
        second
    };
    let rows: Vec<(&str, Box<dyn Fn(&mut PodSeen)>, Vec<_>, bool, Vec<Kind>)> = vec![
        ("a pod of a controller", Box::new(|_| ()), vec![], false, vec![]),
        ("a budget with room", Box::new(|_| ()), vec![roomy.clone()], false, vec![]),
        ("never", Box::new(|_| ()), vec![never.clone()], false, vec![Kind::NeverAllows]),
        ("two", Box::new(|_| ()), vec![roomy.clone(), second], false, vec![Kind::TwoBudgets]),
        ("bare", Box::new(|p| p.owner = Owner::Nobody), vec![], false, vec![Kind::Bare]),
        ("bare, forced", Box::new(|p| p.owner = Owner::Nobody), vec![], true, vec![]),
        ("protected", Box::new(|p| p.protected = true), vec![], false, vec![Kind::DoNotDisrupt]),
        ("local data", Box::new(|p| p.local_data = true), vec![], false, vec![Kind::LocalData]),
        (
            "a DaemonSet's local data stays",
            Box::new(|p| (p.local_data, p.owner) = (true, Owner::DaemonSet)),
            vec![],
            false,
            vec![],
        ),
        ("finished", Box::new(|p| p.phase = PodPhase::Finished), vec![never], false, vec![]),
    ];
    for (what, change, budgets, force, expected) in rows {
        let mut case = Case::new(2, 1).spec(|spec| spec.force = force);
        case.node(2, |node| node.allocatable.pods = 10);
        for budget in budgets {
            case.index.see_budget(budget);
        }
        pods(&mut case, "web", 1, 1, change);
        assert_eq!(kinds(&see(&case), 1), expected, "{what}");
    }
}

#[test]
fn a_pod_that_fits_nowhere_else_is_told_from_one_that_moves() {
    let asks = |needs: Needs| move |p: &mut PodSeen| p.needs = Arc::new(needs.clone());
    let place = Needs::nothing;
    let cpu = |cpu_m| Needs { requests: Resources { cpu_m, memory: 0, pods: 1 }, ..place() };
    let on = |zone: &str| Needs {
        selector: BTreeMap::from([("zone".to_owned(), zone.to_owned())]),
        ..place()
    };
    let only_first = Needs {
        affinity: Some(vec![NodeTerm {
            labels: Vec::new(),
            names: vec![Requirement::In("metadata.name".into(), vec!["n1".into()])],
        }]),
        ..place()
    };
    let tolerating = Needs {
        tolerations: vec![Toleration { key: Some("gpu".into()), value: None, effect: None }],
        ..cpu(3000)
    };
    let rows = [
        ("asks for nothing", place(), vec![]),
        ("fits on n2", cpu(1000), vec![]),
        ("is too large for n2", cpu(1001), vec![Kind::FitsNowhereElse]),
        ("fits on the tainted n3", tolerating, vec![]),
        ("is bound to zone a, where n2 is", on("a"), vec![]),
        ("is bound to zone b", on("b"), vec![Kind::FitsNowhereElse]),
        ("is bound to its node", only_first, vec![Kind::FitsNowhereElse]),
    ];
    for (what, needs, expected) in rows {
        let mut case = Case::new(3, 1);
        case.node(2, |node| {
            node.allocatable = Resources { cpu_m: 2000, memory: 0, pods: 3 };
            node.labels = Arc::new(BTreeMap::from([("zone".to_owned(), "a".to_owned())]));
        });
        case.node(3, |node| {
            node.allocatable = Resources { cpu_m: 4000, memory: 0, pods: 3 };
            node.taints =
                [Taint { key: "gpu".into(), value: "".into(), effect: "NoSchedule".into() }].into();
        });
        pods(&mut case, "other", 2, 1, asks(cpu(1000)));
        pods(&mut case, "web", 1, 1, asks(needs));
        assert_eq!(kinds(&see(&case), 1), expected, "{what}");
    }
}

#[test]
fn a_volume_on_the_nodes_own_disk_pins_its_pod() {
    let host = |names: &[&str]| {
        let values = names.iter().map(|n| (*n).to_owned()).collect();
        Some(vec![NodeTerm {
            labels: vec![Requirement::In("host".into(), values)],
            names: Vec::new(),
        }])
    };
    let rows = [
        ("its own disk", host(&["n1"]), vec![Kind::PinnedVolume]),
        ("a disk that n2 reaches, too", host(&["n1", "n2"]), vec![]),
    ];
    for (what, affinity, expected) in rows {
        let mut case = Case::new(2, 1);
        for n in 1..=2 {
            case.node(n, |node| {
                node.allocatable.pods = 9;
                node.labels = Arc::new(BTreeMap::from([("host".to_owned(), format!("n{n}"))]));
            });
        }
        case.index.see_budget(budget("db", (2, 1, 2, 1)));
        pods(&mut case, "db", 1, 1, |p| p.claims = Box::new(["data-db-0".into()]));
        let volumes = Volumes::from([(ObjectKey::new("default", "data-db-0"), affinity)]);
        let found = look(&case, &volumes);
        assert_eq!(kinds(&found, 1), expected, "{what}");
        let pinned = !expected.is_empty();
        let (seconds, limit) = bound(&found, "LB3'");
        assert_eq!((seconds, limit.is_some()), (if pinned { BUSY_S } else { 0 }, pinned), "{what}");
    }
    // Two pinned pods of a budget of one on one node: that drain can never end.
    let mut case = Case::new(2, 1);
    case.index.see_budget(budget("db", (2, 1, 2, 1)));
    case.node(1, |node| {
        node.labels = Arc::new(BTreeMap::from([("host".to_owned(), "n1".to_owned())]));
    });
    pods(&mut case, "db", 1, 2, |p| p.claims = Box::new(["shared".into()]));
    let volumes = Volumes::from([(ObjectKey::new("default", "shared"), host(&["n1"]))]);
    let impossible = look(&case, &volumes).bounds.impossible;
    assert_eq!(impossible, [(ObjectKey::new("default", "db"), name(1))]);
}

/// (nodes, slots, pods of one budget per node, the budget's expected/desired) and what comes of it.
#[test]
fn bounds_are_those_that_one_works_out_by_hand() {
    let chain = |pods: u64, at_once: u64| (pods.div_ceil(at_once) - 1) * 60 + EMPTY_S;
    let rows = [
        // 4 empty nodes, one after the other, two at once, and more slots than nodes.
        (4, 1, 0, (0, 0), 4 * EMPTY_S, 0, 4, "1"),
        (4, 2, 0, (0, 0), 2 * EMPTY_S, 0, 4, "2"),
        (4, 9, 0, (0, 0), 4 * EMPTY_S / 9, 0, 4, "9 gains nothing over 4"),
        (40, 20, 0, (0, 0), 40 * EMPTY_S / 20, 0, 20, "more would help, but 20 is the most"),
        // 10 nodes with 3 pods each under a budget of 1: 29 recoveries, then a reset: 2040 s. Work: 10 x 330 s, so
        // two slots reach that.
        (10, 1, 3, (30, 29), 10 * BUSY_S, chain(30, 1), 2, "2 would be faster than 1"),
        (10, 8, 3, (30, 29), 10 * BUSY_S / 8, chain(30, 1), 2, "8 gains nothing over 2"),
        // A budget of 10 lets them all go in three rounds: 420 s; eight slots reach that.
        (10, 8, 3, (30, 20), 10 * BUSY_S / 8, chain(30, 10), 8, "8 is as many as help"),
    ];
    for (nodes, slots, per_node, (expected, desired), slot_bound, chain_bound, useful, words) in
        rows
    {
        let mut case = Case::new(nodes, slots);
        if per_node > 0 {
            case.index.see_budget(budget("db", (expected, desired, expected, expected - desired)));
        }
        for n in 1..=nodes {
            case.node(n, |node| node.allocatable.pods = 1000);
            pods(&mut case, "db", n, per_node, |_| ());
        }
        let found = see(&case);
        let what = format!("{nodes} nodes, {slots} slots, {per_node} pods: {:?}", found.useful);
        let longest = if per_node > 0 { BUSY_S } else { EMPTY_S };
        assert_eq!(bound(&found, "LB1").0, longest, "{what}");
        assert_eq!(bound(&found, "LB2").0, slot_bound, "{what}");
        assert_eq!(bound(&found, "LB3").0, chain_bound, "{what}");
        assert_eq!(bound(&found, "LB4"), (0, None), "{what}");
        assert_eq!(bound(&found, "LB5"), (0, None), "{what}");
        assert_eq!(found.useful.max_unavailable, useful, "{what}");
        assert!(found.useful.sentence.contains(words), "{what}");
        let floor = found.bounds.largest().expect("a bound").span;
        assert!(found.eta.likely >= floor, "{what}: {:?} against {floor}", found.eta);
        assert!(found.eta.low <= found.eta.likely && found.eta.likely <= found.eta.high, "{what}");
    }
}

#[test]
fn capacity_says_how_many_may_be_out_at_once() {
    // 5 nodes of 4 CPUs with 2 CPUs of pods each: 10 are free. One node out moves 2 and takes its own 2 free ones.
    let rows = [
        (5, 2000, 1, "2 nodes may be out at once before CPU is short", 2, false),
        (5, 2000, 3, "at most 2 nodes may be out at once", 2, true),
        (5, 4000, 1, "not even one", 0, true),
        (5, 0, 5, "have room for everything", 5, false),
    ];
    for (nodes, each, slots, words, k_cap, limits) in rows {
        let mut case = Case::new(nodes, slots);
        let needs =
            Needs { requests: Resources { cpu_m: each, memory: 0, pods: 0 }, ..Needs::nothing() };
        for n in 1..=nodes {
            case.node(n, |node| {
                node.allocatable = Resources { cpu_m: 4000, memory: 1, pods: 9 };
            });
            pods(&mut case, "web", n, usize::from(each > 0), |p| p.needs = Arc::new(needs.clone()));
        }
        if each == 0 {
            // With nothing to move, room is never short.
            for n in 1..=nodes {
                case.node(n, |node| node.allocatable = Resources::default());
            }
        }
        let capacity = see(&case).capacity;
        assert_eq!((capacity.k_cap, capacity.limits(slots)), (k_cap, limits), "{capacity:?}");
        let sentence = capacity.sentence(slots);
        assert!(sentence.contains(words), "{sentence}");
    }
}

/// Pods that may only run on two labelled nodes: those two decide, however much room the others have.
#[test]
fn capacity_looks_at_groups_of_nodes() {
    let mut case = Case::new(6, 2);
    let ssd = BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]);
    for n in 1..=6 {
        case.node(n, |node| {
            node.allocatable = Resources { cpu_m: 4000, memory: 0, pods: 9 };
            node.labels = Arc::new(if n <= 2 { ssd.clone() } else { BTreeMap::new() });
        });
    }
    let needs = Needs {
        requests: Resources { cpu_m: 3000, memory: 0, pods: 1 },
        selector: ssd.clone(),
        ..Needs::nothing()
    };
    pods(&mut case, "db", 1, 1, |p| p.needs = Arc::new(needs.clone()));
    pods(&mut case, "db", 2, 1, |p| p.needs = Arc::new(needs.clone()));
    let capacity = see(&case).capacity;
    assert_eq!(capacity.group.as_deref(), Some("nodes with disk=ssd"));
    assert!(capacity.sentence(2).contains("nodes with disk=ssd"), "{}", capacity.sentence(2));
}

#[test]
fn drift_names_field_values_and_how_they_are_applied() {
    let words = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    };
    let taint = |value: &str| Taint {
        key: "team".into(),
        value: value.into(),
        effect: "NoSchedule".into(),
    };
    let wanted = Wanted {
        parts: Parts {
            reset: words(&[("os", "b"), ("preInstall", "sha256:1")]),
            new_nodes: words(&[("flavor", "large")]),
        },
        labels: words(&[("tier", "back"), ("own", "x")]),
        taints: vec![taint("a")],
    };
    let carried = Parts {
        reset: words(&[("os", "a"), ("preInstall", "sha256:1"), ("postInstall", "sha256:2")]),
        new_nodes: words(&[("flavor", "small")]),
    };
    let mut seen = crate::common::node(1);
    seen.labels = Arc::new(words(&[("tier", "front"), ("own", "x"), ("theirs", "y")]));
    seen.taints = [taint("b"), Taint { key: "theirs".into(), ..taint("") }].into();
    let row = |field: &str, wanted: Option<&str>, found: Option<&str>, applied| {
        (field.to_owned(), wanted.map(str::to_owned), found.map(str::to_owned), applied)
    };
    let shown = |carried: Option<&Parts>| -> Vec<_> {
        let found = drift(&wanted, carried, Some(&seen));
        found.into_iter().map(|d| (d.field, d.wanted, d.found, d.applied)).collect()
    };
    let in_place = [
        row("label tier", Some("back"), Some("front"), Applied::InPlace),
        row("taint team:NoSchedule", Some("a"), Some("b"), Applied::InPlace),
    ];
    let mut known = vec![
        row("os", Some("b"), Some("a"), Applied::Reset),
        row("postInstall", None, Some("sha256:2"), Applied::Reset),
        row("flavor", Some("large"), Some("small"), Applied::NewNodesOnly),
    ];
    known.extend(in_place.clone());
    assert_eq!(shown(Some(&carried)), known);
    // Of a node that was never synchronized nothing is known but what is seen.
    let mut unknown = vec![
        row("os", Some("b"), None, Applied::Reset),
        row("preInstall", Some("sha256:1"), None, Applied::Reset),
    ];
    unknown.extend(in_place);
    assert_eq!(shown(None), unknown);
    assert!(drift(&Wanted::default(), Some(&Parts::default()), Some(&seen)).is_empty());
}

#[test]
fn the_hardest_evictions_are_tried_one_of_each_budget_first() {
    let mut case = Case::new(2, 1);
    case.index.see_budget(budget("easy", (9, 1, 9, 8)));
    case.index.see_budget(budget("tight", (4, 3, 4, 1)));
    case.index.see_budget(budget("shut", (3, 2, 2, 0)));
    for app in ["easy", "tight", "shut"] {
        pods(&mut case, app, 1, 2, |_| ());
    }
    pods(&mut case, "free", 1, 3, |_| ());
    let tried: Vec<String> = see(&case).trials.iter().map(|one| one.pod.name.to_string()).collect();
    assert_eq!(tried, ["shut-1-0", "tight-1-0", "easy-1-0", "shut-1-1", "tight-1-1", "easy-1-1"]);
}

/// Canary, ramp and a blocked node: the times follow from the guesses.
#[test]
fn the_run_is_played_through() {
    let mut case = Case::new(4, 2).spec(|spec| spec.proven = false);
    pods(&mut case, "lone", 4, 1, |p| p.owner = Owner::Nobody);
    let found = see(&case);
    let rows: Vec<_> = found
        .nodes
        .iter()
        .map(|n| (n.name.as_str(), n.start.map(|s| s.as_secs()), n.end.map(|s| s.as_secs())))
        .collect();
    let reset = EMPTY_S;
    assert_eq!(
        rows,
        [
            ("n1", Some(0), Some(reset)),
            ("n2", Some(reset), Some(2 * reset)),
            ("n3", Some(reset), Some(2 * reset)),
            ("n4", None, None),
        ]
    );
    assert!(found.nodes[3].is_blocked());
    assert_eq!(found.eta.likely.as_secs(), 2 * reset);
    let nobody = Case::new(0, 3).spec(|spec| {
        spec.targets = vec![TargetNode { id: NodeId::new("x"), name: name(9) }];
    });
    assert_eq!(see(&nobody).nodes.len(), 1, "a node that is gone is still named");
}

/// A large pool is played in part and goes on at the same pace.
#[test]
fn the_run_of_a_large_pool_is_cut_short() {
    let case = Case::new(1040, 20);
    let found = see(&case);
    let played = found.nodes.iter().filter(|node| node.start.is_some()).count();
    assert_eq!((found.nodes.len(), played), (1040, 240));
    assert!(
        found.nodes[240..]
            .iter()
            .all(|node| node.rule.as_deref() == Some("later, by the same rules"))
    );
    assert_eq!(found.eta.likely.as_secs(), 52 * EMPTY_S);
}
