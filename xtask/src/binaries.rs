//! The product's binaries, as the end-to-end tests and packages need them.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::paths::{target_dir, workspace_root};
use crate::run::passed;

/// Cold, on two busy cores: three minutes for the server in the dev profile, less for the host binary.
const BUILD_LIMIT: Duration = Duration::from_mins(15);
/// One static binary, TLS of its agent included, has to fit through a slow link in the time of an upload.
const NODE_BINARY_MAX: u64 = 6 * 1024 * 1024;
/// The build machine's own target: static linking works there without another toolchain.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds `evenkeel-node`, static and stripped; returns its path.
pub fn node_binary() -> Result<PathBuf> {
    let root = workspace_root();
    let target = target_dir().join("node");
    let mut build = Command::new("cargo");
    build
        .args(["build", "-p", "evenkeel-node", "--profile", "node", "--target", TARGET])
        .arg("--target-dir")
        .arg(&target)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .current_dir(&root);
    ensure!(passed(&mut build, BUILD_LIMIT)?, "evenkeel-node could not be built");
    let path = target.join(TARGET).join("node/evenkeel-node");
    let size = std::fs::metadata(&path).context("evenkeel-node is not there")?.len();
    ensure!(
        size <= NODE_BINARY_MAX,
        "evenkeel-node has {size} bytes, the limit is {NODE_BINARY_MAX}"
    );
    Ok(path)
}

/// Builds `evenkeel` with the points at which a test may kill it; returns its path.
pub fn server_for_tests() -> Result<PathBuf> {
    let root = workspace_root();
    let mut build = Command::new("cargo");
    build
        .args(["build", "--workspace", "--bin", "evenkeel", "--features", "evenkeel/crash-points"])
        .current_dir(&root);
    ensure!(passed(&mut build, BUILD_LIMIT)?, "evenkeel could not be built");
    Ok(target_dir().join("debug/evenkeel"))
}

/// Builds this tool; returns its path. The running program's own path is no use to a test: an
/// earlier step may have built it anew, and then the kernel calls the old file deleted.
pub fn xtask() -> Result<PathBuf> {
    let mut build = Command::new("cargo");
    build.args(["build", "--workspace", "--bin", "xtask"]).current_dir(workspace_root());
    ensure!(passed(&mut build, BUILD_LIMIT)?, "xtask could not be built");
    Ok(target_dir().join("debug/xtask"))
}
