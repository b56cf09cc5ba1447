//! The world itself: objects, their versions, the event log and the queue of things to come.
//!
//! [`World::advance`] is the only way that time passes. Calls of the API server are in `api` and `evict`, what
//! Kubernetes does by itself in `control` and `kubelet`, hosts in `machines`, people in `people`, and
//! [`World::call`] wraps a call into what a network does to it.

mod api;
mod calls;
mod control;
mod evict;
mod kubelet;
mod machines;
mod people;
mod power;
mod store;

pub use api::{DeleteOptions, NodeChange, Precondition};
pub use calls::{Call, Failure, Reply};
pub(crate) use people::new_budget;

use crate::coverage::Coverage;
use crate::faults::FaultPlan;
use crate::history::{Actor, Happened, Run};
use crate::hosts::{Host, OrderKey};
use crate::objects::{Budget, Lease, Node, Pod, Workload};
use crate::rng::{EventHash, Rng};
use evenkeel_engine::ids::{NodeName, ObjectKey, Uid};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;

/// How many events are kept for watches. A real API server keeps about five minutes; a run of twelve nodes makes
/// a few hundred events.
pub const LOG_MAX: usize = 4000;

/// Times that Kubernetes fixes, in ms; settable because a demonstration cannot wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunables {
    /// kubelet: renewal of the Lease. Kubernetes: 10 s.
    pub lease_renew_ms: u64,
    /// Node lifecycle controller: silence after which a node is Unknown. Kubernetes: 40 s
    /// (`--node-monitor-grace-period`, 50 s since 1.32).
    pub monitor_grace_ms: u64,
    /// Silence after which pods are deleted from an Unknown node. Kubernetes: 300 s.
    pub pod_eviction_ms: u64,
    /// Disruption controller: how long an eviction is believed that was not followed by a deletion. 120 s.
    pub disruption_timeout_ms: u64,
    /// Host: shortest and longest run of each step.
    pub steps_ms: BTreeMap<String, (u64, u64)>,
    /// Host: how long a reboot takes, shortest and longest.
    pub reboot_ms: (u64, u64),
}

impl Default for Tunables {
    fn default() -> Self {
        let steps = [
            ("teardown", 1500, 6000),
            ("login", 50, 300),
            ("pre_install", 500, 8000),
            ("install", 3000, 20_000),
            ("post_install", 500, 8000),
        ];
        Self {
            lease_renew_ms: 10_000,
            monitor_grace_ms: 40_000,
            pod_eviction_ms: 300_000,
            disruption_timeout_ms: 120_000,
            steps_ms: steps.map(|(name, low, high)| (name.to_owned(), (low, high))).into(),
            reboot_ms: (15_000, 60_000),
        }
    }
}

/// What an event did to its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Created.
    Added,
    /// Changed.
    Modified,
    /// Gone; the object is its last state.
    Deleted,
}

/// The object of an event, as it was then.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A node.
    Node(Arc<Node>),
    /// A pod, and what it was before.
    Pod(Arc<Pod>, Option<Arc<Pod>>),
    /// A budget.
    Budget(Arc<Budget>),
}

/// One entry of the log that watches read.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// resourceVersion.
    pub rv: u64,
    /// When it happened.
    pub at_ms: u64,
    /// When watches may see it: later than `at_ms` while the view is stale.
    pub visible_ms: u64,
    /// What happened.
    pub op: Op,
    /// To what.
    pub change: Change,
}

/// The watch's starting point is no longer kept; list again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone410 {
    /// Oldest resourceVersion from which a watch can start.
    pub oldest: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Task {
    BudgetSync(ObjectKey),
    BudgetRecheck(ObjectKey),
    Workload(ObjectKey),
    Schedule,
    Bind(ObjectKey, Uid, NodeName),
    PodRunning(ObjectKey, Uid),
    PodReady(ObjectKey, Uid),
    PodEnd(ObjectKey, Uid),
    PodGc(NodeName),
    Renew(NodeName, u64),
    Monitor(NodeName),
    TaintEvict(NodeName, u64),
    Register(NodeName, u64),
    NodeReady(NodeName, u64),
    Initialize(NodeName, u64),
    OrderBegin(NodeName, OrderKey, u64),
    StepEnd(NodeName, OrderKey, u64),
    HostUp(NodeName, u64, bool),
    HostTrouble(usize),
    Reboot(NodeName),
    Reachable(NodeName, u64),
    Person(usize),
    LiftBudget(ObjectKey),
    DropWatches,
    Compact,
    FaultsEnd,
}

/// A small cluster with its machines. See the module.
#[derive(Clone, Debug)]
pub struct World {
    /// Times that Kubernetes fixes.
    pub tunables: Tunables,
    /// Conditions that agents set on every node.
    pub initializers: Vec<String>,
    /// What truly happened.
    pub history: Vec<(u64, Happened)>,
    /// Every step that was ever started on a host, in order.
    pub runs: Vec<Run>,
    /// What a test run has met.
    pub coverage: Coverage,
    /// Wall clock at world time 0, ms since the epoch.
    pub wall_base_ms: i64,
    now: u64,
    rng: Rng,
    fault_rng: Rng,
    hash: EventHash,
    rv: u64,
    nodes: BTreeMap<NodeName, Arc<Node>>,
    pods: BTreeMap<ObjectKey, Arc<Pod>>,
    budgets: BTreeMap<ObjectKey, Arc<Budget>>,
    leases: BTreeMap<NodeName, Lease>,
    hosts: BTreeMap<NodeName, Host>,
    workloads: BTreeMap<ObjectKey, Workload>,
    /// Claims, and the node whose disk each is bound to.
    volumes: BTreeMap<ObjectKey, NodeName>,
    log: VecDeque<Event>,
    compacted_rv: u64,
    last_visible: u64,
    tasks: BTreeMap<(u64, u64), Task>,
    queued: BTreeSet<Task>,
    seq: u64,
    plan: FaultPlan,
    faults_on: bool,
    watches_dropped_at: Option<u64>,
    last_decrement: BTreeMap<ObjectKey, u64>,
    penalty_ms: u64,
}

impl World {
    /// An empty cluster. [`crate::Scenario::build`] fills one.
    pub fn empty(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let fault_rng = rng.fork(1);
        Self {
            tunables: Tunables::default(),
            initializers: Vec::new(),
            history: Vec::new(),
            runs: Vec::new(),
            coverage: Coverage::default(),
            // 2026-01-01T00:00:00Z: any fixed date will do.
            wall_base_ms: 1_767_225_600_000,
            now: 0,
            rng,
            fault_rng,
            hash: EventHash::default(),
            rv: 1000,
            nodes: BTreeMap::new(),
            pods: BTreeMap::new(),
            budgets: BTreeMap::new(),
            leases: BTreeMap::new(),
            hosts: BTreeMap::new(),
            workloads: BTreeMap::new(),
            volumes: BTreeMap::new(),
            log: VecDeque::new(),
            compacted_rv: 1000,
            last_visible: 0,
            tasks: BTreeMap::new(),
            queued: BTreeSet::new(),
            seq: 0,
            plan: FaultPlan::default(),
            faults_on: false,
            watches_dropped_at: None,
            last_decrement: BTreeMap::new(),
            penalty_ms: 0,
        }
    }

    /// Milliseconds since the world began.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// The wall clock of the control plane, ms since the epoch.
    pub fn wall_ms(&self) -> i64 {
        self.wall_at(self.now)
    }

    /// The wall clock at a world time.
    pub fn wall_at(&self, at_ms: u64) -> i64 {
        self.wall_base_ms + at_ms as i64
    }

    /// Hash of everything that has happened: equal for equal seeds and calls.
    pub fn hash(&self) -> u64 {
        self.hash.value()
    }

    /// The newest resourceVersion.
    pub fn resource_version(&self) -> u64 {
        self.rv
    }

    /// When something will happen by itself or become visible to watches; `None` if nothing ever will.
    pub fn next_at(&self) -> Option<u64> {
        let task = self.tasks.keys().next().map(|(at, _)| *at);
        let shown = self.log.partition_point(|event| event.visible_ms <= self.now);
        let hidden = self.log.get(shown).map(|event| event.visible_ms);
        [task, hidden].into_iter().flatten().min()
    }

    /// As [`next_at`](Self::next_at), without the Lease renewals: nobody watches those.
    pub fn next_to_see(&self) -> Option<u64> {
        let shows = |task: &Task| !matches!(task, Task::Renew(..));
        let task = self.tasks.iter().find(|(_, task)| shows(task)).map(|((at, _), _)| *at);
        let shown = self.log.partition_point(|event| event.visible_ms <= self.now);
        let hidden = self.log.get(shown).map(|event| event.visible_ms);
        [task, hidden].into_iter().flatten().min()
    }

    /// Lets time pass until `to_ms`. Going back is no move at all.
    pub fn advance(&mut self, to_ms: u64) {
        while let Some((&(at, seq), _)) = self.tasks.first_key_value() {
            if at > to_ms {
                break;
            }
            if let Some(task) = self.tasks.remove(&(at, seq)) {
                self.now = self.now.max(at);
                self.queued.remove(&task);
                self.perform(task);
            }
        }
        self.now = self.now.max(to_ms);
    }

    /// Adds a machine and starts its kubelet.
    pub fn add_host(&mut self, host: Host) {
        let name = host.node.clone();
        self.hosts.insert(name.clone(), host);
        self.kubelet_start(&name);
    }

    /// Machine id, product UUID, boot id, and how far the clock is off: up to an hour either way.
    pub(crate) fn machine_ids(&mut self) -> (String, String, String, i64) {
        let skew = self.rng.range(0, 7_200_000) as i64 - 3_600_000;
        (self.rng.uuid(), self.rng.uuid(), self.rng.uuid(), skew)
    }

    pub(crate) fn cordon_quietly(&mut self, name: &NodeName) {
        let change = NodeChange { unschedulable: Some(true), ..NodeChange::default() };
        let _ = self.patch_node(Actor::Person, name, &Precondition::default(), &change);
    }

    /// Ends the building of a world: what happened so far is no history, and the plan comes into force.
    pub(crate) fn begin(&mut self, plan: FaultPlan) {
        self.history.clear();
        self.coverage = Coverage::default();
        self.inject(plan);
    }

    /// Puts the plan into force, its times counted from now. Replaces an earlier plan's chances.
    pub fn inject(&mut self, plan: FaultPlan) {
        self.plan = plan;
        self.faults_on = true;
        for (index, (at, _, _)) in self.plan.hosts.clone().into_iter().enumerate() {
            self.later(at, Task::HostTrouble(index));
        }
        for (index, (at, _)) in self.plan.people.clone().into_iter().enumerate() {
            self.later(at, Task::Person(index));
        }
        for at in self.plan.watch_drops.clone() {
            self.later(at, Task::DropWatches);
        }
        for at in self.plan.compactions.clone() {
            self.later(at, Task::Compact);
        }
        let start = self.now;
        for lag in &mut self.plan.lags {
            lag.from_ms += start;
            lag.to_ms += start;
        }
        for outage in &mut self.plan.outages {
            outage.from_ms += start;
            outage.to_ms += start;
        }
        if self.plan.until_ms != u64::MAX {
            self.later(self.plan.until_ms, Task::FaultsEnd);
        }
    }

    /// The plan in force, for those faults that the driver plays.
    pub fn plan(&self) -> &FaultPlan {
        &self.plan
    }

    /// Whether chance faults are still being injected.
    pub fn faults_on(&self) -> bool {
        self.faults_on
    }

    /// Events after `rv` that watches may see by now, oldest first.
    pub fn events_since(&self, rv: u64) -> Result<Vec<Event>, Gone410> {
        if rv < self.compacted_rv {
            return Err(Gone410 { oldest: self.compacted_rv });
        }
        let start = self.log.partition_point(|event| event.rv <= rv);
        let visible = self.log.iter().skip(start).take_while(|event| event.visible_ms <= self.now);
        Ok(visible.cloned().collect())
    }

    /// The newest resourceVersion that watches may see by now: all that is left to see is newer.
    pub fn visible_version(&self) -> u64 {
        let hidden = self.log.partition_point(|event| event.visible_ms <= self.now);
        self.log.get(hidden).map_or(self.rv, |event| event.rv - 1)
    }

    /// Whether a watch that was opened at this time has been cut since.
    pub fn watch_dropped(&self, opened_ms: u64) -> bool {
        self.watches_dropped_at.is_some_and(|at| at >= opened_ms)
    }

    /// Forgets all events: a watch that is behind gets 410.
    pub fn compact(&mut self) {
        self.compacted_rv = self.rv;
        self.log.clear();
    }

    /// Counts a crash of the controller; the driver calls it with the phase that was cut.
    pub fn controller_crashed(&mut self, phase: &str) {
        *self.coverage.crashes.entry(phase.to_owned()).or_default() += 1;
        self.note_hash(&format!("crash {phase}"));
    }

    fn perform(&mut self, task: Task) {
        match task {
            Task::BudgetSync(key) | Task::BudgetRecheck(key) => self.sync_budget(&key),
            Task::Workload(key) => self.reconcile_workload(&key),
            Task::Schedule => self.schedule(),
            Task::Bind(key, uid, node) => self.bind(&key, &uid, &node),
            Task::PodRunning(key, uid) => self.pod_running(&key, &uid),
            Task::PodReady(key, uid) => self.pod_ready(&key, &uid),
            Task::PodEnd(key, uid) => self.pod_end(&key, &uid),
            Task::PodGc(node) => self.collect_pods(&node),
            Task::Renew(node, life) => self.renew(&node, life),
            Task::Monitor(node) => self.monitor(&node),
            Task::TaintEvict(node, since) => self.taint_evict(&node, since),
            Task::Register(node, life) => self.register(&node, life),
            Task::NodeReady(node, life) => self.node_ready(&node, life),
            Task::Initialize(node, life) => self.initialize(&node, life),
            Task::OrderBegin(node, key, life) => self.order_begin(&node, &key, life),
            Task::StepEnd(node, key, life) => self.step_end(&node, &key, life),
            Task::HostUp(node, life, kubelet) => self.host_up(&node, life, kubelet),
            Task::HostTrouble(index) => self.host_trouble(index),
            Task::Reboot(node) => self.reboot(&node),
            Task::Reachable(node, until) => self.reachable_again(&node, until),
            Task::Person(index) => self.person_acts(index),
            Task::LiftBudget(key) => {
                let _ = self.delete_budget(&key);
            }
            Task::DropWatches => {
                self.watches_dropped_at = Some(self.now);
                self.coverage.watch_drops += 1;
            }
            Task::Compact => self.compact(),
            Task::FaultsEnd => self.faults_on = false,
        }
    }

    /// Queues a task unless the same one is already waiting.
    fn later(&mut self, delay_ms: u64, task: Task) {
        if self.queued.insert(task.clone()) {
            self.seq += 1;
            self.tasks.insert((self.now + delay_ms, self.seq), task);
        }
    }

    fn later_between(&mut self, low: u64, high: u64, task: Task) {
        let delay = self.rng.range(low, high);
        self.later(delay, task);
    }

    fn happened(&mut self, what: Happened) {
        let _ = write!(self.hash, "{} {what:?};", self.now);
        self.history.push((self.now, what));
    }

    fn note_hash(&mut self, what: &str) {
        let _ = write!(self.hash, "{} {what};", self.now);
    }

    fn next_rv(&mut self) -> u64 {
        self.rv += 1;
        self.rv
    }
}
