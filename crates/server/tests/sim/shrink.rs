//! From a failing run to a small one that fails in the same way: drops faults, then crashes, jobs, people, workloads
//! and nodes, one by one, as long as the same invariant breaks.

use crate::run::{Play, play};
use evenkeel_sim::FaultPlan;
use evenkeel_sim::objects::Kind;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// What was found.
pub struct Found {
    pub play: Play,
    /// What breaks in it.
    pub why: String,
    /// How many plays it took.
    pub plays: u32,
}

/// The invariant that breaks: the id at the front of the message.
fn broken(of: &Play) -> Option<String> {
    let of = of.clone();
    std::panic::catch_unwind(|| play(of)).map_or_else(|_| Some("panicked".to_owned()), |e| e.broken)
}

fn id(why: &str) -> &str {
    why.split(':').next().unwrap_or(why)
}

/// The smallest failing part of a run; `None` if it does not fail.
pub fn smallest(whole: &Play, limit: Duration) -> Option<Found> {
    let began = Instant::now();
    let mut why = broken(whole)?;
    let wanted = id(&why).to_owned();
    let mut best = whole.clone();
    let mut plays = 1;
    // Round after round: what could not go before may go once something else is gone.
    loop {
        let mut smaller = false;
        let mut at = 0;
        while let Some(cut) = cuts(&best).into_iter().nth(at) {
            if began.elapsed() > limit {
                return Some(Found { play: best, why, plays });
            }
            plays += 1;
            match broken(&cut).filter(|other| id(other) == wanted) {
                Some(other) => {
                    (best, why, smaller) = (cut, other, true);
                }
                None => at += 1,
            }
        }
        if !smaller {
            return Some(Found { play: best, why, plays });
        }
    }
}

/// A rate of a fault plan, by name.
type Rate = (&'static str, fn(&mut FaultPlan) -> &mut u32);

const RATES: [Rate; 15] = [
    ("flow control", |f| &mut f.flow_control_per_mille),
    ("server errors", |f| &mut f.server_error_per_mille),
    ("lost answers", |f| &mut f.lost_per_mille),
    ("slow answers", |f| &mut f.slow_per_mille),
    ("conflicts", |f| &mut f.conflict_per_mille),
    ("invalid writes", |f| &mut f.invalid_per_mille),
    ("garbled answers", |f| &mut f.garbled_per_mille),
    ("held-up requests", |f| &mut f.held_up_per_mille),
    ("store errors", |f| &mut f.store_per_mille),
    ("slow store", |f| &mut f.store_slow_per_mille),
    ("duplicate events", |f| &mut f.duplicate_per_mille),
    ("stale lists", |f| &mut f.stale_list_per_mille),
    ("refused SSH connections", |f| &mut f.ssh_refused_per_mille),
    ("lost SSH answers", |f| &mut f.ssh_lost_per_mille),
    ("failing steps", |f| &mut f.step_per_mille),
];

/// Each way to make a run smaller by one thing, the largest things first.
fn cuts(of: &Play) -> Vec<Play> {
    let mut cuts = Vec::new();
    let mut with = |change: &dyn Fn(&mut Play)| {
        let mut cut = of.clone();
        change(&mut cut);
        cuts.push(cut);
    };
    if faults_of(of) > 0 {
        with(&|p| {
            let until_ms = p.scenario.faults.until_ms;
            p.scenario.faults = FaultPlan { until_ms, ..FaultPlan::default() };
            p.crashes.clear();
        });
    }
    for index in 0..of.rounds.len() {
        with(&|p| _ = p.rounds.remove(index));
        for ask in 0..of.rounds[index].len() {
            with(&|p| _ = p.rounds[index].remove(ask));
        }
    }
    for (_, rate) in RATES {
        if *rate(&mut of.scenario.faults.clone()) > 0 {
            with(&|p| *rate(&mut p.scenario.faults) = 0);
        }
    }
    if of.scenario.faults.stuck_pod_per_mille > 0 {
        with(&|p| p.scenario.faults.stuck_pod_per_mille = 0);
    }
    macro_rules! lists {
        ($($list:ident),*) => {$(
            for index in 0..of.scenario.faults.$list.len() {
                with(&|p| _ = p.scenario.faults.$list.remove(index));
            }
        )*};
    }
    lists!(outages, clock_jumps, lags, steps, hosts, people, watch_drops, compactions);
    for index in 0..of.crashes.len() {
        with(&|p| _ = p.crashes.remove(index));
    }
    if of.pace.is_some() {
        with(&|p| p.pace = None);
    }
    for index in 0..of.presses.len() {
        with(&|p| _ = p.presses.remove(index));
    }
    for index in 0..of.scenario.workloads.len() {
        let name = of.scenario.workloads[index].key.name.clone();
        with(&|p| {
            p.scenario.workloads.remove(index);
            p.scenario.budgets.retain(|b| !b.key.name.starts_with(&*name));
        });
        if of.scenario.workloads[index].replicas > 1
            && of.scenario.workloads[index].kind != Kind::DaemonSet
        {
            with(&|p| p.scenario.workloads[index].replicas /= 2);
        }
    }
    for index in 0..of.scenario.budgets.len() {
        with(&|p| _ = p.scenario.budgets.remove(index));
    }
    if !of.scenario.cordoned.is_empty() {
        with(&|p| p.scenario.cordoned.clear());
    }
    if of.scenario.nodes > 1 {
        with(&|p| {
            p.scenario.nodes -= 1;
            let left = p.scenario.node_names();
            for members in p.pools.values_mut() {
                members.retain(|name| left.contains(name));
            }
            p.scenario.cordoned.retain(|name| left.contains(name));
            p.scenario.faults.hosts.retain(|(_, name, _)| left.contains(name));
        });
    }
    cuts
}

/// How many kinds of chance faults, planned faults and crashes a run holds.
pub fn faults_of(of: &Play) -> usize {
    let mut faults = of.scenario.faults.clone();
    let rates = RATES.iter().filter(|(_, rate)| *rate(&mut faults) > 0).count();
    rates
        + usize::from(faults.stuck_pod_per_mille > 0)
        + faults.outages.len()
        + faults.clock_jumps.len()
        + faults.lags.len()
        + faults.steps.len()
        + faults.hosts.len()
        + faults.people.len()
        + faults.watch_drops.len()
        + faults.compactions.len()
        + of.crashes.len()
}

/// The run as a list for people.
pub fn shown(of: &Play) -> String {
    let mut faults = of.scenario.faults.clone();
    let mut text = format!("{} nodes, pools {:?}\n", of.scenario.nodes, of.pools);
    for (name, rate) in RATES {
        if *rate(&mut faults) > 0 {
            let _ = writeln!(text, "  {name}: {} in 1000", rate(&mut faults));
        }
    }
    for (name, list) in [
        ("outages", format!("{:?}", faults.outages)),
        ("clock jumps", format!("{:?}", faults.clock_jumps)),
        ("late watches", format!("{:?}", faults.lags)),
        ("steps", format!("{:?}", faults.steps)),
        ("hosts", format!("{:?}", faults.hosts)),
        ("people", format!("{:?}", faults.people)),
        ("watches cut at", format!("{:?}", faults.watch_drops)),
        ("compactions at", format!("{:?}", faults.compactions)),
        ("crashes", format!("{:?}", of.crashes)),
        ("cordoned before", format!("{:?}", of.scenario.cordoned)),
    ] {
        if list != "[]" {
            let _ = writeln!(text, "  {name}: {list}");
        }
    }
    let name = |w: &evenkeel_sim::objects::Workload| format!("{} x{}", w.key.name, w.replicas);
    let workloads: Vec<_> = of.scenario.workloads.iter().map(name).collect();
    let budgets: Vec<_> = of.scenario.budgets.iter().map(|b| b.key.name.to_string()).collect();
    let _ = writeln!(text, "  workloads: {workloads:?}; budgets: {budgets:?}");
    for (index, round) in of.rounds.iter().enumerate() {
        let _ = writeln!(text, "  round {index}: {round:?}");
    }
    text
}
