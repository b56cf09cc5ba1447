//! `cluster set-machines --scan`: host keys as the server sees them, pinned only after a person or a list has said yes.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};

use super::{SSH_PORT, overrides, rule};
use crate::args::SetMachines;
use crate::client::{Client, Place};
use crate::failure::CliError;
use crate::host_keys::check_line;
use crate::io::Io;
use crate::lookup::text;

/// Nodes per call: what the server takes.
const PER_CALL: usize = 100;

/// The keys of these nodes that were confirmed, by node name.
pub(super) async fn keys(
    args: &SetMachines,
    client: &Client,
    cluster: &str,
    nodes: &[&str],
    io: &mut Io<'_>,
) -> Result<BTreeMap<String, String>, CliError> {
    let mut hosts = Vec::new();
    for some in nodes.chunks(PER_CALL) {
        let mut places = overrides(args);
        places.retain(|node, _| some.contains(&node.as_str()));
        let body = json!({
            "nodes": some,
            "port": args.port.unwrap_or(SSH_PORT),
            "address": rule(args),
            "overrides": places,
        });
        let place = Place::Evenkeel(&["clusters", cluster, "machines", "scan"]);
        let answer = client.send(Method::POST, place, &[], &body).await?;
        let list = answer.get("hosts").and_then(Value::as_array);
        hosts.extend(list.ok_or_else(|| client.foreign("a scan has no `hosts`"))?.clone());
    }
    for host in &hosts {
        let shown = match text(host, "/error") {
            error if error.is_empty() => text(host, "/fingerprint"),
            error => error,
        };
        io.say(&format!("{}  {}  {shown}", text(host, "/node"), text(host, "/address")));
    }
    hosts.retain(|host| host.get("hostKey").is_some());
    if hosts.is_empty() {
        return Ok(BTreeMap::new());
    }
    if args.accept_fingerprints.is_empty() {
        confirm(hosts.len(), io)?;
    } else {
        hosts.retain(|host| args.accept_fingerprints.contains(&text(host, "/fingerprint")));
    }
    let pair = |host: &Value| {
        let node = text(host, "/node");
        let line = check_line(&format!("the scan of {node}"), &text(host, "/hostKey"))?;
        Ok((node, line))
    };
    hosts.iter().map(pair).collect()
}

/// Only `yes` is a yes.
fn confirm(count: usize, io: &mut Io<'_>) -> Result<(), CliError> {
    if !io.stdin_is_terminal {
        let error = CliError::usage("nobody is there to confirm the host keys");
        return Err(error.with_hint("compare them and give --accept-fingerprint for each"));
    }
    io.say(&format!("Are these the fingerprints of your machines? Type yes to pin {count} keys:"));
    let mut line = String::new();
    let read = io.stdin.read_line(&mut line);
    read.map_err(|error| CliError::local("standard input cannot be read".to_owned(), error))?;
    if line.trim() == "yes" {
        return Ok(());
    }
    Err(CliError::usage("the host keys were not confirmed, nothing was set"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(typed: &str, terminal: bool) -> (Result<(), CliError>, String) {
        let mut said = Vec::new();
        let result = confirm(
            2,
            &mut Io {
                stdin: Box::new(typed.as_bytes()),
                stdout: Box::new(std::io::sink()),
                stderr: Box::new(&mut said),
                env: Box::new(|_| None),
                stdin_is_terminal: terminal,
                stdout_is_terminal: false,
                colour: false,
            },
        );
        (result, String::from_utf8_lossy(&said).into_owned())
    }

    #[test]
    fn only_yes_is_a_yes() {
        let (result, said) = asked("yes\n", true);
        assert!(result.is_ok() && said.contains("pin 2 keys"), "{said}");
        for typed in ["", "y\n", "no\n", "yes please\n"] {
            assert!(asked(typed, true).0.is_err(), "{typed}");
        }
        let (result, said) = asked("yes\n", false);
        assert!(
            result.is_err_and(|e| e.to_string().contains("nobody is there")) && said.is_empty()
        );
    }
}
