//! Removes jobs that ended long ago, with their nodes' works, their outputs and what hosts were given.
//!
//! Entry point: [`Round::run`], beside the actor and under its epoch. Deliberately absent: a clock of its own; ages
//! are on the cluster's clock, so a server that was off keeps jobs longer, never shorter.

use super::ports::Machines;
use crate::records::{self, keys};
use crate::store::{Page, Revision, Store, StoreError, Txn};
use evenkeel_engine::ids::{ClusterId, JobId};
use evenkeel_engine::sync::{Status, SyncState};
use evenkeel_engine::time::{Span, Time};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// How often it is looked for old jobs. They are kept for days; minutes do not matter.
const EVERY: Duration = Duration::from_mins(5);
/// Most jobs removed at a time: a shorter retention than before must not hold up the store.
const JOBS_MAX: usize = 50;
/// Deletions in one transaction; etcd takes 128 operations.
const WORKS_MAX: usize = 100;

/// When to look. Not at once: the view of the cluster is not complete then.
pub(super) fn every() -> tokio::time::Interval {
    tokio::time::interval_at(tokio::time::Instant::now() + EVERY, EVERY)
}

/// One look for old jobs.
pub(super) struct Round {
    pub(super) project: String,
    pub(super) cluster: ClusterId,
    pub(super) store: Arc<dyn Store>,
    pub(super) machines: Arc<dyn Machines>,
    pub(super) epoch: Revision,
    pub(super) now: Time,
    /// How long an ended job is kept.
    pub(super) keep: Span,
    /// Jobs that the actor still has in hand, or that a node's mark names: a node that a failed run left cordoned
    /// says why as long as it stays so.
    pub(super) referred: BTreeSet<JobId>,
}

impl Round {
    /// Removes what is too old; how many jobs those were. A job whose files cannot be removed stays for the next
    /// round.
    pub(super) async fn run(&self) -> Result<usize, StoreError> {
        let prefix = keys::job_states(&self.project, &self.cluster);
        let listing = self.store.list(&prefix, Page::all()).await?;
        let mut gone = 0;
        for kv in &listing.items {
            let Some(job) = kv.key.strip_prefix(&prefix).map(JobId::new) else {
                continue;
            };
            let state: SyncState = match records::decode(&kv.key, &kv.value) {
                Ok(state) => state,
                Err(error) => {
                    tracing::error!(error = super::chain(&error), "a record is damaged and stays");
                    continue;
                }
            };
            if gone == JOBS_MAX || !self.is_over(&job, &state) {
                continue;
            }
            match self.remove(&job).await? {
                Removed::Yes => gone += 1,
                Removed::NotNow => {}
                Removed::Deposed => break,
            }
        }
        if gone > 0 {
            tracing::info!(cluster.id = %self.cluster, jobs = gone, "old jobs are removed");
        }
        Ok(gone)
    }

    fn is_over(&self, job: &JobId, state: &SyncState) -> bool {
        let (Status::Success { at } | Status::Failed { at, .. }) = &state.status else {
            return false;
        };
        self.now - *at >= self.keep && !self.referred.contains(job)
    }

    /// Files first: a crash in between leaves a job without outputs, never outputs that no job names.
    async fn remove(&self, job: &JobId) -> Result<Removed, StoreError> {
        if let Err(fault) = self.machines.forget(job).await {
            tracing::warn!(job.id = %job, error = super::chain(&fault), "an old job stays for now");
            return Ok(Removed::NotNow);
        }
        let (project, cluster) = (&self.project, &self.cluster);
        let leader = keys::leader(project, cluster);
        let fenced = || Txn::new().when_create_revision(&leader, self.epoch);
        let works = self.store.list(&keys::works(project, cluster, job), Page::all()).await?;
        for chunk in works.items.chunks(WORKS_MAX) {
            let txn = chunk.iter().fold(fenced(), |txn, kv| txn.delete(&kv.key));
            if !self.store.txn(txn).await?.succeeded {
                return Ok(Removed::Deposed);
            }
        }
        let txn = fenced()
            .delete(keys::job(project, cluster, job))
            .delete(keys::job_index(project, job))
            .delete(keys::job_place(job))
            .delete(keys::control(project, cluster, job))
            .delete(keys::account(project, cluster, job))
            .delete(keys::job_state(project, cluster, job));
        let done = self.store.txn(txn).await?;
        Ok(if done.succeeded { Removed::Yes } else { Removed::Deposed })
    }
}

enum Removed {
    Yes,
    NotNow,
    Deposed,
}

#[cfg(test)]
mod tests;
