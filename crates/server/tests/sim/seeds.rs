//! From a seed to a run.

use crate::run::{Ask, Crash, Play};
use evenkeel_engine::ids::{NodeName, PoolId};
use evenkeel_sim::Scenario;
use evenkeel_sim::rng::Rng;
use std::collections::BTreeMap;

fn ask(rng: &mut Rng, pool: &PoolId, members: &[NodeName]) -> Ask {
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
    }
}

/// What a seed plays.
pub fn of(seed: u64, trace: bool) -> Play {
    let scenario = Scenario::seeded(seed);
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
    let rounds = (0..if rng.chance(500) { 2 } else { 1 })
        .map(|_| pools.iter().map(|(pool, members)| ask(&mut rng, pool, members)).collect())
        .collect();
    let crashes = match rng.range(0, 3) {
        0 => 0,
        n => n * 2,
    };
    let crashes = (0..crashes)
        .map(|_| {
            if rng.chance(600) {
                Crash::AtPoint(rng.range(0, 160))
            } else {
                Crash::After(rng.range(0, 150_000))
            }
        })
        .collect();
    Play { seed, world: scenario.build(), pools, rounds, crashes, trace }
}
