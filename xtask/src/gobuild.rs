//! The Go modules of the test bed, built once into the cache.
//!
//! The cache key is the module's own text, so a changed version builds anew and an unchanged one is
//! found at once. Binaries that are already installed are preferred by [`kubernetes_tool`].

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::paths::{cache_dir, workspace_root};
use crate::run::{note, output, passed};

/// Cold, the control plane takes 6 to 9 minutes on two cores.
const BUILD_LIMIT: Duration = Duration::from_mins(40);
/// Oldest control plane that the end-to-end tests are meant for.
const OLDEST_MINOR: u32 = 34;
/// What `testbed/kubernetes` is built from.
pub const KUBERNETES: &str = "v1.36.3";

/// The modules under `testbed/`, each one binary of the same name.
pub const MODULES: [&str; 4] = ["kubernetes", "kwok", "leasekeeper", "relay"];

/// The commands inside the binary `kubernetes`.
const COMMANDS: [&str; 7] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubectl",
    "kubelet",
    "kubeadm",
];

/// The built binary of a module; builds it when the cache does not hold it.
pub fn build(module: &str) -> Result<PathBuf> {
    let source = workspace_root().join("testbed").join(module);
    let dir = cache_dir().join("testbed").join(format!("{module}-{}", key(&source)?));
    let binary = dir.join(module);
    if !binary.exists() {
        compile(module, &source, &dir)?;
    }
    if module == "kubernetes" {
        for command in COMMANDS {
            let link = dir.join(command);
            if fs::symlink_metadata(&link).is_err() {
                std::os::unix::fs::symlink(module, &link)
                    .with_context(|| format!("link {}", link.display()))?;
            }
        }
    }
    Ok(binary)
}

fn key(source: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    for name in ["go.mod", "go.sum", "main.go"] {
        let path = source.join(name);
        match fs::read(&path) {
            Ok(text) => hash.update(&text),
            // A module without dependencies has no go.sum.
            Err(_) if name == "go.sum" => {}
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        }
        hash.update([0]);
    }
    Ok(hex::encode(hash.finalize())[..16].to_owned())
}

fn compile(module: &str, source: &Path, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    note(&format!("building testbed/{module} into {}", dir.display()));
    let start = Instant::now();
    let unfinished = dir.join(format!(".{module}.{}", std::process::id()));
    let mut stamp = String::from("-s -w");
    if module == "kubernetes" {
        for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
            stamp.push_str(&format!(
                " -X {package}.gitVersion={KUBERNETES} -X {package}.gitMajor=1 -X {package}.gitMinor=36"
            ));
        }
    }
    let mut go = Command::new("go");
    go.args(["build", "-trimpath", "-buildvcs=false", "-ldflags", &stamp, "-o"])
        .arg(&unfinished)
        .arg(".")
        .current_dir(source);
    if module == "leasekeeper" {
        // It runs on hosts whose C library is not this machine's.
        go.env("CGO_ENABLED", "0");
    }
    if !passed(&mut go, BUILD_LIMIT).context("Go >= 1.26 is needed (https://go.dev/dl)")? {
        bail!("`go build` of testbed/{module} failed; its words stand above");
    }
    fs::rename(&unfinished, dir.join(module)).context("put the binary in its place")?;
    note(&format!("built testbed/{module} in {} s", start.elapsed().as_secs()));
    Ok(())
}

/// `etcd`, `kube-apiserver`, `kubectl`, ...: an installed one when it is recent enough, else ours.
pub fn kubernetes_tool(name: &str) -> Result<PathBuf> {
    if let Some(found) = installed(name) {
        return Ok(found);
    }
    let built = build("kubernetes")?;
    Ok(built.with_file_name(name))
}

fn installed(name: &str) -> Option<PathBuf> {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = assets.into_iter().chain(std::env::split_paths(&path));
    places.map(|place| place.join(name)).find(|file| file.is_file() && recent(name, file))
}

fn recent(name: &str, file: &Path) -> bool {
    let mut command = Command::new(file);
    match name {
        "etcd" | "kube-apiserver" => command.arg("--version"),
        "kubectl" => command.args(["version", "--client"]),
        // The rest must fit the API server; ours always does.
        _ => return false,
    };
    output(&mut command, Duration::from_secs(20)).is_ok_and(|text| recent_words(name, &text))
}

/// Whether what `name` says of its version is new enough: Kubernetes 1.34, and etcd 3.6 for it.
fn recent_words(name: &str, text: &str) -> bool {
    let numbers = text.split(|c: char| !(c.is_ascii_digit() || c == '.')).find(|w| w.contains('.'));
    let mut parts = numbers.unwrap_or_default().split('.').map(|part| part.parse::<u32>().ok());
    let (Some(Some(major)), Some(Some(minor))) = (parts.next(), parts.next()) else {
        return false;
    };
    let least = if name == "etcd" { (3, 6) } else { (1, OLDEST_MINOR) };
    (major, minor) >= least
}

#[cfg(test)]
mod tests {
    use super::recent_words;

    #[test]
    fn versions_are_read_from_what_the_tools_say() {
        for (name, text, wanted) in [
            ("kube-apiserver", "Kubernetes v1.36.3\n", true),
            ("kube-apiserver", "Kubernetes v1.33.9\n", false),
            ("kubectl", "Client Version: v1.32.4-dispatcher\nKustomize Version: v5.5.0", false),
            ("kubectl", "Client Version: v1.34.0\nKustomize Version: v5.5.0", true),
            ("etcd", "etcd Version: 3.6.8\nGit SHA: Not provided", true),
            ("etcd", "etcd Version: 3.4.23\nGit SHA: x", false),
            ("etcd", "no version", false),
        ] {
            assert_eq!(recent_words(name, text), wanted, "{name}: {text}");
        }
    }
}
