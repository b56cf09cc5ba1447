//! Decision tables: one row per rule.

mod admission;
mod common;
mod drain;
mod node;
