//! The root file system that all test hosts share: a minimal Debian with an SSH server, made once.

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
const SUITE: &str = "bookworm";
/// One minute on a good network.
const LIMIT: Duration = Duration::from_mins(15);

/// The directory of the base; makes it when the cache does not hold it. Needs root.
pub fn ensure() -> Result<PathBuf> {
    let recipe = format!("2 {SUITE} minbase {PACKAGES}");
    let key = hex::encode(Sha256::digest(recipe.as_bytes()));
    let dir = cache_dir()
        .join("testbed")
        .join(format!("base-{}", &key[..16]));
    if dir.exists() {
        return Ok(dir);
    }
    if output(Command::new("id").arg("-u"), Duration::from_secs(5))?.trim() != "0" {
        bail!("test hosts need root: namespaces, mounts and port 22");
    }
    install_debootstrap()?;
    let unfinished = dir.with_extension(format!("{}", std::process::id()));
    note(&format!(
        "making the hosts' base system in {}",
        dir.display()
    ));
    fs::create_dir_all(&unfinished).context("create the base directory")?;
    let mut make = Command::new("debootstrap");
    make.args(["--variant=minbase", &format!("--include={PACKAGES}"), SUITE])
        .arg(&unfinished);
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
    output(
        Command::new("sh")
            .args(["-c", clean])
            .current_dir(&unfinished),
        LIMIT,
    )?;
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
        apt.args([
            "install",
            "-y",
            "-qq",
            "--no-install-recommends",
            "debootstrap",
        ]);
        passed(
            apt.env("DEBIAN_FRONTEND", "noninteractive")
                .stdout(std::process::Stdio::null()),
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
