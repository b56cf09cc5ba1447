//! What the runs came to: medians, the goals, a table and JSON.

use serde::Serialize;
use serde_json::{Value, json};

use super::scale::{Bound, Scale};
use super::{SLOTS, Setting};
use crate::audit::Report;

/// One side of one run.
#[derive(Debug, Clone, Serialize)]
pub struct Side {
    pub makespan_s: f64,
    /// Pods that had to go, counted by their replacements.
    pub moves: u32,
    /// Evictions that were answered with 201, 429, anything else.
    pub accepted: u32,
    pub refused: u32,
    pub other: u32,
    /// Most nodes out at one moment, replayed from the audit log.
    pub max_out: usize,
}

impl Side {
    /// From the audit log of a bed that was used for one rollout and for nothing else.
    pub fn of(makespan_s: f64, audit: &Report) -> Self {
        let replaced = audit.pods_made.iter().filter(|(user, _)| *user != "admin");
        Self {
            makespan_s,
            moves: replaced.map(|(_, count)| count).sum(),
            accepted: audit.accepted_evictions.values().sum(),
            refused: audit.refused_evictions.values().sum(),
            other: audit.other_evictions.values().sum(),
            max_out: audit.max_out,
        }
    }
}

/// Both sides on equal clusters.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    pub seed: u64,
    pub pods: usize,
    pub ours: Side,
    pub drains: Side,
}

/// All runs of one setting.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    pub setting: Setting,
    pub bound: Bound,
    pub runs: Vec<Run>,
}

/// Issue text of the bench: against the bound, and against the loop where budgets bind and elsewhere.
const NEAR_BOUND: f64 = 1.10;
const FASTER: f64 = 1.3;
const NOT_SLOWER: f64 = 1.0 / 1.05;

impl Outcome {
    fn median(&self, of: impl Fn(&Run) -> f64) -> f64 {
        let mut all: Vec<f64> = self.runs.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        let (low, high) = ((all.len().saturating_sub(1)) / 2, all.len() / 2);
        all.get(low).zip(all.get(high)).map_or(f64::NAN, |(a, b)| f64::midpoint(*a, *b))
    }

    fn near(&self, side: impl Fn(&Run) -> &Side) -> f64 {
        self.median(|run| side(run).makespan_s / self.bound.seconds())
    }

    fn speedup(&self) -> f64 {
        self.median(|run| run.drains.makespan_s / run.ours.makespan_s)
    }

    fn needed(&self) -> f64 {
        match self.setting {
            Setting::Bind => FASTER,
            Setting::Free => NOT_SLOWER,
        }
    }

    /// What was missed, in words; empty when nothing was.
    pub fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        let mut goal = |met: bool, words: String| {
            if !met {
                missed.push(format!("{}: {words}", self.setting.word()));
            }
        };
        let near = self.near(|run| &run.ours);
        goal(near <= NEAR_BOUND, format!("makespan / bound {near:.2}, goal {NEAR_BOUND:.2}"));
        let (speedup, needed) = (self.speedup(), self.needed());
        goal(speedup >= needed, format!("loop / ours {speedup:.2}, goal {needed:.2}"));
        for run in &self.runs {
            let ours = &run.ours;
            goal(
                ours.accepted == ours.moves,
                format!("seed {}: {} evictions, {} moves", run.seed, ours.accepted, ours.moves),
            );
            goal(ours.max_out <= SLOTS, format!("seed {}: {} out", run.seed, ours.max_out));
        }
        missed
    }

    fn rows(&self) -> String {
        let bound = self.bound.seconds();
        let row = |name: &str, of: fn(&Run) -> &Side, speedup: String| {
            let per = |count: fn(&Side) -> f64| self.median(|run| count(of(run)));
            format!(
                "| {} | {name} | {bound:.0} | {:.1} | {:.2} | {speedup} | {:.2} | {:.2} | {:.0} | {:.0} | {:.0} |\n",
                self.setting.word(),
                per(|side| side.makespan_s),
                self.near(of),
                per(|side| f64::from(side.accepted) / f64::from(side.moves.max(1))),
                self.median(|run| f64::from(of(run).moves) / run.pods.max(1) as f64),
                per(|side| f64::from(side.refused)),
                per(|side| f64::from(side.other)),
                self.runs.iter().map(|run| of(run).max_out).max().unwrap_or(0),
            )
        };
        row("evenkeel", |run| &run.ours, format!("{:.2}", self.speedup()))
            + &row("kubectl drain x 10", |run| &run.drains, String::new())
    }
}

/// The table as it stands in `docs/benchmarks.md`.
pub fn table(scale: Scale, nodes: usize, all: &[Outcome]) -> String {
    let runs = all.first().map_or(0, |outcome| outcome.runs.len());
    let mut text = format!(
        "{nodes} nodes, {SLOTS} at a time; 1 min -> {} s: reset {} s, a stateful replacement ready after {} s; \
         median of {runs}\n\n\
         | budgets | side | bound s | makespan s | / bound | loop / ours | evictions / move | moves / pod | 429 | other \
         | most out |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
        scale.minute_ms as f64 / 1000.0,
        scale.reset().as_secs_f64(),
        scale.heavy_ready().as_secs_f64(),
    );
    for outcome in all {
        text += &outcome.rows();
    }
    let missed: Vec<String> = all.iter().flat_map(Outcome::missed).collect();
    if missed.is_empty() {
        text += "\nAll goals are met.\n";
    } else {
        text += &format!("\nMissed:\n- {}\n", missed.join("\n- "));
    }
    text
}

/// The same for programs, with every run.
pub fn json(scale: Scale, nodes: usize, side_by_side: bool, all: &[Outcome]) -> Value {
    let settings = all.iter().map(|outcome| {
        json!({
            "setting": outcome.setting,
            "bound": outcome.bound,
            "runs": outcome.runs,
            "ours_over_bound": outcome.near(|run| &run.ours),
            "loop_over_bound": outcome.near(|run| &run.drains),
            "loop_over_ours": outcome.speedup(),
            "missed": outcome.missed(),
        })
    });
    json!({
        "nodes": nodes, "slots": SLOTS, "scale": scale, "side_by_side": side_by_side,
        "settings": settings.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(makespan_s: f64, max_out: usize) -> Side {
        Side { makespan_s, moves: 10, accepted: 10, refused: 0, other: 0, max_out }
    }

    fn outcome(ours: &[f64], max_out: usize) -> Outcome {
        let run = |s: &f64| Run {
            seed: 1,
            pods: 10,
            ours: side(*s, max_out),
            drains: side(150.0, SLOTS),
        };
        let bound = Bound { slots_s: 90.0, chain_s: 100.0 };
        Outcome { setting: Setting::Bind, bound, runs: ours.iter().map(run).collect() }
    }

    #[test]
    fn the_median_of_the_runs_is_judged() {
        let good = outcome(&[200.0, 105.0, 101.0], SLOTS);
        assert_eq!(good.missed(), Vec::<String>::new());
        assert!((good.near(|run| &run.ours) - 1.05).abs() < 1e-9);
        assert_eq!(outcome(&[130.0], SLOTS).missed().len(), 2);
    }

    #[test]
    fn one_node_too_many_in_one_run_is_a_miss() {
        assert_eq!(outcome(&[105.0], SLOTS + 1).missed().len(), 1);
    }
}
