//! Failures: what the user reads, and the exit status.
//!
//! Entry points: [`CliError`], [`report`]. A hint is data of the failure, printed last.

use std::error::Error as StdError;

use crate::io::Io;
use crate::text::plain;

/// The exit status of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done; a job that was waited for ended with `Success`.
    Done = 0,
    /// The server refused, or the job did not succeed.
    Failed = 1,
    /// Arguments, settings or local files cannot be used. The argument parser ends with the same status.
    Usage = 2,
    /// The server cannot be reached, or does not answer as such a server does.
    Unreachable = 3,
}

type Cause = Box<dyn StdError + Send + Sync>;

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// Arguments, settings or local files.
    #[error("{what}")]
    Usage {
        /// What is wrong: field, value, rule.
        what: String,
        /// The way out.
        hint: Option<String>,
        /// The cause.
        #[source]
        source: Option<Cause>,
    },
    /// The server's own words.
    #[error("{code}: {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Error code, such as `CCE.01404001`.
        code: String,
        /// Its message.
        message: String,
        /// `X-Request-Id`.
        request_id: Option<String>,
    },
    /// No answer.
    #[error("{endpoint} cannot be reached")]
    Unreachable {
        /// Where.
        endpoint: String,
        /// Whether the call may have been done although no answer came.
        in_doubt: bool,
        /// The cause.
        #[source]
        source: Cause,
    },
    /// An answer that is none of this API.
    #[error("{endpoint} answered, but not as this API does: {what}")]
    Foreign {
        /// Where.
        endpoint: String,
        /// What was wrong with it.
        what: String,
    },
    /// What was waited for did not come, or ended badly.
    #[error("{what}")]
    Ended {
        /// What happened.
        what: String,
        /// The way out.
        hint: Option<String>,
    },
    /// Data could not be written.
    #[error("the output cannot be written")]
    Output(#[source] std::io::Error),
}

impl CliError {
    /// Wrong arguments, settings or files.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::Usage { what: what.into(), hint: None, source: None }
    }

    /// The same with its cause.
    pub(crate) fn local(what: impl Into<String>, source: impl Into<Cause>) -> Self {
        Self::Usage { what: what.into(), hint: None, source: Some(source.into()) }
    }

    /// Adds the way out, where the failure has a place for it.
    pub(crate) fn with_hint(mut self, way_out: impl Into<String>) -> Self {
        if let Self::Usage { hint, .. } | Self::Ended { hint, .. } = &mut self {
            *hint = Some(way_out.into());
        }
        self
    }

    /// The exit status.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage { .. } => Exit::Usage,
            Self::Unreachable { .. } | Self::Foreign { .. } => Exit::Unreachable,
            Self::Refused { .. } | Self::Ended { .. } | Self::Output(_) => Exit::Failed,
        }
    }

    /// Whether the same call may succeed a moment later.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Usage { hint, .. } | Self::Ended { hint, .. } => hint.clone(),
            Self::Refused { code, .. } => refusal_hint(code).map(str::to_owned),
            Self::Unreachable { in_doubt: true, .. } => Some(
                "the outcome is unknown: look before you repeat it (to Evenkeel, an identical sync is the same job)"
                    .to_owned(),
            ),
            Self::Unreachable { .. } => {
                Some("is the server running, and is EVENKEEL_ENDPOINT (or `evenkeel login`) right?".to_owned())
            }
            Self::Foreign { .. } => {
                Some("EVENKEEL_ENDPOINT is the root of the server, such as https://evenkeel.example:8443".to_owned())
            }
            Self::Output(_) => None,
        }
    }
}

/// What helps against a refusal whose message cannot know about this program.
fn refusal_hint(code: &str) -> Option<&'static str> {
    Some(match code {
        "APIGW.0301" => "check EVENKEEL_AK and EVENKEEL_SK, or run `evenkeel login` again",
        "APIGW.0303" => "set the clock of this machine",
        "APIGW.0101" => {
            "this server does not have the call: commands beyond CCE's own need an Evenkeel server"
        }
        "APIGW.0308" | "CCE.02429001" | "CCE.01429003" => "wait a moment and repeat the command",
        "CCE.01404001" => "see `evenkeel cluster list`, `evenkeel pool list`, `evenkeel node list`",
        "CCE.01429002" => {
            "`evenkeel pool show POOL` names the job that holds the pool; `evenkeel get job ID` shows it"
        }
        "CCE.01500001" => "the server's log has the cause under the request id",
        _ => return None,
    })
}

/// Says what went wrong: the error, its causes, the request id, and last the hint.
pub(crate) fn report(error: &CliError, io: &mut Io<'_>) {
    if matches!(error, CliError::Output(cause) if cause.kind() == std::io::ErrorKind::BrokenPipe) {
        return;
    }
    let (red, cyan, off) =
        if io.colour { ("\x1b[1;31m", "\x1b[36m", "\x1b[0m") } else { ("", "", "") };
    io.say(&format!("{red}error:{off} {}", plain(&error.to_string())));
    let mut cause = error.source();
    while let Some(inner) = cause {
        io.say(&format!("  caused by: {}", plain(&inner.to_string())));
        cause = inner.source();
    }
    if let CliError::Refused { status, request_id, .. } = error {
        let id = request_id.as_deref().map(|id| format!(", request id {}", plain(id)));
        io.say(&format!("  HTTP {status}{}", id.unwrap_or_default()));
    }
    if let Some(hint) = error.hint() {
        io.say(&format!("\n{cyan}hint:{off} {}", plain(&hint)));
    }
}
