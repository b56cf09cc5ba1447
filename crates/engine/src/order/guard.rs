//! One budget, as far as a line of waiting nodes is concerned.

use super::Sight;
use super::load::Need;
use crate::facts::BudgetSeen;
use crate::ids::{NodeName, ObjectKey};
use crate::time::Span;
use std::collections::BTreeSet;

/// What a budget is taken to need to make a pod good before it has been seen to: image there, a start, a probe.
const RECOVERY_GUESS: Span = Span::secs(60);

/// A budget's place among the guards of a line. Names are compared once, when a node is looked at: a node is filed anew
/// with every change of its budgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GuardId(pub(super) usize);

/// A budget, as far as this line is concerned.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    pub(super) key: ObjectKey,
    /// Evictions that its status allows, less those of ours that it does not show yet.
    allowed: u32,
    /// Of these, asked for by nodes in hand.
    pub(super) promised: u32,
    /// How many it allows at once when all is well.
    pub(super) spare: u32,
    pub(super) lenient: bool,
    pub(super) never: bool,
    pub(super) recovery: Span,
    /// Pods that still have to move, in line and in hand.
    pub(super) remaining: u32,
    /// All nodes with pods under it.
    pub(super) all: BTreeSet<NodeName>,
    /// Those in line, by how many of their pods it has to let go.
    pub(super) line: BTreeSet<(u32, NodeName)>,
    pub(super) free: u32,
    pub(super) chain: Span,
}

impl Guard {
    pub(super) fn new(key: ObjectKey) -> Self {
        Self {
            key,
            allowed: 0,
            promised: 0,
            spare: 0,
            lenient: false,
            never: false,
            recovery: Span(0),
            remaining: 0,
            all: BTreeSet::new(),
            line: BTreeSet::new(),
            free: 0,
            chain: Span(0),
        }
    }

    /// Takes over what its status and its history say.
    pub(super) fn read(&mut self, sight: &Sight<'_>) {
        let key = &self.key;
        self.recovery = sight.learned.recovery(key).unwrap_or(RECOVERY_GUESS);
        let Some(budget) = sight.index.budget(key) else {
            return;
        };
        let spent = sight.ledger.spent(key, &budget.resource_version);
        self.allowed = (budget.allowed.max(0) as u32).saturating_sub(spent);
        self.spare = at_once(budget);
        self.lenient = budget.always_allow_unready || budget.healthy >= budget.desired;
        self.never = budget.never_allows();
    }

    pub(super) fn room(&self) -> u32 {
        self.allowed.saturating_sub(self.promised)
    }

    pub(super) fn chain(&self) -> Span {
        Span(self.recovery.0.saturating_mul(self.remaining.into()) / u64::from(self.spare.max(1)))
    }

    pub(super) fn need(&self, need: Need) -> u32 {
        need.ready + if self.lenient { 0 } else { need.unready }
    }

    /// How long until it has let so many go.
    pub(super) fn wait(&self, need: u32) -> Span {
        let over = need.saturating_sub(self.room());
        Span(self.recovery.0.saturating_mul(over.div_ceil(self.spare.max(1)).into()))
    }
}

/// How many pods a budget lets go at once when all of them are healthy.
fn at_once(budget: &BudgetSeen) -> u32 {
    (budget.expected - budget.desired).max(budget.allowed).max(1) as u32
}
