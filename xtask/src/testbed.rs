//! A real Kubernetes control plane and real SSH hosts on loopback, for tests and for trying out.
//!
//! Entry points: [`up`], [`down`], [`status`]; [`Testbed`] describes what runs and reaches into it.
//! Nodes become Ready through a process on their host, pods are played by KWOK; or, with real nodes
//! ([`real`]), everything is what it is elsewhere: kubelets, containers, kubeadm. Nothing here is
//! meant to keep data: `down` throws it away, except logs and the audit log.

pub mod base;
pub mod control;
pub mod hosts;
pub mod kubeconfig;
pub mod real;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::gobuild;
use crate::paths::{cache_dir, workspace_root};
use crate::run::{self, Process, wait_for};
use hosts::Host;
use real::RealNode;
use real::network::Network;

/// Addresses of hosts are this and the host's number. All of 127.0.0.0/8 is loopback on Linux.
pub const DEFAULT_HOST_NET: &str = "127.9.0";
/// The same for real nodes, whose own addresses are reached through a relay from here.
pub const DEFAULT_REAL_NET: &str = "127.9.1";
/// A host that stops is seen after 5 to 6 s instead of 40 to 45.
pub const DEFAULT_NODE_GRACE: Duration = Duration::from_secs(5);
/// Set on the Node of each host; KWOK leaves such Nodes alone.
pub const HOST_LABEL: &str = "evenkeel.io/testbed-host";

const STATE_FILE: &str = "testbed.json";
/// What `down` removes from the state directory.
const THROWN_AWAY: [&str; 7] = ["etcd", "certs", "hosts", "nodes", "layer", "secrets", STATE_FILE];

/// Where the state lies unless a caller says otherwise.
pub fn default_state_dir() -> PathBuf {
    cache_dir().join("testbed").join("state")
}

/// What `up` is to start.
#[derive(Debug, Clone)]
pub struct Options {
    pub state_dir: PathBuf,
    pub hosts: u8,
    /// Hosts with systemd, containerd and kubelet; not together with `hosts` or `kwok`.
    pub real_nodes: u8,
    pub kwok: bool,
    /// Run the install step on every host and wait until its Node is Ready.
    pub join: bool,
    pub host_net: String,
    pub real_net: String,
    pub ssh_port: u16,
    /// A node that has not been heard of for so long is no longer Ready.
    pub node_grace: Duration,
    /// Manifest with the ClusterRole `evenkeel`; None takes `deploy/rbac.yaml`.
    pub evenkeel_role: Option<PathBuf>,
}

impl Options {
    /// The default bed with this many hosts.
    pub fn new(state_dir: impl Into<PathBuf>, hosts: u8) -> Self {
        Self {
            state_dir: state_dir.into(),
            hosts,
            real_nodes: 0,
            kwok: true,
            join: true,
            host_net: DEFAULT_HOST_NET.to_owned(),
            real_net: DEFAULT_REAL_NET.to_owned(),
            ssh_port: 22,
            node_grace: DEFAULT_NODE_GRACE,
            evenkeel_role: None,
        }
    }

    /// The default bed with this many real nodes.
    pub fn real(state_dir: impl Into<PathBuf>, nodes: u8) -> Self {
        Self { real_nodes: nodes, kwok: false, ..Self::new(state_dir, 0) }
    }
}

/// What runs, as `up` prints it and keeps it in the state directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Testbed {
    pub state_dir: PathBuf,
    /// URL of the API server.
    pub server: String,
    pub kubectl: PathBuf,
    /// By user: `admin`, `evenkeel`, `hosts`, `kwok`, `controller`, `scheduler`. Inline data only.
    pub kubeconfigs: BTreeMap<String, PathBuf>,
    pub audit_log: PathBuf,
    pub ssh: Ssh,
    pub hosts: Vec<Host>,
    pub real_nodes: Vec<RealNode>,
    /// Of a bed with real nodes: where its control plane and nodes are.
    pub network: Option<Network>,
    /// Words before a command that is to run where the nodes' own addresses are reachable. Nothing
    /// needs them: the addresses in this description answer on this machine's loopback.
    pub exec_prefix: Vec<String>,
    /// Images that the real nodes hold, by what they are for.
    pub images: BTreeMap<String, String>,
    /// Errors of `kubeadm join`'s preflight that do not matter here.
    pub preflight_ignored: Vec<String>,
    pub processes: Vec<Process>,
    /// Milliseconds that each step of the start took.
    pub took_ms: BTreeMap<String, u64>,
}

/// How to log in to every host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ssh {
    pub user: String,
    pub private_key: PathBuf,
    pub public_key: PathBuf,
}

/// What `status` found.
#[derive(Debug, Serialize)]
pub struct Status {
    pub api_server_ready: bool,
    pub processes: BTreeMap<String, bool>,
    /// By Node: status of its Ready condition.
    pub nodes: BTreeMap<String, String>,
}

impl Status {
    /// Everything that was started runs, and every Node is Ready.
    pub fn all_good(&self) -> bool {
        self.api_server_ready
            && self.processes.values().all(|alive| *alive)
            && self.nodes.values().all(|ready| ready == "True")
    }
}

/// Starts the bed; on a failure everything that was started is stopped again.
pub fn up(options: &Options) -> Result<Testbed> {
    let dir = std::path::absolute(&options.state_dir).context("state directory")?;
    if let Ok(old) = load(&dir)
        && old.all_processes().any(|process| process.alive())
    {
        bail!("a test bed already runs in {}; `cargo xtask testbed down` ends it", dir.display());
    }
    let mut bed = prepare(&dir, options)?;
    match start(&mut bed, options) {
        Ok(()) => Ok(bed),
        Err(error) => {
            stop_all(&bed).context("stop what a failed start left")?;
            Err(error.context(format!("logs are in {}", dir.join("logs").display())))
        }
    }
}

fn prepare(dir: &Path, options: &Options) -> Result<Testbed> {
    if options.hosts.max(options.real_nodes) > 200 {
        let hosts = options.hosts.max(options.real_nodes);
        bail!("{hosts} hosts: the addresses end at 200");
    }
    if options.real_nodes > 0 && (options.hosts > 0 || options.kwok) {
        bail!("real nodes run real pods, KWOK would play them: --real-nodes stands alone");
    }
    real::remove_leftovers(dir).context("remove what an earlier bed left behind")?;
    for old in THROWN_AWAY.iter().chain(&["logs", "audit"]) {
        remove(&dir.join(old))?;
    }
    for new in ["certs", "hosts", "logs", "audit", "secrets"] {
        fs::create_dir_all(dir.join(new)).with_context(|| format!("create {}", dir.display()))?;
    }
    let key = dir.join("secrets/ssh_key");
    run::output(
        Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "testbed", "-f"])
            .arg(&key),
        Duration::from_secs(20),
    )
    .context("ssh-keygen is needed (apt install openssh-client)")?;
    Ok(Testbed {
        state_dir: dir.to_path_buf(),
        server: String::new(),
        kubectl: gobuild::kubernetes_tool("kubectl")?,
        kubeconfigs: BTreeMap::new(),
        audit_log: dir.join("audit/audit.log"),
        ssh: Ssh {
            user: "root".to_owned(),
            public_key: key.with_extension("pub"),
            private_key: key,
        },
        hosts: Vec::new(),
        real_nodes: Vec::new(),
        network: None,
        exec_prefix: Vec::new(),
        images: BTreeMap::new(),
        preflight_ignored: Vec::new(),
        processes: Vec::new(),
        took_ms: BTreeMap::new(),
    })
}

fn start(bed: &mut Testbed, options: &Options) -> Result<()> {
    let tools = control::Tools::find(options.kwok, options.real_nodes > 0)?;
    let base = if options.hosts > 0 { Some((base::ensure()?, hosts::keeper()?)) } else { None };
    let real_base = match options.real_nodes {
        0 => None,
        _ => Some(base::ensure_node()?),
    };
    let begun = Instant::now();
    let mut step = Stopwatch(begun);
    if let Some(base) = &real_base {
        real::prepare(bed, options, base)?;
        step.lap(bed, "real_network")?;
    }
    control::start(bed, &tools, options)?;
    step.lap(bed, "control_plane")?;
    if real_base.is_some() {
        real::cluster::publish(bed)?;
        real::cluster::renew_token(bed)?;
        step.lap(bed, "cluster_info")?;
        real::boot_all(bed)?;
        step.lap(bed, "real_boot")?;
        if options.join {
            real::join_all(bed)?;
            step.lap(bed, "real_join")?;
        }
    }
    if let Some((base, keeper)) = &base {
        hosts::start_all(bed, options, base, keeper)?;
        step.lap(bed, "hosts")?;
    }
    if options.kwok {
        control::start_kwok(bed, &tools)?;
        step.lap(bed, "kwok")?;
    }
    if options.join && options.hosts > 0 {
        hosts::join_all(bed)?;
        step.lap(bed, "join")?;
    }
    bed.took_ms.insert("total".to_owned(), begun.elapsed().as_millis() as u64);
    bed.save()
}

struct Stopwatch(Instant);

impl Stopwatch {
    fn lap(&mut self, bed: &mut Testbed, name: &str) -> Result<()> {
        bed.took_ms.insert(name.to_owned(), self.0.elapsed().as_millis() as u64);
        self.0 = Instant::now();
        bed.save()
    }
}

/// Stops everything that `up` recorded and waits until it is gone. Nothing running is success.
pub fn down(dir: &Path) -> Result<()> {
    let dir = std::path::absolute(dir).context("state directory")?;
    if !dir.join(STATE_FILE).exists() {
        return Ok(());
    }
    stop_all(&load(&dir)?)
}

fn stop_all(bed: &Testbed) -> Result<()> {
    real::stop_all(bed)?;
    for host in &bed.hosts {
        host.stop()?;
    }
    // Clients first, so that their logs do not fill with refused connections.
    for process in bed.processes.iter().rev() {
        process.signal("TERM")?;
    }
    for process in bed.processes.iter().rev() {
        // The API server drains its watches on SIGTERM; there is nothing here to be saved.
        process.stop(Duration::from_millis(1500))?;
    }
    real::remove_leftovers(&bed.state_dir)?;
    for old in THROWN_AWAY {
        remove(&bed.state_dir.join(old))?;
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    let gone = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match gone {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The bed that runs from this state directory.
pub fn load(dir: &Path) -> Result<Testbed> {
    let path = dir.join(STATE_FILE);
    let text = fs::read_to_string(&path)
        .with_context(|| format!("no test bed in {}: {}", dir.display(), path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))
}

/// Asks every process and the API server.
pub fn status(dir: &Path) -> Result<Status> {
    let bed = load(&std::path::absolute(dir).context("state directory")?)?;
    let processes = bed.all_processes().map(|p| (p.name.clone(), p.alive())).collect();
    let ready = bed.kubectl(&["get", "--raw", "/readyz"]).is_ok();
    let nodes = if ready { bed.ready_nodes()? } else { BTreeMap::new() };
    Ok(Status { api_server_ready: ready, processes, nodes })
}

impl Testbed {
    pub(crate) fn save(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(self.state_dir.join(STATE_FILE), text).context("record the state of the bed")
    }

    fn all_processes(&self) -> impl Iterator<Item = &Process> {
        self.processes
            .iter()
            .chain(self.hosts.iter().map(|host| &host.init))
            .chain(self.real_nodes.iter().filter_map(|node| node.holder.as_ref()))
    }

    /// Runs kubectl as `admin`; its stdout.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl_as("admin", arguments, b"")
    }

    /// Runs kubectl as another user of the bed, with text on stdin (for `-f -`).
    pub fn kubectl_as(&self, user: &str, arguments: &[&str], input: &[u8]) -> Result<String> {
        let config = self.kubeconfigs.get(user).with_context(|| format!("no user {user}"))?;
        let mut command = Command::new(&self.kubectl);
        // No plug-ins, caches or settings of the person who runs the tests.
        command.env("HOME", &self.state_dir).env_remove("KUBECONFIG");
        command.arg("--kubeconfig").arg(config).args(arguments);
        run::output_with_input(&mut command, input, Duration::from_mins(1))
    }

    /// By Node, the status of its Ready condition (`Unknown` when it has none).
    pub fn ready_nodes(&self) -> Result<BTreeMap<String, String>> {
        let list: serde_json::Value =
            serde_json::from_str(&self.kubectl(&["get", "--raw", "/api/v1/nodes"])?)?;
        let mut found = BTreeMap::new();
        for node in list["items"].as_array().into_iter().flatten() {
            let name = node["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let ready = node["status"]["conditions"].as_array().into_iter().flatten();
            let mut ready = ready.filter(|each| each["type"] == "Ready");
            let ready = ready.find_map(|each| each["status"].as_str());
            found.insert(name, ready.unwrap_or("Unknown").to_owned());
        }
        Ok(found)
    }

    /// Waits until the Node's Ready condition has this status.
    pub fn wait_node(&self, node: &str, status: &str, limit: Duration) -> Result<()> {
        wait_for(&format!("Ready={status} of {node}"), limit, || {
            let nodes = self.ready_nodes()?;
            Ok((nodes.get(node).map(String::as_str) == Some(status)).then_some(()))
        })
    }

    /// Switches a host off: everything on it dies, its files stay.
    pub fn stop_host(&self, number: u8) -> Result<()> {
        self.host(number)?.stop()
    }

    /// Switches a stopped host on again.
    pub fn start_host(&mut self, number: u8) -> Result<()> {
        self.change_host(number, Host::start)
    }

    /// Gives a host a fresh disk: same machine id, new host key, nothing installed.
    pub fn wipe_host(&mut self, number: u8) -> Result<()> {
        self.change_host(number, Host::wipe)
    }

    /// What changes a host's process is recorded at once, or `down` would miss it.
    fn change_host(&mut self, number: u8, change: fn(&mut Host) -> Result<()>) -> Result<()> {
        let host = self.hosts.iter_mut().find(|host| host.number == number);
        let changed = change(host.with_context(|| format!("the bed has no host {number}"))?);
        self.save()?;
        changed
    }

    /// The real node with this number (from 1).
    pub fn real_node(&self, number: u8) -> Result<&RealNode> {
        let found = self.real_nodes.iter().find(|node| node.number == number);
        found.with_context(|| format!("the bed has no real node {number}"))
    }

    /// Cuts a real node's power: everything on it dies, its files stay.
    pub fn stop_real_node(&mut self, number: u8) -> Result<()> {
        self.change_real_node(number, RealNode::stop)
    }

    /// Boots a stopped real node again.
    pub fn start_real_node(&mut self, number: u8) -> Result<()> {
        self.change_real_node(number, RealNode::boot)
    }

    /// Gives a real node a fresh disk, as a reinstall does: same machine id, new host key.
    pub fn wipe_real_node(&mut self, number: u8) -> Result<()> {
        let key = self.ssh.public_key.clone();
        self.change_real_node(number, |node| node.wipe(&key))
    }

    fn change_real_node(
        &mut self,
        number: u8,
        change: impl FnOnce(&mut RealNode) -> Result<()>,
    ) -> Result<()> {
        let node = self.real_nodes.iter_mut().find(|n| n.number == number);
        let changed = change(node.with_context(|| format!("the bed has no real node {number}"))?);
        self.save()?;
        changed
    }

    /// The host with this number (from 1).
    pub fn host(&self, number: u8) -> Result<&Host> {
        let found = self.hosts.iter().find(|host| host.number == number);
        found.with_context(|| format!("the bed has no host {number}"))
    }
}

/// A file of the workspace's `testbed` folder.
pub(crate) fn source(path: &str) -> PathBuf {
    workspace_root().join("testbed").join(path)
}
