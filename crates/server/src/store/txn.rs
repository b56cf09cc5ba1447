//! Transactions: conditions, steps, and the limits that all backends share.

use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;

use super::{KeyValue, LeaseId, Revision, StoreError};

/// Operations, and compares, in one transaction: etcd's default of `--max-txn-ops`.
pub const MAX_TXN_OPS: usize = 128;
/// Bytes of one value: 1 MiB, so that one value always fits into a transaction.
pub const MAX_VALUE_BYTES: usize = 1024 * 1024;
/// Bytes of keys and values in one transaction: etcd's default of `--max-request-bytes` (1.5 MiB).
pub const MAX_TXN_BYTES: usize = 1536 * 1024;
/// Bytes of one key: far above what ids and kinds add up to, small enough for an index page.
pub const MAX_KEY_BYTES: usize = 1024;

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
        self.then(Op::Put { key: key.into(), value: value.into(), lease: None })
    }

    /// Step: put attached to a lease.
    pub fn put_leased(
        self,
        key: impl Into<String>,
        value: impl Into<Bytes>,
        lease: LeaseId,
    ) -> Self {
        self.then(Op::Put { key: key.into(), value: value.into(), lease: Some(lease) })
    }

    /// Step: delete one key.
    pub fn delete(self, key: impl Into<String>) -> Self {
        self.then(Op::Delete { key: key.into() })
    }

    /// Step: delete all keys under a prefix.
    pub fn delete_prefix(self, prefix: impl Into<String>) -> Self {
        self.then(Op::DeletePrefix { prefix: prefix.into() })
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
                within(value.len(), MAX_VALUE_BYTES, || format!("the value of {key:?}"))?;
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
        return Err(StoreError::TooLarge { what: what(), size, limit });
    }
    Ok(())
}

/// Checks a key: not empty, no NUL, within [`MAX_KEY_BYTES`].
pub(super) fn check_key(key: &str) -> Result<(), StoreError> {
    if key.is_empty() {
        return Err(StoreError::Invalid("a key or prefix to write must not be empty".to_owned()));
    }
    if key.contains('\0') {
        return Err(StoreError::Invalid(format!("the key {key:?} contains a NUL character")));
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
                within(value.len(), MAX_VALUE_BYTES, || format!("the value of {key:?}"))?;
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
            Op::DeletePrefix { prefix } => {
                puts.range(prefix.as_str()..).next().filter(|key| key.starts_with(prefix.as_str()))
            }
            Op::Put { .. } | Op::Get { .. } => None,
        };
        if let Some(key) = clash {
            return Err(twice(key));
        }
    }
    Ok(bytes)
}

fn twice(key: &str) -> StoreError {
    StoreError::Invalid(format!("the key {key:?} is written twice in one transaction"))
}
