//! One pool, one job, and everything that a decision may look at, set up by hand.

use evenkeel_engine::action::{Action, Answer, FaultSeen};
use evenkeel_engine::admit::{self, Limits};
use evenkeel_engine::changes::Changes;
use evenkeel_engine::check;
use evenkeel_engine::facts::*;
use evenkeel_engine::ids::*;
use evenkeel_engine::index::Index;
use evenkeel_engine::learn::Learned;
use evenkeel_engine::ledger::Ledger;
use evenkeel_engine::order::{Order, Sight};
use evenkeel_engine::phase::Phase;
use evenkeel_engine::place::{Needs, Resources};
use evenkeel_engine::plan::{Ctx, Plan, plan};
use evenkeel_engine::selector::{Requirement, Selector};
use evenkeel_engine::sync::*;
use evenkeel_engine::time::{Span, Time};
use std::collections::BTreeMap;
use std::sync::Arc;

pub const NOW: Time = Time(10_000_000);

pub struct Case {
    pub index: Index,
    pub ledger: Ledger,
    pub sync: Sync,
    pub learned: Learned,
    pub now: Time,
    version: u64,
}

pub fn name(n: usize) -> NodeName {
    NodeName::new(format!("n{n}"))
}

pub fn node(n: usize) -> NodeSeen {
    NodeSeen {
        name: name(n),
        uid: Uid::new(format!("uid-n{n}")),
        resource_version: "1".into(),
        unschedulable: false,
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
        taints: Arc::default(),
        allocatable: Resources::default(),
        met: Arc::default(),
    }
}

pub fn pod(app: &str, on: usize) -> PodSeen {
    PodSeen {
        uid: Uid::new(format!("uid-{app}-{on}")),
        key: ObjectKey::new("default", format!("{app}-{on}")),
        node: Some(name(on)),
        labels: Arc::new(BTreeMap::from([("app".to_owned(), app.to_owned())])),
        owner: Owner::Controller(format!("ReplicaSet/{app}").into()),
        phase: PodPhase::Running,
        ready: true,
        deleting: false,
        grace_s: 30,
        local_data: false,
        protected: false,
        needs: Arc::new(Needs::nothing()),
        claims: Box::default(),
    }
}

/// A budget over `app=NAME`: expected, desired, healthy, allowed.
pub fn budget(app: &str, numbers: (i32, i32, i32, i32)) -> BudgetSeen {
    let (expected, desired, healthy, allowed) = numbers;
    BudgetSeen {
        key: ObjectKey::new("default", app),
        selector: Selector::All(vec![Requirement::In("app".into(), vec![app.into()])]),
        resource_version: "1".into(),
        allowed,
        healthy,
        desired,
        expected,
        disrupted: 0,
        observed: true,
        always_allow_unready: false,
    }
}

pub fn mark() -> Mark {
    Mark { job: JobId::new("job"), epoch: 1, was_unschedulable: false }
}

impl Case {
    /// `count` nodes in service, all of them targets.
    pub fn new(count: usize, max_unavailable: u32) -> Self {
        let pool = PoolId::new("p");
        let mut index = Index::default();
        index.set_live(true);
        for n in 1..=count {
            index.set_pool(&name(n), Some(pool.clone()));
            index.see_node(node(n), Time(0));
        }
        let targets = (1..=count)
            .map(|n| TargetNode { id: NodeId::new(format!("id{n}")), name: name(n) })
            .collect();
        let spec = SyncSpec {
            job: JobId::new("job"),
            pool,
            revision: TemplateRevision::new("r2"),
            targets,
            skipped: Vec::new(),
            named: false,
            max_unavailable,
            retry_times: 1,
            force: false,
            resets: true,
            post_install: true,
            wait_post_install: true,
            initialized: Vec::new(),
            proven: true,
            // Tables list what a turn does; steering has its own.
            policy: Policy { steer: false, ..Policy::default() },
        };
        let state = SyncState { status: Status::Running, accepted: Time(0), stalled_since: None };
        let sync = Sync::new(spec, state, []);
        let learned = Learned::default();
        Self { index, ledger: Ledger::default(), sync, learned, now: NOW, version: 1 }
    }

    pub fn spec(mut self, change: impl FnOnce(&mut SyncSpec)) -> Self {
        let mut spec = self.sync.spec.clone();
        change(&mut spec);
        let works: Vec<Work> = self.sync.works().cloned().collect();
        self.sync = Sync::new(spec, self.sync.state.clone(), works);
        self
    }

    /// Changes what is seen of a node; `since` is when the change was seen.
    pub fn node_at(&mut self, n: usize, since: Time, change: impl FnOnce(&mut NodeSeen)) {
        let mut seen = self.index.node(&name(n)).map_or_else(|| node(n), |e| e.seen.clone());
        change(&mut seen);
        self.version += 1;
        seen.resource_version = self.version.to_string().into();
        self.index.see_node(seen, since);
    }

    pub fn node(&mut self, n: usize, change: impl FnOnce(&mut NodeSeen)) {
        self.node_at(n, self.now, change);
    }

    pub fn pod(&mut self, pod: PodSeen) {
        self.index.see_pod(pod, self.now);
    }

    /// Puts a node into a phase.
    pub fn stands(&mut self, n: usize, phase: Phase, change: impl FnOnce(&mut Work)) {
        let mut work = Work {
            id: NodeId::new(format!("id{n}")),
            name: name(n),
            phase,
            attempt: 0,
            spent: 0,
            tries: 0,
            was_unschedulable: false,
            was_available: true,
            uncordons: 0,
            last_cause: None,
            log: Vec::new(),
        };
        change(&mut work);
        self.sync.put(work);
    }

    /// In hand, marked and cordoned by us.
    pub fn in_hand(&mut self, n: usize, phase: Phase, change: impl FnOnce(&mut Work)) {
        self.stands(n, phase, change);
        self.node(n, |node| {
            node.unschedulable = true;
            node.mark = Some(mark());
        });
    }

    pub fn once(&self) -> Plan {
        let learned = &self.learned;
        let sight = Sight { index: &self.index, ledger: &self.ledger, learned, now: self.now };
        let mut order = Order::default();
        order.follow(&sight, &Changes::default(), std::iter::once(&self.sync));
        let decided = self.with(&order);
        check::plan(std::iter::once(&self.sync), &decided).expect("no invariant is broken");
        decided
    }

    /// Brings an order that is kept from turn to turn up to date, as the actor does.
    pub fn follow(&mut self, order: &mut Order) {
        let syncs = std::iter::once(&mut self.sync);
        let changes = Changes::take(&mut self.index, &mut self.ledger, syncs);
        self.learned.follow(&self.index, &changes, self.now);
        let learned = &self.learned;
        let sight = Sight { index: &self.index, ledger: &self.ledger, learned, now: self.now };
        order.follow(&sight, &changes, std::iter::once(&self.sync));
    }

    /// Decides with such an order.
    pub fn with(&self, order: &Order) -> Plan {
        let ctx = Ctx {
            index: &self.index,
            ledger: &self.ledger,
            order,
            learned: &self.learned,
            now: self.now,
        };
        plan(&ctx, std::iter::once(&self.sync))
    }

    /// The limits as they stand.
    pub fn limits(&self) -> Limits {
        let (index, ledger, learned, now) = (&self.index, &self.ledger, &self.learned, self.now);
        let order = &Order::default();
        admit::limits(&Ctx { index, ledger, order, learned, now }, &self.sync)
    }

    /// Decides and stores until nothing moves, as a turn of the actor does.
    pub fn turn(&mut self) -> Plan {
        for _ in 0..50 {
            let decided = self.once();
            if !decided.has_transitions() {
                return decided;
            }
            for (_, work) in decided.works {
                self.sync.put(work);
            }
            for (_, state) in decided.states {
                self.sync.state = state;
            }
        }
        panic!("it never comes to rest");
    }

    pub fn settle(&mut self) {
        let _ = self.turn();
    }

    pub fn pass(&mut self, span: Span) {
        self.now = self.now + span;
    }

    /// An action was started and came to this.
    pub fn answered(&mut self, action: &Action, answer: Result<Answer, FaultSeen>) {
        self.ledger.start(action, self.now);
        let version = match action {
            Action::Evict { budget: Some(key), .. } => {
                self.index.budget(key).map(|b| b.resource_version.clone())
            }
            _ => None,
        };
        self.ledger.end(action, answer, version, self.now);
    }

    pub fn phase(&self, n: usize) -> &'static str {
        self.sync.work(&name(n)).map_or("-", |w| w.phase.word())
    }

    pub fn work(&self, n: usize) -> &Work {
        self.sync.work(&name(n)).expect("touched")
    }
}

/// What a plan does, as `verb subject`.
pub fn verbs(plan: &Plan) -> Vec<String> {
    plan.actions.iter().map(|a| a.key().to_string()).collect()
}

pub fn fault(permanent: bool) -> FaultSeen {
    FaultSeen { permanent, conflict: false, busy: false, message: "no answer".to_owned() }
}
