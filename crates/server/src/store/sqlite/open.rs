//! Opening, creating, backing up and restoring the file: everything is checked before use.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags, params};

use super::fault::{corrupt, fault};
use super::log::{self, SCHEMA};
use super::wal;
use crate::store::{Revision, StoreError};

/// "EVKL": tells our files from other SQLite databases.
const APPLICATION_ID: i64 = 0x4556_4b4c;
/// Raised with every change of [`SCHEMA`].
const SCHEMA_VERSION: i64 = 1;
/// The key whose change carries a restored store to its new revision.
const RESTORED: &str = "restored";
/// How long one connection waits for the other: far above a commit, so that it means a fault.
const BUSY: Duration = Duration::from_secs(5);

/// `f_type` of file systems whose locks or shared memory SQLite cannot trust (linux/magic.h and
/// the file systems' own headers).
const NETWORK_FILE_SYSTEMS: [(u32, &str); 9] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x5346_414f, "AFS"),
    (0x00c3_6400, "CephFS"),
    (0x0102_1997, "9P"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
];

pub(super) fn refused(path: &Path, reason: impl Into<String>) -> StoreError {
    StoreError::Refused { path: path.display().to_string(), reason: reason.into() }
}

fn io_error(during: &'static str) -> impl FnOnce(io::Error) -> StoreError {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full,
        _ => StoreError::Permanent { during, in_doubt: false, source: Box::new(source) },
    }
}

pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Takes the lock that keeps a second process out; held until the file is dropped.
pub(super) fn lock(path: &Path) -> Result<File, StoreError> {
    let dir = directory(path);
    let kind = rustix::fs::statfs(dir)
        .map_err(|error| {
            let way_out = "create the directory or name another one";
            refused(path, format!("its directory cannot be read ({error}); {way_out}"))
        })?
        .f_type as u32;
    if let Some((_, name)) = NETWORK_FILE_SYSTEMS.iter().find(|(magic, _)| *magic == kind) {
        let reason = format!("it lies on {name}, a network file system; use a local disk");
        return Err(refused(path, reason));
    }
    let lock_path = beside(path, ".lock");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&lock_path)
        .map_err(|error| refused(path, format!("its lock file cannot be opened ({error})")))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            let owner = fs::read_to_string(&lock_path).unwrap_or_default();
            return Err(refused(
                path,
                format!(
                    "another process uses it (process {}); stop that one first, or name another \
                     data directory",
                    owner.trim()
                ),
            ));
        }
        Err(fs::TryLockError::Error(error)) => {
            return Err(refused(path, format!("its lock cannot be taken ({error})")));
        }
    }
    // For the message above only: the lock itself is the kernel's and ends with the process.
    let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

/// Creates the file if nothing is there, in one step: a file under `path` is always complete.
pub(super) fn create_if_missing(path: &Path) -> Result<(), StoreError> {
    if path.exists() {
        return Ok(());
    }
    if beside(path, "-wal").exists() {
        return Err(corrupt(format!(
            "{} is missing while its write-ahead log is there",
            path.display()
        )));
    }
    install(path, |conn| {
        for statement in SCHEMA {
            conn.execute_batch(statement)?;
        }
        conn.execute(
            "INSERT INTO compaction (id, revision, sum) VALUES (1, 0, ?1)",
            params![log::pair_sum(1, 0)],
        )?;
        conn.pragma_update(None, "application_id", APPLICATION_ID)?;
        conn.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        Ok(())
    })
}

/// Fills a new file beside `path`, then moves it there, both durably.
fn install(
    path: &Path,
    fill: impl FnOnce(&mut Connection) -> rusqlite::Result<()>,
) -> Result<(), StoreError> {
    let during = "writing a new database file";
    let new = beside(path, ".new");
    for suffix in ["", "-wal", "-shm", "-journal"] {
        match fs::remove_file(beside(&new, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error(during)(error));
            }
            _ => {}
        }
    }
    // Created here for its mode, which SQLite gives to the files beside it too.
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new);
    drop(created.map_err(io_error(during))?);
    let write = || -> rusqlite::Result<()> {
        let mut conn = Connection::open_with_flags(&new, flags())?;
        conn.execute_batch("PRAGMA synchronous = FULL")?;
        fill(&mut conn)?;
        conn.execute_batch("PRAGMA journal_mode = DELETE")?;
        conn.close().map_err(|(_, error)| error)
    };
    write().map_err(fault(during))?;
    File::open(&new).and_then(|file| file.sync_all()).map_err(io_error(during))?;
    fs::rename(&new, path).map_err(io_error(during))?;
    File::open(directory(path)).and_then(|dir| dir.sync_all()).map_err(io_error(during))
}

fn flags() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

/// Opens a connection to an existing file, with all settings. `max_pages` bounds the file.
pub(super) fn connect(path: &Path, max_pages: Option<u32>) -> Result<Connection, StoreError> {
    let run = || -> rusqlite::Result<Connection> {
        let conn = Connection::open_with_flags(path, flags())?;
        conn.busy_timeout(BUSY)?;
        conn.execute_batch(
            "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA mmap_size = 0; \
             PRAGMA temp_store = MEMORY; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;",
        )?;
        if let Some(pages) = max_pages {
            conn.pragma_update(None, "max_page_count", i64::from(pages))?;
        }
        Ok(conn)
    };
    run().map_err(fault("opening the database file"))
}

/// Opens the writer's connection and checks everything that can be checked.
pub(super) fn open_checked(path: &Path, max_pages: Option<u32>) -> Result<Connection, StoreError> {
    let size = fs::metadata(path).map_err(io_error("opening the database file"))?.len();
    if size == 0 {
        return Err(corrupt(format!("{} is empty", path.display())));
    }
    wal::check(&beside(path, "-wal"))?;
    let conn = connect(path, max_pages)?;
    check(&conn, path)?;
    Ok(conn)
}

/// Checks identity, version, structure and content of an open database.
fn check(conn: &Connection, path: &Path) -> Result<(), StoreError> {
    let during = "checking the database file";
    let number = |pragma: &str| -> Result<i64, StoreError> {
        conn.pragma_query_value(None, pragma, |row| row.get(0)).map_err(fault(during))
    };
    if number("application_id")? != APPLICATION_ID {
        return Err(refused(path, "it is not an Evenkeel database; name another file"));
    }
    let version = number("user_version")?;
    if version != SCHEMA_VERSION {
        return Err(refused(
            path,
            format!(
                "it has schema version {version}, this program knows {SCHEMA_VERSION}; use the \
                 program version that wrote it, or restore a backup"
            ),
        ));
    }
    // The full check, as quick_check does not compare the indexes with their tables.
    let found: String =
        conn.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(fault(during))?;
    if found != "ok" {
        return Err(corrupt(found));
    }
    let sql = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' \
               ORDER BY rowid";
    let run =
        || conn.prepare(sql)?.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>();
    let schema: Vec<String> = run().map_err(fault(during))?;
    if schema != SCHEMA {
        return Err(corrupt("the schema is not the one that was written".to_owned()));
    }
    log::verify(conn)
}

/// Copies the database of `from` into a new file, checks the copy and moves it to `to`.
/// `then` completes the copy first.
fn copy(
    from: &Connection,
    to: &Path,
    then: impl FnOnce(&Connection) -> rusqlite::Result<()>,
) -> Result<(), StoreError> {
    if to.exists() {
        return Err(refused(to, "it exists already; move it away or name another file"));
    }
    install(to, |conn| {
        // All pages in one step: one consistent snapshot, whatever is written meanwhile.
        let copied = Backup::new(from, conn)?.step(-1)?;
        match copied {
            StepResult::Done => then(conn),
            _ => Err(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY),
                None,
            )),
        }
    })
}

/// Writes a checked copy of the store at `path`, which may be in use, to the new file `to`.
pub(super) fn backup(path: &Path, to: &Path) -> Result<(), StoreError> {
    copy(&connect(path, None)?, to, |_| Ok(()))?;
    let copied = Connection::open_with_flags(to, flags()).map_err(fault("checking the backup"))?;
    check(&copied, to)
}

/// Creates the store at `path` from a backup. The store must not exist. Its next revision is above `floor`.
pub(super) fn restore(backup: &Path, path: &Path, floor: Revision) -> Result<(), StoreError> {
    let _lock = lock(path)?;
    if beside(path, "-wal").exists() {
        return Err(refused(path, "its write-ahead log is still there; move that away as well"));
    }
    let read_only = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let from =
        Connection::open_with_flags(backup, read_only).map_err(fault("opening the backup"))?;
    check(&from, backup)?;
    // Complete before it has its name: a crash leaves no store that goes on with old revisions.
    copy(&from, path, |conn| log::raise(conn, RESTORED, floor))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use super::*;

    /// No test can cut the power; this one holds the settings that survive it.
    #[test]
    fn every_commit_is_synced() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("store.db");
        create_if_missing(&path).unwrap();
        let conn = open_checked(&path, None).unwrap();
        let synchronous: i64 = conn.pragma_query_value(None, "synchronous", |r| r.get(0)).unwrap();
        let journal: String = conn.pragma_query_value(None, "journal_mode", |r| r.get(0)).unwrap();
        assert_eq!((synchronous, journal.as_str()), (2, "wal"));
    }

    #[test]
    fn files_are_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("store.db");
        let _lock = lock(&path).unwrap();
        create_if_missing(&path).unwrap();
        let conn = open_checked(&path, None).unwrap();
        conn.execute_batch("UPDATE compaction SET id = 1").unwrap();
        for suffix in ["", "-wal", "-shm", ".lock"] {
            let mode = fs::metadata(beside(&path, suffix)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{suffix}");
        }
    }
}
