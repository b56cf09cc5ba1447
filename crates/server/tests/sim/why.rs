//! How soon a job says why it waits: from the cause in the world, or in the store, to what a reader finds.

use crate::rig::Rig;
use crate::run::{Ask, CLUSTER, PROJECT, Play, Press, Stage};
use evenkeel_engine::ids::{ClusterId, JobId, NodeName};
use evenkeel_engine::report::{self, JobReport, WaitingOn};
use evenkeel_engine::sync::{Status, Sync, SyncState};
use evenkeel_server::records::{self, JobRecord, PaceRecord, keys};
use evenkeel_server::store::{Store, Txn};
use evenkeel_server::windows::{Rule, Window};
use evenkeel_sim::Scenario;
use evenkeel_sim::history::Happened;
use evenkeel_sim::objects::{Amount, Kind, Limit, Workload};
use evenkeel_sim::rng::Rng;
use std::sync::Arc;
use std::time::Duration;

/// What the project promises.
const PROMISED_MS: u64 = 5_000;
/// How finely it is measured.
const LOOK: Duration = Duration::from_millis(50);

struct Watcher {
    stage: Stage,
    rng: Rng,
    job: JobId,
}

impl Watcher {
    async fn begin(play: &Play) -> Self {
        let rig = Rig::start(play.scenario.build(), play.seed, false);
        let mut stage = Stage::new(play, &rig);
        let mut rng = Rng::new(play.seed);
        stage.begin_life(&mut rng);
        let members: Vec<NodeName> = play.pools.values().flatten().cloned().collect();
        stage.enrolled(&members, &mut rng).await.expect("nodes are found");
        stage.assign(&play.pools).await.expect("nodes move");
        let job = stage.accept(&Ask::whole("a", 2)).await.expect("there is something to do");
        Self { stage, rng, job }
    }

    fn report(&self) -> Option<Arc<JobReport>> {
        let snapshot = self.stage.board.get(&ClusterId::new(CLUSTER))?;
        snapshot.reports.get(&self.job).cloned()
    }

    /// Passes time until a reader finds it; returns the world's time then.
    async fn until(&mut self, what: &str, found: impl Fn(&JobReport) -> bool) -> u64 {
        for _ in 0..12_000 {
            if self.report().is_some_and(|report| found(&report)) {
                return self.stage.rig.now();
            }
            self.stage.pass_time(LOOK, &mut self.rng).await.expect("no invariant breaks");
        }
        panic!("{what} did not show; last: {:?}", self.report());
    }

    /// Passes time until an Event on a node says it; returns when it was left.
    async fn told(&mut self, reason: &str, words: &str) -> u64 {
        for _ in 0..12_000 {
            let told = self.stage.rig.with(|inner| {
                let fits =
                    |said: &(NodeName, String, String)| said.1 == reason && said.2.contains(words);
                inner.events.iter().find(|(_, said)| fits(said)).map(|(at, _)| *at)
            });
            if let Some(at) = told {
                return at;
            }
            self.stage.pass_time(LOOK, &mut self.rng).await.expect("no invariant breaks");
        }
        panic!("no Event says {words}");
    }

    /// What a node that has not had its turn is said to wait for, as the API works it out.
    async fn queued(&self) -> Option<WaitingOn> {
        let cluster = ClusterId::new(CLUSTER);
        let key = keys::job(PROJECT, &cluster, &self.job);
        let kv = self.stage.store.get(&key, None).await.expect("memory")?;
        let record: JobRecord = records::decode(&key, &kv.value).expect("ours");
        let state = SyncState {
            status: Status::Running,
            accepted: Default::default(),
            stalled_since: None,
        };
        let snapshot = self.stage.board.get(&cluster)?;
        let report = snapshot.reports.get(&self.job)?;
        let name = record.spec.targets.last()?.name.clone();
        let sync = Sync::new(record.spec, state, []);
        let seen = snapshot.nodes.get(&name).map(AsRef::as_ref);
        Some(report::in_line(&sync, Some(report), &name, seen, snapshot.now).0)
    }
}

fn in_time(what: &str, cause: u64, answer: u64) {
    let took = answer.saturating_sub(cause);
    eprintln!("{what}: {took} ms from the cause to the answer");
    assert!(took <= PROMISED_MS, "{what} took {took} ms");
}

/// Six nodes with two pods each of an app that lets one go at a time.
fn crowded() -> Play {
    let scenario = Scenario::new(11, 6)
        .with(Workload::new("web", Kind::Deployment, 12))
        .guarded("web", Limit::MaxUnavailable(Amount::Pods(1)))
        .with(Workload::new("agent", Kind::DaemonSet, 0));
    let pools = [("a".into(), scenario.node_names())].into();
    Play { scenario, pools, ..crate::small(Vec::new(), false) }
}

/// A budget refuses, a person pauses and resumes, a window closes, a slot is taken: each shows in time.
#[test]
fn the_job_answers_within_five_seconds_of_the_cause() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let play = crowded();
        let mut watcher = Watcher::begin(&play).await;
        let accepted = watcher.stage.rig.now();
        let waits = |report: &JobReport| matches!(report.next, Some(WaitingOn::Canary { .. }));
        let shown = watcher.until("the canary", waits).await;
        in_time("the canary goes first", accepted, shown);
        assert!(matches!(watcher.queued().await, Some(WaitingOn::Canary { node: Some(_) })));

        let held =
            |r: &JobReport| r.nodes.values().any(|on| matches!(on, WaitingOn::Budget { .. }));
        let shown = watcher.until("a budget", held).await;
        let cause = watcher.stage.rig.with(|inner| {
            let refused = |h: &&(u64, Happened)| matches!(h.1, Happened::EvictionRefused { .. });
            inner.world.history.iter().find(refused).map(|(at, _)| *at)
        });
        let cause = cause.expect("a budget refused");
        in_time("a budget refuses", cause, shown);
        let told = watcher.told("Waiting", "is held by budget default/web").await;
        in_time("a budget refuses, as an Event on the node", cause, told);

        let pressed = watcher.stage.rig.now();
        watcher
            .stage
            .presses
            .push((tokio::time::Instant::now(), Press::Pause(Duration::from_mins(1))));
        let paused = |r: &JobReport| matches!(&r.next, Some(WaitingOn::Paused { .. }));
        let shown = watcher.until("the pause", paused).await;
        in_time("a person pauses", pressed, shown);
        let resumed = pressed + 60_000;
        let shown = watcher.until("the end of the pause", |r| !paused(r)).await;
        in_time("a person resumes", resumed, shown);

        let rule = Rule::Cron { cron: "0 0 1 1 *".to_owned(), duration_seconds: Some(60) };
        let window = Window { time_zone: "Europe/Berlin".to_owned(), rule };
        let pace = PaceRecord { windows: vec![window], ..PaceRecord::default() };
        let key = keys::pace(PROJECT, &ClusterId::new(CLUSTER), &"a".into());
        let set = watcher.stage.rig.now();
        let txn = Txn::new().put(key, records::encode(&pace));
        watcher.stage.store.txn(txn).await.expect("memory");
        let closed = |r: &JobReport| matches!(&r.next, Some(WaitingOn::Window { .. }));
        let shown = watcher.until("the window", closed).await;
        in_time("a window closes", set, shown);
        let words = watcher.queued().await.expect("somebody waits").to_string();
        assert!(words.contains("-01-01 00:00 CET"), "{words}");
    });
}
