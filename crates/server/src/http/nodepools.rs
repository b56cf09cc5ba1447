//! Node pools, and the main operation on them.

mod accept;
mod answer;
mod check;
pub(super) mod configuration;
pub(super) mod create;
mod fingerprint;
pub(super) mod list;
pub(super) mod migrate;
mod node_config;
mod parts;
pub(super) mod preview;
pub(super) mod show;
mod template;
pub(super) mod update;
pub(super) mod upgrade;
