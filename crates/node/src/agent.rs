//! `evenkeel-node agent`: for hosts that the controller cannot reach. It dials out over TLS, asks for calls, runs each
//! as this same binary would be run over SSH, and sends back what it said.
//!
//! Entry points: [`enrol`] once, then [`run`]. An order runs detached and is journalled, so an agent that is killed,
//! a server that restarts or a network that goes away loses nothing: the next call re-attaches.
//!
//! Deliberately absent: any decision, any verb of its own, and a way to switch the check of the server's certificate
//! off.

pub mod files;
mod wire;
mod work;

use std::fs::TryLockError;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use crate::host::Host;
use crate::protocol::agent::{EnrolRequest, Poll};
use crate::protocol::{Hidden, PROTOCOL};
use crate::store::{Store, StoreError};
use crate::verbs::chain;
use files::{Files, Identity};
use wire::{Denied, Trouble, Wire};

/// First pause after a call that did not get through.
const PAUSE_FIRST: Duration = Duration::from_secs(1);

/// Pauses grow no longer: a server that is back is found within half a minute.
const PAUSE_LAST: Duration = Duration::from_secs(30);

/// A refused credential comes back only by hand; asking once a minute costs nothing and needs no restart.
const PAUSE_DENIED: Duration = Duration::from_mins(1);

/// Why an agent cannot be enrolled or started.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Not an `https` address.
    #[error("{0:?} is not the https:// address of a server; an agent speaks over TLS only")]
    Url(String),
    /// The CA file cannot be read.
    #[error("the CA file {} cannot be read", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The CA file holds no certificate.
    #[error("{} holds no PEM certificate that can be trusted", .0.display())]
    NoCa(PathBuf),
    /// No token came.
    #[error("standard input holds no token; make one with `evenkeel agent enrol NODE`")]
    NoToken,
    /// State that cannot be kept or read.
    #[error("the agent's state cannot be used")]
    State(#[source] StoreError),
    /// Never enrolled.
    #[error("this host is not enrolled; run `evenkeel-node agent enrol URL CA_FILE <TOKEN` first")]
    NotEnrolled,
    /// What was kept is not what an enrolment keeps.
    #[error("{} is damaged; enrol this host again", .0.display())]
    Damaged(PathBuf),
    /// Another one runs.
    #[error("another agent runs on this host")]
    Running,
    /// Not root.
    #[error("an agent needs root, because a reset does")]
    NotRoot,
    /// The server did not enrol it.
    #[error("the server did not enrol this host")]
    Enrol(#[source] Trouble),
    /// The path of this program is unknown.
    #[error("the path of this program cannot be found")]
    Program(#[source] io::Error),
}

/// Turns a one-time token into this host's credential and keeps it.
pub fn enrol(
    store: &Store,
    host: &Host,
    url: &str,
    ca: PathBuf,
    stdin: &mut dyn io::Read,
) -> Result<Identity, AgentError> {
    let pem =
        std::fs::read(&ca).map_err(|source| AgentError::CaFile { path: ca.clone(), source })?;
    let wire = Wire::new(url, &pem).ok_or_else(|| reason(url, &ca))?;
    let token = first_line(stdin).ok_or(AgentError::NoToken)?;
    let files = Files::of(store);
    // Before the token is spent.
    files.prepare().map_err(AgentError::State)?;
    let request = EnrolRequest {
        token: Hidden::from(token),
        machine_id: host.identity().machine_id,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let enrolled = wire.enrol(&request).map_err(AgentError::Enrol)?;
    let identity = Identity {
        url: url.trim_end_matches('/').to_owned(),
        agent: enrolled.agent,
        node: enrolled.node,
        cluster: enrolled.cluster,
        credential: enrolled.credential,
    };
    files.keep(&identity, &pem).map_err(AgentError::State)?;
    Ok(identity)
}

fn reason(url: &str, ca: &std::path::Path) -> AgentError {
    if wire::is_https(url) {
        AgentError::NoCa(ca.to_owned())
    } else {
        AgentError::Url(url.to_owned())
    }
}

/// The first line, if there is anything in it.
fn first_line(stdin: &mut dyn io::Read) -> Option<String> {
    // A token has less than a hundred characters.
    let mut text = String::new();
    stdin.take(4096).read_to_string(&mut text).ok()?;
    let line = text.lines().next()?.trim().to_owned();
    (!line.is_empty()).then_some(line)
}

/// Asks for calls and carries them out, for as long as the process lives.
pub fn run(store: &Store, host: &Host) -> Result<std::convert::Infallible, AgentError> {
    if !host.may_change() {
        return Err(AgentError::NotRoot);
    }
    let program = std::env::current_exe().map_err(AgentError::Program)?;
    let files = Files::of(store);
    let lock = files.lock().map_err(AgentError::State)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(AgentError::Running),
        Err(TryLockError::Error(source)) => {
            return Err(AgentError::State(files.lock_failed(source)));
        }
    }
    let (identity, pem) = files.load()?;
    let wire =
        Wire::new(&identity.url, &pem).ok_or_else(|| AgentError::Damaged(files.ca_path()))?;
    let poll = Poll {
        boot_id: host.boot_id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: PROTOCOL,
    };
    say(&format!(
        "agent {} of node {} in cluster {} asks {}",
        identity.agent, identity.node, identity.cluster, identity.url
    ));
    let mut pause = PAUSE_FIRST;
    loop {
        match wire.poll(&identity.credential, &poll) {
            Ok(None) => pause = PAUSE_FIRST,
            Ok(Some(call)) => {
                pause = PAUSE_FIRST;
                let end = work::run(&program, &call, &poll.boot_id);
                deliver(&wire, &identity, &call.id, &end, Duration::from_millis(call.limit_ms));
            }
            Err(trouble) => {
                say(&format!("no calls: {}", chain(&trouble)));
                let wait = if matches!(trouble, Trouble::Denied(Denied::Credential)) {
                    PAUSE_DENIED
                } else {
                    pause
                };
                std::thread::sleep(jittered(wait));
                pause = (pause * 2).min(PAUSE_LAST);
            }
        }
    }
}

/// Sends an answer until somebody has it, or nobody waits for it any more.
fn deliver(
    wire: &Wire,
    identity: &Identity,
    id: &str,
    end: &crate::protocol::agent::CallEnd,
    limit: Duration,
) {
    let begun = std::time::Instant::now();
    while begun.elapsed() <= limit {
        match wire.answer(&identity.credential, id, end) {
            Ok(()) => return,
            Err(Trouble::Denied(denied)) => {
                // A restarted server does not know the call; what it did is in the journal.
                say(&format!("the answer to a call was not taken: {denied}"));
                return;
            }
            Err(trouble) => {
                say(&format!("the answer to a call did not get through: {}", chain(&trouble)));
                std::thread::sleep(jittered(PAUSE_FIRST));
            }
        }
    }
}

/// Between half and all of a pause, so that a thousand agents do not come back in the same moment.
fn jittered(pause: Duration) -> Duration {
    let dice = std::collections::hash_map::RandomState::new().build_hasher().finish();
    pause / 2 + (pause / 2).mul_f64((dice >> 11) as f64 / (1_u64 << 53) as f64)
}

/// One line for the journal of the service manager. Nobody may be reading it.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A unit for systemd that runs the agent of this program.
pub fn unit() -> Result<String, AgentError> {
    let program = std::env::current_exe().map_err(AgentError::Program)?;
    Ok(format!(
        "[Unit]\n\
         Description=Evenkeel agent: fetches this node's orders from its server\n\
         Wants=network-online.target\n\
         After=network-online.target\n\
         \n\
         [Service]\n\
         ExecStart={} agent\n\
         Restart=always\n\
         RestartSec=5\n\
         # An order that runs outlives the agent that brought it.\n\
         KillMode=process\n\
         UMask=0077\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n",
        program.display()
    ))
}

/// Whether a word from the server is an argument that the binary takes from it.
fn is_verb(args: &[String]) -> bool {
    crate::protocol::Verb::parse(args).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_spread_and_never_longer() {
        let pauses: Vec<Duration> = (0..50).map(|_| jittered(PAUSE_LAST)).collect();
        assert!(pauses.iter().all(|p| *p >= PAUSE_LAST / 2 && *p <= PAUSE_LAST));
        assert!(pauses.iter().any(|p| p != &pauses[0]));
    }

    #[test]
    fn only_verbs_are_run() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(is_verb(&words("status job-1.node-1.1.reset")));
        for line in ["run-order /tmp job-1.node-1.1.reset", "agent", "sh -c id", "status ../x", ""]
        {
            assert!(!is_verb(&words(line)), "{line}");
        }
    }

    #[test]
    fn a_token_is_the_first_line() {
        let line = |text: &str| first_line(&mut text.as_bytes());
        assert_eq!(line(" abc \nrest").as_deref(), Some("abc"));
        assert_eq!(line("\nabc"), None);
    }
}
