//! The HTTP API over the memory store: signed requests in, status, body and store checked.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod accept;
mod clients;
mod faults;
mod pools;
mod recorded;
mod secrets;
mod support;
mod sweep;
mod upgrade;
