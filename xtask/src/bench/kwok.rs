//! `bench rollout --kwok`: a rollout on a real API server, against its lower bound and against a loop of `kubectl drain`.
//!
//! Entry point: [`run`]. Every side of every run gets a cluster of its own, made from the same seed. Left out:
//! machines (a reset is a sleep) and kubelets (KWOK plays the pods, [`kubelets`] the Leases).

mod drains;
mod kubelets;
mod ours;
mod report;
mod scale;
mod scene;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use clap::ValueEnum;
use serde::Serialize;

use crate::run::note;
use crate::testbed::{self, Testbed};
use crate::{audit, binaries, paths};
use kubelets::Kubelets;
use report::{Outcome, Run, Side};
use scale::{Bound, Scale};

/// maxUnavailable, and the workers of the loop: the k of the settings of `rollout --sim`.
pub const SLOTS: usize = 10;
/// A side that takes this many times its bound is broken; the loop was measured at 1.5 to 1.9.
const HOPELESS: f64 = 4.0;
/// Beside that: starts, first looks, and one budget that the API server holds for two minutes.
const MARGIN: Duration = Duration::from_mins(3);
/// A node is never to count as dead here, however busy the machine is.
const NODE_GRACE: Duration = Duration::from_mins(10);

/// Whether the budgets of the stateful services refuse anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum Setting {
    /// One pod of each may be away.
    Bind,
    /// Half of each may be away.
    Free,
}

impl Setting {
    fn word(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Free => "free",
        }
    }
}

/// What is to be measured.
#[derive(Debug, Clone)]
pub struct Options {
    pub nodes: usize,
    pub runs: u32,
    pub minute: Duration,
    pub settings: Vec<Setting>,
    /// Both sides of a run at the same time: half the time, and each costs the other something.
    pub side_by_side: bool,
}

/// Measures; returns the table. The figures go to `target/bench`, after each run.
pub fn run(root: &Path, options: &Options) -> Result<String> {
    ensure!(options.nodes > SLOTS, "at least {} nodes are needed", SLOTS + 1);
    ensure!(options.runs > 0 && !options.minute.is_zero(), "at least one run, a minute of 1 s");
    let binary = binaries::release_server()?;
    let scale = Scale { minute_ms: options.minute.as_millis() as u64 };
    let out = root.join("target/bench");
    fs::create_dir_all(&out)?;
    let mut all: Vec<Outcome> = Vec::new();
    for setting in options.settings.iter().copied() {
        let (heavy, at_once) = (scene::heavy_replicas(options.nodes), scene::at_once(setting));
        let bound = Bound::of(scale, options.nodes, SLOTS, heavy, at_once);
        all.push(Outcome { setting, bound, runs: Vec::new() });
        for seed in 1..=u64::from(options.runs) {
            let task = Task { scale, nodes: options.nodes, setting, seed, bound, binary: &binary };
            let done = task.both(options.side_by_side)?;
            note(&format!(
                "{} seed {seed}: bound {:.0} s, evenkeel {:.1} s, loop {:.1} s",
                setting.word(),
                bound.seconds(),
                done.ours.makespan_s,
                done.drains.makespan_s
            ));
            all.last_mut().context("a setting was just added")?.runs.push(done);
            let facts = report::json(scale, options.nodes, options.side_by_side, &all);
            let text = serde_json::to_string_pretty(&facts)? + "\n";
            fs::write(out.join("rollout-kwok.json"), text)?;
        }
    }
    Ok(report::table(scale, options.nodes, &all))
}

/// One run.
#[derive(Clone, Copy)]
struct Task<'a> {
    scale: Scale,
    nodes: usize,
    setting: Setting,
    seed: u64,
    bound: Bound,
    binary: &'a Path,
}

/// Who rolls, and under which name the API server knows it.
#[derive(Clone, Copy)]
enum Actor {
    Ours,
    Drains,
}

impl Task<'_> {
    fn both(self, side_by_side: bool) -> Result<Run> {
        let ((pods, ours), (_, drains)) = if side_by_side {
            thread::scope(|scope| -> Result<_> {
                let other = scope.spawn(|| self.side(Actor::Drains));
                let ours = self.side(Actor::Ours);
                let drains = other.join().map_err(|_| anyhow!("the loop's side panicked"))?;
                Ok((ours?, drains?))
            })?
        } else if self.seed % 2 == 1 {
            (self.side(Actor::Ours)?, self.side(Actor::Drains)?)
        } else {
            // Whatever else happens on the machine is not to meet the same side always.
            let drains = self.side(Actor::Drains)?;
            (self.side(Actor::Ours)?, drains)
        };
        Ok(Run { seed: self.seed, pods, ours, drains })
    }

    /// The number of pods, and what came out.
    fn side(self, actor: Actor) -> Result<(usize, Side)> {
        let (name, user) = match actor {
            Actor::Ours => ("ours", audit::PRODUCT_USER),
            Actor::Drains => ("loop", "admin"),
        };
        let dir = paths::cache_dir().join("bench").join(name);
        // What a run that was interrupted left behind.
        testbed::down(&dir)?;
        let mut options = testbed::Options::new(&dir, 0);
        options.node_grace = NODE_GRACE;
        let bed = Bed(testbed::up(&options)?);
        let rolled = self.roll(&bed.0, actor);
        let log = bed.0.audit_log.clone();
        drop(bed);
        let (pods, took) = rolled.with_context(|| format!("{name}, in {}", dir.display()))?;
        let report = audit::judge_file(&log, user, &BTreeSet::new())?;
        ensure!(report.still_out.is_empty(), "{name} left {:?} out", report.still_out);
        ensure!(report.bare_deletes.is_empty(), "{name} deleted {:?}", report.bare_deletes);
        Ok((pods, Side::of(took.as_secs_f64(), &report)))
    }

    fn roll(self, bed: &Testbed, actor: Actor) -> Result<(usize, Duration)> {
        let pods = scene::build(bed, self.scale, self.nodes, self.setting, self.seed)?;
        let kubelets = Kubelets::start(bed, self.scale)?;
        let limit = Duration::from_secs_f64(self.bound.seconds() * HOPELESS) + MARGIN;
        let took = match actor {
            Actor::Ours => ours::roll(bed, self.scale, self.nodes, &kubelets, self.binary, limit)?,
            Actor::Drains => drains::roll(bed, self.nodes, &kubelets, limit)?,
        };
        Ok((pods, took))
    }
}

/// A bed that is ended whatever happens; its logs stay.
struct Bed(Testbed);

impl Drop for Bed {
    fn drop(&mut self) {
        let dir: &PathBuf = &self.0.state_dir;
        if let Err(error) = testbed::down(dir) {
            note(&format!("the test bed in {}: {error:#}", dir.display()));
        }
    }
}
