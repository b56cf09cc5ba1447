//! The other side: what people run in a shell, k workers that drain, reset and uncordon.

use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use super::kubelets::Kubelets;
use super::{SLOTS, scene};
use crate::run;
use crate::testbed::Testbed;

/// For the commands that wait for nothing.
const CALL_LIMIT: Duration = Duration::from_mins(1);

/// Rolls all nodes by name; how long it took until the last one was open again.
pub fn roll(bed: &Testbed, nodes: usize, kubelets: &Kubelets, limit: Duration) -> Result<Duration> {
    let queue = Mutex::new((0..nodes).map(scene::node));
    let next = || queue.lock().map_err(|_| anyhow!("a worker panicked")).map(|mut q| q.next());
    let begun = Instant::now();
    let work = || -> Result<()> {
        while let Some(node) = next()? {
            let left = limit.saturating_sub(begun.elapsed());
            ensure!(!left.is_zero(), "the loop took longer than {} s", limit.as_secs());
            one(bed, &node, kubelets, left).with_context(|| format!("node {node}"))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..SLOTS).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|w| w.join().map_err(|_| anyhow!("a worker panicked"))?)
    })?;
    Ok(begun.elapsed())
}

fn one(bed: &Testbed, node: &str, kubelets: &Kubelets, limit: Duration) -> Result<()> {
    let kubectl = || {
        let mut command = Command::new(&bed.kubectl);
        command.env("HOME", &bed.state_dir).arg("--kubeconfig").arg(&bed.kubeconfigs["admin"]);
        command
    };
    // The flags that everybody uses; they change nothing for the pods of this scene.
    let mut drain = kubectl();
    drain.args(["drain", node, "--ignore-daemonsets", "--delete-emptydir-data"]);
    run::output(&mut drain, limit)?;
    run::output(Command::new(&kubelets.script).env("EVENKEEL_NODE", node), limit)?;
    run::output(kubectl().args(["uncordon", node]), CALL_LIMIT).map(drop)
}
