//! The values that cross the [`Store`](super::Store) trait, and the limits all backends share.

use std::collections::BTreeSet;
use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;

use super::StoreError;

/// Operations, and compares, in one transaction: etcd's default of `--max-txn-ops`.
pub const MAX_TXN_OPS: usize = 128;
/// Bytes of one value: 1 MiB, so that one value always fits into a transaction.
pub const MAX_VALUE_BYTES: usize = 1024 * 1024;
/// Bytes of keys and values in one transaction: etcd's default of `--max-request-bytes` (1.5 MiB).
pub const MAX_TXN_BYTES: usize = 1536 * 1024;
/// Bytes of one key: far above what ids and kinds add up to, small enough for an index page.
pub const MAX_KEY_BYTES: usize = 1024;

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

/// A condition of a transaction.
#[derive(Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Absent(String),
    /// The key was last put in this revision.
    ModRevision(String, Revision),
    /// The key was created in this revision.
    CreateRevision(String, Revision),
    /// The key has this value.
    Value(String, Bytes),
}

impl Compare {
    pub(super) fn key(&self) -> &str {
        match self {
            Self::Absent(key)
            | Self::ModRevision(key, _)
            | Self::CreateRevision(key, _)
            | Self::Value(key, _) => key,
        }
    }

    /// Whether the condition holds for what is stored under its key.
    pub fn holds(&self, current: Option<&KeyValue>) -> bool {
        match self {
            Self::Absent(_) => current.is_none(),
            Self::ModRevision(_, revision) => {
                current.is_some_and(|kv| kv.mod_revision == *revision)
            }
            Self::CreateRevision(_, revision) => {
                current.is_some_and(|kv| kv.create_revision == *revision)
            }
            Self::Value(_, value) => current.is_some_and(|kv| kv.value == *value),
        }
    }
}

impl fmt::Debug for Compare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(key) => write!(f, "Absent({key})"),
            Self::ModRevision(key, revision) => write!(f, "ModRevision({key}, {revision})"),
            Self::CreateRevision(key, revision) => write!(f, "CreateRevision({key}, {revision})"),
            Self::Value(key, value) => write!(f, "Value({key}, {} bytes)", value.len()),
        }
    }
}

/// One step of a transaction. Steps run in order and see what earlier ones did.
#[derive(Clone, PartialEq, Eq)]
pub enum Op {
    /// Stores a value; `lease: None` detaches the key from an earlier lease.
    Put {
        /// The key.
        key: String,
        /// The new value.
        value: Bytes,
        /// The lease to attach the key to.
        lease: Option<LeaseId>,
    },
    /// Removes a key; a missing one is no error.
    Delete {
        /// The key.
        key: String,
    },
    /// Removes all keys under a prefix that is not empty.
    DeletePrefix {
        /// The prefix.
        prefix: String,
    },
    /// Reads a key into [`TxnResult::reads`].
    Get {
        /// The key.
        key: String,
    },
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put { key, value, lease } => {
                write!(f, "Put({key}, {} bytes, {lease:?})", value.len())
            }
            Self::Delete { key } => write!(f, "Delete({key})"),
            Self::DeletePrefix { prefix } => write!(f, "DeletePrefix({prefix})"),
            Self::Get { key } => write!(f, "Get({key})"),
        }
    }
}

/// A transaction: `if all compares hold then .. otherwise ..`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// Conditions, all of which must hold.
    pub compares: Vec<Compare>,
    /// Steps if they do.
    pub then: Vec<Op>,
    /// Steps if one does not.
    pub otherwise: Vec<Op>,
}

impl Txn {
    /// An empty transaction.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition.
    pub fn when(mut self, compare: Compare) -> Self {
        self.compares.push(compare);
        self
    }

    /// Condition: the key does not exist.
    pub fn when_absent(self, key: impl Into<String>) -> Self {
        self.when(Compare::Absent(key.into()))
    }

    /// Condition: the key was last put in `revision`.
    pub fn when_mod_revision(self, key: impl Into<String>, revision: Revision) -> Self {
        self.when(Compare::ModRevision(key.into(), revision))
    }

    /// Condition: the key is still the one created in `revision` (the fence of a leader).
    pub fn when_create_revision(self, key: impl Into<String>, revision: Revision) -> Self {
        self.when(Compare::CreateRevision(key.into(), revision))
    }

    /// Condition: the key has this value.
    pub fn when_value(self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.when(Compare::Value(key.into(), value.into()))
    }

    /// Adds a step for the case that all conditions hold.
    pub fn then(mut self, op: Op) -> Self {
        self.then.push(op);
        self
    }

    /// Adds a step for the case that a condition fails.
    pub fn otherwise(mut self, op: Op) -> Self {
        self.otherwise.push(op);
        self
    }

    /// Step: put without a lease.
    pub fn put(self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.then(Op::Put {
            key: key.into(),
            value: value.into(),
            lease: None,
        })
    }

    /// Step: put attached to a lease.
    pub fn put_leased(
        self,
        key: impl Into<String>,
        value: impl Into<Bytes>,
        lease: LeaseId,
    ) -> Self {
        self.then(Op::Put {
            key: key.into(),
            value: value.into(),
            lease: Some(lease),
        })
    }

    /// Step: delete one key.
    pub fn delete(self, key: impl Into<String>) -> Self {
        self.then(Op::Delete { key: key.into() })
    }

    /// Step: delete all keys under a prefix.
    pub fn delete_prefix(self, prefix: impl Into<String>) -> Self {
        self.then(Op::DeletePrefix {
            prefix: prefix.into(),
        })
    }

    /// Step: read a key, whichever way the conditions turn out.
    pub fn get(mut self, key: impl Into<String>) -> Self {
        let key = key.into();
        self.then.push(Op::Get { key: key.clone() });
        self.otherwise.push(Op::Get { key });
        self
    }

    /// Checks what no backend accepts, before anything is touched.
    pub(super) fn validate(&self) -> Result<(), StoreError> {
        for (what, count) in [
            ("the list of compares", self.compares.len()),
            ("the list of steps", self.then.len()),
            ("the list of alternative steps", self.otherwise.len()),
        ] {
            within(count, MAX_TXN_OPS, || format!("{what} of a transaction"))?;
        }
        let mut bytes = 0;
        for compare in &self.compares {
            check_key(compare.key())?;
            bytes += compare.key().len();
            if let Compare::Value(key, value) = compare {
                within(value.len(), MAX_VALUE_BYTES, || {
                    format!("the value of {key:?}")
                })?;
                bytes += value.len();
            }
        }
        for branch in [&self.then, &self.otherwise] {
            bytes += check_branch(branch)?;
        }
        within(bytes, MAX_TXN_BYTES, || "a transaction".to_owned())
    }
}

fn within(size: usize, limit: usize, what: impl FnOnce() -> String) -> Result<(), StoreError> {
    if size > limit {
        return Err(StoreError::TooLarge {
            what: what(),
            size,
            limit,
        });
    }
    Ok(())
}

/// Checks a key: not empty, no NUL, within [`MAX_KEY_BYTES`].
pub(super) fn check_key(key: &str) -> Result<(), StoreError> {
    if key.is_empty() {
        return Err(StoreError::Invalid(
            "a key or prefix to write must not be empty".to_owned(),
        ));
    }
    if key.contains('\0') {
        return Err(StoreError::Invalid(format!(
            "the key {key:?} contains a NUL character"
        )));
    }
    within(key.len(), MAX_KEY_BYTES, || {
        format!("the key {:?}...", key.chars().take(32).collect::<String>())
    })
}

/// Checks one branch and returns its bytes. As in etcd a key may be written once only.
fn check_branch(ops: &[Op]) -> Result<usize, StoreError> {
    let mut bytes = 0;
    let mut puts = BTreeSet::new();
    for op in ops {
        match op {
            Op::Put { key, value, .. } => {
                check_key(key)?;
                within(value.len(), MAX_VALUE_BYTES, || {
                    format!("the value of {key:?}")
                })?;
                bytes += key.len() + value.len();
                if !puts.insert(key.as_str()) {
                    return Err(twice(key));
                }
            }
            Op::Delete { key } | Op::DeletePrefix { prefix: key } | Op::Get { key } => {
                check_key(key)?;
                bytes += key.len();
            }
        }
    }
    for op in ops {
        let clash = match op {
            Op::Delete { key } => puts.get(key.as_str()),
            Op::DeletePrefix { prefix } => puts
                .range(prefix.as_str()..)
                .next()
                .filter(|key| key.starts_with(prefix.as_str())),
            Op::Put { .. } | Op::Get { .. } => None,
        };
        if let Some(key) = clash {
            return Err(twice(key));
        }
    }
    Ok(bytes)
}

fn twice(key: &str) -> StoreError {
    StoreError::Invalid(format!(
        "the key {key:?} is written twice in one transaction"
    ))
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
        Self {
            after: None,
            limit: usize::MAX,
            at: None,
        }
    }

    /// The first `limit` items.
    pub fn first(limit: usize) -> Self {
        Self {
            after: None,
            limit,
            at: None,
        }
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
        Self {
            source: Box::new(source),
        }
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
        Some(requested) if requested < compacted => Err(StoreError::Compacted {
            requested,
            compact_revision: compacted,
        }),
        Some(requested) if requested > revision => Err(StoreError::FutureRevision {
            requested,
            revision,
        }),
        Some(requested) => Ok(requested),
    }
}
