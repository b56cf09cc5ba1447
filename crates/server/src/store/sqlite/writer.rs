//! The one thread that writes. It takes what has queued up, runs it in one SQLite transaction and
//! answers after the commit: many callers share one fsync, each of their transactions is atomic.
//!
//! Entry point: [`Writer::run`]. After an error that leaves the disk in doubt (a failed commit)
//! or means damage, the thread ends and the store is closed: what the file holds is then found
//! out by opening it again, not guessed.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use super::change;
use super::fault::{corrupt, fault};
use super::log::{self, Head};
use super::{Clock, MAX_GROUP};
use crate::store::{LeaseId, Revision, StoreError, Txn, TxnResult};

/// A change that waits for its turn.
pub(super) enum Change {
    Txn(Txn),
    Grant(Duration),
    KeepAlive(LeaseId),
    Revoke(LeaseId),
    Compact(Revision),
}

pub(super) enum Done {
    Txn(TxnResult),
    Granted(LeaseId),
    Unit,
}

/// A change with the one who waits for it.
pub(super) struct Job {
    pub change: Change,
    pub answer: oneshot::Sender<Result<Done, StoreError>>,
    /// Its place in the bounded queue.
    pub place: OwnedSemaphorePermit,
}

/// What a member of a group does to the leases once the group is committed.
enum LeaseEffect {
    Start(LeaseId, Duration),
    Touch(LeaseId),
    End(LeaseId),
}

struct Lease {
    ttl: Duration,
    deadline: Instant,
}

pub(super) struct Writer {
    conn: Connection,
    head: Head,
    leases: BTreeMap<LeaseId, Lease>,
    clock: Clock,
    changed: watch::Sender<Revision>,
}

struct Outcome {
    head: Head,
    results: Vec<Result<Done, StoreError>>,
    effects: Vec<LeaseEffect>,
}

/// Whether the error belongs to one caller, or to the file under all of them.
fn is_of_the_file(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Full
            | StoreError::Corrupt { .. }
            | StoreError::Transient { .. }
            | StoreError::Permanent { .. }
    )
}

impl Writer {
    /// Takes over a checked connection. Every stored lease starts its full time again.
    pub fn new(conn: Connection, clock: Clock) -> Result<Self, StoreError> {
        let head = log::head(&conn).map_err(fault("reading the revision"))?;
        let run = || {
            conn.prepare("SELECT id, ttl, sum FROM lease")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect::<rusqlite::Result<Vec<(i64, i64, i64)>>>()
        };
        let mut leases = BTreeMap::new();
        for (id, ttl, sum) in run().map_err(fault("reading the leases"))? {
            let (id, ttl) = (id as u64, ttl as u64);
            if log::pair_sum(id, ttl) != sum {
                return Err(corrupt(format!("lease {id} does not match its checksum")));
            }
            let ttl = Duration::from_secs(ttl);
            leases.insert(LeaseId(id), Lease { ttl, deadline: clock() + ttl });
        }
        let changed = watch::Sender::new(head.revision);
        Ok(Self { conn, head, leases, clock, changed })
    }

    pub fn subscribe(&self) -> watch::Receiver<Revision> {
        self.changed.subscribe()
    }

    /// Works until nobody can send any more, or until the file is in doubt.
    pub fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            let first = match self.next_deadline() {
                None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(deadline) => {
                    jobs.recv_timeout(deadline.saturating_duration_since((self.clock)()))
                }
            };
            let mut group = match first {
                Ok(job) => vec![job],
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => return self.finish(),
            };
            if !group.is_empty() {
                group.extend(jobs.try_iter().take(MAX_GROUP - 1));
            }
            if let Err(error) = self.expire().and_then(|()| self.serve(group)) {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the store closes itself; open it again to learn what it holds"
                );
                return;
            }
        }
    }

    /// Moves everything into the database file. If that fails, the next opening does it.
    fn finish(self) {
        let moved = self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        if let Err(error) = moved {
            tracing::info!(
                error = &error as &dyn std::error::Error,
                "the write-ahead log stays for the next start"
            );
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.leases.values().map(|lease| lease.deadline).min()
    }

    /// Ends the leases that are due, in the order of their deadlines. Without disk space they
    /// stay, and end as soon as there is some.
    fn expire(&mut self) -> Result<(), StoreError> {
        let now = (self.clock)();
        let mut due: Vec<_> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.deadline <= now)
            .map(|(id, lease)| (lease.deadline, *id))
            .collect();
        due.sort_unstable();
        for (_, id) in due {
            match self.commit(&[Change::Revoke(id)]) {
                Ok(_) => {}
                Err(Failure::RolledBack(error)) if error.is_transient() => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        lease = id.0,
                        "a lease is over but cannot be ended yet"
                    );
                    if let Some(lease) = self.leases.get_mut(&id) {
                        lease.deadline = now + RETRY_EXPIRY;
                    }
                }
                Err(Failure::RolledBack(error) | Failure::InDoubt(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// Commits a group and answers; where the group fails, each member on its own.
    fn serve(&mut self, group: Vec<Job>) -> Result<(), StoreError> {
        if group.is_empty() {
            return Ok(());
        }
        let (changes, answers): (Vec<_>, Vec<_>) =
            group.into_iter().map(|job| (job.change, (job.answer, job.place))).unzip();
        match self.commit(&changes) {
            Ok(results) => {
                for ((answer, _place), result) in answers.into_iter().zip(results) {
                    // A caller that went away reads what happened when it comes back.
                    let _ = answer.send(result);
                }
                return Ok(());
            }
            Err(Failure::InDoubt(error)) => return Err(error),
            Err(Failure::RolledBack(_)) => {}
        }
        for (change, (answer, _place)) in changes.into_iter().zip(answers) {
            let result = match self.commit(&[change]) {
                Ok(mut results) => results.pop().unwrap_or(Err(StoreError::Closed)),
                Err(Failure::InDoubt(error)) => return Err(error),
                Err(Failure::RolledBack(error @ StoreError::Corrupt { .. })) => {
                    let _ = answer.send(Err(StoreError::Closed));
                    return Err(error);
                }
                Err(Failure::RolledBack(error)) => Err(error),
            };
            let _ = answer.send(result);
        }
        Ok(())
    }

    /// One SQLite transaction around all changes.
    fn commit(&mut self, changes: &[Change]) -> Result<Vec<Result<Done, StoreError>>, Failure> {
        let outcome = match self.apply(changes) {
            Ok(outcome) => outcome,
            Err(error) => return Err(self.roll_back(error)),
        };
        if let Err(error) = self.conn.execute_batch("COMMIT") {
            let full = error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull);
            let error = fault("committing")(error);
            // A full disk is known before anything counts as written. Any other failure may
            // have come after, or from the fsync: then only opening again tells.
            return Err(if full { self.roll_back(error) } else { Failure::InDoubt(error) });
        }
        let now = (self.clock)();
        for effect in outcome.effects {
            match effect {
                LeaseEffect::Start(id, ttl) => {
                    self.leases.insert(id, Lease { ttl, deadline: now + ttl });
                }
                LeaseEffect::Touch(id) => {
                    if let Some(lease) = self.leases.get_mut(&id) {
                        lease.deadline = now + lease.ttl;
                    }
                }
                LeaseEffect::End(id) => drop(self.leases.remove(&id)),
            }
        }
        self.head = outcome.head;
        self.changed.send_if_modified(|seen| {
            std::mem::replace(seen, outcome.head.revision) != outcome.head.revision
        });
        Ok(outcome.results)
    }

    fn roll_back(&self, error: StoreError) -> Failure {
        // Some errors make SQLite roll back by itself.
        if !self.conn.is_autocommit()
            && let Err(error) = self.conn.execute_batch("ROLLBACK")
        {
            return Failure::InDoubt(fault("rolling back")(error));
        }
        Failure::RolledBack(error)
    }

    fn apply(&self, changes: &[Change]) -> Result<Outcome, StoreError> {
        self.conn.execute_batch("BEGIN IMMEDIATE").map_err(fault("beginning a transaction"))?;
        let mut outcome = Outcome { head: self.head, results: Vec::new(), effects: Vec::new() };
        for change in changes {
            let result = self.apply_one(change, &mut outcome);
            match result {
                Err(error) if is_of_the_file(&error) => return Err(error),
                result => outcome.results.push(result),
            }
        }
        Ok(outcome)
    }

    /// Checks before it writes, so that an error of its own leaves nothing behind.
    fn apply_one(&self, change: &Change, outcome: &mut Outcome) -> Result<Done, StoreError> {
        let conn = &self.conn;
        match change {
            Change::Txn(txn) => change::apply(conn, &mut outcome.head, txn).map(Done::Txn),
            Change::Grant(ttl) => {
                let id = grant(conn, ttl.as_secs()).map_err(fault("granting a lease"))?;
                outcome.effects.push(LeaseEffect::Start(id, *ttl));
                Ok(Done::Granted(id))
            }
            Change::KeepAlive(id) => {
                if !change::lease_exists(conn, *id)? {
                    return Err(StoreError::LeaseNotFound(*id));
                }
                outcome.effects.push(LeaseEffect::Touch(*id));
                Ok(Done::Unit)
            }
            Change::Revoke(id) => {
                if !change::lease_exists(conn, *id)? {
                    return Err(StoreError::LeaseNotFound(*id));
                }
                change::end_lease(conn, &mut outcome.head, *id)?;
                outcome.effects.push(LeaseEffect::End(*id));
                Ok(Done::Unit)
            }
            Change::Compact(to) => {
                change::compact(conn, outcome.head, *to)?;
                Ok(Done::Unit)
            }
        }
    }
}

fn grant(conn: &Connection, seconds: u64) -> rusqlite::Result<LeaseId> {
    let ttl = i64::try_from(seconds).unwrap_or(i64::MAX);
    conn.execute("INSERT INTO lease (ttl, sum) VALUES (?1, 0)", params![ttl])?;
    let id = conn.last_insert_rowid();
    conn.execute(
        "UPDATE lease SET sum = ?2 WHERE id = ?1",
        params![id, log::pair_sum(id as u64, ttl as u64)],
    )?;
    Ok(LeaseId(id as u64))
}

/// Pause before a lease that could not be ended is tried again: a lease's own unit.
const RETRY_EXPIRY: Duration = Duration::from_secs(1);

enum Failure {
    /// Nothing of it is stored.
    RolledBack(StoreError),
    /// It may be stored; the store must close.
    InDoubt(StoreError),
}
