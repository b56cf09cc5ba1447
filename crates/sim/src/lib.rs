//! A small cluster that exists only in memory: Nodes, Pods, PodDisruptionBudgets, kubelets, hosts and people, as
//! one seeded state machine with virtual time.
//!
//! Start at [`World`]; [`Scenario`] builds one and [`FaultPlan`] says what goes wrong in it. The same seed and the
//! same calls give the same [`World::hash`]. Deliberately absent: the network, threads, real clocks and any
//! knowledge of how a controller works; whoever drives the world brings those.

pub mod coverage;
pub mod faults;
pub mod history;
pub mod hosts;
pub mod objects;
pub mod rng;
pub mod scenario;
pub mod status;
pub mod world;

pub use coverage::Coverage;
pub use faults::FaultPlan;
pub use scenario::Scenario;
pub use world::World;
