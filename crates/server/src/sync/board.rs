//! What the actors publish for readers: a copy of the nodes as last seen, and why each job waits.
//!
//! Nothing here is the truth about a job: that is in the store. A reader that finds no snapshot says so.

use super::desk::Desks;
use evenkeel_engine::facts::NodeSeen;
use evenkeel_engine::ids::{ClusterId, JobId, NodeName};
use evenkeel_engine::report::JobReport;
use evenkeel_engine::time::Time;
use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

/// The state of one cluster, as its actor last published it. Parts are shared, so a copy is cheap.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Whether the watches are up.
    pub live: bool,
    /// Why not, in words for people.
    pub trouble: Option<String>,
    /// All Node objects.
    pub nodes: Arc<BTreeMap<NodeName, Arc<NodeSeen>>>,
    /// Running jobs.
    pub reports: BTreeMap<JobId, Arc<JobReport>>,
    /// The cluster's clock at publication.
    pub now: Time,
    /// The wall clock at that moment, ms since the epoch: turns a [`Time`] into a date.
    pub wall_ms: i64,
}

impl Snapshot {
    /// The wall clock at a time of the cluster's clock.
    pub fn wall_at(&self, time: Time) -> i64 {
        self.wall_ms - (self.now.0 as i64 - time.0 as i64)
    }
}

/// Snapshots of all clusters, and the desks at which their actors answer questions.
#[derive(Clone, Debug, Default)]
pub struct Board {
    snapshots: Arc<RwLock<BTreeMap<ClusterId, Arc<Snapshot>>>>,
    desks: Desks,
}

impl Board {
    /// Where actors answer.
    pub fn desks(&self) -> &Desks {
        &self.desks
    }

    /// The last snapshot of a cluster; `None` until its actor has published one.
    pub fn get(&self, cluster: &ClusterId) -> Option<Arc<Snapshot>> {
        self.snapshots.read().unwrap_or_else(|poisoned| poisoned.into_inner()).get(cluster).cloned()
    }

    /// Replaces the snapshot of a cluster.
    pub fn publish(&self, cluster: &ClusterId, snapshot: Snapshot) {
        self.snapshots
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .insert(cluster.clone(), Arc::new(snapshot));
    }
}
