//! What keeps a reset node out of service until it is initialized: awaited conditions and the startup taint.

use crate::common::{Case, NOW, mark, name, verbs};
use evenkeel_engine::action::{Action, Answer, HostState, Stage};
use evenkeel_engine::facts::{STARTUP_EFFECT, STARTUP_TAINT, STARTUP_VALUE};
use evenkeel_engine::ids::{JobId, NodeId};
use evenkeel_engine::phase::{Cause, Heartbeat, Outcome, Phase};
use evenkeel_engine::place::Taint;
use evenkeel_engine::report::WaitingOn;
use evenkeel_engine::sync::Awaited;
use evenkeel_engine::time::Span;
use std::collections::BTreeSet;
use std::sync::Arc;

fn startup() -> Arc<[Taint]> {
    Arc::new([Taint {
        key: STARTUP_TAINT.into(),
        value: STARTUP_VALUE.into(),
        effect: STARTUP_EFFECT.into(),
    }])
}

fn awaited(condition: &str, limit: Option<Span>) -> Awaited {
    Awaited { condition: condition.to_owned(), limit }
}

/// One node that was reset and is Ready again; `Net` and `Gpu` are awaited, `Gpu` for five minutes at most.
fn case(post: bool, waited: bool) -> Case {
    let mut case = Case::new(1, 1).spec(|s| {
        (s.post_install, s.wait_post_install) = (post, waited);
        s.initialized = vec![awaited("Net", None), awaited("Gpu", Some(Span::mins(5)))];
    });
    let phase = Phase::Rejoining { since: NOW, heartbeat: Heartbeat::Seen, good_since: None };
    case.in_hand(1, phase, |w| w.attempt = 1);
    case
}

fn met(case: &mut Case, conditions: &[&str]) {
    let all: BTreeSet<String> = conditions.iter().map(|&c| c.to_owned()).collect();
    case.node(1, |n| n.met = Arc::new(all));
}

fn missing(case: &mut Case) -> String {
    let plan = case.turn();
    match plan.reports.values().next().and_then(|r| r.nodes.get(&name(1)).cloned()) {
        Some(WaitingOn::Readiness { missing }) => missing,
        other => format!("{other:?}"),
    }
}

fn settled(case: &mut Case) {
    case.settle();
    case.pass(Span::secs(11));
    case.settle();
}

fn script(case: &mut Case, ok: bool) {
    let (node, id, job) = (name(1), NodeId::new("id1"), JobId::new("job"));
    let post = Action::Host { node, id, job, attempt: 1, stage: Stage::Post };
    let state = if ok {
        HostState::Succeeded { ended_host_ms: Some(1) }
    } else {
        HostState::Failed { step: "post_install".to_owned(), reason: "exit status 1".to_owned() }
    };
    case.answered(&post, Ok(Answer::Host(state)));
    case.settle();
}

/// Without a script they are part of being back; the reason names what is missing.
#[test]
fn conditions_are_waited_for() {
    let mut case = case(false, false);
    assert_eq!(missing(&mut case), "conditions Net, Gpu are not True");
    met(&mut case, &["Ready", "Gpu"]);
    assert_eq!(missing(&mut case), "condition Net is not True");
    settled(&mut case);
    assert_eq!(case.phase(1), "Rejoining");
    met(&mut case, &["Ready", "Gpu", "Net"]);
    settled(&mut case);
    assert_eq!(case.phase(1), "Releasing");
}

/// Whatever is awaited is awaited for a limited time, and the failure names it.
#[test]
fn conditions_are_bounded() {
    // true by then, minutes, what becomes of the node
    let rows: [(&[&str], u64, &str); 4] = [
        (&[], 4, "Rejoining"),
        (&[], 6, "Retrying"),
        (&["Gpu"], 29, "Rejoining"),
        (&["Gpu"], 31, "Retrying"),
    ];
    for (set, minutes, word) in rows {
        let mut case = case(false, false);
        met(&mut case, set);
        case.pass(Span::mins(minutes));
        case.settle();
        assert_eq!(case.phase(1), word, "{set:?} after {minutes} min");
        if word == "Retrying" {
            let Some(Cause::NotReady { message }) = &case.work(1).last_cause else {
                panic!("{:?}", case.work(1).last_cause)
            };
            assert!(message.contains("Net"), "{message}");
        }
    }
}

/// A script may be what initializes the node: it runs meanwhile, and the node is kept out until both are through.
#[test]
fn conditions_beside_the_script() {
    for waited in [true, false] {
        let mut case = case(true, waited);
        settled(&mut case);
        assert_eq!(verbs(&case.turn()), ["post n1 #1"], "waited {waited}: the script runs");
        script(&mut case, true);
        assert_eq!(case.phase(1), "PostInstall", "waited {waited}");
        assert_eq!(missing(&mut case), "conditions Net, Gpu are not True");
        case.node(1, |n| n.unschedulable = false);
        assert_eq!(verbs(&case.turn()), ["cordon n1"], "it is kept out");
        case.node(1, |n| n.unschedulable = true);
        met(&mut case, &["Net", "Gpu"]);
        case.settle();
        assert_eq!(case.phase(1), "Releasing", "waited {waited}");
    }
    // Not waited for: it goes into service once it is initialized, whatever the script does.
    let mut open = case(true, false);
    settled(&mut open);
    met(&mut open, &["Net", "Gpu"]);
    assert_eq!(verbs(&open.turn()), ["lift n1", "post n1 #1"]);
    // A script that fails before that leaves a node that was never in service: it is tried again.
    let mut failing = case(true, false);
    settled(&mut failing);
    script(&mut failing, false);
    assert_eq!(failing.phase(1), "Retrying");
    // The conditions have their time from the end of the script on.
    let mut late = case(true, true);
    settled(&mut late);
    late.pass(Span::mins(20));
    script(&mut late, true);
    late.pass(Span::mins(4));
    late.settle();
    assert_eq!(late.phase(1), "PostInstall");
    late.pass(Span::mins(2));
    late.settle();
    assert_eq!(late.phase(1), "Retrying");
}

/// Where nothing was reset, nothing is initialized either.
#[test]
fn recipe_none_awaits_nothing() {
    let mut case = case(false, false).spec(|s| s.resets = false);
    let heartbeat = Heartbeat::NotNeeded;
    let phase = Phase::Rejoining { since: NOW, heartbeat, good_since: None };
    case.in_hand(1, phase, |w| w.attempt = 1);
    settled(&mut case);
    assert_eq!(case.phase(1), "Releasing");
}

/// The taint counts as out of service, and goes with the release.
#[test]
fn the_startup_taint() {
    let mut case = Case::new(1, 1);
    let phase = Phase::Releasing { since: NOW, then: Outcome::Done };
    case.in_hand(1, phase, |w| w.attempt = 1);
    case.node(1, |n| n.taints = startup());
    assert!(!case.index.node(&name(1)).is_some_and(|e| e.seen.available()));
    let release = Action::Release { node: name(1), uncordon: true };
    assert_eq!(case.turn().actions, std::slice::from_ref(&release));
    case.answered(&release, Ok(Answer::Written));
    // A Node that was made anew in between: neither mark nor cordon, and still to be opened.
    case.node(1, |n| (n.mark, n.unschedulable) = (None, false));
    case.pass(Span::secs(10));
    assert_eq!(case.turn().actions, std::slice::from_ref(&release));
    case.answered(&release, Ok(Answer::Written));
    case.node(1, |n| n.taints = Arc::default());
    case.settle();
    assert_eq!(case.phase(1), "Done");
    // A script that is not waited for: the lift takes it away.
    let mut case = Case::new(1, 1).spec(|s| s.wait_post_install = false);
    let phase = Phase::PostInstall { since: NOW, lifted: true, ended: None };
    case.in_hand(1, phase, |w| w.attempt = 1);
    case.node(1, |n| (n.mark, n.unschedulable, n.taints) = (Some(mark()), false, startup()));
    assert!(verbs(&case.turn()).contains(&"lift n1".to_owned()));
}
