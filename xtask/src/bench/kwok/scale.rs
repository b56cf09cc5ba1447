//! The times of a rollout, made shorter by one factor, and the bound that follows from them.

use std::time::Duration;

use serde::Serialize;

/// How long one minute of the modelled rollout takes here.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Scale {
    pub minute_ms: u64,
}

impl Scale {
    fn minutes(self, tenths: u64) -> Duration {
        Duration::from_millis(self.minute_ms * tenths / 10)
    }

    /// A machine's reset: 6 min, as in the settings of `rollout --sim`.
    pub fn reset(self) -> Duration {
        self.minutes(60)
    }

    /// From the creation of a stateful service's replacement until it is ready: 4 min, as there.
    pub fn heavy_ready(self) -> Duration {
        self.minutes(40)
    }

    /// The same of a light service: 0.7 min, as there.
    pub fn light_ready(self) -> Duration {
        self.minutes(7)
    }

    /// Kubernetes' default grace period of 30 s, which played pods use up; whole seconds, at least one.
    pub fn grace_s(self) -> u64 {
        (self.minute_ms / 2000).max(1)
    }

    /// A kubelet renews its Lease every 10 s.
    pub fn renewal(self) -> Duration {
        Duration::from_millis(self.minute_ms / 6)
    }
}

/// No rollout is shorter; the formulas are those of the preview.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Bound {
    /// Work over slots: every node is drained for its grace period at least, then reset.
    pub slots_s: f64,
    /// The longest budget: its pods go one batch after the other, the last one's node is then reset.
    pub chain_s: f64,
}

impl Bound {
    /// `replicas` pods of one budget that lets `at_once` of them go.
    pub fn of(scale: Scale, nodes: usize, slots: usize, replicas: usize, at_once: usize) -> Self {
        let reset = scale.reset().as_secs_f64();
        let busy = reset + scale.grace_s() as f64;
        let batches = replicas.div_ceil(at_once).saturating_sub(1);
        Self {
            // Whole rounds are no bound once the nodes' times differ.
            slots_s: nodes as f64 * busy / slots as f64,
            chain_s: batches as f64 * scale.heavy_ready().as_secs_f64() + reset,
        }
    }

    /// The one that counts.
    pub fn seconds(self) -> f64 {
        self.slots_s.max(self.chain_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_of_the_hundred_nodes() {
        let scale = Scale { minute_ms: 5000 };
        let bound = Bound::of(scale, 100, 10, 20, 1);
        assert_eq!((bound.slots_s, bound.chain_s), (320.0, 410.0));
        assert!((Bound::of(scale, 100, 10, 20, 10).seconds() - 320.0).abs() < 0.001);
    }
}
