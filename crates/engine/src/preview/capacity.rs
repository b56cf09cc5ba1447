//! How many nodes may be out at once before pods find no place. Necessary, not sufficient: how pods pack, and rules
//! between pods, are not looked at.
//!
//! Entry point: [`verdict`]. Asked for the whole cluster, and again for every group of nodes that some pods of the
//! targets are confined to.

use super::census::{Census, Lot};
use super::concern::free;
use crate::facts::Owner;
use crate::ids::NodeName;
use crate::index::{Index, NodeEntry};
use crate::place::{Needs, Resources};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Groups that are looked at; a cluster with more kinds of confined pods is judged by the first of them.
const GROUPS_MAX: usize = 64;

/// What limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// CPU requests.
    Cpu,
    /// Memory requests.
    Memory,
    /// Number of pods.
    Pods,
}

impl Resource {
    const ALL: [Resource; 3] = [Resource::Cpu, Resource::Memory, Resource::Pods];

    /// In words.
    pub fn word(self) -> &'static str {
        match self {
            Resource::Cpu => "CPU",
            Resource::Memory => "memory",
            Resource::Pods => "places for pods",
        }
    }

    fn of(self, amount: &Resources) -> u64 {
        match self {
            Resource::Cpu => amount.cpu_m,
            Resource::Memory => amount.memory,
            Resource::Pods => amount.pods.into(),
        }
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Targets whose pods fit on the others when any so many of them are out at once. 0: not even one.
    pub k_cap: u32,
    /// What runs out first; nothing where all targets may be out.
    pub scarce: Option<Resource>,
    /// Of a group of nodes, in words; nothing for the whole cluster.
    pub group: Option<String>,
    /// What nodes in service offer, without the control plane.
    pub offered: Resources,
    /// What is asked of them.
    pub requested: Resources,
}

impl Verdict {
    /// Whether so many nodes at once are too many.
    pub fn limits(&self, max_unavailable: u32) -> bool {
        self.scarce.is_some() && self.k_cap < max_unavailable
    }

    /// In words.
    pub fn sentence(&self, max_unavailable: u32) -> String {
        let Some(scarce) = self.scarce.map(Resource::word) else {
            return "the other nodes have room for everything".to_owned();
        };
        let place = self.group.as_ref().map(|g| format!(" on {g}")).unwrap_or_default();
        match self.k_cap {
            0 => format!(
                "the pods of not even one node fit on the others: {scarce}{place} is short, some pods wait until \
                 their node is back"
            ),
            k if k < max_unavailable => {
                format!(
                    "at most {k} nodes may be out at once, beyond that {scarce}{place} is short"
                )
            }
            k => format!("{k} nodes may be out at once before {scarce}{place} is short"),
        }
    }
}

struct Demand<'a> {
    name: &'a NodeName,
    moving: Resources,
}

/// Judges. O(nodes x kinds of confined pods).
pub fn verdict(index: &Index, census: &Census<'_>) -> Verdict {
    let workers: Vec<&NodeEntry> =
        index.nodes().filter(|e| e.seen.available() && !e.seen.control_plane).collect();
    let (mut offered, mut requested) = (Resources::default(), Resources::default());
    for entry in &workers {
        offered += entry.seen.allocatable;
        requested += index.requested(&entry.seen.name);
    }
    let all: Vec<Demand<'_>> =
        census.nodes.iter().map(|n| Demand { name: &n.name, moving: n.moving }).collect();
    let (k_cap, scarce) = most(index, &workers, &all);
    let mut verdict = Verdict { k_cap, scarce, group: None, offered, requested };
    for (needs, demands) in groups(census) {
        let inside: Vec<&NodeEntry> =
            workers.iter().copied().filter(|e| needs.accepts(&e.seen)).collect();
        let (k, scarce) = most(index, &inside, &demands);
        // Where only some targets hold such pods, the others may be out beside them.
        let others = census.nodes.len() - demands.len();
        let k = if scarce.is_some() { k } else { k + others as u32 };
        if k < verdict.k_cap {
            verdict.k_cap = k;
            verdict.scarce = scarce;
            verdict.group = Some(words(&needs));
        }
    }
    verdict
}

/// How many demands may come at once, the largest first, until what is free elsewhere runs out.
fn most(index: &Index, nodes: &[&NodeEntry], demands: &[Demand<'_>]) -> (u32, Option<Resource>) {
    let mut free_of = BTreeMap::new();
    let mut total = Resources::default();
    for entry in nodes {
        let free = free(index, &entry.seen.name, &entry.seen.allocatable);
        total += free;
        free_of.insert(&entry.seen.name, free);
    }
    let mut limit = (demands.len() as u32, None);
    for resource in Resource::ALL {
        let mut costs: Vec<u64> = demands
            .iter()
            .map(|d| {
                let own = free_of.get(d.name).map_or(0, |free| resource.of(free));
                own.saturating_add(resource.of(&d.moving))
            })
            .collect();
        costs.sort_unstable_by(|a, b| b.cmp(a));
        let mut left = resource.of(&total);
        let fit = costs
            .iter()
            .take_while(|cost| {
                let fits = **cost <= left;
                left = left.saturating_sub(**cost);
                fits
            })
            .count() as u32;
        if fit < limit.0 {
            limit = (fit, Some(resource));
        }
    }
    limit
}

/// The moving pods that are confined to some nodes, by what confines them.
fn groups<'a>(census: &'a Census<'_>) -> Vec<(Arc<Needs>, Vec<Demand<'a>>)> {
    let mut found: Vec<(Arc<Needs>, Vec<Demand<'a>>)> = Vec::new();
    let mut known: BTreeMap<*const Needs, Option<usize>> = BTreeMap::new();
    for node in &census.nodes {
        for view in &node.pods {
            let needs = &view.pod.needs;
            let confined = !needs.selector.is_empty() || needs.affinity.is_some();
            let moves = matches!(view.lot, Lot::Moves | Lot::Barred);
            if !confined || !moves || view.pod.owner == Owner::Nobody {
                continue;
            }
            let slot = *known.entry(Arc::as_ptr(needs)).or_insert_with(|| {
                let same = found.iter().position(|(n, _)| same_nodes(n, needs));
                same.or_else(|| {
                    (found.len() < GROUPS_MAX).then(|| {
                        found.push((needs.clone(), Vec::new()));
                        found.len() - 1
                    })
                })
            });
            let Some(slot) = slot else {
                continue;
            };
            let demands = &mut found[slot].1;
            match demands.last_mut() {
                Some(last) if *last.name == node.name => last.moving += needs.requests,
                _ => demands.push(Demand { name: &node.name, moving: needs.requests }),
            }
        }
    }
    found
}

fn same_nodes(a: &Needs, b: &Needs) -> bool {
    a.selector == b.selector && a.affinity == b.affinity && a.tolerations == b.tolerations
}

fn words(needs: &Needs) -> String {
    if needs.selector.is_empty() {
        return "nodes of one node affinity".to_owned();
    }
    let labels: Vec<String> = needs.selector.iter().map(|(k, v)| format!("{k}={v}")).collect();
    format!("nodes with {}", labels.join(", "))
}
