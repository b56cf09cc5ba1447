//! The client as its user sees it: exit status, standard output, standard error, and what went over the wire.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod agents;
mod clusters;
mod jobs;
mod login;
mod machines;
mod plan;
mod pools;
mod settings;
mod support;
mod sync;
