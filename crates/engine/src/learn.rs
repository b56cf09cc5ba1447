//! What earlier nodes and evictions teach: how long a drain, a reset and the way back take in a pool, and how long a
//! budget needs until an evicted pod is made good.
//!
//! Pure: samples come in as spans, means and quantiles go out. [`Learned`] is what the order, the yield and the
//! estimates of the end read. Absent on purpose: storing; whoever commits asks for what is new.

use crate::changes::Changes;
use crate::ids::{ObjectKey, PoolId};
use crate::index::Index;
use crate::phase::Phase;
use crate::sync::Work;
use crate::time::{Span, Time};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Weight of the newest sample in the mean, in tenths. After seven nodes nine tenths of an old habit are forgotten.
const WEIGHT_TENTHS: i64 = 3;
/// Samples kept for quantiles: enough for a 90 % quantile that one outlier does not make.
const KEPT: usize = 32;
/// Evictions of one budget that wait for their replacement; more are not told apart.
const PENDING_MAX: usize = 256;
/// A replacement that takes longer is stuck, and teaches nothing about the budget.
const RECOVERY_MAX: Span = Span::mins(60);

/// Samples of one duration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Samples {
    /// Exponentially weighted mean, ms.
    mean_ms: u64,
    /// The last ones, oldest first, ms.
    last_ms: VecDeque<u64>,
}

impl Samples {
    /// Takes one more.
    pub fn take(&mut self, span: Span) {
        let value = i64::try_from(span.0).unwrap_or(i64::MAX / 16);
        let mean = self.mean_ms as i64;
        let next = if self.last_ms.is_empty() {
            value
        } else {
            mean + (value - mean) * WEIGHT_TENTHS / 10
        };
        self.mean_ms = next.max(0) as u64;
        if self.last_ms.len() == KEPT {
            self.last_ms.pop_front();
        }
        self.last_ms.push_back(span.0);
    }

    /// The weighted mean; nothing before the first sample.
    pub fn mean(&self) -> Option<Span> {
        (!self.last_ms.is_empty()).then_some(Span(self.mean_ms))
    }

    /// The smallest kept sample that at least `percent` of them do not exceed.
    pub fn quantile(&self, percent: u32) -> Option<Span> {
        let mut sorted: Vec<u64> = self.last_ms.iter().copied().collect();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent.min(100) as usize).div_ceil(100);
        sorted.get(rank.saturating_sub(1)).copied().map(Span)
    }

    /// How many are kept.
    pub fn count(&self) -> usize {
        self.last_ms.len()
    }
}

/// How long the parts of a node's way take in a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// From the cordon to the reset.
    pub drain: Samples,
    /// On the machine, until it is to join again.
    pub reset: Samples,
    /// From then until it is back in service.
    pub ready: Samples,
}

impl Times {
    /// A node has come back: its story tells how long each part took. A retried node counts with its last attempt.
    pub fn finished(&mut self, work: &Work) {
        let Phase::Done { at } = work.phase else {
            return;
        };
        let last = |word: &str| work.log.iter().rev().find(|l| l.word == word).map(|l| l.at);
        let taken = last("Claiming").unwrap_or_default();
        let first =
            |word: &str| work.log.iter().find(|l| l.word == word && l.at >= taken).map(|l| l.at);
        if let (Some(from), Some(to)) = (first("Draining"), first("Resetting")) {
            self.drain.take(to - from);
        }
        if let (Some(from), Some(to)) = (last("Resetting"), last("Rejoining")) {
            self.reset.take(to - from);
        }
        if let Some(from) = last("Rejoining") {
            self.ready.take(at - from);
        }
    }

    /// The part between the end of the drain and the return to service.
    pub fn outage(&self) -> Option<Span> {
        Some(self.reset.mean()? + self.ready.mean()?)
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    pools: BTreeMap<PoolId, Times>,
    budgets: BTreeMap<ObjectKey, Samples>,
    waiting: BTreeMap<ObjectKey, VecDeque<Time>>,
    new_budgets: BTreeSet<ObjectKey>,
}

impl Learned {
    /// Times of a pool, if one of its nodes has ever finished.
    pub fn times(&self, pool: &PoolId) -> Option<&Times> {
        self.pools.get(pool)
    }

    /// From an eviction under this budget until it is made good.
    pub fn recovery(&self, budget: &ObjectKey) -> Option<Span> {
        self.budgets.get(budget)?.mean()
    }

    /// All samples of a budget's recovery.
    pub fn recoveries(&self, budget: &ObjectKey) -> Option<&Samples> {
        self.budgets.get(budget)
    }

    /// Puts back what was stored of a pool.
    pub fn restore_pool(&mut self, pool: PoolId, times: Times) {
        self.pools.insert(pool, times);
    }

    /// Puts back what was stored of a budget.
    pub fn restore_budget(&mut self, budget: ObjectKey, samples: Samples) {
        self.budgets.insert(budget, samples);
    }

    /// A budget is gone; what it taught stays, for it may come back.
    pub fn forget_budget(&mut self, budget: &ObjectKey) {
        self.waiting.remove(budget);
    }

    /// Evictions begin a sample, healthy pods that came back end the oldest one of their budget.
    ///
    /// A pod that was not ready costs its budget nothing and teaches nothing.
    pub fn follow(&mut self, index: &Index, changes: &Changes, now: Time) {
        for (uid, budget, at) in &changes.evicted {
            let Some(budget) = budget else {
                continue;
            };
            if index.pod(uid).is_none_or(|pod| pod.ready || pod.deleting) {
                let waiting = self.waiting.entry(budget.clone()).or_default();
                if waiting.len() < PENDING_MAX {
                    waiting.push_back(*at);
                }
            }
        }
        for (budget, more) in &changes.rises {
            let Some(waiting) = self.waiting.get_mut(budget) else {
                continue;
            };
            for _ in 0..*more {
                let Some(since) = waiting.pop_front() else {
                    break;
                };
                let span = now - since;
                if span <= RECOVERY_MAX {
                    self.budgets.entry(budget.clone()).or_default().take(span);
                    self.new_budgets.insert(budget.clone());
                }
            }
            if waiting.is_empty() {
                self.waiting.remove(budget);
            }
        }
    }

    /// At most `max` budgets of which something has been learned that is not stored yet.
    pub fn unstored(&self, max: usize) -> impl Iterator<Item = (&ObjectKey, &Samples)> {
        self.new_budgets.iter().take(max).filter_map(|b| self.budgets.get_key_value(b))
    }

    /// These are stored now.
    pub fn stored<'a>(&mut self, budgets: impl Iterator<Item = &'a ObjectKey>) {
        budgets.for_each(|budget| {
            self.new_budgets.remove(budget);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_follows_and_the_quantiles_order() {
        let mut samples = Samples::default();
        assert_eq!(samples.mean(), None);
        for s in [10, 10, 10, 100] {
            samples.take(Span::secs(s));
        }
        assert_eq!(samples.mean(), Some(Span::secs(37)));
        assert_eq!(samples.quantile(50), Some(Span::secs(10)));
        assert_eq!(samples.quantile(90), Some(Span::secs(100)));
        for _ in 0..40 {
            samples.take(Span::secs(20));
        }
        assert_eq!((samples.count(), samples.quantile(100)), (KEPT, Some(Span::secs(20))));
    }

    #[test]
    fn the_oldest_eviction_is_made_good_first() {
        let key = ObjectKey::new("default", "db");
        let mut learned = Learned::default();
        let evicted = |n: u64| (crate::ids::Uid::new(format!("u{n}")), Some(key.clone()), Time(n));
        let both = Changes { evicted: vec![evicted(0), evicted(1000)], ..Changes::default() };
        learned.follow(&Index::default(), &both, Time(1000));
        let rise = Changes { rises: vec![(key.clone(), 5)], ..Changes::default() };
        learned.follow(&Index::default(), &rise, Time(11_000));
        let samples = learned.recoveries(&key).cloned().unwrap_or_default();
        assert_eq!(samples.quantile(100), Some(Span::secs(11)));
        assert_eq!(samples.quantile(50), Some(Span::secs(10)));
        assert_eq!(learned.unstored(9).count(), 1);
        learned.stored(std::iter::once(&key));
        assert_eq!(learned.unstored(9).count(), 0);
    }
}
