//! The SSH client: one connection to a host that is believed, commands with an exit status.
//!
//! Entry points: [`Session::connect`] and [`scan`]. Absent on purpose: passwords, agents, known_hosts files,
//! blind acceptance of a host key, and retries (callers know whether a command may be repeated).

use super::brief::{SshAccess, host_port, ssh_peer};
use super::link::Ended;
use super::trust::{Shown, Trust};
use crate::sync::ports::Fault;
use russh::client::{self, AuthResult, Handle};
use russh::keys::{HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey};
use russh::keys::{PublicKeyOrCertificate, decode_secret_key};
use russh::{ChannelMsg, ChannelReadHalf, Disconnect};
use secrecy::ExposeSecret;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// A host that is up answers a TCP connect in one round trip; 5 s covers two lost SYNs (RFC 6298: 1 s, 2 s).
const TCP_LIMIT: Duration = Duration::from_secs(5);

/// Handshake and authentication together. sshd with `UseDNS` waits 5 s for a resolver that is away.
const LOGIN_LIMIT: Duration = Duration::from_secs(10);

/// A dead peer is noticed after three of these without an answer.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Most of stdout and of stderr that is kept: twice the largest answer of a host (a chunk of output in base64).
const CAPTURE_MAX: usize = 1024 * 1024;

/// One authenticated connection.
pub struct Session {
    handle: Handle<Watcher>,
    peer: String,
    local: IpAddr,
}

/// Judges what the host shows and keeps it.
struct Watcher {
    trust: Trust,
    seen: Arc<Mutex<Option<Shown>>>,
}

impl client::Handler for Watcher {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        server_key: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        let shown = self.trust.judge(server_key);
        let fits = shown.why_not.is_none();
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(shown);
        Ok(fits)
    }
}

impl Session {
    /// Connects, compares the host key and logs in with the controller's key.
    ///
    /// Permanent: no pinned key, another host key, a refused login, a private key that cannot be read.
    /// Transient: everything that may be the network's or a booting host's doing.
    pub async fn connect(access: &SshAccess) -> Result<Self, Fault> {
        let peer = access.peer();
        let trust = Trust::of(access)?;
        let key = private_key(access)?;
        let tcp = tcp(&access.address, access.port).await?;
        let local = tcp
            .local_addr()
            .map_err(|source| transient(format!("host {peer}: the connection is lost"), source))?
            .ip();
        let seen = Arc::new(Mutex::new(None));
        let watcher = Watcher { trust: trust.clone(), seen: Arc::clone(&seen) };
        let config = config(&trust);
        let login = async {
            let mut handle = client::connect_stream(config, tcp, watcher)
                .await
                .map_err(|source| handshake_fault(&peer, &trust, &seen, source))?;
            authenticate(&mut handle, access, key).await?;
            Ok(handle)
        };
        let handle = timeout(LOGIN_LIMIT, login).await.map_err(|_| {
            Fault::transient(format!(
                "host {peer}: no SSH login within {} s of the connection",
                LOGIN_LIMIT.as_secs()
            ))
        })??;
        Ok(Self { handle, peer, local })
    }

    /// Our own address as the socket has it.
    pub fn local_addr(&self) -> IpAddr {
        self.local
    }

    /// `address:port`, for messages.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Runs a command with `stdin` and waits for its exit status.
    ///
    /// A command without an exit status (connection lost, killed by a signal) or without an end within `limit`
    /// is transient: whether it had an effect is unknown.
    pub async fn exec(&self, command: &str, stdin: &[u8], limit: Duration) -> Result<Ended, Fault> {
        match timeout(limit, self.exec_unlimited(command, stdin)).await {
            Ok(ended) => ended,
            Err(_) => Err(Fault::transient(format!(
                "host {}: no answer within {} s; the outcome is unknown",
                self.peer,
                limit.as_secs()
            ))),
        }
    }

    async fn exec_unlimited(&self, command: &str, stdin: &[u8]) -> Result<Ended, Fault> {
        let lost = |source| {
            transient(
                format!("host {}: the SSH connection broke; the outcome is unknown", self.peer),
                source,
            )
        };
        let channel = self.handle.channel_open_session().await.map_err(lost)?;
        let (mut read, write) = channel.split();
        write.exec(true, command).await.map_err(lost)?;
        // Side by side: a command that answers without reading all of its stdin must not leave us waiting
        // for room to write.
        let mut collect = std::pin::pin!(collect(&mut read));
        let feed = async {
            write.data_bytes(stdin.to_vec()).await?;
            write.eof().await
        };
        let ended = tokio::select! {
            ended = &mut collect => ended,
            fed = feed => match fed {
                Ok(()) => collect.await,
                // The channel may be closed because the command ended already: its status decides.
                Err(_) => collect.await,
            },
        };
        ended.map_err(|end| match end {
            NoStatus::Refused => Fault::transient(format!(
                "host {}: the SSH server refused to run a command",
                self.peer
            )),
            NoStatus::Signal(signal) => Fault::transient(format!(
                "host {}: the remote command was killed by signal {signal}; the outcome is unknown",
                self.peer
            )),
            NoStatus::Lost => Fault::transient(format!(
                "host {}: the connection ended without an exit status; the outcome is unknown",
                self.peer
            )),
        })
    }

    /// Says goodbye. Dropping the session does as well, less politely.
    pub async fn close(self) {
        // Nothing depends on it: the server sees the closed socket either way.
        let _closed = timeout(
            Duration::from_secs(1),
            self.handle.disconnect(Disconnect::ByApplication, "", "en"),
        )
        .await;
    }
}

enum NoStatus {
    Refused,
    Signal(String),
    Lost,
}

async fn collect(read: &mut ChannelReadHalf) -> Result<Ended, NoStatus> {
    let mut ended = Ended { status: 0, stdout: Vec::new(), stderr: Vec::new(), cut: false };
    let mut status = None;
    while let Some(message) = read.wait().await {
        match message {
            ChannelMsg::Data { data } => ended.cut |= keep(&mut ended.stdout, &data),
            ChannelMsg::ExtendedData { data, ext: 1 } => {
                ended.cut |= keep(&mut ended.stderr, &data);
            }
            ChannelMsg::ExitStatus { exit_status } => status = Some(exit_status),
            ChannelMsg::ExitSignal { signal_name, .. } => {
                return Err(NoStatus::Signal(format!("{signal_name:?}")));
            }
            ChannelMsg::Failure => return Err(NoStatus::Refused),
            ChannelMsg::Close => break,
            _ => {}
        }
    }
    match status {
        Some(status) => Ok(Ended { status, ..ended }),
        None => Err(NoStatus::Lost),
    }
}

/// Appends up to the limit; true if something was left out.
fn keep(to: &mut Vec<u8>, data: &[u8]) -> bool {
    let room = CAPTURE_MAX - to.len();
    to.extend_from_slice(&data[..data.len().min(room)]);
    data.len() > room
}

/// Reads the key a host shows, as an OpenSSH public key line, without logging in. For registration only: a
/// person or another source must confirm it.
pub async fn scan(address: &str, port: u16) -> Result<String, Fault> {
    let peer = ssh_peer(address, port);
    let tcp = tcp(address, port).await?;
    let seen = Arc::new(Mutex::new(None));
    let watcher = Watcher { trust: Trust::Nothing, seen: Arc::clone(&seen) };
    let shaken =
        timeout(LOGIN_LIMIT, client::connect_stream(config(&Trust::Nothing), tcp, watcher)).await;
    let key = seen.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (key, shaken) {
        (Some(shown), _) => shown.key.to_openssh().map_err(|source| Fault::Permanent {
            what: format!("host {peer}: its SSH host key cannot be written as a line"),
            source: Some(Box::new(source)),
        }),
        (None, Ok(Err(source))) => Err(transient(format!("host {peer}: no SSH handshake"), source)),
        (None, _) => Err(Fault::transient(format!(
            "host {peer}: no SSH host key within {} s",
            LOGIN_LIMIT.as_secs()
        ))),
    }
}

/// Splits `host`, `host:port`, `[v6]` and `[v6]:port`; `None` if it is none of them.
pub fn place(text: &str, default: u16) -> Option<(String, u16)> {
    host_port(text, default)
}

/// `address:port`, for people.
pub fn peer(address: &str, port: u16) -> String {
    ssh_peer(address, port)
}

/// The SHA-256 fingerprint of a public key line, for people; `None` if it is not one.
pub fn fingerprint(line: &str) -> Option<String> {
    PublicKey::from_openssh(line).ok().map(|key| key.fingerprint(HashAlg::Sha256).to_string())
}

/// The key of a public key line without its comment; `None` if it is not one.
pub(super) fn plain_line(line: &str) -> Option<String> {
    let key = PublicKey::from_openssh(line.trim()).ok()?;
    let line = PublicKey::new(key.key_data().clone(), "").to_openssh().ok()?;
    Some(line.trim().to_owned())
}

fn config(trust: &Trust) -> Arc<client::Config> {
    Arc::new(client::Config {
        preferred: trust.preferred(),
        keepalive_interval: Some(KEEPALIVE),
        nodelay: true,
        ..client::Config::default()
    })
}

async fn tcp(address: &str, port: u16) -> Result<TcpStream, Fault> {
    let peer = ssh_peer(address, port);
    match timeout(TCP_LIMIT, TcpStream::connect((address, port))).await {
        Ok(Ok(stream)) => {
            // Only latency is at stake.
            let _set = stream.set_nodelay(true);
            Ok(stream)
        }
        Ok(Err(source)) => Err(transient(format!("host {peer} cannot be reached"), source)),
        Err(_) => Err(Fault::transient(format!(
            "host {peer} cannot be reached: no TCP connection within {} s",
            TCP_LIMIT.as_secs()
        ))),
    }
}

fn private_key(access: &SshAccess) -> Result<PrivateKey, Fault> {
    // The cause is left out: an error of a parser may quote what it read.
    decode_secret_key(access.private_key.expose_secret(), None).map_err(|_| {
        Fault::permanent(
            "the cluster's SSH private key cannot be read; give an OpenSSH key without a \
             passphrase to `evenkeel cluster set-machines --key`",
        )
    })
}

fn handshake_fault(
    peer: &str,
    trust: &Trust,
    seen: &Mutex<Option<Shown>>,
    source: russh::Error,
) -> Fault {
    let way_out = "if the machine was reinstalled on purpose, pin its new key with \
                   `evenkeel cluster set-machines --host-key`; otherwise somebody else answers there";
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner).take();
    let print =
        |key: &PublicKey| format!("{} {}", key.algorithm(), key.fingerprint(HashAlg::Sha256));
    match (source, trust, seen) {
        (russh::Error::UnknownKey, Trust::Pinned(pinned), Some(seen)) => Fault::permanent(format!(
            "host {peer} shows another SSH host key: expected {}, seen {}; {way_out}",
            print(pinned),
            print(&seen.key)
        )),
        (russh::Error::UnknownKey, _, Some(seen)) => Fault::permanent(format!(
            "host {peer} shows the SSH host key {}: {}",
            print(&seen.key),
            seen.why_not.unwrap_or_default()
        )),
        (
            russh::Error::NoCommonAlgo { kind: russh::AlgorithmKind::Key, theirs, .. },
            Trust::Pinned(pinned),
            _,
        ) => Fault::permanent(format!(
            "host {peer} shows another SSH host key: expected {}, but it has only keys of type {}; {way_out}",
            print(pinned),
            theirs.join(", ")
        )),
        (source, _, _) => transient(format!("host {peer}: the SSH handshake failed"), source),
    }
}

async fn authenticate(
    handle: &mut Handle<Watcher>,
    access: &SshAccess,
    key: PrivateKey,
) -> Result<(), Fault> {
    let peer = access.peer();
    let broke = |source| transient(format!("host {peer}: the SSH login broke off"), source);
    let hash = if key.algorithm().is_rsa() {
        // SHA-1 signatures are refused by every current sshd, so SHA-256 is the least we try.
        let best = handle.best_supported_rsa_hash().await.map_err(broke)?.flatten();
        Some(best.unwrap_or(HashAlg::Sha256))
    } else {
        None
    };
    let key = PrivateKeyWithHashAlg::new(Arc::new(key), hash);
    match handle.authenticate_publickey(access.user.as_str(), key).await.map_err(broke)? {
        AuthResult::Success => Ok(()),
        AuthResult::Failure { remaining_methods, .. } => {
            // russh reports a connection that broke during the login as a refusal that allows no other method;
            // the moment lets the session's task end.
            if remaining_methods.is_empty() {
                sleep(Duration::from_millis(20)).await;
            }
            if handle.is_closed() {
                return Err(broke(russh::Error::Disconnect));
            }
            Err(Fault::permanent(format!(
                "host {peer} refuses the controller's SSH key for user {user}; put the public key \
                 of the cluster into {user}'s authorized_keys there, or change user or key with \
                 `evenkeel cluster set-machines`",
                user = access.user
            )))
        }
    }
}

/// A transient fault with its cause.
pub(super) fn transient<E: std::error::Error + Send + Sync + 'static>(
    what: String,
    source: E,
) -> Fault {
    Fault::Transient { what, source: Some(Box::new(source)) }
}
