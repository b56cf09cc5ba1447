//! Decisions: which node may be taken out next, what each node in hand needs now, and why something waits.
//!
//! The entry point is [`plan`](plan::plan). Everything here is synchronous and a function of its arguments:
//! nothing waits, nothing reads a clock, the environment or a random number.

pub mod account;
pub mod action;
pub mod admit;
pub mod changes;
pub mod check;
pub mod control;
pub mod drain;
pub mod facts;
pub mod ids;
pub mod index;
pub mod learn;
pub mod ledger;
pub mod order;
pub mod pace;
pub mod phase;
pub mod place;
pub mod plan;
pub mod pressure;
pub mod preview;
pub mod report;
pub mod selector;
pub mod steer;
pub mod step;
pub mod sync;
pub mod time;
