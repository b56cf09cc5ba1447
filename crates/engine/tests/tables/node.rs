//! What one node in hand needs, phase by phase, and what people, hosts and budgets do to it.

use crate::common::{Case, NOW, budget, fault, mark, name, pod, verbs};
use evenkeel_engine::action::{Action, Answer, EvictAnswer, FaultSeen, HostState, Stage};
use evenkeel_engine::facts::{Mark, Owner, PodSeen, Readiness};
use evenkeel_engine::ids::{JobId, NodeId, ObjectKey, Uid};
use evenkeel_engine::phase::{Cause, Heartbeat, Left, Outcome, Phase, SkipReason};
use evenkeel_engine::report::WaitingOn;
use evenkeel_engine::time::{Span, Time};

fn draining(since: Time) -> Phase {
    Phase::Draining { since, cordoned: true }
}

fn confirm(case: &mut Case, pods: Vec<PodSeen>) {
    let node = case.index.node(&name(1)).map(|e| e.seen.clone());
    case.answered(&Action::Confirm { node: name(1) }, Ok(Answer::Confirmed { node, pods }));
}

fn host(stage: Stage, attempt: u32) -> Action {
    Action::Host { node: name(1), id: NodeId::new("id1"), job: JobId::new("job"), attempt, stage }
}

#[expect(clippy::unnecessary_wraps, reason = "it is passed on as an action's result")]
fn ended(ok: bool) -> Result<Answer, FaultSeen> {
    Ok(Answer::Host(if ok {
        HostState::Succeeded { ended_host_ms: Some(5_000) }
    } else {
        HostState::Failed { step: "install".to_owned(), reason: "exit status 1".to_owned() }
    }))
}

/// Our release was acknowledged.
fn written(case: &mut Case, uncordon: bool) {
    case.answered(&Action::Release { node: name(1), uncordon }, Ok(Answer::Written));
}

fn released_as(case: &Case) -> &Outcome {
    match &case.work(1).phase {
        Phase::Releasing { then, .. } => then,
        other => panic!("{other:?}"),
    }
}

/// The way of a node from the first decision to the last, each step proved by an observation.
#[test]
fn the_whole_way() {
    let mut case = Case::new(1, 1);
    assert_eq!(verbs(&case.turn()), ["claim n1"]);
    case.node(1, |n| n.mark = Some(mark()));
    assert_eq!(verbs(&case.turn()), ["probe n1"]);
    let probe = Action::Probe { node: name(1), id: NodeId::new("id1"), job: JobId::new("job") };
    case.answered(&probe, Ok(Answer::Fit));
    assert_eq!(verbs(&case.turn()), ["cordon n1"]);
    case.pod(pod("web", 1));
    case.node(1, |n| n.unschedulable = true);
    assert_eq!(verbs(&case.turn()), ["evict uid-web-1"]);
    case.index.lose_pod(&Uid::new("uid-web-1"));
    assert_eq!(verbs(&case.turn()), ["confirm n1"]);
    confirm(&mut case, Vec::new());
    assert_eq!(verbs(&case.turn()), ["reset n1 #1"]);
    case.answered(&host(Stage::Reset, 1), ended(true));
    assert_eq!(verbs(&case.turn()), ["heartbeat n1"]);
    let heartbeat = Action::Heartbeat { node: name(1) };
    case.answered(&heartbeat, Ok(Answer::Renewed(Some(5_000))));
    case.pass(Span::secs(1));
    assert_eq!(verbs(&case.turn()), ["heartbeat n1"], "no renewal since the end of the reset");
    case.answered(&heartbeat, Ok(Answer::Renewed(Some(5_001))));
    assert!(verbs(&case.turn()).is_empty(), "settling");
    case.pass(Span::secs(10));
    assert_eq!(verbs(&case.turn()), ["post n1 #1"]);
    case.answered(&host(Stage::Post, 1), ended(true));
    assert_eq!(verbs(&case.turn()), ["release n1"]);
    written(&mut case, true);
    case.node(1, |n| (n.mark, n.unschedulable) = (None, false));
    case.settle();
    assert_eq!(case.phase(1), "Done");
    assert!(!case.sync.running());
}

/// The claim is counted again once it is seen: somebody went out in between, so it is withdrawn.
#[test]
fn a_claim_without_room_is_withdrawn() {
    let mut case = Case::new(2, 1);
    case.settle();
    case.node(2, |n| n.ready = Readiness::NotReady);
    case.node(1, |n| n.mark = Some(mark()));
    assert_eq!(verbs(&case.turn()), ["release n1"]);
    assert!(matches!(released_as(&case), Outcome::Waiting { cause: Cause::NoRoom { .. }, .. }));
}

#[test]
fn people_who_cordon_uncordon_and_hold() {
    // A person cordons between the claim and our cordon.
    for (named, word) in [(false, "Releasing"), (true, "Probing")] {
        let mut case = Case::new(1, 1).spec(|s| s.named = named);
        case.settle();
        case.node(1, |n| (n.mark, n.unschedulable) = (Some(mark()), true));
        let plan = case.turn();
        assert_eq!(case.phase(1), word, "named {named}");
        assert!(case.work(1).was_unschedulable);
        let uncordons = Action::Release { node: name(1), uncordon: true };
        assert!(!plan.actions.contains(&uncordons), "their cordon stays");
    }
    // A person uncordons before the reset: once it is cordoned again, the second time it is left alone.
    let mut case = Case::new(1, 1);
    case.in_hand(1, draining(NOW), |_| ());
    case.pod(pod("web", 1));
    case.node(1, |n| n.unschedulable = false);
    assert_eq!(verbs(&case.turn()), ["cordon n1"]);
    case.node(1, |n| n.unschedulable = true);
    case.settle();
    case.node(1, |n| n.unschedulable = false);
    case.settle();
    let skipped = Outcome::Skipped { reason: SkipReason::UncordonedByPeople };
    assert_eq!(*released_as(&case), skipped);
    // During the reset it is cordoned again, however often.
    for phase in [
        Phase::Resetting { since: NOW },
        Phase::Retrying { since: NOW, until: NOW + Span::secs(9) },
    ] {
        let mut case = Case::new(1, 1);
        case.in_hand(1, phase, |w| w.attempt = 1);
        case.node(1, |n| n.unschedulable = false);
        assert!(verbs(&case.turn()).contains(&"cordon n1".to_owned()));
    }
    // Our mark is taken away: it is written again before anything else.
    let mut case = Case::new(1, 1);
    case.in_hand(1, draining(NOW), |_| ());
    case.pod(pod("web", 1));
    case.node(1, |n| n.mark = None);
    assert_eq!(verbs(&case.turn()), ["claim n1"]);
    // Held in the middle of a drain.
    let mut case = Case::new(1, 1);
    case.in_hand(1, draining(NOW), |_| ());
    case.node(1, |n| n.hold = true);
    case.settle();
    assert_eq!(*released_as(&case), Outcome::Skipped { reason: SkipReason::Held });
    // A Node that its kubelet made anew during the reset is open, too: that is nobody's wish.
    let mut case = Case::new(1, 1).spec(|s| s.named = true);
    let since = NOW;
    case.in_hand(1, Phase::Resetting { since }, |w| {
        (w.attempt, w.was_unschedulable) = (1, true);
    });
    case.node(1, |n| (n.mark, n.unschedulable) = (None, false));
    assert_eq!(verbs(&case.turn())[0], "cordon n1");
    case.node(1, |n| n.unschedulable = true);
    assert_eq!(verbs(&case.turn())[0], "claim n1");
    assert!(case.work(1).was_unschedulable);
    // A named node that was cordoned before us, and that a person opened since, ends open.
    let mut case = Case::new(1, 1).spec(|s| s.named = true);
    case.in_hand(1, Phase::Resetting { since: NOW }, |w| {
        (w.attempt, w.was_unschedulable) = (1, true);
    });
    case.node(1, |n| n.unschedulable = false);
    case.settle();
    assert!(!case.work(1).was_unschedulable);
}

/// What a named node that was cordoned before us ends like.
#[test]
fn a_foreign_cordon_is_put_back() {
    let mut case = Case::new(1, 1).spec(|s| s.named = true);
    case.node(1, |n| n.unschedulable = true);
    assert_eq!(verbs(&case.turn()), ["claim n1"]);
    let theirs = Mark { was_unschedulable: true, ..mark() };
    case.node(1, |n| n.mark = Some(theirs));
    case.settle();
    let mut back = case.work(1).clone();
    back.phase = Phase::Releasing { since: NOW, then: Outcome::Done };
    case.sync.put(back);
    let plan = case.once();
    assert_eq!(plan.actions, [Action::Release { node: name(1), uncordon: false }]);
    written(&mut case, false);
    case.node(1, |n| n.mark = None);
    case.settle();
    assert_eq!(case.phase(1), "Done", "it stays cordoned, as it was");
}

/// A drain that does not end: yields, gives back, forces.
#[test]
fn drains_are_bounded() {
    // minutes, force, is there another one, is the budget short, what becomes of it, tries
    let rows = [
        (0, false, true, true, "Draining", 0),
        (2, false, true, true, "Releasing", 0),
        (2, false, false, true, "Draining", 0),
        (16, false, false, true, "Releasing", 1),
        (16, true, false, true, "Draining", 0),
        (31, true, false, true, "Releasing", 1),
    ];
    for (minutes, force, another, short, word, tries) in rows {
        let count = if another { 2 } else { 1 };
        let mut case = Case::new(count, 1).spec(|s| s.force = force);
        case.in_hand(1, draining(NOW), |_| ());
        case.pod(pod("db", 1));
        let allowed = i32::from(!short);
        case.index.see_budget(budget("db", (3, 2, 2, allowed)));
        let key = ObjectKey::new("default", "db");
        let evict = Action::Evict {
            pod: ObjectKey::new("default", "db-1"),
            uid: Uid::new("uid-db-1"),
            budget: Some(key.clone()),
        };
        case.pass(Span::mins(minutes));
        let refused = EvictAnswer::Refused { message: "not now".to_owned(), retry_after_s: None };
        case.answered(&evict, Ok(Answer::Eviction(refused)));
        let plan = case.turn();
        assert_eq!(case.phase(1), word, "{minutes} min, force {force}, another {another}");
        assert_eq!(case.work(1).tries, tries, "{minutes} min: an early yield is no failed try");
        let deletes = verbs(&plan).contains(&"delete uid-db-1".to_owned());
        assert_eq!(deletes, force && minutes == 16, "{minutes}: S6");
        if word == "Draining" && !force {
            let waiting = &plan.reports[&case.sync.spec.job].nodes[&name(1)];
            assert!(
                matches!(waiting, WaitingOn::Budget { blocker } if blocker.budget == Some(key))
            );
        }
    }
    // The third time it is Undrainable, with pod and budget, and in service.
    let mut case = Case::new(1, 1);
    case.in_hand(1, draining(NOW), |w| w.tries = 2);
    case.pod(pod("db", 1));
    case.index.see_budget(budget("db", (3, 2, 2, 0)));
    case.pass(Span::mins(16));
    case.settle();
    assert!(matches!(released_as(&case), Outcome::Failed { keeps_slot: false, .. }));
}

#[test]
fn evictions_take_turns_and_wait_for_their_budget() {
    let mut case = Case::new(1, 1);
    case.in_hand(1, draining(NOW), |_| ());
    for app in ["web", "web", "db"] {
        let mut pod = pod(app, 1);
        if case.index.pod(&pod.uid).is_some() {
            pod.uid = Uid::new("uid-web-2");
            pod.key = ObjectKey::new("default", "web-2");
        }
        case.pod(pod);
    }
    case.index.see_budget(budget("web", (4, 2, 4, 2)));
    case.index.see_budget(budget("db", (4, 2, 4, 2)));
    let plan = case.turn();
    assert_eq!(verbs(&plan), ["evict uid-db-1", "evict uid-web-1"], "one lane per budget");
    for action in &plan.actions {
        case.answered(action, Ok(Answer::Eviction(EvictAnswer::Accepted)));
    }
    assert_eq!(verbs(&case.turn()), ["evict uid-web-2"], "no pod twice");
    let second = Action::Evict {
        pod: ObjectKey::new("default", "web-2"),
        uid: Uid::new("uid-web-2"),
        budget: Some(ObjectKey::new("default", "web")),
    };
    let refused = EvictAnswer::Refused { message: "no".to_owned(), retry_after_s: None };
    case.answered(&second, Ok(Answer::Eviction(refused)));
    assert!(verbs(&case.turn()).is_empty(), "it waits for the budget");
    let mut changed = budget("web", (4, 2, 3, 1));
    changed.resource_version = "2".into();
    case.index.see_budget(changed.clone());
    assert_eq!(verbs(&case.turn()), ["evict uid-web-2"], "the budget has changed");
    let later = EvictAnswer::Refused { message: "wait".to_owned(), retry_after_s: Some(10) };
    case.answered(&second, Ok(Answer::Eviction(later)));
    changed.resource_version = "3".into();
    case.index.see_budget(changed);
    assert!(verbs(&case.turn()).is_empty(), "the server named a time");
    case.pass(Span::secs(10));
    assert_eq!(verbs(&case.turn()), ["evict uid-web-2"]);
}

/// An eviction that the server granted and still counts, though its pod has come back, is named as what it is.
#[test]
fn a_stale_entry_in_a_budget_is_told_from_a_shortage() {
    for (disrupted, part) in [(1, "still counts 1"), (0, "needs 2 healthy pods")] {
        let mut case = Case::new(1, 1);
        case.in_hand(1, draining(NOW), |_| ());
        case.pod(pod("db", 1));
        let mut stale = budget("db", (3, 2, 2, 0));
        stale.disrupted = disrupted;
        case.index.see_budget(stale.clone());
        let plan = case.turn();
        let refused = EvictAnswer::Refused { message: "no".to_owned(), retry_after_s: None };
        case.answered(&plan.actions[0], Ok(Answer::Eviction(refused)));
        stale.resource_version = "2".into();
        case.index.see_budget(stale);
        let plan = case.turn();
        let why = plan.reports[&case.sync.spec.job].nodes[&name(1)].to_string();
        assert!(why.contains(part), "{why}");
    }
}

/// Pods of a dead kubelet are gone once their grace and a minute are over.
#[test]
fn a_dead_kubelets_pods_count_as_gone_after_their_grace() {
    for (seconds, ready, word) in [
        (80, Readiness::Unknown, "Draining"),
        (95, Readiness::Unknown, "Confirming"),
        (95, Readiness::Ready, "Draining"),
    ] {
        let mut case = Case::new(1, 1);
        case.in_hand(1, draining(NOW), |_| ());
        case.node(1, |n| n.ready = ready);
        let mut ending = pod("web", 1);
        ending.deleting = true;
        case.pod(ending);
        case.pass(Span::secs(seconds));
        case.settle();
        assert_eq!(case.phase(1), word, "{seconds} s {ready:?}");
    }
}

/// S7: nothing is reset on an old picture.
#[test]
fn the_fresh_read_must_agree() {
    // Another pod under the name of one that is gone counts as another pod.
    let mut case = Case::new(1, 1);
    case.in_hand(1, Phase::Confirming { since: NOW, drain_since: NOW }, |_| ());
    confirm(&mut case, vec![pod("web", 1)]);
    assert!(verbs(&case.turn()).is_empty(), "the watch will show it");
    assert_eq!(case.phase(1), "Confirming");
    case.pass(Span(600));
    assert_eq!(verbs(&case.turn()), ["confirm n1"]);
    case.pod(pod("web", 1));
    assert_eq!(verbs(&case.turn()), ["evict uid-web-1"]);
    assert_eq!(case.phase(1), "Draining");
    // The API server says that it is open.
    let mut case = Case::new(1, 1);
    case.in_hand(1, Phase::Confirming { since: NOW, drain_since: NOW }, |_| ());
    let mut open = case.index.node(&name(1)).expect("there").seen.clone();
    open.unschedulable = false;
    let answer = Answer::Confirmed { node: Some(open), pods: Vec::new() };
    case.answered(&Action::Confirm { node: name(1) }, Ok(answer));
    let plan = case.once();
    assert_eq!(plan.works[0].1.phase.word(), "Draining");
    // An order that could not be given for a while needs another look.
    let mut case = Case::new(1, 1);
    case.in_hand(1, Phase::Resetting { since: NOW }, |w| w.attempt = 1);
    assert_eq!(verbs(&case.turn()), ["confirm n1"], "after a restart");
    confirm(&mut case, Vec::new());
    assert_eq!(verbs(&case.turn()), ["reset n1 #1"]);
    case.answered(&host(Stage::Reset, 1), Err(fault(false)));
    case.pass(Span::secs(20));
    assert_eq!(verbs(&case.turn()), ["confirm n1"]);
    case.pod(pod("web", 1));
    confirm(&mut case, vec![pod("web", 1)]);
    case.settle();
    assert_eq!((case.phase(1), case.work(1).attempt), ("Draining", 1));
}

/// A Node that is deleted: before its reset it is gone, afterwards its absence is part of the reset.
#[test]
fn deleted_in_every_phase() {
    let done = || Outcome::Done;
    let rows = [
        (Phase::Claiming { since: NOW }, 0, "Skipped"),
        (Phase::Probing { since: NOW }, 0, "Skipped"),
        (draining(NOW), 0, "Skipped"),
        (draining(NOW), 1, "Confirming"),
        (Phase::Confirming { since: NOW, drain_since: NOW }, 0, "Confirming"),
        (Phase::Resetting { since: NOW }, 1, "Resetting"),
        (Phase::Retrying { since: NOW, until: NOW + Span::secs(5) }, 1, "Retrying"),
        (
            Phase::Rejoining { since: NOW, heartbeat: Heartbeat::Seen, good_since: None },
            1,
            "Rejoining",
        ),
        (Phase::PostInstall { since: NOW, lifted: false, ended: None }, 1, "PostInstall"),
        (Phase::Releasing { since: NOW, then: done() }, 1, "Done"),
    ];
    for (phase, attempt, word) in rows {
        let mut case = Case::new(1, 1);
        case.in_hand(1, phase.clone(), |w| w.attempt = attempt);
        case.index.lose_node(&name(1));
        case.settle();
        assert_eq!(case.phase(1), word, "{phase:?}");
        // A view that is not live proves nothing.
        let mut case = Case::new(1, 1);
        case.in_hand(1, phase.clone(), |w| w.attempt = attempt);
        case.index.lose_node(&name(1));
        case.index.set_live(false);
        case.settle();
        let still = if word == "Confirming" { word } else { phase.word() };
        assert!([still, phase.word()].contains(&case.phase(1)), "{phase:?} {}", case.phase(1));
    }
    let mut case = Case::new(1, 1);
    case.in_hand(1, Phase::Confirming { since: NOW, drain_since: NOW }, |_| ());
    case.index.lose_node(&name(1));
    confirm(&mut case, Vec::new());
    case.settle();
    assert_eq!(case.phase(1), "Skipped");
}

/// Faults of machines: before the reset the node is given back, afterwards it is tried again and then kept.
#[test]
fn machines_that_fail() {
    let probe = Action::Probe { node: name(1), id: NodeId::new("id1"), job: JobId::new("job") };
    for (permanent, minutes, word) in
        [(true, 0, "Releasing"), (false, 1, "Probing"), (false, 6, "Releasing")]
    {
        let mut case = Case::new(1, 1);
        case.in_hand(1, Phase::Probing { since: NOW }, |_| ());
        case.node(1, |n| n.unschedulable = false);
        case.answered(&probe, Err(fault(permanent)));
        case.pass(Span::mins(minutes));
        case.settle();
        assert_eq!(case.phase(1), word, "permanent {permanent}, {minutes} min");
    }
    for (attempt, word) in [(1, "Retrying"), (2, "Failed")] {
        let mut case = Case::new(1, 1);
        case.in_hand(1, Phase::Resetting { since: NOW }, |w| w.attempt = attempt);
        case.answered(&host(Stage::Reset, attempt), ended(false));
        case.settle();
        assert_eq!(case.phase(1), word);
        if let Phase::Failed { left, .. } = &case.work(1).phase {
            assert_eq!(*left, Left::Cordoned);
            assert!(verbs(&case.once()).is_empty(), "it stays cordoned and marked");
        }
    }
    // A flaky connection during a long script is no unreachable machine.
    let mut case = Case::new(1, 1);
    case.in_hand(1, Phase::Resetting { since: NOW }, |w| w.attempt = 1);
    let running = HostState::Running { step: Some("install".to_owned()), limit: Span::mins(30) };
    for _ in 0..3 {
        case.answered(&host(Stage::Reset, 1), Err(fault(false)));
        case.pass(Span::mins(4));
        case.ledger.progress(&host(Stage::Reset, 1), running.clone());
        case.settle();
        assert_eq!(case.phase(1), "Resetting");
    }
    // The machine has its order and goes on alone: within the order's own limits silence is no failure.
    case.answered(&host(Stage::Reset, 1), Err(fault(false)));
    case.pass(Span::mins(34));
    case.settle();
    assert_eq!(case.phase(1), "Resetting");
    case.pass(Span::mins(2));
    case.settle();
    assert_eq!(case.phase(1), "Retrying", "now it cannot be reached");
    // A machine that never took the order, and one of which a restarted controller knows that it did.
    for (given, word) in [(false, "Retrying"), (true, "Resetting")] {
        let mut case = Case::new(1, 1);
        case.in_hand(1, Phase::Resetting { since: NOW }, |w| w.attempt = 1);
        case.answered(&host(Stage::Reset, 1), Err(fault(false)));
        if given {
            let known = HostState::Given { limit: Span::mins(30) };
            case.ledger.progress(&host(Stage::Reset, 1), known);
        }
        case.pass(Span::mins(6));
        confirm(&mut case, Vec::new());
        case.settle();
        assert_eq!(case.phase(1), word, "given {given}");
    }
}

/// The post-install script, waited for or not.
#[test]
fn post_install() {
    // waited for, ends well, what becomes of the node
    for (waited, ok, word) in [
        (true, true, "Releasing"),
        (true, false, "Retrying"),
        (false, true, "Releasing"),
        (false, false, "Releasing"),
    ] {
        let mut case = Case::new(1, 1).spec(|s| s.wait_post_install = waited);
        case.in_hand(1, Phase::PostInstall { since: NOW, lifted: !waited, ended: None }, |w| {
            w.attempt = 1;
        });
        let lifts = verbs(&case.turn()).contains(&"lift n1".to_owned());
        assert_eq!(lifts, !waited, "in service at once if the script is not waited for");
        case.answered(&host(Stage::Post, 1), ended(ok));
        case.settle();
        assert_eq!(case.phase(1), word, "waited {waited} ok {ok}");
        if !waited && !ok {
            assert!(matches!(released_as(&case), Outcome::Failed { keeps_slot: true, .. }));
            case.node(1, |n| (n.mark, n.unschedulable) = (None, false));
            case.settle();
            let left = matches!(
                case.work(1).phase,
                Phase::Failed { left: Left::InServiceHoldingSlot, .. }
            );
            assert!(left, "in service, no second reset, and its slot is used up");
        }
    }
    // A person cordons a node whose script still runs: it stays cordoned.
    let mut case = Case::new(1, 1).spec(|s| s.wait_post_install = false);
    case.in_hand(1, Phase::PostInstall { since: NOW, lifted: true, ended: None }, |w| {
        w.attempt = 1;
    });
    case.answered(&Action::Lift { node: name(1) }, Ok(Answer::Written));
    case.node(1, |n| n.unschedulable = false);
    case.settle();
    case.pass(Span::secs(30));
    case.node(1, |n| n.unschedulable = true);
    case.settle();
    assert!(case.work(1).was_unschedulable);
}

/// What a node owes before it counts as back.
#[test]
fn ready_again() {
    let rows: [(&str, Heartbeat, fn(&mut Case), bool); 5] = [
        ("not ready", Heartbeat::Seen, |c| c.node(1, |n| n.ready = Readiness::NotReady), false),
        ("no heartbeat", Heartbeat::After { host_ms: 1 }, |_| (), false),
        (
            "its DaemonSet pod is not",
            Heartbeat::Seen,
            |c| {
                let mut agent = pod("agent", 1);
                (agent.owner, agent.ready) = (Owner::DaemonSet, false);
                c.pod(agent);
            },
            false,
        ),
        ("all well", Heartbeat::Seen, |_| (), true),
        ("nothing was reset", Heartbeat::NotNeeded, |_| (), true),
    ];
    for (what, heartbeat, change, back) in rows {
        let mut case = Case::new(1, 1);
        let phase = Phase::Rejoining { since: NOW, heartbeat, good_since: None };
        case.in_hand(1, phase, |w| w.attempt = 1);
        change(&mut case);
        case.settle();
        case.pass(Span::secs(11));
        case.settle();
        assert_eq!(case.phase(1) != "Rejoining", back, "{what}");
        case.pass(Span::mins(31));
        case.settle();
        assert_eq!(case.phase(1) == "Retrying", !back, "{what}: bounded");
    }
    // What the Lease shows, reading after reading, for an order that ended at 10:00:00 by the host's clock.
    let (noon, hour) = (36_000_000, 3_600_000);
    let after = Heartbeat::After { host_ms: noon };
    let readings: [(&str, &Heartbeat, &[i64], bool); 8] = [
        ("a renewal after the end", &after, &[noon + 4_000], true),
        ("only one of before", &after, &[noon - 9_000, noon - 9_000], false),
        ("one of before, then another", &after, &[noon - 9_000, noon + 4_000], true),
        (
            "the clock was set back by an hour after the end",
            &after,
            &[noon - hour, noon - hour + 9],
            true,
        ),
        (
            "it was set back during the reset, and the kubelet is dead",
            &after,
            &[noon + hour, noon + hour],
            false,
        ),
        ("it was set back during the reset", &after, &[noon + hour, noon + 4_000], true),
        ("it was set forward after the end", &after, &[noon + hour, noon + hour + 9_000], true),
        ("no clock of the host is known", &Heartbeat::Baseline, &[noon, noon], false),
    ];
    for (what, heartbeat, readings, alive) in readings {
        let mut case = Case::new(1, 1);
        let heartbeat = heartbeat.clone();
        let phase = Phase::Rejoining { since: NOW, heartbeat, good_since: None };
        case.in_hand(1, phase, |w| w.attempt = 1);
        for at in readings {
            case.settle();
            let read = Action::Heartbeat { node: name(1) };
            case.answered(&read, Ok(Answer::Renewed(Some(*at))));
            case.pass(Span::secs(2));
        }
        case.settle();
        case.pass(Span::secs(11));
        case.settle();
        assert_eq!(case.phase(1) != "Rejoining", alive, "{what}");
    }
    // A node that flaps starts to settle anew.
    let mut case = Case::new(1, 1);
    let phase = Phase::Rejoining { since: NOW, heartbeat: Heartbeat::Seen, good_since: Some(NOW) };
    case.in_hand(1, phase, |w| w.attempt = 1);
    case.pass(Span::secs(9));
    case.node(1, |n| n.ready = Readiness::NotReady);
    case.settle();
    case.node(1, |n| n.ready = Readiness::Ready);
    case.pass(Span::secs(9));
    case.settle();
    assert_eq!(case.phase(1), "Rejoining");
}

/// Releases: the mark and our cordon go in one write, others' cordons stay.
#[test]
fn releases() {
    // marked, cordoned, was cordoned before, acknowledged, what happens
    let rows = [
        (true, true, false, false, "release n1"),
        (false, true, false, false, "release n1"),
        (false, true, false, true, "Done"),
        // Somebody else took mark and cordon away: the pool's labels are still to be written.
        (false, false, false, false, "release n1"),
        (false, false, false, true, "Done"),
        (true, true, true, false, "release n1"),
        (false, true, true, false, "release n1"),
        (false, true, true, true, "Done"),
    ];
    for (marked, cordoned, before, acknowledged, expected) in rows {
        let mut case = Case::new(1, 1);
        let phase = Phase::Releasing { since: NOW, then: Outcome::Done };
        case.in_hand(1, phase, |w| w.was_unschedulable = before);
        case.node(1, |n| {
            (n.mark, n.unschedulable) = (marked.then(mark), cordoned);
        });
        if acknowledged {
            written(&mut case, !before);
        }
        let plan = case.turn();
        let found = plan.actions.first().map_or(case.phase(1).to_owned(), |a| a.key().to_string());
        assert_eq!(found, expected, "{marked} {cordoned} {before} {acknowledged}");
    }
    // A mark that a late answer left behind is taken away, also after the job has ended.
    let mut case = Case::new(1, 1);
    case.stands(1, Phase::Done { at: NOW }, |_| ());
    case.settle();
    assert!(!case.sync.running());
    case.node(1, |n| (n.mark, n.unschedulable) = (Some(mark()), true));
    assert_eq!(case.once().actions, [Action::Release { node: name(1), uncordon: true }]);
}

/// Writes to one Node go one after the other, and an answer that is on its way is waited for.
#[test]
fn one_write_to_a_node_at_a_time() {
    let mut case = Case::new(1, 1);
    case.in_hand(1, Phase::Resetting { since: NOW }, |w| w.attempt = 1);
    case.node(1, |n| (n.mark, n.unschedulable) = (None, false));
    let plan = case.turn();
    assert!(verbs(&plan).contains(&"cordon n1".to_owned()));
    assert!(!verbs(&plan).contains(&"claim n1".to_owned()));
    let cordon = plan.actions[0].clone();
    case.ledger.start(&cordon, case.now);
    assert!(!verbs(&case.turn()).iter().any(|v| v == "cordon n1" || v == "claim n1"));
}

/// Nothing is kept of what is over.
#[test]
fn the_ledger_forgets() {
    let mut case = Case::new(1, 1);
    let pod = pod("web", 1);
    let evict = Action::Evict { pod: pod.key.clone(), uid: pod.uid.clone(), budget: None };
    case.answered(&evict, Ok(Answer::Eviction(EvictAnswer::Accepted)));
    case.answered(&evict, Err(fault(false)));
    case.ledger.forget_pod(&pod.uid);
    for attempt in 1..4 {
        case.answered(&host(Stage::Reset, attempt), ended(false));
        case.answered(&host(Stage::Post, attempt), Err(fault(false)));
    }
    case.answered(&Action::Cordon { node: name(1) }, Ok(Answer::Written));
    case.answered(&Action::Heartbeat { node: name(1) }, Ok(Answer::Renewed(None)));
    confirm(&mut case, Vec::new());
    case.ledger.forget_node(&name(1));
    assert!(case.ledger.is_empty(), "{:?}", case.ledger);
}
