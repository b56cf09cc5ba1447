//! One record per mutating call, accepted or refused, written before the answer leaves (S18).
//!
//! Absent on purpose: bodies, queries and header values; they may hold secrets.

use axum::http::{Method, StatusCode};

use super::auth::Principal;
use super::error::ApiError;
use super::gate::is_mutating;

/// The target of the records: `RUST_LOG=audit=info` selects them.
pub(super) const TARGET: &str = "audit";

/// What is known of a call so far.
pub(super) struct Entry {
    mutating: bool,
    request_id: String,
    method: Method,
    path: String,
    project: String,
    user: String,
    via: String,
    code: &'static str,
    /// An agent's part of an order that was audited when it was accepted: several a second.
    by_agent: bool,
}

impl Entry {
    pub(super) fn new(request_id: &str, method: &Method, path: &str) -> Self {
        Self {
            mutating: is_mutating(method, path),
            request_id: request_id.to_owned(),
            method: method.clone(),
            path: path.chars().take(400).collect(),
            project: "-".to_owned(),
            user: "-".to_owned(),
            via: "-".to_owned(),
            code: "-",
            by_agent: false,
        }
    }

    pub(super) fn agent(&mut self, id: &str) {
        self.user = format!("agent/{id}");
        self.via = "credential".to_owned();
        self.by_agent = true;
    }

    pub(super) fn caller(&mut self, principal: &Principal) {
        self.project.clone_from(&principal.project.id);
        self.user.clone_from(&principal.user);
        self.via.clone_from(&principal.via);
    }

    pub(super) fn refused(&mut self, error: &ApiError) {
        self.code = error.code().code();
    }

    pub(super) fn write(&self, status: StatusCode) {
        if !self.mutating || (self.by_agent && status.is_success()) {
            return;
        }
        tracing::info!(
            target: TARGET,
            request_id = self.request_id,
            method = %self.method,
            path = self.path,
            project = self.project,
            user = self.user,
            via = self.via,
            status = status.as_u16(),
            accepted = status.is_success(),
            code = self.code,
            "call"
        );
    }
}
