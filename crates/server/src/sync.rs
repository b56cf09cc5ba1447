//! The actor of a cluster and the ports through which it sees and acts.

pub mod act;
pub mod actor;
pub mod board;
pub mod clock;
pub mod commit;
mod costs;
pub mod desk;
pub mod enrol;
mod lease;
pub mod points;
pub mod ports;
mod retire;
pub mod state;
mod tell;

/// An error with all its causes, for a log or a reason.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
