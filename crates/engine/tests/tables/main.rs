//! Decision tables: one row per rule.

mod admission;
mod common;
mod control;
mod drain;
mod node;
mod order;
mod preview;
mod startup;
