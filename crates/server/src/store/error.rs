//! What a store can answer besides a result, and what a caller may do about it.

use super::types::{LeaseId, Revision};

/// Errors of a store. The source, where there is one, is not repeated in the message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The revision asked for was compacted away; list again and continue from there.
    #[error("revision {requested} was compacted; the oldest one kept is {compact_revision}")]
    Compacted {
        /// What the caller asked for.
        requested: Revision,
        /// The oldest revision that can still be read or watched.
        compact_revision: Revision,
    },
    /// The revision asked for does not exist yet.
    #[error("revision {requested} lies in the future; the store is at {revision}")]
    FutureRevision {
        /// What the caller asked for.
        requested: Revision,
        /// The store's revision.
        revision: Revision,
    },
    /// A key, a value or a whole transaction is over its limit.
    #[error("{what} has {size}, the limit is {limit}")]
    TooLarge {
        /// What is too large, with its key where it has one.
        what: String,
        /// Bytes or operations found.
        size: usize,
        /// Bytes or operations allowed.
        limit: usize,
    },
    /// The request contradicts itself or uses a key that cannot be stored.
    #[error("invalid request to the store: {0}")]
    Invalid(String),
    /// The lease expired, was revoked or never existed.
    #[error("lease {0} does not exist (any more)")]
    LeaseNotFound(LeaseId),
    /// No space left. Nothing of the transaction was stored; it may be repeated later.
    #[error("the store has no space left; free disk space, then repeat the request")]
    Full,
    /// What is on disk is not what was written.
    #[error("the store is damaged: {detail}; restore the last backup")]
    Corrupt {
        /// Which check failed.
        detail: String,
    },
    /// The store was shut down, or closed itself after an error that left its disk in doubt.
    #[error("the store is closed")]
    Closed,
    /// The store cannot be opened here. The message names the way out.
    #[error("cannot open the store {path}: {reason}")]
    Refused {
        /// The file.
        path: String,
        /// Why, and what to do.
        reason: String,
    },
    /// May succeed when repeated. Nothing was stored unless `in_doubt`.
    #[error("the store failed for the moment while {during}")]
    Transient {
        /// What was attempted.
        during: &'static str,
        /// Whether the change may have been stored all the same.
        in_doubt: bool,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Will fail again when repeated.
    #[error("the store failed while {during}")]
    Permanent {
        /// What was attempted.
        during: &'static str,
        /// Whether the change may have been stored all the same.
        in_doubt: bool,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StoreError {
    /// Whether the same request may succeed later without anybody changing it. Disk full counts:
    /// it ends when space is freed.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Transient { .. } | Self::Full)
    }

    /// Whether the answer was lost on the way: the change may be stored or not, so that the
    /// caller has to read before it repeats.
    pub fn may_have_applied(&self) -> bool {
        match self {
            Self::Transient { in_doubt, .. } | Self::Permanent { in_doubt, .. } => *in_doubt,
            Self::Closed => true,
            _ => false,
        }
    }
}
