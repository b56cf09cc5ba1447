//! Test hosts: an sshd each, in mount, process, name and message namespaces of its own, on an
//! overlay over the shared base. Reachable at their own loopback address.
//!
//! They are weakly isolated: root on a host is root, and the network is this machine's.

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{HOST_LABEL, Options, Ssh, Testbed, source};
use crate::gobuild;
use crate::run::{self, Process, children, spawn, wait_for};

/// A host starts in half a second; twenty at once in two.
const BOOT_LIMIT: Duration = Duration::from_secs(20);
/// The Node is made, its lease renewed and its taint removed within two seconds.
const JOIN_LIMIT: Duration = Duration::from_secs(30);

/// One host and the Node it stands for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Host {
    pub number: u8,
    pub node: String,
    pub address: String,
    pub port: u16,
    /// `/etc/machine-id` of the host, `machineID` and `systemUUID` of its Node.
    pub machine_id: String,
    /// Its public host key, `ssh-ed25519 AAAA... name`.
    pub host_key: String,
    /// The files that this host changed or added, seen from outside.
    pub files: PathBuf,
    /// Cluster recipe, paths on the host.
    pub install_script: String,
    pub teardown_script: String,
    /// PID 1 of the host. Its parent dies with it.
    pub init: Process,
    /// The process outside that holds the namespaces.
    pub holder: Process,
    dir: PathBuf,
    base: PathBuf,
}

/// The binary that renews a host's Lease.
pub fn keeper() -> Result<PathBuf> {
    gobuild::build("leasekeeper")
}

/// Starts all hosts at once and waits until each offers SSH.
pub fn start_all(bed: &mut Testbed, options: &Options, base: &Path, keeper: &Path) -> Result<()> {
    let bed_now = &*bed;
    let booted = at_once((1..=options.hosts).collect(), |number: u8| {
        furnish(bed_now, options, number, keeper)
            .and_then(|dir| boot(options, number, dir, base))
            .with_context(|| format!("host {number}"))
    });
    let mut first_error = None;
    for host in booted {
        match host {
            Ok(host) => bed.hosts.push(host),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    bed.save()?;
    first_error.map_or(Ok(()), Err)
}

/// Runs `job` for every item in a thread of its own; answers in the order of the items.
pub(super) fn at_once<T: Send, R: Send>(
    items: Vec<T>,
    job: impl Fn(T) -> Result<R> + Sync,
) -> Vec<Result<R>> {
    thread::scope(|scope| {
        let job = &job;
        let running: Vec<_> =
            items.into_iter().map(|item| scope.spawn(move || job(item))).collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked"))))
            .collect()
    })
}

/// Lays out what the host finds at its first boot.
fn furnish(bed: &Testbed, options: &Options, number: u8, keeper: &Path) -> Result<PathBuf> {
    let dir = bed.state_dir.join("hosts").join(number.to_string());
    let opt = dir.join("opt");
    fs::create_dir_all(&opt)?;
    fs::copy(keeper, opt.join("leasekeeper"))?;
    fs::copy(bed.state_dir.join("secrets/ca.crt"), opt.join("ca.crt"))?;
    for script in ["install.sh", "teardown.sh"] {
        let to = opt.join(script);
        fs::copy(source("host").join(script), &to).with_context(|| format!("copy {script}"))?;
        run::output(Command::new("chmod").arg("755").arg(&to), BOOT_LIMIT)?;
    }
    fs::copy(&bed.ssh.public_key, dir.join("authorized_keys"))?;
    let random = fs::read_to_string("/proc/sys/kernel/random/uuid").context("random uuid")?;
    fs::write(dir.join("machine-id"), random.replace('-', ""))?;
    let settings = json!({
        "server": bed.server,
        "caFile": "/opt/testbed/ca.crt",
        "token": token_of(bed, "hosts")?,
        "node": node_name(number),
        "internalIP": format!("{}.{number}", options.host_net),
        "labels": {
            HOST_LABEL: number.to_string(),
            "kubernetes.io/hostname": node_name(number),
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
        },
        "cpu": "8", "memory": "16Gi", "pods": "110",
        "kubeVersion": "v1.36.3",
    });
    fs::write(opt.join("leasekeeper.json"), format!("{settings:#}\n"))?;
    Ok(dir)
}

fn node_name(number: u8) -> String {
    format!("node-{number}")
}

fn token_of(bed: &Testbed, actor: &str) -> Result<String> {
    let path = bed.kubeconfigs.get(actor).with_context(|| format!("no user {actor}"))?;
    let config: serde_json::Value = serde_json::from_str(&fs::read_to_string(path)?)?;
    let token = config["users"][0]["user"]["token"].as_str();
    Ok(token.context("the kubeconfig holds no token")?.to_owned())
}

fn boot(options: &Options, number: u8, dir: PathBuf, base: &Path) -> Result<Host> {
    let address = format!("{}.{number}", options.host_net);
    let at: SocketAddr = format!("{address}:{}", options.ssh_port)
        .parse()
        .with_context(|| format!("{address} is no address; --host-net takes three numbers"))?;
    drop(TcpListener::bind(at).with_context(|| {
        format!("{at} is taken or not ours to take; --host-net or --ssh-port choose another")
    })?);
    let machine_id = fs::read_to_string(dir.join("machine-id"))?.trim().to_owned();
    let (holder, init) = hold(&dir, base, number, &address, options.ssh_port)?;
    let mut host = Host {
        number,
        node: node_name(number),
        address,
        port: options.ssh_port,
        machine_id,
        host_key: String::new(),
        files: dir.join("upper"),
        install_script: "/opt/testbed/install.sh".to_owned(),
        teardown_script: "/opt/testbed/teardown.sh".to_owned(),
        init,
        holder,
        dir,
        base: base.to_path_buf(),
    };
    if let Err(error) = host.wait_ssh() {
        host.stop()?;
        return Err(error);
    }
    host.read_key()?;
    Ok(host)
}

/// Makes the namespaces and PID 1 in them; the holder outside and PID 1 as seen from outside.
fn hold(
    dir: &Path,
    base: &Path,
    number: u8,
    address: &str,
    port: u16,
) -> Result<(Process, Process)> {
    let mut flags: Vec<String> = ["--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"]
        .map(str::to_owned)
        .to_vec();
    flags.extend(["--propagation".to_owned(), "private".to_owned(), "sh".to_owned()]);
    flags.push(source("host/init.sh").display().to_string());
    flags.extend([dir.display().to_string(), base.display().to_string()]);
    flags.extend([node_name(number), address.to_owned(), port.to_string()]);
    let log = dir.join("console.log");
    let holder = spawn(&format!("host-{number}"), Path::new("unshare"), &flags, &log)?;
    let init = wait_for(&format!("PID 1 of host {number}"), BOOT_LIMIT, || {
        if !holder.alive() {
            anyhow::bail!("it ended: {}", fs::read_to_string(&log)?.trim());
        }
        children(holder.pid).first().map(|pid| Process::of("init", *pid)).transpose()
    });
    match init {
        Ok(mut init) => {
            init.name = format!("host-{number}");
            Ok((holder, init))
        }
        Err(error) => {
            holder.stop(Duration::from_millis(100))?;
            Err(error)
        }
    }
}

impl Host {
    /// Waits until sshd greets.
    pub fn wait_ssh(&self) -> Result<()> {
        let at: SocketAddr = format!("{}:{}", self.address, self.port).parse()?;
        wait_for(&format!("SSH on {at}"), BOOT_LIMIT, || {
            if !self.init.alive() {
                let words = fs::read_to_string(self.dir.join("console.log")).unwrap_or_default();
                anyhow::bail!("the host ended: {}", words.trim());
            }
            Ok(greets(&at)?.then_some(()))
        })
    }

    fn read_key(&mut self) -> Result<()> {
        let path = self.files.join("etc/ssh/ssh_host_ed25519_key.pub");
        self.host_key = fs::read_to_string(&path).context("host key")?.trim().to_owned();
        Ok(())
    }

    /// Kills PID 1, and with it everything on the host; waits until it is gone. Files stay.
    pub(super) fn stop(&self) -> Result<()> {
        self.init.signal("KILL")?;
        self.init.wait_gone(BOOT_LIMIT)?;
        if self.holder.wait_gone(Duration::from_secs(2)).is_err() {
            self.holder.stop(Duration::from_millis(100))?;
        }
        Ok(())
    }

    /// Starts a stopped host again with its files, as after a power cycle.
    pub(super) fn start(&mut self) -> Result<()> {
        let (holder, init) = hold(&self.dir, &self.base, self.number, &self.address, self.port)?;
        (self.holder, self.init) = (holder, init);
        self.wait_ssh()?;
        self.read_key()
    }

    /// Throws away everything the host wrote and starts it: same machine id, new host key.
    pub(super) fn wipe(&mut self) -> Result<()> {
        self.stop()?;
        for part in ["upper", "scratch"] {
            super::remove(&self.dir.join(part))?;
        }
        self.start()
    }

    /// Runs a shell command on the host without SSH.
    pub fn run(&self, script: &str) -> Result<String> {
        let mut enter = Command::new("nsenter");
        enter.args(["--target", &self.init.pid.to_string(), "--mount", "--pid", "--uts", "--ipc"]);
        enter.args(["--root", "--wd=/", "sh", "-c", script]);
        run::output(&mut enter, Duration::from_mins(1))
    }

    /// Runs a command over SSH with the bed's key, checking the host key.
    pub fn ssh(&self, ssh: &Ssh, command: &str) -> Result<String> {
        let known = self.dir.join("known_hosts");
        let at = (self.address.as_str(), self.port);
        ssh_run(ssh, at, &self.host_key, &known, command, Duration::from_mins(1))
    }
}

/// One command over SSH: to this address and port, which must show this host key. `known` is where
/// the client may note it.
pub(super) fn ssh_run(
    ssh: &Ssh,
    (address, port): (&str, u16),
    host_key: &str,
    known: &Path,
    command: &str,
    limit: Duration,
) -> Result<String> {
    let mut words = host_key.split(' ');
    let (kind, key) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    fs::write(known, format!("[{address}]:{port} {kind} {key}\n{address} {kind} {key}\n"))?;
    let mut client = Command::new("ssh");
    client.args(["-F", "none", "-o", "BatchMode=yes"]);
    client.args(["-o", "StrictHostKeyChecking=yes"]);
    client.args(["-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=10"]);
    client.arg("-o").arg(format!("UserKnownHostsFile={}", known.display()));
    client.arg("-i").arg(&ssh.private_key).args(["-p", &port.to_string()]);
    client.arg(format!("{}@{address}", ssh.user)).arg(command);
    run::output(&mut client, limit)
}

/// Whether an SSH server greets at this address.
pub(super) fn greets(at: &SocketAddr) -> Result<bool> {
    let mut stream = TcpStream::connect_timeout(at, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut greeting = [0_u8; 4];
    stream.read_exact(&mut greeting)?;
    Ok(&greeting == b"SSH-")
}

/// Runs the install step on all hosts over SSH and waits until their Nodes are Ready.
pub fn join_all(bed: &Testbed) -> Result<()> {
    let hosts: Vec<&Host> = bed.hosts.iter().collect();
    for joined in at_once(hosts, |host: &Host| host.ssh(&bed.ssh, &host.install_script)) {
        joined?;
    }
    wait_for("all Nodes of hosts to be Ready", JOIN_LIMIT, || {
        let nodes = bed.ready_nodes()?;
        let late: Vec<_> = bed
            .hosts
            .iter()
            .filter(|host| nodes.get(&host.node).map(String::as_str) != Some("True"))
            .map(|host| host.node.as_str())
            .collect();
        if late.is_empty() { Ok(Some(())) } else { anyhow::bail!("not Ready: {}", late.join(" ")) }
    })
}
