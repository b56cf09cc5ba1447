//! How budgets decide on pods, against what the API server does.

use crate::common::{budget, pod};
use evenkeel_engine::drain::{Disposition, classify, has_chance};
use evenkeel_engine::facts::{BudgetSeen, PodPhase, PodSeen};
use evenkeel_engine::ledger::Ledger;

fn word(disposition: &Disposition) -> &'static str {
    match disposition {
        Disposition::Stays(_) => "stays",
        Disposition::Ending => "ending",
        Disposition::Evict { budget: None } => "evict",
        Disposition::Evict { budget: Some(_) } => "evict in budget",
        Disposition::Blocked(_) => "blocked",
    }
}

fn made(change: impl FnOnce(&mut PodSeen)) -> PodSeen {
    let mut pod = pod("web", 1);
    change(&mut pod);
    pod
}

#[test]
fn budgets_of_a_pod_decide_how_it_goes() {
    let (roomy, full) = (budget("web", (3, 2, 3, 1)), budget("web", (3, 2, 2, 0)));
    let never = budget("web", (3, 3, 3, 0));
    let pending = made(|p| p.phase = PodPhase::Pending);
    let rows: [(&PodSeen, Vec<&BudgetSeen>, &str); 6] = [
        (&made(|_| ()), vec![&roomy], "evict in budget"),
        (&made(|_| ()), vec![&full], "evict in budget"),
        (&made(|_| ()), vec![&never], "blocked"),
        (&made(|_| ()), vec![&roomy, &full], "blocked"),
        (&pending, vec![&never], "evict"),
        (&pending, vec![&roomy, &full], "evict"),
    ];
    for (pod, budgets, ours) in rows {
        assert_eq!(word(&classify(pod, &budgets, false)), ours, "{pod:?} {budgets:?}");
    }
    let Disposition::Blocked(blocker) = classify(&made(|_| ()), &[&roomy, &full], true) else {
        panic!("force does not help against two budgets before the time is up");
    };
    assert!(blocker.why.contains("no pod with two"), "{}", blocker.why);
}

/// The API server's eviction table: when it is worth asking.
#[test]
fn an_eviction_is_asked_for_when_the_server_would_grant_it() {
    let ready = made(|_| ());
    let unready = made(|p| p.ready = false);
    let always = |b: BudgetSeen| BudgetSeen { always_allow_unready: true, ..b };
    let rows = [
        (&ready, budget("web", (3, 2, 2, 0)), false),
        (&ready, budget("web", (3, 2, 3, 1)), true),
        (&unready, budget("web", (3, 2, 2, 0)), true),
        (&unready, budget("web", (3, 2, 1, 0)), false),
        (&unready, always(budget("web", (3, 2, 1, 0))), true),
        (&ready, always(budget("web", (3, 2, 1, 0))), false),
        (&ready, budget("web", (3, 3, 2, -1)), false),
    ];
    for (pod, budget, chance) in rows {
        assert_eq!(has_chance(pod, &budget, &Ledger::default()), chance, "{budget:?}");
    }
}
