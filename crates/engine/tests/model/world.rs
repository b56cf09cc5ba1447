//! The state of a small rollout: what is true, what is stored, and what each driver knows.

use super::Rollout;
use super::print;
use evenkeel_engine::action::Action;
use evenkeel_engine::changes::Changes;
use evenkeel_engine::facts::*;
use evenkeel_engine::ids::*;
use evenkeel_engine::index::Index;
use evenkeel_engine::learn::Learned;
use evenkeel_engine::ledger::Ledger;
use evenkeel_engine::order::{Order as Line, Sight};
use evenkeel_engine::phase::{Left, Phase};
use evenkeel_engine::place::{Needs, Resources};
use evenkeel_engine::plan::{Ctx, Plan, plan};
use evenkeel_engine::sync::*;
use evenkeel_engine::time::{Span, Time};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// Nodes, all of them targets.
pub const NODES: usize = 3;
/// maxUnavailable.
pub const MAX: usize = 2;
/// Longer than every pause that the engine makes by itself (the longest is 15 s), and than the 5 s after which an
/// actor learns that its lease is another's (`LEASE_RENEW` of the server).
pub const TICK: Span = Span::secs(20);
/// Ticks after which a run that has not ended goes round in circles: every time limit of [`spec`] once per node and
/// attempt are fewer.
pub const TICKS_MAX: u8 = 60;
/// Decisions of a driver that has lost its lease and does not know: the answer of its next commit, or of its next
/// renewal within 5 s, tells it.
pub const LIVES: u8 = 1;

/// What is true of a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    pub version: u32,
    pub cordon: Option<Cordon>,
    pub mark: Option<u64>,
    pub ready: bool,
    /// Its one pod that has to move.
    pub pod: Pod,
    pub host: Host,
    /// The kubelet's last renewal of its Lease, by the host's clock.
    pub renewed: i64,
}

/// Whose doing it is that a node takes no pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cordon {
    Ours,
    Others,
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
    Succeeded,
    Failed,
}

impl Host {
    /// The host's clock at the end of its last attempt: only the order of such times matters.
    pub fn ended(&self) -> i64 {
        i64::from(self.attempt) * 1000
    }
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
    /// Decisions that it may still make once it has lost its lease.
    pub lives: u8,
    /// Records that are still to be stored: only a driver with a planted defect has any.
    pub late: Vec<Work>,
}

#[derive(Clone, Debug)]
pub struct State {
    pub left: Rollout,
    pub now: Time,
    pub forced: u8,
    pub nodes: Vec<Node>,
    /// The store: standings, verdict, and whose lease counts.
    pub works: Arc<BTreeMap<NodeName, Work>>,
    pub verdict: SyncState,
    pub epoch: u64,
    pub drivers: Vec<Arc<Driver>>,
    pub requests: Vec<Arc<Request>>,
    /// The first rule that a step broke.
    pub broken: Option<String>,
    /// What tells this state from others; see [`print`].
    pub print: u64,
}

pub fn name(n: usize) -> NodeName {
    static NAMES: OnceLock<[NodeName; NODES]> = OnceLock::new();
    NAMES.get_or_init(|| std::array::from_fn(|n| NodeName::new(format!("n{n}"))))[n].clone()
}

pub fn number(name: &NodeName) -> usize {
    (0..NODES).find(|n| self::name(*n) == *name).unwrap_or(0)
}

pub fn job() -> JobId {
    JobId::new("job")
}

pub fn pod_uid(n: usize) -> Uid {
    static UIDS: OnceLock<[Uid; NODES]> = OnceLock::new();
    UIDS.get_or_init(|| std::array::from_fn(|n| Uid::new(format!("pod-{n}"))))[n].clone()
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
        initialized: Vec::new(),
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
            // Soft taints are writes of their own; tables and the simulator have them.
            steer: false,
            zone_max: None,
        },
    }
}

impl Driver {
    /// What it would do now. The order is made anew, as by a controller that has just started.
    pub fn decide(&mut self, now: Time) -> Plan {
        let syncs = std::iter::once(&mut self.sync);
        let changes = Changes::take(&mut self.index, &mut self.ledger, syncs);
        let (index, ledger, learned) = (&self.index, &self.ledger, &Learned::default());
        let mut order = Line::default();
        let sight = Sight { index, ledger, learned, now };
        order.follow(&sight, &changes, std::iter::once(&self.sync));
        let ctx = Ctx { index, ledger, order: &order, learned, now };
        plan(&ctx, std::iter::once(&self.sync))
    }
}

impl Node {
    pub fn seen(&self, n: usize) -> NodeSeen {
        let mark = |epoch| Mark { job: job(), epoch, was_unschedulable: false };
        NodeSeen {
            name: name(n),
            uid: Uid::new(format!("node-{n}")),
            resource_version: self.version.to_string().into(),
            unschedulable: self.cordon.is_some(),
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
            met: Arc::default(),
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
            cordon: None,
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
            works: Arc::default(),
            verdict,
            epoch: 0,
            drivers: Vec::new(),
            requests: Vec::new(),
            broken: None,
            print: 0,
        };
        state.start_driver();
        state.seal();
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
            lives: LIVES,
            late: Vec::new(),
        };
        for n in 0..NODES {
            driver.index.set_pool(&name(n), Some(PoolId::new("p")));
        }
        self.show(&mut driver);
        driver.index.set_live(true);
        self.drivers.push(Arc::new(driver));
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

    /// Whether a driver has something to see. Every change of a node or its pod makes a new version.
    pub fn behind(&self, driver: &Driver) -> bool {
        self.nodes.iter().enumerate().any(|(n, node)| {
            let seen = driver.index.node(&name(n)).map(|e| e.seen.resource_version.parse());
            let deleting = driver.index.pod(&pod_uid(n)).map(|pod| pod.deleting);
            seen != Some(Ok(node.version))
                || deleting != (node.pod != Pod::Gone).then_some(node.pod == Pod::Ends)
        })
    }

    /// Makes equal states look equal: what can change nothing any more goes, and the order of requests means nothing.
    pub fn seal(&mut self) {
        let mut requests = std::mem::take(&mut self.requests);
        requests.retain(|request| !self.in_vain(request));
        requests.sort_by_cached_key(|r| (r.epoch, r.action.key(), r.version.clone()));
        self.requests = requests;
        if !self.left.lag {
            self.look();
        }
        self.print = print::of(self);
    }

    /// The driver whose lease counts sees everything at once; a deposed one when it looks.
    fn look(&mut self) {
        let own = |d: &Arc<Driver>| d.epoch == self.epoch && self.behind(d);
        if let Some(at) = self.drivers.iter().position(own) {
            let mut driver = Arc::unwrap_or_clone(self.drivers.remove(at));
            self.show(&mut driver);
            driver.stirred = true;
            self.drivers.insert(at, Arc::new(driver));
        }
    }

    /// Whether nobody waits for the answer any more.
    pub fn orphaned(&self, request: &Request) -> bool {
        self.drivers.iter().all(|d| d.epoch != request.epoch)
    }

    /// Whether nobody waits for the answer, and the request changes nothing whenever it arrives.
    pub fn in_vain(&self, request: &Request) -> bool {
        if !self.orphaned(request) {
            return false;
        }
        match &request.action {
            Action::Claim { node, .. }
            | Action::Cordon { node }
            | Action::Lift { node }
            | Action::Steer { node, .. }
            | Action::Release { node, .. } => {
                self.nodes[number(node)].version.to_string() != *request.version
            }
            Action::Evict { uid, .. } | Action::Delete { uid, .. } => {
                (0..NODES).all(|n| pod_uid(n) != *uid || self.nodes[n].pod != Pod::Runs)
            }
            Action::Confirm { .. } | Action::Probe { .. } | Action::Heartbeat { .. } => true,
            Action::Host { node, attempt, .. } => {
                let host = &self.nodes[number(node)].host;
                *attempt <= host.attempt && (request.epoch <= host.epoch || *attempt < host.attempt)
            }
        }
    }

    /// Nodes that take no pods because of us.
    pub fn out(&self) -> usize {
        let ours = |node: &&Node| node.cordon == Some(Cordon::Ours) || !node.ready;
        self.nodes.iter().filter(ours).count()
    }

    /// Nodes that hold a slot by the record.
    pub fn held(&self) -> usize {
        self.works.values().filter(|work| work.phase.holds_slot()).count()
    }

    /// Whether the record says that a node is in hand, or was left closed.
    pub fn recorded(&self, n: usize) -> bool {
        let keeps = |w: &Work| w.phase.is_active() || w.phase.takes_node_out();
        self.works.get(&name(n)).is_some_and(keeps)
    }

    /// A node that we cordoned, and nothing says that it was us.
    pub fn lost_cordon(&self) -> Option<NodeName> {
        let lost = |n: &usize| {
            let node = &self.nodes[*n];
            node.cordon == Some(Cordon::Ours) && node.mark.is_none() && !self.recorded(*n)
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
                kept(n) || (node.cordon != Some(Cordon::Ours) && node.mark.is_none())
            })
    }

    pub fn succeeded(&self) -> bool {
        matches!(self.verdict.status, Status::Success { .. })
    }
}
