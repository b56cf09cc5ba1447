//! How pods are classified, against what kubectl and the API server do.

use crate::common::{budget, pod};
use evenkeel_engine::drain::{Disposition, classify, has_chance};
use evenkeel_engine::facts::{BudgetSeen, Owner, PodPhase, PodSeen};
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

/// kubectl drain's own table (`pkg/cmd/drain/drain_test.go`), and where we differ, why.
#[test]
fn pods_are_classified_as_kubectl_does_or_for_a_reason() {
    let owner = |owner: Owner| made(|p| p.owner = owner);
    let rows = [
        // pod, force, upstream, ours, why they differ
        (made(|_| ()), false, "removed", "evict", ""),
        (owner(Owner::Controller("Job/x".into())), false, "removed", "evict", ""),
        (owner(Owner::DaemonSet), false, "fatal", "stays", "ignore-daemonsets is always meant"),
        (owner(Owner::DaemonSet), true, "fatal", "stays", "the same"),
        (
            made(|p| (p.owner, p.phase) = (Owner::DaemonSet, PodPhase::Finished)),
            false,
            "removed",
            "stays",
            "a finished pod is no obstacle, and its controller cleans up",
        ),
        (made(|p| (p.owner, p.local_data) = (Owner::DaemonSet, true)), false, "stays", "stays", ""),
        (owner(Owner::Static), false, "stays", "stays", ""),
        (owner(Owner::Nobody), false, "fatal", "blocked", ""),
        (owner(Owner::Nobody), true, "removed", "evict", ""),
        (
            made(|p| (p.owner, p.phase) = (Owner::Nobody, PodPhase::Finished)),
            false,
            "fatal",
            "stays",
            "a finished pod is no obstacle",
        ),
        (
            made(|p| p.local_data = true),
            false,
            "fatal",
            "evict",
            "the preview names the data that is lost; a reset loses it in any case",
        ),
        (made(|p| p.local_data = true), true, "removed", "evict", ""),
        (
            made(|p| (p.local_data, p.phase) = (true, PodPhase::Finished)),
            false,
            "removed",
            "stays",
            "a finished pod is no obstacle",
        ),
        (made(|p| p.deleting = true), false, "waited for", "ending", ""),
        (
            made(|p| (p.deleting, p.owner) = (true, Owner::Nobody)),
            false,
            "fatal",
            "ending",
            "it goes by itself",
        ),
        (
            made(|p| p.protected = true),
            false,
            "removed",
            "blocked",
            "annotations of Karpenter and the cluster autoscaler are kept",
        ),
        (made(|p| p.protected = true), true, "removed", "evict", ""),
        (made(|p| p.phase = PodPhase::Pending), false, "removed", "evict", ""),
    ];
    for (pod, force, upstream, ours, why) in rows {
        let found = classify(&pod, &[], force);
        assert_eq!(word(&found), ours, "{pod:?} force {force} (kubectl: {upstream})");
        let agrees = matches!(
            (upstream, ours),
            ("removed", "evict") | ("stays", "stays") | ("fatal", "blocked") | ("waited for", _)
        );
        assert_eq!(agrees, why.is_empty(), "{pod:?} force {force}: say why");
    }
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

/// gardener's machine-controller-manager: which budget can never allow anything.
#[test]
fn a_budget_that_never_allows_is_told_from_one_that_is_short() {
    let rows = [
        // expected, desired, healthy, allowed; disrupted; observed; upstream, ours, why they differ
        ((3, 2, 3, 1), 0, true, Some(false), false, ""),
        ((3, 2, 3, 0), 1, true, Some(false), false, ""),
        ((3, 2, 2, 0), 0, true, Some(false), false, ""),
        ((3, 3, 3, 0), 0, true, Some(true), true, ""),
        ((3, 3, 2, -1), 0, true, Some(false), false, ""),
        ((3, 3, 3, 0), 0, false, Some(false), false, ""),
        (
            (0, 0, 0, 0),
            0,
            true,
            None,
            false,
            "upstream has no row: nothing is guarded, nothing is held",
        ),
        (
            (1, 1, 1, 0),
            0,
            true,
            None,
            true,
            "upstream has no row: the single pod is the usual case",
        ),
    ];
    for (numbers, disrupted, observed, upstream, never, why) in rows {
        let budget = BudgetSeen { disrupted, observed, ..budget("web", numbers) };
        assert_eq!(budget.never_allows(), never, "{numbers:?} {disrupted} {observed}");
        assert_eq!(upstream == Some(never), why.is_empty(), "{numbers:?}: say why");
    }
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
