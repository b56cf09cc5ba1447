//! What a person should know of a pod before its node is drained: what blocks, what is lost, what finds no place.

use super::census::{Lot, NodeView, PodView};
use crate::drain::Bar;
use crate::facts::PodSeen;
use crate::ids::{NodeName, ObjectKey};
use crate::index::Index;
use crate::place::{self, Needs, NodeAffinity, Resources};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Volumes that only some nodes can reach, by claim.
pub type Volumes = BTreeMap<ObjectKey, NodeAffinity>;

/// What kind of concern it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A budget that can never allow an eviction.
    NeverAllows,
    /// Two budgets on one pod.
    TwoBudgets,
    /// No controller makes it again.
    Bare,
    /// Annotated not to be disrupted.
    DoNotDisrupt,
    /// The data of an emptyDir is lost.
    LocalData,
    /// Its volume is on the node's own disk.
    PinnedVolume,
    /// No other node takes it, or none has room for it now.
    FitsNowhereElse,
}

impl Kind {
    /// Whether the drain does not end while it lasts.
    pub fn blocks(self) -> bool {
        matches!(self, Kind::NeverAllows | Kind::TwoBudgets | Kind::Bare | Kind::DoNotDisrupt)
    }

    /// One word, for programs.
    pub fn word(self) -> &'static str {
        match self {
            Kind::NeverAllows => "budgetNeverAllows",
            Kind::TwoBudgets => "twoBudgets",
            Kind::Bare => "noController",
            Kind::DoNotDisrupt => "doNotDisrupt",
            Kind::LocalData => "localData",
            Kind::PinnedVolume => "pinnedVolume",
            Kind::FitsNowhereElse => "fitsNowhereElse",
        }
    }
}

/// One concern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concern {
    /// The pod.
    pub pod: ObjectKey,
    /// The budget, where one is involved.
    pub budget: Option<ObjectKey>,
    /// What kind it is.
    pub kind: Kind,
    /// In words, with the way out.
    pub why: String,
}

/// Answers where pods could go. Asks once per kind of pod, not once per pod.
pub struct Places<'a> {
    index: &'a Index,
    volumes: &'a Volumes,
    /// By the shared value: two nodes at most, enough to know one that is not the pod's own.
    with_room: BTreeMap<*const Needs, Vec<&'a NodeName>>,
}

impl<'a> Places<'a> {
    /// Nothing is asked yet.
    pub fn new(index: &'a Index, volumes: &'a Volumes) -> Self {
        Self { index, volumes, with_room: BTreeMap::new() }
    }

    /// The affinities of the pod's volumes.
    fn affinities(&self, pod: &PodSeen) -> Vec<&'a NodeAffinity> {
        let key = |claim: &Arc<str>| ObjectKey {
            namespace: pod.key.namespace.clone(),
            name: claim.clone(),
        };
        pod.claims.iter().filter_map(|claim| self.volumes.get(&key(claim))).collect()
    }

    /// Whether its volumes keep the pod on its node.
    pub fn is_pinned(&self, pod: &PodSeen, home: &NodeName) -> bool {
        if pod.claims.is_empty() {
            return false;
        }
        let affinities = self.affinities(pod);
        !affinities.is_empty()
            && !self.index.nodes().any(|e| {
                e.seen.name != *home && affinities.iter().all(|a| place::matches(a, &e.seen))
            })
    }

    /// Whether another node in service takes the pod and has room for it now.
    fn has_room_elsewhere(&mut self, pod: &PodSeen, home: &NodeName) -> bool {
        let needs = &pod.needs;
        let index = self.index;
        let found = self.with_room.entry(Arc::as_ptr(needs)).or_insert_with(|| {
            let fits = |e: &&crate::index::NodeEntry| {
                !e.seen.control_plane
                    && e.seen.available()
                    && needs.accepts(&e.seen)
                    && needs.requests.fits(&free(index, &e.seen.name, &e.seen.allocatable))
            };
            index.nodes().filter(fits).take(2).map(|e| &e.seen.name).collect()
        });
        if pod.claims.is_empty() {
            return found.iter().any(|node| *node != home);
        }
        // A volume may narrow the choice: rare enough to look at every node.
        let affinities = self.affinities(pod);
        self.index.nodes().any(|e| {
            e.seen.name != *home
                && e.seen.available()
                && affinities.iter().all(|a| place::matches(a, &e.seen))
                && needs.accepts(&e.seen)
                && needs.requests.fits(&free(index, &e.seen.name, &e.seen.allocatable))
        })
    }

    fn is_taken_elsewhere(&self, pod: &PodSeen, home: &NodeName) -> bool {
        self.index.nodes().any(|e| e.seen.name != *home && pod.needs.accepts(&e.seen))
    }
}

/// What is free on a node.
pub fn free(index: &Index, node: &NodeName, allocatable: &Resources) -> Resources {
    allocatable.minus(&index.requested(node))
}

/// All concerns of a node's pods; a pod may have several.
pub fn concerns(places: &mut Places<'_>, node: &NodeView<'_>) -> Vec<Concern> {
    let mut found = Vec::new();
    for view in &node.pods {
        if let Some(bar) = &view.bar {
            let kind = match bar {
                Bar::Bare => Kind::Bare,
                Bar::Protected => Kind::DoNotDisrupt,
                Bar::NeverAllows(_) => Kind::NeverAllows,
                Bar::TwoBudgets(..) => Kind::TwoBudgets,
            };
            found.push(Concern {
                pod: view.pod.key.clone(),
                budget: bar.budget().cloned(),
                kind,
                why: bar.why(),
            });
        }
        if matches!(view.lot, Lot::Moves | Lot::Barred) {
            of_a_move(places, node, view, &mut found);
        }
    }
    found
}

fn of_a_move(
    places: &mut Places<'_>,
    node: &NodeView<'_>,
    view: &PodView<'_>,
    found: &mut Vec<Concern>,
) {
    let pod = view.pod;
    let mut note = |kind, why: String| {
        let budget = view.budget.map(|b| b.key.clone()).filter(|_| kind == Kind::PinnedVolume);
        found.push(Concern { pod: pod.key.clone(), budget, kind, why });
    };
    if pod.local_data {
        note(Kind::LocalData, "the data of its emptyDir is lost with the eviction".to_owned());
    }
    if pod.owner == crate::facts::Owner::Nobody {
        return;
    }
    if places.is_pinned(pod, &node.name) {
        let why = "its volume is on this node's disk: it is down until the node is back";
        return note(Kind::PinnedVolume, why.to_owned());
    }
    if places.has_room_elsewhere(pod, &node.name) {
        return;
    }
    let why = if places.is_taken_elsewhere(pod, &node.name) {
        "no other node in service has room for it now: it waits until one has".to_owned()
    } else {
        "its node selector, affinity or tolerations fit no other node: it is down until this one is back"
            .to_owned()
    };
    note(Kind::FitsNowhereElse, why);
}
