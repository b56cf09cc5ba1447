//! The real actor in a simulated world: seeded runs with faults, people and crashes, and a crash at every point.
//!
//! `SIM_SEEDS=2000 cargo test -p evenkeel-server --test sim` plays more seeds; a seed that fails prints the
//! command that plays it alone, with a line per event.

#![expect(clippy::print_stderr, reason = "a failing seed prints how to play it again")]

mod ports;
mod recorder;
mod rig;
mod run;
mod seeds;

use evenkeel_sim::Coverage;
use run::{Ask, Crash, Ended, Play, play};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Seeds in a plain `cargo test`.
const SEEDS: u64 = 200;
/// Lines of a trace that are printed of a failing seed; `SIM_TRACE=all` prints all.
const TRACE_LINES: usize = 400;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn tell(seed: u64, ended: &Ended) {
    let skip = match std::env::var("SIM_TRACE").as_deref() {
        Ok("all") => 0,
        _ => ended.trace.len().saturating_sub(TRACE_LINES),
    };
    for line in ended.trace.iter().skip(skip) {
        eprintln!("{line}");
    }
    eprintln!(
        "seed {seed}: {} after {} s; hash {:016x}; {:?}",
        ended.broken.as_deref().unwrap_or("well"),
        ended.virtual_s,
        ended.hash,
        ended.verdicts
    );
}

/// Plays seeds on all processors.
fn play_all(seeds: &[u64]) -> (Coverage, Vec<(u64, String)>) {
    let next = AtomicU64::new(0);
    let sum = Mutex::new((Coverage::default(), Vec::new()));
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(&seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    let ended = std::panic::catch_unwind(|| play(seeds::of(seed, false)));
                    let mut sum = sum.lock().expect("no panic while it is held");
                    match ended {
                        Ok(ended) => {
                            sum.0.add(&ended.coverage);
                            sum.1.extend(ended.broken.map(|why| (seed, why)));
                        }
                        Err(_) => sum.1.push((seed, "panicked".to_owned())),
                    }
                }
            });
        }
    });
    let (coverage, mut broken) = sum.into_inner().expect("all threads are done");
    broken.sort();
    (coverage, broken)
}

fn none_may_fail(broken: &[(u64, String)], of: usize) {
    for (seed, why) in broken {
        eprintln!("seed {seed}: {why}");
        eprintln!(
            "  SIM_SEED={seed} cargo test -p evenkeel-server --test sim one_seed -- --nocapture"
        );
    }
    assert!(broken.is_empty(), "{} of {of} seeds failed", broken.len());
}

/// Seeds with faults keep every invariant, come to a verdict and to rest; together they meet every fault.
#[test]
fn seeds() {
    let count = number("SIM_SEEDS").unwrap_or(SEEDS);
    let first = number("SIM_FIRST").unwrap_or(1);
    let seeds: Vec<u64> = (first..first + count).collect();
    let began = Instant::now();
    let (coverage, broken) = play_all(&seeds);
    let per_s = count as f64 / began.elapsed().as_secs_f64();
    eprintln!("{count} seeds, {per_s:.1} a second; {coverage:?}");
    none_may_fail(&broken, seeds.len());
    if count < SEEDS {
        return;
    }
    let zero: Vec<_> = coverage.counters().into_iter().filter(|(_, n)| *n == 0).collect();
    assert!(zero.is_empty(), "never met: {zero:?}");
    let phases = [
        "Idle",
        "Claiming",
        "Probing",
        "Draining",
        "Confirming",
        "Resetting",
        "Rejoining",
        "PostInstall",
        "Retrying",
        "Releasing",
    ];
    let crashed = |phase: &&str| coverage.crashes.contains_key(*phase);
    let missed: Vec<_> = phases.iter().filter(|p| !crashed(p)).collect();
    assert!(missed.is_empty(), "no crash in {missed:?}");
    let deeds = ["CordonAny", "UncordonClaimed", "HoldAny", "RemoveMark", "DeleteClaimed"];
    let missed: Vec<_> =
        deeds.iter().filter(|deed| !coverage.people.contains_key(**deed)).collect();
    assert!(missed.is_empty(), "nobody did {missed:?}");
}

/// Seeds that failed once.
#[test]
fn regressions() {
    let seeds: Vec<u64> = include_str!("regressions.txt")
        .lines()
        .filter_map(|line| line.split('#').next()?.trim().parse().ok())
        .collect();
    let (_, broken) = play_all(&seeds);
    none_may_fail(&broken, seeds.len());
}

/// The same seed twice is the same run.
#[test]
fn a_seed_decides_everything() {
    for seed in 1..=12 {
        let (first, second) = (play(seeds::of(seed, true)), play(seeds::of(seed, true)));
        if first.hash != second.hash {
            let differs = first.trace.iter().zip(&second.trace).find(|(a, b)| a != b);
            panic!("seed {seed} went two ways: {differs:#?}");
        }
    }
}

/// Plays `SIM_SEED` alone and prints what happened.
#[test]
fn one_seed() {
    let seed = number("SIM_SEED").unwrap_or(1);
    let ended = play(seeds::of(seed, true));
    tell(seed, &ended);
    assert_eq!(ended.broken, None);
}

fn small(crashes: Vec<Crash>, trace: bool) -> Play {
    use evenkeel_sim::Scenario;
    use evenkeel_sim::objects::{Amount, Kind, Limit, Workload};
    let scenario = Scenario::new(11, 3)
        .with(Workload::new("web", Kind::Deployment, 4))
        .guarded("web", Limit::MaxUnavailable(Amount::Pods(1)))
        .with(Workload::new("agent", Kind::DaemonSet, 0));
    let pool = evenkeel_engine::ids::PoolId::new("a");
    let names = scenario.node_names();
    Play {
        seed: 11,
        world: scenario.build(),
        pools: [(pool, names)].into(),
        rounds: vec![vec![Ask::whole("a", 2)]],
        crashes,
        trace,
    }
}

/// The controller dies at every point of a small run, once each: the run ends well all the same, nothing is reset
/// twice, nothing is left cordoned.
#[test]
fn crash_everywhere() {
    let calm = play(small(Vec::new(), false));
    assert_eq!(calm.broken, None);
    let points = calm.points.len() as u64;
    assert!(points > 60, "{points} points");
    let range = number("SIM_CRASH").map_or(0..points, |k| k..k + 1);
    for k in range {
        let trace = number("SIM_CRASH").is_some();
        let ended = play(small(vec![Crash::AtPoint(k)], trace));
        let success = ended
            .verdicts
            .values()
            .all(|v| matches!(v, evenkeel_engine::sync::Status::Success { .. }));
        if ended.broken.is_some() || !success || ended.attempts != 1 {
            tell(11, &ended);
            let point = &calm.points[k as usize];
            panic!("a crash at {point}; SIM_CRASH={k} plays it alone; {} attempts", ended.attempts);
        }
    }
}
