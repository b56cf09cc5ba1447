//! Node pools, and the main operation on them.

mod accept;
mod answer;
mod check;
pub(super) mod create;
mod fingerprint;
mod kubelet;
pub(super) mod list;
pub(super) mod migrate;
pub(super) mod show;
mod template;
pub(super) mod update;
pub(super) mod upgrade;
