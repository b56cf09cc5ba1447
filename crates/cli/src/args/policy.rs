//! `pool policy`: when nodes of a pool may be taken.

use clap::Args;

use super::{In, Show};

/// `pool policy`. Without anything to set it shows what is set.
#[derive(Debug, Args)]
pub struct PoolPolicy {
    /// Node pool, by name or id
    #[arg(value_name = "NAME|ID")]
    pub pool: String,
    /// A window such as 'Mon-Fri 21:00-05:00' or '22:00-23:59:59'; repeat it for more. Replaces all windows
    #[arg(long = "window", value_name = "[DAYS] FROM-TO", value_parser = window)]
    pub windows: Vec<WindowArg>,
    /// A window that opens by a cron expression, such as '0 22 * * Sat'; repeat it for more
    #[arg(long = "cron", value_name = "EXPRESSION")]
    pub crons: Vec<String>,
    /// How long windows by cron stay open
    #[arg(long, value_name = "S", requires = "crons")]
    pub open_for: Option<u32>,
    /// Time zone of the windows that are set
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    pub time_zone: String,
    /// Take all windows away: nodes may be taken at any time
    #[arg(long, conflicts_with_all = ["windows", "crons"])]
    pub always: bool,
    /// Seconds between a node that has come back and the next one
    #[arg(long, value_name = "S")]
    pub soak: Option<u32>,
    /// Whether a node whose pods have no room on others waits, even if it is the only one in hand
    #[arg(long, value_name = "BOOL")]
    pub strict_capacity: Option<bool>,
    #[command(flatten)]
    pub place: In,
    #[command(flatten)]
    pub show: Show,
}

/// Days and times of a window, as they were written: the server reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowArg {
    pub days: Vec<String>,
    pub from: String,
    pub to: String,
}

fn window(text: &str) -> Result<WindowArg, String> {
    let (days, times) = match text.trim().rsplit_once(char::is_whitespace) {
        Some((days, times)) => (days, times),
        None => ("", text.trim()),
    };
    let days = days.split([',', ' ']).filter(|day| !day.is_empty()).map(str::to_owned).collect();
    match times.split_once('-') {
        Some((from, to)) if !from.is_empty() && !to.is_empty() => {
            Ok(WindowArg { days, from: from.to_owned(), to: to.to_owned() })
        }
        _ => Err("it is not [DAYS] FROM-TO, such as 'Mon-Fri 21:00-05:00'".to_owned()),
    }
}
