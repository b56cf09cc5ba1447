//! Durable state in etcd's data model: revisioned keys, transactions with compares, watches, leases.
//!
//! Entry point: [`Store`], implemented by [`memory::MemoryStore`] (tests and simulator) and
//! [`sqlite::SqliteStore`] (the default of a server). Both pass one suite
//! (`tests/store_conformance.rs`), as any further backend has to.
//! Absent on purpose: knowledge of what is stored (callers choose keys and encode values), range
//! reads other than by prefix, and retries (a caller knows whether its write may be repeated).

mod error;
pub mod memory;
pub mod sqlite;
mod tail;
mod txn;
mod types;

use std::time::Duration;

use async_trait::async_trait;

pub use error::StoreError;
pub use txn::{Compare, MAX_KEY_BYTES, MAX_TXN_BYTES, MAX_TXN_OPS, MAX_VALUE_BYTES, Op, Txn};
pub use types::{
    Batch, Event, KeyValue, LeaseId, Listing, Page, Revision, TxnResult, Watch, WatchSource,
};

/// The store of a control plane. One revision counter for all keys: every transaction that
/// changes something takes the next revision, starting with 1; an empty store is at revision 0.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Reads one key, now or as it was right after revision `at`.
    ///
    /// Errors: [`StoreError::Compacted`] and [`StoreError::FutureRevision`] for an `at` outside
    /// of what is kept.
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<Option<KeyValue>, StoreError>;

    /// Lists the keys under `prefix` in the order of their bytes. For pages that belong together
    /// pass the `revision` of the first page as `at` of the following ones.
    async fn list(&self, prefix: &str, page: Page) -> Result<Listing, StoreError>;

    /// Runs `then` if all compares hold, else `otherwise`; all of it or nothing.
    ///
    /// Durable when it returns `Ok`. After an error with
    /// [`may_have_applied`](StoreError::may_have_applied) the caller must read before it repeats.
    /// A transaction that changes nothing takes no revision.
    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError>;

    /// Follows all changes under `prefix` from revision `from` on (`from` included), in order and
    /// without gaps. After a [`Listing`] of revision r pass r + 1.
    ///
    /// Errors: [`StoreError::Compacted`] if `from` lies before the last compaction; the caller
    /// then lists again. A watch that falls behind a compaction ends with the same error.
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError>;

    /// Grants a lease; `ttl` is rounded up to whole seconds, at least one (etcd's unit).
    /// When it expires, by the store's clock, its keys are deleted in one revision. A store that
    /// was reopened gives every lease its full time again.
    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Gives a lease its full time again. Errors: [`StoreError::LeaseNotFound`] once expired.
    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends a lease and deletes its keys in one revision.
    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Forgets what was superseded before `revision`: reads at, and watches from, an earlier
    /// revision are refused afterwards. Compacting to an earlier point again does nothing.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;

    /// The revision of the last change.
    async fn revision(&self) -> Result<Revision, StoreError>;
}
