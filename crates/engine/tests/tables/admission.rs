//! Who is taken next: tables after the Machine Config Operator, the maintenance operator and Cluster API.

use crate::common::{Case, NOW, budget, name, pod, verbs};
use evenkeel_engine::facts::{Owner, Readiness};
use evenkeel_engine::ids::ObjectKey;
use evenkeel_engine::phase::{Blocker, Cause, Left, Phase, SkipReason};
use evenkeel_engine::sync::Status;
use evenkeel_engine::time::{Span, Time};

fn cause() -> Cause {
    Cause::Step { step: "install".to_owned(), message: "exit status 1".to_owned() }
}

/// One letter per node: `r` in service and outdated, `u` in service and not asked for, `S` outdated and sick for
/// long, `s` sick for a moment, `x` sick and not asked for, `C` cordoned by somebody else, `c` the same and not
/// asked for, `h` held, `i` in hand, `I` in hand and taken when sick, `d` done, `D` done and taken when sick, `f`
/// failed and left cordoned, `F` failed in service, `w` waits for its next try, `g` gone.
fn scene(max: u32, nodes: &str, canary: bool, named: bool) -> Case {
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

fn taken(case: &Case) -> String {
    let plan = case.once();
    let names = plan.works.iter().filter(|(_, w)| w.phase.word() == "Claiming");
    names.map(|(_, w)| w.name.to_string()).collect::<Vec<_>>().join(" ")
}

/// Rows C1..C16 of the Machine Config Operator, mapped, and ours.
#[test]
fn candidates() {
    let rows = [
        // max, nodes, canary, named, taken, upstream
        (1, "uuu", false, false, "", "C1: nothing is outdated"),
        (1, "uux", false, false, "", "C2"),
        (1, "uxr", false, false, "", "C3: one is out already"),
        (
            2,
            "Srr",
            false,
            false,
            "n1 n2",
            "C4 takes n2: a sick one costs us work, and counts as out once",
        ),
        (1, "Srr", false, false, "n1", "no room for another one"),
        (3, "Srr", false, false, "n1 n2 n3", "ours: work for three"),
        (2, "xrr", false, false, "n2", "C5"),
        (1, "ufr", false, false, "", "C7 may retarget: ours keeps its slot till a new sync"),
        (1, "uiu", false, false, "", "C10: admitted and not started yet"),
        (1, "irr", false, false, "", "C13..C16: one is in hand"),
        (2, "irr", false, false, "n2", "the window slides"),
        (2, "iir", false, false, "", "the window is full"),
        (3, "idr", false, false, "n3", "a finished node frees its slot"),
        (20, "rrr", false, false, "n1 n2 n3", "fewer nodes than the limit"),
        // Two limits (maintenance operator).
        (2, "iirrr", false, false, "", "no slot"),
        (3, "iirrr", false, false, "n3", "one slot"),
        (4, "iirrr", false, false, "n3 n4", "two slots"),
        (3, "icrrr", false, false, "n3", "one may become unavailable"),
        (2, "icrrr", false, false, "", "none may become unavailable"),
        (3, "iiSrr", false, false, "n3", "no room, but a sick one needs none"),
        (2, "icSrr", false, false, "n3", "ours: room 0, the sick one is still picked"),
        (2, "icCrr", false, true, "n3", "ours: a named cordoned one needs no room either"),
        // People.
        (2, "Crr", false, false, "n2", "cordoned by somebody: counts, and is not ours to reset"),
        (1, "Crr", false, false, "", "and uses up the only place"),
        (2, "Crr", false, true, "n2 n1", "named: reset, never first"),
        (2, "hrr", false, false, "n2 n3", "held: left alone, in service"),
        (2, "hrr", false, true, "n2 n3", "held, though named"),
        (1, "srr", false, false, "", "sick for a moment: counts, is not touched yet"),
        (1, "wrr", false, false, "n2", "given back: pauses"),
        // Canary and ramp.
        (3, "rrrr", true, false, "n1", "canary: one first"),
        (3, "irrr", true, false, "", "canary under way"),
        (3, "drrr", true, false, "n2 n3", "then two"),
        (3, "ddrrr", true, false, "n3 n4", "still two"),
        (3, "dddrrrr", true, false, "n4 n5 n6", "then the window"),
        (3, "iSrr", true, false, "n2", "a sick node may go beside the canary"),
        (3, "Drrr", true, false, "n2", "a node that was sick proves nothing"),
        (3, "Irrr", true, false, "n2", "nor does it stand in the canary's way"),
        (3, "frrr", true, false, "", "the canary failed: nobody else"),
        (3, "Frrr", true, false, "n2", "a canary that could not be drained disproves nothing"),
        // Failed nodes keep their slots.
        (2, "frr", false, false, "n2", "one slot is used up"),
        (2, "ffr", false, false, "", "a bad configuration stops itself"),
        (2, "Frr", false, false, "n2 n3", "given back in service: out of the account"),
    ];
    for (max, nodes, canary, named, expected, why) in rows {
        let case = scene(max, nodes, canary, named);
        assert_eq!(taken(&case), expected, "{nodes} max {max} canary {canary}: {why}");
    }
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
