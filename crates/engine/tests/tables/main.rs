//! Decision tables: one row per rule.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod account;
mod admission;
mod common;
mod control;
mod drain;
mod node;
mod order;
mod pressure;
mod preview;
mod startup;
mod steer;
mod upstream;
