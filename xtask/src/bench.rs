//! Benchmarks, one command each. What they measure, and the figures, are in `docs/benchmarks.md`.

pub mod kwok;
mod plan;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

pub use plan::run as plan;

use crate::run::output;
use crate::suite;

/// Eleven settings of ten seeds with 10,000 restarts each, and the build, on two slow cores.
const ROLLOUT_LIMIT: Duration = Duration::from_mins(30);

/// Plays rollouts with the real engine on virtual time; returns the table. The figures go to `target/bench`.
pub fn rollout_sim(root: &Path, seeds: u32, restarts: u32) -> Result<String> {
    ensure!(seeds > 0 && restarts > 0, "at least one seed and one restart are needed");
    let out = root.join("target/bench");
    std::fs::create_dir_all(&out)?;
    let mut command = Command::new(env!("CARGO"));
    command
        .current_dir(root)
        .args(["run", "--quiet", "--release", "-p", "evenkeel-sim", "--example", "rollout", "--"])
        .arg(root.join("crates/sim/scenarios/rollout.json"))
        .arg(out.join("rollout-sim.json"))
        .args([seeds.to_string(), restarts.to_string()]);
    output(&mut command, ROLLOUT_LIMIT)
}

/// Resets whose scripts do nothing, and the same commands sent by plain ssh, in one run; prints the figures.
pub fn reset(root: &Path) -> Result<String> {
    if !suite::pytest(root, "tests/soak/test_reset.py")? {
        bail!("it costs more than it may, or failed; see above");
    }
    Ok(String::new())
}
