//! The real engine on virtual time: every action succeeds at once, pods stop and hosts reset as the instance says.

use crate::model::Instance;
use evenkeel_engine::action::{Action, Answer, EvictAnswer, HostState};
use evenkeel_engine::changes::Changes;
use evenkeel_engine::check;
use evenkeel_engine::facts::{BudgetSeen, Mark, NodeSeen, Owner, PodPhase, PodSeen, Readiness};
use evenkeel_engine::ids::{JobId, NodeId, NodeName, ObjectKey, PoolId, TemplateRevision, Uid};
use evenkeel_engine::index::Index;
use evenkeel_engine::learn::{Learned, Samples};
use evenkeel_engine::ledger::Ledger;
use evenkeel_engine::order::{Order, Sight};
use evenkeel_engine::place::Resources;
use evenkeel_engine::plan::{Ctx, Plan, plan};
use evenkeel_engine::selector::{Requirement, Selector};
use evenkeel_engine::sync::{Policy, Status, Sync, SyncSpec, SyncState, TargetNode};
use evenkeel_engine::time::{Span, Time};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

/// Decisions and events of a run end long before this.
const TURNS_MAX: usize = 200_000;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    PodGone(Uid),
    Recovered(usize),
    ResetDone(usize),
    Wake,
}

struct World<'a> {
    instance: &'a Instance,
    now: Time,
    version: u64,
    index: Index,
    ledger: Ledger,
    learned: Learned,
    order: Order,
    sync: Sync,
    events: BinaryHeap<Reverse<(Time, Event)>>,
    orders: BTreeMap<usize, Action>,
}

fn node_name(node: usize) -> NodeName {
    NodeName::new(format!("n{node:03}"))
}

fn node_of(name: &NodeName) -> usize {
    name.as_str()[1..].parse().unwrap_or(0)
}

/// The makespan in ms; an error names what went wrong.
pub fn makespan(instance: &Instance, canary: bool, experienced: bool) -> Result<u64, String> {
    let mut world = World::new(instance, canary, experienced);
    for _ in 0..TURNS_MAX {
        let decided = world.turn()?;
        match &world.sync.state.status {
            Status::Success { at } => return Ok(at.0),
            Status::Failed { reason, .. } => return Err(reason.clone()),
            Status::Running => {}
        }
        if let Some(at) = decided.wake_at {
            let at = at.max(world.now + Span(1));
            world.events.push(Reverse((at, Event::Wake)));
        }
        let Some(Reverse((at, event))) = world.events.pop() else {
            return Err("nothing moves any more".to_owned());
        };
        world.now = at;
        world.happens(event);
        while world.events.peek().is_some_and(|Reverse((next, _))| *next == at) {
            if let Some(Reverse((_, event))) = world.events.pop() {
                world.happens(event);
            }
        }
    }
    Err("it never ends".to_owned())
}

impl<'a> World<'a> {
    fn new(instance: &'a Instance, canary: bool, experienced: bool) -> Self {
        let pool = PoolId::new("p");
        let mut index = Index::default();
        index.set_live(true);
        let mut targets = Vec::new();
        for node in 0..instance.pods.len() {
            let name = node_name(node);
            index.set_pool(&name, Some(pool.clone()));
            index.see_node(fresh_node(&name), Time(0));
            targets.push(TargetNode { id: NodeId::new(name.as_str()), name });
            let services = instance.pods[node].iter().map(|s| &*instance.services[*s].name);
            // A pod without a budget stands for how long the drain takes.
            for app in services.chain(std::iter::once("plain")) {
                let grace_s = (instance.drain_ms[node] / 1000) as u32;
                index.see_pod(pod(app, node, grace_s), Time(0));
            }
        }
        let mut learned = Learned::default();
        for (number, service) in instance.services.iter().enumerate() {
            let pods = instance.pods.iter().filter(|on| on.contains(&number)).count() as i32;
            index.see_budget(budget(&service.name, pods, 1));
            if experienced {
                let mut samples = Samples::default();
                samples.take(Span(service.recovery_ms));
                learned.restore_budget(ObjectKey::new("d", &service.name), samples);
            }
        }
        let spec = SyncSpec {
            job: JobId::new("job"),
            pool,
            revision: TemplateRevision::new("r"),
            targets,
            skipped: Vec::new(),
            named: false,
            max_unavailable: instance.k as u32,
            retry_times: 0,
            force: false,
            resets: true,
            post_install: false,
            wait_post_install: true,
            initialized: Vec::new(),
            proven: !canary,
            policy: Policy {
                canary,
                // Where pods land is not played.
                steer: false,
                settle: Span(0),
                drain_timeout: Span::mins(24 * 60),
                ..Policy::default()
            },
        };
        let state = SyncState { status: Status::Running, accepted: Time(0), stalled_since: None };
        Self {
            instance,
            now: Time(0),
            version: 1,
            index,
            ledger: Ledger::default(),
            learned,
            order: Order::default(),
            sync: Sync::new(spec, state, []),
            events: BinaryHeap::new(),
            orders: BTreeMap::new(),
        }
    }

    /// Decides, stores and acts until nothing is left to do at this time.
    fn turn(&mut self) -> Result<Plan, String> {
        loop {
            let syncs = std::iter::once(&mut self.sync);
            let changes = Changes::take(&mut self.index, &mut self.ledger, syncs);
            self.learned.follow(&self.index, &changes, self.now);
            let (index, ledger, learned, now) =
                (&self.index, &self.ledger, &self.learned, self.now);
            let sight = Sight { index, ledger, learned, now };
            self.order.follow(&sight, &changes, std::iter::once(&self.sync));
            let ctx = Ctx { index, ledger, order: &self.order, learned, now };
            let decided = plan(&ctx, std::iter::once(&self.sync));
            check::plan(std::iter::once(&self.sync), &decided).map_err(|b| b.to_string())?;
            if decided.has_transitions() {
                decided.works.into_iter().for_each(|(_, work)| self.sync.put(work));
                decided.states.into_iter().for_each(|(_, state)| self.sync.state = state);
                continue;
            }
            if decided.actions.is_empty() {
                return Ok(decided);
            }
            for action in &decided.actions {
                self.act(action);
            }
        }
    }

    fn change(&mut self, name: &NodeName, change: impl FnOnce(&mut NodeSeen)) {
        let Some(entry) = self.index.node(name) else {
            return;
        };
        let mut seen = entry.seen.clone();
        change(&mut seen);
        self.version += 1;
        seen.resource_version = self.version.to_string().into();
        self.index.see_node(seen, self.now);
    }

    fn act(&mut self, action: &Action) {
        self.ledger.start(action, self.now);
        let (mut answer, mut version) = (Answer::Written, None);
        match action {
            Action::Claim { node, job, was_unschedulable } => {
                let mark =
                    Mark { job: job.clone(), epoch: 1, was_unschedulable: *was_unschedulable };
                self.change(node, |seen| seen.mark = Some(mark));
            }
            Action::Cordon { node } => self.change(node, |seen| seen.unschedulable = true),
            Action::Lift { node } | Action::Release { node, .. } => {
                let lifts = matches!(action, Action::Lift { .. });
                self.change(node, |seen| {
                    seen.unschedulable = false;
                    seen.mark = seen.mark.take().filter(|_| lifts);
                });
            }
            Action::Probe { .. } => answer = Answer::Fit,
            Action::Confirm { node } => {
                let seen = self.index.node(node).map(|e| e.seen.clone());
                let pods = self.index.pods_on(node).cloned().collect();
                answer = Answer::Confirmed { node: seen, pods };
            }
            Action::Heartbeat { .. } => answer = Answer::Renewed(Some(self.now.0 as i64 + 1)),
            Action::Host { node, .. } => {
                let number = node_of(node);
                self.orders.insert(number, action.clone());
                let at = self.now + Span(self.instance.reset_ms);
                self.events.push(Reverse((at, Event::ResetDone(number))));
                return;
            }
            Action::Evict { uid, budget, .. } => {
                let seen = budget.as_ref().and_then(|key| self.index.budget(key)).cloned();
                version = seen.as_ref().map(|b| b.resource_version.clone());
                let granted = seen.as_ref().is_none_or(|b| b.allowed > 0);
                let refused =
                    EvictAnswer::Refused { message: "not now".to_owned(), retry_after_s: None };
                answer = Answer::Eviction(if granted { EvictAnswer::Accepted } else { refused });
                self.ledger.end(action, Ok(answer), version, self.now);
                if granted {
                    self.leaves(uid, seen);
                }
                return;
            }
            Action::Delete { .. } | Action::Steer { .. } => {}
        }
        self.ledger.end(action, Ok(answer), version.take(), self.now);
    }

    fn leaves(&mut self, uid: &Uid, budget: Option<BudgetSeen>) {
        if let Some(mut pod) = self.index.pod(uid).cloned() {
            pod.deleting = true;
            let at = self.now + Span::secs(pod.grace_s.into());
            self.index.see_pod(pod, self.now);
            self.events.push(Reverse((at, Event::PodGone(uid.clone()))));
        }
        let Some(budget) = budget else {
            return;
        };
        let service = self.instance.services.iter().position(|s| *s.name == *budget.key.name);
        if let Some(service) = service {
            let at = self.now + Span(self.instance.services[service].recovery_ms);
            self.events.push(Reverse((at, Event::Recovered(service))));
        }
        self.count(budget, -1);
    }

    fn count(&mut self, mut budget: BudgetSeen, by: i32) {
        self.version += 1;
        budget.healthy += by;
        budget.allowed += by;
        budget.resource_version = self.version.to_string().into();
        self.index.see_budget(budget);
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Wake => {}
            Event::PodGone(uid) => {
                self.index.lose_pod(&uid);
                self.ledger.forget_pod(&uid);
            }
            Event::Recovered(service) => {
                let key = ObjectKey::new("d", &self.instance.services[service].name);
                if let Some(budget) = self.index.budget(&key).cloned() {
                    self.count(budget, 1);
                }
            }
            Event::ResetDone(node) => {
                if let Some(action) = self.orders.remove(&node) {
                    let ended = HostState::Succeeded { ended_host_ms: Some(self.now.0 as i64) };
                    self.ledger.end(&action, Ok(Answer::Host(ended)), None, self.now);
                }
            }
        }
    }
}

fn fresh_node(name: &NodeName) -> NodeSeen {
    NodeSeen {
        name: name.clone(),
        uid: Uid::new(name.as_str()),
        resource_version: "1".into(),
        unschedulable: false,
        met: Arc::default(),
        ready: Readiness::Ready,
        mark: None,
        hold: false,
        zone: None,
        control_plane: false,
        machine_id: None,
        system_uuid: None,
        provider_id: None,
        internal_ip: None,
        kubelet_version: None,
        labels: Arc::default(),
        taints: Arc::new([]),
        allocatable: Resources::default(),
    }
}

fn pod(app: &str, node: usize, grace_s: u32) -> PodSeen {
    PodSeen {
        uid: Uid::new(format!("{app}-{node}")),
        key: ObjectKey::new("d", format!("{app}-{node}")),
        node: Some(node_name(node)),
        labels: Arc::new(BTreeMap::from([("app".to_owned(), app.to_owned())])),
        owner: Owner::Controller(format!("ReplicaSet/{app}").into()),
        phase: PodPhase::Running,
        ready: true,
        deleting: false,
        grace_s,
        local_data: false,
        protected: false,
        needs: Arc::default(),
        claims: Box::default(),
    }
}

/// A budget over `app=NAME` that lets `at_once` go.
fn budget(app: &str, pods: i32, at_once: i32) -> BudgetSeen {
    BudgetSeen {
        key: ObjectKey::new("d", app),
        selector: Selector::All(vec![Requirement::In("app".into(), vec![app.into()])]),
        resource_version: "1".into(),
        allowed: at_once,
        healthy: pods,
        desired: pods - at_once,
        expected: pods,
        disrupted: 0,
        observed: true,
        always_allow_unready: false,
    }
}
