//! Who is taken next, how a job ends, and what is found before the first cordon.

use crate::common::{Case, NOW, budget, name, pod, verbs};
use evenkeel_engine::facts::{Owner, Readiness};
use evenkeel_engine::ids::ObjectKey;
use evenkeel_engine::phase::{Blocker, Cause, Left, Phase, SkipReason};
use evenkeel_engine::place::{Needs, Resources};
use evenkeel_engine::report::WaitingOn;
use evenkeel_engine::sync::{Status, Work};
use evenkeel_engine::time::{Span, Time};
use std::sync::Arc;

fn cause() -> Cause {
    Cause::Step { step: "install".to_owned(), message: "exit status 1".to_owned() }
}

/// One letter per node: see `upstream/candidates.txt`.
pub fn scene(max: u32, nodes: &str, canary: bool, named: bool) -> Case {
    let letters: Vec<char> = nodes.chars().collect();
    let mut case = Case::new(letters.len(), max).spec(|spec| {
        spec.proven = !canary;
        spec.named = named;
        let asked = |n: &usize| !matches!(letters[*n], 'u' | 'x' | 'c');
        let keep: Vec<_> = (0..letters.len()).filter(asked).map(|n| name(n + 1)).collect();
        spec.targets.retain(|t| keep.contains(&t.name));
    });
    for (n, letter) in letters.iter().enumerate().map(|(n, l)| (n + 1, l)) {
        let cordoned = |left| Phase::Failed { at: NOW, cause: cause(), left };
        match letter {
            'S' | 'x' => case.node_at(n, Time(0), |node| node.ready = Readiness::Unknown),
            's' => case.node(n, |node| node.ready = Readiness::NotReady),
            'C' | 'c' => case.node(n, |node| node.unschedulable = true),
            'h' => case.node(n, |node| node.hold = true),
            'i' | 'I' => {
                case.in_hand(n, Phase::Resetting { since: NOW }, |w| {
                    w.was_available = *letter == 'i';
                });
            }
            'd' | 'D' => {
                case.stands(n, Phase::Done { at: NOW }, |w| {
                    w.was_available = *letter == 'd';
                });
            }
            'f' => case.in_hand(n, cordoned(Left::Cordoned), |w| w.attempt = 2),
            'F' => case.stands(n, cordoned(Left::InService), |_| ()),
            'w' => {
                let until = NOW + Span::secs(20);
                case.stands(n, Phase::Waiting { since: NOW, until, cause: cause() }, |_| ());
            }
            'g' => case.index.lose_node(&name(n)),
            _ => {}
        }
    }
    case
}

pub fn taken(case: &Case) -> String {
    let plan = case.once();
    let names = plan.works.iter().filter(|(_, w)| w.phase.word() == "Claiming");
    names.map(|(_, w)| w.name.to_string()).collect::<Vec<_>>().join(" ")
}

/// How a job ends when nothing can be taken any more.
#[test]
fn verdicts() {
    let rows = [
        ("dd", true, "Success"),
        ("dh", true, "Success"),
        ("dC", true, "Success"),
        ("dg", true, "Success"),
        ("Fd", true, "Failed"),
        ("fr", true, "Failed"),
        ("fw", true, "Failed"),
        ("dw", false, "Running"),
        ("di", false, "Running"),
        ("cr", false, "Running"),
    ];
    for (nodes, ends, word) in rows {
        let mut case = scene(1, nodes, false, false);
        case.settle();
        let status = format!("{:?}", case.sync.state.status);
        assert!(status.starts_with(word), "{nodes}: {status}");
        assert_eq!(case.sync.running(), !ends, "{nodes}");
        let c = case.sync.counts();
        assert_eq!(c.total, c.ok + c.failed + c.skipped + c.open, "{nodes} {c:?}");
        let open = case.sync.works().any(|w| !w.phase.is_terminal());
        assert!(!ends || !open, "{nodes} ended with somebody on the way");
    }
    let mut skips = scene(2, "dhCg", false, false);
    skips.settle();
    let reason = |n: usize| match &skips.work(n).phase {
        Phase::Skipped { reason, .. } => reason.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(reason(2), SkipReason::Held);
    assert_eq!(reason(3), SkipReason::CordonedByOthers);
    assert_eq!(reason(4), SkipReason::Gone);
}

/// The failure budget: a configuration that fails everywhere costs maxUnavailable nodes, one with a canary. Those in
/// hand finish, nobody else is touched, and the verdict says how many failed and how many were left alone.
#[test]
fn a_bad_configuration_stops_itself() {
    for (canary, lost) in [(true, 1), (false, 3)] {
        let mut case = Case::new(9, 3).spec(|spec| {
            spec.proven = false;
            spec.policy.canary = canary;
        });
        let mut failed = 0;
        while case.sync.running() {
            case.settle();
            let begun = |w: &&Work| matches!(w.phase, Phase::Claiming { .. });
            let Some(next) = case.sync.works().find(begun).map(|w| w.name.clone()) else {
                break;
            };
            assert!(failed < lost, "{next} was taken after {failed} failures");
            let n = next.as_str()[1..].parse().unwrap();
            failed += 1;
            let phase = Phase::Failed { at: NOW, cause: cause(), left: Left::Cordoned };
            case.in_hand(n, phase, |w| w.attempt = 2);
        }
        let counts = case.sync.counts();
        assert_eq!(
            (counts.failed, counts.skipped),
            (lost, 9 - lost),
            "canary {canary}: {counts:?}"
        );
        let Status::Failed { reason, .. } = &case.sync.state.status else {
            panic!("{:?}", case.sync.state.status);
        };
        let rest = format!("({lost} failed, {} not started because of that)", 9 - lost);
        assert!(reason.ends_with(&rest) && reason.contains("it was left cordoned"), "{reason}");
        assert_eq!(taken(&case), "", "an ended job takes nobody");
    }
}

/// Nodes that others took out: the run says who, waits, and gives up in the end, also with nodes given back before.
#[test]
fn a_stalled_run_names_who_is_out_and_ends() {
    for nodes in ["cr", "cw"] {
        let mut case = scene(1, nodes, false, false);
        case.pass(Span::secs(60));
        let plan = case.turn();
        let report = &plan.reports[&case.sync.spec.job];
        let why = report.next.as_ref().expect("a reason").to_string();
        assert!(why.contains("n1"), "{why}");
        case.pass(Span::mins(23 * 60));
        case.settle();
        assert!(case.sync.running(), "{nodes}");
        case.pass(Span::mins(2 * 60));
        case.settle();
        let Status::Failed { reason, .. } = &case.sync.state.status else {
            panic!("{nodes} still runs");
        };
        assert!(reason.contains("stalled") && reason.contains("n1"), "{reason}");
        assert!(case.sync.works().all(|w| w.phase.is_terminal()), "{nodes}");
    }
}

/// A node whose pods can never leave is found before the first cordon, named, and given up after three looks.
#[test]
fn what_can_never_leave_is_found_before_the_cordon() {
    let mut case = Case::new(1, 1);
    case.pod(pod("db", 1));
    case.index.see_budget(budget("db", (2, 2, 2, 0)));
    for _ in 0..3 {
        let plan = case.turn();
        assert!(plan.actions.is_empty(), "{:?}", verbs(&plan));
        case.pass(Span::secs(100));
    }
    let Phase::Failed { cause: Cause::Undrainable { blocker }, left: Left::InService, .. } =
        &case.work(1).phase
    else {
        panic!("{:?}", case.work(1).phase);
    };
    assert_eq!(blocker.budget, Some(ObjectKey::new("default", "db")));
    let bare = |owner| {
        let mut case = Case::new(1, 1);
        let mut pod = pod("lone", 1);
        pod.owner = owner;
        case.pod(pod);
        taken(&case)
    };
    assert_eq!(bare(Owner::Nobody), "");
    assert_eq!(bare(Owner::DaemonSet), "n1");
}

/// While a configuration is being proven: those that need not wait for a budget, then the emptiest.
#[test]
fn the_one_that_can_be_drained_at_once_goes_first() {
    let mut case = Case::new(3, 1).spec(|spec| spec.proven = false);
    case.pod(pod("db", 1));
    case.index.see_budget(budget("db", (3, 2, 2, 0)));
    case.pod(pod("web", 2));
    assert_eq!(taken(&case), "n3");
    case.node(3, |node| node.hold = true);
    assert_eq!(taken(&case), "n2");
    case.node(2, |node| node.hold = true);
    assert_eq!(taken(&case), "n1", "if all would wait, one of them");
}

#[test]
fn a_blocker_is_words_for_people() {
    let blocker =
        Blocker { pod: ObjectKey::new("a", "b"), budget: None, why: "because".to_owned() };
    assert_eq!(Cause::Undrainable { blocker }.to_string(), "undrainable: pod a/b: because");
}

/// How many nodes fit, by what their pods ask of the others.
#[test]
fn room_limits_parallelism_to_one_at_least() {
    // CPU of a node, what its pod asks, DaemonSet pods ask, strict: taken of four with a limit of three, what is short
    let rows = [
        (0, 3000, 0, false, "n1 n2 n3", "", "nodes that say nothing of what they offer"),
        (4000, 1000, 0, false, "n1 n2 n3", "", "all three fit on the fourth"),
        (4000, 1500, 0, false, "n1 n2", "", "two fit on the other two"),
        (4000, 3500, 0, false, "n1", "CPU", "not even one fits: one at least, with a warning"),
        (4000, 3500, 0, true, "", "CPU", "strict: nobody"),
        (4000, 1000, 2500, false, "n1", "", "DaemonSet pods do not move, but take room"),
    ];
    for (cpu, asks, daemon, strict, expected, short, why) in rows {
        let mut case = Case::new(4, 3);
        case.sync.pace.strict = strict;
        for n in 1..=4 {
            if cpu > 0 {
                let allocatable = Resources { cpu_m: cpu, memory: 1 << 30, pods: 110 };
                case.node(n, |node| node.allocatable = allocatable);
            }
            for (app, owner, cpu_m) in [
                ("web", Owner::Controller("ReplicaSet/web".into()), asks),
                ("agent", Owner::DaemonSet, daemon),
            ] {
                let mut pod = pod(app, n);
                let mut needs = Needs::nothing();
                needs.requests = Resources { cpu_m, memory: 0, pods: 1 };
                (pod.owner, pod.needs) = (owner, Arc::new(needs));
                case.pod(pod);
            }
        }
        assert_eq!(taken(&case), expected, "{why}");
        let plan = case.once();
        let log = plan.works.first().map(|(_, w)| w.log.last().unwrap().note.clone());
        let next = plan.reports[&case.sync.spec.job].next.as_ref().map(ToString::to_string);
        let words = log.or(next).unwrap_or_default();
        assert_eq!(words.contains("is short"), !short.is_empty(), "{why}: {words}");
        assert!(words.contains(short), "{why}: {words}");
    }
}

/// What is in hand already is promised room, whichever job holds it.
#[test]
fn room_is_promised_once() {
    let mut case = Case::new(4, 3);
    for n in 1..=4 {
        let allocatable = Resources { cpu_m: 4000, memory: 1 << 30, pods: 110 };
        case.node(n, |node| node.allocatable = allocatable);
        let mut pod = pod("web", n);
        let mut needs = Needs::nothing();
        needs.requests = Resources { cpu_m: 2000, memory: 0, pods: 1 };
        pod.needs = Arc::new(needs);
        case.pod(pod);
    }
    case.in_hand(1, Phase::Draining { since: NOW, cordoned: true }, |_| ());
    assert_eq!(taken(&case), "n2", "2 + 2 fit on n3 and n4");
    case.in_hand(2, Phase::Draining { since: NOW, cordoned: true }, |_| ());
    assert_eq!(taken(&case), "");
    let next = case.once().reports[&case.sync.spec.job].next.clone();
    assert!(matches!(&next, Some(WaitingOn::Room { node, .. }) if *node == name(3)), "{next:?}");
    case.index.lose_pod(&"uid-web-1".into());
    case.index.lose_pod(&"uid-web-2".into());
    case.settle();
    assert_eq!(case.phase(3), "Claiming", "their pods are gone: there is room");
}
