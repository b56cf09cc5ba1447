//! Host keys for nodes, from an OpenSSH known_hosts file.
//!
//! Entry point: [`KnownHosts`]. Plain names, patterns, `[host]:port`, negations and hashed names are understood;
//! revoked keys are never taken, and neither are those of certificate authorities (the server pins keys).
//!
//! Absent on purpose: trust at first sight. A key is stated by somebody, or there is none.

use std::collections::BTreeSet;
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use ssh_key::known_hosts::{Entry, HostPatterns, Marker};
use ssh_key::{Algorithm, EcdsaCurve, PublicKey};

use crate::failure::CliError;

/// The port that a known_hosts file does not write.
const SSH_PORT: u16 = 22;

/// The readable entries of a file.
pub(crate) struct KnownHosts {
    entries: Vec<Entry>,
    revoked: BTreeSet<String>,
    /// Lines that could not be read, such as those of key types that are unknown here.
    pub(crate) unread: usize,
}

impl KnownHosts {
    /// Reads a file.
    pub(crate) fn load(path: &Path) -> Result<Self, CliError> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            CliError::local(format!("{} cannot be read", path.display()), error)
        })?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let mut known = Self { entries: Vec::new(), revoked: BTreeSet::new(), unread: 0 };
        for line in
            text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            match line.parse::<Entry>() {
                Ok(entry) if entry.marker() == Some(&Marker::Revoked) => {
                    known.revoked.extend(bare_line(entry.public_key()));
                }
                Ok(entry) if entry.marker().is_none() => known.entries.push(entry),
                Ok(_) => {}
                Err(_) => known.unread += 1,
            }
        }
        known
    }

    /// The best key of the first of these places that has one, as a line without a comment.
    pub(crate) fn find(&self, places: &[(String, u16)]) -> Option<String> {
        places.iter().find_map(|(host, port)| self.find_one(host, *port))
    }

    fn find_one(&self, host: &str, port: u16) -> Option<String> {
        let host = host.to_ascii_lowercase();
        let name = if port == SSH_PORT { host } else { format!("[{host}]:{port}") };
        let keys = self
            .entries
            .iter()
            .filter(|entry| matches(entry.host_patterns(), &name))
            .map(Entry::public_key);
        let mut ranked: Vec<(u8, String)> =
            keys.filter_map(|key| Some((rank(key)?, bare_line(key)?))).collect();
        ranked.retain(|(_, line)| !self.revoked.contains(line));
        ranked.into_iter().min_by_key(|(rank, _)| *rank).map(|(_, line)| line)
    }
}

/// Checks a line that was given by hand and takes its comment off.
pub(crate) fn check_line(option: &str, line: &str) -> Result<String, CliError> {
    let key = PublicKey::from_openssh(line).ok().and_then(|key| bare_line(&key));
    key.ok_or_else(|| {
        let error = CliError::usage(format!("{option}: this is not an OpenSSH public key line"));
        error.with_hint("take it from /etc/ssh/ssh_host_ed25519_key.pub of the machine: \"ssh-ed25519 AAAA...\"")
    })
}

fn bare_line(key: &PublicKey) -> Option<String> {
    PublicKey::new(key.key_data().clone(), "").to_openssh().ok().map(|line| line.trim().to_owned())
}

/// Which of several keys is pinned: the order in which OpenSSH itself prefers them.
fn rank(key: &PublicKey) -> Option<u8> {
    Some(match key.algorithm() {
        Algorithm::Ed25519 => 0,
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 } => 1,
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 } => 2,
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 } => 3,
        Algorithm::Rsa { .. } => 4,
        _ => return None,
    })
}

fn matches(patterns: &HostPatterns, name: &str) -> bool {
    match patterns {
        HostPatterns::HashedName { salt, hash } => {
            let Ok(mut mac) = <Hmac<Sha1> as KeyInit>::new_from_slice(salt) else {
                return false;
            };
            mac.update(name.as_bytes());
            mac.verify_slice(hash).is_ok()
        }
        HostPatterns::Patterns(patterns) => {
            let hit =
                |pattern: &str| glob(pattern.to_ascii_lowercase().as_bytes(), name.as_bytes());
            let denied = patterns.iter().filter_map(|pattern| pattern.strip_prefix('!')).any(hit);
            !denied
                && patterns
                    .iter()
                    .filter(|pattern| !pattern.starts_with('!'))
                    .any(|pattern| hit(pattern))
        }
    }
}

/// `*` and `?` as in OpenSSH. Linear but for one remembered star.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == b'?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests;
