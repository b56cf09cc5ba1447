//! Every order of events of a small rollout, explored to the end: the real `engine::plan` decides, and everything
//! around it (API server, hosts, store, watch, clock) may go on, fail or crash at any moment.
//!
//! Three nodes, two at a time; one lost answer or failed step, one crash, one second driver; four ticks of time that
//! may pass whenever something is under way. [`world`] holds the state, [`steps`] what may happen next.

#![expect(clippy::print_stderr, reason = "says how many states were explored")]

mod steps;
mod world;

use stateright::{Checker, Model, Property};
use std::time::{Duration, Instant};
use steps::Step;
use world::State;

/// The exploration ends well within this on two cores.
const LIMIT: Duration = Duration::from_secs(60);
/// Fewer states would mean that the model no longer plays what it is there for.
const STATES_MIN: usize = 10_000;

/// What may go wrong in one run.
#[derive(Clone, Copy, Debug)]
struct Rollout {
    /// Lost answers and failed resets.
    faults: u8,
    /// Crashes of the driver; another one starts at once.
    crashes: u8,
    /// Second drivers, which start while the first still lives.
    seconds: u8,
    /// Ticks that may pass at any moment. Afterwards time passes only when nothing else can happen.
    ticks: u8,
}

impl Model for Rollout {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(*self)]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        state.steps(steps);
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut next = last.clone();
        next.take(&step).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("S1: never more than two nodes out", |_, s: &State| {
                s.out() <= world::MAX
            }),
            Property::always("S3, S7, S8, S12: no step breaks a rule", |_, s: &State| {
                s.broken.is_none()
            }),
            Property::always("S4: a cordon has a record or a mark", |_, s: &State| {
                s.lost_cordon().is_none()
            }),
            Property::always(
                "L1: what cannot go on has ended, with everything given back",
                |_, s: &State| {
                    let mut steps = Vec::new();
                    s.steps(&mut steps);
                    !steps.is_empty() || s.given_back()
                },
            ),
            Property::sometimes("it succeeds", |_, s: &State| s.succeeded()),
            Property::sometimes("it fails", |_, s: &State| s.failed()),
        ]
    }
}

/// Explores one scope to its end; returns how many states there are.
fn explore(name: &str, scope: Rollout) -> usize {
    let began = Instant::now();
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let checker = scope.checker().threads(threads).timeout(Duration::from_secs(25)).spawn_bfs().join();
    let states = checker.unique_state_count();
    eprintln!("{name}: {states} states in {:.1} s", began.elapsed().as_secs_f64());
    for (property, path) in checker.discoveries() {
        if !property.starts_with("it ") {
            let steps: Vec<String> = path.into_actions().iter().map(|s| format!("{s:?}")).collect();
            panic!("{name}: {property} does not hold after\n  {}", steps.join("\n  "));
        }
    }
    states
}

#[test]
fn every_order_of_events() {
    let began = Instant::now();
    let calm = Rollout { faults: 0, crashes: 0, seconds: 0, ticks: 0 };
    let states = explore("calm", calm)
        + explore("a fault and time", Rollout { faults: 1, ticks: 4, ..calm })
        + explore("a crash", Rollout { crashes: 1, ..calm })
        + explore("a second driver", Rollout { seconds: 1, ..calm });
    let took = began.elapsed();
    eprintln!("{states} states in {:.1} s", took.as_secs_f64());
    assert!(states > STATES_MIN, "{states} states are too few");
    assert!(took < LIMIT, "{} s are too many", took.as_secs());
}
