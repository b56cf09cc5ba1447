//! Soft steering: who carries the taint of a node that is still to do, and when it goes again.

use crate::common::{Case, NOW, mark, name, verbs};
use evenkeel_engine::action::{Action, Answer};
use evenkeel_engine::control::By;
use evenkeel_engine::facts::{NodeSeen, STEER_EFFECT, STEER_TAINT};
use evenkeel_engine::order::Order;
use evenkeel_engine::phase::{Cause, Left, Outcome, Phase, SkipReason};
use evenkeel_engine::place::Taint;
use evenkeel_engine::plan::Plan;
use evenkeel_engine::steer::PACE;
use evenkeel_engine::sync::Status;
use evenkeel_engine::time::Span;

fn taint(node: &mut NodeSeen, steered: bool) {
    let own = Taint { key: "team".into(), value: "a".into(), effect: STEER_EFFECT.into() };
    let ours = Taint { key: STEER_TAINT.into(), value: "".into(), effect: STEER_EFFECT.into() };
    node.taints = std::iter::once(own).chain(steered.then_some(ours)).collect();
}

/// One node is in hand, one at a time may be; the rest waits.
fn case(count: usize) -> Case {
    let mut case = Case::new(count, 1).spec(|s| s.policy.steer = true);
    case.in_hand(1, Phase::Resetting { since: NOW }, |w| w.attempt = 1);
    case
}

fn steers(plan: &Plan) -> Vec<String> {
    verbs(plan).into_iter().filter(|verb| verb.contains("steer")).collect()
}

/// Decides and writes until no taint is written any more; what was written, in order.
fn all(case: &mut Case) -> Vec<String> {
    let mut written = Vec::new();
    for _ in 0..50 {
        let decided = case.turn();
        let Some(action) =
            decided.actions.iter().find(|a| a.key().verb.ends_with("steer")).cloned()
        else {
            return written;
        };
        assert_eq!(steers(&decided).len(), 1, "one at a time");
        let Action::Steer { node, away } = &action else { unreachable!("chosen by its verb") };
        let number: usize = node.as_str()[1..].parse().unwrap();
        let away = *away;
        written.push(action.key().to_string());
        case.answered(&action, Ok(Answer::Written));
        case.node(number, |node| taint(node, away));
        case.pass(PACE);
    }
    panic!("it never ends");
}

/// Rows of the Machine Config Operator, node_controller_test.go, TestShouldMakeProgress: at the target: nothing; not
/// at the target: the taint; with the taint: no second one; at the target with the taint: the taint alone goes.
#[test]
fn nodes_that_wait_are_avoided_and_no_others() {
    let mut case = case(4);
    case.stands(2, Phase::Done { at: NOW }, |_| {});
    case.node(2, |node| taint(node, true));
    assert_eq!(all(&mut case), ["unsteer n2", "steer n4", "steer n3"]);
    assert!(case.index.node(&name(2)).unwrap().seen.taints.iter().any(|t| &*t.key == "team"));
    assert!(all(&mut case).is_empty(), "no second taint");
}

/// Row by row: what becomes of a node that carries the taint.
#[test]
fn it_goes_on_every_way_out() {
    let cause = || Cause::NotReady { message: "x".into() };
    let failed = |left| Phase::Failed { at: NOW, cause: cause(), left };
    let skipped = |reason| Phase::Skipped { at: NOW, reason };
    let stays: Vec<String> = Vec::new();
    let goes = vec!["unsteer n2".to_owned()];
    let rows = [
        (Phase::Done { at: NOW }, &goes),
        (failed(Left::InService), &goes),
        (failed(Left::InServiceHoldingSlot), &goes),
        (failed(Left::Cordoned), &goes),
        (skipped(SkipReason::Held), &goes),
        (skipped(SkipReason::Person { cordoned: false }), &goes),
        // Still to do.
        (Phase::Waiting { since: NOW, until: NOW + Span::mins(1), cause: cause() }, &stays),
        // In hand: the release takes it along in its own write.
        (Phase::Draining { since: NOW, cordoned: true }, &stays),
    ];
    for (phase, expected) in rows {
        let word = format!("{phase:?}");
        let mut case = case(2).spec(|s| s.max_unavailable = 2);
        let cordoned = matches!(&phase, Phase::Failed { left: Left::Cordoned, .. })
            || matches!(phase, Phase::Draining { .. });
        if cordoned {
            case.in_hand(2, phase, |_| {});
        } else {
            case.stands(2, phase, |_| {});
        }
        case.node(2, |node| taint(node, true));
        assert_eq!(steers(&case.once()), *expected, "{word}");
    }
}

/// The end of the job, a pool without any job, and a crash: whatever carries the taint is rid of it.
#[test]
fn what_is_left_of_an_ended_job_is_cleaned_up() {
    let mut case = case(3);
    case.stands(1, Phase::Done { at: NOW }, |_| {});
    (2..=3).for_each(|n| case.node(n, |node| taint(node, true)));
    case.node(1, |node| (node.unschedulable, node.mark) = (false, None));
    case.sync.control.cancelled = Some(By { who: "ann".into(), at: NOW });
    case.settle();
    assert!(matches!(case.sync.state.status, Status::Failed { .. }));
    assert_eq!(all(&mut case), ["unsteer n2", "unsteer n3"]);
    // The taint of a late request, after everything: the order that is kept from turn to turn sees it.
    let mut order = Order::default();
    case.follow(&mut order);
    assert!(steers(&case.with(&order)).is_empty());
    case.pass(Span::secs(2));
    case.node(2, |node| taint(node, true));
    case.follow(&mut order);
    assert_eq!(steers(&case.with(&order)), ["unsteer n2"]);
    case.index.set_live(false);
    assert!(steers(&case.with(&order)).is_empty(), "not without a view");
}

/// When it would gain nothing, or do harm, nobody is tainted.
#[test]
fn only_where_it_helps() {
    let none: [&str; 0] = [];
    let all_in_hand = Case::new(2, 2).spec(|s| s.policy.steer = true);
    assert_eq!(steers(&all_in_hand.once()), none, "all of them are taken at once");
    let off = case(3).spec(|s| s.policy.steer = false);
    assert_eq!(steers(&off.once()), none, "switched off");
    let unproven = case(3).spec(|s| s.proven = false);
    assert_eq!(steers(&unproven.once()), none, "the canary has not come back");
    let mut paused = case(3);
    paused.sync.control.paused = Some(By { who: "ann".into(), at: NOW });
    assert_eq!(steers(&paused.once()), none, "paused");
    let mut people = case(4);
    people.node(2, |node| node.hold = true);
    people.node(3, |node| node.unschedulable = true);
    people.node(4, |node| node.ready = evenkeel_engine::facts::Readiness::NotReady);
    assert_eq!(steers(&people.once()), none, "held, cordoned by others, not in service");
    let named = case(3);
    let slow = Action::Confirm { node: name(9) };
    let mut pressed = case(3);
    pressed.ledger.start(&slow, NOW);
    pressed.pass(Span::secs(5));
    let answer = Answer::Confirmed { node: None, pods: Vec::new() };
    let (ledger, now) = (&mut pressed.ledger, pressed.now);
    ledger.end(&slow, Ok(answer), None, now);
    assert_eq!(steers(&pressed.once()), none, "the API server is slow");
    assert_eq!(steers(&named.once()), ["steer n3"]);
}

/// A claim comes before a taint, and one write in each moment is enough.
#[test]
fn it_never_holds_up_the_rollout() {
    let mut case = Case::new(3, 1).spec(|s| s.policy.steer = true);
    let decided = case.turn();
    assert_eq!(verbs(&decided), ["claim n1", "steer n3"]);
    case.answered(&decided.actions[1].clone(), Ok(Answer::Written));
    let next = case.turn();
    assert!(steers(&next).is_empty(), "too soon");
    assert_eq!(next.wake_at, Some(case.now + PACE));
    case.node(1, |node| node.mark = Some(mark()));
    case.pass(PACE);
    assert_eq!(steers(&case.turn()), ["steer n2"]);
    // A node that is being tainted is claimed once that write is over.
    let release = Phase::Releasing { since: case.now, then: Outcome::Done };
    case.stands(1, release, |w| w.attempt = 1);
    assert!(case.turn().actions.iter().any(|a| matches!(a, Action::Release { .. })));
}
