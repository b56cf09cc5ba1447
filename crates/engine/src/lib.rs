//! Decisions: which node may be taken out next, what each node in hand needs now, and why something waits.
//!
//! The entry point is [`plan`](plan::plan). Everything here is synchronous and a function of its arguments:
//! nothing waits, nothing reads a clock, the environment or a random number.

pub mod facts;
pub mod ids;
pub mod phase;
pub mod report;
pub mod selector;
pub mod sync;
pub mod time;
