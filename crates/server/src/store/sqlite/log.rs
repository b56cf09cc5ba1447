//! The tables and every statement that reads them: the log of changes, and where each live key is in it.
//!
//! Entry points: [`get`], [`list`] and [`tail`]; writing is in [`change`](super::change). A value is
//! stored once, in the log; `current` only points to it. Each row of the log carries a checksum,
//! because SQLite's own checks cover its trees but not what the rows say.

use bytes::Bytes;
use rusqlite::types::{ToSql, Value};
use rusqlite::{Connection, OptionalExtension, Row, params};
use sha2::{Digest, Sha256};

use super::fault::{corrupt, fault};
use crate::store::tail::{TAIL_BATCHES, TailRead};
use crate::store::types::check_readable;
use crate::store::{Batch, Event, KeyValue, LeaseId, Listing, Page, Revision, StoreError};

/// The schema, statement by statement, as `sqlite_schema` repeats it.
/// The log keeps its last rows for ever, so that neither an id nor a revision comes back.
pub(super) const SCHEMA: [&str; 6] = [
    "CREATE TABLE log (id INTEGER PRIMARY KEY AUTOINCREMENT, revision INTEGER NOT NULL, \
     key TEXT NOT NULL, value BLOB NOT NULL, create_revision INTEGER NOT NULL, \
     version INTEGER NOT NULL, lease INTEGER, sum INTEGER NOT NULL)",
    "CREATE UNIQUE INDEX log_key ON log (key, revision)",
    "CREATE INDEX log_revision ON log (revision)",
    "CREATE TABLE current (key TEXT PRIMARY KEY, id INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE lease (id INTEGER PRIMARY KEY AUTOINCREMENT, ttl INTEGER NOT NULL, \
     sum INTEGER NOT NULL)",
    "CREATE TABLE compaction (id INTEGER PRIMARY KEY CHECK (id = 1), revision INTEGER NOT NULL, \
     sum INTEGER NOT NULL)",
];

const COLUMNS: &str =
    "l.id, l.revision, l.key, l.value, l.create_revision, l.version, l.lease, l.sum";

/// One change in the log; `version` 0 is a deletion.
pub(super) struct Entry {
    pub id: u64,
    pub revision: Revision,
    pub key: String,
    pub value: Vec<u8>,
    pub create_revision: Revision,
    pub version: u64,
    pub lease: Option<u64>,
}

impl Entry {
    fn sum(&self) -> i64 {
        let mut hash = Sha256::new();
        for number in [
            self.id,
            self.revision,
            self.create_revision,
            self.version,
            self.lease.map_or(0, |lease| lease + 1),
            self.key.len() as u64,
        ] {
            hash.update(number.to_le_bytes());
        }
        hash.update(&self.key);
        hash.update(&self.value);
        short(hash)
    }

    /// Reads a row of [`COLUMNS`] and verifies its checksum.
    pub fn read(row: &Row<'_>) -> Result<Self, StoreError> {
        let read = || -> rusqlite::Result<(Self, i64)> {
            let entry = Self {
                id: unsigned(row, 0)?,
                revision: unsigned(row, 1)?,
                key: row.get(2)?,
                value: row.get(3)?,
                create_revision: unsigned(row, 4)?,
                version: unsigned(row, 5)?,
                lease: row.get::<_, Option<i64>>(6)?.map(|lease| lease as u64),
            };
            Ok((entry, row.get(7)?))
        };
        let (entry, sum) = read().map_err(fault("reading the log"))?;
        if entry.sum() != sum {
            return Err(corrupt(format!(
                "row {} of the log does not match its checksum",
                entry.id
            )));
        }
        Ok(entry)
    }

    pub fn is_deletion(&self) -> bool {
        self.version == 0
    }

    pub fn into_kv(self) -> KeyValue {
        KeyValue {
            key: self.key,
            value: Bytes::from(self.value),
            create_revision: self.create_revision,
            mod_revision: self.revision,
            version: self.version,
            lease: self.lease.map(LeaseId),
        }
    }

    pub fn insert(&self, conn: &Connection) -> rusqlite::Result<()> {
        conn.execute(
            "INSERT INTO log (id, revision, key, value, create_revision, version, lease, sum) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                self.id as i64,
                self.revision as i64,
                self.key,
                self.value,
                self.create_revision as i64,
                self.version as i64,
                self.lease.map(|lease| lease as i64),
                self.sum(),
            ],
        )?;
        Ok(())
    }
}

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

/// The first eight bytes of a digest: against damage, not against an attacker.
fn short(hash: Sha256) -> i64 {
    let digest = hash.finalize();
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest[..8]);
    i64::from_le_bytes(bytes)
}

/// Checksum of a row that holds two numbers.
pub(super) fn pair_sum(id: u64, number: u64) -> i64 {
    short(Sha256::new().chain_update(id.to_le_bytes()).chain_update(number.to_le_bytes()))
}

/// Where the log ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub id: u64,
    pub revision: Revision,
}

/// Reads the end of the log.
pub(super) fn head(conn: &Connection) -> rusqlite::Result<Head> {
    conn.query_row(
        "SELECT coalesce((SELECT max(id) FROM log), 0), \
         coalesce((SELECT max(revision) FROM log), 0)",
        [],
        |row| Ok(Head { id: unsigned(row, 0)?, revision: unsigned(row, 1)? }),
    )
}

/// Writes a key at the first revision above `floor`, or above the end of the log if that is higher: revisions go on
/// from there.
pub(super) fn raise(conn: &Connection, key: &str, floor: Revision) -> rusqlite::Result<()> {
    let head = head(conn)?;
    let revision = head.revision.max(floor) + 1;
    let sql =
        "SELECT create_revision, version FROM current c JOIN log l ON l.id = c.id WHERE c.key = ?1";
    let before =
        conn.query_row(sql, [key], |row| Ok((unsigned(row, 0)?, unsigned(row, 1)?))).optional()?;
    let (create_revision, version) = before.unwrap_or((revision, 0));
    let entry = Entry {
        id: head.id + 1,
        revision,
        key: key.to_owned(),
        value: Vec::new(),
        create_revision,
        version: version + 1,
        lease: None,
    };
    entry.insert(conn)?;
    conn.execute(
        "INSERT OR REPLACE INTO current (key, id) VALUES (?1, ?2)",
        params![key, entry.id as i64],
    )?;
    Ok(())
}

/// Reads the last compaction.
pub(super) fn compacted(conn: &Connection) -> Result<Revision, StoreError> {
    let (revision, sum): (u64, i64) = conn
        .query_row("SELECT revision, sum FROM compaction WHERE id = 1", [], |row| {
            Ok((unsigned(row, 0)?, row.get(1)?))
        })
        .map_err(fault("reading the last compaction"))?;
    if pair_sum(1, revision) != sum {
        return Err(corrupt("the compaction mark does not match its checksum".to_owned()));
    }
    Ok(revision)
}

pub(super) fn now(conn: &Connection, key: &str) -> Result<Option<Entry>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM current c JOIN log l ON l.id = c.id WHERE c.key = ?1");
    one(conn, &sql, &[&key])
}

pub(super) fn one(
    conn: &Connection,
    sql: &str,
    args: &[&dyn ToSql],
) -> Result<Option<Entry>, StoreError> {
    conn.query_row(sql, args, |row| Ok(Entry::read(row)))
        .optional()
        .map_err(fault("reading a key"))?
        .transpose()
}

/// Reads a key; must run in a read transaction.
pub(super) fn get(
    conn: &Connection,
    key: &str,
    at: Option<Revision>,
) -> Result<Option<KeyValue>, StoreError> {
    let entry = match at {
        None => now(conn, key)?,
        Some(_) => {
            let revision = head(conn).map_err(fault("reading the revision"))?.revision;
            let at = check_readable(at, compacted(conn)?, revision)?;
            let sql = format!(
                "SELECT {COLUMNS} FROM log l WHERE l.key = ?1 AND l.revision <= ?2 \
                 ORDER BY l.revision DESC LIMIT 1"
            );
            one(conn, &sql, &[&key, &(at as i64)])?
        }
    };
    Ok(entry.filter(|entry| !entry.is_deletion()).map(Entry::into_kv))
}

/// The first string behind all that start with `prefix`; a blob, which sorts behind every text,
/// where there is none.
pub(super) fn behind(prefix: &str) -> Value {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        // Code points sort like their UTF-8; the range skips the surrogates.
        if let Some(next) = (last..=char::MAX).nth(1) {
            chars.push(next);
            return Value::Text(chars.into_iter().collect());
        }
    }
    Value::Blob(Vec::new())
}

/// Lists a prefix; must run in a read transaction.
pub(super) fn list(conn: &Connection, prefix: &str, page: &Page) -> Result<Listing, StoreError> {
    let head = head(conn).map_err(fault("reading the revision"))?.revision;
    let revision = check_readable(page.at, compacted(conn)?, head)?;
    let (start, from) = match page.after.as_deref() {
        Some(after) if after >= prefix => (">", after),
        _ => (">=", prefix),
    };
    let sql = if revision == head {
        format!(
            "SELECT {COLUMNS} FROM current c JOIN log l ON l.id = c.id \
             WHERE c.key {start} ?1 AND c.key < ?2 AND ?3 = ?3 ORDER BY c.key LIMIT ?4"
        )
    } else {
        format!(
            "SELECT {COLUMNS} FROM log l WHERE l.key {start} ?1 AND l.key < ?2 AND l.version > 0 \
             AND l.revision = (SELECT max(n.revision) FROM log n \
             WHERE n.key = l.key AND n.revision <= ?3) ORDER BY l.key LIMIT ?4"
        )
    };
    let limit = i64::try_from(page.limit).unwrap_or(i64::MAX).saturating_add(1);
    let args = params![from, behind(prefix), revision as i64, limit];
    let mut items = Vec::new();
    let mut more = false;
    each(conn, &sql, args, |entry| {
        more = items.len() == page.limit;
        if !more {
            items.push(entry.into_kv());
        }
        Ok(!more)
    })?;
    Ok(Listing { items, revision, more })
}

/// Runs `f` on each entry found until it says no.
fn each(
    conn: &Connection,
    sql: &str,
    args: &[&dyn ToSql],
    mut f: impl FnMut(Entry) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    let during = "reading the log";
    let mut statement = conn.prepare(sql).map_err(fault(during))?;
    let mut rows = statement.query(args).map_err(fault(during))?;
    while let Some(row) = rows.next().map_err(fault(during))? {
        if !f(Entry::read(row)?)? {
            break;
        }
    }
    Ok(())
}

/// Reads the log on from a revision; must run in a read transaction.
pub(super) fn tail(
    conn: &Connection,
    prefix: &str,
    from: Revision,
) -> Result<TailRead, StoreError> {
    let compact_revision = compacted(conn)?;
    if from < compact_revision {
        return Err(StoreError::Compacted { requested: from, compact_revision });
    }
    let head = head(conn).map_err(fault("reading the revision"))?.revision;
    let sql = format!(
        "SELECT {COLUMNS} FROM log l INDEXED BY log_revision \
         WHERE l.revision >= ?1 AND l.key >= ?2 AND l.key < ?3 ORDER BY l.revision, l.id"
    );
    let start = i64::try_from(from).unwrap_or(i64::MAX);
    let mut batches: Vec<Batch> = Vec::new();
    let mut next = from.max(head + 1);
    each(conn, &sql, params![start, prefix, behind(prefix)], |entry| {
        let revision = entry.revision;
        if batches.last().is_none_or(|batch| batch.revision != revision) {
            if batches.len() == TAIL_BATCHES {
                next = revision;
                return Ok(false);
            }
            batches.push(Batch { revision, events: Vec::new() });
        }
        let event = if entry.is_deletion() {
            Event::Delete { key: entry.key }
        } else {
            Event::Put(entry.into_kv())
        };
        if let Some(batch) = batches.last_mut() {
            batch.events.push(event);
        }
        Ok(true)
    })?;
    Ok(TailRead { batches, next })
}

pub(super) fn strings(
    conn: &Connection,
    sql: &str,
    args: &[&dyn ToSql],
) -> Result<Vec<String>, StoreError> {
    let run =
        || conn.prepare(sql)?.query_map(args, |row| row.get(0))?.collect::<rusqlite::Result<_>>();
    run().map_err(fault("listing keys"))
}

/// Verifies what SQLite's own check cannot know: all checksums, and that `current` says the same
/// as the log.
pub(super) fn verify(conn: &Connection) -> Result<(), StoreError> {
    let head = head(conn).map_err(fault("reading the revision"))?;
    if compacted(conn)? > head.revision {
        return Err(corrupt("the compaction mark lies behind the end of the log".to_owned()));
    }
    let mut last: Revision = 0;
    each(conn, &format!("SELECT {COLUMNS} FROM log l ORDER BY l.id"), &[], |entry| {
        if entry.revision < last {
            return Err(corrupt(format!("row {} of the log is out of order", entry.id)));
        }
        last = entry.revision;
        Ok(true)
    })?;
    let (live, pointing, dangling): (i64, i64, i64) = conn
        .query_row(
            "SELECT (SELECT count(*) FROM log l WHERE l.version > 0 AND NOT EXISTS \
             (SELECT 1 FROM log n WHERE n.key = l.key AND n.revision > l.revision)), \
             (SELECT count(*) FROM current), \
             (SELECT count(*) FROM current c LEFT JOIN log l ON l.id = c.id WHERE l.id IS NULL \
             OR l.key <> c.key OR l.version = 0 OR EXISTS \
             (SELECT 1 FROM log n WHERE n.key = l.key AND n.revision > l.revision))",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .map_err(fault("comparing the keys with the log"))?;
    if live != pointing || dangling > 0 {
        return Err(corrupt("the table of live keys does not agree with the log".to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_is_the_least_string_after_a_prefix() {
        assert_eq!(behind("a/"), Value::Text("a0".to_owned()));
        assert_eq!(behind("\u{d7ff}"), Value::Text("\u{e000}".to_owned()));
        assert_eq!(behind("b\u{10ffff}"), Value::Text("c".to_owned()));
        assert_eq!(behind(""), Value::Blob(Vec::new()));
    }
}
