//! Small JSON files that are whole or absent, also after a crash.

use super::output::absent_ok;
use evenkeel_engine::ids::JobId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Reads a file; `None` if there is none.
pub(super) async fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match absent_ok(tokio::fs::read(path).await)? {
        Some(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::other),
        None => Ok(None),
    }
}

/// Replaces a file. Its directory is made if need be; both are for the server alone.
pub(super) async fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let bytes = serde_json::to_vec(value).map_err(io::Error::other)?;
    let path = path.to_owned();
    let written = tokio::task::spawn_blocking(move || {
        let dir = path.parent().unwrap_or(Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let new = path.with_added_extension("new");
        let mut options = OpenOptions::new();
        let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(&new)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(dir)?.sync_all()
    });
    written.await.map_err(io::Error::other)?
}

/// Removes the files of a job: those whose names begin with it.
pub(super) async fn forget(dir: &Path, job: &JobId) -> io::Result<()> {
    let Some(mut entries) = absent_ok(tokio::fs::read_dir(dir).await)? else {
        return Ok(());
    };
    let prefix = format!("{job}.");
    while let Some(entry) = entries.next_entry().await? {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            absent_ok(tokio::fs::remove_file(entry.path()).await)?;
        }
    }
    Ok(())
}
