//! What goes wrong, and how often it did.

use crate::rng::Rng;
use evenkeel_engine::ids::NodeName;

/// Something a person does. The node or pod is chosen when it happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Person {
    /// Cordons a node that is not marked.
    CordonAny,
    /// Uncordons a node that is not marked.
    UncordonAny,
    /// Uncordons a node that is marked.
    UncordonClaimed,
    /// Puts the hold annotation on a node.
    HoldAny,
    /// Takes a hold annotation away.
    Unhold,
    /// Takes the claim annotation away.
    RemoveMark,
    /// Changes a label.
    Relabel,
    /// Deletes a Node.
    DeleteAny,
    /// Deletes a Node that is marked.
    DeleteClaimed,
    /// Deletes a pod of a controller.
    DeletePod,
    /// Creates a budget that allows nothing, and perhaps removes it again.
    NeverBudget {
        /// Removed after so long; `None` leaves it.
        lift_after_ms: Option<u64>,
    },
}

/// What befalls a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostTrouble {
    /// SSH does not answer; everything else goes on.
    Unreachable {
        /// For so long; `u64::MAX` is for ever.
        for_ms: u64,
    },
    /// It reboots.
    Reboot,
    /// It goes down and stays down.
    Dead,
    /// It refuses our key.
    Denies,
    /// Another machine answers at its address.
    OtherMachine,
    /// Its teardown removes the Node, so that it joins as a new one.
    RejoinsAnew,
}

/// What befalls a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepTrouble {
    /// It ends with this status.
    Exit(i32),
    /// It runs until its limit.
    Hang,
    /// It writes more than a host keeps.
    Flood,
    /// It reboots the host.
    Reboot,
    /// Somebody kills the runner.
    KillRunner,
}

/// A step that goes wrong on certain attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepFault {
    /// On this node, or on all.
    pub node: Option<NodeName>,
    /// Name of the step.
    pub step: String,
    /// On these attempts.
    pub attempts: std::ops::RangeInclusive<u32>,
    /// How.
    pub trouble: StepTrouble,
}

/// What an API server does that does not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OutageKind {
    /// Nobody answers: no call arrives.
    Down,
    /// Our credential is not accepted (401), as while a token or a certificate has expired.
    Unauthorized,
    /// Every call is turned away by priority and fairness (429).
    Throttled,
    /// etcd has no leader: reads are answered, writes are not applied and end with 504.
    NoLeader,
}

/// A time in which the API server does not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// Start.
    pub from_ms: u64,
    /// End.
    pub to_ms: u64,
    /// How.
    pub kind: OutageKind,
}

/// A time in which watches show events late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// Start.
    pub from_ms: u64,
    /// End.
    pub to_ms: u64,
    /// How late.
    pub by_ms: u64,
}

/// Everything that goes wrong in one world. The default is a calm one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultPlan {
    /// Chance faults stop after so long; `u64::MAX` is never.
    pub until_ms: u64,
    /// API calls refused by priority and fairness.
    pub flow_control_per_mille: u32,
    /// API calls answered 500 or 503 without being looked at.
    pub server_error_per_mille: u32,
    /// API calls whose answer is lost; most of them were applied.
    pub lost_per_mille: u32,
    /// API calls that take seconds.
    pub slow_per_mille: u32,
    /// Writes refused with 409 as if somebody had been faster.
    pub conflict_per_mille: u32,
    /// Writes refused with 422, as by an admission plugin in trouble.
    pub invalid_per_mille: u32,
    /// API calls that are applied and whose answer is cut short in the middle of its JSON.
    pub garbled_per_mille: u32,
    /// Requests that are held up on their way for seconds. Played by the driver, as all down to `stale_list`.
    pub held_up_per_mille: u32,
    /// Store transactions that fail, half of them after they were stored.
    pub store_per_mille: u32,
    /// Store transactions that take seconds.
    pub store_slow_per_mille: u32,
    /// Watch events that are delivered twice.
    pub duplicate_per_mille: u32,
    /// Lists answered by a replica that is behind: they show what an earlier list showed.
    pub stale_list_per_mille: u32,
    /// SSH connections that are reset at once.
    pub ssh_refused_per_mille: u32,
    /// SSH commands whose answer is lost.
    pub ssh_lost_per_mille: u32,
    /// Steps that go wrong somehow.
    pub step_per_mille: u32,
    /// Starts of a kubelet after which the node is never initialized.
    pub uninitialized_per_mille: u32,
    /// New pods that will never finish terminating.
    pub stuck_pod_per_mille: u32,
    /// Steps that go wrong for sure.
    pub steps: Vec<StepFault>,
    /// Times in which the API server does not serve.
    pub outages: Vec<Outage>,
    /// Jumps of the wall clock: when, and by how many milliseconds. Played by the driver.
    pub clock_jumps: Vec<(u64, i64)>,
    /// Times in which watches are late.
    pub lags: Vec<Lag>,
    /// When all watches are cut.
    pub watch_drops: Vec<u64>,
    /// When the event log is thrown away: watches that are behind get 410.
    pub compactions: Vec<u64>,
    /// Troubles of hosts.
    pub hosts: Vec<(u64, NodeName, HostTrouble)>,
    /// Deeds of people.
    pub people: Vec<(u64, Person)>,
}

impl FaultPlan {
    /// A plan that depends on the seed alone. Chance faults end after `until_ms`; lasting ones (a dead host, a
    /// budget that never allows, a pod that never goes) stay. About one seed in eight is calm.
    pub fn seeded(seed: u64, nodes: &[NodeName], until_ms: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0xfa17);
        let mut plan = Self { until_ms, ..Self::default() };
        if rng.chance(125) {
            return plan;
        }
        let rate = |rng: &mut Rng, high: u64| {
            if rng.chance(600) { rng.range(0, high) as u32 } else { 0 }
        };
        plan.flow_control_per_mille = rate(&mut rng, 80);
        plan.server_error_per_mille = rate(&mut rng, 60);
        plan.lost_per_mille = rate(&mut rng, 100);
        plan.slow_per_mille = rate(&mut rng, 40);
        plan.conflict_per_mille = rate(&mut rng, 40);
        plan.invalid_per_mille = rate(&mut rng, 8);
        plan.garbled_per_mille = rate(&mut rng, 40);
        plan.ssh_refused_per_mille = rate(&mut rng, 100);
        plan.ssh_lost_per_mille = rate(&mut rng, 120);
        plan.step_per_mille = rate(&mut rng, 40);
        plan.stuck_pod_per_mille = if rng.chance(100) { 5 } else { 0 };
        for _ in 0..rng.range(0, 3) {
            let from_ms = rng.range(0, until_ms);
            let to_ms = from_ms + rng.range(500, 20_000);
            plan.lags.push(Lag { from_ms, to_ms, by_ms: rng.range(200, 6000) });
        }
        for _ in 0..rng.range(0, 3) {
            let at = rng.range(0, until_ms);
            plan.watch_drops.push(at);
            if rng.chance(500) {
                plan.compactions.push(at + rng.range(1, 800));
            }
        }
        plan.seed_hosts(&mut rng, nodes);
        plan.seed_people(&mut rng);
        plan.seed_process(&mut rng);
        plan
    }

    /// What befalls the API server as a whole, the controller's store, its wires and its clock.
    fn seed_process(&mut self, rng: &mut Rng) {
        self.uninitialized_per_mille = if rng.chance(400) { 120 } else { 0 };
        self.held_up_per_mille = 10;
        self.store_per_mille = 4;
        self.store_slow_per_mille = if rng.chance(200) { 5 } else { 0 };
        self.duplicate_per_mille = if rng.chance(300) { 50 } else { 0 };
        self.stale_list_per_mille = if rng.chance(200) { 300 } else { 0 };
        if rng.chance(300) {
            for _ in 0..rng.range(1, 2) {
                let from_ms = rng.range(0, self.until_ms);
                let to_ms = from_ms + rng.range(1000, 60_000);
                let kinds = [
                    OutageKind::Down,
                    OutageKind::Unauthorized,
                    OutageKind::Throttled,
                    OutageKind::NoLeader,
                ];
                if let Some(&kind) = rng.pick(&kinds) {
                    self.outages.push(Outage { from_ms, to_ms, kind });
                }
            }
        }
        if rng.chance(300) {
            for _ in 0..rng.range(1, 3) {
                let by_ms = rng.range(0, 7_200_000) as i64 - 3_600_000;
                self.clock_jumps.push((rng.range(0, self.until_ms), by_ms));
            }
        }
    }

    /// How the API server fails to serve at a world time, if it does.
    pub(crate) fn outage_at(&self, now: u64) -> Option<OutageKind> {
        let on = |outage: &&Outage| (outage.from_ms..outage.to_ms).contains(&now);
        self.outages.iter().find(on).map(|outage| outage.kind)
    }

    fn seed_hosts(&mut self, rng: &mut Rng, nodes: &[NodeName]) {
        if !rng.chance(500) {
            return;
        }
        for _ in 0..rng.range(1, 2) {
            let Some(node) = rng.pick(nodes).cloned() else {
                return;
            };
            let trouble = match rng.range(0, 9) {
                0..=3 => HostTrouble::Unreachable { for_ms: rng.range(5_000, 120_000) },
                4..=6 => HostTrouble::Reboot,
                7 => HostTrouble::Dead,
                8 => HostTrouble::RejoinsAnew,
                _ if rng.chance(500) => HostTrouble::Denies,
                _ => HostTrouble::OtherMachine,
            };
            self.hosts.push((rng.range(0, self.until_ms), node, trouble));
        }
    }

    fn seed_people(&mut self, rng: &mut Rng) {
        if !rng.chance(600) {
            return;
        }
        for _ in 0..rng.range(1, 4) {
            let person = match rng.range(0, 11) {
                0 | 1 => Person::CordonAny,
                2 => Person::UncordonAny,
                3 | 4 => Person::UncordonClaimed,
                5 => Person::HoldAny,
                6 => Person::RemoveMark,
                7 => Person::Relabel,
                8 => Person::DeletePod,
                9 => Person::DeleteClaimed,
                10 => Person::DeleteAny,
                _ => {
                    let lifted = rng.chance(700);
                    Person::NeverBudget {
                        lift_after_ms: lifted.then(|| rng.range(10_000, 200_000)),
                    }
                }
            };
            self.people.push((rng.range(0, self.until_ms), person));
        }
    }

    /// How late watches are at a world time.
    pub(crate) fn lag_at(&self, now: u64) -> u64 {
        self.lags
            .iter()
            .filter(|l| (l.from_ms..l.to_ms).contains(&now))
            .map(|l| l.by_ms)
            .max()
            .unwrap_or(0)
    }
}
