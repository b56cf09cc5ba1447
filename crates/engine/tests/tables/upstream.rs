//! The tables of those who did this before us, in files: case | upstream | ours | why they differ.
//!
//! A row whose results differ says why; one whose results agree says nothing.

use crate::admission::{scene, taken};
use crate::common::{Case, NOW, budget, mark, name, pod, verbs};
use evenkeel_engine::action::{Action, Answer, EvictAnswer};
use evenkeel_engine::drain::{Disposition, classify};
use evenkeel_engine::facts::{BudgetSeen, Owner, PodPhase};
use evenkeel_engine::ids::{ObjectKey, Uid};
use evenkeel_engine::phase::{Cause, Outcome, Phase};
use evenkeel_engine::time::{Span, Time};

struct Row {
    case: &'static str,
    upstream: &'static str,
    ours: &'static str,
    why: &'static str,
}

fn rows(text: &'static str) -> Vec<Row> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let mut cells = lines.map(|line| line.splitn(4, '|').map(str::trim).collect::<Vec<_>>());
    assert_eq!(cells.next().unwrap(), ["case", "upstream", "ours", "why they differ"]);
    let row = |cells: Vec<&'static str>| {
        let [case, upstream, ours, why] = cells[..] else {
            panic!("four columns: {cells:?}");
        };
        Row { case, upstream, ours, why }
    };
    cells.map(row).collect()
}

/// Plays each row. Where upstream has no row, or words of its own, only ours is compared.
fn check(text: &'static str, same_words: bool, play: impl Fn(&str) -> String) {
    let rows = rows(text);
    assert!(rows.len() > 5);
    for Row { case, upstream, ours, why } in rows {
        assert_eq!(play(case), ours, "{case} (upstream: {upstream}; {why})");
        if same_words && upstream != "-" {
            assert_eq!(upstream == ours, why.is_empty(), "{case}: say why, or nothing");
        }
    }
}

#[test]
fn candidates() {
    check(include_str!("upstream/candidates.txt"), true, |case| {
        let (head, nodes) = case.split_once(": ").unwrap();
        let mut flags = head.split_whitespace();
        let max = flags.next().unwrap().parse().unwrap();
        let flags: Vec<&str> = flags.collect();
        let found = taken(&scene(max, nodes, flags.contains(&"c"), flags.contains(&"n")));
        if found.is_empty() { "nobody".to_owned() } else { found }
    });
}

#[test]
fn pods() {
    check(include_str!("upstream/pods.txt"), true, |case| {
        let mut pod = pod("web", 1);
        let mut force = false;
        for word in case.split_whitespace() {
            match word {
                "controller" => {}
                "job" => pod.owner = Owner::Controller("Job/x".into()),
                "daemonset" => pod.owner = Owner::DaemonSet,
                "static" => pod.owner = Owner::Static,
                "nobody" => pod.owner = Owner::Nobody,
                "finished" => pod.phase = PodPhase::Finished,
                "pending" => pod.phase = PodPhase::Pending,
                "deleting" => pod.deleting = true,
                "local" => pod.local_data = true,
                "protected" => pod.protected = true,
                "force" => force = true,
                other => panic!("{other}?"),
            }
        }
        let word = match classify(&pod, &[], force) {
            Disposition::Stays(_) => "stays",
            Disposition::Ending => "ending",
            Disposition::Evict { .. } => "evict",
            Disposition::Blocked(_) => "blocked",
        };
        word.to_owned()
    });
}

#[test]
fn budgets() {
    check(include_str!("upstream/budgets.txt"), true, |case| {
        let mut words = case.split_whitespace();
        let numbers: Vec<i32> =
            words.next().unwrap().split('/').map(|n| n.parse().unwrap()).collect();
        let disrupted = words.next().unwrap().parse().unwrap();
        let observed = words.next() != Some("stale");
        let counts = (numbers[0], numbers[1], numbers[2], numbers[3]);
        let budget = BudgetSeen { disrupted, observed, ..budget("web", counts) };
        if budget.never_allows() { "yes" } else { "no" }.to_owned()
    });
}

fn draining(case: &mut Case, since: Time) {
    case.in_hand(1, Phase::Draining { since, cordoned: true }, |_| ());
}

/// A pod `db` under a budget with so much room.
fn guarded(case: &mut Case, allowed: i32) {
    case.pod(pod("db", 1));
    case.index.see_budget(budget("db", (3, 2, 2 + allowed, allowed)));
}

/// What the next turn writes, or what the node waits for.
fn next(case: &mut Case) -> String {
    let plan = case.turn();
    if !plan.actions.is_empty() {
        return verbs(&plan).join(", ");
    }
    let report = &plan.reports[&case.sync.spec.job];
    report.nodes.get(&name(1)).map_or_else(|| case.phase(1).to_owned(), ToString::to_string)
}

fn evict(app: &str) -> Action {
    Action::Evict {
        pod: ObjectKey::new("default", format!("{app}-1")),
        uid: Uid::new(format!("uid-{app}-1")),
        budget: None,
    }
}

fn drained(case_words: &str) -> String {
    let force = case_words.ends_with("force");
    let mut case = Case::new(1, 1).spec(|spec| spec.force = force);
    let late = Span::mins(16);
    match case_words {
        "back and to be opened" => {
            case.in_hand(1, Phase::Releasing { since: NOW, then: Outcome::Done }, |w| {
                w.attempt = 1;
            });
        }
        "in service and to be drained" => {}
        "claimed and fit" => {
            case.stands(1, Phase::Draining { since: NOW, cordoned: false }, |_| ());
            case.node(1, |node| node.mark = Some(mark()));
        }
        "opened by somebody during the drain" => {
            draining(&mut case, NOW);
            case.pod(pod("web", 1));
            case.node(1, |node| node.unschedulable = false);
        }
        "pod is gone when it is evicted" => {
            draining(&mut case, NOW);
            case.answered(&evict("web"), Ok(Answer::Eviction(EvictAnswer::Gone)));
            case.settle();
            return format!("evicted: {}", case.phase(1));
        }
        "another pod has the name" => {
            draining(&mut case, NOW);
            case.pod(pod("web", 1));
            let plan = case.turn();
            let by_uid = matches!(&plan.actions[..], [Action::Evict { uid, .. }] if *uid == Uid::new("uid-web-1"));
            return if by_uid { "evict by UID" } else { "?" }.to_owned();
        }
        "no budget" => {
            draining(&mut case, NOW);
            case.pod(pod("web", 1));
        }
        "budget allows nothing" => {
            draining(&mut case, NOW);
            guarded(&mut case, 0);
            for action in case.turn().actions {
                let message = "not now".to_owned();
                let refused = EvictAnswer::Refused { message, retry_after_s: None };
                case.answered(&action, Ok(Answer::Eviction(refused)));
            }
            let words = next(&mut case);
            let waits = words.contains("default/db");
            return if waits { "waits for budget default/db".to_owned() } else { words };
        }
        "two budgets on the pod" => {
            guarded(&mut case, 1);
            let mut other = budget("db", (3, 2, 3, 1));
            other.key = ObjectKey::new("default", "db-too");
            case.index.see_budget(other);
            case.settle();
            let Phase::Waiting { cause: Cause::Undrainable { blocker }, .. } = &case.work(1).phase
            else {
                return case.phase(1).to_owned();
            };
            let says = blocker.why.contains("no pod with two");
            return if says { "set aside: no pod with two" } else { "set aside" }.to_owned();
        }
        "evicted and still ending" => {
            draining(&mut case, NOW);
            case.pod(pod("web", 1));
            case.answered(&evict("web"), Ok(Answer::Eviction(EvictAnswer::Accepted)));
            let words = next(&mut case);
            let waits = words == "waiting for pod default/web-1 to end";
            return if waits { "waits for the pod".to_owned() } else { words };
        }
        "time is over, budget allows nothing" => {
            draining(&mut case, NOW);
            guarded(&mut case, 0);
            case.pass(late);
            case.settle();
            let back =
                Outcome::Waiting { until: NOW, cause: Cause::NoRoom { message: String::new() } };
            let Phase::Releasing { then, .. } = &case.work(1).phase else {
                return case.phase(1).to_owned();
            };
            let same = std::mem::discriminant(then) == std::mem::discriminant(&back);
            return if same { "given back" } else { "?" }.to_owned();
        }
        "time is over, budget allows nothing, force" => {
            draining(&mut case, NOW);
            guarded(&mut case, 0);
            case.pass(late);
        }
        "static and DaemonSet pods only" => {
            draining(&mut case, NOW);
            for (app, owner) in [("a", Owner::Static), ("b", Owner::DaemonSet)] {
                let mut pod = pod(app, 1);
                pod.owner = owner;
                case.pod(pod);
            }
            case.settle();
            return case.phase(1).to_owned();
        }
        "critical and other pods" => {
            draining(&mut case, NOW);
            case.pod(pod("critical", 1));
            case.pod(pod("other", 1));
            let both = case.turn().actions.len() == 2;
            return if both { "both at once" } else { "?" }.to_owned();
        }
        other => panic!("{other}?"),
    }
    next(&mut case)
}

#[test]
fn drains() {
    check(include_str!("upstream/drain.txt"), false, drained);
}
