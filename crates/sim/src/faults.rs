//! What goes wrong, and how often it did.

use crate::rng::Rng;
use evenkeel_engine::ids::NodeName;
use std::collections::BTreeMap;

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
    /// Chance faults stop after so long.
    pub until_ms: u64,
    /// API calls refused by priority and fairness.
    pub flow_control_per_mille: u32,
    /// API calls answered 500 or 503 without being looked at.
    pub server_error_per_mille: u32,
    /// API calls whose answer is lost; most of them were applied.
    pub lost_per_mille: u32,
    /// API calls that take seconds.
    pub slow_per_mille: u32,
    /// SSH connections that are reset at once.
    pub ssh_refused_per_mille: u32,
    /// SSH commands whose answer is lost.
    pub ssh_lost_per_mille: u32,
    /// Steps that go wrong somehow.
    pub step_per_mille: u32,
    /// New pods that will never finish terminating.
    pub stuck_pod_per_mille: u32,
    /// Steps that go wrong for sure.
    pub steps: Vec<StepFault>,
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
        plan
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

/// What a run, or a batch of runs, has met. All counters of a batch must be above zero, or it proves less than
/// it seems to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Evictions refused by a budget.
    pub budget_429: u64,
    /// Evictions that conflicted on a budget's status.
    pub budget_conflicts: u64,
    /// Calls refused by priority and fairness.
    pub flow_control_429: u64,
    /// 500 and 503.
    pub server_errors: u64,
    /// Calls without an answer, or with 504.
    pub lost_answers: u64,
    /// Those of them that changed something.
    pub lost_after_applying: u64,
    /// Calls that took seconds.
    pub slow_answers: u64,
    /// Watches cut.
    pub watch_drops: u64,
    /// Events that watches saw late.
    pub stale_reads: u64,
    /// 410s; counted by the driver.
    pub gone_410: u64,
    /// Broken SSH connections.
    pub ssh_drops: u64,
    /// SSH connections that found nobody.
    pub unreachable: u64,
    /// SSH connections refused for their key.
    pub denied: u64,
    /// Hosts that became another machine.
    pub wrong_machines: u64,
    /// Reboots.
    pub reboots: u64,
    /// Hosts gone for good.
    pub dead_hosts: u64,
    /// Steps that went wrong.
    pub step_faults: u64,
    /// Pods that never go.
    pub stuck_pods: u64,
    /// Pods bound to a node after its cordon.
    pub bound_after_cordon: u64,
    /// Deeds of people, by kind.
    pub people: BTreeMap<String, u64>,
    /// Crashes of the controller, by phase; counted by the driver.
    pub crashes: BTreeMap<String, u64>,
}

impl Coverage {
    /// Adds another run's counts.
    pub fn add(&mut self, other: &Coverage) {
        for (mine, theirs) in self.fields_mut().into_iter().zip(other.clone().fields_mut()) {
            *mine.1 += *theirs.1;
        }
        for (word, count) in &other.people {
            *self.people.entry(word.clone()).or_default() += count;
        }
        for (phase, count) in &other.crashes {
            *self.crashes.entry(phase.clone()).or_default() += count;
        }
    }

    /// The plain counters by name, for reports and for the check that none is zero.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        self.clone().fields_mut().into_iter().map(|(name, count)| (name, *count)).collect()
    }

    fn fields_mut(&mut self) -> Vec<(&'static str, &mut u64)> {
        vec![
            ("budget_429", &mut self.budget_429),
            ("budget_conflicts", &mut self.budget_conflicts),
            ("flow_control_429", &mut self.flow_control_429),
            ("server_errors", &mut self.server_errors),
            ("lost_answers", &mut self.lost_answers),
            ("lost_after_applying", &mut self.lost_after_applying),
            ("slow_answers", &mut self.slow_answers),
            ("watch_drops", &mut self.watch_drops),
            ("stale_reads", &mut self.stale_reads),
            ("gone_410", &mut self.gone_410),
            ("ssh_drops", &mut self.ssh_drops),
            ("unreachable", &mut self.unreachable),
            ("denied", &mut self.denied),
            ("wrong_machines", &mut self.wrong_machines),
            ("reboots", &mut self.reboots),
            ("dead_hosts", &mut self.dead_hosts),
            ("step_faults", &mut self.step_faults),
            ("stuck_pods", &mut self.stuck_pods),
            ("bound_after_cordon", &mut self.bound_after_cordon),
        ]
    }
}
