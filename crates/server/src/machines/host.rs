//! The conversation with `evenkeel-node` on one host: a command, its JSON answer, its refusals as faults.

use super::ssh::{Ended, Session, transient};
use crate::sync::ports::Fault;
use evenkeel_node::protocol::{
    AnswerError, EXIT_REFUSED, Refusal, RefusalKind, Remote, Sha256Hex, Verb, parse_answer,
};
use serde::de::DeserializeOwned;
use std::net::IpAddr;
use std::time::Duration;

/// The host's commands answer in milliseconds; the rest is for a host that swaps or fsyncs slowly.
const ASK_LIMIT: Duration = Duration::from_secs(30);

/// Characters of a foreign stderr that go into a message: enough for one line of sudo or sh.
const STDERR_SHOWN: usize = 200;

/// One host over one connection.
pub(super) struct Host {
    session: Session,
    sudo: bool,
    hash: Sha256Hex,
}

/// Why there is no answer.
pub(super) enum NoAnswer {
    /// The host said no.
    Refused(Refusal),
    /// Anything else.
    Fault(Fault),
}

impl Host {
    pub(super) fn new(session: Session, sudo: bool, hash: Sha256Hex) -> Self {
        Self { session, sudo, hash }
    }

    pub(super) fn peer(&self) -> &str {
        self.session.peer()
    }

    pub(super) fn local_addr(&self) -> IpAddr {
        self.session.local_addr()
    }

    pub(super) async fn close(self) {
        self.session.close().await;
    }

    /// Asks the binary; a refusal becomes a fault.
    pub(super) async fn verb<T: DeserializeOwned>(
        &self,
        verb: Verb,
        stdin: &[u8],
    ) -> Result<T, Fault> {
        self.try_verb(verb, stdin).await.map_err(|no| self.fault(no))
    }

    /// Asks the binary; the caller looks at refusals.
    pub(super) async fn try_verb<T: DeserializeOwned>(
        &self,
        verb: Verb,
        stdin: &[u8],
    ) -> Result<T, NoAnswer> {
        let remote = Remote::Run { hash: self.hash.clone(), verb };
        self.try_ask(&remote, stdin, ASK_LIMIT).await
    }

    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        remote: &Remote,
        stdin: &[u8],
        limit: Duration,
    ) -> Result<T, Fault> {
        self.try_ask(remote, stdin, limit).await.map_err(|no| self.fault(no))
    }

    /// Which of these commands a script on the host would not find. The names are checked: they become part
    /// of a command line.
    pub(super) async fn missing(&self, commands: &[&str]) -> Result<Vec<String>, Fault> {
        let mut missing = Vec::new();
        for command in commands {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"._+-/".contains(&b);
            if command.is_empty() || command.starts_with('-') || !command.bytes().all(plain) {
                return Err(Fault::permanent(format!(
                    "the recipe needs the command {command:?}, which is not a command name \
                     (letters, digits, '.', '_', '+', '-', '/')"
                )));
            }
            let sudo = if self.sudo { "sudo -n " } else { "" };
            // The PATH that evenkeel-node gives to scripts.
            let line = format!(
                "{sudo}sh -c 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; \
                 command -v {command} >/dev/null && echo yes || echo no'"
            );
            let ended = self.session.exec(&line, b"", ASK_LIMIT).await?;
            match ended.stdout.trim_ascii() {
                b"yes" => {}
                b"no" => missing.push((*command).to_owned()),
                _ => return Err(self.unexpected(&ended)),
            }
        }
        Ok(missing)
    }

    async fn try_ask<T: DeserializeOwned>(
        &self,
        remote: &Remote,
        stdin: &[u8],
        limit: Duration,
    ) -> Result<T, NoAnswer> {
        let command = remote.to_command(self.sudo);
        let ended = self.session.exec(&command, stdin, limit).await.map_err(NoAnswer::Fault)?;
        let refused = EXIT_REFUSED.unsigned_abs();
        if ended.cut || (ended.status != 0 && ended.status != refused) {
            return Err(NoAnswer::Fault(self.unexpected(&ended)));
        }
        match parse_answer(&ended.stdout) {
            Ok(answer) => Ok(answer),
            Err(AnswerError::Refused(refusal)) => Err(NoAnswer::Refused(refusal)),
            Err(error @ AnswerError::Malformed(_)) => Err(NoAnswer::Fault(transient(
                format!("host {}: the answer to a command cannot be read", self.peer()),
                error,
            ))),
        }
    }

    fn unexpected(&self, ended: &Ended) -> Fault {
        let peer = self.peer();
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
    pub(super) fn fault(&self, no: NoAnswer) -> Fault {
        let refusal = match no {
            NoAnswer::Fault(fault) => return fault,
            NoAnswer::Refused(refusal) => refusal,
        };
        let peer = self.peer();
        if refusal.kind.is_transient() {
            return transient(format!("host {peer} cannot do it now"), refusal);
        }
        let why = match refusal.kind {
            RefusalKind::WrongMachine => "is the wrong machine, nothing was run there",
            RefusalKind::Fenced => {
                "has seen a newer controller or a newer attempt; if this controller was restored from a backup or \
                 set up anew and no other one is at work, remove /var/lib/evenkeel/fence.json there"
            }
            RefusalKind::UnknownUser => "does not have the login user of the template",
            RefusalKind::NotRoot => {
                "needs root for a reset: use root, or sudo (`evenkeel cluster set-machines --sudo`)"
            }
            _ => "refused the order",
        };
        Fault::Permanent { what: format!("host {peer} {why}"), source: Some(Box::new(refusal)) }
    }
}
