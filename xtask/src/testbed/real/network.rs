//! The network of real nodes, all of it inside namespaces that the bed makes: a bridge in the
//! control plane's namespace, a namespace with one address per node, and a route to each node's pods.
//!
//! Nothing of it can be seen from this machine's own namespace. A relay carries what is needed out:
//! the API server's port, and SSH of each node at an address on this machine's loopback.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::super::control::launch_outside;
use super::super::{Options, Testbed};
use crate::gobuild;
use crate::run::{self, wait_for};

/// The control plane's address and the nodes' default gateway.
pub const GATEWAY: &str = "10.78.255.1";
const IP_LIMIT: Duration = Duration::from_secs(30);
const RELAY_LIMIT: Duration = Duration::from_secs(30);
/// Of the state directory's path; two beds at once need different names.
const NAME_DIGITS: usize = 8;

/// Names of the namespaces, derived from the state directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Network {
    /// The control plane's namespace below /run/netns; the nodes' are called `<this>-<number>`.
    pub netns: String,
    /// Where nodes reach the API server, `HOST:PORT`. Empty until its port is chosen.
    pub join_endpoint: String,
    nodes: u8,
}

impl Network {
    pub fn of(state_dir: &Path, nodes: u8) -> Self {
        let digest = hex::encode(Sha256::digest(state_dir.as_os_str().as_encoded_bytes()));
        Self {
            netns: format!("evk{}", &digest[..NAME_DIGITS]),
            join_endpoint: String::new(),
            nodes,
        }
    }

    /// What all names of this network begin with.
    pub fn prefix(&self) -> &str {
        &self.netns
    }

    /// Words before a command that is to run in the control plane's namespace.
    pub fn exec_prefix(&self) -> Vec<String> {
        let file = netns_file(&self.netns);
        vec!["nsenter".to_owned(), format!("--net={}", file.display())]
    }

    pub fn node_netns(&self, number: u8) -> String {
        format!("{}-{number}", self.netns)
    }

    pub fn node_netns_file(&self, number: u8) -> PathBuf {
        netns_file(&self.node_netns(number))
    }

    /// The node's own address.
    pub fn node_address(&self, number: u8) -> String {
        format!("10.78.0.{number}")
    }

    /// Makes the namespaces and connects them.
    pub fn make(&self) -> Result<()> {
        let control = self.netns.as_str();
        ip(&["netns", "add", control])?;
        ip(&["-n", control, "link", "set", "lo", "up"])?;
        ip(&["-n", control, "link", "add", "br0", "type", "bridge"])?;
        let address = format!("{GATEWAY}/16");
        ip(&["-n", control, "addr", "add", &address, "dev", "br0"])?;
        ip(&["-n", control, "link", "set", "br0", "up"])?;
        forward(control)?;
        for number in 1..=self.nodes {
            self.connect(number).with_context(|| format!("network of node {number}"))?;
        }
        Ok(())
    }

    fn connect(&self, number: u8) -> Result<()> {
        let control = self.netns.as_str();
        let (netns, port) = (self.node_netns(number), format!("node{number}"));
        let netns = netns.as_str();
        let own = self.node_address(number);
        let (address, pods) = (format!("{own}/16"), format!("10.88.{number}.0/24"));
        ip(&["netns", "add", netns])?;
        ip(&[
            "-n", control, "link", "add", &port, "type", "veth", "peer", "name", "host0", "netns",
            netns,
        ])?;
        ip(&["-n", control, "link", "set", &port, "master", "br0", "up"])?;
        ip(&["-n", netns, "addr", "add", &address, "dev", "host0"])?;
        ip(&["-n", netns, "link", "set", "host0", "up"])?;
        ip(&["-n", netns, "link", "set", "lo", "up"])?;
        ip(&["-n", netns, "route", "add", "default", "via", GATEWAY])?;
        ip(&["-n", control, "route", "add", &pods, "via", &own])?;
        // kubeadm's preflight asks for it.
        forward(netns)
    }

    /// Removes every namespace of this network that exists.
    pub fn remove(&self) -> Result<()> {
        let listed = ip(&["netns", "list"])?;
        let names = listed.lines().filter_map(|line| line.split(' ').next());
        let of_nodes = format!("{}-", self.netns);
        let mut ours: Vec<&str> =
            names.filter(|name| *name == self.netns || name.starts_with(&of_nodes)).collect();
        // The control plane's last: the other ends of its links go with the nodes' namespaces.
        ours.sort_by_key(|name| std::cmp::Reverse(name.len()));
        for name in ours {
            ip(&["netns", "delete", name])?;
        }
        Ok(())
    }
}

fn netns_file(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

fn ip(words: &[&str]) -> Result<String> {
    let mut command = Command::new("ip");
    run::output(command.args(words), IP_LIMIT)
        .context("real nodes need root and `ip` (apt install iproute2)")
}

fn forward(netns: &str) -> Result<()> {
    let mut set = Command::new("nsenter");
    set.arg(format!("--net={}", netns_file(netns).display()));
    set.args(["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]);
    run::output(&mut set, IP_LIMIT).context("switch forwarding on")?;
    Ok(())
}

/// Removes what pods left in a node's namespace, as a power cut does.
pub fn clear(netns: &Path) -> Result<()> {
    if !netns.exists() {
        return Ok(());
    }
    let name = netns.file_name().unwrap_or_default().to_string_lossy();
    let links = ip(&["-n", &name, "-o", "link", "show"])?;
    for line in links.lines() {
        // "7: veth1a@if2: <...", "2: host0@if5: <..."
        let Some(link) = line.split(": ").nth(1).and_then(|word| word.split('@').next()) else {
            continue;
        };
        if link.starts_with("veth") || link == "cni0" {
            ip(&["-n", &name, "link", "delete", link])?;
        }
    }
    Ok(())
}

/// Starts the relay between this machine's loopback and the bed's network: the API server at the
/// same address and port on both sides, SSH of node N at `<real_net>.N`.
pub fn start_relay(bed: &mut Testbed, port: u16, options: &Options) -> Result<()> {
    let Some(network) = bed.network.clone() else {
        return Ok(());
    };
    let relay = gobuild::build("relay")?;
    let mut words = vec![netns_file(&network.netns).display().to_string()];
    words.push(format!("127.0.0.1:{port}=127.0.0.1:{port}"));
    for node in &bed.real_nodes {
        let (at, ssh) = (&node.address, options.ssh_port);
        words.push(format!("{at}:{ssh}={}:22", node.internal_ip));
    }
    launch_outside(bed, "relay", &relay, &words)?;
    let log = bed.state_dir.join("logs/relay.log");
    wait_for("the relay to listen", RELAY_LIMIT, || {
        bed.must_live()?;
        let text = std::fs::read_to_string(&log)?;
        Ok(text.starts_with("relaying").then_some(()))
    })
}
