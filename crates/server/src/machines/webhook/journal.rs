//! The file that remembers a piece of work: when it was first asked for, where to ask, and how it ended.
//!
//! Entry point: [`Journal`]. Every change is durable before anything follows from it.

use crate::machines::durable;
use evenkeel_node::protocol::OrderId;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io;
use std::path::{Path, PathBuf};

/// What is remembered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Wall clock, ms since the epoch.
    pub(super) begun_ms: i64,
    /// Where to ask; absent: the hook's own URL, with the same key.
    #[serde(default)]
    pub(super) poll: Option<String>,
    /// How it ended.
    #[serde(default)]
    pub(super) end: Option<End>,
}

/// How a piece of work ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct End {
    /// Why it failed; absent: it did not.
    pub(super) failed: Option<String>,
    /// What the service printed.
    pub(super) output: String,
    /// The last document that it sent.
    pub(super) document: Option<Value>,
}

/// The file of one order.
pub(super) struct Journal {
    path: PathBuf,
}

impl Journal {
    pub(super) fn new(dir: &Path, id: &OrderId) -> Self {
        Self { path: dir.join(id.to_string()) }
    }

    /// What is known; says durably that the work is about to be asked for where nothing is.
    pub(super) async fn begun(&self, now_ms: i64) -> io::Result<Kept> {
        if let Some(kept) = durable::read(&self.path).await? {
            return Ok(kept);
        }
        let kept = Kept { begun_ms: now_ms, poll: None, end: None };
        durable::write(&self.path, &kept).await?;
        Ok(kept)
    }

    pub(super) async fn poll(&self, kept: &mut Kept, poll: Option<String>) -> io::Result<()> {
        kept.poll = poll;
        durable::write(&self.path, kept).await
    }

    pub(super) async fn end(&self, kept: &mut Kept, end: End) -> io::Result<()> {
        kept.end = Some(end);
        durable::write(&self.path, kept).await
    }
}
