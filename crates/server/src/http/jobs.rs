//! Jobs: how a synchronization is followed.

pub(super) mod read;
pub(super) mod show;
