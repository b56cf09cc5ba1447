//! The product's binaries, as the end-to-end tests and packages need them.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::paths::{target_dir, workspace_root};
use crate::run::passed;

/// Cold, on two busy cores: three minutes for the server in the dev profile, less for the host binary.
const BUILD_LIMIT: Duration = Duration::from_mins(15);
/// The server in the release profile: half an hour cold beside a busy test suite on two cores.
const RELEASE_LIMIT: Duration = Duration::from_hours(1);
/// One static binary, TLS of its agent included, has to fit through a slow link in the time of an upload.
const NODE_BINARY_MAX: u64 = 6 * 1024 * 1024;
/// The build machine's own target: static linking works there without another toolchain.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds `evenkeel-node`, static and stripped; returns its path.
pub fn node_binary() -> Result<PathBuf> {
    let path = static_node(&[])?;
    let size = std::fs::metadata(&path).context("evenkeel-node is not there")?.len();
    ensure!(
        size <= NODE_BINARY_MAX,
        "evenkeel-node has {size} bytes, the limit is {NODE_BINARY_MAX}"
    );
    Ok(path)
}

/// Builds an `evenkeel-node` that speaks another protocol; returns its path.
pub fn foreign_node() -> Result<PathBuf> {
    let built = static_node(&["--features", "another-protocol"])?;
    // The next build of the usual one takes its name.
    let kept = built.with_file_name("evenkeel-node-foreign");
    std::fs::copy(&built, &kept).context("copy the foreign evenkeel-node")?;
    Ok(kept)
}

fn static_node(more: &[&str]) -> Result<PathBuf> {
    let target = target_dir().join("node");
    let mut build = Command::new("cargo");
    build
        .args(["build", "-p", "evenkeel-node", "--profile", "node", "--target", TARGET])
        .args(more)
        .arg("--target-dir")
        .arg(&target)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .current_dir(workspace_root());
    ensure!(passed(&mut build, BUILD_LIMIT)?, "evenkeel-node could not be built");
    Ok(target.join(TARGET).join("node/evenkeel-node"))
}

/// Builds `evenkeel` with the points at which a test may kill it; returns its path.
pub fn server_for_tests() -> Result<PathBuf> {
    debug("evenkeel", &["--features", "evenkeel/crash-points"])
}

/// Builds `evenkeel` as it is shipped; returns its path.
pub fn release_server() -> Result<PathBuf> {
    let mut build = Command::new("cargo");
    build.args(["build", "--release", "--bin", "evenkeel"]).current_dir(workspace_root());
    ensure!(passed(&mut build, RELEASE_LIMIT)?, "evenkeel could not be built");
    Ok(target_dir().join("release/evenkeel"))
}

/// Builds this tool; returns its path. The running program's own path is no use to a test: an
/// earlier step may have built it anew, and then the kernel calls the old file deleted.
pub fn xtask() -> Result<PathBuf> {
    debug("xtask", &[])
}

/// Builds the host binary as `cargo test` does: linked dynamically, for hosts whose clock a library sets.
pub fn dynamic_node() -> Result<PathBuf> {
    debug("evenkeel-node", &[])
}

fn debug(name: &str, more: &[&str]) -> Result<PathBuf> {
    let mut build = Command::new("cargo");
    build.args(["build", "--workspace", "--bin", name]).args(more).current_dir(workspace_root());
    ensure!(passed(&mut build, BUILD_LIMIT)?, "{name} could not be built");
    Ok(target_dir().join("debug").join(name))
}
