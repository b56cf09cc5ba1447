//! One control group per node, in every hierarchy that this machine has: a node's processes are
//! found and killed through it, and its kubelet makes the pods' groups below it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::run::{self, wait_for};

/// A group that is empty can be removed within milliseconds.
const REMOVE_LIMIT: Duration = Duration::from_secs(30);
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// The group of one node, by its name directly below each hierarchy's root.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cgroup {
    name: String,
}

impl Cgroup {
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    fn dirs(&self) -> Result<Vec<PathBuf>> {
        let found = hierarchies()?;
        Ok(found.into_iter().map(|dir| dir.join(&self.name)).collect())
    }

    /// Makes the group everywhere; its directories, for a process to enter.
    pub fn make(&self) -> Result<Vec<PathBuf>> {
        let dirs = self.dirs()?;
        for dir in &dirs {
            fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
            // cpuset of cgroup v1: nothing may enter before both are set.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let parent = dir.with_file_name(file);
                if parent.exists() && dir.join("cgroup.clone_children").exists() {
                    fs::write(dir.join(file), fs::read(&parent)?)
                        .with_context(|| format!("{file} of {}", dir.display()))?;
                    fs::write(dir.join("cgroup.clone_children"), "1")?;
                }
            }
        }
        Ok(dirs)
    }

    /// Every process in the group and below.
    pub fn processes(&self) -> Result<Vec<u32>> {
        let mut found = Vec::new();
        for dir in self.dirs()? {
            list(&dir, &mut found);
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// Kills what is in the group until nothing is.
    pub fn kill(&self, limit: Duration) -> Result<()> {
        let what = format!("the processes of {} to end", self.name);
        wait_for(&what, limit, || {
            let found = self.processes()?;
            if found.is_empty() {
                return Ok(Some(()));
            }
            let ids = found.iter().map(u32::to_string);
            // Some end by themselves in between, with their parents.
            let _ = run::output(Command::new("kill").arg("-KILL").args(ids), KILL_LIMIT);
            Ok(None)
        })
    }

    /// Removes the empty group and all below it.
    pub fn remove(&self) -> Result<()> {
        for dir in self.dirs()? {
            let what = format!("{} to be removable", dir.display());
            wait_for(&what, REMOVE_LIMIT, || {
                if dir.exists() {
                    remove_tree(&dir)?;
                }
                Ok(Some(()))
            })?;
        }
        Ok(())
    }
}

/// Kills and removes every group whose name begins with `prefix`.
pub fn remove_all(prefix: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        for entry in fs::read_dir(&hierarchy)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(prefix) && entry.path().is_dir() {
                let group = Cgroup { name };
                group.kill(REMOVE_LIMIT)?;
                group.remove()?;
            }
        }
    }
    Ok(())
}

/// Where control groups are mounted: one place on a machine with cgroup v2, several otherwise.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read the mounts")?;
    let groups = mounts.lines().filter_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let place = words.get(1)?;
        matches!(words.get(2), Some(&("cgroup" | "cgroup2"))).then(|| PathBuf::from(place))
    });
    Ok(groups.collect())
}

fn list(dir: &Path, found: &mut Vec<u32>) {
    // A group that is gone by now holds nothing.
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    for child in subgroups(dir) {
        list(&child, found);
    }
}

fn remove_tree(dir: &Path) -> Result<()> {
    for child in subgroups(dir) {
        remove_tree(&child)?;
    }
    fs::remove_dir(dir).with_context(|| format!("remove {}", dir.display()))
}

fn subgroups(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| path.is_dir()).collect()
}
