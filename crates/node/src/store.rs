//! The state directory: where things are, durable writes, locks and the fence.
//!
//! ```text
//! agent/                        credential of an agent, see agent/files.rs
//! bin/evenkeel-node-<sha256>    pushed by the controller
//! lock                          held while an order is accepted
//! fence.json                    highest epoch and attempts seen
//! orders/<id>/journal           see journal.rs; no secrets
//! orders/<id>/output            what the scripts wrote, bounded
//! orders/<id>/lock              held by the runner as long as it lives
//! run/<id>/<n>                  secrets of step n: script or login; deleted when the step ends
//! ```
//!
//! Deliberately absent: what any of it means.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::protocol::{OrderId, Refusal, RefusalKind, STATE_DIR, Stage};

/// Overrides [`STATE_DIR`]; for tests.
pub const STATE_ENV: &str = "EVENKEEL_NODE_STATE";

/// How long an `accept` waits for another one: longer than [`crate::accept`] waits for a runner.
const LOCK_WAIT: Duration = Duration::from_secs(15);

/// Jobs whose attempts the fence remembers. A job that is 64 jobs old is over.
const FENCED_JOBS_MAX: usize = 64;

/// Version of [`Fence`]; raised when an older binary would misread it. Such a binary refuses.
const FENCE_FORMAT: u32 = 1;

/// Written by a newer binary: reading it as an older one could let an order in that was refused.
#[derive(Debug, thiserror::Error)]
#[error(
    "a newer evenkeel-node has written it (format {written}, this one knows {known}): let the newer \
     controller do it, or update this one"
)]
struct Newer {
    written: u32,
    known: u32,
}

/// Refuses what a newer binary has written.
pub(crate) fn check_format(written: u32, known: u32) -> io::Result<()> {
    if written <= known { Ok(()) } else { Err(io::Error::other(Newer { written, known })) }
}

/// Something in the state directory could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct StoreError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl StoreError {
    pub(crate) fn new(action: &'static str, path: PathBuf, source: io::Error) -> Self {
        Self { action, path, source }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        // The answer is the end of the line for the source chain: one text for people.
        let message = format!("{error}: {}", error.source);
        let newer = error.source.get_ref().is_some_and(|source| source.is::<Newer>());
        let kind = if newer { RefusalKind::Protocol } else { RefusalKind::Storage };
        Self { kind, message }
    }
}

/// Attaches what was done to which path.
pub(crate) fn at<T>(
    action: &'static str,
    path: &Path,
    result: io::Result<T>,
) -> Result<T, StoreError> {
    result.map_err(|source| StoreError { action, path: path.to_owned(), source })
}

/// The state directory.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// At a directory that need not exist yet.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// [`STATE_DIR`], or what [`STATE_ENV`] says.
    pub fn from_env() -> Self {
        Self::new(std::env::var_os(STATE_ENV).map_or_else(|| STATE_DIR.into(), PathBuf::from))
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Pushed binaries.
    pub fn bin_dir(&self) -> PathBuf {
        self.dir.join("bin")
    }

    /// Journal, output and lock of an order.
    pub fn order_dir(&self, id: &OrderId) -> PathBuf {
        self.dir.join("orders").join(id.to_string())
    }

    /// Secrets of an order.
    pub fn run_dir(&self, id: &OrderId) -> PathBuf {
        self.dir.join("run").join(id.to_string())
    }

    /// Output of an order.
    pub fn output_path(&self, id: &OrderId) -> PathBuf {
        self.order_dir(id).join("output")
    }

    /// Lock that a runner holds as long as it lives.
    pub fn runner_lock_path(&self, id: &OrderId) -> PathBuf {
        self.order_dir(id).join("lock")
    }

    /// Ids of all orders on this host, in no meaningful order.
    pub fn orders(&self) -> Result<Vec<OrderId>, StoreError> {
        self.ids_in("orders")
    }

    /// Ids of all orders with secrets on this host.
    pub fn runs(&self) -> Result<Vec<OrderId>, StoreError> {
        self.ids_in("run")
    }

    fn ids_in(&self, name: &str) -> Result<Vec<OrderId>, StoreError> {
        let dir = self.dir.join(name);
        let listing = match fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => at("list", &dir, other)?,
        };
        let names = listing.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut ids: Vec<OrderId> = names.filter_map(|name| name.parse().ok()).collect();
        ids.sort();
        Ok(ids)
    }

    /// Removes the secrets of an order; it is no error when there are none.
    pub fn drop_secrets(&self, id: &OrderId) -> Result<(), StoreError> {
        let dir = self.run_dir(id);
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => at("remove", &dir, other),
        }
    }

    /// One `accept` at a time. Waits at most [`LOCK_WAIT`].
    pub fn lock(&self) -> Result<File, Refusal> {
        private_dir(&self.dir)?;
        let path = self.dir.join("lock");
        let file = open_lock(&path)?;
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(TryLockError::WouldBlock) => {
                    let message = "another order is being accepted on this host".to_owned();
                    return Err(Refusal { kind: RefusalKind::Busy, message });
                }
                Err(TryLockError::Error(error)) => at("lock", &path, Err(error))?,
            }
        }
    }

    /// What the fence says; an absent file is a host that has seen nothing.
    pub fn fence(&self) -> Result<Fence, StoreError> {
        let path = self.dir.join("fence.json");
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Fence::default()),
            other => {
                let bytes = at("read", &path, other)?;
                // An unreadable fence must not become an open gate.
                at("understand", &path, read_fence(&bytes))
            }
        }
    }

    /// Makes the fence durable.
    pub fn set_fence(&self, fence: &Fence) -> Result<(), StoreError> {
        let path = self.dir.join("fence.json");
        let bytes = serde_json::to_vec(fence).map_err(io::Error::other);
        write_durably(&path, &at("write", &path, bytes)?, 0o600)
    }
}

fn read_fence(bytes: &[u8]) -> io::Result<Fence> {
    #[derive(Deserialize)]
    struct Written {
        format: u32,
    }
    let Written { format } = serde_json::from_slice(bytes).map_err(io::Error::other)?;
    check_format(format, FENCE_FORMAT)?;
    serde_json::from_slice(bytes).map_err(io::Error::other)
}

/// Highest epoch and attempts this host has seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    format: u32,
    /// Highest epoch of any order.
    pub epoch: u64,
    /// The order accepted last.
    pub last: Option<OrderId>,
    /// Highest attempt and stage per job, oldest job first.
    jobs: Vec<(String, u32, Stage)>,
}

impl Default for Fence {
    fn default() -> Self {
        Self { format: FENCE_FORMAT, epoch: 0, last: None, jobs: Vec::new() }
    }
}

impl Fence {
    /// Whether an order that is *not* on this host may begin: its epoch is not old, and neither
    /// it nor a later one of its job has been here. The second half also keeps an order from
    /// running again after its journal was swept or deleted.
    pub fn admits(&self, id: &OrderId, epoch: u64) -> Result<(), String> {
        self.admits_epoch(epoch)?;
        match self.jobs.iter().find(|(job, ..)| job == id.job()) {
            Some((_, attempt, stage)) if (id.attempt(), id.stage()) <= (*attempt, *stage) => {
                Err(format!("order {id} or a later one of its job has been on this host before"))
            }
            _ => Ok(()),
        }
    }

    /// Whether a controller of this epoch may still speak.
    pub fn admits_epoch(&self, epoch: u64) -> Result<(), String> {
        if epoch < self.epoch {
            return Err(format!(
                "epoch {epoch} is older than {}: another controller has taken over",
                self.epoch
            ));
        }
        Ok(())
    }

    /// The fence after an order was accepted.
    #[must_use]
    pub fn raised(mut self, id: &OrderId, epoch: u64) -> Self {
        self.epoch = self.epoch.max(epoch);
        let known = self.jobs.iter().position(|(job, ..)| job == id.job());
        let mut highest = (id.attempt(), id.stage());
        if let Some(position) = known {
            let (_, attempt, stage) = self.jobs.remove(position);
            highest = highest.max((attempt, stage));
        }
        self.jobs.push((id.job().to_owned(), highest.0, highest.1));
        if self.jobs.len() > FENCED_JOBS_MAX {
            self.jobs.remove(0);
        }
        self.last = Some(id.clone());
        self
    }
}

/// Creates a directory and its parents, all private to root.
pub(crate) fn private_dir(dir: &Path) -> Result<(), StoreError> {
    at("create", dir, DirBuilder::new().recursive(true).mode(0o700).create(dir))
}

/// Opens or creates a lock file.
pub(crate) fn open_lock(path: &Path) -> Result<File, StoreError> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    at("open", path, options.open(path))
}

/// Temporary file, fsync, rename, fsync of the directory.
pub(crate) fn write_durably(path: &Path, bytes: &[u8], mode: u32) -> Result<(), StoreError> {
    let temporary = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true).mode(mode);
    let written = options.open(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    at("write", &temporary, written)?;
    at("replace", path, fs::rename(&temporary, path))?;
    sync_parent(path)
}

/// Makes a new name durable.
pub(crate) fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    at("sync", parent, File::open(parent).and_then(|dir| dir.sync_all()))
}
