//! Who goes next: the waiting nodes of each running job, kept in the order in which they would be taken.
//!
//! Among nodes whose pods could all be evicted now, the one with the longest budget chain ahead of it goes first:
//! `remaining pods x recovery / allowed at once`, the largest over its budgets; then the longest drain, then zone
//! after zone, then the name. If all would wait, the one that stops waiting first. While a configuration is being
//! proven, the emptiest goes first: the fewest pods depend on it.
//!
//! The entry points are [`Order::follow`], once a turn, and [`Line::best`], once per free slot. Following costs
//! O(nodes that changed and nodes under a budget that changed its mind), never O(pool); choosing costs O(log n).

mod guard;
mod line;
mod load;
mod pick;

pub use line::{Line, Zone};
pub use load::Load;
pub use pick::{Choice, Rule, Wish};

use crate::changes::Changes;
use crate::ids::JobId;
use crate::index::Index;
use crate::learn::Learned;
use crate::ledger::Ledger;
use crate::steer::Steering;
use crate::sync::Sync;
use crate::time::Time;
use std::collections::BTreeMap;

/// What the order is made from.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    /// The cluster as last seen.
    pub index: &'a Index,
    /// What came back from our own actions.
    pub ledger: &'a Ledger,
    /// What earlier nodes taught.
    pub learned: &'a Learned,
    /// Now.
    pub now: Time,
}

/// The lines of all running jobs.
#[derive(Clone, Debug, Default)]
pub struct Order {
    lines: BTreeMap<JobId, Line>,
    steering: Steering,
}

impl Order {
    /// Brings every line up to date. Call it before each decision, with everything that changed since the last call.
    pub fn follow<'a>(
        &mut self,
        sight: &Sight<'_>,
        changes: &Changes,
        syncs: impl Iterator<Item = &'a Sync>,
    ) {
        let running: Vec<&Sync> = syncs.filter(|s| s.running()).collect();
        self.steering.follow(sight.index, changes, &running);
        let mut kept = BTreeMap::new();
        for sync in running {
            let job = &sync.spec.job;
            let line = match self.lines.remove(job) {
                Some(mut line) if !changes.everything => {
                    line.follow(sight, sync, changes);
                    line
                }
                Some(old) => Line::new(sight, sync, old.looked()),
                None => Line::new(sight, sync, 0),
            };
            kept.insert(job.clone(), line);
        }
        self.lines = kept;
    }

    /// The line of a job.
    pub fn line(&self, job: &JobId) -> Option<&Line> {
        self.lines.get(job)
    }

    /// Who is to be avoided by pods, and is not yet, or no longer.
    pub fn steering(&self) -> &Steering {
        &self.steering
    }

    /// How many nodes have been looked at since the beginning: what a decision costs.
    pub fn looked(&self) -> u64 {
        self.lines.values().map(Line::looked).sum()
    }
}
