//! Nodes as the API names them.

pub(super) mod list;
pub(super) mod show;
