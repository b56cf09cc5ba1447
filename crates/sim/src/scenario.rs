//! Builds worlds: how many nodes, what runs on them, and which budgets guard it.

use crate::faults::FaultPlan;
use crate::hosts::Host;
use crate::objects::{Amount, CONTROL_PLANE_LABEL, Kind, Limit, Workload, ZONE_LABEL};
use crate::rng::Rng;
use crate::world::World;
use evenkeel_engine::ids::{NodeName, ObjectKey};
use evenkeel_engine::selector::{Requirement, Selector};
use std::collections::BTreeMap;

/// How long a new world runs before it is handed over; enough for every pod to be Ready.
const SETTLE_MS: u64 = 60_000;

/// A budget to create.
#[derive(Clone, Debug, PartialEq)]
pub struct BudgetSpec {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Which pods.
    pub selector: Selector,
    /// How many may be out.
    pub limit: Limit,
    /// `unhealthyPodEvictionPolicy: AlwaysAllow`.
    pub always_allow_unready: bool,
}

/// What a world starts with.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// Seed of everything random in the world.
    pub seed: u64,
    /// Worker nodes, `node-1` and up.
    pub nodes: u32,
    /// Control-plane nodes, `master-1` and up; they are cordoned.
    pub control_plane: u32,
    /// Pods that fit on a node.
    pub capacity: u32,
    /// First two octets of the nodes' addresses.
    pub network: String,
    /// Labels that every worker carries.
    pub labels: BTreeMap<String, String>,
    /// What runs.
    pub workloads: Vec<Workload>,
    /// What guards it.
    pub budgets: Vec<BudgetSpec>,
    /// Nodes that a person cordoned long ago.
    pub cordoned: Vec<NodeName>,
    /// Conditions that agents set on every node, some time after its kubelet has registered.
    pub initialized: Vec<String>,
    /// What goes wrong.
    pub faults: FaultPlan,
}

impl Scenario {
    /// Empty nodes and no faults.
    pub fn new(seed: u64, nodes: u32) -> Self {
        Self {
            seed,
            nodes,
            control_plane: 0,
            capacity: 30,
            network: "10.77".to_owned(),
            labels: BTreeMap::new(),
            workloads: Vec::new(),
            budgets: Vec::new(),
            cordoned: Vec::new(),
            initialized: Vec::new(),
            faults: FaultPlan::default(),
        }
    }

    /// Adds a workload.
    pub fn with(mut self, workload: Workload) -> Self {
        self.workloads.push(workload);
        self
    }

    /// Adds a budget named after the app that it guards, in `default`.
    pub fn guarded(mut self, app: &str, limit: Limit) -> Self {
        self.budgets.push(BudgetSpec {
            key: ObjectKey::new("default", app),
            selector: app_selector(app),
            limit,
            always_allow_unready: false,
        });
        self
    }

    /// 3 to 12 nodes with a mix of workloads, budgets and faults that depends on the seed alone.
    pub fn seeded(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x5ce0);
        let nodes = rng.range(3, 12) as u32;
        let mut scenario = Self::new(seed, nodes);
        scenario.capacity = rng.range(12, 30) as u32;
        for index in 0..rng.range(1, 5) {
            let kind = if rng.chance(300) { Kind::StatefulSet } else { Kind::Deployment };
            let replicas = rng.range(1, u64::from(nodes) + 2) as u32;
            let mut workload = Workload::new(&format!("app{index}"), kind, replicas);
            workload.grace_s = *rng.pick(&[5, 10, 30, 60]).unwrap_or(&30);
            workload.stop_ms = rng.range(100, 8000);
            workload.start_ms = rng.range(500, 15_000);
            workload.local_data = rng.chance(150);
            scenario = scenario.with(workload);
            if rng.chance(700) {
                let limit = match rng.range(0, 4) {
                    0..=2 => Limit::MaxUnavailable(Amount::Pods(rng.range(1, 2) as u32)),
                    3 => Limit::MinAvailable(Amount::Pods(replicas.saturating_sub(1))),
                    _ => Limit::MinAvailable(Amount::Percent(rng.range(40, 80) as u32)),
                };
                scenario = scenario.guarded(&format!("app{index}"), limit);
            }
        }
        scenario = scenario.with(Workload::new("agent", Kind::DaemonSet, 0));
        scenario.add_rarities(&mut rng);
        if rng.chance(500) {
            scenario.initialized = vec!["NetworkSet".to_owned(), "AgentSet".to_owned()];
        }
        let names = scenario.node_names();
        scenario.faults = FaultPlan::seeded(seed, &names, rng.range(60_000, 600_000));
        scenario
    }

    fn add_rarities(&mut self, rng: &mut Rng) {
        if rng.chance(200) {
            self.workloads.push(Workload::new("proxy", Kind::Static, 0));
        }
        if rng.chance(100) {
            self.workloads.push(Workload::new("lone", Kind::Bare, 1));
        }
        if rng.chance(200) {
            self.workloads.push(Workload::new("batch", Kind::Finished, 2));
        }
        if rng.chance(60) {
            let mut stays = Workload::new("pinned", Kind::Deployment, 1);
            stays.protected = true;
            self.workloads.push(stays);
        }
        if rng.chance(60) {
            let never = Limit::MaxUnavailable(Amount::Pods(0));
            self.workloads.push(Workload::new("frozen", Kind::Deployment, 2));
            *self = self.clone().guarded("frozen", never);
        }
        if rng.chance(50)
            && let Some(first) = self.budgets.first().cloned()
        {
            let key = ObjectKey::new("default", format!("{}-twice", first.key.name));
            self.budgets.push(BudgetSpec { key, ..first });
        }
        if rng.chance(200) {
            let names = self.node_names();
            self.cordoned.extend(rng.pick(&names).cloned());
        }
    }

    /// A run worth watching: some deployments with budgets that make it wait here and there, one StatefulSet, one
    /// DaemonSet, no faults.
    pub fn demo(nodes: u32) -> Self {
        let one = Limit::MaxUnavailable(Amount::Pods(1));
        let mut db = Workload::new("db", Kind::StatefulSet, 3);
        (db.stop_ms, db.start_ms) = (2000, 6000);
        let mut scenario = Self::new(7, nodes)
            .with(Workload::new("web", Kind::Deployment, nodes * 2))
            .guarded("web", Limit::MaxUnavailable(Amount::Percent(25)))
            .with(Workload::new("api", Kind::Deployment, nodes))
            .guarded("api", one)
            .with(db)
            .guarded("db", one)
            .with(Workload::new("worker", Kind::Deployment, nodes))
            .with(Workload::new("log-agent", Kind::DaemonSet, 0));
        scenario.capacity = 40;
        scenario
    }

    /// Names of the workers.
    pub fn node_names(&self) -> Vec<NodeName> {
        (1..=self.nodes).map(|n| NodeName::new(format!("node-{n}"))).collect()
    }

    /// Builds the world and lets it settle: every node Ready, pods placed and budgets counted. Then the history
    /// begins, and the faults.
    pub fn build(&self) -> World {
        let mut world = World::empty(self.seed);
        world.initializers.clone_from(&self.initialized);
        let workers = self.node_names().into_iter().map(|name| (name, false));
        let masters =
            (1..=self.control_plane).map(|n| (NodeName::new(format!("master-{n}")), true));
        for (index, (name, master)) in workers.chain(masters).enumerate() {
            let host = self.host(&mut world, name, index as u32, master);
            world.add_host(host);
        }
        world.advance(5000);
        for workload in &self.workloads {
            world.create_workload(workload.clone());
            if matches!(workload.kind, Kind::Bare | Kind::Finished) {
                for index in 0..workload.replicas {
                    world.create_pod(workload, &format!("{}-{index}", workload.key.name), None);
                }
            }
        }
        for spec in &self.budgets {
            let mut budget =
                crate::world::new_budget(spec.key.clone(), spec.selector.clone(), spec.limit);
            budget.always_allow_unready = spec.always_allow_unready;
            let _ = world.create_budget(budget);
        }
        world.advance(SETTLE_MS);
        let masters = (1..=self.control_plane).map(|n| NodeName::new(format!("master-{n}")));
        for name in self.cordoned.iter().cloned().chain(masters) {
            world.cordon_quietly(&name);
        }
        world.begin(self.faults.clone());
        world
    }

    fn host(&self, world: &mut World, node: NodeName, index: u32, master: bool) -> Host {
        let mut labels = self.labels.clone();
        labels.insert("kubernetes.io/hostname".to_owned(), node.to_string());
        labels.insert(
            ZONE_LABEL.to_owned(),
            format!("zone-{}", char::from(b'a' + (index % 3) as u8)),
        );
        if master {
            labels.insert(CONTROL_PLANE_LABEL.to_owned(), String::new());
        }
        let ids = world.machine_ids();
        Host {
            machine_id: ids.0.replace('-', "").into(),
            product_uuid: ids.1.into(),
            boot_id: ids.2.into(),
            internal_ip: format!("{}.{}.{}", self.network, index / 250, index % 250 + 1).into(),
            provider_id: None,
            labels,
            capacity: self.capacity,
            skew_ms: ids.3,
            up: true,
            boots: 0,
            unreachable_until: 0,
            denies: false,
            rejoins_anew: false,
            joins: false,
            kubelet_up: false,
            kubelet_life: 0,
            epoch_seen: 0,
            orders: BTreeMap::new(),
            last_order: None,
            node,
        }
    }
}

/// `app=NAME`.
pub fn app_selector(app: &str) -> Selector {
    Selector::All(vec![Requirement::In("app".to_owned(), vec![app.to_owned()])])
}
