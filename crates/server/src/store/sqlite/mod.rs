//! The default store: one SQLite file, no set-up.
//!
//! Entry point: [`SqliteStore::open`]. WAL with `synchronous=FULL`: an answered transaction was
//! fsynced. One thread writes, one reads; both own their connection. A lock file keeps other
//! processes out. Absent on purpose: several processes on one file, and network file systems.

mod change;
mod fault;
mod log;
mod open;
mod wal;
mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rusqlite::Connection;
use tokio::sync::{Semaphore, oneshot, watch};

use self::fault::fault;
use self::writer::{Change, Done, Job, Writer};
use super::tail::{Tail, TailRead, TailWatch};
use super::txn::check_key;
use super::types::lease_ttl;
use super::{KeyValue, LeaseId, Listing, Page, Revision, Store, StoreError, Txn, TxnResult, Watch};

/// Requests that may wait for a thread; more callers wait before they queue. Bounds the memory
/// held by values under way.
const QUEUE: usize = 256;
/// Transactions that share one fsync at most: bounds how long the first of them waits.
const MAX_GROUP: usize = 64;

/// The time by which leases end; must not go back.
pub type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// How to open a store.
#[derive(Clone)]
pub struct SqliteOptions {
    /// Upper bound of the file in pages of 4096 bytes; `None` leaves it to the disk.
    pub max_pages: Option<u32>,
    /// The time by which leases end.
    pub clock: Clock,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { max_pages: None, clock: Arc::new(Instant::now) }
    }
}

/// A store in one file. Dropping it closes the file after the queued work; [`Self::close`] waits.
pub struct SqliteStore {
    path: PathBuf,
    writes: Option<mpsc::Sender<Job>>,
    write_places: Arc<Semaphore>,
    reads: Arc<Reads>,
    changed: watch::Receiver<Revision>,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
}

type Read = Box<dyn FnOnce(&Connection) + Send>;

/// The way to the reading thread; watches hold it too.
struct Reads {
    jobs: Mutex<Option<mpsc::Sender<Read>>>,
    places: Arc<Semaphore>,
}

impl SqliteStore {
    /// Opens the file, or creates it where there is none. Blocks; checks the whole file.
    ///
    /// Errors: [`StoreError::Refused`] when another process has it open, when it lies on a
    /// network file system or is of another version; [`StoreError::Corrupt`] for damage.
    pub fn open(path: &Path, options: SqliteOptions) -> Result<Self, StoreError> {
        let lock = open::lock(path)?;
        open::create_if_missing(path)?;
        let conn = open::open_checked(path, options.max_pages)?;
        let reader = open::connect(path, options.max_pages)?;
        reader.execute_batch("PRAGMA query_only = ON").map_err(fault("opening the reader"))?;
        let writer = Writer::new(conn, options.clock)?;
        let changed = writer.subscribe();
        let (writes, write_jobs) = mpsc::channel::<Job>();
        let (reads, read_jobs) = mpsc::channel::<Read>();
        let lock = Arc::new(lock);
        let threads = vec![
            spawn(path, "store-write", &lock, move || writer.run(&write_jobs))?,
            spawn(path, "store-read", &lock, move || {
                for job in read_jobs {
                    job(&reader);
                }
            })?,
        ];
        let reads =
            Reads { jobs: Mutex::new(Some(reads)), places: Arc::new(Semaphore::new(QUEUE)) };
        Ok(Self {
            path: path.to_owned(),
            writes: Some(writes),
            write_places: Arc::new(Semaphore::new(QUEUE)),
            reads: Arc::new(reads),
            changed,
            threads: Mutex::new(threads),
        })
    }

    /// Finishes the queued work, closes the file and gives the lock back. Blocks.
    pub fn close(mut self) {
        self.shut();
        let threads = std::mem::take(&mut *unpoisoned(&self.threads));
        for thread in threads {
            // A panic was reported by its hook when it happened.
            let _ = thread.join();
        }
    }

    fn shut(&mut self) {
        self.writes = None;
        unpoisoned(&self.reads.jobs).take();
    }

    /// Writes a consistent, checked copy to the new file `to` while the store stays in use.
    pub async fn backup(&self, to: &Path) -> Result<(), StoreError> {
        let (path, to) = (self.path.clone(), to.to_owned());
        tokio::task::spawn_blocking(move || open::backup(&path, &to)).await.map_err(|source| {
            StoreError::Transient {
                during: "waiting for a backup",
                in_doubt: false,
                source: Box::new(source),
            }
        })?
    }

    /// Creates the store at `path` from a backup, after checking it. Blocks. Refuses to replace
    /// a store: move the old one away first. The next revision is above `floor`, so that epochs
    /// which the backed up store gave out after the backup do not come back.
    pub fn restore(backup: &Path, path: &Path, floor: Revision) -> Result<(), StoreError> {
        open::restore(backup, path, floor)
    }

    async fn change(&self, change: Change) -> Result<Done, StoreError> {
        let places = Arc::clone(&self.write_places);
        let place = places.acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let (answer, answered) = oneshot::channel();
        let writes = self.writes.as_ref().ok_or(StoreError::Closed)?;
        writes.send(Job { change, answer, place }).map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    async fn change_only(&self, change: Change) -> Result<(), StoreError> {
        self.change(change).await.map(drop)
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.shut();
    }
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Starts a thread that holds the lock as long as it runs.
fn spawn(
    path: &Path,
    name: &str,
    lock: &Arc<File>,
    work: impl FnOnce() + Send + 'static,
) -> Result<thread::JoinHandle<()>, StoreError> {
    let lock = Arc::clone(lock);
    let run = move || {
        work();
        drop(lock);
    };
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(|error| open::refused(path, format!("a thread cannot be started ({error})")))
}

impl Reads {
    /// Runs `f` in a read transaction of the reading thread.
    async fn run<R: Send + 'static>(
        &self,
        f: impl FnOnce(&Connection) -> Result<R, StoreError> + Send + 'static,
    ) -> Result<R, StoreError> {
        let _place = self.places.acquire().await.map_err(|_| StoreError::Closed)?;
        let (answer, answered) = oneshot::channel();
        let job: Read = Box::new(move |conn| {
            let _ = answer.send(in_snapshot(conn, f));
        });
        match unpoisoned(&self.jobs).as_ref() {
            Some(jobs) => jobs.send(job).map_err(|_| StoreError::Closed)?,
            None => return Err(StoreError::Closed),
        }
        answered.await.map_err(|_| StoreError::Closed)?
    }
}

fn in_snapshot<R>(
    conn: &Connection,
    f: impl FnOnce(&Connection) -> Result<R, StoreError>,
) -> Result<R, StoreError> {
    conn.execute_batch("BEGIN").map_err(fault("beginning to read"))?;
    let result = f(conn);
    let ended = if conn.is_autocommit() { Ok(()) } else { conn.execute_batch("ROLLBACK") };
    ended.map_err(fault("ending to read"))?;
    result
}

#[async_trait]
impl Store for SqliteStore {
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<Option<KeyValue>, StoreError> {
        check_key(key)?;
        let key = key.to_owned();
        self.reads.run(move |conn| log::get(conn, &key, at)).await
    }

    async fn list(&self, prefix: &str, page: Page) -> Result<Listing, StoreError> {
        let prefix = prefix.to_owned();
        self.reads.run(move |conn| log::list(conn, &prefix, &page)).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        txn.validate()?;
        match self.change(Change::Txn(txn)).await? {
            Done::Txn(result) => Ok(result),
            Done::Granted(_) | Done::Unit => Err(StoreError::Closed),
        }
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        let reads = Arc::clone(&self.reads);
        TailWatch::start(reads, self.changed.clone(), prefix, from).await.map(Watch::new)
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        match self.change(Change::Grant(lease_ttl(ttl))).await? {
            Done::Granted(id) => Ok(id),
            Done::Txn(_) | Done::Unit => Err(StoreError::Closed),
        }
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.change_only(Change::KeepAlive(lease)).await
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.change_only(Change::Revoke(lease)).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.change_only(Change::Compact(revision)).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.reads
            .run(|conn| {
                log::head(conn).map(|head| head.revision).map_err(fault("reading the revision"))
            })
            .await
    }
}

#[async_trait]
impl Tail for Reads {
    async fn read_tail(&self, prefix: &str, from: Revision) -> Result<TailRead, StoreError> {
        let prefix = prefix.to_owned();
        self.run(move |conn| log::tail(conn, &prefix, from)).await
    }

    /// The writing thread ends leases by itself.
    fn wake_at(&self) -> Option<tokio::time::Instant> {
        None
    }
}
