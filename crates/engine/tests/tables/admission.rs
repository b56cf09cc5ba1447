//! Who is taken next, how a job ends, and what is found before the first cordon.

use crate::common::{Case, NOW, budget, name, pod, verbs};
use evenkeel_engine::facts::{Owner, Readiness};
use evenkeel_engine::ids::ObjectKey;
use evenkeel_engine::phase::{Blocker, Cause, Left, Phase, SkipReason};
use evenkeel_engine::sync::Status;
use evenkeel_engine::time::{Span, Time};

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
