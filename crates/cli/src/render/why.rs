//! Why a job is not further, who steered it, and what it cost, from the long form of a job.
//!
//! Entry points: [`job`], [`control`].

use serde_json::Value;

use crate::lookup::text;
use crate::text::{facts, table};

/// Names in a line of a table; the count says how many there are.
const NAMES_MAX: usize = 8;

fn list<'a>(answer: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    answer.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// Everything, part by part; parts without content are left out.
pub(crate) fn job(described: &Value) -> String {
    [in_hand(described), queue(described), pressed(described), costs(described)].concat()
}

fn section(headings: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() { String::new() } else { format!("\n{}", table(headings, rows)) }
}

/// Nodes in hand: what they wait for, until when, and why they were chosen.
fn in_hand(described: &Value) -> String {
    let nodes = described.get("nodes").and_then(Value::as_object);
    let held =
        nodes.into_iter().flatten().filter(|(_, n)| n.get("inHand") == Some(&Value::Bool(true)));
    let row = |(name, node): (&String, &Value)| {
        let cells = ["/phase", "/since", "/waitingFor", "/nextTry", "/chosen"];
        std::iter::once(name.clone()).chain(cells.map(|cell| text(node, cell))).collect()
    };
    let rows: Vec<Vec<String>> = held.map(row).collect();
    section(&["IN HAND", "PHASE", "SINCE", "WAITING FOR", "NEXT TRY", "CHOSEN"], &rows)
}

/// Nodes that stand in line, those together that wait for the same.
fn queue(described: &Value) -> String {
    let row = |group: &Value| {
        let all: Vec<&str> = list(group, "/nodes").filter_map(Value::as_str).collect();
        let mut names = all.iter().take(NAMES_MAX).copied().collect::<Vec<_>>().join(" ");
        if all.len() > NAMES_MAX {
            names.push_str(" ...");
        }
        vec![all.len().to_string(), text(group, "/waitingFor"), text(group, "/nextTry"), names]
    };
    let rows: Vec<_> = list(described, "/queue").map(row).collect();
    section(&["IN LINE", "WAITING FOR", "NEXT TRY", "NODES"], &rows)
}

fn pressed(described: &Value) -> String {
    let row = |line: &Value| ["/at", "/by", "/deed", "/node"].map(|at| text(line, at)).to_vec();
    let rows: Vec<_> = list(described, "/control/log").map(row).collect();
    section(&["AT", "BY", "DEED", "NODE"], &rows)
}

fn costs(described: &Value) -> String {
    let row = |workload: &Value| {
        let worst = text(workload, "/worstPod");
        let worst = match text(workload, "/worstPodMoves") {
            moves if moves.is_empty() => worst,
            moves => format!("{worst} ({moves})"),
        };
        vec![
            text(workload, "/workload"),
            text(workload, "/moves"),
            text(workload, "/deleted"),
            worst,
        ]
    };
    let workloads: Vec<_> = list(described, "/costs/workloads").map(row).collect();
    let row = |budget: &Value| {
        vec![
            text(budget, "/budget"),
            format!("{} s", text(budget, "/secondsBelow")),
            text(budget, "/mostMissing"),
        ]
    };
    let budgets: Vec<_> = list(described, "/costs/budgets").map(row).collect();
    section(&["WORKLOAD", "MOVES", "DELETED", "WORST POD"], &workloads)
        + &section(&["BUDGET", "BELOW FOR", "MOST MISSING"], &budgets)
}

/// What people asked of a job, from the answer to a button or the long form of a job.
pub(crate) fn control(answer: &Value) -> String {
    let person = |pointer: &str| {
        let by = text(answer, &format!("{pointer}/by"));
        if by.is_empty() {
            by
        } else {
            format!("by {by} at {}", text(answer, &format!("{pointer}/at")))
        }
    };
    let mut out = facts(&[
        ("Job", text(answer, "/job")),
        ("State", text(answer, "/state/status")),
        ("Paused", person("/control/paused")),
        ("Cancelled", person("/control/cancelled")),
    ]);
    out.push_str(&pressed(answer));
    out
}
