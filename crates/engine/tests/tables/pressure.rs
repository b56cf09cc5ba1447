//! Fewer nodes in hand while the API server or the pool suffers, all of them again once it has recovered.

use crate::common::{Case, NOW, name, node};
use evenkeel_engine::action::{Action, Answer, FaultSeen};
use evenkeel_engine::facts::Readiness;
use evenkeel_engine::pressure::{EASES, HOLD, SLOW};
use evenkeel_engine::time::{Span, Time};

const SOON: Span = Span(100);

fn busy() -> Result<Answer, FaultSeen> {
    let message = "the API server answered 429".to_owned();
    Err(FaultSeen { permanent: false, conflict: false, busy: true, message })
}

/// Ends a write of ours at `at` that took `took`.
fn ends(case: &mut Case, at: Time, took: Span, result: Result<Answer, FaultSeen>) {
    let action = Action::Cordon { node: name(9) };
    case.ledger.start(&action, Time(at.0 - took.0));
    case.ledger.end(&action, result, None, at);
}

#[test]
fn pressure_halves_and_eases() {
    use Result::Ok as Fine;
    let written = || Fine(Answer::Written);
    let after = |span: Span| NOW + span;
    // What ends when, after how long; then: when it is read, the limit of 8, why.
    type Row = (Vec<(Time, Span, Result<Answer, FaultSeen>)>, Time, u32, &'static str);
    let rows: Vec<Row> = vec![
        (vec![], NOW, 8, "calm"),
        (vec![(NOW, SOON, written())], NOW, 8, "a quick answer"),
        (vec![(NOW, SLOW, written())], NOW, 4, "a slow answer"),
        (vec![(NOW, SOON, busy())], NOW, 4, "flow control"),
        (
            vec![(NOW, SOON, busy()), (after(Span(50)), SOON, busy())],
            after(Span(50)),
            4,
            "one bad moment counts once",
        ),
        (vec![(NOW, SOON, busy()), (after(HOLD), SOON, busy())], after(HOLD), 2, "it lasts"),
        (
            (0..20).map(|n| (after(Span(HOLD.0 * n)), SOON, busy())).collect(),
            after(Span(HOLD.0 * 19)),
            1,
            "one at least",
        ),
        (vec![(NOW, SOON, busy())], after(EASES), 8, "it has recovered"),
        (
            vec![(NOW, SOON, busy()), (after(HOLD), SOON, busy())],
            after(HOLD) + EASES,
            4,
            "one step after the other",
        ),
    ];
    for (ended, at, expected, why) in rows {
        let mut case = Case::new(9, 8);
        for (at, took, result) in ended {
            ends(&mut case, at, took, result);
        }
        case.now = at;
        let limits = case.limits();
        assert_eq!(limits.eased.to, expected, "{why}");
        assert_eq!(limits.work, 8, "{why}: the job's own limit stays");
    }
}

#[test]
fn a_machine_that_is_slow_says_nothing_of_the_api_server() {
    let mut case = Case::new(2, 2);
    let probe = Action::Probe { node: name(1), id: "id1".into(), job: "job".into() };
    case.ledger.start(&probe, Time(0));
    case.ledger.end(&probe, busy(), None, NOW);
    assert_eq!(case.limits().eased.to, 2);
}

#[test]
fn a_pool_that_falls_ill_during_the_run_is_treated_gently() {
    let mut case = Case::new(9, 4);
    case.sync.state.accepted = Time(1000);
    let mut sick = node(9);
    sick.ready = Readiness::NotReady;
    case.index.see_node(sick.clone(), Time(500));
    assert_eq!(case.limits().eased.to, 4, "it was sick before");
    case.index.see_node(node(9), Time(1500));
    case.index.see_node(sick, Time(2000));
    let limits = case.limits();
    assert_eq!((limits.eased.to, limits.eased.pressed), (2, false));
    case.index.see_node(node(9), Time(3000));
    assert_eq!(case.limits().eased.to, 4, "it is well again");
}

#[test]
fn a_run_under_pressure_says_so_and_goes_on() {
    let mut case = Case::new(9, 8);
    ends(&mut case, NOW, SOON, busy());
    ends(&mut case, NOW + HOLD, SOON, busy());
    case.now = NOW + HOLD;
    let plan = case.turn();
    assert_eq!(case.sync.holding_count(), 2);
    let report = &plan.reports[&case.sync.spec.job];
    let words = report.next.as_ref().map(ToString::to_string).unwrap_or_default();
    assert!(words.contains("slow or refuses requests; 2 in hand, 2 for now, of 8"), "{words}");
    assert!(plan.wake_at.is_some_and(|at| at <= case.now + EASES), "{:?}", plan.wake_at);
}
