//! A preview as one page that a person reads in half a minute: the verdict first, then what blocks, what changes, and
//! the order.
//!
//! Entry point: [`plan`]. Long lists are cut and counted; `--json` has all of it.

use evenkeel_api::preview::{Concern, Drift, Node, Preview};
use std::collections::BTreeMap;

use crate::text::{facts, plain, table};

/// Lines of a list: what fits on a screen together with the rest.
const LINES: usize = 12;

pub(crate) fn plan(preview: &Preview) -> String {
    let mut page = head(preview);
    list(&mut page, "A sync would be refused", &preview.missing);
    list(&mut page, "Not known", &preview.unknown);
    concerns(&mut page, preview);
    drift(&mut page, preview);
    order(&mut page, preview);
    trials(&mut page, preview);
    page
}

fn head(preview: &Preview) -> String {
    let nodes = match preview.nodes.len() {
        0 => "nothing to do".to_owned(),
        1 => "1 node".to_owned(),
        n => format!("{n} nodes, {} at a time", preview.max_unavailable),
    };
    let title =
        format!("{} in {}: {nodes}\n\n", plain(&preview.pool_name), plain(&preview.cluster_name));
    if preview.nodes.is_empty() {
        return title;
    }
    let eta = &preview.eta;
    let basis = match preview.basis.as_str() {
        "learned" => "from the times of its nodes so far",
        _ => "assumed times: none of its nodes has shown its own yet",
    };
    let blocked = preview.nodes.iter().filter(|node| is_blocked(node)).count();
    let moves: usize = preview.nodes.iter().map(|node| node.moves.len()).sum();
    let bound = preview.bounds.iter().rev().max_by_key(|bound| bound.seconds);
    let pods = match blocked {
        0 => format!("{moves} leave, nothing blocks"),
        _ => format!("{moves} leave; {} cannot be drained as things are", count(blocked, "node")),
    };
    let time = if blocked == preview.nodes.len() {
        "none of the nodes would be taken: see what blocks".to_owned()
    } else {
        format!(
            "about {}, between {} and {} ({basis})",
            span(eta.likely_seconds),
            span(eta.low_seconds),
            span(eta.high_seconds)
        )
    };
    let fastest = bound.map(|bound| match bound.what.as_str() {
        "" => span(bound.seconds),
        what => format!("{} ({}: {what})", span(bound.seconds), bound.name),
    });
    title
        + &facts(&[
            ("Time", time),
            ("At best", fastest.unwrap_or_default()),
            ("Useful", preview.useful.sentence.clone()),
            ("Room", preview.capacity.sentence.clone()),
            ("Pods", pods),
            ("Skipped", preview.skipped_nodes.join(", ")),
            ("Ignored", preview.ignored_fields.join(", ")),
        ])
}

fn is_blocked(node: &Node) -> bool {
    node.concerns.iter().any(|concern| concern.blocks)
}

fn list(page: &mut String, title: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    page.push_str(&format!("\n{title}\n"));
    for line in lines.iter().take(LINES) {
        page.push_str(&format!("  {}\n", plain(line)));
    }
    more(page, lines.len());
}

fn more(page: &mut String, all: usize) {
    if all > LINES {
        page.push_str(&format!("  and {} more\n", all - LINES));
    }
}

fn indented(page: &mut String, text: &str) {
    for line in text.lines() {
        page.push_str(&format!("  {line}\n"));
    }
}

/// Pods that block, then those that lose something; the same kind under the same budget is one line.
fn concerns(page: &mut String, preview: &Preview) {
    for (title, blocks) in [("Blocks a drain", true), ("Costs something", false)] {
        let mut groups: BTreeMap<(&str, &str), Vec<(&Node, &Concern)>> = BTreeMap::new();
        for node in &preview.nodes {
            for concern in node.concerns.iter().filter(|concern| concern.blocks == blocks) {
                let budget = concern.budget.as_deref().unwrap_or_default();
                groups.entry((&concern.kind, budget)).or_default().push((node, concern));
            }
        }
        let rows: Vec<Vec<String>> = groups
            .iter()
            .filter_map(|((_, budget), group)| {
                let (node, concern) = group.first()?;
                let pods = match group.len() {
                    1 => concern.pod.clone(),
                    n => format!("{} and {} more", concern.pod, n - 1),
                };
                Some(vec![pods, (*budget).to_owned(), node.name.clone(), concern.why.clone()])
            })
            .collect();
        if rows.is_empty() {
            continue;
        }
        page.push_str(&format!("\n{title}\n"));
        let shown = &rows[..rows.len().min(LINES)];
        indented(page, &table(&["PODS", "BUDGET", "NODE", "WHY"], shown));
        more(page, rows.len());
    }
}

fn drift(page: &mut String, preview: &Preview) {
    let mut groups: BTreeMap<(&str, &str), (&Drift, usize)> = BTreeMap::new();
    for drift in preview.nodes.iter().flat_map(|node| &node.drift) {
        let found = drift.found.as_deref().unwrap_or("?");
        groups.entry((&drift.field, found)).or_insert((drift, 0)).1 += 1;
    }
    if groups.is_empty() {
        return;
    }
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (drift, nodes) in groups.values() {
        let how = match drift.applied.as_str() {
            "inPlace" => "in place",
            "newNodesOnly" => "on new nodes only",
            _ => "by reset",
        };
        rows.push(vec![
            drift.field.clone(),
            drift.found.clone().unwrap_or_else(|| "?".to_owned()),
            drift.wanted.clone().unwrap_or_else(|| "(nothing)".to_owned()),
            nodes.to_string(),
            how.to_owned(),
        ]);
    }
    page.push_str("\nChanges\n");
    let shown = &rows[..rows.len().min(LINES)];
    indented(page, &table(&["FIELD", "FOUND", "WANTED", "NODES", "HOW"], shown));
    more(page, rows.len());
}

fn order(page: &mut String, preview: &Preview) {
    if preview.nodes.is_empty() {
        return;
    }
    let row = |node: &Node| {
        let at = |seconds: Option<u64>| seconds.map(span).unwrap_or_default();
        let why = match (node.start_seconds, node.concerns.iter().find(|c| c.blocks)) {
            (None, Some(concern)) => format!("cannot be drained: pod {}", concern.pod),
            _ => node.rule.clone(),
        };
        vec![
            node.name.clone(),
            node.zone.clone(),
            at(node.start_seconds),
            at(node.end_seconds),
            node.moves.len().to_string(),
            why,
        ]
    };
    let rows: Vec<_> = preview.nodes.iter().take(LINES).map(row).collect();
    page.push_str("\nOrder\n");
    indented(page, &table(&["NODE", "ZONE", "FROM", "TO", "PODS", "WHY"], &rows));
    more(page, preview.nodes.len());
}

fn trials(page: &mut String, preview: &Preview) {
    if preview.trials.is_empty() {
        return;
    }
    let (good, bad): (Vec<_>, Vec<_>) = preview
        .trials
        .iter()
        .partition(|trial| matches!(trial.answer.as_str(), "allowed" | "gone"));
    page.push_str(&format!(
        "\nThe API server was asked about the {}: {} would be let go now\n",
        count(preview.trials.len(), "hardest eviction"),
        good.len()
    ));
    let rows: Vec<_> = bad
        .iter()
        .take(LINES)
        .map(|trial| {
            let budget = trial.budget.clone().unwrap_or_default();
            vec![trial.pod.clone(), budget, trial.answer.clone(), trial.message.clone()]
        })
        .collect();
    if !rows.is_empty() {
        indented(page, &table(&["POD", "BUDGET", "ANSWER", "WHAT IT SAID"], &rows));
        more(page, bad.len());
    }
}

fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// `45 s`, `12 min`, `3 h 20 min`: a minute more or less does not matter beyond the first ones.
fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", (seconds + 30) / 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}
