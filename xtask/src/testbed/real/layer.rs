//! What real nodes have besides their base system: the Kubernetes binaries, the units and settings
//! of `testbed/node/layer`, and two container images, made here because there is no registry.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::super::source;
use crate::gobuild;
use crate::run;

const COPY_LIMIT: Duration = Duration::from_mins(2);

/// Units of the base that a node in a test has no use for.
const MASKED: [&str; 7] = [
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "console-getty.service",
];

/// Commands of busybox that images offer by name.
const APPLETS: [&str; 12] = [
    "sh", "sleep", "httpd", "wget", "cat", "echo", "true", "false", "ls", "ps", "hostname", "kill",
];

/// Holds a pod's namespaces. It must end on SIGTERM like the real one, or the reboot of a node with
/// pods waits 90 s for it.
const PAUSE: &str = "trap 'exit 0' TERM INT; while :; do sleep 2147483647 & wait $!; done";

/// The pods' image: ends on SIGTERM, and serves its /etc (its host name among others) on port 8080.
const APP: &str = "trap 'exit 0' TERM; httpd -p 8080 -h /etc; while :; do sleep 1 & wait $!; done";

/// Names of the images, by what they are for: `pause` and `app`.
pub fn images() -> BTreeMap<String, String> {
    ["pause", "app"].map(|name| (name.to_owned(), image(name))).into()
}

fn image(name: &str) -> String {
    format!("testbed.local/{name}:1")
}

/// Makes the layer of a bed in its state directory.
pub fn make(state_dir: &Path, base: &Path) -> Result<PathBuf> {
    let layer = state_dir.join("layer");
    fs::create_dir_all(&layer)?;
    let mut copy = Command::new("cp");
    copy.args(["-R", "--no-preserve=ownership", "-T"]).arg(source("node/layer"));
    run::output(copy.arg(&layer), COPY_LIMIT).context("copy the units")?;
    add_binaries(&layer)?;
    let units = layer.join("etc/systemd/system");
    let wanted = units.join("multi-user.target.wants");
    fs::create_dir_all(&wanted)?;
    symlink("../kubelet.service", wanted.join("kubelet.service")).context("enable kubelet")?;
    for unit in MASKED {
        symlink("/dev/null", units.join(unit)).with_context(|| format!("mask {unit}"))?;
    }
    let images = layer.join("usr/lib/testbed/images");
    fs::create_dir_all(&images)?;
    let root = state_dir.join("nodes/image");
    add_images(&images, &root, base)?;
    Ok(layer)
}

fn add_binaries(layer: &Path) -> Result<()> {
    let built = gobuild::build("kubernetes")?;
    let bin = layer.join("usr/bin");
    fs::create_dir_all(&bin)?;
    let to = bin.join("kubernetes");
    // 200 MB: copied only where the state directory lies on another file system.
    if fs::hard_link(&built, &to).is_err() {
        fs::copy(&built, &to).context("copy the Kubernetes binary")?;
    }
    for command in ["kubelet", "kubeadm", "kubectl"] {
        symlink("kubernetes", bin.join(command)).with_context(|| format!("link {command}"))?;
    }
    Ok(())
}

fn add_images(images: &Path, root: &Path, base: &Path) -> Result<()> {
    for dir in ["bin", "etc", "tmp", "proc", "sys", "dev"] {
        fs::create_dir_all(root.join("root").join(dir))?;
    }
    let bin = root.join("root/bin");
    fs::copy(base.join("usr/bin/busybox"), bin.join("busybox")).context("copy busybox")?;
    for applet in APPLETS {
        symlink("busybox", bin.join(applet)).with_context(|| format!("link {applet}"))?;
    }
    tar(&root.join("layer.tar"), &root.join("root"), &["."])?;
    let layer = fs::read(root.join("layer.tar"))?;
    let layer = hex::encode(Sha256::digest(&layer));
    add_image(images, root, &layer, "pause", &["/bin/sh", "-c", PAUSE])?;
    add_image(images, root, &layer, "app", &["/bin/sh", "-c", APP])
}

/// One image as a docker archive: `testbed.local/<name>:1`.
fn add_image(images: &Path, root: &Path, layer: &str, name: &str, command: &[&str]) -> Result<()> {
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": command},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]},
        "history": [],
    });
    let config = config.to_string();
    let file = format!("{}.json", hex::encode(Sha256::digest(config.as_bytes())));
    fs::write(root.join(&file), config)?;
    let manifest = json!([{
        "Config": file, "RepoTags": [image(name)], "Layers": ["layer.tar"],
    }]);
    fs::write(root.join("manifest.json"), manifest.to_string())?;
    let archive = images.join(format!("{name}.tar"));
    tar(&archive, root, &["manifest.json", &file, "layer.tar"])
}

fn tar(to: &Path, from: &Path, what: &[&str]) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0"]);
    tar.args(["--numeric-owner", "-cf"]).arg(to);
    run::output(tar.arg("-C").arg(from).args(what), COPY_LIMIT)?;
    Ok(())
}
