//! What may happen next.

use super::Defect;
use super::world::{
    Cordon, NODES, Order, Pod, Request, State, TICK, TICKS_MAX, job, name, number, pod_uid,
};
use evenkeel_engine::action::{Action, Answer, EvictAnswer, FaultSeen, HostState};
use evenkeel_engine::check;
use evenkeel_engine::phase::Phase;
use evenkeel_engine::sync::{Status, Work};
use std::sync::Arc;

/// One event. Drivers and requests are named by their place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A driver decides: it commits, or starts what it decided.
    Turn(usize),
    /// A request arrives, is carried out, and its answer comes back.
    Arrives(usize),
    /// What a dead driver had sent arrives, all of it.
    OrphansArrive,
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
    /// A driver with a planted defect stores what it has acted on already.
    Stores(usize),
    /// Somebody else cordons a node that is not in hand.
    PersonCordons(usize),
    /// Another driver takes the lease while this one lives.
    Second,
    /// Time passes.
    Tick,
}

fn fault(conflict: bool) -> FaultSeen {
    FaultSeen { permanent: false, conflict, busy: false, message: String::new() }
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
        let asks = |r: &Arc<Request>| {
            matches!(
                r.action,
                Action::Probe { .. } | Action::Heartbeat { .. } | Action::Confirm { .. }
            )
        };
        if let Some(at) = self.requests.iter().position(asks) {
            steps.push(Step::Arrives(at));
            if self.left.faults > 0 {
                steps.push(Step::Vanishes(at));
            }
            return;
        }
        let before = steps.len();
        self.outside(steps);
        let own = self.drivers.iter().find(|d| d.epoch == self.epoch);
        let waits = own.is_some_and(|d| d.wake_at.is_some());
        let idle = steps.len() == before;
        // A tick is long: what is sent to a server that answers, and what its watch brings, comes within it. Pods and
        // hosts may take longer, and so may the requests of the dead.
        let prompt =
            |r: &Arc<Request>| own.is_some_and(|d| d.epoch == r.epoch) && !self.waits_for_host(r);
        let urgent = self.requests.iter().any(prompt) || own.is_some_and(|d| self.behind(d));
        if (!urgent && self.left.ticks > 0) || (idle && waits) {
            steps.push(Step::Tick);
        }
    }

    /// What may happen outside of the drivers.
    fn outside(&self, steps: &mut Vec<Step>) {
        for (at, request) in self.requests.iter().enumerate() {
            if self.waits_for_host(request) || self.orphaned(request) {
                continue;
            }
            steps.push(Step::Arrives(at));
            if self.left.faults > 0 {
                steps.push(Step::LosesAnswer(at));
                steps.push(Step::Vanishes(at));
            }
        }
        if self.requests.iter().any(|request| self.orphaned(request)) {
            steps.push(Step::OrphansArrive);
        }
        for (at, driver) in self.drivers.iter().enumerate() {
            // Whoever has lost its lease looks no more: an actor renews before it takes a new look, and learns of it.
            let may_look = driver.epoch == self.epoch || self.left.defect == Some(Defect::LooksOn);
            if may_look && self.behind(driver) {
                steps.push(Step::Sees(at));
            }
            if !driver.late.is_empty() {
                steps.push(Step::Stores(at));
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
        // A cordon of a person beside ours says nothing: only one that is there before the claim is theirs.
        let theirs = NODES - 1;
        let free = self.nodes[theirs].cordon.is_none() && !self.recorded(theirs);
        if self.left.people > 0 && free && self.verdict.status == Status::Running {
            steps.push(Step::PersonCordons(theirs));
        }
    }

    /// An order that runs is followed; its request ends when the order does.
    fn waits_for_host(&self, request: &Request) -> bool {
        let Action::Host { node, attempt, .. } = &request.action else {
            return false;
        };
        let host = &self.nodes[number(node)].host;
        host.attempt == *attempt && host.state == Order::Runs && request.epoch == host.epoch
    }

    /// Carries one step out.
    pub fn take(&mut self, step: &Step) {
        match *step {
            Step::Turn(driver) => {
                // Between two commits of a driver that can neither die nor be usurped nothing happens.
                let mut quiet = !self.turn(driver);
                let sole = self.drivers.len() == 1;
                while !quiet && sole && self.left.crashes == 0 && self.left.seconds == 0 {
                    quiet = !self.turn(driver);
                }
            }
            Step::Arrives(at) => {
                let request = self.requests.remove(at);
                match self.carry_out(&request) {
                    Some(answer) => self.answer(&request, answer),
                    None => self.requests.push(request),
                }
            }
            Step::OrphansArrive => {
                for request in std::mem::take(&mut self.requests) {
                    if !self.orphaned(&request) {
                        self.requests.push(request);
                    } else if !self.in_vain(&request) {
                        let _ = self.carry_out(&request);
                    }
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
                let mut driver = Arc::unwrap_or_clone(self.drivers.remove(at));
                self.show(&mut driver);
                driver.stirred = true;
                self.drivers.insert(at, Arc::new(driver));
            }
            Step::Stores(at) => {
                for work in std::mem::take(&mut Arc::make_mut(&mut self.drivers[at]).late) {
                    self.store(work);
                }
            }
            Step::PodEnds(n) => self.nodes[n].pod = Pod::Gone,
            Step::OrderEnds(n, well) => self.order_ends(n, well),
            Step::PersonCordons(n) => {
                self.left.people -= 1;
                self.nodes[n].cordon = Some(Cordon::Others);
                self.nodes[n].version += 1;
            }
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
            Step::Tick => self.tick(),
        }
        self.seal();
    }

    /// A step in words, for a trace.
    pub fn tells(&self, step: &Step) -> String {
        match step {
            Step::Arrives(at) | Step::LosesAnswer(at) | Step::Vanishes(at) => {
                let request = &self.requests[*at];
                format!("{step:?}: {} of driver {}", request.action.key(), request.epoch)
            }
            Step::Turn(at) | Step::Sees(at) => {
                let phase = |w: &Work| format!("{} {}", w.name, w.phase.word());
                let stand: Vec<String> = self.works.values().map(phase).collect();
                format!("{step:?}: driver {}; {}", self.drivers[*at].epoch, stand.join(", "))
            }
            _ => format!("{step:?}"),
        }
    }

    fn tick(&mut self) {
        match self.left.ticks.checked_sub(1) {
            Some(left) => self.left.ticks = left,
            None => self.forced += 1,
        }
        if self.forced > TICKS_MAX {
            self.broken.get_or_insert("L1: it goes round in circles".to_owned());
        }
        self.now = self.now + TICK;
        // Whoever has lost its lease learns of it within a tick.
        let epoch = self.epoch;
        self.drivers.retain(|d| d.epoch == epoch);
        for driver in &mut self.drivers {
            Arc::make_mut(driver).stirred = true;
        }
    }

    fn order_ends(&mut self, n: usize, well: bool) {
        let node = &mut self.nodes[n];
        node.version += 1;
        if well {
            node.host.state = Order::Succeeded;
            node.ready = true;
            node.renewed = node.host.ended() + 1;
        } else {
            self.left.faults -= 1;
            node.host.state = Order::Failed;
        }
    }

    /// One plan: its transitions are stored under the driver's epoch, or, if there are none, its actions start.
    /// Returns whether it has to decide again.
    fn turn(&mut self, at: usize) -> bool {
        let mut driver = Arc::unwrap_or_clone(self.drivers.remove(at));
        let decided = driver.decide(self.now);
        if let Err(broken) = check::plan(std::iter::once(&driver.sync), &decided) {
            self.broken.get_or_insert(broken.to_string());
        }
        let deposed = driver.epoch != self.epoch;
        let again = decided.has_transitions();
        if again {
            if deposed && self.left.defect != Some(Defect::StoreTakesAll) {
                // It ends here. Its requests are on their way.
                return false;
            }
            for (_, mut work) in decided.works {
                // Its story is for people.
                work.log.clear();
                if work.phase.is_terminal() {
                    driver.ledger.forget_node(&work.name);
                }
                driver.sync.put(work.clone());
                if self.left.defect == Some(Defect::EffectFirst) {
                    driver.late.push(work);
                } else {
                    self.store(work);
                }
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
                let seen = action.writes_node().and_then(|node| driver.index.node(node));
                let version = seen.map_or_else(|| "".into(), |e| e.seen.resource_version.clone());
                self.requests.push(Arc::new(Request { epoch: driver.epoch, action, version }));
            }
            driver.lives -= u8::from(deposed);
        }
        if driver.lives > 0 {
            self.drivers.insert(at, Arc::new(driver));
        }
        again
    }

    fn store(&mut self, work: Work) {
        let node = &work.name;
        if self.works.get(node).is_some_and(|before| before.phase.is_terminal()) {
            self.broken.get_or_insert(format!("S13: {node} had ended"));
        }
        Arc::make_mut(&mut self.works).insert(node.clone(), work);
    }

    /// Carries a request out at the API server or the host. `None`: it goes on.
    fn carry_out(&mut self, request: &Request) -> Option<Result<Answer, FaultSeen>> {
        match &request.action {
            Action::Claim { node, .. } => Some(self.write(request, node, |n, e| n.mark = Some(e))),
            Action::Cordon { node } => Some(self.write(request, node, |n, _| {
                n.cordon.get_or_insert(Cordon::Ours);
            })),
            Action::Lift { node } => Some(self.write(request, node, |n, _| n.cordon = None)),
            Action::Release { node, uncordon } => Some(self.write(request, node, |n, _| {
                n.mark = None;
                n.cordon = n.cordon.filter(|_| !uncordon);
            })),
            Action::Evict { uid, .. } => {
                let n = (0..NODES).find(|n| pod_uid(*n) == *uid)?;
                let active = self.works.get(&name(n)).is_some_and(|w| w.phase.is_active());
                if self.nodes[n].pod == Pod::Runs && !active {
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
            Action::Steer { .. } => unreachable!("steering is switched off"),
            Action::Confirm { node } => {
                let n = number(node);
                let pods = self.nodes[n].pod_seen(n).into_iter().collect();
                Some(Ok(Answer::Confirmed { node: Some(self.nodes[n].seen(n)), pods }))
            }
            Action::Probe { .. } => Some(Ok(Answer::Fit)),
            Action::Heartbeat { node } => {
                Some(Ok(Answer::Renewed(Some(self.nodes[number(node)].renewed))))
            }
            Action::Host { node, attempt, .. } => self.order(request, number(node), *attempt),
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
        let after = &self.nodes[n];
        let closes = before.cordon.is_none() && after.cordon.is_some();
        let marks = before.mark.is_none() && after.mark.is_some();
        let broken = if (closes || marks) && !self.recorded(n) {
            Some("S3: a node was marked or cordoned without a record")
        } else if before.cordon == Some(Cordon::Others) && after.cordon.is_none() {
            Some("S5: a cordon of others was taken away")
        } else {
            None
        };
        if let Some(why) = broken {
            self.broken.get_or_insert(format!("{why} ({node})"));
        }
        if *after != before {
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
    ) -> Option<Result<Answer, FaultSeen>> {
        let host = &self.nodes[n].host;
        let older = request.epoch < host.epoch;
        if older && self.left.defect == Some(Defect::HostTakesAll) {
            self.broken.get_or_insert(format!("S12: n{n} took an order of a former actor"));
        }
        if older || attempt < host.attempt {
            let fenced =
                FaultSeen { permanent: true, conflict: false, busy: false, message: String::new() };
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
            Order::Succeeded => {
                HostState::Succeeded { ended_host_ms: Some(self.nodes[n].host.ended()) }
            }
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
        } else if node.cordon.is_none() || node.pod != Pod::Gone {
            "S7: a reset began on a node in use"
        } else if matches!(node.host.state, Order::Runs | Order::Succeeded) {
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
        let driver = Arc::make_mut(driver);
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
                    | Action::Steer { node, .. }
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
