//! The HTTP API over the memory store: signed requests in, status, body and store checked.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod accept;
mod agents;
mod clients;
mod configuration;
mod control;
mod faults;
mod policy;
mod pools;
mod preview;
mod recorded;
mod secrets;
mod support;
mod sweep;
mod upgrade;
mod why;
