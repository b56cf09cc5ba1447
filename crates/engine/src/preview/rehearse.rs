//! Plays the run in virtual time, with the run's own admission and order: who is taken when, and when it would be back.
//!
//! Pods that leave are made good elsewhere and are not moved twice; nothing fails. Budgets let go what they allow, and
//! take back what was evicted after their recovery time. Nodes whose drain cannot end are not taken.

use super::View;
use super::bounds::Times;
use super::census::{Census, Lot, at_once};
use crate::admit::{self, Admission};
use crate::changes::Changes;
use crate::facts::BudgetSeen;
use crate::ids::{NodeName, ObjectKey, Uid};
use crate::index::Index;
use crate::ledger::Ledger;
use crate::order::{Order, Sight};
use crate::phase::{Left, Phase};
use crate::plan::Ctx;
use crate::sync::{Status, Sync, SyncSpec, SyncState, Work};
use crate::time::{Span, Time};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

/// One node's turn.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    pub(super) node: NodeName,
    pub(super) start: Span,
    pub(super) end: Span,
    pub(super) rule: String,
}

/// Turns that are played; what comes after them goes on at the same pace. A page shows a dozen, 240 turns are at least
/// twelve rounds of the largest window (20), and a preview of 10,000 nodes has to be there within a second.
pub(super) const PLAYED_MAX: usize = 240;

/// A run as far as it was played.
#[derive(Clone, Debug, Default)]
pub(super) struct Played {
    pub(super) turns: Vec<Turn>,
    /// Nodes whose turn would come later.
    pub(super) later: BTreeSet<NodeName>,
}

impl Played {
    /// When the last node would be back.
    pub(super) fn end(&self) -> Span {
        let end = self.turns.iter().map(|turn| turn.end).max().unwrap_or_default();
        let all = (self.turns.len() + self.later.len()) as u64;
        Span(end.0.saturating_mul(all) / (self.turns.len() as u64).max(1))
    }
}

/// What happens next.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    /// A budget has one more to give.
    Recovered(ObjectKey),
    /// A node is back.
    Back(NodeName),
}

/// A node that is being drained.
struct Drain {
    work: Work,
    /// Pods that wait for a budget.
    left: u32,
}

struct Run<'a> {
    start: Time,
    now: Time,
    index: Index,
    sync: Sync,
    times: &'a Times<'a>,
    drains: BTreeMap<NodeName, Drain>,
    least: BTreeMap<NodeName, Span>,
    /// Pods that wait, by their budget.
    queues: BTreeMap<ObjectKey, VecDeque<(NodeName, Uid)>>,
    next: BinaryHeap<Reverse<(Time, Next)>>,
    turns: Vec<Turn>,
    turn_of: BTreeMap<NodeName, usize>,
}

/// Plays it.
pub(super) fn rehearse(
    view: &View<'_>,
    spec: &SyncSpec,
    census: &Census<'_>,
    times: &Times<'_>,
) -> Played {
    let mut run = Run::new(view, spec, census, times);
    let (mut order, mut ledger) = (Order::default(), Ledger::default());
    loop {
        if run.turns.len() >= PLAYED_MAX {
            return run.cut_short();
        }
        let changes = Changes::take(&mut run.index, &mut ledger, std::iter::once(&mut run.sync));
        let (index, now) = (&run.index, run.now);
        let sight = Sight { index, ledger: &ledger, learned: view.learned, now };
        order.follow(&sight, &changes, std::iter::once(&run.sync));
        let ctx = Ctx { index, ledger: &ledger, order: &order, learned: view.learned, now };
        let wake = match admit::next(&ctx, &run.sync) {
            Admission::Take(works) => {
                for work in works {
                    run.take(work);
                }
                continue;
            }
            Admission::Nobody(_, wake) => wake.filter(|at| *at > run.now),
        };
        let next_at = run.next.peek().map(|Reverse((at, _))| *at);
        if let Some(at) = wake.filter(|at| next_at.is_none_or(|next| *at < next)) {
            run.now = at;
            continue;
        }
        let Some(Reverse((at, next))) = run.next.pop() else {
            return Played { turns: run.turns, later: BTreeSet::new() };
        };
        run.happens(at, next);
    }
}

impl<'a> Run<'a> {
    fn new(view: &View<'_>, spec: &SyncSpec, census: &Census<'_>, times: &'a Times<'a>) -> Self {
        let accepted = view.now;
        let state = SyncState { status: Status::Running, accepted, stalled_since: None };
        let mut run = Self {
            start: view.now,
            now: view.now,
            index: view.index.clone(),
            sync: Sync::new(spec.clone(), state, []),
            times,
            drains: BTreeMap::new(),
            least: census.nodes.iter().map(|n| (n.name.clone(), (times.drain)(n))).collect(),
            queues: BTreeMap::new(),
            next: BinaryHeap::new(),
            turns: Vec::new(),
            turn_of: BTreeMap::new(),
        };
        // A budget that is below what it usually allows is on its way back.
        for key in census.budgets.keys() {
            let Some(budget) = view.index.budget(key) else {
                continue;
            };
            for _ in budget.allowed.max(0) as u32..at_once(budget) {
                run.later((times.recovery)(key), Next::Recovered(key.clone()));
            }
        }
        run
    }

    fn later(&mut self, span: Span, next: Next) {
        self.next.push(Reverse((self.now + span, next)));
    }

    fn happens(&mut self, at: Time, next: Next) {
        self.now = at;
        match next {
            Next::Recovered(budget) => self.recovered(&budget),
            Next::Back(node) => self.back(&node),
        }
    }

    /// Takes nobody any more, and lets those in hand come back.
    fn cut_short(mut self) -> Played {
        while let Some(Reverse((at, next))) = self.next.pop() {
            self.happens(at, next);
        }
        let (index, named) = (&self.index, self.sync.spec.named);
        let kept = |name: &&NodeName| {
            let held = index.node(name).is_none_or(|entry| entry.seen.hold);
            held || (!named && admit::cordoned_by_others(index, name))
        };
        let later = self.sync.untouched().iter().filter(|name| !kept(name)).cloned().collect();
        Played { turns: self.turns, later }
    }

    /// A node is taken, or set aside for good.
    fn take(&mut self, mut work: Work) {
        if !matches!(work.phase, Phase::Claiming { .. }) {
            if let Phase::Waiting { cause, .. } = work.phase {
                work.phase = Phase::Failed { at: self.now, cause, left: Left::InService };
            }
            return self.sync.put(work);
        }
        let node = work.name.clone();
        let rule = work.log.last().map(|line| line.note.clone()).unwrap_or_default();
        let start = self.now - self.start;
        self.turn_of.insert(node.clone(), self.turns.len());
        self.turns.push(Turn { node: node.clone(), start, end: start, rule });
        work.phase = Phase::Draining { since: self.now, cordoned: true };
        self.sync.put(work.clone());
        self.set_service(&node, true);
        self.drains.insert(node.clone(), Drain { work, left: 0 });
        let pods: Vec<Uid> = self.index.pods_on(&node).map(|pod| pod.uid.clone()).collect();
        for uid in pods {
            self.ask(&node, &uid);
        }
        self.settle(&node);
    }

    /// A pod is to leave: at once, or when its budget lets it.
    fn ask(&mut self, node: &NodeName, uid: &Uid) {
        let Some(pod) = self.index.pod(uid) else {
            return;
        };
        let budgets: Vec<&BudgetSeen> = self.index.budgets_of(pod).collect();
        let look = super::census::look(pod, &budgets, self.sync.spec.force);
        match (look.lot, look.budget.filter(|_| pod.ready).map(|b| b.key.clone())) {
            (Lot::Stays, _) => {}
            (Lot::Moves, Some(budget)) => {
                self.queues
                    .entry(budget.clone())
                    .or_default()
                    .push_back((node.clone(), uid.clone()));
                if let Some(drain) = self.drains.get_mut(node) {
                    drain.left += 1;
                }
                self.grant(&budget);
            }
            _ => self.index.lose_pod(uid),
        }
    }

    /// A budget lets the next pod go, if it allows one.
    fn grant(&mut self, key: &ObjectKey) {
        let Some(mut budget) = self.index.budget(key).filter(|b| b.allowed > 0).cloned() else {
            return;
        };
        let Some((node, uid)) = self.queues.get_mut(key).and_then(VecDeque::pop_front) else {
            return;
        };
        budget.allowed -= 1;
        budget.healthy -= 1;
        self.index.see_budget(budget);
        self.index.lose_pod(&uid);
        self.later((self.times.recovery)(key), Next::Recovered(key.clone()));
        if let Some(drain) = self.drains.get_mut(&node) {
            drain.left -= 1;
        }
        self.settle(&node);
    }

    fn recovered(&mut self, key: &ObjectKey) {
        if let Some(mut budget) = self.index.budget(key).cloned() {
            budget.allowed += 1;
            budget.healthy += 1;
            self.index.see_budget(budget);
            self.grant(key);
        }
    }

    /// Once its last pod was let go, a node is on its way.
    fn settle(&mut self, node: &NodeName) {
        let Some(mut drain) = self.drains.remove(node) else {
            return;
        };
        if drain.left > 0 {
            self.drains.insert(node.clone(), drain);
            return;
        }
        drain.work.phase = Phase::Resetting { since: self.now };
        drain.work.attempt = 1;
        self.sync.put(drain.work);
        let least = self.least.get(node).copied().unwrap_or_default();
        self.later(least + self.times.outage, Next::Back(node.clone()));
    }

    fn back(&mut self, node: &NodeName) {
        if let Some(mut work) = self.sync.work(node).cloned() {
            work.phase = Phase::Done { at: self.now };
            self.sync.put(work);
        }
        self.set_service(node, false);
        if let Some(turn) = self.turn_of.get(node) {
            self.turns[*turn].end = self.now - self.start;
        }
    }

    fn set_service(&mut self, node: &NodeName, out: bool) {
        if let Some(mut seen) = self.index.node(node).map(|entry| entry.seen.clone()) {
            seen.unschedulable = out;
            self.index.see_node(seen, self.now);
        }
    }
}
