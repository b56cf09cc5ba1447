//! A watch over a backend that keeps its log: read on from the last revision seen, else wait.
//!
//! The log is the only source of events, so that a slow reader misses nothing; the notification
//! only says that looking again is worth while.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Batch, Revision, StoreError, WatchSource};

/// Batches read from a log at once: bounds the memory of a reader that is far behind.
pub(super) const TAIL_BATCHES: usize = 64;

/// What was found in the log.
pub(super) struct TailRead {
    pub batches: Vec<Batch>,
    /// Where to read on.
    pub next: Revision,
}

/// A log that can be read from any revision kept.
#[async_trait]
pub(super) trait Tail: Send + Sync + 'static {
    /// Up to [`TAIL_BATCHES`] batches under `prefix` from revision `from` on.
    async fn read_tail(&self, prefix: &str, from: Revision) -> Result<TailRead, StoreError>;

    /// When to look again without a notification (a lease that nobody's thread ends).
    fn wake_at(&self) -> Option<Instant>;
}

pub(super) struct TailWatch<T> {
    tail: Arc<T>,
    changed: watch::Receiver<Revision>,
    prefix: String,
    next: Revision,
    ready: VecDeque<Batch>,
}

impl<T: Tail> TailWatch<T> {
    /// Starts at `from`; fails at once if it was compacted.
    pub async fn start(
        tail: Arc<T>,
        changed: watch::Receiver<Revision>,
        prefix: &str,
        from: Revision,
    ) -> Result<Self, StoreError> {
        let mut this =
            Self { tail, changed, prefix: prefix.to_owned(), next: from, ready: VecDeque::new() };
        this.fill().await?;
        Ok(this)
    }

    async fn fill(&mut self) -> Result<(), StoreError> {
        self.changed.mark_unchanged();
        let read = self.tail.read_tail(&self.prefix, self.next).await?;
        self.next = read.next;
        self.ready.extend(read.batches);
        Ok(())
    }
}

#[async_trait]
impl<T: Tail> WatchSource for TailWatch<T> {
    async fn next(&mut self) -> Result<Batch, StoreError> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(batch);
            }
            let before = self.next;
            self.fill().await?;
            if !self.ready.is_empty() || self.next > before {
                continue;
            }
            let closed = match self.tail.wake_at() {
                Some(at) => tokio::select! {
                    // In a fixed order: the simulator plays a seed twice and wants the same run.
                    biased;
                    changed = self.changed.changed() => changed.is_err(),
                    () = tokio::time::sleep_until(at) => false,
                },
                None => self.changed.changed().await.is_err(),
            };
            if closed {
                return Err(StoreError::Closed);
            }
        }
    }
}
