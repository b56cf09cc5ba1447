//! The real actor in a simulated world: seeded runs with faults, people and crashes, and a crash at every point.
//!
//! `SIM_SEEDS=2000 cargo test -p evenkeel-server --test sim` plays more seeds; a seed that fails prints the
//! command that plays it alone, with a line per event, and the one that looks for its smallest failing part.

#![expect(clippy::print_stderr, reason = "a failing seed prints how to play it again")]

mod ports;
mod press;
mod reaper;
mod recorder;
mod rig;
mod run;
mod seeds;
mod shrink;
mod why;

use evenkeel_engine::time::Span;
use evenkeel_sim::Coverage;
use run::{Ask, Crash, Ended, Play, play};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Seeds in a plain `cargo test`.
const SEEDS: u64 = 200;
/// How long the minimizer looks.
const MINIMIZE_LIMIT: Duration = Duration::from_mins(5);
const PLANTED_LIMIT: Duration = Duration::from_mins(3);
/// A planted defect must show within so many seeds.
const PLANTED_SEEDS: u64 = 40;
/// From so many seeds on every fault must have been met.
const MANY: u64 = 2000;
/// How long ended jobs are kept: the server's default.
const RETENTION: Span = Span::mins(30 * 24 * 60);
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
            "  SIM_SEED={seed} cargo test --workspace --test sim one_seed -- --nocapture\n  \
             cargo xtask soak --minimize {seed}"
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
    if count >= MANY {
        all_met(&coverage);
    }
}

/// Every fault that is played was met, every effect was cut on both sides, in every phase.
fn all_met(coverage: &Coverage) {
    let zero: Vec<_> = coverage.counters().into_iter().filter(|(_, n)| *n == 0).collect();
    assert!(zero.is_empty(), "never met: {zero:?}");
    let words: [(&str, &[&str]); 5] = [
        ("refused", &["401", "404", "409", "422", "429", "500", "503", "504"]),
        ("outages", &["Down", "Unauthorized", "Throttled", "NoLeader"]),
        (
            "people",
            &[
                "CordonAny",
                "UncordonAny",
                "UncordonClaimed",
                "HoldAny",
                "RemoveMark",
                "Relabel",
                "DeleteAny",
                "DeleteClaimed",
                "DeletePod",
                "NeverBudget",
                "press pause",
                "press resume",
                "press cancel",
                "press retry",
                "press skip",
                "press force",
            ],
        ),
        (
            "crashes",
            &[
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
            ],
        ),
        ("crash_points", &seeds::POINTS),
    ];
    let met: BTreeMap<_, _> = coverage.worded().into_iter().collect();
    for (name, wanted) in words {
        let missed: Vec<_> = wanted.iter().filter(|word| !met[name].contains_key(**word)).collect();
        assert!(missed.is_empty(), "{name}: never met {missed:?}");
    }
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

/// Looks for the smallest part of seed `SIM_MINIMIZE` that still fails in the same way, and prints it.
#[test]
fn minimize() {
    let Some(seed) = number("SIM_MINIMIZE") else {
        return;
    };
    let whole = seeds::of(seed, false);
    let Some(found) = shrink::smallest(&whole, MINIMIZE_LIMIT) else {
        eprintln!("seed {seed} does not fail: there is nothing to minimize");
        return;
    };
    eprintln!("seed {seed}, {} plays: {}\n{}", found.plays, found.why, shrink::shown(&found.play));
    tell(seed, &play(Play { trace: true, ..found.play }));
}

/// A planted defect (a failed write of the store is taken for a good one) is found by some seed, and the minimizer
/// drops every fault that has nothing to do with it.
#[test]
fn the_minimizer_finds_a_planted_defect() {
    let planted = |seed| {
        let mut play = Play { lies: true, ..seeds::of(seed, false) };
        play.scenario.faults.store_per_mille = 50;
        play
    };
    let found = (1..=PLANTED_SEEDS)
        .find_map(|seed| shrink::smallest(&planted(seed), PLANTED_LIMIT))
        .expect("a store that lies breaks an invariant within a few seeds");
    let faults = &found.play.scenario.faults;
    let shown = shrink::shown(&found.play);
    assert!(faults.store_per_mille > 0, "the cause was dropped: {shown}");
    let (whole, left) =
        (shrink::faults_of(&planted(found.play.seed)), shrink::faults_of(&found.play));
    assert!(left * 2 <= whole, "{left} of {whole} faults are left: {shown}");
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
        scenario,
        pools: [(pool, names)].into(),
        rounds: vec![vec![Ask::whole("a", 2)]],
        crashes,
        lies: false,
        pace: None,
        presses: Vec::new(),
        trace,
        retention: RETENTION,
    }
}

/// A job that ended is removed by the actor when its time is over, and nothing of it is left.
#[test]
fn ended_jobs_are_removed() {
    for (retention, keys, forgotten) in [(RETENTION, 6, 0), (Span::secs(90), 0, 1)] {
        let ended = play(Play { retention, ..small(Vec::new(), false) });
        assert_eq!(ended.broken, None);
        assert_eq!((ended.job_keys, ended.forgotten.len()), (keys, forgotten), "{retention}");
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
