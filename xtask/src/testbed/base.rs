//! The root file systems that test hosts share, made once: a minimal Debian with an SSH server
//! ([`ensure`]), and one with systemd and a container runtime for real nodes ([`ensure_node`]).

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::paths::cache_dir;
use crate::run::{note, output, passed};

/// The SSH server is what the hosts are for; everything else they run is pushed to them.
const PACKAGES: &str = "openssh-server";
/// What a kubeadm node has besides the Kubernetes binaries. systemd-container is not for the node:
/// its systemd-nspawn boots the node, so that this machine needs none. busybox fills the images.
const NODE_PACKAGES: &str = "openssh-server,systemd,systemd-sysv,dbus,iproute2,iptables,kmod,mount,\
    procps,ca-certificates,containerd,runc,containernetworking-plugins,busybox-static,\
    systemd-container";
const SUITE: &str = "bookworm";
/// One minute on a good network.
const LIMIT: Duration = Duration::from_mins(15);

/// The directory of the base; makes it when the cache does not hold it. Needs root.
pub fn ensure() -> Result<PathBuf> {
    ensure_with("base", PACKAGES)
}

/// The directory of the base of real nodes (470 MB); otherwise like [`ensure`].
pub fn ensure_node() -> Result<PathBuf> {
    ensure_with("node-base", NODE_PACKAGES)
}

fn ensure_with(name: &str, packages: &str) -> Result<PathBuf> {
    let recipe = format!("2 {SUITE} minbase {packages}");
    let key = hex::encode(Sha256::digest(recipe.as_bytes()));
    let dir = cache_dir().join("testbed").join(format!("{name}-{}", &key[..16]));
    if dir.exists() {
        return Ok(dir);
    }
    if output(Command::new("id").arg("-u"), Duration::from_secs(5))?.trim() != "0" {
        bail!("test hosts need root: namespaces, mounts and port 22");
    }
    install_debootstrap()?;
    let unfinished = dir.with_extension(format!("{}", std::process::id()));
    note(&format!("making the hosts' base system in {}", dir.display()));
    fs::create_dir_all(&unfinished).context("create the base directory")?;
    let mut make = Command::new("debootstrap");
    make.args(["--variant=minbase", &format!("--include={packages}"), SUITE]).arg(&unfinished);
    if let Ok(mirror) = std::env::var("EVENKEEL_DEBIAN_MIRROR") {
        make.arg(mirror);
    }
    output(&mut make, LIMIT)?;
    for path in ["etc/hostname", "etc/machine-id"] {
        fs::write(unfinished.join(path), "").with_context(|| format!("empty {path}"))?;
    }
    // A copy of this machine's; test hosts look nothing up.
    fs::write(unfinished.join("etc/resolv.conf"), "").context("empty resolv.conf")?;
    let clean = "rm -rf var/cache/apt/* var/lib/apt/lists/* etc/ssh/ssh_host_* usr/share/doc \
                 usr/share/man usr/share/locale";
    output(Command::new("sh").args(["-c", clean]).current_dir(&unfinished), LIMIT)?;
    fs::rename(&unfinished, &dir).context("put the base in its place")?;
    Ok(dir)
}

fn install_debootstrap() -> Result<()> {
    let present = || output(Command::new("debootstrap").arg("--version"), LIMIT).is_ok();
    if present() {
        return Ok(());
    }
    note("installing debootstrap");
    let install = || {
        let mut apt = Command::new("apt-get");
        apt.args(["install", "-y", "-qq", "--no-install-recommends", "debootstrap"]);
        passed(
            apt.env("DEBIAN_FRONTEND", "noninteractive").stdout(std::process::Stdio::null()),
            LIMIT,
        )
    };
    if !install()? {
        passed(Command::new("apt-get").args(["update", "-qq"]), LIMIT)?;
        install()?;
    }
    if !present() {
        bail!("debootstrap is needed: apt-get install debootstrap");
    }
    Ok(())
}
