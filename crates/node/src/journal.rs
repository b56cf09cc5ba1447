//! The journal of one order: one JSON object a line, each on the disk before what it announces
//! happens. [`fold`] turns the lines into a [`Progress`] and is pure.
//!
//! Deliberately absent: secrets. The order is kept as names, sizes and hashes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::host::now_ms;
use crate::protocol::{
    MachineIdentity, Order, OrderId, Outcome, Progress, Sha256Hex, State, Step, StepResult,
};
use crate::store::{Store, StoreError, at, check_format, open_lock, private_dir, sync_parent};

/// Kept free for the last lines when the disk is full; a journal has some 20 lines of 200 bytes.
const RESERVE_BYTES: usize = 16 * 1024;

/// Version of the lines; raised when an older binary would misread them. Such a binary refuses.
const FORMAT: u32 = 1;

/// Most runners of one order: a step that brings its host down each time must end some day.
const RUNNERS_MAX: usize = 4;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Wall clock, for people.
    pub at_ms: u64,
    /// Boot in which it was written.
    pub boot_id: String,
    /// What happened.
    #[serde(flatten)]
    pub entry: Entry,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub enum Entry {
    /// First line.
    Accepted {
        /// [`FORMAT`] of the whole journal.
        format: u32,
        /// Epoch of the controller.
        epoch: u64,
        /// Checked against the host.
        machine: MachineIdentity,
        /// What will be done.
        steps: Vec<StepDigest>,
    },
    /// A runner has begun. There is a second one only after a reboot, see [`Folded::goes_on`].
    Runner {
        /// Session of the runner and of its scripts.
        session: i32,
    },
    /// Written before a step begins.
    Started {
        /// Name of the step.
        step: String,
    },
    /// Written after a step.
    Ended(StepResult),
    /// Written by whoever finds that the runner is gone.
    Interrupted {
        /// Step that was running; empty when none was.
        step: String,
        /// For people.
        reason: String,
    },
}

/// A step without its secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepDigest {
    /// [`Step::name`].
    pub name: String,
    /// Hash of the script; absent for login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256Hex>,
    /// See [`Step::time_limit_s`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_limit_s: Option<u64>,
    /// See [`Step::resumes`].
    pub resumes: bool,
}

impl StepDigest {
    /// Leaves the secrets out.
    pub fn of(step: &Step) -> Self {
        let script = step.script().ok().flatten();
        Self {
            name: step.name().to_owned(),
            sha256: script.map(|bytes| Sha256Hex::of(&bytes)),
            time_limit_s: step.time_limit_s(),
            resumes: step.resumes(),
        }
    }
}

/// What the lines of a journal say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folded {
    /// Steps of the order.
    pub steps: Vec<StepDigest>,
    /// Session and boot of the last runner, once there was one.
    pub runner: Option<(i32, String)>,
    runners: usize,
    /// Where the order stands, as far as the journal knows.
    pub state: State,
    /// See [`Progress::step`].
    pub step: Option<String>,
    /// See [`Progress::steps`].
    pub results: Vec<StepResult>,
    started_ms: u64,
    ended_ms: Option<u64>,
}

/// Reads the lines in order; `None` when there is no order in them.
pub fn fold(lines: &[Line]) -> Option<Folded> {
    let (first, rest) = lines.split_first()?;
    let Entry::Accepted { steps, .. } = &first.entry else {
        return None;
    };
    let mut folded = Folded {
        steps: steps.clone(),
        runner: None,
        runners: 0,
        state: State::Accepted,
        step: None,
        results: Vec::new(),
        started_ms: first.at_ms,
        ended_ms: None,
    };
    for line in rest {
        if folded.state.is_final() {
            break;
        }
        folded.apply(line);
    }
    Some(folded)
}

impl Folded {
    fn apply(&mut self, line: &Line) {
        match &line.entry {
            Entry::Accepted { .. } => {}
            Entry::Runner { session } => {
                self.runner = Some((*session, line.boot_id.clone()));
                self.runners += 1;
                self.state = State::Running;
            }
            Entry::Started { step } => self.step = Some(step.clone()),
            Entry::Ended(result) => {
                self.results.push(result.clone());
                if result.outcome != Outcome::Ok {
                    let reason = result.outcome.to_string();
                    self.state = State::Failed { step: result.name.clone(), reason };
                } else {
                    self.step = None;
                    if self.results.len() == self.steps.len() {
                        self.state = State::Succeeded;
                    }
                }
            }
            Entry::Interrupted { step, reason } => {
                self.state = State::Interrupted { step: step.clone(), reason: reason.clone() };
            }
        }
        if self.state.is_final() {
            self.ended_ms = Some(line.at_ms);
        }
    }

    /// Whether a new runner may take the order up after a reboot: nothing of the old one lives, and what
    /// it was at may be run again. Where only the runner was killed this is never so: what its script has
    /// started may still run.
    pub fn goes_on(&self, boot_id: &str) -> bool {
        let rebooted = self.runner.as_ref().is_some_and(|(_, boot)| boot != boot_id);
        let at = self.step.as_ref().map(|name| self.steps.iter().find(|step| step.name == *name));
        let again = at.is_none_or(|step| step.is_some_and(|step| step.resumes));
        rebooted && again && !self.state.is_final() && self.runners < RUNNERS_MAX
    }

    /// As the controller wants it.
    pub fn progress(self, id: &OrderId, output_len: u64, boot_id: String) -> Progress {
        let waits = self.goes_on(&boot_id);
        Progress {
            id: id.clone(),
            state: if waits { State::Accepted } else { self.state },
            step: self.step,
            started_ms: Some(self.started_ms),
            ended_ms: self.ended_ms,
            steps: self.results,
            output_len,
            boot_id,
        }
    }
}

/// Reads a journal; `None` when there is none, or none that got as far as its first line.
pub fn read(store: &Store, id: &OrderId) -> Result<Option<Vec<Line>>, StoreError> {
    let path = store.order_dir(id).join("journal");
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => at("read", &path, other)?,
    };
    at("understand", &path, known_format(&bytes))?;
    // A line cut short by a power failure announced something that then did not happen.
    let lines = bytes.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
    let lines: Vec<Line> = lines.collect();
    Ok(fold(&lines).is_some().then_some(lines))
}

fn known_format(bytes: &[u8]) -> io::Result<()> {
    #[derive(Deserialize)]
    struct Written {
        format: u32,
    }
    let first = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    match serde_json::from_slice::<Written>(first) {
        Ok(Written { format }) => check_format(format, FORMAT),
        Err(_) => Ok(()),
    }
}

/// A journal open for writing.
#[derive(Debug)]
pub struct Journal {
    store: Store,
    id: OrderId,
    path: PathBuf,
    boot_id: String,
    file: File,
    written: Vec<u8>,
    /// Locks that are held until the journal is closed; a second one only after the directory
    /// was deleted under a running order.
    locks: Vec<File>,
}

impl Journal {
    /// Writes the first line of a new order. Whatever a crash left of an earlier try is replaced.
    pub fn create(store: &Store, order: &Order, boot_id: &str) -> Result<Self, StoreError> {
        private_dir(&store.order_dir(&order.id))?;
        let path = store.order_dir(&order.id).join("journal");
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).write(true).mode(0o600);
        let file = at("create", &path, options.open(&path))?;
        let mut journal = Self {
            store: store.clone(),
            id: order.id.clone(),
            path,
            boot_id: boot_id.to_owned(),
            file,
            written: Vec::new(),
            locks: Vec::new(),
        };
        journal.set_reserve()?;
        journal.append(Entry::Accepted {
            format: FORMAT,
            epoch: order.epoch,
            machine: order.machine.clone(),
            steps: order.steps.iter().map(StepDigest::of).collect(),
        })?;
        sync_parent(&journal.path)?;
        sync_parent(&store.order_dir(&order.id))?;
        Ok(journal)
    }

    /// Opens the journal of an order and takes its runner lock, waiting when `wait`. `None` when
    /// the lock is taken.
    pub fn open(
        store: &Store,
        id: &OrderId,
        boot_id: &str,
        wait: bool,
    ) -> Result<Option<Self>, StoreError> {
        let lock_path = store.runner_lock_path(id);
        let lock = open_lock(&lock_path)?;
        if wait {
            at("lock", &lock_path, lock.lock())?;
        } else {
            match lock.try_lock() {
                Err(fs::TryLockError::WouldBlock) => return Ok(None),
                Err(fs::TryLockError::Error(error)) => at("lock", &lock_path, Err(error))?,
                Ok(()) => {}
            }
        }
        let path = store.order_dir(id).join("journal");
        let file = at("open", &path, OpenOptions::new().append(true).open(&path))?;
        let mut written = at("read", &path, fs::read(&path))?;
        if !written.is_empty() && !written.ends_with(b"\n") {
            written.push(b'\n');
            at("write", &path, (&file).write_all(b"\n"))?;
        }
        Ok(Some(Self {
            store: store.clone(),
            id: id.clone(),
            path,
            boot_id: boot_id.to_owned(),
            file,
            written,
            locks: vec![lock],
        }))
    }

    /// Puts a line on the disk.
    pub fn append(&mut self, entry: Entry) -> Result<(), StoreError> {
        self.restore()?;
        let line = Line { at_ms: now_ms(), boot_id: self.boot_id.clone(), entry };
        let mut bytes =
            at("write", &self.path, serde_json::to_vec(&line).map_err(io::Error::other))?;
        bytes.push(b'\n');
        let mut written = self.write(&bytes);
        if written.is_err() && fs::remove_file(self.path.with_extension("reserve")).is_ok() {
            written = self.write(&bytes);
        }
        at("write", &self.path, written)?;
        self.written.extend_from_slice(&bytes);
        Ok(())
    }

    /// Puts journal and lock back when a script has deleted them: without them a new order would
    /// find an idle host.
    pub fn restore(&mut self) -> Result<(), StoreError> {
        let there = fs::metadata(&self.path).map(|found| found.ino());
        let ours = at("look at", &self.path, self.file.metadata())?;
        if there.is_ok_and(|ino| ino == ours.ino()) {
            return Ok(());
        }
        private_dir(&self.store.order_dir(&self.id))?;
        let lock = open_lock(&self.store.runner_lock_path(&self.id))?;
        // Somebody who only looks may hold it for a moment; the journal must not wait for that.
        if lock.try_lock().is_ok() {
            self.locks.push(lock);
        }
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).write(true).mode(0o600);
        self.file = at("create", &self.path, options.open(&self.path))?;
        at("write", &self.path, self.file.write_all(&self.written))?;
        at("sync", &self.path, self.file.sync_all())?;
        sync_parent(&self.path)?;
        if let Some(Line { entry: Entry::Accepted { epoch, .. }, .. }) = self.lines().first() {
            let fence = self.store.fence()?.raised(&self.id, *epoch);
            self.store.set_fence(&fence)?;
        }
        Ok(())
    }

    /// What has been written so far.
    pub fn lines(&self) -> Vec<Line> {
        let lines = self.written.split(|b| *b == b'\n');
        lines.filter_map(|line| serde_json::from_slice(line).ok()).collect()
    }

    fn set_reserve(&self) -> Result<(), StoreError> {
        let path = self.path.with_extension("reserve");
        // Not zeros: some file systems would not give them blocks.
        at("write", &path, fs::write(&path, [0x5a_u8; RESERVE_BYTES]))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let done = self.file.write_all(bytes).and_then(|()| self.file.sync_data());
        if done.is_err() {
            self.file.set_len(self.written.len() as u64)?;
        }
        done
    }
}
