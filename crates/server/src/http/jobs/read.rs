//! Finding a job, or the sub-job of one of its nodes, and everything stored of it.

use std::sync::Arc;

use evenkeel_engine::control::Control;
use evenkeel_engine::ids::{ClusterId, JobId, NodeName};
use evenkeel_engine::sync::{Sync, SyncState, Work};
use evenkeel_engine::time::Time;

use crate::http::ApiState;
use crate::http::convert::{self, JobView, SHARED_ID_START};
use crate::http::error::ApiError;
use crate::http::load::{self, DEFAULT_POOL};
use crate::records::{ClockRecord, JobIndexRecord, JobRecord, PoolRecord, keys};
use crate::store::{Page, Revision};
use crate::sync::board::Snapshot;

/// A job as it stands.
pub(in crate::http) struct Found {
    pub(in crate::http) cluster: ClusterId,
    pub(in crate::http) pool_name: String,
    pub(in crate::http) record: JobRecord,
    pub(in crate::http) sync: Sync,
    pub(in crate::http) snapshot: Option<Arc<Snapshot>>,
    clock: Option<ClockRecord>,
    /// When its verdict was last written.
    pub(in crate::http) state_revision: Revision,
    /// When what people ask of it was last written; none if nobody has asked.
    pub(in crate::http) control_revision: Option<Revision>,
    /// Set if the id was that of a node's sub-job.
    pub(in crate::http) node: Option<NodeName>,
}

impl Found {
    /// The job as the API shows it.
    pub(in crate::http) fn view<'a>(&'a self, wall: &'a dyn Fn(Time) -> i64) -> JobView<'a> {
        let job = &self.sync.spec.job;
        JobView {
            cluster: self.cluster.as_str(),
            pool_name: &self.pool_name,
            record: &self.record,
            sync: &self.sync,
            report: self
                .snapshot
                .as_ref()
                .and_then(|snapshot| snapshot.reports.get(job))
                .map(AsRef::as_ref),
            wall,
        }
    }

    /// The date of a time on the cluster's clock, ms since the epoch.
    pub(in crate::http) fn wall(&self, time: Time) -> i64 {
        match (&self.snapshot, &self.clock) {
            (Some(snapshot), _) => snapshot.wall_at(time),
            (None, Some(clock)) => clock.wall_ms - (clock.at.0 as i64 - time.0 as i64),
            (None, None) => self.record.accepted_ms + time.since(self.sync.state.accepted).0 as i64,
        }
    }
}

/// The job of this id, or the job of which this is a sub-job; 404 otherwise.
pub(in crate::http) async fn find(
    state: &ApiState,
    project: &str,
    id: &str,
) -> Result<Found, ApiError> {
    let missing = || ApiError::not_found("job", id);
    if !load::is_id(id) {
        return Err(missing());
    }
    let job = JobId::new(id);
    if let Some(index) =
        load::find::<JobIndexRecord>(&*state.store, keys::job_index(project, &job)).await?
    {
        return read(state, project, index.record.cluster, job).await?.ok_or_else(missing);
    }
    let Some(start) = id.get(..SHARED_ID_START) else {
        return Err(missing());
    };
    let prefix = keys::job_indexes(project, start);
    for kv in state.store.list(&prefix, Page::all()).await?.items {
        let index: JobIndexRecord = crate::records::decode(&kv.key, &kv.value)?;
        let parent = JobId::new(kv.key.rsplit('/').next().unwrap_or_default());
        let Some(mut found) = read(state, project, index.cluster, parent.clone()).await? else {
            continue;
        };
        let node = found.sync.works().find(|work| convert::sub_job_id(&parent, &work.id) == id);
        if let Some(name) = node.map(|work| work.name.clone()) {
            found.node = Some(name);
            return Ok(found);
        }
    }
    Err(missing())
}

/// Everything stored of a job whose cluster is known.
pub(in crate::http) async fn read(
    state: &ApiState,
    project: &str,
    cluster: ClusterId,
    job: JobId,
) -> Result<Option<Found>, ApiError> {
    let store = &*state.store;
    let Some(record) = load::find::<JobRecord>(store, keys::job(project, &cluster, &job)).await?
    else {
        return Ok(None);
    };
    let Some(stands) =
        load::find::<SyncState>(store, keys::job_state(project, &cluster, &job)).await?
    else {
        return Ok(None);
    };
    let control = load::find::<Control>(store, keys::control(project, &cluster, &job)).await?;
    let works = load::list::<Work>(store, &keys::works(project, &cluster, &job)).await?;
    let record = record.record;
    let pool_name = match record.spec.pool.as_str() {
        DEFAULT_POOL => DEFAULT_POOL.to_owned(),
        _ => load::find::<PoolRecord>(store, keys::pool(project, &cluster, &record.spec.pool))
            .await?
            .map_or_else(|| record.spec.pool.to_string(), |pool| pool.record.name),
    };
    let clock = load::find::<ClockRecord>(store, keys::clock(project, &cluster)).await?;
    let works = works.into_iter().map(|work| work.record);
    let mut sync = Sync::new(record.spec.clone(), stands.record, works);
    let control_revision = control.as_ref().map(|stored| stored.revision);
    sync.control = control.map(|stored| stored.record).unwrap_or_default();
    Ok(Some(Found {
        snapshot: state.board.get(&cluster),
        cluster,
        pool_name,
        sync,
        state_revision: stands.revision,
        control_revision,
        record,
        clock: clock.map(|clock| clock.record),
        node: None,
    }))
}
