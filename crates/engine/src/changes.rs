//! What has changed since the last decision, so that nothing else has to be looked at.
//!
//! The index, the ledger and each job note their own changes; [`Changes::take`] collects them once a turn. Absent on
//! purpose: what changed about it. Whoever follows reads that where it is kept.

use crate::ids::{JobId, NodeName, ObjectKey, Uid};
use crate::index::Index;
use crate::ledger::Ledger;
use crate::sync::Sync;
use crate::time::Time;
use std::collections::{BTreeMap, BTreeSet};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Nodes that changed, or whose pods did.
    pub nodes: BTreeSet<NodeName>,
    /// Budgets whose status changed, or under which we evicted.
    pub budgets: BTreeSet<ObjectKey>,
    /// Which pods a budget covers has changed somewhere: everything has to be looked at.
    pub everything: bool,
    /// Nodes with a new standing, by job.
    pub moved: BTreeMap<JobId, BTreeSet<NodeName>>,
    /// Budgets that have more healthy pods than before, and how many more.
    pub rises: Vec<(ObjectKey, u32)>,
    /// Evictions that the server accepted.
    pub evicted: Vec<(Uid, Option<ObjectKey>, Time)>,
}

impl Changes {
    /// Collects what has changed since the last call.
    pub fn take<'a>(
        index: &mut Index,
        ledger: &mut Ledger,
        syncs: impl Iterator<Item = &'a mut Sync>,
    ) -> Self {
        let mut changes = index.take_changes();
        let ours = ledger.take_changes();
        changes.budgets.extend(ours.budgets);
        for (uid, _, _) in &ours.evicted {
            changes.nodes.extend(index.pod(uid).and_then(|pod| pod.node.clone()));
        }
        changes.evicted = ours.evicted;
        for sync in syncs {
            let moved = sync.take_moved();
            if !moved.is_empty() {
                changes.moved.insert(sync.spec.job.clone(), moved);
            }
        }
        changes
    }
}
