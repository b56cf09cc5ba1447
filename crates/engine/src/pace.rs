//! When a next node may be taken at all, whatever the limits say: pause, cancel, maintenance windows, soak time.
//!
//! Entry point: [`holds_up`]. Time zones and calendars are not known here: the actor works out how a pool's windows
//! stand now and hands the result in as a [`Pace`].

use crate::report::WaitingOn;
use crate::sync::Sync;
use crate::time::{Span, Time};
use serde::{Deserialize, Serialize};

/// How the maintenance windows of a pool stand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "window", rename_all = "camelCase")]
pub enum Window {
    /// A node may be taken: there is no window, or one is open.
    #[default]
    Open,
    /// Outside all windows.
    Closed {
        /// When the next one opens, on the cluster's clock.
        opens: Time,
        /// That moment and the windows, in words.
        words: String,
    },
}

/// The pace of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// Its maintenance windows.
    pub window: Window,
    /// How long the last finished node is watched before the next one is taken.
    pub soak: Span,
    /// Not even one node is taken whose pods have no room elsewhere.
    pub strict: bool,
}

/// Why no node may be taken now, and when to look again. Nodes in hand go on.
pub fn holds_up(sync: &Sync, now: Time) -> Option<(WaitingOn, Option<Time>)> {
    if let Some(by) = &sync.control.cancelled {
        return Some((WaitingOn::Cancelled { by: by.who.clone() }, None));
    }
    if let Some(by) = &sync.control.paused {
        return Some((WaitingOn::Paused { by: by.who.clone(), since: by.at }, None));
    }
    if let Window::Closed { opens, words } = &sync.pace.window {
        return Some((WaitingOn::Window { opens: *opens, words: words.clone() }, Some(*opens)));
    }
    let until = sync.last_done()? + sync.pace.soak;
    (until > now).then_some((WaitingOn::Soak { until }, Some(until)))
}
