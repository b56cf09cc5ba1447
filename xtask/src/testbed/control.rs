//! The control plane: etcd, API server, controller manager, scheduler, and KWOK for the pods.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::kubeconfig::{ACTORS, kubeconfig, write_tokens};
use super::{Options, Testbed, real, source};
use crate::gobuild;
use crate::paths::workspace_root;
use crate::run::{self, note, spawn, wait_for};

/// Ten times what a start takes on two busy cores.
const START_LIMIT: Duration = Duration::from_mins(1);

/// The binaries a bed is made of.
pub struct Tools {
    etcd: PathBuf,
    api_server: PathBuf,
    controller_manager: PathBuf,
    scheduler: PathBuf,
    kwok: Option<PathBuf>,
}

impl Tools {
    /// Finds them installed or builds them. With real nodes all are of one version, the kubelets'.
    pub fn find(kwok: bool, real: bool) -> Result<Self> {
        let tool = |name: &str| {
            if real {
                Ok(gobuild::build("kubernetes")?.with_file_name(name))
            } else {
                gobuild::kubernetes_tool(name)
            }
        };
        Ok(Self {
            etcd: tool("etcd")?,
            api_server: tool("kube-apiserver")?,
            controller_manager: tool("kube-controller-manager")?,
            scheduler: tool("kube-scheduler")?,
            kwok: if kwok { Some(gobuild::build("kwok")?) } else { None },
        })
    }
}

/// Starts the control plane and waits until the API server answers and controllers work.
pub fn start(bed: &mut Testbed, tools: &Tools, options: &Options) -> Result<()> {
    let dir = bed.state_dir.clone();
    let [client, peer, port] = free_ports()?;
    bed.server = format!("https://127.0.0.1:{port}");
    let etcd_url = format!("http://127.0.0.1:{client}");
    let tokens = write_tokens(&dir.join("secrets/tokens.csv"))?;
    run::output(
        Command::new("ssh-keygen")
            .args(["-q", "-t", "ecdsa", "-m", "PEM", "-N", "", "-f"])
            .arg(dir.join("secrets/service-account.key")),
        Duration::from_secs(20),
    )?;
    if bed.network.is_some() {
        real::cluster::prepare(bed, port)?;
    }
    launch(bed, "etcd", &tools.etcd, etcd_flags(&dir, &etcd_url, peer))?;
    let flags = api_server_flags(bed, &etcd_url, port);
    launch(bed, "kube-apiserver", &tools.api_server, flags)?;
    if bed.network.is_some() {
        real::network::start_relay(bed, port, options)?;
    }
    write_kubeconfigs(bed, &tokens)?;
    wait_for("the API server to be ready", START_LIMIT, || {
        bed.must_live()?;
        bed.kubectl(&["get", "--raw", "/readyz"]).map(Some)
    })?;
    let flags = controller_flags(bed, options);
    launch(bed, "kube-controller-manager", &tools.controller_manager, flags)?;
    let flags = scheduler_flags(bed);
    launch(bed, "kube-scheduler", &tools.scheduler, flags)?;
    grant(bed, options)?;
    wait_for("the controller manager to make the default service account", START_LIMIT, || {
        bed.must_live()?;
        let path = "/api/v1/namespaces/default/serviceaccounts/default";
        bed.kubectl(&["get", "--raw", path]).map(Some)
    })?;
    Ok(())
}

/// Starts KWOK. It plays the pods of all nodes, and nodes without a host.
pub fn start_kwok(bed: &mut Testbed, tools: &Tools) -> Result<()> {
    let Some(kwok) = &tools.kwok else {
        return Ok(());
    };
    let flags = words(&[
        &format!("--kubeconfig={}", bed.kubeconfigs["kwok"].display()),
        &format!("--config={}", source("cluster/stages.yaml").display()),
        "--manage-all-nodes=true",
        // No leases at all: a lease kept by KWOK would make a dead host look alive.
        "--node-lease-duration-seconds=0",
        "--node-ip=127.0.0.1",
        "--cidr=10.98.0.0/16",
    ]);
    launch(bed, "kwok", kwok, flags)?;
    let log = bed.state_dir.join("logs/kwok.log");
    wait_for("KWOK to watch the cluster", START_LIMIT, || {
        bed.must_live()?;
        Ok((fs::metadata(&log)?.len() > 0).then_some(()))
    })
}

/// Starts a process of the bed: in the bed's network namespace when it has one.
fn launch(bed: &mut Testbed, name: &str, program: &Path, flags: Vec<String>) -> Result<()> {
    let mut words = bed.exec_prefix.clone();
    words.push(program.display().to_string());
    words.extend(flags);
    launch_outside(bed, name, Path::new(&words[0]), &words[1..])
}

/// Starts a process of the bed where this program runs.
pub(super) fn launch_outside(
    bed: &mut Testbed,
    name: &str,
    program: &Path,
    flags: &[String],
) -> Result<()> {
    let log = bed.state_dir.join("logs").join(format!("{name}.log"));
    bed.processes.push(spawn(name, program, flags, &log)?);
    // Recorded at once: what is started must be found by `down` whatever happens next.
    bed.save()
}

impl Testbed {
    /// Fails with the end of its log when a process of the control plane has ended.
    pub(super) fn must_live(&self) -> Result<()> {
        if let Some(process) = self.processes.iter().find(|process| !process.alive()) {
            let log = self.state_dir.join("logs").join(format!("{}.log", process.name));
            let text = fs::read_to_string(&log).unwrap_or_default();
            let tail: Vec<&str> = text.lines().rev().take(3).collect();
            bail!("{} has ended: {}", process.name, tail.join(" | "));
        }
        Ok(())
    }
}

fn free_ports() -> Result<[u16; 3]> {
    let open = || TcpListener::bind("127.0.0.1:0").context("find a free port");
    // All three are held at once, so that they differ.
    let held = [open()?, open()?, open()?];
    let port = |n: usize| -> Result<u16> { Ok(held[n].local_addr()?.port()) };
    Ok([port(0)?, port(1)?, port(2)?])
}

pub(super) fn words(flags: &[&str]) -> Vec<String> {
    flags.iter().map(|flag| (*flag).to_owned()).collect()
}

fn etcd_flags(dir: &Path, url: &str, peer: u16) -> Vec<String> {
    let peer = format!("http://127.0.0.1:{peer}");
    words(&[
        "--name=testbed",
        &format!("--data-dir={}", dir.join("etcd").display()),
        &format!("--listen-client-urls={url}"),
        &format!("--advertise-client-urls={url}"),
        &format!("--listen-peer-urls={peer}"),
        &format!("--initial-advertise-peer-urls={peer}"),
        &format!("--initial-cluster=testbed={peer}"),
        // The data is thrown away with the bed.
        "--unsafe-no-fsync",
        "--log-level=warn",
    ])
}

fn api_server_flags(bed: &Testbed, etcd: &str, port: u16) -> Vec<String> {
    let dir = &bed.state_dir;
    let key = dir.join("secrets/service-account.key");
    let mut flags = words(&[
        &format!("--etcd-servers={etcd}"),
        &format!("--secure-port={port}"),
        &format!("--token-auth-file={}", dir.join("secrets/tokens.csv").display()),
        "--service-account-issuer=https://kubernetes.default.svc",
        &format!("--service-account-key-file={}", key.display()),
        &format!("--service-account-signing-key-file={}", key.display()),
        "--service-cluster-ip-range=10.99.0.0/24",
        "--endpoint-reconciler-type=none",
        // Played pods need no tokens, and bare pods can be made before the controllers are up.
        "--disable-admission-plugins=ServiceAccount",
        &format!("--audit-policy-file={}", source("cluster/audit-policy.yaml").display()),
        &format!("--audit-log-path={}", bed.audit_log.display()),
        // Nothing is answered before it is in the log, so the log is proof.
        "--audit-log-mode=blocking-strict",
    ]);
    if bed.network.is_some() {
        flags.extend(real::cluster::api_server_flags(bed));
    } else {
        flags.extend(words(&[
            "--bind-address=127.0.0.1",
            &format!("--cert-dir={}", dir.join("certs").display()),
            "--authorization-mode=RBAC",
        ]));
    }
    flags
}

fn controller_flags(bed: &Testbed, options: &Options) -> Vec<String> {
    let dir = &bed.state_dir;
    let mut flags = words(&[
        &format!("--kubeconfig={}", bed.kubeconfigs["controller"].display()),
        "--leader-elect=false",
        "--secure-port=0",
        // The defaults throttle a scenario of 200 nodes.
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
        &format!(
            "--service-account-private-key-file={}",
            dir.join("secrets/service-account.key").display()
        ),
        "--node-monitor-period=1s",
        &format!("--node-monitor-grace-period={}s", options.node_grace.as_secs()),
        &format!("--node-startup-grace-period={}s", options.node_grace.as_secs() * 2),
    ]);
    if bed.network.is_some() {
        // The last one of a name counts.
        flags.extend(real::cluster::controller_flags(bed));
    }
    flags
}

fn scheduler_flags(bed: &Testbed) -> Vec<String> {
    words(&[
        &format!("--kubeconfig={}", bed.kubeconfigs["scheduler"].display()),
        "--leader-elect=false",
        "--secure-port=0",
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
    ])
}

fn write_kubeconfigs(bed: &mut Testbed, tokens: &[String]) -> Result<()> {
    let made = if bed.network.is_some() {
        real::cluster::authority(bed)
    } else {
        bed.state_dir.join("certs/apiserver.crt")
    };
    // The self-signed certificate is followed by its authority in the same file.
    let ca = wait_for("the API server to make its certificate", START_LIMIT, || {
        bed.must_live()?;
        let text = fs::read(&made)?;
        Ok(text.ends_with(b"-----END CERTIFICATE-----\n").then_some(text))
    })?;
    fs::write(bed.state_dir.join("secrets/ca.crt"), &ca)?;
    for ((name, user, _), token) in ACTORS.iter().zip(tokens) {
        let path = bed.state_dir.join("secrets").join(format!("{name}.kubeconfig"));
        fs::write(&path, kubeconfig(&bed.server, &ca, user, token))?;
        bed.kubeconfigs.insert((*name).to_owned(), path);
    }
    bed.save()
}

fn grant(bed: &Testbed, options: &Options) -> Result<()> {
    let shipped = workspace_root().join("deploy/rbac.yaml");
    let role = match &options.evenkeel_role {
        Some(given) => Some(given.clone()),
        None if shipped.exists() => Some(shipped),
        None => {
            note("no deploy/rbac.yaml: the user evenkeel has no rights (--evenkeel-role)");
            None
        }
    };
    let mut files = vec![source("cluster/rbac.yaml")];
    files.extend(role);
    if bed.network.is_some() {
        files.push(workspace_root().join("deploy/rbac-kubeadm.yaml"));
        files.push(source("cluster/rbac-kubeadm.yaml"));
    }
    for file in files {
        let text = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        bed.kubectl_as("admin", &["create", "--validate=false", "-f", "-"], &text)?;
    }
    Ok(())
}
