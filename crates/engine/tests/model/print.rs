//! What tells two states apart: everything that a later step may read, with times as ages. Two runs that differ only
//! in when they came here are one.

use super::world::{State, TICK, name, pod_uid};
use evenkeel_engine::facts::Readiness;
use evenkeel_engine::sync::Work;
use evenkeel_engine::time::Time;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Longer ago than any time limit of the model (4 ticks) looks back: from here on, age makes no difference.
const OLD: u64 = 5 * TICK.0;

pub fn of(state: &State) -> u64 {
    let mut hasher = DefaultHasher::new();
    (state.left, &state.nodes, state.epoch, &state.broken).hash(&mut hasher);
    let mut text = String::with_capacity(4096);
    told(&mut text, state.works.values());
    let _ = write!(text, "{:?}", state.verdict.status);
    let _ = write!(text, "{:?}", state.verdict.stalled_since);
    for driver in &state.drivers {
        (driver.epoch, driver.lives, driver.stirred).hash(&mut hasher);
        let _ = write!(text, "{:?}", driver.wake_at);
        for n in 0..state.nodes.len() {
            if let Some(entry) = driver.index.node(&name(n)) {
                (&*entry.seen.resource_version, entry.seen.unschedulable).hash(&mut hasher);
                (entry.seen.ready == Readiness::Ready).hash(&mut hasher);
                let _ = write!(text, "{:?}", entry.not_ready_since);
            }
            let pod = driver.index.pod(&pod_uid(n));
            pod.map(|pod| pod.deleting).hash(&mut hasher);
            let _ = write!(text, "{:?}", driver.index.ending_since(&pod_uid(n)));
        }
        let _ = write!(text, "{:?}", driver.ledger);
        // The one whose lease counts remembers what is stored.
        if driver.epoch != state.epoch || !driver.late.is_empty() {
            told(&mut text, driver.sync.works());
            told(&mut text, driver.late.iter());
        }
    }
    for request in &state.requests {
        (request.epoch, &*request.version).hash(&mut hasher);
        let _ = write!(text, "{}", request.action.key());
    }
    ages(&text, state.now, &mut hasher);
    hasher.finish()
}

/// The stories of nodes are for people: two states that differ in nothing else are one.
fn told<'a>(text: &mut String, works: impl Iterator<Item = &'a Work>) {
    for work in works {
        let Work { name, phase, attempt, spent, tries, was_available, uncordons, .. } = work;
        let was = work.was_unschedulable;
        let _ = write!(text, "{name}{phase:?}{attempt} {spent} {tries} {was_available}{was}");
        let _ = write!(text, "{uncordons}{:?}", work.last_cause);
    }
}

/// Hashes a text in which times, which are written as `seconds.millis` and an s, count as ages.
fn ages(text: &str, now: Time, hasher: &mut DefaultHasher) {
    let bytes = text.as_bytes();
    let (mut from, mut at) = (0, 0);
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        let start = at;
        while bytes.get(at).is_some_and(|b| b.is_ascii_digit() || *b == b'.') {
            at += 1;
        }
        let time = text[start..at].split_once('.').filter(|_| bytes.get(at) == Some(&b's'));
        let millis = |s: &str| s.parse::<u64>().ok();
        if let Some((Some(s), Some(ms))) = time.map(|(s, ms)| (millis(s), millis(ms))) {
            hasher.write(&bytes[from..start]);
            let age = now.0 as i64 - (s * 1000 + ms) as i64;
            hasher.write_i64(age.min(OLD as i64));
            from = at;
        }
    }
    hasher.write(&bytes[from..]);
}
