//! The conversation with `evenkeel-node` on one host: a command, its JSON answer, its refusals as faults.

use super::link::{Ended, Link};
use super::ssh::transient;
use crate::sync::ports::Fault;
use evenkeel_node::protocol::{
    AnswerError, EXIT_REFUSED, Refusal, RefusalKind, Verb, parse_answer,
};
use serde::de::DeserializeOwned;
use std::net::IpAddr;
use std::time::Duration;

/// The host's commands answer in milliseconds; the rest is for a host that swaps or fsyncs slowly.
const ASK_LIMIT: Duration = Duration::from_secs(30);

/// Characters of a foreign stderr that go into a message: enough for one line of sudo or sh.
const STDERR_SHOWN: usize = 200;

/// One host over one link.
pub(super) struct Host {
    link: Box<dyn Link>,
}

/// Why there is no answer.
pub(super) enum NoAnswer {
    /// The host said no.
    Refused(Refusal),
    /// Anything else.
    Fault(Fault),
}

impl Host {
    pub(super) fn new(link: Box<dyn Link>) -> Self {
        Self { link }
    }

    pub(super) fn peer(&self) -> &str {
        self.link.peer()
    }

    pub(super) fn seen_from(&self) -> IpAddr {
        self.link.seen_from()
    }

    pub(super) async fn close(self) {
        self.link.close().await;
    }

    /// Asks the binary; a refusal becomes a fault.
    pub(super) async fn verb<T: DeserializeOwned>(
        &self,
        verb: Verb,
        stdin: &[u8],
    ) -> Result<T, Fault> {
        self.try_verb(verb, stdin).await.map_err(|no| fault(self.peer(), no))
    }

    /// Asks the binary; the caller looks at refusals.
    pub(super) async fn try_verb<T: DeserializeOwned>(
        &self,
        verb: Verb,
        stdin: &[u8],
    ) -> Result<T, NoAnswer> {
        let ended = self.link.run(&verb, stdin, ASK_LIMIT).await.map_err(NoAnswer::Fault)?;
        answer(self.peer(), &ended)
    }
}

/// What a command of the host's said.
pub(super) fn answer<T: DeserializeOwned>(peer: &str, ended: &Ended) -> Result<T, NoAnswer> {
    let refused = EXIT_REFUSED.unsigned_abs();
    if ended.cut || (ended.status != 0 && ended.status != refused) {
        return Err(NoAnswer::Fault(unexpected(peer, ended)));
    }
    match parse_answer(&ended.stdout) {
        Ok(answer) => Ok(answer),
        Err(AnswerError::Refused(refusal)) => Err(NoAnswer::Refused(refusal)),
        Err(error @ AnswerError::Malformed(_)) => Err(NoAnswer::Fault(transient(
            format!("host {peer}: the answer to a command cannot be read"),
            error,
        ))),
    }
}

fn unexpected(peer: &str, ended: &Ended) -> Fault {
    let stderr: String = String::from_utf8_lossy(&ended.stderr)
        .trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(STDERR_SHOWN)
        .collect();
    if stderr.starts_with("sudo:") {
        return Fault::permanent(format!(
            "host {peer}: sudo without a password does not work for the SSH user ({stderr}); \
             allow it in sudoers, or choose root with `evenkeel cluster set-machines`"
        ));
    }
    if ended.cut {
        return Fault::transient(format!("host {peer}: the answer is longer than 1 MiB"));
    }
    Fault::transient(format!(
        "host {peer}: the remote command ended with status {}: {stderr}",
        ended.status
    ))
}

/// The fault of an answer that did not come.
pub(super) fn fault(peer: &str, no: NoAnswer) -> Fault {
    let refusal = match no {
        NoAnswer::Fault(fault) => return fault,
        NoAnswer::Refused(refusal) => refusal,
    };
    if refusal.kind.is_transient() {
        return transient(format!("host {peer} cannot do it now"), refusal);
    }
    let why = match refusal.kind {
        RefusalKind::WrongMachine => "is the wrong machine, nothing was run there",
        RefusalKind::Fenced => {
            "has seen a newer controller or a newer attempt; if this controller was set up anew and no other \
             one is at work, remove /var/lib/evenkeel/fence.json there"
        }
        RefusalKind::UnknownUser => "does not have the login user of the template",
        RefusalKind::NotRoot => {
            "needs root for a reset: use root, or sudo (`evenkeel cluster set-machines --sudo`)"
        }
        _ => "refused the order",
    };
    Fault::Permanent { what: format!("host {peer} {why}"), source: Some(Box::new(refusal)) }
}
