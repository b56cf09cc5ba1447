//! The state of a small rollout: what is true, what is stored, and what each driver knows.

use super::Rollout;
use evenkeel_engine::action::Action;
use evenkeel_engine::facts::*;
use evenkeel_engine::ids::*;
use evenkeel_engine::index::Index;
use evenkeel_engine::ledger::Ledger;
use evenkeel_engine::phase::{Left, Phase};
use evenkeel_engine::place::{Needs, Resources};
use evenkeel_engine::sync::*;
use evenkeel_engine::time::{Span, Time};
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Nodes, all of them targets.
pub const NODES: usize = 3;
/// maxUnavailable.
pub const MAX: usize = 2;
/// Longer than every pause that the engine makes by itself (the longest is 15 s).
pub const TICK: Span = Span::secs(20);
/// Ticks after which a run that has not ended goes round in circles.
pub const TICKS_MAX: u8 = 40;

/// What is true of a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    pub version: u32,
    pub unschedulable: bool,
    pub mark: Option<u64>,
    pub ready: bool,
    /// Its one pod that has to move.
    pub pod: Pod,
    pub host: Host,
    /// The kubelet's last renewal of its Lease, by the host's clock.
    pub renewed: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pod {
    Runs,
    Ends,
    Gone,
}

/// The journal of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Host {
    pub epoch: u64,
    pub attempt: u32,
    pub state: Order,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Order {
    #[default]
    None,
    Runs,
    Succeeded(i64),
    Failed,
}

/// A request under way, with the version that it is conditional on.
#[derive(Clone, Debug)]
pub struct Request {
    pub epoch: u64,
    pub action: Action,
    pub version: Arc<str>,
}

/// One driver: its memory, and whether it has to decide again.
#[derive(Clone, Debug)]
pub struct Driver {
    pub epoch: u64,
    pub sync: Sync,
    pub index: Index,
    pub ledger: Ledger,
    pub stirred: bool,
    pub wake_at: Option<Time>,
}

#[derive(Clone, Debug)]
pub struct State {
    pub left: Rollout,
    pub now: Time,
    pub forced: u8,
    pub nodes: Vec<Node>,
    /// The store: standings, verdict, and whose lease counts.
    pub works: BTreeMap<NodeName, Work>,
    pub verdict: SyncState,
    pub epoch: u64,
    pub drivers: Vec<Driver>,
    pub requests: Vec<Request>,
    /// The first rule that a step broke.
    pub broken: Option<String>,
}

pub fn name(n: usize) -> NodeName {
    NodeName::new(format!("n{n}"))
}

pub fn number(name: &NodeName) -> usize {
    (0..NODES).find(|n| self::name(*n) == *name).unwrap_or(0)
}

pub fn job() -> JobId {
    JobId::new("job")
}

pub fn pod_uid(n: usize) -> Uid {
    Uid::new(format!("pod-{n}"))
}

fn spec() -> SyncSpec {
    let target = |n| TargetNode { id: NodeId::new(format!("id{n}")), name: name(n) };
    SyncSpec {
        job: job(),
        pool: PoolId::new("p"),
        revision: TemplateRevision::new("r2"),
        targets: (0..NODES).map(target).collect(),
        skipped: Vec::new(),
        named: false,
        max_unavailable: MAX as u32,
        retry_times: 1,
        force: false,
        resets: true,
        post_install: false,
        wait_post_install: true,
        proven: true,
        policy: Policy {
            canary: false,
            drain_timeout: Span(TICK.0 * 3),
            grace_margin: Span(0),
            yield_after: Span(TICK.0 * 2),
            drain_tries: 2,
            requeue_pause: TICK,
            retry_pause: TICK,
            reach_timeout: Span(TICK.0 * 2),
            ready_timeout: Span(TICK.0 * 3),
            settle: Span(0),
            stall_timeout: Span(TICK.0 * 4),
            sick_after: TICK,
        },
    }
}

impl Node {
    pub fn seen(&self, n: usize) -> NodeSeen {
        let mark = |epoch| Mark { job: job(), epoch, was_unschedulable: false };
        NodeSeen {
            name: name(n),
            uid: Uid::new(format!("node-{n}")),
            resource_version: self.version.to_string().into(),
            unschedulable: self.unschedulable,
            ready: if self.ready { Readiness::Ready } else { Readiness::NotReady },
            mark: self.mark.map(mark),
            hold: false,
            zone: None,
            control_plane: false,
            machine_id: None,
            system_uuid: None,
            provider_id: None,
            internal_ip: None,
            kubelet_version: None,
            labels: Arc::default(),
            taints: Arc::default(),
            allocatable: Resources::default(),
        }
    }

    pub fn pod_seen(&self, n: usize) -> Option<PodSeen> {
        (self.pod != Pod::Gone).then(|| PodSeen {
            uid: pod_uid(n),
            key: ObjectKey::new("default", format!("web-{n}")),
            node: Some(name(n)),
            labels: Arc::default(),
            owner: Owner::Controller("ReplicaSet/web".into()),
            phase: PodPhase::Running,
            ready: true,
            deleting: self.pod == Pod::Ends,
            grace_s: 10,
            local_data: false,
            protected: false,
            needs: Arc::new(Needs::nothing()),
            claims: Box::default(),
        })
    }
}

impl State {
    pub fn new(left: Rollout) -> Self {
        let node = |n: usize| Node {
            version: 1,
            unschedulable: false,
            mark: None,
            ready: true,
            // One node has a pod to move: the drain is played there, and the others are quicker.
            pod: if n == 0 { Pod::Runs } else { Pod::Gone },
            host: Host::default(),
            renewed: 0,
        };
        let verdict = SyncState { status: Status::Running, accepted: Time(0), stalled_since: None };
        let mut state = Self {
            left,
            // Past every pause that is counted back from now.
            now: Time(1_000_000),
            forced: 0,
            nodes: (0..NODES).map(node).collect(),
            works: BTreeMap::new(),
            verdict,
            epoch: 0,
            drivers: Vec::new(),
            requests: Vec::new(),
            broken: None,
        };
        state.start_driver();
        state
    }

    /// A driver that takes the lease, loads what is stored, and lists the cluster.
    pub fn start_driver(&mut self) {
        self.epoch += 1;
        let sync = Sync::new(spec(), self.verdict.clone(), self.works.values().cloned());
        let mut driver = Driver {
            epoch: self.epoch,
            sync,
            index: Index::default(),
            ledger: Ledger::default(),
            stirred: true,
            wake_at: None,
        };
        for n in 0..NODES {
            driver.index.set_pool(&name(n), Some(PoolId::new("p")));
        }
        self.show(&mut driver);
        driver.index.set_live(true);
        self.drivers.push(driver);
    }

    /// Brings a driver's view up to date.
    pub fn show(&self, driver: &mut Driver) {
        for (n, node) in self.nodes.iter().enumerate() {
            driver.index.see_node(node.seen(n), self.now);
            match node.pod_seen(n) {
                Some(pod) => driver.index.see_pod(pod, self.now),
                None => {
                    driver.index.lose_pod(&pod_uid(n));
                    driver.ledger.forget_pod(&pod_uid(n));
                }
            }
        }
    }

    /// Whether a driver has something to see.
    pub fn behind(&self, driver: &Driver) -> bool {
        self.nodes.iter().enumerate().any(|(n, node)| {
            let seen = driver.index.node(&name(n)).map(|entry| &entry.seen);
            seen != Some(&node.seen(n))
                || driver.index.pod(&pod_uid(n)) != node.pod_seen(n).as_ref()
        })
    }

    /// Nodes that take no pods.
    pub fn out(&self) -> usize {
        self.nodes.iter().filter(|node| node.unschedulable || !node.ready).count()
    }

    /// A node that is cordoned, and nothing says that it was us.
    pub fn lost_cordon(&self) -> Option<NodeName> {
        let kept = |n: usize| {
            self.works
                .get(&name(n))
                .is_some_and(|w| w.phase.is_active() || w.phase.takes_node_out())
        };
        let lost = |n: &usize| {
            let node = &self.nodes[*n];
            node.unschedulable && node.mark.is_none() && !kept(*n)
        };
        (0..NODES).find(lost).map(name)
    }

    /// The job has its verdict, and every node is in service unless it failed after its reset had begun.
    pub fn given_back(&self) -> bool {
        let kept = |n: usize| {
            let cordoned = |w: &Work| matches!(w.phase, Phase::Failed { left: Left::Cordoned, .. });
            self.works.get(&name(n)).is_some_and(cordoned)
        };
        self.verdict.status != Status::Running
            && self.works.values().all(|work| work.phase.is_terminal())
            && (0..NODES).all(|n| {
                let node = &self.nodes[n];
                kept(n) || (!node.unschedulable && node.mark.is_none())
            })
    }

    pub fn succeeded(&self) -> bool {
        matches!(self.verdict.status, Status::Success { .. })
    }

    pub fn failed(&self) -> bool {
        matches!(self.verdict.status, Status::Failed { .. })
    }
}

// The stories of nodes are for people: two states that differ in nothing else are one.
fn told(works: &BTreeMap<NodeName, Work>) -> String {
    let mut text = String::new();
    for work in works.values() {
        let short = Work { log: Vec::new(), last_cause: None, ..work.clone() };
        text.push_str(&format!("{short:?}"));
    }
    text
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        let hash = |state: &Self| {
            let mut hasher = std::hash::DefaultHasher::new();
            state.hash(&mut hasher);
            hasher.finish()
        };
        hash(self) == hash(other)
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let left = self.left;
        (left.faults, left.crashes, left.seconds, left.ticks, self.forced).hash(hasher);
        (self.now, &self.nodes, self.epoch, &self.broken).hash(hasher);
        format!("{}{:?}", told(&self.works), self.verdict).hash(hasher);
        for driver in &self.drivers {
            (driver.epoch, driver.stirred, driver.wake_at).hash(hasher);
            for (n, _) in self.nodes.iter().enumerate() {
                if let Some(entry) = driver.index.node(&name(n)) {
                    (&*entry.seen.resource_version, entry.not_ready_since).hash(hasher);
                    (entry.seen.ready == Readiness::Ready).hash(hasher);
                }
                let pod = driver.index.pod(&pod_uid(n));
                (pod.map(|pod| pod.deleting), driver.index.ending_since(&pod_uid(n))).hash(hasher);
            }
            format!("{:?}", driver.ledger).hash(hasher);
        }
        for request in &self.requests {
            (request.epoch, &*request.version).hash(hasher);
            format!("{:?}", request.action).hash(hasher);
        }
    }
}
