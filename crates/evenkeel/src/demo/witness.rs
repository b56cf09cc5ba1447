//! What the played world saw. It writes its history itself, and the server cannot read it.
//!
//! Entry point: [`Witness`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use evenkeel_sim::World;
use evenkeel_sim::history::{Actor, Happened};
use evenkeel_sim::objects::{Amount, Kind, Limit};

use super::event::{Moves, Seen};

/// The scripts of a reset: teardown, before installation, installation, after it.
const SCRIPTS: [&str; 4] = ["teardown", "pre_install", "install", "post_install"];

/// Looks at the world from time to time, and testifies at the end.
pub struct Witness {
    world: Arc<Mutex<World>>,
    /// Workloads of all pods that were ever seen, by UID.
    owners: BTreeMap<String, String>,
}

impl Witness {
    /// Begins to look.
    pub fn new(world: Arc<Mutex<World>>) -> Self {
        let mut witness = Self { world, owners: BTreeMap::new() };
        witness.look();
        witness
    }

    /// A world whose other users panicked is still a witness.
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers whose pods there are. A pod lives for longer than the time between two looks.
    pub fn look(&mut self) {
        let seen: Vec<(String, String)> = {
            let world = self.world();
            let owner = |pod: &Arc<evenkeel_sim::objects::Pod>| {
                let workload = pod.workload.as_ref()?;
                Some((pod.uid.to_string(), workload.name.to_string()))
            };
            world.pods().filter_map(owner).collect()
        };
        self.owners.extend(seen);
    }

    /// Names of the nodes.
    pub fn nodes(&self) -> Vec<String> {
        self.world().nodes().map(|node| node.name.to_string()).collect()
    }

    /// Pods by namespace and name.
    pub fn pods(&self) -> Vec<String> {
        self.world().pods().map(|pod| pod.key.to_string()).collect()
    }

    /// What runs.
    pub fn workloads(&self) -> BTreeMap<String, String> {
        let world = self.world();
        let entry = |workload: &evenkeel_sim::objects::Workload| {
            let what = match workload.kind {
                Kind::DaemonSet => "DaemonSet".to_owned(),
                kind => format!("{kind:?} of {}", workload.replicas),
            };
            (workload.key.name.to_string(), what)
        };
        world.workloads().map(entry).collect()
    }

    /// What guards it.
    pub fn budgets(&self) -> BTreeMap<String, String> {
        let amount = |amount| match amount {
            Amount::Pods(n) => n.to_string(),
            Amount::Percent(n) => format!("{n}%"),
        };
        let world = self.world();
        let entry = |budget: &Arc<evenkeel_sim::objects::Budget>| {
            let what = match budget.limit {
                Limit::MinAvailable(least) => format!("minAvailable {}", amount(least)),
                Limit::MaxUnavailable(most) => format!("maxUnavailable {}", amount(most)),
            };
            (budget.key.name.to_string(), what)
        };
        world.budgets().map(entry).collect()
    }

    /// What happened, as far as it is of interest.
    pub fn testify(&self, job: &str) -> Seen {
        let world = self.world();
        let (max_out, left_out) = outages(world.history.iter().map(|(_, what)| what));
        let mut seen = Seen {
            max_out,
            left_out,
            scripts_due: SCRIPTS.len() * world.nodes().count(),
            ..Seen::default()
        };
        for workload in world.workloads() {
            if matches!(workload.kind, Kind::Deployment | Kind::StatefulSet) {
                let pods = workload.replicas;
                let moves = Moves { pods, moves: 0 };
                seen.workloads.insert(workload.key.name.to_string(), moves);
            }
        }
        for (_, what) in &world.history {
            self.count(what, &mut seen);
        }
        let pods: u32 = seen.workloads.values().map(|of| of.pods).sum();
        seen.moves_per_pod = seen.evictions as f64 / f64::from(pods.max(1));
        let mut runs: BTreeMap<String, usize> = BTreeMap::new();
        for run in &world.runs {
            if run.job.as_str() == job && SCRIPTS.contains(&run.step.as_str()) {
                let key = format!("{} {} {}", run.node, run.attempt, run.step);
                *runs.entry(key).or_default() += 1;
            }
        }
        seen.scripts_run = runs.values().sum();
        seen.scripts_repeated = runs.values().filter(|times| **times > 1).count();
        seen
    }

    fn count(&self, what: &Happened, seen: &mut Seen) {
        match what {
            Happened::EvictionAccepted { uid, .. } => {
                seen.evictions += 1;
                let of = self.owners.get(uid.as_str());
                if let Some(of) = of.and_then(|name| seen.workloads.get_mut(name)) {
                    of.moves += 1;
                }
            }
            Happened::EvictionRefused { code: 429, .. } => seen.evictions_refused += 1,
            Happened::EvictionRepeated { .. } => seen.evictions_repeated += 1,
            Happened::PodDeleted { by: Actor::Us, .. } => seen.pods_deleted += 1,
            _ => {}
        }
    }
}

/// Most nodes that were cordoned, not Ready or gone at the same time, and those that are so at the end.
fn outages<'a>(history: impl Iterator<Item = &'a Happened>) -> (usize, Vec<String>) {
    // Cordoned, not Ready, gone.
    let mut nodes: BTreeMap<String, [bool; 3]> = BTreeMap::new();
    let mut most = 0;
    for what in history {
        let (node, which, is_out) = match what {
            Happened::Cordoned { node, .. } => (node, 0, true),
            Happened::Uncordoned { node, .. } => (node, 0, false),
            Happened::ReadyChanged { node, ready } => (node, 1, !ready),
            Happened::NodeGone { node, .. } => (node, 2, true),
            Happened::NodeAdded { node, ready, unschedulable } => {
                nodes.insert(node.to_string(), [*unschedulable, !ready, false]);
                (node, 2, false)
            }
            _ => continue,
        };
        nodes.entry(node.to_string()).or_default()[which] = is_out;
        most = most.max(nodes.values().filter(|why| why.contains(&true)).count());
    }
    let left = nodes.into_iter().filter(|(_, why)| why.contains(&true));
    (most, left.map(|(node, _)| node).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_out_while_it_is_cordoned_or_not_ready_or_gone() {
        let ready = |node: &str, ready| Happened::ReadyChanged { node: node.into(), ready };
        let cordoned = |node: &str| Happened::Cordoned { node: node.into(), by: Actor::Us };
        let uncordoned = |node: &str| Happened::Uncordoned { node: node.into(), by: Actor::Us };
        let gone = |node: &str| Happened::NodeGone { node: node.into(), by: Actor::System };
        let added = |node: &str| Happened::NodeAdded {
            node: node.into(),
            ready: true,
            unschedulable: false,
        };
        let cases = [
            (vec![], 0, vec![]),
            (vec![cordoned("a"), ready("a", false)], 1, vec!["a"]),
            (
                vec![cordoned("a"), ready("a", false), uncordoned("a"), cordoned("b")],
                2,
                vec!["a", "b"],
            ),
            (vec![cordoned("a"), uncordoned("a"), cordoned("b"), uncordoned("b")], 1, vec![]),
            (vec![cordoned("a"), gone("a"), added("a")], 1, vec![]),
            (vec![gone("a"), gone("b")], 2, vec!["a", "b"]),
        ];
        for (history, most, left) in cases {
            let (found, end) = outages(history.iter());
            assert_eq!(
                (found, end),
                (most, left.iter().map(ToString::to_string).collect()),
                "{history:?}"
            );
        }
    }
}
