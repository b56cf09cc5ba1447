//! What CCE has no path for, under `/evenkeel/v1`.

pub(super) mod agents;
pub(super) mod clusters;
pub(super) mod control;
pub(super) mod jobs;
pub(super) mod keypairs;
pub(super) mod machines;
pub(super) mod output;
pub(super) mod pace;
pub(super) mod scan;
mod why;
