//! `cluster set-machines`: SSH access and recipe of a cluster.

mod hook;
mod scan;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use evenkeel_api::password::Secret;
use reqwest::Method;
use serde_json::{Value, json};

use super::{read_text, show as print};
use crate::args::{Address, RecipeKind, SetMachines};
use crate::client::{Client, Place};
use crate::failure::{CliError, Exit};
use crate::host_keys::{KnownHosts, check_line};
use crate::io::Io;
use crate::lookup::{self, Item};
use crate::render;

pub(super) async fn set(
    args: SetMachines,
    client: &Client,
    io: &mut Io<'_>,
) -> Result<Exit, CliError> {
    let recipe = recipe(&args, io)?;
    let has_access = has_access(&args);
    if recipe.is_none() && !has_access {
        let error =
            CliError::usage("nothing is to be set: neither SSH access nor a recipe is given");
        return Err(error.with_hint("see `evenkeel cluster set-machines --help`"));
    }
    let key = match &args.key {
        Some(path) => Some(private_key(io, path)?),
        None => None,
    };
    let cluster = lookup::cluster(client, Some(&args.cluster)).await?;
    let mut body = json!({});
    if has_access {
        let nodes = lookup::nodes(client, &cluster.uid).await?;
        let mut keys = host_keys(&args, &nodes, io)?;
        if args.scan {
            let bare = nodes.iter().filter(|node| !keys.contains_key(&node.name));
            let bare: Vec<&str> = bare.map(|node| node.name.as_str()).collect();
            keys.extend(scan::keys(&args, client, &cluster.uid, &bare, io).await?);
        }
        body["machines"] = access(&args, key.as_ref(), &nodes, &keys, io)?;
    }
    if let Some(recipe) = recipe {
        body["recipe"] = recipe;
    }
    let place = Place::Evenkeel(&["clusters", &cluster.uid, "machines"]);
    let answer = client.send(Method::PUT, place, &[], &body).await?;
    print(io, args.show, &answer, || render::machines(&answer))
}

fn has_access(args: &SetMachines) -> bool {
    args.user.is_some()
        || args.port.is_some()
        || args.key.is_some()
        || args.sudo
        || args.address.is_some()
        || !args.hosts.is_empty()
        || !args.host_keys.is_empty()
        || args.known_hosts.is_some()
        || !args.host_cas.is_empty()
        || args.scan
}

fn access(
    args: &SetMachines,
    key: Option<&Secret>,
    nodes: &[Item],
    keys: &BTreeMap<String, String>,
    io: &mut Io<'_>,
) -> Result<Value, CliError> {
    for (option, pairs) in [("--host", &args.hosts), ("--host-key", &args.host_keys)] {
        let is_unknown = |name: &String| !nodes.iter().any(|known| known.name == *name);
        for (node, _) in pairs.iter().filter(|(node, _)| is_unknown(node)) {
            io.say(&format!("warning: {option} {node}: the cluster has no node of this name yet"));
        }
    }
    let names = nodes.iter().map(|node| node.name.as_str());
    let bare: Vec<&str> = names.filter(|name| !keys.contains_key(*name)).collect();
    if !bare.is_empty() && args.host_cas.is_empty() {
        let bare = some(&bare);
        io.say(&format!("warning: without a host key these nodes cannot be reset: {bare}"));
    }
    let mut access = json!({
        "user": args.user.as_deref().unwrap_or("root"),
        "port": args.port.unwrap_or(SSH_PORT),
        "address": rule(args),
        "overrides": overrides(args),
        "hostKeys": keys,
    });
    if !args.host_cas.is_empty() {
        let lines = args.host_cas.iter().map(|line| check_line("--host-ca", line));
        access["hostCAs"] = Value::from(lines.collect::<Result<Vec<_>, _>>()?);
    }
    if args.sudo {
        access["sudo"] = Value::Bool(true);
    }
    if let Some(key) = key {
        access["privateKey"] = Value::from(key.expose());
    }
    Ok(access)
}

/// Where sshd listens if nothing is said.
const SSH_PORT: u16 = 22;

fn rule(args: &SetMachines) -> &'static str {
    match args.address {
        Some(Address::Name) => "name",
        Some(Address::InternalIp) | None => "internal-ip",
    }
}

fn overrides(args: &SetMachines) -> BTreeMap<String, String> {
    args.hosts.iter().cloned().collect()
}

/// By node name: the keys given by hand, and for the other nodes those of the known_hosts file.
fn host_keys(
    args: &SetMachines,
    nodes: &[Item],
    io: &mut Io<'_>,
) -> Result<BTreeMap<String, String>, CliError> {
    let (port, overrides) = (args.port.unwrap_or(SSH_PORT), overrides(args));
    let mut keys = BTreeMap::new();
    for (node, line) in &args.host_keys {
        keys.insert(node.clone(), check_line(&format!("--host-key {node}"), line)?);
    }
    let Some(path) = &args.known_hosts else {
        return Ok(keys);
    };
    let known = KnownHosts::load(path)?;
    for node in nodes {
        if keys.contains_key(&node.name) {
            continue;
        }
        let other = overrides.get(&node.name).map(String::as_str);
        if let Some(line) = known.find(&places(node, other, args.address, port)) {
            keys.insert(node.name.clone(), line);
        }
    }
    if known.unread > 0 {
        let (path, lines) = (path.display(), known.unread);
        io.say(&format!("{path}: {lines} lines could not be read and were left out"));
    }
    Ok(keys)
}

fn some(names: &[&str]) -> String {
    let text = names.iter().take(10).copied().collect::<Vec<_>>().join(", ");
    if names.len() > 10 { format!("{text} and {} more", names.len() - 10) } else { text }
}

/// Where a node's host key may be written, the place that is connected to first.
fn places(
    node: &Item,
    other: Option<&str>,
    rule: Option<Address>,
    port: u16,
) -> Vec<(String, u16)> {
    if let Some(other) = other {
        return vec![split_port(other, port)];
    }
    let ip = (node.text("/status/privateIP"), port);
    let name = (node.name.clone(), port);
    let order = if rule == Some(Address::Name) { [name, ip] } else { [ip, name] };
    order.into_iter().filter(|(host, _)| !host.is_empty()).collect()
}

/// `host`, `host:port`, `[v6]:port` or a bare IPv6 address.
fn split_port(text: &str, default: u16) -> (String, u16) {
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return (text.to_owned(), default);
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().unwrap_or(default)),
        None => (text, default),
    };
    (host.trim_matches(['[', ']']).to_owned(), port)
}

/// The server takes OpenSSH keys without a passphrase; both are said here before anything is sent.
fn private_key(io: &mut Io<'_>, path: &Path) -> Result<Secret, CliError> {
    let text = Secret::new(read_text(io, path)?);
    let shown = path.display();
    // The parser's words are left out: they may quote the key.
    let Ok(key) = ssh_key::PrivateKey::from_openssh(text.expose()) else {
        let error =
            CliError::usage(format!("--key: {shown} is not a private key in OpenSSH's format"));
        return Err(error.with_hint(
            "make one with `ssh-keygen -t ed25519 -N ''`, or convert it with `ssh-keygen -p -f`",
        ));
    };
    if key.is_encrypted() {
        let error = CliError::usage(format!(
            "--key: {shown} has a passphrase, which the server cannot ask for"
        ));
        return Err(
            error.with_hint("give the server a key of its own: `ssh-keygen -t ed25519 -N ''`")
        );
    }
    Ok(text)
}

fn recipe(args: &SetMachines, io: &mut Io<'_>) -> Result<Option<Value>, CliError> {
    let is_script = args.recipe == Some(RecipeKind::Script);
    for (option, is_given) in [
        ("--teardown", args.teardown.is_some()),
        ("--install", args.install.is_some()),
        ("--needs", !args.needs.is_empty()),
        ("--resume", args.resume),
    ] {
        if is_given && !is_script {
            let error = CliError::usage(format!("{option} belongs to the recipe script"));
            return Err(error.with_hint("add --recipe script"));
        }
    }
    for (option, is_given) in [
        ("--join-endpoint", args.join_endpoint.is_some()),
        ("--cri-socket", args.cri_socket.is_some()),
        ("--ignore-preflight", !args.ignore_preflight.is_empty()),
        ("--data-dir", !args.data_dirs.is_empty()),
    ] {
        if is_given && args.recipe != Some(RecipeKind::Kubeadm) {
            let error = CliError::usage(format!("{option} belongs to the recipe kubeadm"));
            return Err(error.with_hint("add --recipe kubeadm"));
        }
    }
    hook::fits(args)?;
    if args.limit.is_some() && matches!(args.recipe, None | Some(RecipeKind::None)) {
        return Err(CliError::usage("--limit belongs to the recipes script, kubeadm and command"));
    }
    let mut recipe = match args.recipe {
        None => return Ok(None),
        Some(RecipeKind::None) => json!({ "type": "none" }),
        Some(RecipeKind::Kubeadm) => kubeadm(args),
        Some(RecipeKind::Command) => {
            let mut recipe = hook::hook(args, io)?;
            recipe["type"] = Value::from("command");
            recipe
        }
        Some(RecipeKind::Script) => {
            let teardown = script(io, "--teardown", args.teardown.as_ref())?;
            let install = script(io, "--install", args.install.as_ref())?;
            json!({
                "type": "script", "teardown": teardown, "install": install, "needs": args.needs,
                "resume": args.resume,
            })
        }
    };
    if let Some(limit) = args.limit {
        recipe["limitSeconds"] = Value::from(limit);
    }
    if args.reimage {
        recipe["reimage"] = hook::reimage(args, io)?;
    }
    Ok(Some(recipe))
}

fn kubeadm(args: &SetMachines) -> Value {
    let mut recipe = json!({
        "type": "kubeadm",
        "ignorePreflight": args.ignore_preflight,
        "dataDirs": args.data_dirs,
    });
    for (key, value) in [("endpoint", &args.join_endpoint), ("criSocket", &args.cri_socket)] {
        if let Some(value) = value {
            recipe[key] = Value::from(value.as_str());
        }
    }
    recipe
}

fn script(io: &mut Io<'_>, option: &str, path: Option<&PathBuf>) -> Result<String, CliError> {
    let Some(path) = path else {
        return Err(CliError::usage(format!("the recipe script needs {option} FILE")));
    };
    let text = read_text(io, path)?;
    if text.trim().is_empty() {
        return Err(CliError::usage(format!("{option}: {} is empty", path.display())));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_with_and_without_a_port() {
        let cases = [
            ("10.0.0.1", ("10.0.0.1", 22)),
            ("10.0.0.1:2222", ("10.0.0.1", 2222)),
            ("host", ("host", 22)),
            ("fd00::1", ("fd00::1", 22)),
            ("[fd00::1]:2222", ("fd00::1", 2222)),
        ];
        for (text, (host, port)) in cases {
            assert_eq!(split_port(text, 22), (host.to_owned(), port), "{text}");
        }
    }

    #[test]
    fn a_host_key_is_looked_for_where_the_connection_goes() {
        let value = json!({ "status": { "privateIP": "10.0.0.1" } });
        let node = Item { uid: "u".into(), name: "n".into(), value };
        let (ip, name) = (("10.0.0.1".to_owned(), 22), ("n".to_owned(), 22));
        assert_eq!(places(&node, None, None, 22), [ip.clone(), name.clone()]);
        assert_eq!(places(&node, None, Some(Address::Name), 22), [name, ip]);
        assert_eq!(places(&node, Some("h:2"), None, 22), [("h".to_owned(), 2)]);
    }
}
