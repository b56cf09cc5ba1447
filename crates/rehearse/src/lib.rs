//! The far ends of the wires, over loopback: a Kubernetes API server and SSH hosts, played on an `evenkeel-sim`
//! world whose time runs with the real one. For demonstrations and fault tests; production never uses it.
//!
//! Start with [`Rehearsal::start`]. Dropping the [`Rehearsal`] ends everything.

mod api;
mod hosts;

use api::{Api, lock};
use evenkeel_engine::ids::NodeName;
use evenkeel_sim::{Scenario, World};
use hosts::HostServer;
use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey, PublicKey};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// How often the world is brought up to date. Watches see a change after this long on average halved.
const TICK: Duration = Duration::from_millis(5);
/// How often another port is tried when a host's address has it taken.
const PORT_TRIES: u32 = 50;

/// How to run a rehearsal.
#[derive(Clone, Debug, PartialEq)]
pub struct RehearseOptions {
    /// World milliseconds per real millisecond: 10 makes ten seconds of a script last one.
    pub time_scale: f64,
    /// The bearer token of the API server.
    pub token: String,
    /// Whether the nodes' addresses are the loopback addresses of their hosts (127.77.0.N). Off: hosts listen
    /// there all the same, and the nodes report addresses where nobody is.
    pub addresses_are_real: bool,
}

impl Default for RehearseOptions {
    fn default() -> Self {
        Self { time_scale: 1.0, token: "rehearsal".to_owned(), addresses_are_real: true }
    }
}

/// Where a host listens.
#[derive(Clone, Debug)]
pub struct HostAddress {
    /// Its node.
    pub node: NodeName,
    /// 127.77.0.N and the common port.
    pub addr: SocketAddr,
    /// Its host key, in OpenSSH's form.
    pub host_key: String,
}

/// Why a rehearsal did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A loopback address could not be used.
    #[error("cannot listen on {addr}")]
    Listen {
        /// Which address.
        addr: String,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// No port was free on all of the hosts' addresses.
    #[error("found no port that is free on all host addresses in {PORT_TRIES} tries")]
    Ports,
    /// A key could not be made.
    #[error("cannot make an SSH key")]
    Key(#[source] russh::keys::ssh_key::Error),
}

/// A running cluster with its hosts.
#[derive(Debug)]
pub struct Rehearsal {
    world: Arc<Mutex<World>>,
    events: Arc<Mutex<Vec<Value>>>,
    api: SocketAddr,
    token: String,
    hosts: Vec<HostAddress>,
    private_key: String,
    public_key: PublicKey,
    // Aborts its tasks when dropped.
    _tasks: JoinSet<()>,
}

impl Rehearsal {
    /// Builds the scenario's world and starts to serve it.
    pub async fn start(
        mut scenario: Scenario,
        options: RehearseOptions,
    ) -> Result<Self, StartError> {
        if options.addresses_are_real {
            scenario.network = "127.77".to_owned();
        }
        let mut world = scenario.build();
        let real_ms =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
        world.wall_base_ms = real_ms - world.now() as i64;
        let nodes = addresses(&world, options.addresses_are_real);
        let world = Arc::new(Mutex::new(world));
        let events = Arc::new(Mutex::new(Vec::new()));
        let controller = new_key()?;
        let private_key =
            controller.to_openssh(LineEnding::LF).map_err(StartError::Key)?.to_string();

        let mut tasks = JoinSet::new();
        let (tick, ticks) = tokio::sync::watch::channel(0);
        tasks.spawn(run_clock(world.clone(), options.time_scale, tick));
        let listener = bind("127.0.0.1:0").await?;
        let address = local(&listener)?;
        let api = Api::new(
            world.clone(),
            options.time_scale,
            options.token.clone(),
            ticks,
            events.clone(),
        );
        tasks.spawn(api::serve(listener, Arc::new(api)));

        let hosts =
            start_hosts(&mut tasks, &world, &options, &nodes, controller.public_key()).await?;
        Ok(Self {
            world,
            events,
            api: address,
            token: options.token,
            hosts,
            private_key,
            public_key: controller.public_key().clone(),
            _tasks: tasks,
        })
    }

    /// A kubeconfig with inline data and a token.
    pub fn kubeconfig_yaml(&self) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: rehearsal\n\
             clusters:\n- name: rehearsal\n  cluster:\n    server: http://{}\n\
             users:\n- name: evenkeel\n  user:\n    token: {}\n\
             contexts:\n- name: rehearsal\n  context:\n    cluster: rehearsal\n    user: evenkeel\n",
            self.api, self.token
        )
    }

    /// Address of the API server; plain HTTP.
    pub fn api_addr(&self) -> SocketAddr {
        self.api
    }

    /// The hosts, by node name.
    pub fn hosts(&self) -> &[HostAddress] {
        &self.hosts
    }

    /// The port on which all hosts listen.
    pub fn ssh_port(&self) -> u16 {
        self.hosts.first().map_or(0, |host| host.addr.port())
    }

    /// The private key that the hosts take, in OpenSSH's form; made anew for each rehearsal.
    pub fn ssh_private_key(&self) -> &str {
        &self.private_key
    }

    /// Its public half, in OpenSSH's form.
    pub fn ssh_public_key(&self) -> String {
        self.public_key.to_openssh().unwrap_or_default()
    }

    /// The world behind it all: for faults, for people, and for the truth about what happened.
    pub fn world(&self) -> Arc<Mutex<World>> {
        self.world.clone()
    }

    /// Events that were posted, oldest first.
    pub fn events(&self) -> Vec<Value> {
        lock(&self.events).clone()
    }
}

fn new_key() -> Result<PrivateKey, StartError> {
    PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).map_err(StartError::Key)
}

async fn bind(addr: &str) -> Result<TcpListener, StartError> {
    let listener = TcpListener::bind(addr).await;
    listener.map_err(|source| StartError::Listen { addr: addr.to_owned(), source })
}

fn local(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    listener
        .local_addr()
        .map_err(|source| StartError::Listen { addr: "a loopback address".to_owned(), source })
}

async fn start_hosts(
    tasks: &mut JoinSet<()>,
    world: &Arc<Mutex<World>>,
    options: &RehearseOptions,
    nodes: &[(NodeName, String)],
    controller: &PublicKey,
) -> Result<Vec<HostAddress>, StartError> {
    let mut hosts = Vec::new();
    for ((node, _), listener) in nodes.iter().zip(host_listeners(nodes).await?) {
        let key = new_key()?;
        let host_key = key.public_key().to_openssh().map_err(StartError::Key)?;
        hosts.push(HostAddress { node: node.clone(), addr: local(&listener)?, host_key });
        let (scale, node) = (options.time_scale, node.clone());
        let host = HostServer::new(world.clone(), scale, node, controller.clone(), key);
        tasks.spawn(hosts::listen(listener, Arc::new(host)));
    }
    Ok(hosts)
}

/// Where each node's host listens: where its node says, or on loopback all the same.
fn addresses(world: &World, real: bool) -> Vec<(NodeName, String)> {
    let hosts = world.hosts().enumerate().map(|(index, host)| {
        let elsewhere = format!("127.77.{}.{}", index / 250, index % 250 + 1);
        (host.node.clone(), if real { host.internal_ip.to_string() } else { elsewhere })
    });
    hosts.collect()
}

/// One listener per host, all on one port, so that an address rule of `InternalIP` and one port finds them.
async fn host_listeners(nodes: &[(NodeName, String)]) -> Result<Vec<TcpListener>, StartError> {
    for _ in 0..PORT_TRIES {
        let mut listeners: Vec<TcpListener> = Vec::new();
        let mut port = 0;
        for (_, ip) in nodes {
            match bind(&format!("{ip}:{port}")).await {
                Ok(listener) => {
                    port = local(&listener)?.port();
                    listeners.push(listener);
                }
                // Taken there by somebody else: all of them on another port.
                Err(_) if port != 0 => break,
                Err(error) => return Err(error),
            }
        }
        if listeners.len() == nodes.len() {
            return Ok(listeners);
        }
    }
    Err(StartError::Ports)
}

/// Lets the world's time follow the real one.
async fn run_clock(world: Arc<Mutex<World>>, scale: f64, tick: tokio::sync::watch::Sender<u64>) {
    let start = (Instant::now(), lock(&world).now());
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        interval.tick().await;
        let passed = start.0.elapsed().as_secs_f64() * 1000.0 * scale;
        let (visible, now) = {
            let mut world = lock(&world);
            world.advance(start.1 + passed as u64);
            (world.visible_version(), world.now())
        };
        // Once a second of world time even without news: bookmarks and cut watches are due by the clock.
        tick.send_if_modified(|last| {
            let mark = visible.wrapping_mul(1_000_003) ^ (now / 1000);
            std::mem::replace(last, mark) != mark
        });
    }
}
