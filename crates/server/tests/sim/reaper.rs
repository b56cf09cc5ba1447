//! Stops one life of the controller for good: at a point, at a write to its store, or because its time has come.
//! Whoever asks after that waits for ever, as a process does that is no more.

use crate::rig::Rig;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Before or after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Before,
    After,
}

/// Where a life ends by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Not before it is told.
    Open,
    /// At the so-manieth point.
    Point(u64),
    /// At the first point of this name.
    Named(&'static str),
    /// At the so-manieth write to the store.
    Write(u64, Side),
}

pub struct Reaper {
    rig: Arc<Rig>,
    end: End,
    dead: AtomicBool,
    passed: AtomicU64,
    written: AtomicU64,
    cut_until: AtomicU64,
    names: Mutex<Vec<String>>,
}

impl Reaper {
    pub fn new(rig: Arc<Rig>, end: End) -> Arc<Self> {
        Arc::new(Self {
            rig,
            end,
            dead: AtomicBool::new(false),
            passed: AtomicU64::new(0),
            written: AtomicU64::new(0),
            cut_until: AtomicU64::new(0),
            names: Mutex::default(),
        })
    }

    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    pub fn kill(&self) {
        if !self.dead.swap(true, Ordering::Relaxed) {
            self.rig.alarm.notify_one();
        }
    }

    /// Every point passed so far.
    pub fn names(&self) -> Vec<String> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The store cannot be reached before this world time.
    pub fn cut(&self, until_ms: u64) {
        self.cut_until.store(until_ms, Ordering::Relaxed);
    }

    pub fn cut_until(&self) -> u64 {
        self.cut_until.load(Ordering::Relaxed)
    }

    /// The controller passes a point; true if it never leaves it.
    pub fn passes(&self, name: &str) -> bool {
        if self.is_dead() {
            return true;
        }
        let index = self.passed.fetch_add(1, Ordering::Relaxed);
        self.names.lock().unwrap_or_else(PoisonError::into_inner).push(name.to_owned());
        let dies = match &self.end {
            End::Point(at) => *at == index,
            End::Named(at) => *at == name,
            End::Open | End::Write(..) => false,
        };
        if dies {
            self.rig.with(|inner| inner.crashed_at(name));
            self.kill();
        }
        dies
    }

    /// The controller writes to its store; does not return if that is its end.
    pub async fn writes(&self, side: Side) {
        let index = match side {
            Side::Before => self.written.fetch_add(1, Ordering::Relaxed),
            Side::After => self.written.load(Ordering::Relaxed) - 1,
        };
        if self.end == End::Write(index, side) {
            self.rig.with(|inner| {
                let coverage = &mut inner.world.coverage;
                match side {
                    Side::Before => coverage.crashes_before_write += 1,
                    Side::After => coverage.crashes_after_write += 1,
                }
            });
            self.kill();
        }
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
    }
}
