//! The actors of a test cluster, each with a token and a kubeconfig of its own, so that the audit
//! log tells who did what.

use std::fs;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

/// Name of the kubeconfig, user as the API server sees it, groups.
/// The controller manager acts for all controllers under one name, which RBAC's own role for that
/// name does not allow for; nothing in a test bed is to be kept from it.
pub const ACTORS: [(&str, &str, &str); 6] = [
    ("admin", "admin", "system:masters"),
    ("evenkeel", "evenkeel", ""),
    ("hosts", "hosts", ""),
    ("kwok", "kwok", ""),
    ("controller", "system:kube-controller-manager", "system:masters"),
    ("scheduler", "system:kube-scheduler", ""),
];

/// Writes the API server's token file and returns the tokens in the order of [`ACTORS`].
pub fn write_tokens(path: &Path) -> Result<Vec<String>> {
    let mut tokens = Vec::new();
    let mut lines = String::new();
    for (_, user, groups) in ACTORS {
        let token = random_token()?;
        lines.push_str(&format!("{token},{user},{user},\"{groups}\"\n"));
        tokens.push(token);
    }
    fs::write(path, lines).with_context(|| format!("write {}", path.display()))?;
    Ok(tokens)
}

fn random_token() -> Result<String> {
    let mut bytes = [0_u8; 24];
    fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .context("read random bytes")?;
    Ok(hex::encode(bytes))
}

/// A kubeconfig with inline data only. JSON, which every YAML reader accepts.
pub fn kubeconfig(server: &str, ca_pem: &[u8], user: &str, token: &str) -> String {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "testbed", "cluster": {
            "server": server, "certificate-authority-data": STANDARD.encode(ca_pem)}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": user}}],
        "current-context": "testbed",
    });
    format!("{config:#}\n")
}
