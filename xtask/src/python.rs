//! The Python environment of the SDK tests, made once into the cache from pinned requirements.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::paths::{cache_dir, workspace_root};
use crate::run::{note, output};

/// Making the environment and fetching the SDK took 20 s on two cores; slow networks get more.
const LIMIT: Duration = Duration::from_mins(10);

/// The interpreter of an environment that holds `tests/e2e/requirements.txt`.
pub fn python_venv() -> Result<PathBuf> {
    let wanted = workspace_root().join("tests/e2e/requirements.txt");
    let text = fs::read(&wanted).with_context(|| format!("read {}", wanted.display()))?;
    let key = hex::encode(Sha256::digest(&text));
    let dir = cache_dir().join("python").join(&key[..16]);
    let python = dir.join("bin/python");
    // Written last, so that a broken attempt is seen and made again.
    let done = dir.join("complete");
    if done.exists() {
        return Ok(python);
    }
    note(&format!("making the Python environment {}", dir.display()));
    if dir.exists() {
        fs::remove_dir_all(&dir).context("remove the unfinished environment")?;
    }
    let mut make = Command::new("python3");
    make.args(["-m", "venv"]).arg(&dir);
    output(&mut make, LIMIT).context("python3 with venv is needed (apt install python3-venv)")?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]).arg(&wanted);
    output(&mut pip, LIMIT)?;
    fs::write(&done, "").context("mark the environment as complete")?;
    Ok(python)
}
