//! What makes the bed's control plane one that `kubeadm join` accepts: certificates, the kubelets'
//! configuration, `cluster-info` and tokens, made by kubeadm's own phases.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::super::control::words;
use super::super::{Testbed, source};
use super::network::GATEWAY;
use crate::gobuild;
use crate::run::{self, wait_for};

/// What kubeadm's preflight is to ignore: its system verification fails on cgroup v1.
pub const PREFLIGHT_IGNORED: &str = "SystemVerification";
const KUBEADM_LIMIT: Duration = Duration::from_mins(2);
/// Half a second on an idle machine.
const SIGN_LIMIT: Duration = Duration::from_mins(1);

/// Before the API server starts: its certificates, in the state directory.
pub fn prepare(bed: &mut Testbed, port: u16) -> Result<()> {
    if let Some(network) = &mut bed.network {
        network.join_endpoint = format!("{GATEWAY}:{port}");
    }
    let template = fs::read_to_string(source("node/kubeadm.yaml")).context("read kubeadm.yaml")?;
    let text = template
        .replace("@ADDRESS@", GATEWAY)
        .replace("@PORT@", &port.to_string())
        .replace("@VERSION@", gobuild::KUBERNETES)
        .replace("@PKI@", &pki(bed).display().to_string());
    fs::write(config(bed), text)?;
    let config = config(bed).display().to_string();
    kubeadm(bed, &["init", "phase", "certs", "all", "--config", &config])?;
    Ok(())
}

fn config(bed: &Testbed) -> PathBuf {
    bed.state_dir.join("secrets/kubeadm.yaml")
}

fn pki(bed: &Testbed) -> PathBuf {
    bed.state_dir.join("secrets/pki")
}

/// The cluster's CA certificate.
pub fn authority(bed: &Testbed) -> PathBuf {
    pki(bed).join("ca.crt")
}

/// What the API server of a cluster with kubelets is told besides.
pub fn api_server_flags(bed: &Testbed) -> Vec<String> {
    let file = |name: &str| pki(bed).join(name).display().to_string();
    words(&[
        // Of the bed's own namespace.
        "--bind-address=0.0.0.0",
        &format!("--advertise-address={GATEWAY}"),
        &format!("--tls-cert-file={}", file("apiserver.crt")),
        &format!("--tls-private-key-file={}", file("apiserver.key")),
        &format!("--client-ca-file={}", file("ca.crt")),
        &format!("--kubelet-client-certificate={}", file("apiserver-kubelet-client.crt")),
        &format!("--kubelet-client-key={}", file("apiserver-kubelet-client.key")),
        // The nodes' names resolve nowhere.
        "--kubelet-preferred-address-types=InternalIP",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--enable-bootstrap-token-auth=true",
        "--allow-privileged=true",
    ])
}

/// What the controller manager is told besides.
pub fn controller_flags(bed: &Testbed) -> Vec<String> {
    let file = |name: &str| pki(bed).join(name).display().to_string();
    words(&[
        "--controllers=*,bootstrap-signer-controller,token-cleaner-controller",
        &format!("--root-ca-file={}", file("ca.crt")),
        &format!("--cluster-signing-cert-file={}", file("ca.crt")),
        &format!("--cluster-signing-key-file={}", file("ca.key")),
        // A kubelet has more to do than a process that only renews a lease, and has two busy cores.
        "--node-monitor-grace-period=8s",
        "--node-startup-grace-period=30s",
    ])
}

/// Once the control plane runs: everything that `kubeadm join` looks for.
pub fn publish(bed: &Testbed) -> Result<()> {
    let config = config(bed).display().to_string();
    let admin = inside_kubeconfig(bed)?.display().to_string();
    for phase in [&["upload-config", "all"][..], &["bootstrap-token"][..]] {
        let mut words = vec!["init", "phase"];
        words.extend(phase);
        words.extend(["--config", &config, "--kubeconfig", &admin]);
        kubeadm(bed, &words)?;
    }
    wait_for("cluster-info to be signed", SIGN_LIMIT, || {
        bed.must_live()?;
        let path = "/api/v1/namespaces/kube-public/configmaps/cluster-info";
        let text = bed.kubectl(&["get", "--raw", path])?;
        Ok(text.contains("jws-kubeconfig-").then_some(()))
    })
}

/// Makes a token that lasts an hour and puts the join command on every node, in the place of the
/// one before.
pub fn renew_token(bed: &Testbed) -> Result<()> {
    let admin = inside_kubeconfig(bed)?.display().to_string();
    let join = kubeadm(
        bed,
        &["token", "create", "--ttl", "1h", "--print-join-command", "--kubeconfig", &admin],
    )?;
    let join = join.trim();
    let mut said = join.split(' ').filter(|word| !word.is_empty());
    let endpoint = said.nth(2).context("the join command names no endpoint")?;
    let mut said = said.skip_while(|word| *word != "--token");
    let token = said.nth(1).context("the join command names no token")?;
    let template = fs::read_to_string(source("node/join.sh")).context("read join.sh")?;
    let text = template
        .replace("@ENDPOINT@", endpoint)
        .replace("@TOKEN@", token)
        .replace("@JOIN@", join)
        .replace("@IGNORED@", PREFLIGHT_IGNORED);
    for node in &bed.real_nodes {
        let opt = node.dir.join("opt");
        fs::copy(authority(bed), opt.join("ca.crt")).context("copy the CA certificate")?;
        let unfinished = opt.join("join.sh.new");
        fs::write(&unfinished, &text)?;
        run::output(Command::new("chmod").arg("700").arg(&unfinished), KUBEADM_LIMIT)?;
        fs::rename(&unfinished, opt.join("join.sh"))?;
    }
    Ok(())
}

/// The admin's kubeconfig with the address that nodes use; kubeadm publishes it to them.
fn inside_kubeconfig(bed: &Testbed) -> Result<PathBuf> {
    let outside = bed.kubeconfigs.get("admin").context("there is no admin yet")?;
    let inside = bed.state_dir.join("secrets/inside.kubeconfig");
    let text =
        fs::read_to_string(outside)?.replace("https://127.0.0.1:", &format!("https://{GATEWAY}:"));
    fs::write(&inside, text)?;
    Ok(inside)
}

fn kubeadm(bed: &Testbed, arguments: &[&str]) -> Result<String> {
    let program = gobuild::build("kubernetes")?.with_file_name("kubeadm");
    let mut command = Command::new(&bed.exec_prefix[0]);
    command.args(&bed.exec_prefix[1..]).arg(program).args(arguments);
    command.env("HOME", &bed.state_dir).env_remove("KUBECONFIG");
    run::output(&mut command, KUBEADM_LIMIT)
}
