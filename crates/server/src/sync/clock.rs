//! The cluster's clock: monotonic while we watch, moved by the wall clock's delta over a restart.

use crate::records::ClockRecord;
use evenkeel_engine::time::{Span, Time};
use std::sync::Arc;
use tokio::time::Instant;

/// The most that a restart may add: a wall clock that jumped by days must not expire every deadline at once.
pub const RESTART_DELTA_MAX: Span = Span::mins(60);

/// Milliseconds since the epoch. Injected, so that tests and the simulator own it.
pub type WallClock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// The system's wall clock. The one place that reads it.
pub fn system_wall_clock() -> WallClock {
    Arc::new(|| jiff::Timestamp::now().as_millisecond())
}

/// A running clock.
#[derive(Clone, Copy, Debug)]
pub struct ClusterClock {
    base: Time,
    started: Instant,
}

impl ClusterClock {
    /// Goes on from the last commit, or starts at zero.
    pub fn resume(stored: Option<&ClockRecord>, wall_ms: i64) -> Self {
        let base = stored.map_or(Time(0), |record| {
            let delta = (wall_ms - record.wall_ms).clamp(0, RESTART_DELTA_MAX.0 as i64);
            record.at + Span(delta as u64)
        });
        Self { base, started: Instant::now() }
    }

    /// Now.
    pub fn now(&self) -> Time {
        self.base + Span(self.started.elapsed().as_millis() as u64)
    }

    /// The instant at which the clock shows `at`.
    pub fn instant(&self, at: Time) -> Instant {
        self.started + std::time::Duration::from_millis(at.since(self.base).0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_restart_adds_the_wall_delta_clamped_to_an_hour() {
        let stored = ClockRecord { at: Time(5_000), wall_ms: 1_000_000 };
        let rows = [
            (1_000_000, 5_000),
            (1_060_000, 65_000),
            (500_000, 5_000),
            (1_000_000 + 86_400_000, 5_000 + 3_600_000),
        ];
        for (wall, expected) in rows {
            assert_eq!(ClusterClock::resume(Some(&stored), wall).now(), Time(expected), "{wall}");
        }
        assert_eq!(ClusterClock::resume(None, 7).now(), Time(0));
    }
}
