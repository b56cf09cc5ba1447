//! SSH hosts in this process: one listener per host, key authentication, and the commands of the host binary.
//!
//! Entry point: [`listen`]. What a host answers is in `answers`; what it does is the world's. Absent: shells,
//! passwords, forwarding, and any real command.

mod answers;

use crate::api::lock;
use answers::{Answer, HostFiles};
use evenkeel_engine::ids::NodeName;
use evenkeel_node::protocol::{Remote, Verb};
use evenkeel_sim::World;
use russh::keys::{HashAlg, PrivateKey, PublicKey};
use russh::server::{Auth, ChannelOpenHandle, Config, Handler, Msg, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, MethodKind, MethodSet};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// Longest stdin that is kept: a host binary of a few MiB with room to spare.
const STDIN_MAX: usize = 64 * 1024 * 1024;

/// One host's far end.
pub(crate) struct HostServer {
    pub(crate) world: Arc<Mutex<World>>,
    pub(crate) scale: f64,
    pub(crate) node: NodeName,
    pub(crate) controller: PublicKey,
    files: Mutex<HostFiles>,
    config: Arc<Config>,
}

impl HostServer {
    pub(crate) fn new(
        world: Arc<Mutex<World>>,
        scale: f64,
        node: NodeName,
        controller: PublicKey,
        host_key: PrivateKey,
    ) -> Self {
        let mut methods = MethodSet::empty();
        methods.push(MethodKind::PublicKey);
        let config = Config {
            methods,
            auth_rejection_time: Duration::from_millis(20),
            auth_rejection_time_initial: Some(Duration::ZERO),
            keys: vec![host_key],
            nodelay: true,
            ..Config::default()
        };
        Self { world, scale, node, controller, files: Mutex::default(), config: Arc::new(config) }
    }

    /// Up, and on the network.
    fn reachable(&self) -> bool {
        let world = lock(&self.world);
        let now = world.now();
        world.host(&self.node).is_ok_and(|host| host.up && host.unreachable_until <= now)
    }

    fn denies(&self) -> bool {
        lock(&self.world).host(&self.node).map_or(true, |host| host.denies)
    }

    async fn connection(self: Arc<Self>, stream: TcpStream) {
        if !self.reachable() {
            // Nobody is there. Closing at once spares everybody the wait for a timeout.
            return;
        }
        let config = self.config.clone();
        let session = Connection { host: self.clone(), open: BTreeMap::new() };
        match russh::server::run_stream(config, stream, session).await {
            Ok(running) => {
                if let Err(error) = running.await {
                    tracing::debug!(node = %self.node, %error, "an SSH session ended");
                }
            }
            Err(error) => {
                tracing::debug!(node = %self.node, %error, "an SSH session did not begin");
            }
        }
    }
}

/// Serves one host until the task is dropped.
pub(crate) async fn listen(listener: TcpListener, host: Arc<HostServer>) {
    let mut sessions = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => { sessions.spawn(host.clone().connection(stream)); }
                Err(error) => {
                    tracing::warn!(node = %host.node, %error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = sessions.join_next() => {}
        }
    }
}

/// A command that runs, or waits for the end of its stdin.
struct Pending {
    remote: Remote,
    stdin: Vec<u8>,
}

struct Connection {
    host: Arc<HostServer>,
    open: BTreeMap<ChannelId, Pending>,
}

fn wants_stdin(remote: &Remote) -> bool {
    match remote {
        Remote::Have { .. } => false,
        Remote::Upload { .. } => true,
        Remote::Run { verb, .. } => {
            matches!(verb, Verb::Probe | Verb::Accept | Verb::Prove | Verb::Plan)
        }
    }
}

impl Connection {
    /// Runs a command to its end. An error cuts the connection: the client learns nothing.
    async fn run(
        &mut self,
        channel: ChannelId,
        pending: Pending,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let (after_ms, answer) = answers::run(
            &self.host.world,
            &self.host.node,
            &self.host.files,
            &pending.remote,
            &pending.stdin,
        );
        tokio::time::sleep(Duration::from_secs_f64(after_ms as f64 / 1000.0 / self.host.scale))
            .await;
        match answer {
            Some(Answer { stdout, status }) => {
                session.data(channel, stdout)?;
                session.exit_status_request(channel, status)?;
                session.eof(channel)?;
                session.close(channel)
            }
            None => Err(russh::Error::Disconnect),
        }
    }
}

impl Handler for Connection {
    type Error = russh::Error;

    async fn auth_publickey(
        &mut self,
        _user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        let known = key.public_key.key_data() == self.host.controller.key_data();
        if known && !self.host.denies() {
            return Ok(Auth::Accept);
        }
        tracing::debug!(node = %self.host.node, key = %key.public_key.fingerprint(HashAlg::Sha256), "refused");
        Ok(Auth::reject())
    }

    async fn channel_open_session(
        &mut self,
        _channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)?;
        let command = String::from_utf8_lossy(data);
        let Some(remote) = Remote::parse(&command) else {
            session.extended_data(
                channel,
                1,
                "sh: this host is played; it knows evenkeel-node only\n",
            )?;
            session.exit_status_request(channel, 127)?;
            session.eof(channel)?;
            return session.close(channel);
        };
        let pending = Pending { remote, stdin: Vec::new() };
        if wants_stdin(&pending.remote) {
            self.open.insert(channel, pending);
            return Ok(());
        }
        self.run(channel, pending, session).await
    }

    async fn data(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        if let Some(pending) = self.open.get_mut(&channel) {
            let room = STDIN_MAX.saturating_sub(pending.stdin.len());
            pending.stdin.extend(data.iter().take(room));
        }
        Ok(())
    }

    async fn channel_eof(
        &mut self,
        channel: ChannelId,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        match self.open.remove(&channel) {
            Some(pending) => self.run(channel, pending, session).await,
            None => Ok(()),
        }
    }
}
