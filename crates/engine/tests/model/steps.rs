//! What may happen next.

use super::world::{
    Driver, NODES, Order, Pod, Request, State, TICK, TICKS_MAX, job, name, number, pod_uid,
};
use evenkeel_engine::action::{Action, Answer, EvictAnswer, FaultSeen, HostState};
use evenkeel_engine::check;
use evenkeel_engine::phase::Phase;
use evenkeel_engine::plan::{Ctx, plan};
use evenkeel_engine::time::Time;

/// One event. Drivers and requests are named by their place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A driver decides: it commits, or starts what it decided.
    Turn(usize),
    /// A request arrives, is carried out, and its answer comes back.
    Arrives(usize),
    /// A request is carried out, and its answer is lost.
    LosesAnswer(usize),
    /// A request never arrives.
    Vanishes(usize),
    /// A driver sees how the cluster stands.
    Sees(usize),
    /// A pod has ended.
    PodEnds(usize),
    /// The order on a host ends well, or badly.
    OrderEnds(usize, bool),
    /// A driver dies with everything it remembers, and another one starts. Its requests still arrive, or do not.
    Crash(usize, bool),
    /// Another driver takes the lease while this one lives.
    Second,
    /// Time passes.
    Tick,
}

fn fault(conflict: bool) -> FaultSeen {
    FaultSeen { permanent: false, conflict, message: String::new() }
}

impl State {
    /// Everything that may happen next. A driver that has something to decide decides before anything else happens,
    /// but it may die, or be usurped, at every commit.
    pub fn steps(&self, steps: &mut Vec<Step>) {
        if self.broken.is_some() {
            return;
        }
        let own = self.drivers.iter().position(|d| d.epoch == self.epoch);
        if self.left.crashes > 0
            && let Some(driver) = own
        {
            steps.push(Step::Crash(driver, true));
            if !self.requests.is_empty() {
                steps.push(Step::Crash(driver, false));
            }
        }
        if self.left.seconds > 0 {
            steps.push(Step::Second);
        }
        if let Some(driver) = self.drivers.iter().position(|d| d.stirred) {
            steps.push(Step::Turn(driver));
            return;
        }
        // What only asks, and of which nothing else depends, is answered at once: its order means nothing.
        let asks = |r: &Request| matches!(r.action, Action::Probe { .. } | Action::Heartbeat { .. });
        if let Some(at) = self.requests.iter().position(asks) {
            steps.push(Step::Arrives(at));
            if self.left.faults > 0 {
                steps.push(Step::Vanishes(at));
            }
            return;
        }
        let before = steps.len();
        for (at, request) in self.requests.iter().enumerate() {
            if self.waits_for_host(request) {
                continue;
            }
            steps.push(Step::Arrives(at));
            if self.left.faults > 0 {
                steps.push(Step::LosesAnswer(at));
                steps.push(Step::Vanishes(at));
            }
        }
        for (at, driver) in self.drivers.iter().enumerate() {
            if self.behind(driver) {
                steps.push(Step::Sees(at));
            }
        }
        for (n, node) in self.nodes.iter().enumerate() {
            if node.pod == Pod::Ends {
                steps.push(Step::PodEnds(n));
            }
            if node.host.state == Order::Runs {
                steps.push(Step::OrderEnds(n, true));
                if self.left.faults > 0 {
                    steps.push(Step::OrderEnds(n, false));
                }
            }
        }
        let idle = steps.len() == before;
        let waits = self.drivers.iter().any(|d| d.wake_at.is_some());
        if (!idle && self.left.ticks > 0) || (idle && waits && self.forced < TICKS_MAX) {
            steps.push(Step::Tick);
        }
    }

    /// An order that runs is followed; its request ends when the order does.
    fn waits_for_host(&self, request: &Request) -> bool {
        let Action::Host { node, attempt, .. } = &request.action else {
            return false;
        };
        let host = &self.nodes[number(node)].host;
        host.attempt == *attempt && host.state == Order::Runs
    }

    /// Carries one step out; false if it changes nothing.
    pub fn take(&mut self, step: &Step) -> bool {
        match *step {
            Step::Turn(driver) => self.turn(driver),
            Step::Arrives(at) => {
                let request = self.requests.remove(at);
                if let Some(answer) = self.carry_out(&request) {
                    self.answer(&request, answer);
                } else {
                    self.requests.insert(at, request);
                }
            }
            Step::LosesAnswer(at) => {
                self.left.faults -= 1;
                let request = self.requests.remove(at);
                let _ = self.carry_out(&request);
                self.answer(&request, Err(fault(false)));
            }
            Step::Vanishes(at) => {
                self.left.faults -= 1;
                let request = self.requests.remove(at);
                self.answer(&request, Err(fault(false)));
            }
            Step::Sees(at) => {
                let mut driver = self.drivers.remove(at);
                self.show(&mut driver);
                driver.stirred = true;
                self.drivers.insert(at, driver);
            }
            Step::PodEnds(n) => self.nodes[n].pod = Pod::Gone,
            Step::OrderEnds(n, well) => self.order_ends(n, well),
            Step::Crash(at, arrive) => {
                self.left.crashes -= 1;
                let dead = self.drivers.remove(at);
                if !arrive {
                    self.requests.retain(|request| request.epoch != dead.epoch);
                }
                self.start_driver();
            }
            Step::Second => {
                self.left.seconds -= 1;
                self.start_driver();
            }
            Step::Tick => {
                match self.left.ticks.checked_sub(1) {
                    Some(left) => self.left.ticks = left,
                    None => self.forced += 1,
                }
                self.now = self.now + TICK;
                for driver in &mut self.drivers {
                    driver.stirred = true;
                }
            }
        }
        true
    }

    fn order_ends(&mut self, n: usize, well: bool) {
        let now = self.now.0 as i64;
        let node = &mut self.nodes[n];
        node.version += 1;
        if well {
            node.host.state = Order::Succeeded(now);
            node.ready = true;
            node.renewed = now + 1;
        } else {
            self.left.faults -= 1;
            node.host.state = Order::Failed;
        }
    }

    /// One plan: its transitions are stored under the driver's epoch, or, if there are none, its actions start.
    fn turn(&mut self, at: usize) {
        let mut driver = self.drivers.remove(at);
        let ctx = Ctx { index: &driver.index, ledger: &driver.ledger, now: self.now };
        let decided = plan(&ctx, std::iter::once(&driver.sync));
        if let Err(broken) = check::plan(std::iter::once(&driver.sync), &decided) {
            self.broken.get_or_insert(broken.to_string());
        }
        if decided.has_transitions() {
            if driver.epoch != self.epoch {
                // Deposed: it ends here. Its requests are on their way.
                return;
            }
            for (_, work) in &decided.works {
                self.stored(&driver, work.phase.is_terminal(), &work.name);
                if work.phase.is_terminal() {
                    driver.ledger.forget_node(&work.name);
                }
                driver.sync.put(work.clone());
                self.works.insert(work.name.clone(), work.clone());
            }
            for (_, verdict) in decided.states {
                driver.sync.state = verdict.clone();
                self.verdict = verdict;
            }
        } else {
            driver.stirred = false;
            driver.wake_at = decided.wake_at;
            for action in decided.actions {
                driver.ledger.start(&action, self.now);
                let seen = written(&action).and_then(|n| driver.index.node(&name(n)));
                let version = seen.map_or_else(|| "".into(), |e| e.seen.resource_version.clone());
                self.requests.push(Request { epoch: driver.epoch, action, version });
            }
            // The order of requests under way means nothing.
            self.requests.sort_by_key(|r| (r.epoch, r.action.key(), r.version.clone()));
        }
        self.drivers.insert(at, driver);
    }

    fn stored(&mut self, _: &Driver, _: bool, node: &evenkeel_engine::ids::NodeName) {
        if self.works.get(node).is_some_and(|before| before.phase.is_terminal()) {
            self.broken.get_or_insert(format!("S13: {node} had ended"));
        }
    }

    /// Carries a request out at the API server or the host. `None`: it goes on.
    fn carry_out(&mut self, request: &Request) -> Option<Result<Answer, FaultSeen>> {
        let now = self.now;
        match &request.action {
            Action::Claim { node, .. } => Some(self.write(request, node, |n, e| n.mark = Some(e))),
            Action::Cordon { node } => {
                Some(self.write(request, node, |n, _| n.unschedulable = true))
            }
            Action::Lift { node } => {
                Some(self.write(request, node, |n, _| n.unschedulable = false))
            }
            Action::Release { node, uncordon } => Some(self.write(request, node, |n, _| {
                n.mark = None;
                n.unschedulable &= !uncordon;
            })),
            Action::Evict { uid, .. } => {
                let n = (0..NODES).find(|n| pod_uid(*n) == *uid)?;
                if !self.works.get(&name(n)).is_some_and(|w| w.phase.is_active()) {
                    self.broken.get_or_insert(format!("S3: {uid} was evicted from a free node"));
                }
                let node = &mut self.nodes[n];
                let answer = match node.pod {
                    Pod::Gone => EvictAnswer::Gone,
                    Pod::Runs | Pod::Ends => EvictAnswer::Accepted,
                };
                if node.pod == Pod::Runs {
                    node.pod = Pod::Ends;
                    node.version += 1;
                }
                Some(Ok(Answer::Eviction(answer)))
            }
            Action::Delete { uid, .. } => {
                self.broken.get_or_insert(format!("S6: {uid} was deleted without force"));
                Some(Ok(Answer::Written))
            }
            Action::Confirm { node } => {
                let n = number(node);
                let pods = self.nodes[n].pod_seen(n).into_iter().collect();
                Some(Ok(Answer::Confirmed { node: Some(self.nodes[n].seen(n)), pods }))
            }
            Action::Probe { .. } => Some(Ok(Answer::Fit)),
            Action::Heartbeat { node } => {
                Some(Ok(Answer::Renewed(Some(self.nodes[number(node)].renewed))))
            }
            Action::Host { node, attempt, .. } => self.order(request, number(node), *attempt, now),
        }
    }

    fn write(
        &mut self,
        request: &Request,
        node: &evenkeel_engine::ids::NodeName,
        change: impl FnOnce(&mut super::world::Node, u64),
    ) -> Result<Answer, FaultSeen> {
        let n = number(node);
        if *self.nodes[n].version.to_string() != *request.version {
            return Err(fault(true));
        }
        let before = self.nodes[n].clone();
        change(&mut self.nodes[n], request.epoch);
        if self.nodes[n] != before {
            self.nodes[n].version += 1;
        }
        Ok(Answer::Written)
    }

    /// The host takes an order once, refuses an older epoch, and says how far it is.
    fn order(
        &mut self,
        request: &Request,
        n: usize,
        attempt: u32,
        _: Time,
    ) -> Option<Result<Answer, FaultSeen>> {
        let host = &self.nodes[n].host;
        if request.epoch < host.epoch || attempt < host.attempt {
            let fenced = FaultSeen { permanent: true, conflict: false, message: String::new() };
            return Some(Err(fenced));
        }
        if attempt > host.attempt {
            self.begins(n, attempt);
            let node = &mut self.nodes[n];
            node.host.attempt = attempt;
            node.host.state = Order::Runs;
            node.ready = false;
            node.version += 1;
        }
        self.nodes[n].host.epoch = request.epoch;
        let state = match self.nodes[n].host.state {
            Order::None | Order::Runs => return None,
            Order::Succeeded(at) => HostState::Succeeded { ended_host_ms: Some(at) },
            Order::Failed => HostState::Failed { step: "install".into(), reason: String::new() },
        };
        Some(Ok(Answer::Host(state)))
    }

    /// S3, S7, S8: what must hold when a reset begins.
    fn begins(&mut self, n: usize, attempt: u32) {
        let node = &self.nodes[n];
        let work = self.works.get(&name(n));
        let held = work
            .is_some_and(|w| w.attempt == attempt && matches!(w.phase, Phase::Resetting { .. }));
        let why = if !held {
            "S3: a reset began without a record of its attempt"
        } else if !node.unschedulable || node.pod != Pod::Gone {
            "S7: a reset began on a node in use"
        } else if matches!(node.host.state, Order::Runs | Order::Succeeded(_)) {
            "S8: an attempt began after one that had not failed"
        } else {
            return;
        };
        self.broken.get_or_insert(format!("{why} ({} of {})", name(n), job()));
    }

    /// The answer reaches the driver that asked, if it still lives.
    fn answer(&mut self, request: &Request, result: Result<Answer, FaultSeen>) {
        let now = self.now;
        let Some(driver) = self.drivers.iter_mut().find(|d| d.epoch == request.epoch) else {
            return;
        };
        let done = result.is_ok();
        driver.ledger.end(&request.action, result, None, now);
        driver.stirred = true;
        if !done {
            return;
        }
        match &request.action {
            Action::Evict { uid, .. } if driver.index.pod(uid).is_none() => {
                driver.ledger.forget_pod(uid);
            }
            Action::Evict { .. } => {}
            action => {
                let node = match action {
                    Action::Claim { node, .. }
                    | Action::Cordon { node }
                    | Action::Lift { node }
                    | Action::Release { node, .. }
                    | Action::Confirm { node }
                    | Action::Probe { node, .. }
                    | Action::Host { node, .. }
                    | Action::Heartbeat { node } => node,
                    Action::Evict { .. } | Action::Delete { .. } => return,
                };
                if !driver.sync.work(node).is_some_and(|w| w.phase.is_active()) {
                    driver.ledger.forget_node(node);
                }
            }
        }
    }
}

/// The Node that an action writes to.
fn written(action: &Action) -> Option<usize> {
    action.writes_node().map(number)
}
