//! The choice for one free slot.

use super::guard::GuardId;
use super::line::{Line, Place, Rank, Zone};
use crate::ids::{NodeName, ObjectKey};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Budgets with chains of the same length that are compared for one choice. A large cluster has thousands of alike
/// budgets, and which of them goes first matters little.
const EQUAL_MAX: usize = 16;

/// Why this node and no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// It is out of service: it costs no availability.
    OutAlready,
    /// The configuration is not proven yet: the fewest pods depend on it.
    Emptiest,
    /// The longest chain of evictions ahead, under this budget.
    Chain(ObjectKey),
    /// No budget guards its pods: the longest drain.
    Longest,
    /// All would wait for a budget: this one stops waiting first.
    WaitsLeast,
    /// The controller itself runs there: last.
    OwnLast,
    /// Somebody else cordoned it, and it was named.
    CordonedLast,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::OutAlready => f.write_str("chosen: it is out of service already"),
            Rule::Emptiest => {
                f.write_str("chosen: the emptiest, as the configuration is not proven yet")
            }
            Rule::Chain(budget) => {
                write!(f, "chosen: can be drained now, and budget {budget} has most still to do")
            }
            Rule::Longest => f.write_str("chosen: can be drained now"),
            Rule::WaitsLeast => f.write_str("chosen: all would wait for a budget, this one least"),
            Rule::OwnLast => f.write_str("chosen: the controller runs here, so it is the last"),
            Rule::CordonedLast => f.write_str("chosen: named, though somebody else cordoned it"),
        }
    }
}

/// A node and the rule that chose it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The node.
    pub node: NodeName,
    /// The rule.
    pub rule: Rule,
}

/// What may be chosen now, with what was chosen a moment ago.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Nodes in service may be chosen; otherwise only those that are out.
    pub service: bool,
    /// The configuration is being proven.
    pub emptiest: bool,
    /// Zones that have no place.
    pub full: BTreeSet<Zone>,
    taken: BTreeSet<NodeName>,
    promised: BTreeMap<GuardId, u32>,
}

impl Wish {
    /// A wish that only has to know whether the configuration is being proven.
    pub fn new(emptiest: bool) -> Self {
        Self { emptiest, ..Self::default() }
    }

    /// Counts a choice: its pods ask for their budgets from now on.
    pub fn take(&mut self, line: &Line, node: &NodeName) {
        self.taken.insert(node.clone());
        for (id, need) in line.places.get(node).into_iter().flat_map(|p| &p.needs) {
            *self.promised.entry(*id).or_default() += need;
        }
    }
}

impl Line {
    /// The next node to take, if one may be taken.
    pub fn best(&self, wish: &Wish) -> Option<Choice> {
        let out = |cordoned: bool, waits: bool| {
            let mut found = self.out.range((cordoned, waits, first())..);
            let found =
                found.find(|(c, w, rank)| (*c, *w) != (cordoned, waits) || open(wish, rank));
            found.filter(|(c, w, _)| (*c, *w) == (cordoned, waits)).map(|(_, _, r)| r.2.clone())
        };
        let choice = |node, rule| Some(Choice { node, rule });
        if let Some(node) = out(false, false) {
            return choice(node, Rule::OutAlready);
        }
        if wish.service
            && let Some(found) = self.best_free(wish)
        {
            return Some(found);
        }
        if let Some(node) = out(false, true) {
            return choice(node, Rule::OutAlready);
        }
        if wish.service
            && let Some(node) = self.least_waiting(wish)
        {
            return choice(node, Rule::WaitsLeast);
        }
        let others = self.others_in_line(wish);
        let own = self.own.iter().find(|(_, rank)| open(wish, rank));
        if wish.service
            && !others
            && let Some((_, rank)) = own
        {
            return choice(rank.2.clone(), Rule::OwnLast);
        }
        out(true, false).or_else(|| out(true, true)).and_then(|n| choice(n, Rule::CordonedLast))
    }

    /// Whether somebody in service is left who goes before the controller's own node.
    fn others_in_line(&self, wish: &Wish) -> bool {
        let waiting = self.few.values().map(BTreeSet::len).sum::<usize>()
            + self.wait.values().map(BTreeSet::len).sum::<usize>();
        let taken = wish.taken.iter().filter(|n| self.is_in_service(n)).count();
        waiting > taken || self.next_due().is_some()
    }

    fn is_in_service(&self, node: &NodeName) -> bool {
        self.places.get(node).is_some_and(|p| p.stand == super::line::Stand::Service)
    }

    fn best_free(&self, wish: &Wish) -> Option<Choice> {
        if wish.emptiest {
            let open = self.few.iter().filter(|(zone, _)| !wish.full.contains(*zone));
            let best =
                open.filter_map(|(_, set)| set.iter().find(|(_, r)| self.fits(wish, r))).min();
            return best.map(|(_, r)| Choice { node: r.2.clone(), rule: Rule::Emptiest });
        }
        let mut best: Option<(std::cmp::Reverse<crate::time::Span>, &Rank, &ObjectKey)> = None;
        let mut equal = 0;
        for (chain, key) in &self.chains {
            if equal == EQUAL_MAX || best.as_ref().is_some_and(|(longest, ..)| longest != chain) {
                break;
            }
            let head = self.head(wish, self.guard_id(key));
            equal += usize::from(head.is_some());
            if let Some(rank) = head
                && best.as_ref().is_none_or(|(_, other, _)| rank < *other)
            {
                best = Some((*chain, rank, key));
            }
        }
        if let Some((_, rank, key)) = best {
            return Some(Choice { node: rank.2.clone(), rule: Rule::Chain(key.clone()) });
        }
        self.head(wish, None).map(|r| Choice { node: r.2.clone(), rule: Rule::Longest })
    }

    /// The first that fits among the free nodes under a budget, or under none.
    fn head(&self, wish: &Wish, budget: Option<GuardId>) -> Option<&Rank> {
        let slots = self.free.range((budget, None)..);
        slots
            .take_while(|((under, _), _)| *under == budget)
            .filter(|((_, zone), _)| !wish.full.contains(zone))
            .filter_map(|(_, set)| set.iter().find(|rank| self.fits(wish, rank)))
            .min()
    }

    fn least_waiting(&self, wish: &Wish) -> Option<NodeName> {
        // Those that were free before this turn's choices wait for what these leave.
        let open = self.wait.iter().filter(|(zone, _)| !wish.full.contains(*zone));
        let waiting =
            open.filter_map(|(_, set)| set.iter().find(|(_, rank)| !wish.taken.contains(&rank.2)));
        if let Some((_, rank)) = waiting.min() {
            return Some(rank.2.clone());
        }
        let open = self.few.iter().filter(|(zone, _)| !wish.full.contains(*zone));
        let free = open.filter_map(|(_, set)| set.iter().find(|(_, r)| !wish.taken.contains(&r.2)));
        free.min().map(|(_, rank)| rank.2.clone())
    }

    /// Whether all its budgets have room for it beside what was chosen a moment ago.
    fn fits(&self, wish: &Wish, rank: &Rank) -> bool {
        if wish.taken.contains(&rank.2) {
            return false;
        }
        let beside = |place: &Place| {
            place.needs.iter().all(|(id, need)| {
                let promised = wish.promised.get(id);
                promised.is_none_or(|promised| need + promised <= self.guard(*id).room())
            })
        };
        self.places.get(&rank.2).is_none_or(beside)
    }
}

/// The rank before all others.
fn first() -> Rank {
    (std::cmp::Reverse(crate::time::Span(u64::MAX)), None, NodeName::new(""))
}

/// Whether it has not just been chosen and its zone has a place.
fn open(wish: &Wish, rank: &Rank) -> bool {
    !wish.taken.contains(&rank.2) && !wish.full.contains(&rank.1)
}
