//! What a run is counted to cost.

use crate::common::{NOW, budget, pod};
use evenkeel_engine::account::Account;
use evenkeel_engine::facts::Owner;
use evenkeel_engine::ids::ObjectKey;
use evenkeel_engine::time::Span;
use std::collections::BTreeMap;
use std::sync::Arc;

#[test]
fn moves_are_counted_by_workload_and_the_worst_pod_is_known() {
    let mut account = Account::default();
    let mut web = pod("web", 1);
    web.owner = Owner::Controller("ReplicaSet/web-5d8f".into());
    let labels = [("app", "web"), ("pod-template-hash", "5d8f")];
    let own = |(k, v): (&str, &str)| (k.to_owned(), v.to_owned());
    web.labels = Arc::new(labels.map(own).into_iter().collect::<BTreeMap<_, _>>());
    let mut db = pod("db", 1);
    db.owner = Owner::Controller("StatefulSet/db".into());
    let mut lone = pod("lone", 1);
    lone.owner = Owner::Nobody;
    account.moved(&web, false, std::iter::empty(), NOW);
    account.moved(&db, false, std::iter::empty(), NOW);
    account.moved(&db, false, std::iter::empty(), NOW);
    account.moved(&lone, true, std::iter::empty(), NOW);
    let moves: Vec<(&str, u32, u32)> =
        account.workloads.iter().map(|(w, m)| (w.as_str(), m.moves, m.deleted)).collect();
    assert_eq!(
        moves,
        [
            ("Deployment default/web", 1, 0),
            ("Pod default/lone-1", 1, 1),
            ("StatefulSet default/db", 2, 0)
        ]
    );
    assert_eq!(account.workloads["StatefulSet default/db"].worst(), Some(("db-1", 2)));
}

#[test]
fn time_below_a_budget_is_counted_while_it_lasts() {
    let mut account = Account::default();
    let at = |seconds| NOW + Span::secs(seconds);
    let healthy = |n| budget("web", (4, 3, n, 0));
    assert!(!account.see_budget(&healthy(1), at(0)), "nothing of it was moved yet");
    account.moved(&pod("web", 1), false, std::iter::once(&healthy(3)), at(0));
    assert!(account.see_budget(&healthy(2), at(10)));
    assert!(!account.see_budget(&healthy(2), at(15)), "nothing new");
    assert!(account.see_budget(&healthy(1), at(20)));
    assert!(account.see_budget(&healthy(3), at(40)));
    let below = &account.budgets["default/web"];
    assert_eq!((below.until(at(99)), below.worst), (Span::secs(30), 2));
    account.see_budget(&healthy(2), at(100));
    assert_eq!(account.budgets["default/web"].until(at(105)), Span::secs(35));
    assert!(account.close(Some(&ObjectKey::new("default", "web")), at(110)));
    assert_eq!(account.budgets["default/web"].until(at(200)), Span::secs(40));
}

#[test]
fn an_account_is_bounded() {
    let mut account = Account::default();
    for n in 0..700 {
        let mut one = pod("web", n);
        one.owner = Owner::Controller(format!("StatefulSet/app-{n}").into());
        account.moved(&one, false, std::iter::empty(), NOW);
        let mut many = pod("many", n);
        many.owner = Owner::Controller("StatefulSet/app-0".into());
        account.moved(&many, false, std::iter::empty(), NOW);
    }
    assert_eq!((account.workloads.len(), account.others), (500, 200));
    let first = &account.workloads["StatefulSet default/app-0"];
    assert_eq!((first.moves, first.pods.len()), (701, 50));
}
