//! Instances, their lower bounds, and how others would roll: in list order, by zone, in waves, or by a random list.

use evenkeel_sim::rng::Rng;
use serde_json::Value;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

/// Grace of pods where drains do not vary, ms.
const STOP_MS: u64 = 1000;
/// A drain of a day is the tail of a distribution, not a node.
const DRAIN_MAX_MS: f64 = 4.0 * 3600.0 * 1000.0;

/// A service under a budget that lets one pod go at a time.
#[derive(Clone, Debug)]
pub struct Service {
    pub name: String,
    pub recovery_ms: u64,
}

/// What one run starts with.
#[derive(Clone, Debug)]
pub struct Instance {
    pub k: usize,
    pub reset_ms: u64,
    /// By node: how long its drain takes once nothing holds it.
    pub drain_ms: Vec<u64>,
    pub services: Vec<Service>,
    /// By node: the services with a pod there.
    pub pods: Vec<Vec<usize>>,
}

fn uniform(rng: &mut Rng) -> f64 {
    (rng.range(0, 999_999) as f64 + 0.5) / 1e6
}

fn normal(rng: &mut Rng) -> f64 {
    (-2.0 * uniform(rng).ln()).sqrt() * (std::f64::consts::TAU * uniform(rng)).cos()
}

impl Instance {
    /// Setting B: drains that vary, no budgets.
    pub fn drains(scenario: &Value, row: &Value, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let nodes = scenario["nodes"].as_u64().unwrap_or(100) as usize;
        let median = scenario["median_drain"].as_f64().unwrap_or(60.0) * 1000.0;
        let sigma = row["sigma"].as_f64().unwrap_or(1.0);
        let draw = |rng: &mut Rng| (median * (sigma * normal(rng)).exp()).min(DRAIN_MAX_MS);
        // Grace periods are whole seconds.
        let drain_ms = (0..nodes).map(|_| (draw(&mut rng) / 1000.0).ceil() as u64 * 1000).collect();
        Self {
            k: row["k"].as_u64().unwrap_or(10) as usize,
            reset_ms: scenario["reset"].as_u64().unwrap_or(360) * 1000,
            drain_ms,
            services: Vec::new(),
            pods: vec![Vec::new(); nodes],
        }
    }

    /// Setting C: many small services, and some that recover slowly.
    pub fn chains(scenario: &Value, row: &Value, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let nodes = scenario["nodes"].as_u64().unwrap_or(100) as usize;
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        let light = &scenario["light"];
        let mut instance = Self {
            k: number(&row["k"]) as usize,
            reset_ms: number(&scenario["reset"]) * 1000,
            drain_ms: vec![STOP_MS; nodes],
            services: Vec::new(),
            pods: vec![Vec::new(); nodes],
        };
        let kinds = [
            ("light", number(&light["count"]), number(&light["replicas"]), &light["recovery"]),
            (
                "heavy",
                number(&row["heavy"][0]),
                number(&row["heavy"][1]),
                &scenario["heavy_recovery"],
            ),
        ];
        for (kind, count, replicas, recovery) in kinds {
            for index in 0..count {
                let service = instance.services.len();
                let name = format!("{kind}{index}");
                instance
                    .services
                    .push(Service { name, recovery_ms: recovery.as_u64().unwrap_or(60) * 1000 });
                for node in shuffled(nodes, &mut rng).into_iter().take(replicas as usize) {
                    instance.pods[node].push(service);
                }
            }
        }
        instance
    }

    fn outage(&self, node: usize) -> u64 {
        self.drain_ms[node] + self.reset_ms
    }

    /// The largest of: the longest node, the slots, and each budget's chain.
    pub fn lower_bound(&self) -> u64 {
        let nodes = 0..self.drain_ms.len();
        let longest = nodes.clone().map(|n| self.outage(n)).max().unwrap_or(0);
        let all: u64 = nodes.clone().map(|n| self.outage(n)).sum();
        let chain = |service: usize| {
            let on: Vec<usize> =
                nodes.clone().filter(|n| self.pods[*n].contains(&service)).collect();
            let last = on.iter().map(|n| self.outage(*n)).min().unwrap_or(0);
            (on.len() as u64).saturating_sub(1) * self.services[service].recovery_ms + last
        };
        let chains = (0..self.services.len()).map(chain).max().unwrap_or(0);
        // Equal nodes go in whole rounds.
        let rounds = if self.drain_ms.iter().all(|d| *d == self.drain_ms[0]) {
            (self.drain_ms.len().div_ceil(self.k) as u64) * self.outage(0)
        } else {
            all.div_ceil(self.k as u64)
        };
        longest.max(rounds).max(chains)
    }
}

/// A random order of `0..n`.
pub fn shuffled(n: usize, rng: &mut Rng) -> Vec<usize> {
    let mut list: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        list.swap(i, rng.range(0, i as u64) as usize);
    }
    list
}

/// How others choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The list as it is, a finished node frees its slot.
    Window,
    /// The list as it is, in waves with a barrier.
    Waves,
    /// The first of the list whose pods could all go now, else the first.
    FirstFree,
}

struct Run<'a> {
    instance: &'a Instance,
    now: u64,
    room: Vec<u32>,
    queue: Vec<VecDeque<usize>>,
    missing: Vec<usize>,
    next: BinaryHeap<Reverse<(u64, usize, usize)>>,
}

const BACK: usize = usize::MAX;

/// Plays a list to its end; returns the makespan, ms.
pub fn play(instance: &Instance, list: &[usize], peer: Peer) -> u64 {
    let mut run = Run {
        instance,
        now: 0,
        room: vec![1; instance.services.len()],
        queue: vec![VecDeque::new(); instance.services.len()],
        missing: vec![0; instance.pods.len()],
        next: BinaryHeap::new(),
    };
    let mut waiting: Vec<usize> = list.to_vec();
    waiting.reverse();
    let mut held = 0;
    loop {
        if peer != Peer::Waves || held == 0 {
            while held < instance.k
                && let Some(node) = run.choose(&mut waiting, peer)
            {
                held += 1;
                run.take(node);
            }
        }
        let Some(Reverse((at, what, node))) = run.next.pop() else {
            return run.now;
        };
        run.now = at;
        if what == BACK {
            held -= 1;
        } else {
            run.room[what] += 1;
            if let Some(first) = run.queue[what].pop_front() {
                run.grant(what);
                run.missing[first] -= 1;
                run.drained(first);
            }
        }
        let _ = node;
    }
}

impl Run<'_> {
    fn choose(&self, waiting: &mut Vec<usize>, peer: Peer) -> Option<usize> {
        if peer == Peer::FirstFree {
            let free = |n: &usize| self.instance.pods[*n].iter().all(|s| self.room[*s] > 0);
            if let Some(at) = waiting.iter().rposition(free) {
                return Some(waiting.remove(at));
            }
        }
        waiting.pop()
    }

    fn take(&mut self, node: usize) {
        for service in &self.instance.pods[node] {
            if self.room[*service] > 0 {
                self.grant(*service);
            } else {
                self.queue[*service].push_back(node);
                self.missing[node] += 1;
            }
        }
        self.drained(node);
    }

    fn grant(&mut self, service: usize) {
        self.room[service] -= 1;
        let at = self.now + self.instance.services[service].recovery_ms;
        self.next.push(Reverse((at, service, 0)));
    }

    fn drained(&mut self, node: usize) {
        if self.missing[node] == 0 {
            let at = self.now + self.instance.outage(node);
            self.next.push(Reverse((at, BACK, node)));
        }
    }
}

/// The best of so many random lists.
pub fn best_of(instance: &Instance, restarts: u32, seed: u64) -> u64 {
    let mut rng = Rng::new(seed);
    let one = |rng: &mut Rng| play(instance, &shuffled(instance.pods.len(), rng), Peer::FirstFree);
    (0..restarts).map(|_| one(&mut rng)).min().unwrap_or(u64::MAX)
}

/// Nodes by zone (three of them, dealt in turn), then by age.
pub fn by_zone(instance: &Instance) -> Vec<usize> {
    let mut zones: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for node in 0..instance.pods.len() {
        zones.entry(node % 3).or_default().push(node);
    }
    zones.into_values().flatten().collect()
}
