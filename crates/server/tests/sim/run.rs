//! One run: a world, the real actor with its store, jobs, crashes, and the demand that it ends well.

use crate::ports::Outside;
use crate::reaper::{End, Reaper, Side};
use crate::recorder::Recorder;
use crate::rig::Rig;
use evenkeel_engine::check::Fact;
use evenkeel_engine::ids::{ClusterId, JobId, NodeName, PoolId, TemplateRevision};
use evenkeel_engine::sync::{Awaited, Policy, Status, SyncSpec, SyncState, TargetNode};
use evenkeel_engine::time::Span;
use evenkeel_server::records::{
    self, Dress, JobRecord, NodeRecord, PaceRecord, PoolRecord, Recipe, Taint, Template, keys,
};
use evenkeel_server::store::memory::MemoryStore;
use evenkeel_server::store::{Page, Store, Txn};
use evenkeel_server::sync::actor::{self, Setup};
use evenkeel_server::sync::board::Board;
use evenkeel_server::sync::points::Points;
use evenkeel_sim::rng::Rng;
use evenkeel_sim::{Coverage, Scenario};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

pub const PROJECT: &str = "p";
pub const CLUSTER: &str = "c";
/// Longest run, in virtual time after the faults: a pool of twelve nodes, one by one, every limit used up.
const RUN_LIMIT: Duration = Duration::from_hours(3);
/// After the last verdict: leftovers of lost answers are cleared away within this, then nothing moves any more.
const SETTLE: Duration = Duration::from_mins(3);
const REST: Duration = Duration::from_mins(5);

/// How long a run goes on whose faults never stop.
const SAFETY_SPAN: Duration = Duration::from_mins(20);
/// A controller that was usurped is given so long, once it reaches its store again, to find that out.
const ZOMBIE_MS: u64 = 20_000;

/// What befalls the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// It dies at the so-manieth point that it passes in this life.
    AtPoint(u64),
    /// It dies at the first point of this name.
    AtNamed(&'static str),
    /// It dies before or after the so-manieth write to the store.
    AtWrite(u64, Side),
    /// It dies after so many milliseconds.
    After(u64),
    /// It lives on, but loses its store for longer than its lease lasts, and another controller takes over.
    Usurped {
        /// When, in milliseconds.
        after_ms: u64,
        /// How long it is without its store.
        cut_ms: u64,
    },
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
    /// Conditions that are awaited; the world's agents set them.
    pub initialized: Vec<String>,
    /// Whether the pool has a taint beside its label.
    pub taint: bool,
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
            initialized: Vec::new(),
            taint: false,
            canary: true,
        }
    }
}

/// A button of a running job. The job, and where one is meant the node, are chosen when it is pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Press {
    /// Resumed again after so long.
    Pause(Duration),
    Resume,
    Cancel,
    Retry,
    Skip,
    Force,
}

/// What is played.
#[derive(Clone, Debug)]
pub struct Play {
    pub seed: u64,
    pub scenario: Scenario,
    /// Members of each pool; nodes of none stay in DefaultPool.
    pub pools: BTreeMap<PoolId, Vec<NodeName>>,
    /// Rounds of requests; a round begins when the one before has its verdicts.
    pub rounds: Vec<Vec<Ask>>,
    pub crashes: Vec<Crash>,
    /// A planted defect, see [`Recorder::lies`].
    pub lies: bool,
    /// Windows and soak time of the pools.
    pub pace: Option<PaceRecord>,
    /// What people ask of running jobs, and when.
    pub presses: Vec<(Duration, Press)>,
    pub trace: bool,
    /// How long ended jobs are kept.
    pub retention: Span,
}

impl Play {
    /// Faults never stop: only the invariants are demanded, not an end.
    fn for_ever(&self) -> bool {
        self.scenario.faults.until_ms == u64::MAX
    }
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
    /// Keys of jobs at the end, and jobs whose files were removed.
    pub job_keys: usize,
    pub forgotten: Vec<JobId>,
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
        steer: true,
        zone_max: None,
    }
}

pub struct Stage {
    pub rig: Arc<Rig>,
    pub store: MemoryStore,
    pub board: Board,
    wall_jump: Arc<AtomicI64>,
    reaper: Arc<Reaper>,
    life: Option<JoinHandle<()>>,
    /// Controllers that have been usurped, and when they are stopped.
    zombies: Vec<(JoinHandle<()>, Arc<Reaper>, tokio::time::Instant)>,
    crashes: Vec<Crash>,
    /// The store may have other users: a lease that is found in it counts until it ends.
    shared: bool,
    lies: bool,
    die_at: Option<tokio::time::Instant>,
    usurp_at: Option<(tokio::time::Instant, u64)>,
    verdicts: BTreeMap<JobId, Status>,
    jobs: u32,
    retention: Span,
    pace: Option<PaceRecord>,
    /// Still to come; the next one is the last.
    pub presses: Vec<(tokio::time::Instant, Press)>,
    pub pressed: Rng,
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
    let rig = Rig::start(play.scenario.build(), play.seed, play.trace);
    let began = rig.now();
    let mut stage = Stage::new(&play, &rig);
    let mut rng = Rng::new(play.seed ^ 0xc4a5);
    stage.begin_life(&mut rng);
    let result = if play.for_ever() {
        stage.safely(&play, &mut rng).await
    } else {
        stage.until_the_end(&play, &mut rng).await
    };
    stage.life.take().inspect(JoinHandle::abort);
    for (zombie, ..) in &stage.zombies {
        zombie.abort();
    }
    let attempts = stage.attempts().await;
    let job_keys = stage.job_keys().await;
    let points = stage.reaper.names();
    rig.with(|inner| {
        if let Err(why) = result {
            inner.broken.get_or_insert(why);
        }
        let now = inner.world.now();
        let jumps = &inner.world.plan().clock_jumps;
        let jumped = jumps.iter().filter(|(at, _)| began + at <= now).count() as u64;
        let coverage = &mut inner.world.coverage;
        coverage.clock_jumps += jumped;
        coverage.safety_runs += u64::from(play.for_ever());
        coverage.liveness_runs += u64::from(!play.for_ever());
        Ended {
            hash: inner.hash(),
            broken: inner.broken.clone(),
            coverage: inner.world.coverage.clone(),
            trace: inner.trace.take().unwrap_or_default(),
            points,
            verdicts: stage.verdicts.clone(),
            attempts,
            job_keys,
            forgotten: inner.forgotten.clone(),
            virtual_s: (now - began) / 1000,
        }
    })
}

/// A label that differs from job to job, and perhaps a taint that bars no pod.
fn dress_of(job: &JobId, ask: &Ask) -> Dress {
    let taint = Taint {
        key: "pool.example/kept".to_owned(),
        value: job.to_string(),
        effect: "PreferNoSchedule".to_owned(),
    };
    Dress {
        labels: BTreeMap::from([("pool.example/job".to_owned(), job.to_string())]),
        taints: ask.taint.then_some(taint).into_iter().collect(),
    }
}

impl Stage {
    /// Everything but a controller.
    pub fn new(play: &Play, rig: &Arc<Rig>) -> Self {
        let mut crashes = play.crashes.clone();
        crashes.reverse();
        let start = tokio::time::Instant::now();
        let at = |(at, press): &(Duration, Press)| (start + *at, *press);
        let mut presses: Vec<_> = play.presses.iter().map(at).collect();
        presses.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        Self {
            rig: rig.clone(),
            store: MemoryStore::new(),
            board: Board::default(),
            wall_jump: Arc::default(),
            reaper: Reaper::new(rig.clone(), End::Open),
            life: None,
            zombies: Vec::new(),
            shared: crashes.iter().any(|crash| matches!(crash, Crash::Usurped { .. })),
            crashes,
            lies: play.lies,
            die_at: None,
            usurp_at: None,
            verdicts: BTreeMap::new(),
            jobs: 0,
            retention: play.retention,
            pace: play.pace.clone(),
            presses,
            pressed: Rng::new(play.seed ^ 0x9e55),
        }
    }

    /// Liveness: once the faults stop, every job comes to its verdict, and then nothing moves any more.
    async fn until_the_end(&mut self, play: &Play, rng: &mut Rng) -> Result<(), String> {
        let members = play.pools.values().flatten().cloned().collect::<Vec<_>>();
        self.enrolled(&members, rng).await?;
        self.assign(&play.pools).await?;
        for round in &play.rounds {
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
        self.rig.with(|inner| {
            inner.check.at_rest().map_err(|b| b.to_string())?;
            let stays = |node: &evenkeel_sim::objects::Node| {
                node.seen().starting()
                    && !node.unschedulable
                    && !inner.check.is_left_cordoned(&node.name)
            };
            match inner.world.nodes().find(|node| stays(node)) {
                Some(node) => Err(format!("S4: {} keeps the startup taint", node.name)),
                None => Ok(()),
            }
        })
    }

    /// Safety: the faults never stop, no end is demanded, and no invariant breaks.
    async fn safely(&mut self, play: &Play, rng: &mut Rng) -> Result<(), String> {
        let end = tokio::time::Instant::now() + SAFETY_SPAN;
        let members = play.pools.values().flatten().cloned().collect::<Vec<_>>();
        while !self.all_known(&members).await && tokio::time::Instant::now() < end {
            self.pass_time(Duration::from_secs(1), rng).await?;
        }
        self.assign(&play.pools).await?;
        for round in &play.rounds {
            let mut jobs = Vec::new();
            for ask in round {
                if let Some(job) = self.accept(ask).await {
                    jobs.push(job);
                }
            }
            while self.still_open(&jobs).await? > 0 && tokio::time::Instant::now() < end {
                self.pass_time(Duration::from_secs(2), rng).await?;
            }
            if tokio::time::Instant::now() >= end {
                break;
            }
        }
        let rest = end.saturating_duration_since(tokio::time::Instant::now());
        self.pass_time(rest, rng).await
    }

    /// A new controller on the same store.
    pub fn begin_life(&mut self, rng: &mut Rng) {
        self.rig.with(|inner| {
            inner.life += 1;
            inner.note("LIFE begins");
            if inner.life > 1 {
                inner.fact(&Fact::Restarted);
            }
        });
        let first = self.rig.with(|inner| inner.life) == 1;
        self.die_at = None;
        self.usurp_at = None;
        let after = |ms| tokio::time::Instant::now() + Duration::from_millis(ms);
        let mut end = End::Open;
        match self.crashes.pop() {
            Some(Crash::AtPoint(k)) => end = End::Point(k),
            Some(Crash::AtNamed(name)) => end = End::Named(name),
            Some(Crash::AtWrite(k, side)) => end = End::Write(k, side),
            Some(Crash::After(ms)) => self.die_at = Some(after(ms)),
            Some(Crash::Usurped { after_ms, cut_ms }) => {
                self.usurp_at = Some((after(after_ms), cut_ms));
            }
            None => {}
        }
        self.reaper = Reaper::new(self.rig.clone(), end);
        // Wall clocks jump while nobody watches.
        if !first && rng.chance(200) {
            let jump = rng.range(0, 7_200_000) as i64 - 3_600_000;
            self.wall_jump.fetch_add(jump, Ordering::Relaxed);
            self.rig.with(|inner| inner.world.coverage.clock_jumps_over_restart += 1);
        }
        self.life = Some(tokio::spawn(actor::run(self.setup())));
    }

    fn setup(&self) -> Setup {
        let (rig, jump) = (self.rig.clone(), self.wall_jump.clone());
        let (base, wall_base, jumps) = rig.with(|inner| {
            let jumps = inner.world.plan().clock_jumps.clone();
            (inner.began_ms(), inner.world.wall_at(0), jumps)
        });
        let wall = move || {
            let now = rig.now();
            let jumped = jumps.iter().filter(|(at, _)| base + at <= now).map(|(_, by)| by);
            wall_base + now as i64 + jump.load(Ordering::Relaxed) + jumped.sum::<i64>()
        };
        let reaper = self.reaper.clone();
        let store = Recorder {
            store: self.store.clone(),
            rig: self.rig.clone(),
            reaper: reaper.clone(),
            lies: self.lies,
        };
        Setup {
            project: PROJECT.to_owned(),
            cluster: ClusterId::new(CLUSTER),
            store: Arc::new(store),
            kube: Arc::new(Outside(self.rig.clone())),
            machines: Arc::new(Outside(self.rig.clone())),
            board: self.board.clone(),
            wall: Arc::new(wall),
            own_pod: None,
            retention: self.retention,
            exclusive: !self.shared,
            points: Points::hooked(Arc::new(move |name: &str| reaper.passes(name))),
        }
    }

    /// The controller loses its store and does not know it yet; another one starts beside it.
    fn usurp(&mut self, cut_ms: u64, rng: &mut Rng) {
        let until = self.rig.now() + cut_ms;
        self.reaper.cut(until);
        self.rig.with(|inner| {
            inner.note("LIFE is cut from its store");
            inner.world.coverage.usurped += 1;
        });
        let gone = tokio::time::Instant::now() + Duration::from_millis(cut_ms + ZOMBIE_MS);
        if let Some(life) = self.life.take() {
            self.zombies.push((life, self.reaper.clone(), gone));
        }
        self.begin_life(rng);
    }

    /// Lets time pass; kills and revives the controller as planned.
    pub async fn pass_time(&mut self, span: Duration, rng: &mut Rng) -> Result<(), String> {
        let until = tokio::time::Instant::now() + span;
        loop {
            let usurp_at = self.usurp_at.map(|(at, _)| at);
            let gone = self.zombies.iter().map(|(.., gone)| *gone).min();
            let press_at = self.presses.last().map(|(at, _)| *at);
            let ends = [self.die_at, usurp_at, gone, press_at];
            let next = ends.into_iter().flatten().fold(until, Ord::min);
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
            for (zombie, reaper, _) in self.zombies.extract_if(.., |(.., gone)| *gone <= now) {
                reaper.kill();
                zombie.abort();
            }
            if let Some((_, cut_ms)) = self.usurp_at.take_if(|(at, _)| *at <= now) {
                self.usurp(cut_ms, rng);
            }
            if self.reaper.is_dead() || self.die_at.is_some_and(|at| at <= now) {
                self.crash(rng).await;
            }
            while self.presses.last().is_some_and(|(at, _)| *at <= now) {
                self.press().await;
            }
            if now >= until {
                return Ok(());
            }
        }
    }

    async fn crash(&mut self, rng: &mut Rng) {
        self.reaper.kill();
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
        let listing = self.store.list(&prefix, Page::all()).await.expect("memory");
        let entry = |kv: &evenkeel_server::store::KeyValue| {
            let record: NodeRecord = records::decode(&kv.key, &kv.value).expect("ours");
            (NodeName::new(&record.name), (record, kv.mod_revision))
        };
        listing.items.iter().map(entry).collect()
    }

    /// Whether the actor has found every node that is there.
    async fn all_known(&self, wanted: &[NodeName]) -> bool {
        let known = self.nodes().await;
        let there = |name: &&NodeName| self.rig.with(|i| i.world.node(name).is_ok());
        wanted.iter().filter(there).all(|name| known.contains_key(name))
    }

    /// Waits until the actor has found every node.
    pub async fn enrolled(&mut self, wanted: &[NodeName], rng: &mut Rng) -> Result<(), String> {
        for _ in 0..900 {
            if self.all_known(wanted).await {
                return Ok(());
            }
            self.pass_time(Duration::from_secs(1), rng).await?;
        }
        Err("L6: nodes were not found".to_owned())
    }

    pub async fn assign(&self, pools: &BTreeMap<PoolId, Vec<NodeName>>) -> Result<(), String> {
        let cluster = ClusterId::new(CLUSTER);
        let known = self.nodes().await;
        for (id, members) in pools {
            let record = PoolRecord {
                id: id.clone(),
                name: id.to_string(),
                spec: serde_json::Value::Null,
                configuration: BTreeMap::new(),
                template: Template::default(),
                revision: TemplateRevision::new("r1"),
                proven: None,
                created_ms: 0,
                updated_ms: 0,
            };
            let key = keys::pool(PROJECT, &cluster, id);
            let mut txn = Txn::new().put(key, records::encode(&record));
            if let Some(pace) = &self.pace {
                let key = keys::pace(PROJECT, &cluster, id);
                txn = txn.put(key, records::encode(pace));
            }
            for name in members {
                let Some((record, revision)) = known.get(name) else {
                    continue;
                };
                let record = NodeRecord { pool: id.clone(), ..record.clone() };
                let key = keys::node(PROJECT, &cluster, &record.id);
                txn = txn.when_mod_revision(&key, *revision).put(key, records::encode(&record));
            }
            let done = self.store.txn(txn).await.map_err(|e| e.to_string())?;
            if !done.succeeded {
                return Err("nodes changed pool under our hands".to_owned());
            }
        }
        Ok(())
    }

    /// Writes what the handler of the API writes when it accepts. `None`: nothing to do.
    pub async fn accept(&mut self, ask: &Ask) -> Option<JobId> {
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
        let pool = self.store.get(&pool_key, None).await.ok()??;
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
            initialized: ask
                .initialized
                .iter()
                .map(|condition| Awaited { condition: condition.clone(), limit: None })
                .collect(),
            proven: false,
            policy: policy(ask.canary),
        };
        let dress = dress_of(&job, ask);
        let record = JobRecord {
            spec,
            template: Template { dress: dress.clone(), ..Template::default() },
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
                initialized: ask.initialized.iter().filter(|_| ask.resets).cloned().collect(),
                labels: dress.labels.clone(),
                taints: dress.taints.iter().map(|t| (t.key.clone(), t.effect.clone())).collect(),
            });
        });
        let done = self.store.txn(txn).await.expect("memory");
        assert!(done.succeeded, "the pool was still taken after its verdict");
        Some(job)
    }

    /// How many of these jobs have no verdict yet.
    async fn still_open(&mut self, jobs: &[JobId]) -> Result<usize, String> {
        let mut open = 0;
        for job in jobs {
            let key = keys::job_state(PROJECT, &ClusterId::new(CLUSTER), job);
            let kv = self.store.get(&key, None).await.expect("memory");
            let kv = kv.ok_or_else(|| format!("S10: {job} is gone"))?;
            let state: SyncState = records::decode(&key, &kv.value).expect("ours");
            if state.status == Status::Running {
                open += 1;
            } else {
                self.verdicts.insert(job.clone(), state.status);
            }
        }
        Ok(open)
    }

    async fn verdicts_of(&mut self, jobs: &[JobId], rng: &mut Rng) -> Result<(), String> {
        let cluster = ClusterId::new(CLUSTER);
        let mut calm = Duration::ZERO;
        while calm < RUN_LIMIT {
            if self.still_open(jobs).await? == 0 {
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

    async fn job_keys(&self) -> usize {
        let prefix = keys::inside(PROJECT, &ClusterId::new(CLUSTER));
        let listing = self.store.list(&prefix, Page::all()).await.expect("memory");
        let of_job = |key: &str| key.split('/').any(|part| part.starts_with("job-"));
        listing.items.iter().filter(|kv| of_job(&kv.key)).count()
    }

    async fn attempts(&self) -> u32 {
        let prefix = format!("{}works/", keys::inside(PROJECT, &ClusterId::new(CLUSTER)));
        let listing = self.store.list(&prefix, Page::all()).await.expect("memory");
        let works = listing.items.iter().map(|kv| {
            records::decode::<evenkeel_engine::sync::Work>(&kv.key, &kv.value).expect("ours")
        });
        works.map(|w| w.attempt).max().unwrap_or(0)
    }
}
