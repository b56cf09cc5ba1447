//! Every order of events of a small rollout, explored to the end: the real `engine::plan` decides, and everything
//! around it (API server, hosts, store, watch, clock) may go on, fail or crash at any moment.
//!
//! Three nodes, two at a time; one lost answer or failed step, one crash, one second driver, one person; four ticks of
//! time that may pass whenever something is under way. [`world`] holds the state, [`steps`] what may happen next,
//! [`print`] what makes two states one. Planted defects show that the model can fail.

#![expect(clippy::print_stderr, reason = "says how many states were explored")]

mod print;
mod steps;
mod world;

use stateright::{Checker, Model, Property};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use steps::Step;
use world::State;

/// Fewer states would mean that the model no longer plays what it is there for.
const STATES_MIN: usize = 10_000;
/// A scope that takes longer is cut, and the cut shows as states without an end. All of them together take less.
const LIMIT: Duration = Duration::from_mins(1);
/// The one property that is looked for, and not forbidden.
const SUCCEEDS: &str = "it succeeds";

/// What may go wrong in one run.
#[derive(Clone, Copy, Debug, Default, Hash)]
struct Rollout {
    /// Lost answers and failed resets.
    faults: u8,
    /// Crashes of the driver; another one starts at once.
    crashes: u8,
    /// Second drivers, which start while the first still lives.
    seconds: u8,
    /// Cordons by a person.
    people: u8,
    /// Whether what a driver sees may be behind: then it looks when it looks, and else at once.
    lag: bool,
    /// Ticks that may pass at any moment. Afterwards time passes only when nothing else can happen.
    ticks: u8,
    /// What is wrong with the controller, or with those who check it.
    defect: Option<Defect>,
}

/// A planted defect. The model has to find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Defect {
    /// The driver acts before its record is durable.
    EffectFirst,
    /// Hosts do not refuse orders of an older epoch.
    HostTakesAll,
    /// The store does not compare the epoch of a commit.
    StoreTakesAll,
    /// A driver that has lost its lease looks at the cluster again before it learns that.
    LooksOn,
}

/// The model of one scope, with the graph of what was explored.
#[derive(Default)]
struct Explored {
    scope: Rollout,
    graph: Arc<Mutex<Graph>>,
}

/// Who can come from where, and where nothing can happen any more.
#[derive(Default)]
struct Graph {
    came_from: BTreeMap<u64, Vec<u64>>,
    ends: BTreeSet<u64>,
}

impl Graph {
    /// How many states cannot reach an end.
    fn lost(&self, states: usize) -> usize {
        let mut reached = self.ends.clone();
        let mut next: Vec<u64> = reached.iter().copied().collect();
        while let Some(state) = next.pop() {
            let before = self.came_from.get(&state).into_iter().flatten();
            next.extend(before.copied().filter(|print| reached.insert(*print)));
        }
        states - reached.len()
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.print == other.print
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u64(self.print);
    }
}

impl Model for Explored {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self.scope)]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        state.steps(steps);
        if steps.is_empty() {
            let mut graph = self.graph.lock().unwrap_or_else(PoisonError::into_inner);
            graph.ends.insert(state.print);
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut next = last.clone();
        next.take(&step);
        let mut graph = self.graph.lock().unwrap_or_else(PoisonError::into_inner);
        graph.came_from.entry(next.print).or_default().push(last.print);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("S1: never more than two nodes out or in hand", |_, s: &State| {
                s.out() <= world::MAX && s.held() <= world::MAX
            }),
            Property::always("S3, S5, S7, S8, S12, S13: no step breaks a rule", |_, s: &State| {
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
            Property::sometimes(SUCCEEDS, |_, s: &State| s.succeeded()),
        ]
    }
}

/// What came of one scope.
struct Outcome {
    states: usize,
    /// Whether some run ends in success: a model in which nothing works breaks no rule either.
    succeeds: bool,
    /// The broken property, why, and the steps that lead there.
    broken: Option<String>,
}

/// Explores one scope to its end, or to the first broken property.
fn explore(scope: Rollout, threads: usize) -> Outcome {
    let model = Explored { scope, ..Explored::default() };
    let graph = Arc::clone(&model.graph);
    let first = stateright::HasDiscoveries::AnyFailures;
    let checker = model.checker().finish_when(first).threads(threads).timeout(LIMIT).spawn_bfs();
    let checker = checker.join();
    let states = checker.unique_state_count();
    let mut broken: Option<String> = None;
    let discoveries = checker.discoveries();
    let succeeds = discoveries.contains_key(SUCCEEDS);
    for (property, path) in discoveries {
        if property != SUCCEEDS {
            let why = path.last_state().broken.clone().unwrap_or_default();
            let told = |(state, step): (State, Option<Step>)| Some(state.tells(&step?));
            let steps: Vec<String> = path.into_vec().into_iter().filter_map(told).collect();
            let told = format!("{property}: {why}\n  {}\n", steps.join("\n  "));
            broken.get_or_insert_default().push_str(&told);
        }
    }
    if broken.is_none() {
        let lost = graph.lock().unwrap_or_else(PoisonError::into_inner).lost(states);
        if lost > 0 {
            broken = Some(format!("from {lost} states no end can be reached"));
        }
    }
    Outcome { states, succeeds, broken }
}

/// The scopes. Where a driver dies or is usurped it sees at once what there is to see: how far a watch may be behind
/// is played in the others.
const CALM: Rollout =
    Rollout { faults: 0, crashes: 0, seconds: 0, people: 0, lag: true, ticks: 0, defect: None };
const SCOPES: [(&str, Rollout); 6] = [
    ("calm", CALM),
    ("four ticks", Rollout { ticks: 4, ..CALM }),
    ("a person", Rollout { people: 1, ..CALM }),
    ("a fault", Rollout { faults: 1, ..CALM }),
    ("a crash", CRASH),
    ("a second driver", SECOND),
];
const CRASH: Rollout = Rollout { crashes: 1, lag: false, ..CALM };
const SECOND: Rollout = Rollout { seconds: 1, lag: false, ..CALM };

#[test]
fn every_order_of_events() {
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let mut states = 0;
    for (name, scope) in SCOPES {
        let outcome = explore(scope, threads);
        eprintln!("{name}: {} states", outcome.states);
        assert!(outcome.broken.is_none(), "{name}: {}", outcome.broken.unwrap_or_default());
        assert!(outcome.succeeds, "{name}: no run succeeds");
        states += outcome.states;
    }
    eprintln!("{states} states in all, each of them explored");
    assert!(states > STATES_MIN, "{states} states are too few");
}

/// The same model with a defect in it breaks the rule that the defect is about.
#[test]
fn planted_defects_are_found() {
    let rows = [
        (Defect::EffectFirst, CRASH, "S3"),
        (Defect::HostTakesAll, SECOND, "S12"),
        (Defect::StoreTakesAll, SECOND, "S13"),
        (Defect::LooksOn, SECOND, "S7"),
    ];
    for (defect, scope, rule) in rows {
        let broken =
            explore(Rollout { defect: Some(defect), ..scope }, 1).broken.unwrap_or_default();
        let found = format!("no step breaks a rule: {rule}: ");
        assert!(broken.contains(&found), "{defect:?}: {broken}");
    }
}
