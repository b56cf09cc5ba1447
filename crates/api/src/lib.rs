//! The CCE v3 node pool API as data: wire models, error catalogue, request checks and the request
//! signature. Server and client share it.
//!
//! Entry points: [`upgrade::UpgradeRequest::parse`] for the main operation, [`sign::verify`] for
//! the signature, [`error::ErrorBody`] for every answer that refuses.
//!
//! Deliberately absent: a runtime, a clock, an HTTP library, and everything that decides. Time and
//! identity come in as arguments; what a valid request leads to is decided elsewhere.

#![cfg_attr(test, expect(clippy::unwrap_used, reason = "a test may stop at the first surprise"))]

pub mod cluster;
pub mod configuration;
pub mod error;
pub mod iam;
pub mod initialized;
pub mod job;
pub mod json;
pub mod login;
pub mod meta;
pub mod node;
pub mod nodepool;
pub mod password;
pub mod pool_rules;
pub mod pool_update;
pub mod preview;
pub mod sign;
pub mod upgrade;
pub mod upgrade_template;
pub mod violation;

pub use error::{ErrorBody, ErrorCode};
pub use violation::Violation;
