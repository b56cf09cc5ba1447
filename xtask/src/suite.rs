//! The one command that runs all tests. A table of steps: a new kind of test is one more entry.
//!
//! Entry point: [`run`]. A step that cannot run is a failure, never left out.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::ValueEnum;

use crate::paths::workspace_root;
use crate::run::{note, passed};
use crate::{binaries, gobuild, python, testbed, tidy};

/// Steps that are run together by `--only`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Group {
    Tidy,
    Unit,
    Sim,
    Cluster,
    Hosts,
    Sdk,
}

struct Step {
    group: Group,
    what: &'static str,
    job: Job,
}

enum Job {
    /// A program with its arguments, in the workspace's root.
    Program(&'static [&'static str]),
    /// Work of this tool itself; false is a failure whose reason was printed.
    Inside(fn(&Path) -> Result<bool>),
}

// Every cargo step names the whole workspace: with one package alone, features and so all dependencies would be
// built a second time.

/// The whole test command has to end within 45 minutes on two cores; no step may use more.
const STEP_LIMIT: Duration = Duration::from_mins(45);

const STEPS: &[Step] = &[
    Step {
        group: Group::Tidy,
        what: "format",
        job: Job::Program(&["cargo", "fmt", "--all", "--check"]),
    },
    Step { group: Group::Tidy, what: "tidy", job: Job::Inside(tidy_step) },
    Step {
        group: Group::Unit,
        what: "lints",
        job: Job::Program(&[
            "cargo",
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]),
    },
    Step {
        group: Group::Unit,
        what: "tests",
        job: Job::Program(&["cargo", "test", "--workspace"]),
    },
    Step { group: Group::Sim, what: "2,000 seeds", job: Job::Inside(two_thousand_seeds) },
    Step { group: Group::Cluster, what: "build the test cluster", job: Job::Inside(build_cluster) },
    Step {
        group: Group::Cluster,
        what: "the played API server against a real one",
        job: Job::Program(&["cargo", "test", "--workspace", "--test", "differential"]),
    },
    Step { group: Group::Hosts, what: "build the test hosts", job: Job::Inside(build_hosts) },
    Step {
        group: Group::Hosts,
        what: "test bed",
        job: Job::Program(&["cargo", "test", "--workspace", "--test", "testbed"]),
    },
    Step {
        group: Group::Hosts,
        what: "test bed with real nodes",
        job: Job::Program(&[
            "cargo",
            "test",
            "--workspace",
            "--test",
            "testbed_nodes",
            "--",
            "--nocapture",
        ]),
    },
    Step {
        group: Group::Hosts,
        what: "end to end: Python SDK, real cluster, real hosts",
        job: Job::Inside(end_to_end),
    },
];

fn tidy_step(root: &Path) -> Result<bool> {
    let findings = tidy::check(root)?;
    for finding in &findings {
        note(&finding.to_string());
    }
    Ok(findings.is_empty())
}

/// What the test command plays: about three minutes on two cores.
const SEEDS: u32 = 2000;

fn two_thousand_seeds(root: &Path) -> Result<bool> {
    simulate(root, SEEDS, 1)
}

/// Optimizes the one crate in which the simulator spends its time; all dependencies are those of the other tests.
pub const OPTIMIZED: &str = "profile.dev.package.evenkeel-server.opt-level=2";

fn simulator(root: &Path, test: &str) -> Command {
    let mut cargo = Command::new("cargo");
    cargo
        .args(["test", "--workspace", "--config", OPTIMIZED, "--test", "sim", test])
        .args(["--", "--nocapture"])
        .current_dir(root);
    cargo
}

/// The simulator over many seeds, on all processors; plain `cargo test` plays a few.
pub fn simulate(root: &Path, seeds: u32, first: u32) -> Result<bool> {
    let mut test = simulator(root, "seeds");
    test.env("SIM_SEEDS", seeds.to_string()).env("SIM_FIRST", first.to_string());
    passed(&mut test, STEP_LIMIT)
}

/// Looks for the smallest part of a failing seed that fails in the same way, and prints it.
pub fn minimize(root: &Path, seed: u32) -> Result<bool> {
    let mut test = simulator(root, "minimize");
    passed(test.env("SIM_MINIMIZE", seed.to_string()), STEP_LIMIT)
}

fn build_cluster(_: &Path) -> Result<bool> {
    for module in gobuild::MODULES {
        gobuild::build(module)?;
    }
    Ok(true)
}

fn build_hosts(_: &Path) -> Result<bool> {
    testbed::base::ensure()?;
    testbed::base::ensure_node()?;
    gobuild::build("leasekeeper")?;
    gobuild::build("relay")?;
    Ok(true)
}

fn end_to_end(root: &Path) -> Result<bool> {
    pytest(root, "tests/e2e")
}

/// Tests with the unmodified SDK; they start the test bed and the server themselves.
pub fn pytest(root: &Path, tests: &str) -> Result<bool> {
    let mut pytest = Command::new(python::python_venv()?);
    pytest
        .args(["-m", "pytest", "-v", "-s", "-x", "--tb=short", "-p", "no:cacheprovider", tests])
        .env("EVENKEEL_NODE_FOREIGN", binaries::foreign_node()?)
        .env("EVENKEEL_NODE_DYNAMIC", binaries::dynamic_node()?)
        .env("EVENKEEL_NODE_BINARY", binaries::node_binary()?)
        .env("EVENKEEL_BINARY", binaries::server_for_tests()?)
        .env("EVENKEEL_XTASK", binaries::xtask()?)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(root);
    passed(&mut pytest, STEP_LIMIT)
}

/// Runs all steps, or those of one group; true when all passed.
pub fn run(only: Option<Group>) -> Result<bool> {
    let chosen: Vec<&Step> =
        STEPS.iter().filter(|step| only.is_none_or(|group| group == step.group)).collect();
    if chosen.is_empty() {
        anyhow::bail!("no step of this kind exists; xtask/src/suite.rs lists the steps");
    }
    let root = workspace_root();
    let start = Instant::now();
    let mut results = Vec::new();
    for step in chosen {
        let shown = match &step.job {
            Job::Program(words) => words.join(" "),
            Job::Inside(_) => format!("({})", step.what),
        };
        note(&format!("\n== {}: {shown}", step.what));
        let begun = Instant::now();
        let good = take(step, &root).unwrap_or_else(|error| {
            note(&format!("error: {error:#}"));
            false
        });
        results.push((step.what, good, begun.elapsed()));
    }
    note("");
    for (what, good, took) in &results {
        let word = if *good { "passed" } else { "FAILED" };
        note(&format!("{word} {:>7.1} s  {what}", took.as_secs_f64()));
    }
    note(&format!("       {:>7.1} s  in all", start.elapsed().as_secs_f64()));
    let failed = results.iter().filter(|(_, good, _)| !good).count();
    note(&format!("{} passed, {failed} failed", results.len() - failed));
    Ok(failed == 0)
}

fn take(step: &Step, root: &Path) -> Result<bool> {
    match &step.job {
        Job::Inside(job) => job(root),
        Job::Program(words) => {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]).current_dir(root);
            passed(&mut command, STEP_LIMIT)
        }
    }
}
