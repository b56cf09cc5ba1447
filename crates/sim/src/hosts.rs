//! Machines behind the nodes: what they are, and what they and a controller say to each other. The meaning of
//! orders is that of the host binary: an id runs at most once, a lower epoch or attempt is refused, an order goes
//! on without the connection that brought it.

use evenkeel_engine::ids::NodeName;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Which part of an attempt an order is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Teardown, login, pre-install, install.
    Reset,
    /// Post-install.
    Post,
}

/// Names an order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OrderKey {
    /// The job.
    pub job: String,
    /// The node, as the controller names it to hosts.
    pub node: String,
    /// 1 for the first.
    pub attempt: u32,
    /// Which part.
    pub stage: Stage,
}

impl fmt::Display for OrderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match self.stage {
            Stage::Reset => "reset",
            Stage::Post => "post",
        };
        write!(f, "{}.{}.{}.{stage}", self.job, self.node, self.attempt)
    }
}

/// One step of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepSpec {
    /// `teardown`, `login`, `pre_install`, `install` or `post_install`.
    pub name: String,
    /// Stopped after so long.
    pub limit_ms: u64,
}

/// What a controller orders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Its name.
    pub key: OrderKey,
    /// Fencing token.
    pub epoch: u64,
    /// The machine it is for.
    pub machine_id: String,
    /// See `machine_id`.
    pub product_uuid: Option<String>,
    /// What to run.
    pub steps: Vec<StepSpec>,
}

impl Order {
    /// An order with the usual steps of a stage; limits as CCE documents them for scripts.
    pub fn usual(key: OrderKey, epoch: u64, machine_id: &str) -> Self {
        let names: &[(&str, u64)] = match key.stage {
            Stage::Reset => {
                &[("teardown", 900), ("login", 60), ("pre_install", 900), ("install", 1800)]
            }
            Stage::Post => &[("post_install", 1800)],
        };
        let step = |(name, limit): &(&str, u64)| StepSpec {
            name: (*name).to_owned(),
            limit_ms: limit * 1000,
        };
        let steps = names.iter().map(step).collect();
        Self { key, epoch, machine_id: machine_id.to_owned(), product_uuid: None, steps }
    }
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Exit status 0.
    Ok,
    /// Another exit status.
    Exit(i32),
    /// Stopped because its limit passed.
    Timeout,
}

/// A step that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepDone {
    /// Its name.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it ran.
    pub duration_ms: u64,
}

/// How far an order is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderState {
    /// In the journal.
    Accepted,
    /// A step runs.
    Running,
    /// All steps ended well.
    Succeeded,
    /// A step ended badly.
    Failed {
        /// Which.
        step: String,
        /// For people.
        reason: String,
    },
    /// The runner is gone.
    Interrupted {
        /// The step that ran, or empty.
        step: String,
        /// For people.
        reason: String,
    },
}

impl OrderState {
    /// Nothing more will happen.
    pub fn is_final(&self) -> bool {
        !matches!(self, OrderState::Accepted | OrderState::Running)
    }
}

/// An order in a host's journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journaled {
    /// What was ordered.
    pub order: Order,
    /// How far it is.
    pub state: OrderState,
    /// Index of the current step.
    pub step: usize,
    /// How often somebody began to carry it out: more than once only after reboots.
    pub runners: u32,
    /// The current step was cut off by a reboot and may be run again.
    pub again: bool,
    /// Steps that have ended.
    pub done: Vec<StepDone>,
    /// Host clock at the start, ms since the epoch.
    pub started_ms: Option<i64>,
    /// Host clock at the end.
    pub ended_ms: Option<i64>,
    /// World time at which the current step began.
    pub step_began_ms: u64,
    /// How the current step will end.
    pub fate: Outcome,
    /// Output so far.
    pub output: Vec<u8>,
}

impl Journaled {
    /// Name of the current step.
    pub fn step_name(&self) -> Option<&str> {
        self.order.steps.get(self.step).map(|step| step.name.as_str())
    }
}

/// Why a host does not obey; nothing was touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The order makes no sense.
    BadOrder,
    /// Not the machine the order is for.
    WrongMachine,
    /// A newer controller or attempt has been here.
    Fenced,
    /// Another order runs.
    Busy,
    /// No such order.
    UnknownOrder,
}

/// Why a host gave no good answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostFailure {
    /// No connection: nothing happened.
    Unreachable(String),
    /// The credential is refused: nothing happened.
    Denied,
    /// The connection ended without an answer: it may or may not have happened.
    Lost,
    /// The host said no.
    Refused {
        /// For programs.
        kind: RefusalKind,
        /// For people.
        message: String,
    },
}

/// Facts about a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// `/etc/machine-id`.
    pub machine_id: Arc<str>,
    /// DMI product UUID.
    pub product_uuid: Arc<str>,
    /// This boot.
    pub boot_id: Arc<str>,
    /// Highest epoch an order came with.
    pub epoch_seen: u64,
    /// The order accepted last.
    pub last_order: Option<OrderKey>,
    /// Host clock, ms since the epoch.
    pub time_ms: i64,
}

/// One machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its node's name.
    pub node: NodeName,
    /// `/etc/machine-id`.
    pub machine_id: Arc<str>,
    /// DMI product UUID.
    pub product_uuid: Arc<str>,
    /// Current boot.
    pub boot_id: Arc<str>,
    /// Address as the kubelet reports it.
    pub internal_ip: Arc<str>,
    /// As the cloud names it, if there is one.
    pub provider_id: Option<Arc<str>>,
    /// Labels the kubelet registers with.
    pub labels: BTreeMap<String, String>,
    /// Pods that fit.
    pub capacity: u32,
    /// Its clock minus the control plane's.
    pub skew_ms: i64,
    /// Powered on.
    pub up: bool,
    /// Counts boots.
    pub boots: u64,
    /// SSH answers again at this world time; `u64::MAX` is never.
    pub unreachable_until: u64,
    /// It refuses the controller's key.
    pub denies: bool,
    /// Teardown removes the Node object, so that the next join creates a new one.
    pub rejoins_anew: bool,
    /// Its kubelet is to register by a join, and has not yet.
    pub joins: bool,
    /// The kubelet's process lives.
    pub kubelet_up: bool,
    /// Counts kubelet processes.
    pub kubelet_life: u64,
    /// Highest epoch seen.
    pub epoch_seen: u64,
    /// The journal.
    pub orders: BTreeMap<OrderKey, Journaled>,
    /// The order accepted last.
    pub last_order: Option<OrderKey>,
}

impl Host {
    /// The order that runs now.
    pub fn running(&self) -> Option<&Journaled> {
        self.orders.values().find(|order| !order.state.is_final())
    }
}
