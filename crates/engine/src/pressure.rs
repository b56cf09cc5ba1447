//! How hard our own work presses on the API server, read from its answers: fewer nodes in hand while it is slow or
//! refuses requests, more again once it has recovered.
//!
//! Entry point: [`Pressure::divides`]. It halves and gives back step by step; it never goes beyond what the job allows,
//! and never below one node. Kept in memory only: a new actor learns it anew from its first answers.

use crate::action::{Action, FaultSeen};
use crate::time::{Span, Time};

/// Twice what Kubernetes promises for writes: 99 of 100 within 1 s (its scalability objectives).
pub const SLOW: Span = Span::secs(2);
/// Answers of one bad moment count once: flow control queues requests for up to a minute, and its usual Retry-After
/// is 1 s.
pub const HOLD: Span = Span::secs(10);
/// A step back up after this long without a sign of trouble.
pub const EASES: Span = Span::secs(20);
/// 2^7 halves the largest maxUnavailable of a pool (100) down to one.
const STEPS_MAX: u32 = 7;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pressure {
    steps: u32,
    last: Time,
}

impl Pressure {
    /// An action of ours ended after `took`.
    pub(crate) fn felt(
        &mut self,
        action: &Action,
        fault: Option<&FaultSeen>,
        took: Span,
        now: Time,
    ) {
        let api = !matches!(action, Action::Probe { .. } | Action::Host { .. });
        let pressed = fault.is_some_and(|f| f.busy) || took >= SLOW;
        if !api || !pressed {
            return;
        }
        let left = self.left(now);
        if left > 0 && now - self.last < HOLD {
            return;
        }
        self.steps = (left + 1).min(STEPS_MAX);
        self.last = now;
    }

    fn left(&self, now: Time) -> u32 {
        let eased = (now - self.last).0 / EASES.0;
        self.steps.saturating_sub(u32::try_from(eased).unwrap_or(u32::MAX))
    }

    /// What of `limit` nodes may be in hand now; at least one.
    pub fn divides(&self, limit: u32, now: Time) -> u32 {
        (limit >> self.left(now)).max(1).min(limit)
    }

    /// When the next step back up is due, if anything is held back.
    pub fn eases_at(&self, now: Time) -> Option<Time> {
        let left = self.left(now);
        (left > 0).then(|| self.last + Span(EASES.0 * u64::from(self.steps - left + 1)))
    }
}
