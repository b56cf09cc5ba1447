//! Real Kubernetes nodes: hosts that boot systemd (by systemd-nspawn) in a network namespace of
//! their own, with an SSH server, containerd, runc and kubelet, joined by `kubeadm join`.
//!
//! Entry points, called by [`super::up`]: [`prepare`], [`boot_all`], [`join_all`], and [`stop_all`].
//! A node is only as isolated as a root user is: every capability, writable cgroups, the machine's
//! kernel. Absent on purpose: services (no kube-proxy) and names (no CoreDNS). Pods reach each
//! other by address.

mod cgroup;
pub mod cluster;
mod layer;
pub mod network;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use super::hosts::{at_once, greets, ssh_run};
use super::{Options, Ssh, Testbed, source};
use crate::run::{self, Process, spawn, wait_for};
use cgroup::Cgroup;
use network::Network;

/// One node boots in two seconds on an idle machine; three on two cores that also compile, in 20.
const BOOT_LIMIT: Duration = Duration::from_mins(3);
/// A reset cycle takes five seconds on an idle machine. kubeadm itself gives a join four minutes.
const COMMAND_LIMIT: Duration = Duration::from_mins(5);
/// Ready comes within a second of a join.
const READY_LIMIT: Duration = Duration::from_mins(2);

/// One host that is a real node. Its fields say the same as those of a [`super::hosts::Host`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RealNode {
    pub number: u8,
    /// Name of the Node and of the host.
    pub node: String,
    /// Where it answers SSH on this machine's loopback.
    pub address: String,
    pub port: u16,
    /// Its own address, the InternalIP of its Node; reachable behind the bed's `exec_prefix`.
    pub internal_ip: String,
    pub machine_id: String,
    /// Its public host key, `ssh-ed25519 AAAA... name`.
    pub host_key: String,
    /// The files that this host changed or added, seen from outside; without /var/lib/containerd
    /// and /var/lib/kubelet, which lie beside it.
    pub files: PathBuf,
    /// Steps of a reset, paths on the host.
    pub install_script: String,
    pub teardown_script: String,
    /// The process outside that boots it, again after each reboot. None: not started yet.
    pub holder: Option<Process>,
    cgroup: Cgroup,
    netns: PathBuf,
    dir: PathBuf,
    layer: PathBuf,
    base: PathBuf,
}

/// Makes the network, the layer of the nodes and what each finds at its first boot.
pub fn prepare(bed: &mut Testbed, options: &Options, base: &Path) -> Result<()> {
    let network = Network::of(&bed.state_dir, options.real_nodes);
    bed.exec_prefix = network.exec_prefix();
    bed.network = Some(network.clone());
    bed.images = layer::images();
    bed.preflight_ignored = vec![cluster::PREFLIGHT_IGNORED.to_owned()];
    // Names are derived from the state directory, so what fails halfway is found again.
    bed.save()?;
    network.make()?;
    let layer = layer::make(&bed.state_dir, base)?;
    for number in 1..=options.real_nodes {
        let node = furnish(bed, options, &network, number, &layer, base)?;
        bed.real_nodes.push(node);
    }
    bed.save()
}

fn furnish(
    bed: &Testbed,
    options: &Options,
    network: &Network,
    number: u8,
    layer: &Path,
    base: &Path,
) -> Result<RealNode> {
    let dir = bed.state_dir.join("nodes").join(number.to_string());
    let address = format!("{}.{number}", options.real_net);
    format!("{address}:{}", options.ssh_port)
        .parse::<SocketAddr>()
        .with_context(|| format!("{address} is no address; --real-net takes three numbers"))?;
    let opt = dir.join("opt");
    fs::create_dir_all(&opt)?;
    for script in ["install.sh", "teardown.sh"] {
        let to = opt.join(script);
        fs::copy(source("node").join(script), &to).with_context(|| format!("copy {script}"))?;
        run::output(Command::new("chmod").arg("755").arg(&to), BOOT_LIMIT)?;
    }
    let pods = fs::read_to_string(source("node/pods.conflist")).context("read pods.conflist")?;
    fs::write(opt.join("pods.conflist"), pods.replace("@NUMBER@", &number.to_string()))?;
    let random = fs::read_to_string("/proc/sys/kernel/random/uuid").context("random uuid")?;
    let mut node = RealNode {
        number,
        node: format!("node-{number}"),
        address,
        port: options.ssh_port,
        internal_ip: network.node_address(number),
        machine_id: random.trim().replace('-', ""),
        host_key: String::new(),
        files: dir.join("upper"),
        install_script: "/opt/testbed/install.sh".to_owned(),
        teardown_script: "/opt/testbed/teardown.sh".to_owned(),
        holder: None,
        cgroup: Cgroup::named(&network.node_netns(number)),
        netns: network.node_netns_file(number),
        dir,
        layer: layer.to_path_buf(),
        base: base.to_path_buf(),
    };
    node.format_disk(&bed.ssh.public_key)?;
    Ok(node)
}

/// Boots all nodes at once and waits until each offers SSH on this machine's loopback.
pub fn boot_all(bed: &mut Testbed) -> Result<()> {
    let mut nodes = std::mem::take(&mut bed.real_nodes);
    let booted = at_once(nodes.iter_mut().collect(), |node: &mut RealNode| {
        let name = node.node.clone();
        node.boot().with_context(|| format!("boot {name}"))
    });
    bed.real_nodes = nodes;
    bed.save()?;
    booted.into_iter().collect()
}

/// Runs the install step on all nodes over SSH and waits until all are Ready.
pub fn join_all(bed: &Testbed) -> Result<()> {
    let nodes: Vec<&RealNode> = bed.real_nodes.iter().collect();
    for joined in at_once(nodes, |node: &RealNode| {
        let done = node.ssh(&bed.ssh, &node.install_script);
        done.with_context(|| format!("join {}", node.node))
    }) {
        joined?;
    }
    for node in &bed.real_nodes {
        bed.wait_node(&node.node, "True", READY_LIMIT)?;
    }
    Ok(())
}

/// Ends every real node of the bed. Their files stay.
pub fn stop_all(bed: &Testbed) -> Result<()> {
    let stopped = at_once(bed.real_nodes.iter().collect(), |node: &RealNode| node.clone().stop());
    stopped.into_iter().collect()
}

/// Removes cgroups and network namespaces of the bed in this state directory, by their names.
pub fn remove_leftovers(state_dir: &Path) -> Result<()> {
    let network = Network::of(state_dir, 0);
    cgroup::remove_all(network.prefix())?;
    network.remove()
}

impl RealNode {
    /// A new disk with a host key of its own and the bed's key for root.
    fn format_disk(&mut self, authorized: &Path) -> Result<()> {
        for part in ["upper", "scratch", "containerd", "kubelet"] {
            super::remove(&self.dir.join(part))?;
        }
        let upper = self.files.clone();
        for (dir, mode) in [("etc/ssh", "755"), ("root/.ssh", "700")] {
            fs::create_dir_all(upper.join(dir))?;
            let mut chmod = Command::new("chmod");
            run::output(chmod.arg(mode).arg(upper.join(dir)), BOOT_LIMIT)?;
        }
        run::output(Command::new("chmod").arg("700").arg(upper.join("root")), BOOT_LIMIT)?;
        let name = &self.node;
        fs::write(upper.join("etc/hostname"), format!("{name}\n"))?;
        fs::write(upper.join("etc/machine-id"), format!("{}\n", self.machine_id))?;
        fs::write(
            upper.join("etc/hosts"),
            format!("127.0.0.1 localhost\n{} {name}\n", self.internal_ip),
        )?;
        let keys = upper.join("root/.ssh/authorized_keys");
        fs::copy(authorized, &keys).context("copy the bed's public key")?;
        run::output(Command::new("chmod").arg("600").arg(&keys), BOOT_LIMIT)?;
        let key = upper.join("etc/ssh/ssh_host_ed25519_key");
        run::output(
            Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"])
                .arg(&key),
            Duration::from_secs(20),
        )?;
        self.host_key =
            fs::read_to_string(key.with_extension("pub")).context("host key")?.trim().to_owned();
        Ok(())
    }

    /// Switches it on and waits for SSH.
    pub(super) fn boot(&mut self) -> Result<()> {
        let groups = self.cgroup.make()?;
        let mut words = vec![
            "--mount".to_owned(),
            "--propagation".to_owned(),
            "private".to_owned(),
            "sh".to_owned(),
            source("node/boot.sh").display().to_string(),
        ];
        for path in [&self.dir, &self.layer, &self.base] {
            words.push(path.display().to_string());
        }
        words.push(self.node.clone());
        words.push(self.netns.display().to_string());
        words.extend(groups.iter().map(|group| group.display().to_string()));
        let holder = spawn(&self.node, Path::new("unshare"), &words, &self.console())?;
        self.holder = Some(holder);
        self.wait_ssh()
    }

    fn console(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// Waits until sshd greets through the relay.
    pub fn wait_ssh(&self) -> Result<()> {
        let at: SocketAddr = format!("{}:{}", self.address, self.port).parse()?;
        let running = wait_for(&format!("SSH on {at}"), BOOT_LIMIT, || {
            if !self.holder.as_ref().is_some_and(Process::alive) {
                return Ok(Some(false));
            }
            Ok(greets(&at)?.then_some(true))
        })?;
        if !running {
            let words = fs::read_to_string(self.console()).unwrap_or_default();
            let tail: Vec<&str> = words.lines().rev().take(5).collect();
            bail!("the host ended; its last words, newest first: {tail:?}");
        }
        Ok(())
    }

    /// Kills everything in it, as a cut power line does; waits until it is gone. Files stay.
    pub(super) fn stop(&mut self) -> Result<()> {
        self.cgroup.kill(BOOT_LIMIT)?;
        if let Some(holder) = &self.holder {
            // It may have been killed before it entered the cgroup.
            holder.stop(Duration::from_millis(100))?;
        }
        self.cgroup.remove()?;
        network::clear(&self.netns)?;
        self.holder = None;
        Ok(())
    }

    /// Stops it, gives it a fresh disk and boots it.
    pub(super) fn wipe(&mut self, authorized: &Path) -> Result<()> {
        self.stop()?;
        self.format_disk(authorized)?;
        self.boot()
    }

    /// Ids of all processes of the node, containers included, as this machine numbers them.
    pub fn processes(&self) -> Result<Vec<u32>> {
        self.cgroup.processes()
    }

    /// Runs a command over SSH with the bed's key, checking the host key.
    pub fn ssh(&self, ssh: &Ssh, command: &str) -> Result<String> {
        let at = (self.address.as_str(), self.port);
        let known = self.dir.join("known_hosts");
        ssh_run(ssh, at, &self.host_key, &known, command, COMMAND_LIMIT)
    }

    /// The bytes of memory that are this node's own: its share of every page its processes use.
    pub fn memory(&self) -> Result<u64> {
        let mut sum = 0;
        for pid in self.processes()? {
            // A process that has just ended counts for nothing.
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with("Pss:"));
            let words = line.and_then(|line| line.split_whitespace().nth(1));
            let kib: u64 = words.and_then(|word| word.parse().ok()).unwrap_or(0);
            sum += kib * 1024;
        }
        if sum == 0 {
            return Err(anyhow!("{} has no process with memory", self.node));
        }
        Ok(sum)
    }
}
