//! Every statement that changes the tables; each runs inside the writer's open transaction.
//!
//! Entry points: [`apply`], [`end_lease`], [`compact`].

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::fault::fault;
use super::log::{Entry, Head, behind, compacted, now, pair_sum, strings};
use crate::store::types::check_readable;
use crate::store::{LeaseId, Op, Revision, StoreError, Txn, TxnResult};

/// Runs a transaction inside the open one; `head` moves on if it writes.
pub(super) fn apply(
    conn: &Connection,
    head: &mut Head,
    txn: &Txn,
) -> Result<TxnResult, StoreError> {
    let mut succeeded = true;
    for compare in &txn.compares {
        let current = now(conn, compare.key())?.map(Entry::into_kv);
        if !compare.holds(current.as_ref()) {
            succeeded = false;
            break;
        }
    }
    let ops = if succeeded { &txn.then } else { &txn.otherwise };
    for op in ops {
        if let Op::Put { lease: Some(lease), .. } = op
            && !lease_exists(conn, *lease)?
        {
            return Err(StoreError::LeaseNotFound(*lease));
        }
    }
    let mut writer = Writer { conn, revision: head.revision + 1, id: head.id };
    let mut reads = Vec::new();
    for op in ops {
        match op {
            Op::Put { key, value, lease } => writer.put(key, value, *lease)?,
            Op::Delete { key } => writer.delete(key)?,
            Op::DeletePrefix { prefix } => writer.delete_prefix(prefix)?,
            Op::Get { key } => reads.push(now(conn, key)?.map(Entry::into_kv)),
        }
    }
    writer.settle(head);
    Ok(TxnResult { succeeded, revision: head.revision, reads })
}

/// Deletes the keys of a lease, and the lease, inside the open transaction.
pub(super) fn end_lease(
    conn: &Connection,
    head: &mut Head,
    lease: LeaseId,
) -> Result<(), StoreError> {
    let keys = strings(
        conn,
        "SELECT c.key FROM current c JOIN log l ON l.id = c.id WHERE l.lease = ?1 ORDER BY c.key",
        params![lease.0 as i64],
    )?;
    let mut writer = Writer { conn, revision: head.revision + 1, id: head.id };
    for key in keys {
        writer.delete(&key)?;
    }
    writer.settle(head);
    conn.execute("DELETE FROM lease WHERE id = ?1", params![lease.0 as i64])
        .map_err(fault("ending a lease"))?;
    Ok(())
}

/// Whether a lease is there.
pub(super) fn lease_exists(conn: &Connection, lease: LeaseId) -> Result<bool, StoreError> {
    let Ok(id) = i64::try_from(lease.0) else {
        return Ok(false);
    };
    conn.query_row("SELECT 1 FROM lease WHERE id = ?1", params![id], |_| Ok(()))
        .optional()
        .map(|found| found.is_some())
        .map_err(fault("looking up a lease"))
}

/// Forgets what was superseded before `to`, inside the open transaction.
pub(super) fn compact(conn: &Connection, head: Head, to: Revision) -> Result<(), StoreError> {
    check_readable(Some(to), 0, head.revision)?;
    if to <= compacted(conn)? {
        return Ok(());
    }
    let at = to as i64;
    let run = || -> rusqlite::Result<()> {
        conn.execute(
            "DELETE FROM log WHERE revision < ?1 AND EXISTS (SELECT 1 FROM log n \
             WHERE n.key = log.key AND n.revision > log.revision AND n.revision <= ?1)",
            params![at],
        )?;
        conn.execute("DELETE FROM log WHERE revision < ?1 AND version = 0", params![at])?;
        conn.execute(
            "UPDATE compaction SET revision = ?1, sum = ?2 WHERE id = 1",
            params![at, pair_sum(1, to)],
        )?;
        Ok(())
    };
    run().map_err(fault("compacting"))
}

struct Writer<'a> {
    conn: &'a Connection,
    revision: Revision,
    id: u64,
}

impl Writer<'_> {
    fn put(&mut self, key: &str, value: &Bytes, lease: Option<LeaseId>) -> Result<(), StoreError> {
        let (create_revision, version) = now(self.conn, key)?
            .map_or((self.revision, 1), |old| (old.create_revision, old.version + 1));
        self.id += 1;
        let entry = Entry {
            id: self.id,
            revision: self.revision,
            key: key.to_owned(),
            value: value.to_vec(),
            create_revision,
            version,
            lease: lease.map(|lease| lease.0),
        };
        let run = || {
            entry.insert(self.conn)?;
            self.conn.execute(
                "INSERT INTO current (key, id) VALUES (?1, ?2) \
                 ON CONFLICT (key) DO UPDATE SET id = excluded.id",
                params![key, entry.id as i64],
            )
        };
        run().map_err(fault("storing a key")).map(drop)
    }

    fn delete(&mut self, key: &str) -> Result<(), StoreError> {
        let gone = self
            .conn
            .execute("DELETE FROM current WHERE key = ?1", params![key])
            .map_err(fault("deleting a key"))?;
        if gone == 0 {
            return Ok(());
        }
        self.id += 1;
        let entry = Entry {
            id: self.id,
            revision: self.revision,
            key: key.to_owned(),
            value: Vec::new(),
            create_revision: 0,
            version: 0,
            lease: None,
        };
        entry.insert(self.conn).map_err(fault("deleting a key"))
    }

    fn delete_prefix(&mut self, prefix: &str) -> Result<(), StoreError> {
        let sql = "SELECT key FROM current WHERE key >= ?1 AND key < ?2 ORDER BY key";
        for key in strings(self.conn, sql, params![prefix, behind(prefix)])? {
            self.delete(&key)?;
        }
        Ok(())
    }

    fn settle(self, head: &mut Head) {
        if self.id > head.id {
            *head = Head { id: self.id, revision: self.revision };
        }
    }
}
