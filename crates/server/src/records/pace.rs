//! When nodes of a pool may be taken, as stored. How windows stand at a moment is for [`windows`](crate::windows).

use crate::windows::Window;
use serde::{Deserialize, Serialize};

/// When nodes of a pool may be taken. Absent until somebody sets it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PaceRecord {
    /// Maintenance windows; none means always.
    pub windows: Vec<Window>,
    /// Seconds between a node that has come back and the next one.
    pub soak_s: u32,
    /// Not even one node is taken whose pods have no room on others.
    pub strict_capacity: bool,
    /// Who set it: `user/AK` or `user/token`.
    pub updated_by: String,
    /// Wall clock, ms since the epoch.
    pub updated_ms: i64,
}
