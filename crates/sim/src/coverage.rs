//! How often each fault was met. A test over many seeds demands that no counter stays at zero.

use std::collections::BTreeMap;

/// What a run, or a batch of runs, has met. All counters of a batch must be above zero, or it proves less than
/// it seems to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Evictions refused by a budget.
    pub budget_429: u64,
    /// Evictions that conflicted on a budget's status.
    pub budget_conflicts: u64,
    /// Calls refused by priority and fairness.
    pub flow_control_429: u64,
    /// 500 and 503.
    pub server_errors: u64,
    /// Calls without an answer, or with 504.
    pub lost_answers: u64,
    /// Those of them that changed something.
    pub lost_after_applying: u64,
    /// Calls that took seconds.
    pub slow_answers: u64,
    /// Watches cut.
    pub watch_drops: u64,
    /// Events that watches saw late.
    pub stale_reads: u64,
    /// 410s; counted by the driver.
    pub gone_410: u64,
    /// Broken SSH connections.
    pub ssh_drops: u64,
    /// SSH connections that found nobody.
    pub unreachable: u64,
    /// SSH connections refused for their key.
    pub denied: u64,
    /// Hosts that became another machine.
    pub wrong_machines: u64,
    /// Reboots.
    pub reboots: u64,
    /// Orders that a reboot cut off and that may go on.
    pub resumed: u64,
    /// Hosts gone for good.
    pub dead_hosts: u64,
    /// Steps that went wrong.
    pub step_faults: u64,
    /// Kubelets that started on nodes which nobody initialized then.
    pub uninitialized: u64,
    /// Pods that never go.
    pub stuck_pods: u64,
    /// Pods bound to a node after its cordon.
    pub bound_after_cordon: u64,
    /// Answers cut short after the call was applied.
    pub garbled_answers: u64,
    /// Requests held up on their way; counted by the driver, as all that follow.
    pub held_up: u64,
    /// Store transactions that failed before anything was stored.
    pub store_errors: u64,
    /// Store transactions that failed after they were stored.
    pub store_errors_after: u64,
    /// Store transactions that took seconds.
    pub store_slow: u64,
    /// Watch events delivered twice.
    pub duplicates: u64,
    /// Watch events delivered before an older one of another kind.
    pub reordered: u64,
    /// Lists that showed an older state than had been shown before.
    pub stale_lists: u64,
    /// Jumps of the wall clock under a running controller.
    pub clock_jumps: u64,
    /// Jumps of the wall clock while no controller ran.
    pub clock_jumps_over_restart: u64,
    /// Crashes before a write to the store.
    pub crashes_before_write: u64,
    /// Crashes after a write to the store, before anybody heard of it.
    pub crashes_after_write: u64,
    /// Crashes at the place where the life before had crashed.
    pub crash_loops: u64,
    /// Controllers that lost their store for longer than their lease, while another one took over.
    pub usurped: u64,
    /// Runs whose faults stopped, and which had to come to their end.
    pub liveness_runs: u64,
    /// Runs whose faults never stopped.
    pub safety_runs: u64,
    /// Calls that the API server refused, by HTTP status.
    pub refused: BTreeMap<String, u64>,
    /// Calls made while the API server did not serve, by the way in which it did not.
    pub outages: BTreeMap<String, u64>,
    /// Deeds of people, by kind.
    pub people: BTreeMap<String, u64>,
    /// Crashes of the controller, by phase; counted by the driver.
    pub crashes: BTreeMap<String, u64>,
    /// Crashes of the controller before and after effects, as `verb:before`; counted by the driver.
    pub crash_points: BTreeMap<String, u64>,
}

impl Coverage {
    /// Adds another run's counts.
    pub fn add(&mut self, other: &Coverage) {
        for (mine, theirs) in self.fields_mut().into_iter().zip(other.clone().fields_mut()) {
            *mine.1 += *theirs.1;
        }
        let maps =
            self.maps_mut().into_iter().zip(other.clone().maps_mut().map(|(_, map)| map.clone()));
        for ((_, mine), theirs) in maps {
            for (word, count) in theirs {
                *mine.entry(word).or_default() += count;
            }
        }
    }

    /// The counters that have words of their own, by name.
    pub fn worded(&self) -> Vec<(&'static str, BTreeMap<String, u64>)> {
        self.clone().maps_mut().into_iter().map(|(name, map)| (name, map.clone())).collect()
    }

    fn maps_mut(&mut self) -> [(&'static str, &mut BTreeMap<String, u64>); 5] {
        [
            ("refused", &mut self.refused),
            ("outages", &mut self.outages),
            ("people", &mut self.people),
            ("crashes", &mut self.crashes),
            ("crash_points", &mut self.crash_points),
        ]
    }

    /// The plain counters by name, for reports and for the check that none is zero.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        self.clone().fields_mut().into_iter().map(|(name, count)| (name, *count)).collect()
    }

    fn fields_mut(&mut self) -> Vec<(&'static str, &mut u64)> {
        vec![
            ("budget_429", &mut self.budget_429),
            ("budget_conflicts", &mut self.budget_conflicts),
            ("flow_control_429", &mut self.flow_control_429),
            ("server_errors", &mut self.server_errors),
            ("lost_answers", &mut self.lost_answers),
            ("lost_after_applying", &mut self.lost_after_applying),
            ("slow_answers", &mut self.slow_answers),
            ("watch_drops", &mut self.watch_drops),
            ("stale_reads", &mut self.stale_reads),
            ("gone_410", &mut self.gone_410),
            ("ssh_drops", &mut self.ssh_drops),
            ("unreachable", &mut self.unreachable),
            ("denied", &mut self.denied),
            ("wrong_machines", &mut self.wrong_machines),
            ("reboots", &mut self.reboots),
            ("resumed", &mut self.resumed),
            ("dead_hosts", &mut self.dead_hosts),
            ("step_faults", &mut self.step_faults),
            ("uninitialized", &mut self.uninitialized),
            ("stuck_pods", &mut self.stuck_pods),
            ("bound_after_cordon", &mut self.bound_after_cordon),
            ("garbled_answers", &mut self.garbled_answers),
            ("held_up", &mut self.held_up),
            ("store_errors", &mut self.store_errors),
            ("store_errors_after", &mut self.store_errors_after),
            ("store_slow", &mut self.store_slow),
            ("duplicates", &mut self.duplicates),
            ("reordered", &mut self.reordered),
            ("stale_lists", &mut self.stale_lists),
            ("clock_jumps", &mut self.clock_jumps),
            ("clock_jumps_over_restart", &mut self.clock_jumps_over_restart),
            ("crashes_before_write", &mut self.crashes_before_write),
            ("crashes_after_write", &mut self.crashes_after_write),
            ("crash_loops", &mut self.crash_loops),
            ("usurped", &mut self.usurped),
            ("liveness_runs", &mut self.liveness_runs),
            ("safety_runs", &mut self.safety_runs),
        ]
    }
}
