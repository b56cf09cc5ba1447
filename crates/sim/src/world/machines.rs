//! How hosts behave: contact, the journal of orders, steps and their ends, reboots.

use super::{Reply, Task, World};
use crate::faults::StepTrouble;
use crate::history::{Actor, Happened, Run};
use crate::hosts::{
    HostFacts, HostFailure, Journaled, Order, OrderKey, OrderState, Outcome, RefusalKind, StepDone,
};
use evenkeel_engine::ids::{JobId, NodeName};

/// Most output that a host keeps of one order, as the host binary does: 1 MiB.
const OUTPUT_MAX: usize = 1024 * 1024;

/// Steps that a host runs again after a reboot in the middle: a recipe whose author has declared them idempotent.
const RESUMES: [&str; 3] = ["teardown", "login", "install"];

/// Most runners of one order, as the host binary has it.
const RUNNERS_MAX: u32 = 4;

fn refused<T>(kind: RefusalKind, message: impl Into<String>) -> Result<T, HostFailure> {
    Err(HostFailure::Refused { kind, message: message.into() })
}

impl World {
    /// Opens a connection to a host: is it up, reachable, and does it take the key? `after_ms` is what it costs.
    pub fn ssh(&mut self, node: &NodeName) -> Reply<(), HostFailure> {
        let after_ms = self.rng.range(15, 90);
        let Some(host) = self.hosts.get(node) else {
            let why = HostFailure::Unreachable(format!("no machine at the address of {node}"));
            return Reply { after_ms, result: Err(why) };
        };
        if !host.up || host.unreachable_until > self.now {
            self.coverage.unreachable += 1;
            let why = HostFailure::Unreachable("connection timed out".to_owned());
            return Reply { after_ms: 3000, result: Err(why) };
        }
        if host.denies {
            self.coverage.denied += 1;
            return Reply { after_ms, result: Err(HostFailure::Denied) };
        }
        if self.faults_on && self.fault_rng.chance(self.plan.ssh_refused_per_mille) {
            self.coverage.ssh_drops += 1;
            let why = HostFailure::Unreachable("connection reset by peer".to_owned());
            return Reply { after_ms, result: Err(why) };
        }
        Reply { after_ms, result: Ok(()) }
    }

    /// Whether the connection breaks before the answer arrives. Call it after the effect.
    pub fn ssh_loses_answer(&mut self) -> bool {
        let lost = self.faults_on && self.fault_rng.chance(self.plan.ssh_lost_per_mille);
        if lost {
            self.coverage.ssh_drops += 1;
        }
        lost
    }

    /// One command over a fresh connection: contact, effect, and perhaps a lost answer.
    pub fn over_ssh<T>(
        &mut self,
        node: &NodeName,
        effect: impl FnOnce(&mut World) -> Result<T, HostFailure>,
    ) -> Reply<T, HostFailure> {
        let Reply { after_ms, result } = self.ssh(node);
        let result = result.and_then(|()| {
            let answer = effect(self);
            if self.ssh_loses_answer() { Err(HostFailure::Lost) } else { answer }
        });
        Reply { after_ms, result }
    }

    /// `probe`: facts about the host; changes nothing.
    pub fn host_facts(&self, node: &NodeName) -> Result<HostFacts, HostFailure> {
        let host = self.host(node)?;
        Ok(HostFacts {
            machine_id: host.machine_id.clone(),
            product_uuid: host.product_uuid.clone(),
            boot_id: host.boot_id.clone(),
            epoch_seen: host.epoch_seen,
            last_order: host.last_order.clone(),
            time_ms: self.wall_ms() + host.skew_ms,
        })
    }

    /// The host behind a node.
    pub fn host(&self, node: &NodeName) -> Result<&crate::hosts::Host, HostFailure> {
        self.hosts
            .get(node)
            .ok_or_else(|| HostFailure::Unreachable(format!("no machine for {node}")))
    }

    /// `accept`: takes an order, once.
    pub fn host_accept(
        &mut self,
        node: &NodeName,
        order: &Order,
    ) -> Result<Journaled, HostFailure> {
        let answer = self.try_accept(node, order);
        if let Err(HostFailure::Refused { kind, .. }) = &answer {
            let why = match kind {
                RefusalKind::BadOrder => "bad order",
                RefusalKind::WrongMachine => "wrong machine",
                RefusalKind::Fenced => "fenced",
                RefusalKind::Busy => "busy",
                RefusalKind::UnknownOrder => "unknown order",
            };
            self.happened(Happened::OrderRefused {
                order: order.key.to_string(),
                node: node.clone(),
                why,
            });
        }
        answer
    }

    fn try_accept(&mut self, node: &NodeName, order: &Order) -> Result<Journaled, HostFailure> {
        let host = self.host(node)?;
        if order.steps.is_empty() {
            return refused(RefusalKind::BadOrder, format!("order {} has no steps", order.key));
        }
        let other_uuid = order
            .product_uuid
            .as_ref()
            .is_some_and(|uuid| !uuid.eq_ignore_ascii_case(&host.product_uuid));
        if !order.machine_id.eq_ignore_ascii_case(&host.machine_id) || other_uuid {
            return refused(RefusalKind::WrongMachine, "this is not the machine the order is for");
        }
        if order.epoch < host.epoch_seen {
            let message = format!(
                "epoch {} is older than {}, which has been here",
                order.epoch, host.epoch_seen
            );
            return refused(RefusalKind::Fenced, message);
        }
        if let Some(known) = host.orders.get(&order.key) {
            let (known, boots) = (known.clone(), host.boots);
            if let Some(host) = self.hosts.get_mut(node) {
                host.epoch_seen = order.epoch;
            }
            if known.state == OrderState::Accepted {
                let begin = Task::OrderBegin(node.clone(), order.key.clone(), boots);
                self.later_between(10, 60, begin);
            }
            return Ok(known);
        }
        let rank = |key: &OrderKey| (key.attempt, key.stage);
        if host.orders.keys().any(|key| key.job == order.key.job && rank(key) >= rank(&order.key)) {
            let message =
                format!("order {} or a later one of its job has been on this host", order.key);
            return refused(RefusalKind::Fenced, message);
        }
        if let Some(running) = host.running() {
            if running.state == OrderState::Running {
                return refused(RefusalKind::Busy, format!("order {} runs", running.order.key));
            }
            self.interrupt(node, "a later order came before it had begun");
        }
        Ok(self.journal(node, order))
    }

    fn journal(&mut self, node: &NodeName, order: &Order) -> Journaled {
        let entry = Journaled {
            order: order.clone(),
            state: OrderState::Accepted,
            step: 0,
            runners: 0,
            again: false,
            done: Vec::new(),
            started_ms: None,
            ended_ms: None,
            step_began_ms: self.now,
            fate: Outcome::Ok,
            output: Vec::new(),
        };
        let mut boots = 0;
        if let Some(host) = self.hosts.get_mut(node) {
            host.epoch_seen = order.epoch;
            host.last_order = Some(order.key.clone());
            host.orders.insert(order.key.clone(), entry.clone());
            boots = host.boots;
        }
        self.happened(Happened::OrderAccepted {
            order: order.key.to_string(),
            node: node.clone(),
            epoch: order.epoch,
        });
        self.later_between(10, 60, Task::OrderBegin(node.clone(), order.key.clone(), boots));
        entry
    }

    /// `status` and `read`: where an order stands, with its output.
    pub fn host_order(&self, node: &NodeName, key: &OrderKey) -> Result<&Journaled, HostFailure> {
        let host = self.host(node)?;
        match host.orders.get(key) {
            Some(order) => Ok(order),
            None => refused(RefusalKind::UnknownOrder, format!("no order {key} on this host")),
        }
    }

    fn order_mut(&mut self, node: &NodeName, key: &OrderKey, boots: u64) -> Option<&mut Journaled> {
        let host = self.hosts.get_mut(node).filter(|host| host.up && host.boots == boots)?;
        host.orders.get_mut(key).filter(|order| !order.state.is_final())
    }

    pub(super) fn order_begin(&mut self, node: &NodeName, key: &OrderKey, boots: u64) {
        let clock = self.host_clock(node);
        let Some(order) = self.order_mut(node, key, boots) else {
            return;
        };
        if order.state != OrderState::Accepted {
            return;
        }
        order.state = OrderState::Running;
        order.runners += 1;
        order.started_ms.get_or_insert(clock);
        self.step_begin(node, key, boots);
    }

    fn host_clock(&self, node: &NodeName) -> i64 {
        self.wall_ms() + self.hosts.get(node).map_or(0, |host| host.skew_ms)
    }

    fn step_begin(&mut self, node: &NodeName, key: &OrderKey, boots: u64) {
        let now = self.now;
        let Some(order) = self.order_mut(node, key, boots) else {
            return;
        };
        order.step_began_ms = now;
        let again = std::mem::take(&mut order.again);
        let Some(step) = order.order.steps.get(order.step).cloned() else {
            return;
        };
        let run = run_of(node, key, &step.name);
        self.happened(Happened::ScriptStarted { run: run.clone(), again });
        self.runs.push(run);
        let (low, high) = self.tunables.steps_ms.get(&step.name).copied().unwrap_or((100, 1000));
        let mut lasts = self.rng.range(low, high);
        let trouble = self.step_trouble(node, key, &step.name);
        let mut fate = Outcome::Ok;
        match trouble {
            Some(StepTrouble::Exit(code)) => fate = Outcome::Exit(code),
            Some(StepTrouble::Hang) => lasts = u64::MAX,
            Some(StepTrouble::Flood) => self.say(node, key, &"flood ".repeat(OUTPUT_MAX / 4)),
            Some(StepTrouble::Reboot) => self.later(lasts / 2, Task::Reboot(node.clone())),
            Some(StepTrouble::KillRunner) => {
                self.interrupt(node, "the runner was killed");
                return;
            }
            None => {}
        }
        if lasts > step.limit_ms {
            (lasts, fate) = (step.limit_ms, Outcome::Timeout);
        }
        if let Some(order) = self.order_mut(node, key, boots) {
            order.fate = fate;
        }
        self.say(node, key, &format!("== {} on {node}\n", step.name));
        if step.name == "teardown" {
            self.kubelet_stop(node);
            self.uninitialize(node);
            if self.hosts.get(node).is_some_and(|host| host.rejoins_anew) {
                self.remove_node(node, Actor::System);
            }
        }
        self.later(lasts, Task::StepEnd(node.clone(), key.clone(), boots));
    }

    fn step_trouble(&mut self, node: &NodeName, key: &OrderKey, step: &str) -> Option<StepTrouble> {
        let fixed = self
            .plan
            .steps
            .iter()
            .find(|fault| {
                fault.node.as_ref().is_none_or(|n| n == node)
                    && fault.step == step
                    && fault.attempts.contains(&key.attempt)
            })
            .map(|fault| fault.trouble);
        let chance = self.faults_on && self.fault_rng.chance(self.plan.step_per_mille);
        let trouble = fixed.or_else(|| {
            let any = [
                StepTrouble::Exit(1),
                StepTrouble::Exit(255),
                StepTrouble::Flood,
                StepTrouble::Reboot,
                StepTrouble::KillRunner,
                StepTrouble::Hang,
            ];
            if chance { self.fault_rng.pick(&any).copied() } else { None }
        });
        if trouble.is_some() {
            self.coverage.step_faults += 1;
        }
        trouble
    }

    fn say(&mut self, node: &NodeName, key: &OrderKey, text: &str) {
        if let Some(order) = self.hosts.get_mut(node).and_then(|host| host.orders.get_mut(key)) {
            let room = OUTPUT_MAX.saturating_sub(order.output.len());
            order.output.extend(text.bytes().take(room));
        }
    }

    pub(super) fn step_end(&mut self, node: &NodeName, key: &OrderKey, boots: u64) {
        let (now, clock) = (self.now, self.host_clock(node));
        let Some(order) = self.order_mut(node, key, boots) else {
            return;
        };
        let Some(step) = order.order.steps.get(order.step).cloned() else {
            return;
        };
        let outcome = order.fate.clone();
        let duration_ms = now - order.step_began_ms;
        order.done.push(StepDone {
            name: step.name.clone(),
            outcome: outcome.clone(),
            duration_ms,
        });
        let ok = outcome == Outcome::Ok;
        let last = order.step + 1 == order.order.steps.len();
        if !ok {
            let reason = match outcome {
                Outcome::Exit(code) => format!("exit status {code}"),
                _ => "stopped: time limit passed".to_owned(),
            };
            order.state = OrderState::Failed { step: step.name.clone(), reason };
        } else if last {
            order.state = OrderState::Succeeded;
        } else {
            order.step += 1;
        }
        if !ok || last {
            order.ended_ms = Some(clock);
        }
        let run = run_of(node, key, &step.name);
        self.happened(Happened::ScriptEnded { run, ok });
        if ok && step.name == "install" {
            if let Some(host) = self.hosts.get_mut(node) {
                host.joins = true;
            }
            self.kubelet_start(node);
        }
        if ok && !last {
            self.step_begin(node, key, boots);
        }
    }

    /// The host goes down: what runs there waits to go on where its step may be run again, as the host binary has it.
    pub(super) fn cut_off(&mut self, node: &NodeName) {
        let running = self.hosts.get_mut(node).and_then(|host| {
            let mut orders = host.orders.iter_mut();
            orders.find(|(_, order)| !order.state.is_final())
        });
        let Some((key, order)) = running else {
            return;
        };
        let step = order.step_name().unwrap_or_default().to_owned();
        match order.state {
            OrderState::Running if RESUMES.contains(&&*step) && order.runners < RUNNERS_MAX => {
                order.state = OrderState::Accepted;
                order.again = true;
                let run = run_of(node, key, &step);
                self.coverage.resumed += 1;
                self.happened(Happened::ScriptEnded { run, ok: false });
            }
            OrderState::Running => self.interrupt(node, "the host was rebooted while it ran"),
            _ => {}
        }
    }

    /// Whatever runs on the host ends without having ended its step.
    pub(super) fn interrupt(&mut self, node: &NodeName, why: &str) {
        let Some(host) = self.hosts.get_mut(node) else {
            return;
        };
        let mut cut = None;
        for (key, order) in &mut host.orders {
            if order.state.is_final() {
                continue;
            }
            let step = match order.state {
                OrderState::Running => order.step_name().unwrap_or_default().to_owned(),
                _ => String::new(),
            };
            order.state = OrderState::Interrupted { step: step.clone(), reason: why.to_owned() };
            cut = Some((key.clone(), step));
        }
        if let Some((key, step)) = cut.filter(|(_, step)| !step.is_empty()) {
            let run = run_of(node, &key, &step);
            self.happened(Happened::ScriptEnded { run, ok: false });
        }
    }
}

fn run_of(node: &NodeName, key: &OrderKey, step: &str) -> Run {
    let (job, step) = (JobId::new(&key.job), step.to_owned());
    Run { job, node: node.clone(), attempt: key.attempt, stage: key.stage, step }
}
