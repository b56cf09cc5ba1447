//! The file that remembers a reinstallation: `reimages/<order>`.
//!
//! Entry point: [`Journal`]. Each stage is durable before anything follows from it; none is ever taken back.

use super::announced::Announced;
use crate::machines::durable;
use crate::records::Reinstalled;
use evenkeel_node::protocol::OrderId;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// How far it is. Times: wall clock, ms since the epoch.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "kebab-case")]
pub(super) enum At {
    /// The hook runs, or is about to. The machine's disk is no longer what it was.
    Begun,
    /// The hook ended well.
    Announced { at_ms: i64, announced: Announced },
    /// Its key is in the store.
    Pinned { at_ms: i64, announced: Announced },
    /// The machine answered with that key.
    Back { now: Reinstalled },
    /// It will not get further in this attempt.
    Failed { reason: String },
}

/// The file of one order.
pub(super) struct Journal {
    dir: PathBuf,
    id: OrderId,
}

impl Journal {
    pub(super) fn new(dir: &Path, id: &OrderId) -> Self {
        Self { dir: dir.to_owned(), id: id.clone() }
    }

    pub(super) async fn load(&self) -> io::Result<Option<At>> {
        durable::read(&self.dir.join(self.id.to_string())).await
    }

    pub(super) async fn store(&self, at: &At) -> io::Result<()> {
        durable::write(&self.dir.join(self.id.to_string()), at).await
    }

    /// Whether an earlier attempt of this job began on this node.
    pub(super) fn any_before(&self) -> io::Result<bool> {
        for attempt in 1..self.id.attempt() {
            let id = OrderId::new(self.id.job(), self.id.node(), attempt, self.id.stage());
            let id = id.map_err(io::Error::other)?;
            if self.dir.join(id.to_string()).try_exists()? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
