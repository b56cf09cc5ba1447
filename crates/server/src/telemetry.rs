//! Logs. The one place that installs a subscriber.

use crate::config::LogFormat;
use tracing_subscriber::EnvFilter;

/// Starts logging to stderr. `filter` as in `RUST_LOG`; absent: information from us, warnings from others.
pub fn start(format: LogFormat, filter: Option<&str>) {
    let filter = EnvFilter::new(filter.unwrap_or("warn,evenkeel_server=info,audit=info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start (tests, rehearsals in one process) keeps the first subscriber.
    let started = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    if started.is_err() {
        tracing::debug!("logging had been started before");
    }
}
