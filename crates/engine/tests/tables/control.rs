//! What people ask of a run, and what becomes of it.

use crate::common::{Case, NOW, mark, name, pod, verbs};
use evenkeel_engine::action::{Action, Answer, EvictAnswer};
use evenkeel_engine::control::{By, Deed, Refused, press};
use evenkeel_engine::ids::JobId;
use evenkeel_engine::pace::Window;
use evenkeel_engine::phase::{Cause, Left, Phase, SkipReason};
use evenkeel_engine::report::WaitingOn;
use evenkeel_engine::sync::Status;
use evenkeel_engine::time::{Span, Time};

fn by(now: Time) -> By {
    By { who: "ann/AK1".to_owned(), at: now }
}

impl Case {
    fn press(&mut self, deed: Deed) -> Result<bool, Refused> {
        let next = press(&self.sync, &deed, &by(self.now))?;
        let changed = next.is_some();
        if let Some(control) = next {
            self.sync.steer(control);
        }
        Ok(changed)
    }

    fn next(&mut self) -> Option<WaitingOn> {
        self.turn().reports.remove(&JobId::new("job")).and_then(|r| r.next)
    }
}

fn failed(left: Left) -> Phase {
    let cause = Cause::Step { step: "install".to_owned(), message: "exit status 1".to_owned() };
    Phase::Failed { at: Time(NOW.0 - 60_000), cause, left }
}

fn broken(case: &mut Case, left: Left) {
    case.in_hand(1, failed(left), |w| {
        (w.attempt, w.last_cause) =
            (2, Some(Cause::Step { step: "install".into(), message: "exit status 1".into() }));
    });
}

#[test]
fn a_paused_job_takes_nobody_and_finishes_what_is_in_hand() {
    let mut case = Case::new(3, 2);
    case.in_hand(1, Phase::Resetting { since: NOW }, |w| w.attempt = 1);
    assert_eq!(case.press(Deed::Pause), Ok(true));
    assert_eq!(case.press(Deed::Pause), Ok(false), "twice is once");
    assert_eq!(verbs(&case.turn()), ["confirm n1"], "in hand goes on");
    let paused = Some(WaitingOn::Paused { by: "ann/AK1".to_owned(), since: NOW });
    assert_eq!(case.next(), paused);
    assert_eq!(case.phase(2), "-");
    assert_eq!(case.press(Deed::Resume), Ok(true));
    assert_eq!(case.press(Deed::Resume), Ok(false));
    case.settle();
    assert_eq!((case.phase(2), case.sync.control.log.len()), ("Claiming", 2));
}

#[test]
fn cancel_gives_back_before_the_reset_and_finishes_after_it_began() {
    let since = NOW;
    let rows: Vec<(Phase, u32, &str)> = vec![
        (Phase::Probing { since }, 0, "Releasing"),
        (Phase::Draining { since, cordoned: true }, 0, "Releasing"),
        (Phase::Confirming { since, drain_since: since }, 0, "Releasing"),
        (Phase::Resetting { since }, 1, "Resetting"),
        (Phase::Retrying { since, until: NOW + Span::secs(5) }, 1, "Retrying"),
        (Phase::PostInstall { since, lifted: false, ended: None }, 1, "PostInstall"),
    ];
    for (phase, attempt, after) in rows {
        let mut case = Case::new(2, 1);
        case.in_hand(1, phase.clone(), |w| w.attempt = attempt);
        case.press(Deed::Cancel).unwrap();
        case.settle();
        assert_eq!((case.phase(1), case.phase(2)), (after, "-"), "{phase:?}");
    }
    let mut case = Case::new(2, 1);
    case.in_hand(1, Phase::Draining { since, cordoned: true }, |_| ());
    case.press(Deed::Cancel).unwrap();
    assert_eq!(case.press(Deed::Pause), Err(Refused::Cancelled));
    assert_eq!(verbs(&case.turn()), ["release n1"]);
    case.node(1, |n| (n.unschedulable, n.mark) = (false, None));
    case.settle();
    let skipped = SkipReason::Cancelled;
    assert!(matches!(&case.work(1).phase, Phase::Skipped { reason, .. } if *reason == skipped));
    let Status::Failed { reason, .. } = &case.sync.state.status else {
        panic!("{:?}", case.sync.state.status);
    };
    assert_eq!(reason, "cancelled by ann/AK1: 0 nodes synchronized, 2 left as they were");
    assert_eq!(
        case.press(Deed::Cancel),
        Ok(false),
        "a repeated cancel is told that it came through"
    );
    assert_eq!(case.press(Deed::Resume), Err(Refused::Ended));
}

/// A claim that is on its way when the job is cancelled is seen through, then taken back.
#[test]
fn cancel_takes_a_claim_back_once_it_shows() {
    let mut case = Case::new(1, 1);
    assert_eq!(verbs(&case.turn()), ["claim n1"]);
    case.press(Deed::Cancel).unwrap();
    assert_eq!(verbs(&case.turn()), ["claim n1"]);
    case.node(1, |n| n.mark = Some(mark()));
    assert_eq!(verbs(&case.turn()), ["release n1"]);
}

/// Nothing is given back while an eviction of ours is on its way.
#[test]
fn cancel_waits_for_an_eviction_on_its_way() {
    let mut case = Case::new(1, 1);
    case.in_hand(1, Phase::Draining { since: NOW, cordoned: true }, |_| ());
    case.pod(pod("web", 1));
    let evict = case.turn().actions.remove(0);
    case.ledger.start(&evict, case.now);
    case.press(Deed::Cancel).unwrap();
    assert!(case.turn().actions.is_empty());
    assert_eq!(case.phase(1), "Draining");
    case.ledger.end(&evict, Ok(Answer::Eviction(EvictAnswer::Gone)), None, case.now);
    assert_eq!(verbs(&case.turn()), ["release n1"]);
}

#[test]
fn a_failed_node_is_tried_again() {
    // Still cordoned: the next attempt begins in the slot that it holds, with all its retries.
    let mut case = Case::new(2, 2);
    broken(&mut case, Left::Cordoned);
    case.press(Deed::Pause).unwrap();
    assert_eq!(case.press(Deed::Retry(name(1))), Ok(true));
    assert_eq!(verbs(&case.turn()), ["confirm n1"]);
    let work = case.work(1);
    assert_eq!((work.attempt, work.spent, work.fresh()), (3, 2, false));
    assert!(work.log.last().unwrap().note.contains("ann/AK1"));
    assert_eq!(case.press(Deed::Retry(name(1))), Ok(false), "it came through already");
    // In service: it stands in line again, as a machine that nothing was done to.
    let mut case = Case::new(1, 1);
    case.stands(1, failed(Left::InService), |w| {
        w.last_cause = Some(Cause::NotReady { message: String::new() });
    });
    case.press(Deed::Retry(name(1))).unwrap();
    case.settle();
    assert_eq!((case.phase(1), case.work(1).attempt), ("Claiming", 0));
    // Cordoned, and without our mark: whose the cordon is cannot be told.
    let mut case = Case::new(2, 2);
    broken(&mut case, Left::Cordoned);
    case.node(1, |n| n.mark = None);
    case.press(Deed::Retry(name(1))).unwrap();
    case.settle();
    assert_eq!(case.phase(1), "Failed");
}

#[test]
fn a_retry_is_for_one_failure() {
    let mut case = Case::new(2, 2);
    broken(&mut case, Left::Cordoned);
    case.press(Deed::Retry(name(1))).unwrap();
    case.settle();
    case.pass(Span::secs(5));
    broken(&mut case, Left::Cordoned);
    case.stands(
        1,
        Phase::Failed {
            at: case.now,
            cause: Cause::NotReady { message: String::new() },
            left: Left::Cordoned,
        },
        |w| w.attempt = 4,
    );
    case.pass(Span::secs(5));
    case.settle();
    assert_eq!(case.phase(1), "Failed");
    assert_eq!(case.press(Deed::Retry(name(1))), Ok(true), "the next failure needs another one");
}

#[test]
fn a_skipped_node_is_left_alone() {
    // Before its turn.
    let mut case = Case::new(2, 1);
    case.press(Deed::Skip(name(1))).unwrap();
    case.settle();
    assert_eq!((case.phase(1), case.phase(2)), ("Skipped", "Claiming"));
    // In hand, before its reset.
    let mut case = Case::new(1, 1);
    case.in_hand(1, Phase::Draining { since: NOW, cordoned: true }, |_| ());
    case.press(Deed::Skip(name(1))).unwrap();
    assert_eq!(verbs(&case.turn()), ["release n1"]);
    // Failed and cordoned: the slot is free, the node stays out and its mark stays.
    let mut case = Case::new(3, 2);
    broken(&mut case, Left::Cordoned);
    case.press(Deed::Skip(name(1))).unwrap();
    let verbs = verbs(&case.turn());
    assert!(matches!(
        case.work(1).phase,
        Phase::Skipped { reason: SkipReason::Person { cordoned: true }, .. }
    ));
    assert!(case.work(1).log.last().unwrap().note.contains("stays cordoned"));
    assert_eq!((case.sync.holding_count(), verbs), (1, vec!["claim n2".to_owned()]));
}

#[test]
fn what_cannot_be_is_refused_and_says_why() {
    let mut case = Case::new(4, 4);
    case.stands(1, Phase::Done { at: NOW }, |_| ());
    case.in_hand(2, Phase::Resetting { since: NOW }, |w| w.attempt = 1);
    case.in_hand(3, failed(Left::Cordoned), |_| ());
    case.press(Deed::Pause).unwrap();
    let rows = [
        (Deed::Skip(name(1)), "is synchronized"),
        (Deed::Retry(name(1)), "is synchronized"),
        (Deed::Force(name(1)), "is synchronized"),
        (Deed::Skip(name(2)), "a reset that has begun is carried through"),
        (Deed::Retry(name(2)), "has not failed"),
        (Deed::Retry(name(4)), "has not had its turn"),
        (Deed::Force(name(3)), "retry it first"),
        (Deed::Skip(name(9)), "not on the job's list"),
    ];
    for (deed, why) in rows {
        let before = case.sync.control.clone();
        let refused = case.press(deed.clone()).unwrap_err().to_string();
        assert!(refused.contains(why), "{deed:?}: {refused}");
        assert_eq!(case.sync.control, before);
    }
}

/// A person's force deletes what a budget refuses, at once; what can be evicted is evicted.
#[test]
fn a_forced_node_does_not_wait_for_its_budgets() {
    let mut case = Case::new(1, 1);
    case.in_hand(1, Phase::Draining { since: NOW, cordoned: true }, |_| ());
    case.pod(pod("web", 1));
    case.pod(pod("db", 1));
    let plan = case.turn();
    assert_eq!(verbs(&plan), ["evict uid-db-1", "evict uid-web-1"]);
    let message = "Cannot evict pod as it would violate the pod's disruption budget.".to_owned();
    let no = EvictAnswer::Refused { message, retry_after_s: Some(10) };
    let db: Vec<Action> =
        plan.actions.into_iter().filter(|a| a.key().subject == "uid-db-1").collect();
    case.answered(&db[0], Ok(Answer::Eviction(no)));
    assert_eq!(verbs(&case.turn()), ["evict uid-web-1"]);
    case.press(Deed::Force(name(1))).unwrap();
    assert_eq!(verbs(&case.turn()), ["delete uid-db-1", "evict uid-web-1"]);
}

/// Outside the window nobody is taken, and the run wakes when it opens.
#[test]
fn windows_and_soak_hold_the_next_node() {
    let mut case = Case::new(3, 2);
    case.in_hand(1, Phase::Resetting { since: NOW }, |w| w.attempt = 1);
    let opens = NOW + Span::mins(90);
    case.sync.pace.window = Window::Closed { opens, words: "opens on Saturday".to_owned() };
    let plan = case.turn();
    assert_eq!((verbs(&plan), plan.wake_at), (vec!["confirm n1".to_owned()], Some(opens)));
    let why = case.next().unwrap().to_string();
    assert_eq!(why, "waiting for a maintenance window: opens on Saturday");
    case.sync.pace.window = Window::Open;
    case.sync.pace.soak = Span::mins(10);
    case.stands(1, Phase::Done { at: NOW }, |_| ());
    case.node(1, |n| (n.unschedulable, n.mark) = (false, None));
    case.pass(Span::mins(9));
    assert_eq!(case.next(), Some(WaitingOn::Soak { until: NOW + Span::mins(10) }));
    case.pass(Span::mins(1));
    case.settle();
    assert_eq!(case.phase(2), "Claiming");
}
