//! One run: a world, the real actor with its store, jobs, crashes, and the demand that it ends well.

use crate::ports::Outside;
use crate::recorder::Recorder;
use crate::rig::Rig;
use evenkeel_engine::check::Fact;
use evenkeel_engine::ids::{ClusterId, JobId, NodeName, PoolId, TemplateRevision};
use evenkeel_engine::sync::{Policy, Status, SyncSpec, SyncState, TargetNode};
use evenkeel_engine::time::Span;
use evenkeel_server::records::{self, JobRecord, NodeRecord, PoolRecord, Recipe, Template, keys};
use evenkeel_server::store::memory::MemoryStore;
use evenkeel_server::store::{Page, Store, Txn};
use evenkeel_server::sync::actor::{self, Setup};
use evenkeel_server::sync::board::Board;
use evenkeel_server::sync::points::Points;
use evenkeel_sim::rng::Rng;
use evenkeel_sim::{Coverage, World};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

pub const PROJECT: &str = "p";
const CLUSTER: &str = "c";
/// Longest run, in virtual time after the faults: a pool of twelve nodes, one by one, every limit used up.
const RUN_LIMIT: Duration = Duration::from_hours(3);
/// After the last verdict: leftovers of lost answers are cleared away within this, then nothing moves any more.
const SETTLE: Duration = Duration::from_mins(3);
const REST: Duration = Duration::from_mins(5);

/// When the controller dies.
#[derive(Clone, Copy, Debug)]
pub enum Crash {
    /// At the so-manieth point that it passes in this life.
    AtPoint(u64),
    /// After so many milliseconds.
    After(u64),
}

/// One request for a synchronization.
#[derive(Clone, Debug)]
pub struct Ask {
    pub pool: PoolId,
    pub nodes: Option<Vec<NodeName>>,
    pub skipped: Vec<NodeName>,
    pub max_unavailable: u32,
    pub retry_times: u32,
    pub force: bool,
    pub resets: bool,
    pub post_install: bool,
    pub wait_post_install: bool,
    pub canary: bool,
}

impl Ask {
    pub fn whole(pool: &str, max_unavailable: u32) -> Self {
        Self {
            pool: PoolId::new(pool),
            nodes: None,
            skipped: Vec::new(),
            max_unavailable,
            retry_times: 1,
            force: false,
            resets: true,
            post_install: true,
            wait_post_install: true,
            canary: true,
        }
    }
}

/// What is played.
pub struct Play {
    pub seed: u64,
    pub world: World,
    /// Members of each pool; nodes of none stay in DefaultPool.
    pub pools: BTreeMap<PoolId, Vec<NodeName>>,
    /// Rounds of requests; a round begins when the one before has its verdicts.
    pub rounds: Vec<Vec<Ask>>,
    pub crashes: Vec<Crash>,
    pub trace: bool,
}

/// What came of it.
pub struct Ended {
    pub hash: u64,
    pub broken: Option<String>,
    pub coverage: Coverage,
    pub trace: Vec<String>,
    /// Every point passed in the first life.
    pub points: Vec<String>,
    pub verdicts: BTreeMap<JobId, Status>,
    /// Most attempts that a node of any job took.
    pub attempts: u32,
    pub virtual_s: u64,
}

pub fn policy(canary: bool) -> Policy {
    Policy {
        canary,
        drain_timeout: Span::secs(90),
        grace_margin: Span::secs(10),
        yield_after: Span::secs(20),
        drain_tries: 3,
        requeue_pause: Span::secs(5),
        retry_pause: Span::secs(5),
        reach_timeout: Span::secs(45),
        ready_timeout: Span::secs(150),
        settle: Span::secs(3),
        stall_timeout: Span::secs(240),
        sick_after: Span::secs(20),
    }
}

/// Stops the controller at a point, for good.
#[derive(Default)]
struct Reaper {
    dead: AtomicBool,
    passed: AtomicU64,
    at: AtomicU64,
    names: Mutex<Vec<String>>,
}

struct Stage {
    rig: Arc<Rig>,
    store: Recorder,
    board: Board,
    wall_jump: Arc<AtomicI64>,
    reaper: Arc<Reaper>,
    life: Option<JoinHandle<()>>,
    crashes: Vec<Crash>,
    die_at: Option<tokio::time::Instant>,
    verdicts: BTreeMap<JobId, Status>,
    jobs: u32,
}

/// Plays it on a runtime of its own, with time that stands still while anybody works.
pub fn play(play: Play) -> Ended {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(perform(play))
}

async fn perform(play: Play) -> Ended {
    let rig = Rig::start(play.world, play.seed, play.trace);
    let began = rig.now();
    let store = Recorder { store: MemoryStore::new(), rig: rig.clone() };
    let mut crashes = play.crashes;
    crashes.reverse();
    let mut stage = Stage {
        rig: rig.clone(),
        store,
        board: Board::default(),
        wall_jump: Arc::default(),
        reaper: Arc::default(),
        life: None,
        crashes,
        die_at: None,
        verdicts: BTreeMap::new(),
        jobs: 0,
    };
    let mut rng = Rng::new(play.seed ^ 0xc4a5);
    stage.begin_life(&mut rng);
    let result = stage.all(&play.pools, &play.rounds, &mut rng).await;
    if let Some(life) = stage.life.take() {
        life.abort();
    }
    let attempts = stage.attempts().await;
    let points = stage.reaper.names.lock().unwrap_or_else(PoisonError::into_inner).clone();
    rig.with(|inner| {
        if let Err(why) = result {
            inner.broken.get_or_insert(why);
        }
        Ended {
            hash: inner.hash(),
            broken: inner.broken.clone(),
            coverage: inner.world.coverage.clone(),
            trace: inner.trace.take().unwrap_or_default(),
            points,
            verdicts: stage.verdicts.clone(),
            attempts,
            virtual_s: (inner.world.now() - began) / 1000,
        }
    })
}

impl Stage {
    async fn all(
        &mut self,
        pools: &BTreeMap<PoolId, Vec<NodeName>>,
        rounds: &[Vec<Ask>],
        rng: &mut Rng,
    ) -> Result<(), String> {
        let members = pools.values().flatten().cloned().collect::<Vec<_>>();
        self.enrolled(&members, rng).await?;
        self.assign(pools).await?;
        for round in rounds {
            let mut jobs = Vec::new();
            for ask in round {
                if let Some(job) = self.accept(ask).await {
                    jobs.push(job);
                }
            }
            self.verdicts_of(&jobs, rng).await?;
        }
        // Chance faults go on for a while after an early verdict.
        while self.rig.with(|inner| inner.world.faults_on()) {
            self.pass_time(Duration::from_secs(5), rng).await?;
        }
        self.pass_time(SETTLE, rng).await?;
        let before = self.rig.with(|inner| inner.effects);
        self.pass_time(REST, rng).await?;
        let after = self.rig.with(|inner| inner.effects);
        if before != after {
            return Err("L1: it does not come to rest".to_owned());
        }
        self.rig.with(|inner| inner.check.at_rest().map_err(|b| b.to_string()))
    }

    /// A new controller on the same store.
    fn begin_life(&mut self, rng: &mut Rng) {
        self.rig.with(|inner| {
            inner.life += 1;
            inner.note("LIFE begins");
            if inner.life > 1 {
                inner.fact(&Fact::Restarted);
            }
        });
        let first = self.rig.with(|inner| inner.life) == 1;
        self.reaper = Arc::default();
        self.die_at = None;
        self.reaper.at.store(u64::MAX, Ordering::Relaxed);
        match self.crashes.pop() {
            Some(Crash::AtPoint(k)) => self.reaper.at.store(k, Ordering::Relaxed),
            Some(Crash::After(ms)) => {
                self.die_at = Some(tokio::time::Instant::now() + Duration::from_millis(ms));
            }
            None => {}
        }
        // Wall clocks jump while nobody watches.
        if !first && rng.chance(200) {
            let jump = rng.range(0, 7_200_000) as i64 - 3_600_000;
            self.wall_jump.fetch_add(jump, Ordering::Relaxed);
        }
        let (rig, jump) = (self.rig.clone(), self.wall_jump.clone());
        let wall_base = rig.with(|inner| inner.world.wall_at(0));
        let (reaper, alarm) = (self.reaper.clone(), self.rig.clone());
        let hook = move |name: &str| {
            if reaper.dead.load(Ordering::Relaxed) {
                return true;
            }
            let index = reaper.passed.fetch_add(1, Ordering::Relaxed);
            reaper.names.lock().unwrap_or_else(PoisonError::into_inner).push(name.to_owned());
            let dies = index == reaper.at.load(Ordering::Relaxed);
            if dies {
                reaper.dead.store(true, Ordering::Relaxed);
                alarm.alarm.notify_one();
            }
            dies
        };
        let setup = Setup {
            project: PROJECT.to_owned(),
            cluster: ClusterId::new(CLUSTER),
            store: Arc::new(self.store.clone()),
            kube: Arc::new(Outside(self.rig.clone())),
            machines: Arc::new(Outside(self.rig.clone())),
            board: self.board.clone(),
            wall: Arc::new(move || wall_base + rig.now() as i64 + jump.load(Ordering::Relaxed)),
            exclusive: true,
            points: Points::hooked(Arc::new(hook)),
        };
        self.life = Some(tokio::spawn(actor::run(setup)));
    }

    /// Lets time pass; kills and revives the controller as planned.
    async fn pass_time(&mut self, span: Duration, rng: &mut Rng) -> Result<(), String> {
        let until = tokio::time::Instant::now() + span;
        loop {
            let next = self.die_at.map_or(until, |at| at.min(until));
            tokio::select! {
                biased;
                () = self.rig.alarm.notified() => {}
                () = tokio::time::sleep_until(next) => {}
            }
            if let Some(broken) = self.rig.with(|inner| inner.broken.clone()) {
                return Err(broken);
            }
            if self.life.as_ref().is_some_and(JoinHandle::is_finished) {
                return Err("the actor ended or panicked".to_owned());
            }
            let now = tokio::time::Instant::now();
            if self.reaper.dead.load(Ordering::Relaxed) || self.die_at.is_some_and(|at| at <= now) {
                self.crash(rng).await;
            }
            if now >= until {
                return Ok(());
            }
        }
    }

    async fn crash(&mut self, rng: &mut Rng) {
        self.reaper.dead.store(true, Ordering::Relaxed);
        if let Some(life) = self.life.take() {
            life.abort();
            let _ = life.await;
        }
        let down = if rng.chance(300) { rng.range(5_000, 60_000) } else { rng.range(0, 3_000) };
        self.rig.with(|inner| {
            inner.note("LIFE ends");
            inner.life += 1;
            let mut phases: Vec<&str> = inner.phases.values().copied().collect();
            if phases.is_empty() {
                phases.push("Idle");
            }
            for phase in phases {
                inner.world.controller_crashed(phase);
            }
        });
        tokio::time::sleep(Duration::from_millis(down)).await;
        self.begin_life(rng);
    }

    async fn nodes(&self) -> BTreeMap<NodeName, (NodeRecord, u64)> {
        let prefix = keys::nodes(PROJECT, &ClusterId::new(CLUSTER));
        let listing = self.store.store.list(&prefix, Page::all()).await.expect("memory");
        let entry = |kv: &evenkeel_server::store::KeyValue| {
            let record: NodeRecord = records::decode(&kv.key, &kv.value).expect("ours");
            (NodeName::new(&record.name), (record, kv.mod_revision))
        };
        listing.items.iter().map(entry).collect()
    }

    /// Waits until the actor has found every node.
    async fn enrolled(&mut self, wanted: &[NodeName], rng: &mut Rng) -> Result<(), String> {
        for _ in 0..900 {
            let known = self.nodes().await;
            let there = |name: &&NodeName| self.rig.with(|i| i.world.node(name).is_ok());
            if wanted.iter().filter(there).all(|name| known.contains_key(name)) {
                return Ok(());
            }
            self.pass_time(Duration::from_secs(1), rng).await?;
        }
        Err("L6: nodes were not found".to_owned())
    }

    async fn assign(&self, pools: &BTreeMap<PoolId, Vec<NodeName>>) -> Result<(), String> {
        let cluster = ClusterId::new(CLUSTER);
        let known = self.nodes().await;
        for (id, members) in pools {
            let record = PoolRecord {
                id: id.clone(),
                name: id.to_string(),
                spec: serde_json::Value::Null,
                template: Template::default(),
                revision: TemplateRevision::new("r1"),
                proven: None,
                created_ms: 0,
                updated_ms: 0,
            };
            let key = keys::pool(PROJECT, &cluster, id);
            let mut txn = Txn::new().put(key, records::encode(&record));
            for name in members {
                let Some((record, revision)) = known.get(name) else {
                    continue;
                };
                let record = NodeRecord { pool: id.clone(), ..record.clone() };
                let key = keys::node(PROJECT, &cluster, &record.id);
                txn = txn.when_mod_revision(&key, *revision).put(key, records::encode(&record));
            }
            let done = self.store.store.txn(txn).await.map_err(|e| e.to_string())?;
            if !done.succeeded {
                return Err("nodes changed pool under our hands".to_owned());
            }
        }
        Ok(())
    }

    /// Writes what the handler of the API writes when it accepts. `None`: nothing to do.
    async fn accept(&mut self, ask: &Ask) -> Option<JobId> {
        let cluster = ClusterId::new(CLUSTER);
        let known = self.nodes().await;
        let members: BTreeMap<NodeName, TargetNode> = known
            .iter()
            .filter(|(_, (record, _))| record.pool == ask.pool)
            .map(|(n, (r, _))| (n.clone(), TargetNode { id: r.id.clone(), name: n.clone() }))
            .collect();
        let listed = |name: &NodeName| ask.nodes.as_ref().is_none_or(|all| all.contains(name));
        let (skipped, targets): (Vec<_>, Vec<_>) = members
            .iter()
            .filter(|(name, _)| listed(name))
            .map(|(_, t)| t.clone())
            .partition(|t| ask.skipped.contains(&t.name));
        if targets.is_empty() {
            return None;
        }
        self.jobs += 1;
        let job = JobId::new(format!("job-{}", self.jobs));
        let revision = TemplateRevision::new(format!("r{}", self.jobs + 1));
        let pool_key = keys::pool(PROJECT, &cluster, &ask.pool);
        let pool = self.store.store.get(&pool_key, None).await.ok()??;
        let mut pool: PoolRecord = records::decode(&pool_key, &pool.value).ok()?;
        pool.revision = revision.clone();
        let spec = SyncSpec {
            job: job.clone(),
            pool: ask.pool.clone(),
            revision,
            targets: targets.clone(),
            skipped,
            named: ask.nodes.is_some(),
            max_unavailable: ask.max_unavailable,
            retry_times: ask.retry_times,
            force: ask.force,
            resets: ask.resets,
            post_install: ask.post_install,
            wait_post_install: ask.wait_post_install,
            proven: false,
            policy: policy(ask.canary),
        };
        let record = JobRecord {
            spec,
            template: Template::default(),
            recipe: Recipe::None,
            fingerprint: job.to_string(),
            ignored: Vec::new(),
            requested_by: "sim".to_owned(),
            request_id: job.to_string(),
            accepted_ms: 0,
            authorized_keys: None,
        };
        let now = self.board.get(&cluster).map_or_else(Default::default, |s| s.now);
        let state = SyncState { status: Status::Running, accepted: now, stalled_since: None };
        let active = keys::active(PROJECT, &cluster, &ask.pool);
        let txn = Txn::new()
            .when_absent(&active)
            .put(keys::job(PROJECT, &cluster, &job), records::encode(&record))
            .put(keys::job_state(PROJECT, &cluster, &job), records::encode(&state))
            .put(active, records::encode(&job))
            .put(pool_key, records::encode(&pool));
        self.rig.with(|inner| {
            inner.note(&format!("ACCEPTED {job} {ask:?}"));
            inner.fact(&Fact::Accepted {
                job: job.clone(),
                members: members.keys().cloned().collect(),
                targets: targets.iter().map(|t| t.name.clone()).collect(),
                max_unavailable: ask.max_unavailable,
                force: ask.force,
                canary: ask.canary,
            });
        });
        let done = self.store.store.txn(txn).await.expect("memory");
        assert!(done.succeeded, "the pool was still taken after its verdict");
        Some(job)
    }

    async fn verdicts_of(&mut self, jobs: &[JobId], rng: &mut Rng) -> Result<(), String> {
        let cluster = ClusterId::new(CLUSTER);
        let mut calm = Duration::ZERO;
        while calm < RUN_LIMIT {
            let mut open = 0;
            for job in jobs {
                let key = keys::job_state(PROJECT, &cluster, job);
                let kv = self.store.store.get(&key, None).await.expect("memory");
                let kv = kv.ok_or_else(|| format!("S10: {job} is gone"))?;
                let state: SyncState = records::decode(&key, &kv.value).expect("ours");
                if state.status == Status::Running {
                    open += 1;
                } else {
                    self.verdicts.insert(job.clone(), state.status);
                }
            }
            if open == 0 {
                return Ok(());
            }
            let step = Duration::from_secs(2);
            self.pass_time(step, rng).await?;
            if !self.rig.with(|inner| inner.world.faults_on()) {
                calm += step;
            }
        }
        let why = self.board.get(&cluster).map(|s| format!("{:?}", s.reports));
        Err(format!("L1: no verdict; reports: {}", why.unwrap_or_default()))
    }

    async fn attempts(&self) -> u32 {
        let prefix = format!("{}works/", keys::inside(PROJECT, &ClusterId::new(CLUSTER)));
        let listing = self.store.store.list(&prefix, Page::all()).await.expect("memory");
        let works = listing.items.iter().map(|kv| {
            records::decode::<evenkeel_engine::sync::Work>(&kv.key, &kv.value).expect("ours")
        });
        works.map(|w| w.attempt).max().unwrap_or(0)
    }
}
