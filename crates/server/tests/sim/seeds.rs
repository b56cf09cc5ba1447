//! From a seed to a run.

use crate::RETENTION;
use crate::reaper::Side;
use crate::run::{Ask, Crash, Play, Press};
use evenkeel_engine::ids::{NodeName, PoolId};
use evenkeel_server::records::PaceRecord;
use evenkeel_server::windows::{Rule, Window};
use evenkeel_sim::Scenario;
use evenkeel_sim::rng::Rng;
use std::collections::BTreeMap;
use std::time::Duration;

fn ask(rng: &mut Rng, pool: &PoolId, members: &[NodeName], conditions: &[String]) -> Ask {
    let some = |rng: &mut Rng, per_mille: u32| -> Vec<NodeName> {
        members.iter().filter(|_| rng.chance(per_mille)).cloned().collect()
    };
    let named = rng.chance(200).then(|| some(rng, 600));
    let skipped = if rng.chance(150) { some(rng, 200) } else { Vec::new() };
    Ask {
        pool: pool.clone(),
        nodes: named,
        skipped,
        max_unavailable: rng.range(1, 4) as u32,
        retry_times: rng.range(0, 2) as u32,
        force: rng.chance(250),
        resets: rng.chance(850),
        post_install: rng.chance(600),
        wait_post_install: rng.chance(500),
        canary: rng.chance(800),
        initialized: conditions.iter().filter(|_| rng.chance(700)).cloned().collect(),
        taint: rng.chance(300),
    }
}

/// Every point before and after an effect.
pub const POINTS: [&str; 24] = [
    "commit:before",
    "commit:after",
    "claim:before",
    "claim:after",
    "cordon:before",
    "cordon:after",
    "lift:before",
    "lift:after",
    "release:before",
    "release:after",
    "evict:before",
    "evict:after",
    "delete:before",
    "delete:after",
    "confirm:before",
    "confirm:after",
    "probe:before",
    "probe:after",
    "reset:before",
    "reset:after",
    "post:before",
    "post:after",
    "heartbeat:before",
    "heartbeat:after",
];
/// One seed in so many plays faults that never stop.
const FOR_EVER: u64 = 8;
/// The lease lasts 15 s: a cut that is longer costs the controller its cluster.
const CUT_MS: (u64, u64) = (16_000, 60_000);

fn crashes(rng: &mut Rng) -> Vec<Crash> {
    if rng.chance(100) {
        // Dies again and again at one place.
        let at = rng.pick(&POINTS).copied().unwrap_or(POINTS[0]);
        return vec![Crash::AtNamed(at); rng.range(2, 6) as usize];
    }
    let count = match rng.range(0, 3) {
        0 => 0,
        n => n * 2,
    };
    let one = |rng: &mut Rng| match rng.range(0, 19) {
        0..=8 => Crash::AtPoint(rng.range(0, 160)),
        9..=11 => {
            let side = if rng.chance(500) { Side::Before } else { Side::After };
            Crash::AtWrite(rng.range(0, 60), side)
        }
        12 => {
            let after_ms = rng.range(0, 150_000);
            Crash::Usurped { after_ms, cut_ms: rng.range(CUT_MS.0, CUT_MS.1) }
        }
        13 | 14 => Crash::AtNamed(rng.pick(&POINTS).copied().unwrap_or(POINTS[0])),
        _ => Crash::After(rng.range(0, 150_000)),
    };
    (0..count).map(|_| one(rng)).collect()
}

/// In every fifth run the pools have a window of two minutes in four, and some time to soak.
fn pace(rng: &mut Rng) -> Option<PaceRecord> {
    rng.chance(200).then(|| {
        let cron = "*/4 * * * *".to_owned();
        let rule = Rule::Cron { cron, duration_seconds: Some(120) };
        PaceRecord {
            windows: vec![Window { time_zone: "Europe/Berlin".to_owned(), rule }],
            soak_s: rng.range(0, 20) as u32,
            ..PaceRecord::default()
        }
    })
}

/// In every third run somebody presses buttons.
fn presses(rng: &mut Rng) -> Vec<(Duration, Press)> {
    if !rng.chance(350) {
        return Vec::new();
    }
    let press = |rng: &mut Rng| match rng.range(0, 9) {
        0..=2 => Press::Pause(Duration::from_millis(rng.range(1_000, 240_000))),
        3 => Press::Cancel,
        4 | 5 => Press::Retry,
        6 | 7 => Press::Skip,
        _ => Press::Force,
    };
    (0..rng.range(1, 6))
        .map(|_| (Duration::from_millis(rng.range(0, 400_000)), press(rng)))
        .collect()
}

/// What a seed plays.
pub fn of(seed: u64, trace: bool) -> Play {
    let mut scenario = Scenario::seeded(seed);
    let mut rng = Rng::new(seed ^ 0x9a17);
    let mut pools: BTreeMap<PoolId, Vec<NodeName>> = BTreeMap::new();
    let two = rng.chance(250);
    for name in scenario.node_names() {
        if rng.chance(60) {
            continue;
        }
        let pool = if two && rng.chance(500) { "b" } else { "a" };
        pools.entry(PoolId::new(pool)).or_default().push(name);
    }
    let conditions = scenario.initialized.clone();
    let rounds = (0..if rng.chance(500) { 2 } else { 1 })
        .map(|_| {
            pools.iter().map(|(pool, members)| ask(&mut rng, pool, members, &conditions)).collect()
        })
        .collect();
    let crashes = crashes(&mut rng);
    let pace = pace(&mut Rng::new(seed ^ 0x50a4));
    let presses = presses(&mut Rng::new(seed ^ 0x9e55));
    if seed.is_multiple_of(FOR_EVER) {
        scenario.faults.until_ms = u64::MAX;
    }
    Play {
        seed,
        scenario,
        pools,
        rounds,
        crashes,
        pace,
        presses,
        lies: false,
        trace,
        retention: RETENTION,
    }
}
