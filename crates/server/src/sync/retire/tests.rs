#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;
use crate::store::memory::MemoryStore;
use crate::sync::ports::{Fault, HostOrder, HostState, Target};
use async_trait::async_trait;
use std::sync::Mutex;
use tokio::sync::mpsc;

const DAY: Span = Span::mins(24 * 60);

/// Forgets what it is told to, but for the job `stuck`.
#[derive(Default)]
struct Files(Mutex<Vec<JobId>>);

#[async_trait]
impl Machines for Files {
    async fn probe(&self, _: &JobId, _: &Target) -> Result<(), Fault> {
        Ok(())
    }

    async fn run(&self, _: &HostOrder, _: mpsc::Sender<HostState>) -> Result<HostState, Fault> {
        Ok(HostState::Succeeded { ended_host_ms: None })
    }

    async fn forget(&self, job: &JobId) -> Result<(), Fault> {
        if job.as_str() == "stuck" {
            return Err(Fault::transient("the disk does not answer"));
        }
        self.0.lock().unwrap().push(job.clone());
        Ok(())
    }
}

struct Case {
    store: Arc<MemoryStore>,
    files: Arc<Files>,
    epoch: Revision,
}

impl Case {
    async fn new() -> Self {
        let store = Arc::new(MemoryStore::new());
        let leader = keys::leader("p", &ClusterId::new("c"));
        let epoch = store.txn(Txn::new().put(leader, b"actor".to_vec())).await.unwrap().revision;
        Self { store, files: Arc::default(), epoch }
    }

    async fn job(&self, name: &str, status: Status, nodes: usize) {
        let (cluster, job) = (ClusterId::new("c"), JobId::new(name));
        let state = SyncState { status, accepted: Time(0), stalled_since: None };
        let txn = Txn::new()
            .put(keys::job("p", &cluster, &job), b"header".to_vec())
            .put(keys::job_index("p", &job), b"index".to_vec())
            .put(keys::job_state("p", &cluster, &job), records::encode(&state));
        self.store.txn(txn).await.unwrap();
        for node in 0..nodes {
            let key = keys::work("p", &cluster, &job, &format!("n{node}").as_str().into());
            self.store.txn(Txn::new().put(key, b"work".to_vec())).await.unwrap();
        }
    }

    async fn round(&self, now: Time, epoch: Revision, referred: &[&str]) -> usize {
        let round = Round {
            project: "p".into(),
            cluster: ClusterId::new("c"),
            store: self.store.clone(),
            machines: self.files.clone(),
            epoch,
            now,
            keep: Span(30 * DAY.0),
            referred: referred.iter().map(|job| JobId::new(*job)).collect(),
        };
        round.run().await.unwrap()
    }

    /// Keys that name the job.
    async fn left(&self, job: &str) -> usize {
        let all = self.store.list("p/", Page::all()).await.unwrap();
        all.items.iter().filter(|kv| kv.key.split('/').any(|part| part == job)).count()
    }
}

fn ended(day: u64) -> Status {
    Status::Failed { at: Time(day * DAY.0), reason: "it was too hard".into() }
}

#[tokio::test]
async fn a_job_goes_with_everything_when_its_time_is_over() {
    let case = Case::new().await;
    case.job("first", ended(1), 250).await;
    case.job("second", Status::Success { at: Time(2 * DAY.0) }, 3).await;
    case.job("running", Status::Running, 1).await;
    assert_eq!(case.round(Time(31 * DAY.0 - 1), case.epoch, &[]).await, 0);
    assert_eq!(case.left("first").await, 253);
    assert_eq!(case.round(Time(31 * DAY.0), case.epoch, &[]).await, 1);
    assert_eq!((case.left("first").await, case.left("second").await), (0, 6));
    assert_eq!(case.round(Time(900 * DAY.0), case.epoch, &[]).await, 1);
    assert_eq!((case.left("second").await, case.left("running").await), (0, 4));
    assert_eq!(*case.files.0.lock().unwrap(), [JobId::new("first"), JobId::new("second")]);
}

#[tokio::test]
async fn a_job_stays_while_a_node_names_it_or_its_files_stay() {
    let case = Case::new().await;
    case.job("marked", ended(1), 1).await;
    case.job("stuck", ended(1), 1).await;
    let late = Time(99 * DAY.0);
    assert_eq!(case.round(late, case.epoch, &["marked"]).await, 0);
    assert_eq!((case.left("marked").await, case.left("stuck").await), (4, 4));
    assert_eq!(case.round(late, case.epoch + 1, &[]).await, 0, "another actor has taken over");
    assert_eq!(case.left("marked").await, 4);
    assert_eq!(case.round(late, case.epoch, &[]).await, 1);
    assert_eq!((case.left("marked").await, case.left("stuck").await), (0, 4));
}
