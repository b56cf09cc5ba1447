//! One world, one clock, one witness. Whoever touches the world first lets its time catch up with tokio's paused
//! clock, and hands everything that happened to the checker in the order in which it happened.

use crate::ports::Kind;
use evenkeel_engine::check::{Fact, History, Who};
use evenkeel_engine::ids::{JobId, NodeName, Uid};
use evenkeel_server::sync::ports::Listed;
use evenkeel_sim::World;
use evenkeel_sim::history::{Actor, Happened};
use evenkeel_sim::hosts::Stage;
use evenkeel_sim::rng::{EventHash, Rng};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A run that touches the world more often than this goes round in circles: the longest good one needs a tenth.
const TOUCHES_MAX: u64 = 1_500_000;

pub struct Inner {
    pub world: World,
    pub rng: Rng,
    pub check: History,
    /// The first broken invariant.
    pub broken: Option<String>,
    /// One line per event, if somebody wants to read them.
    pub trace: Option<Vec<String>>,
    /// Phases of the nodes in hand, as stored.
    pub phases: BTreeMap<NodeName, &'static str>,
    /// Effects of ours on the world.
    pub effects: u64,
    /// Counts the controller's lives.
    pub life: u64,
    /// The point at which the last life crashed.
    last_crash: Option<String>,
    /// What each kind's last list showed, and at which version: a replica that is behind shows it again.
    pub lists: BTreeMap<Kind, (u64, Listed)>,
    /// The newest version that each kind's watch has delivered.
    pub delivered: BTreeMap<Kind, u64>,
    /// Jobs whose files were to be removed.
    pub forgotten: Vec<JobId>,
    /// Events on nodes: when, the node, the reason, and what they say.
    pub events: Vec<(u64, (NodeName, String, String))>,
    hash: EventHash,
    /// The newest version that watches may see.
    visible: u64,
    /// When the world is to be turned next.
    armed: Option<u64>,
    read: usize,
    touches: u64,
    base_ms: u64,
    began: Instant,
}

pub struct Rig {
    inner: Mutex<Inner>,
    /// Watches of this kind may see something new. Not a `watch` channel: that wakes its readers in no fixed order.
    moved: [Notify; 3],
    /// Something broke, or the controller is to die.
    pub alarm: Notify,
    poke: Notify,
}

impl Rig {
    pub fn start(world: World, seed: u64, trace: bool) -> Arc<Self> {
        let base_ms = world.now();
        let mut check = History::default();
        let mut broken = None;
        for node in world.nodes().filter(|n| n.unschedulable) {
            let fact =
                Fact::Schedulable { node: node.name.clone(), schedulable: false, by: Who::Person };
            broken = check.take(base_ms, &fact).err().map(|b| b.to_string());
        }
        let rig = Arc::new(Self {
            moved: std::array::from_fn(|_| Notify::new()),
            alarm: Notify::new(),
            poke: Notify::new(),
            inner: Mutex::new(Inner {
                visible: world.visible_version(),
                armed: None,
                world,
                rng: Rng::new(seed ^ 0x419),
                check,
                broken,
                trace: trace.then(Vec::new),
                phases: BTreeMap::new(),
                effects: 0,
                forgotten: Vec::new(),
                events: Vec::new(),
                life: 0,
                last_crash: None,
                lists: BTreeMap::new(),
                delivered: BTreeMap::new(),
                hash: EventHash::default(),
                read: 0,
                touches: 0,
                base_ms,
                began: Instant::now(),
            }),
        });
        tokio::spawn(rig.clone().turn_the_world());
        rig
    }

    /// The world moves on by itself, too.
    async fn turn_the_world(self: Arc<Self>) {
        loop {
            let next = {
                let mut inner = self.lock();
                inner.armed = inner.world.next_to_see();
                inner.armed.map(|at| inner.instant(at))
            };
            let far = Instant::now() + Duration::from_hours(1);
            tokio::select! {
                biased;
                () = self.poke.notified() => {}
                () = tokio::time::sleep_until(next.unwrap_or(far)) => self.with(|_| ()),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Touches the world at the present time.
    pub fn with<R>(&self, f: impl FnOnce(&mut Inner) -> R) -> R {
        let mut inner = self.lock();
        inner.catch_up();
        let result = f(&mut inner);
        inner.drain();
        inner.touches += 1;
        if inner.touches > TOUCHES_MAX && inner.broken.is_none() {
            inner.broken = Some("the run goes round in circles".to_owned());
        }
        let (visible, broken) = (inner.world.visible_version(), inner.broken.is_some());
        let moved = inner.kinds_after(visible);
        let rearm = inner.world.next_to_see() != inner.armed;
        drop(inner);
        for kind in moved {
            self.moved(kind).notify_waiters();
        }
        if broken {
            self.alarm.notify_one();
        }
        if rearm {
            self.poke.notify_one();
        }
        result
    }

    /// Says that a watch of this kind may see something new.
    pub fn moved(&self, kind: Kind) -> &Notify {
        &self.moved[kind as usize]
    }

    /// Milliseconds of world time.
    pub fn now(&self) -> u64 {
        self.lock().now()
    }
}

impl Inner {
    fn now(&self) -> u64 {
        self.base_ms + self.began.elapsed().as_millis() as u64
    }

    /// World time at which the run began.
    pub fn began_ms(&self) -> u64 {
        self.base_ms
    }

    fn instant(&self, at: u64) -> Instant {
        self.began + Duration::from_millis(at.saturating_sub(self.base_ms))
    }

    /// The kinds that show something new, now that versions up to this one may be seen.
    fn kinds_after(&mut self, visible: u64) -> BTreeSet<Kind> {
        let before = std::mem::replace(&mut self.visible, visible);
        if before == visible {
            return BTreeSet::new();
        }
        match self.world.events_since(before) {
            Ok(events) => events.iter().map(|event| Kind::of(&event.change)).collect(),
            // Compacted meanwhile: every watch has to look.
            Err(_) => [Kind::Nodes, Kind::Pods, Kind::Budgets].into(),
        }
    }

    fn catch_up(&mut self) {
        let now = self.now();
        while let Some(at) = self.world.next_at().filter(|at| *at <= now) {
            self.world.advance(at);
            self.drain();
        }
        self.world.advance(now);
        self.drain();
    }

    /// The hash of everything that happened in the world and in the records.
    pub fn hash(&self) -> u64 {
        self.hash.value() ^ self.world.hash()
    }

    /// Takes a line into the trace and the hash.
    pub fn note(&mut self, line: &str) {
        let now = self.world.now();
        let _ = write!(self.hash, "{now} {line};");
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>9.3} {line}", now as f64 / 1000.0));
        }
    }

    /// Counts a crash at a point, and whether the life before crashed there, too.
    pub fn crashed_at(&mut self, point: &str) {
        let coverage = &mut self.world.coverage;
        *coverage.crash_points.entry(point.to_owned()).or_default() += 1;
        coverage.crash_loops += u64::from(self.last_crash.as_deref() == Some(point));
        self.last_crash = Some(point.to_owned());
    }

    pub fn fact(&mut self, fact: &Fact) {
        if let Err(broken) = self.check.take(self.world.now(), fact) {
            self.note(&format!("BROKEN {broken}"));
            self.broken.get_or_insert(broken.to_string());
        }
    }

    fn drain(&mut self) {
        while let Some((_, happened)) = self.world.history.get(self.read).cloned() {
            self.read += 1;
            if self.trace.is_some() {
                self.note(&format!("{happened:?}"));
            }
            for fact in self.facts(happened) {
                self.fact(&fact);
            }
        }
    }

    fn place(&self, uid: &Uid) -> Option<NodeName> {
        self.world.pods().find(|p| p.uid == *uid).and_then(|p| p.node.clone())
    }

    fn facts(&mut self, happened: Happened) -> Vec<Fact> {
        let who = |by: Actor| match by {
            Actor::Us => Who::Us,
            Actor::Person => Who::Person,
            Actor::System => Who::System,
        };
        let mut ours = |by: Actor| self.effects += u64::from(by == Actor::Us);
        let step = |stage: Stage, step: &str| match stage {
            Stage::Reset => format!("Reset/{step}"),
            Stage::Post => format!("Post/{step}"),
        };
        match happened {
            Happened::MarkSet { node, job, .. } => {
                ours(Actor::Us);
                vec![Fact::Marked { node, job }]
            }
            Happened::MarkCleared { node } => vec![Fact::Unmarked { node }],
            Happened::Cordoned { node, by } => {
                ours(by);
                vec![Fact::Schedulable { node, schedulable: false, by: who(by) }]
            }
            Happened::Uncordoned { node, by } => {
                ours(by);
                vec![Fact::Schedulable { node, schedulable: true, by: who(by) }]
            }
            Happened::Tainted { node, by, steered, lost } => {
                ours(by);
                vec![Fact::Tainted { node, by: who(by), steered, lost }]
            }
            Happened::ReadyChanged { node, ready } => vec![Fact::Ready { node, ready }],
            Happened::NodeAdded { node, ready, .. } => vec![Fact::Ready { node, ready }],
            Happened::Initialized { node, condition } => {
                vec![Fact::Initialized { node, condition }]
            }
            Happened::NodeGone { node, .. } => vec![Fact::Left { node }],
            Happened::EvictionAccepted { uid, node } => {
                ours(Actor::Us);
                vec![Fact::Evicted { uid, node }]
            }
            Happened::PodDeleted { uid, by } => {
                ours(by);
                let node = self.place(&uid);
                vec![Fact::Deleted { uid, node, by: who(by) }]
            }
            Happened::OrderAccepted { node, epoch, .. } => {
                ours(Actor::Us);
                vec![Fact::Ordered { node, epoch }]
            }
            Happened::ScriptStarted { run, again } => vec![Fact::StepStarted {
                again,
                job: run.job,
                node: run.node,
                attempt: run.attempt,
                step: step(run.stage, &run.step),
            }],
            Happened::ScriptEnded { run, .. } => {
                vec![Fact::StepEnded { node: run.node, step: step(run.stage, &run.step) }]
            }
            Happened::Held { .. }
            | Happened::EvictionRepeated { .. }
            | Happened::EvictionRefused { .. }
            | Happened::PodGone { .. }
            | Happened::OrderRefused { .. }
            | Happened::HostDown { .. }
            | Happened::HostUp { .. } => Vec::new(),
        }
    }
}
