//! Plays the run in virtual time: who is taken when, and when it would be back.
//!
//! Pods that leave are made good elsewhere and are not moved twice; nothing fails. Budgets let go what they allow, and
//! take back what was evicted after their recovery time.

use super::View;
use super::bounds::Times;
use super::census::{Census, Lot, at_once};
use crate::admit::RAMP_END;
use crate::ids::{NodeName, ObjectKey};
use crate::sync::SyncSpec;
use crate::time::Span;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;

/// One node's turn.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    pub(super) node: NodeName,
    pub(super) start: Span,
    pub(super) end: Span,
    pub(super) rule: String,
}

/// What happens next.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    /// A budget has one more to give.
    Recovered(usize),
    /// A node is back.
    Back(usize),
}

struct Budget {
    /// Nodes that are still to do, by how many of their pods it has to let go.
    line: BTreeMap<u32, Vec<usize>>,
    room: u32,
    most: u32,
    recovery: Span,
    /// Nodes with pods that wait for it.
    queue: VecDeque<usize>,
}

struct Place {
    name: NodeName,
    zone: Option<Arc<str>>,
    available: bool,
    pods: usize,
    /// Budgets, and the pods that each still has to let go.
    needs: Vec<(usize, u32)>,
    drain: Span,
    drained: bool,
    /// Its place in the order, all else being equal.
    rank: usize,
    /// How many of its budgets have no room for all of its pods.
    blocks: u32,
    taken: bool,
}

struct Run {
    now: Span,
    /// Nodes that are still to do: whether they would wait, rank, node.
    line: BTreeSet<(bool, usize, usize)>,
    places: Vec<Place>,
    budgets: Vec<Budget>,
    next: BinaryHeap<Reverse<(Span, Next)>>,
    outage: Span,
}

/// Plays it. Nodes in `stuck` are not taken: their drains cannot end.
pub(super) fn rehearse(
    view: &View<'_>,
    spec: &SyncSpec,
    census: &Census<'_>,
    times: &Times<'_>,
    stuck: &BTreeSet<&NodeName>,
) -> Vec<Turn> {
    let mut run = Run::new(view, census, times, stuck);
    let (mut held, mut proofs) = (0, if spec.proven { RAMP_END } else { 0 });
    let mut turns: Vec<Turn> = Vec::new();
    let mut turn_of: BTreeMap<usize, usize> = BTreeMap::new();
    loop {
        let ramp = match proofs {
            _ if !spec.policy.canary => spec.max_unavailable,
            0 => 1,
            n if n < RAMP_END => 2,
            _ => spec.max_unavailable,
        };
        while held < ramp.min(spec.max_unavailable)
            && let Some((place, rule)) = run.choose()
        {
            held += 1;
            turn_of.insert(place, turns.len());
            let (node, start) = (run.places[place].name.clone(), run.now);
            turns.push(Turn { node, start, end: start, rule: rule.to_owned() });
            run.take(place);
        }
        let Some(Reverse((at, next))) = run.next.pop() else {
            break;
        };
        run.now = at;
        match next {
            Next::Recovered(budget) => run.recovered(budget),
            Next::Back(place) => {
                held -= 1;
                proofs += u32::from(run.places[place].available);
                if let Some(turn) = turn_of.get(&place) {
                    turns[*turn].end = at;
                }
            }
        }
    }
    turns
}

impl Run {
    fn new(
        view: &View<'_>,
        census: &Census<'_>,
        times: &Times<'_>,
        stuck: &BTreeSet<&NodeName>,
    ) -> Self {
        let mut budgets: Vec<Budget> = Vec::new();
        let mut known: BTreeMap<&ObjectKey, usize> = BTreeMap::new();
        let mut places = Vec::new();
        for node in census.nodes.iter().filter(|node| !stuck.contains(&node.name)) {
            let mut needs: BTreeMap<usize, u32> = BTreeMap::new();
            for pod in node.pods.iter().filter(|pod| pod.lot == Lot::Moves && pod.pod.ready) {
                let Some(budget) = pod.budget else {
                    continue;
                };
                let index = *known.entry(&budget.key).or_insert_with(|| {
                    budgets.push(Budget {
                        line: BTreeMap::new(),
                        room: budget.allowed.max(0) as u32,
                        most: at_once(budget).max(1),
                        recovery: (times.recovery)(&budget.key),
                        queue: VecDeque::new(),
                    });
                    budgets.len() - 1
                });
                *needs.entry(index).or_default() += 1;
            }
            let seen = view.index.node(&node.name).map(|entry| &entry.seen);
            places.push(Place {
                name: node.name.clone(),
                zone: seen.and_then(|seen| seen.zone.clone()),
                available: seen.is_none_or(|seen| seen.available()),
                pods: node.pods.iter().filter(|pod| pod.lot == Lot::Moves).count(),
                needs: needs.into_iter().collect(),
                drain: (times.drain)(node),
                drained: false,
                rank: 0,
                blocks: 0,
                taken: false,
            });
        }
        let mut run = Run {
            now: Span(0),
            line: BTreeSet::new(),
            places,
            budgets,
            next: BinaryHeap::new(),
            outage: times.outage,
        };
        run.line_up();
        // A budget that is below what it usually allows is on its way back.
        for index in 0..run.budgets.len() {
            let budget = &run.budgets[index];
            for _ in budget.room..budget.most {
                let at = budget.recovery;
                run.next.push(Reverse((at, Next::Recovered(index))));
            }
        }
        run
    }

    /// Puts every node into the line.
    fn line_up(&mut self) {
        let mut order: Vec<usize> = (0..self.places.len()).collect();
        order.sort_by_key(|index| {
            let place = &self.places[*index];
            let pods = if place.available { 1 + place.pods } else { 0 };
            (pods, &place.zone, &place.name)
        });
        for (rank, index) in order.into_iter().enumerate() {
            let needs = self.places[index].needs.clone();
            let mut blocks = 0;
            for (budget, pods) in needs {
                let budget = &mut self.budgets[budget];
                budget.line.entry(pods).or_default().push(index);
                blocks += u32::from(pods > budget.room);
            }
            let place = &mut self.places[index];
            (place.rank, place.blocks) = (rank, blocks);
            self.line.insert((blocks > 0, rank, index));
        }
    }

    fn choose(&mut self) -> Option<(usize, &'static str)> {
        let (waits, _, place) = self.line.pop_first()?;
        self.places[place].taken = true;
        let rule = if waits { "all would wait for a budget" } else { "can be drained now" };
        Some((place, rule))
    }

    /// A budget has more or less room: nodes whose pods it now lets go all, or no longer does, change sides.
    fn set_room(&mut self, budget: usize, room: u32) {
        let before = std::mem::replace(&mut self.budgets[budget].room, room);
        let turned = self.budgets[budget].line.get(&before.max(room)).cloned().unwrap_or_default();
        for index in turned {
            let place = &mut self.places[index];
            if place.taken {
                continue;
            }
            self.line.remove(&(place.blocks > 0, place.rank, index));
            place.blocks = if room > before { place.blocks - 1 } else { place.blocks + 1 };
            self.line.insert((place.blocks > 0, place.rank, index));
        }
    }

    fn take(&mut self, place: usize) {
        for slot in 0..self.places[place].needs.len() {
            let (budget, pods) = self.places[place].needs[slot];
            let granted = pods.min(self.budgets[budget].room);
            for _ in 0..granted {
                self.grant(budget);
            }
            self.places[place].needs[slot].1 = pods - granted;
            for _ in granted..pods {
                self.budgets[budget].queue.push_back(place);
            }
        }
        self.settle(place);
    }

    fn grant(&mut self, budget: usize) {
        self.set_room(budget, self.budgets[budget].room - 1);
        let at = self.now + self.budgets[budget].recovery;
        self.next.push(Reverse((at, Next::Recovered(budget))));
    }

    fn recovered(&mut self, budget: usize) {
        self.set_room(budget, self.budgets[budget].room + 1);
        let Some(place) = self.budgets[budget].queue.pop_front() else {
            return;
        };
        self.grant(budget);
        if let Some(need) = self.places[place].needs.iter_mut().find(|(b, _)| *b == budget) {
            need.1 -= 1;
        }
        self.settle(place);
    }

    /// Once the last pod has been let go, the node is on its way.
    fn settle(&mut self, index: usize) {
        let place = &mut self.places[index];
        if !place.drained && place.needs.iter().all(|(_, pods)| *pods == 0) {
            place.drained = true;
            let at = self.now + place.drain + self.outage;
            self.next.push(Reverse((at, Next::Back(index))));
        }
    }
}
