//! Which crate may depend on which.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Finding;
use crate::run::output;

/// What a crate may use. Crates of others are free unless a list stands here.
struct Wall {
    name: &'static str,
    ours: &'static [&'static str],
    /// Only these crates of others, when given. Crates for tests are free.
    others: Option<&'static [&'static str]>,
    never: &'static [&'static str],
    /// Ours that only its tests may use.
    ours_in_tests: &'static [&'static str],
}

const RUNTIMES: &[&str] = &["tokio", "kube", "k8s-openapi", "axum", "hyper", "russh", "reqwest"];

const fn wall(name: &'static str, ours: &'static [&'static str]) -> Wall {
    Wall { name, ours, others: None, never: &[], ours_in_tests: &[] }
}

const WALLS: &[Wall] = &[
    Wall { never: RUNTIMES, ..wall("evenkeel-api", &[]) },
    Wall { others: Some(&["serde", "thiserror"]), ..wall("evenkeel-engine", &[]) },
    Wall { never: RUNTIMES, ..wall("evenkeel-node", &[]) },
    Wall {
        ours_in_tests: &["evenkeel-sim"],
        ..wall("evenkeel-server", &["evenkeel-api", "evenkeel-engine", "evenkeel-node"])
    },
    wall("evenkeel-sim", &["evenkeel-engine"]),
    wall("evenkeel-rehearse", &["evenkeel-engine", "evenkeel-sim", "evenkeel-node"]),
    wall("evenkeel-cli", &["evenkeel-api"]),
    wall(
        "evenkeel",
        &["evenkeel-server", "evenkeel-cli", "evenkeel-rehearse", "evenkeel-sim", "evenkeel-api"],
    ),
    wall("xtask", &[]),
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
pub(super) struct Package {
    name: String,
    manifest_path: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
    path: Option<String>,
}

/// Checks the direct dependencies of all members.
pub fn check(root: &Path) -> Result<Vec<Finding>> {
    let mut cargo = Command::new("cargo");
    cargo.args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(root);
    let text = output(&mut cargo, Duration::from_mins(1))?;
    let metadata: Metadata = serde_json::from_str(&text).context("read cargo's metadata")?;
    let mut findings = judge(&metadata.packages);
    for finding in &mut findings {
        let manifest = Path::new(&finding.path);
        let shown = manifest.strip_prefix(root).unwrap_or(manifest).display().to_string();
        finding.path = shown;
    }
    Ok(findings)
}

pub(super) fn judge(packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages {
        let Some(wall) = WALLS.iter().find(|wall| wall.name == package.name) else {
            findings.push(Finding::new(
                &package.manifest_path,
                1,
                format!("the crate {} has no wall", package.name),
                "say what it may depend on in xtask/src/tidy/edges.rs",
            ));
            continue;
        };
        let broken = package.dependencies.iter().filter(|wanted| !allowed(wall, wanted));
        findings.extend(broken.map(|wanted| {
            Finding::new(
                &package.manifest_path,
                1,
                format!("{} depends on {}", package.name, wanted.name),
                "move the code to the crate that may, or change the wall in xtask/src/tidy/edges.rs",
            )
        }));
    }
    findings
}

fn allowed(wall: &Wall, wanted: &Dependency) -> bool {
    let name = wanted.name.as_str();
    let for_tests = wanted.kind.as_deref() == Some("dev");
    if wanted.path.is_some() {
        return wall.ours.contains(&name) || (for_tests && wall.ours_in_tests.contains(&name));
    }
    for_tests
        || (!wall.never.contains(&name) && wall.others.is_none_or(|only| only.contains(&name)))
}
