//! Which orders hosts have accepted: `orders/<order>` in the data directory, one empty file each.
//!
//! Entry point: [`Given`]. A host that does not know such an order any more has lost its journal: giving the
//! order again would run it twice, also after a restart of the controller.

use super::durable;
use evenkeel_engine::ids::JobId;
use evenkeel_node::protocol::OrderId;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// See the module.
pub(super) struct Given {
    dir: PathBuf,
    /// What could not be written, or is not looked up again.
    here: Mutex<BTreeSet<OrderId>>,
}

impl Given {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, here: Mutex::default() }
    }

    fn here(&self) -> MutexGuard<'_, BTreeSet<OrderId>> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a host has accepted this order.
    pub(super) fn holds(&self, id: &OrderId) -> bool {
        self.here().contains(id) || self.dir.join(id.to_string()).exists()
    }

    /// Remembers that it has, durably where that is possible: the order runs already.
    pub(super) async fn note(&self, id: &OrderId) {
        if !self.here().insert(id.clone()) {
            return;
        }
        let (dir, path) = (self.dir.clone(), self.dir.join(id.to_string()));
        let noted = tokio::task::spawn_blocking(move || create(&dir, &path)).await;
        if let Err(error) = noted.map_err(io::Error::other).and_then(|done| done) {
            tracing::warn!(order = %id, %error, "that a host has this order is not on the disk");
        }
    }

    /// Removes what is kept of a job.
    pub(super) async fn forget(&self, job: &JobId) -> io::Result<()> {
        self.here().retain(|id| id.job() != job.as_str());
        durable::forget(&self.dir, job).await
    }
}

fn create(dir: &Path, path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    options.open(path)?.sync_all()?;
    File::open(dir)?.sync_all()
}
