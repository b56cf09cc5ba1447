//! Decision tables: one row per rule.

mod account;
mod admission;
mod common;
mod control;
mod drain;
mod node;
mod order;
mod preview;
