//! The project's own tools as a library: the test bed, the audit log's judge, the tidy checks and
//! the one test command. `main.rs` is their command line; end-to-end tests call them directly.
//!
//! Absent on purpose: anything the product needs at run time.

pub mod audit;
pub mod bench;
pub mod binaries;
pub mod gobuild;
pub mod mutants;
pub mod paths;
pub mod python;
pub mod run;
pub mod suite;
pub mod testbed;
pub mod tidy;
