//! What running jobs cost their workloads, counted as it happens and stored beside the job, at most once a second.

use crate::records::{self, keys};
use crate::store::{Revision, Store, StoreError, Txn};
use evenkeel_engine::account::Account;
use evenkeel_engine::changes::Changes;
use evenkeel_engine::facts::PodSeen;
use evenkeel_engine::ids::{ClusterId, JobId, NodeName, Uid};
use evenkeel_engine::index::Index;
use evenkeel_engine::sync::Sync;
use evenkeel_engine::time::{Span, Time};
use std::collections::{BTreeMap, BTreeSet};

/// Between two writes of one job's account.
const KEEP_EVERY: Span = Span::secs(1);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Costs {
    accounts: BTreeMap<JobId, Account>,
    dirty: BTreeSet<JobId>,
    kept: BTreeMap<JobId, Time>,
    /// Pods that are counted and not yet gone.
    counted: BTreeSet<Uid>,
}

impl Costs {
    /// Goes on with what was stored.
    pub(super) fn resume(&mut self, job: JobId, account: Account) {
        self.accounts.insert(job, account);
    }

    /// Counts the evictions and the budgets that changed.
    pub(super) fn follow(
        &mut self,
        index: &Index,
        syncs: &BTreeMap<JobId, Sync>,
        changes: &Changes,
        now: Time,
    ) {
        for (uid, ..) in &changes.evicted {
            // Gone before its answer came: whose it was is not known any more.
            if let Some(pod) = index.pod(uid) {
                self.count(index, syncs, pod, false, now);
            }
        }
        for key in &changes.budgets {
            for (job, account) in &mut self.accounts {
                let changed = match index.budget(key) {
                    Some(budget) => account.see_budget(budget, now),
                    None => account.close(Some(key), now),
                };
                if changed {
                    self.dirty.insert(job.clone());
                }
            }
        }
        for (job, account) in &mut self.accounts {
            if !syncs.get(job).is_some_and(Sync::running) && account.close(None, now) {
                self.dirty.insert(job.clone());
            }
        }
    }

    /// A pod was deleted because of `force`.
    pub(super) fn deleted(
        &mut self,
        index: &Index,
        syncs: &BTreeMap<JobId, Sync>,
        uid: &Uid,
        now: Time,
    ) {
        if let Some(pod) = index.pod(uid) {
            self.count(index, syncs, pod, true, now);
        }
    }

    fn count(
        &mut self,
        index: &Index,
        syncs: &BTreeMap<JobId, Sync>,
        pod: &PodSeen,
        deleted: bool,
        now: Time,
    ) {
        let holds = |s: &&Sync, node: &NodeName| s.work(node).is_some_and(|w| w.phase.is_active());
        let Some(node) = &pod.node else {
            return;
        };
        let Some(sync) = syncs.values().find(|s| holds(s, node)) else {
            return;
        };
        if self.counted.insert(pod.uid.clone()) {
            let job = sync.spec.job.clone();
            let account = self.accounts.entry(job.clone()).or_default();
            account.moved(pod, deleted, index.budgets_of(pod), now);
            self.dirty.insert(job);
        }
    }

    /// A pod is gone.
    pub(super) fn forget_pod(&mut self, uid: &Uid) {
        self.counted.remove(uid);
    }

    /// A job that is no longer kept.
    pub(super) fn forget(&mut self, kept: &BTreeMap<JobId, Sync>) {
        let dirty = &self.dirty;
        self.accounts.retain(|job, _| kept.contains_key(job) || dirty.contains(job));
        self.kept.retain(|job, _| kept.contains_key(job));
    }

    /// Stores what is new, as the actor of `epoch`; says when the rest is due. An actor that has been deposed stores
    /// nothing, and learns of it at its next commit.
    pub(super) async fn keep(
        &mut self,
        store: &dyn Store,
        (project, cluster): (&str, &ClusterId),
        epoch: Revision,
        now: Time,
    ) -> Result<Option<Time>, StoreError> {
        let due = |kept: &BTreeMap<JobId, Time>, job: &JobId| {
            kept.get(job).map_or(Time(0), |at| *at + KEEP_EVERY)
        };
        let ready: Vec<JobId> =
            self.dirty.iter().filter(|job| due(&self.kept, job) <= now).cloned().collect();
        for job in ready {
            let Some(account) = self.accounts.get(&job) else {
                continue;
            };
            let key = keys::account(project, cluster, &job);
            let txn = Txn::new().when_create_revision(keys::leader(project, cluster), epoch);
            store.txn(txn.put(key, records::encode(account))).await?;
            self.dirty.remove(&job);
            self.kept.insert(job, now);
        }
        Ok(self.dirty.iter().map(|job| due(&self.kept, job)).min())
    }
}
