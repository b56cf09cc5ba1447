//! The values that cross the [`Store`](super::Store) trait, apart from transactions.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;

use super::StoreError;

/// Number of a change; grows by one with each transaction that changes something.
pub type Revision = u64;

/// Names a lease. Never used twice in one store.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One key as it was after `mod_revision`.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: String,
    /// The value; may hold sealed secrets, so that `Debug` shows its length only.
    pub value: Bytes,
    /// Revision that created the key; a new one after a delete. Serves as a fencing token.
    pub create_revision: Revision,
    /// Revision of the last put.
    pub mod_revision: Revision,
    /// Puts since creation, starting with 1.
    pub version: u64,
    /// The lease the key dies with.
    pub lease: Option<LeaseId>,
}

impl fmt::Debug for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyValue")
            .field("key", &self.key)
            .field("value", &format_args!("{} bytes", self.value.len()))
            .field("create_revision", &self.create_revision)
            .field("mod_revision", &self.mod_revision)
            .field("version", &self.version)
            .field("lease", &self.lease)
            .finish()
    }
}

/// What a transaction did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnResult {
    /// Whether the compares held.
    pub succeeded: bool,
    /// The store's revision after the transaction; that of its writes if it wrote.
    pub revision: Revision,
    /// One entry per [`Op::Get`] of the branch that ran, in order.
    pub reads: Vec<Option<KeyValue>>,
}

/// Which part of a listing is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Start behind this key.
    pub after: Option<String>,
    /// At most this many items.
    pub limit: usize,
    /// List what was there right after this revision instead of now.
    pub at: Option<Revision>,
}

impl Page {
    /// Everything in one page.
    pub fn all() -> Self {
        Self { after: None, limit: usize::MAX, at: None }
    }

    /// The first `limit` items.
    pub fn first(limit: usize) -> Self {
        Self { after: None, limit, at: None }
    }
}

impl Default for Page {
    fn default() -> Self {
        Self::all()
    }
}

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The items in the order of their keys.
    pub items: Vec<KeyValue>,
    /// The revision the listing shows.
    pub revision: Revision,
    /// Whether items remain behind the last one.
    pub more: bool,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The key was stored.
    Put(KeyValue),
    /// The key was removed.
    Delete {
        /// The key.
        key: String,
    },
}

impl Event {
    /// The key that changed.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(kv) => &kv.key,
            Self::Delete { key } => key,
        }
    }
}

/// All changes of one transaction under the watched prefix; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The revision of the transaction.
    pub revision: Revision,
    /// Its changes in the order of its steps.
    pub events: Vec<Event>,
}

/// What a backend implements to feed a [`Watch`].
#[async_trait]
pub trait WatchSource: Send {
    /// Waits for the next batch. Must be cancel-safe.
    async fn next(&mut self) -> Result<Batch, StoreError>;
}

/// A running watch. Dropping it ends it.
pub struct Watch {
    source: Box<dyn WatchSource>,
}

impl Watch {
    /// Wraps a backend's source.
    pub fn new(source: impl WatchSource + 'static) -> Self {
        Self { source: Box::new(source) }
    }

    /// Waits for the next batch; cancel-safe. After an error the watch is of no further use.
    pub async fn next(&mut self) -> Result<Batch, StoreError> {
        self.source.next().await
    }

    /// The watch as a stream that ends after its first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Batch, StoreError>> + Send {
        futures::stream::unfold(Some(self), |watch| async {
            let mut watch = watch?;
            match watch.next().await {
                Ok(batch) => Some((Ok(batch), Some(watch))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

/// Rounds a lease's time up to whole seconds, at least one.
pub(super) fn lease_ttl(ttl: std::time::Duration) -> std::time::Duration {
    let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    std::time::Duration::from_secs(seconds.max(1))
}

/// Whether `at` can be read in a store that keeps `compacted..=revision`.
pub(super) fn check_readable(
    at: Option<Revision>,
    compacted: Revision,
    revision: Revision,
) -> Result<Revision, StoreError> {
    match at {
        None => Ok(revision),
        Some(requested) if requested < compacted => {
            Err(StoreError::Compacted { requested, compact_revision: compacted })
        }
        Some(requested) if requested > revision => {
            Err(StoreError::FutureRevision { requested, revision })
        }
        Some(requested) => Ok(requested),
    }
}
