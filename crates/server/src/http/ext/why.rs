//! Why each node of a job waits, and what the job cost its workloads so far, for the long form of a job.

use std::collections::BTreeMap;

use evenkeel_api::meta::iam_time;
use evenkeel_engine::account::Account;
use evenkeel_engine::ids::NodeName;
use evenkeel_engine::report::{self, JobReport, WaitingOn};
use evenkeel_engine::sync::Work;
use evenkeel_engine::time::Time;
use serde_json::{Value, json};

use crate::http::jobs::read::Found;

/// The nodes that are not in hand and have no end yet, in groups that wait for the same. Worked out when it is read.
pub(super) fn queue(found: &Found, report: Option<&JobReport>, now: Time) -> Vec<Value> {
    let sync = &found.sync;
    if !sync.running() {
        return Vec::new();
    }
    let seen = |name: &NodeName| found.snapshot.as_ref()?.nodes.get(name).map(|node| &**node);
    let mut groups: BTreeMap<(String, Option<Time>), (WaitingOn, Vec<&NodeName>)> = BTreeMap::new();
    let again = sync.waiting().map(|work| &work.name);
    for name in sync.untouched().iter().chain(again) {
        let (on, at) = report::in_line(sync, report, name, seen(name), now);
        let group = groups.entry((on.to_string(), at)).or_insert_with(|| (on, Vec::new()));
        group.1.push(name);
    }
    let shown =
        |((words, at), (on, nodes)): ((String, Option<Time>), (WaitingOn, Vec<&NodeName>))| {
            json!({
                "waitingOn": on,
                "waitingFor": words,
                "nextTry": at.map(|at| iam_time(found.wall(at))),
                "nodes": nodes,
            })
        };
    groups.into_iter().map(shown).collect()
}

/// The rule by which a node was chosen for its last try, as it was noted then.
pub(super) fn chosen(work: &Work) -> Option<&str> {
    let claims = work.log.iter().rev().filter(|line| line.word == "Claiming");
    claims.map(|line| line.note.strip_prefix("chosen: ").unwrap_or(&line.note)).next()
}

/// Moves by workload, most moves first, and the time that budgets were below what they ask for.
pub(super) fn costs(account: &Account, now: Time) -> Value {
    let mut workloads: Vec<_> = account.workloads.iter().collect();
    workloads.sort_by(|a, b| b.1.moves.cmp(&a.1.moves).then_with(|| a.0.cmp(b.0)));
    let workloads: Vec<Value> = workloads
        .into_iter()
        .map(|(name, moves)| {
            let worst = moves.worst();
            json!({
                "workload": name,
                "moves": moves.moves,
                "deleted": moves.deleted,
                "worstPod": worst.map(|(pod, _)| pod),
                "worstPodMoves": worst.map(|(_, moves)| moves),
            })
        })
        .collect();
    let budgets: Vec<Value> = account
        .budgets
        .iter()
        .map(|(name, below)| {
            json!({
                "budget": name,
                "secondsBelow": below.until(now).as_secs(),
                "mostMissing": below.worst,
                "isBelow": below.since.is_some(),
            })
        })
        .collect();
    json!({ "workloads": workloads, "budgets": budgets, "otherMoves": account.others })
}
