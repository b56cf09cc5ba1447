//! What a person does before a first synchronization, and the request for it: calls of the HTTP API and nothing else.
//!
//! Entry points: [`prepare`], [`synchronize`].

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use evenkeel_api::upgrade::{UpgradeRequest, UpgradeSpec};
use evenkeel_cli::{Client, Method, Place};
use serde_json::{Value, json};

use super::event::Event;
use super::stage::Stage;
use super::view::View;

/// Nodes are enrolled as soon as the cluster's first listing is through.
const NODES_LIMIT: Duration = Duration::from_secs(30);
const NODES_PAUSE: Duration = Duration::from_millis(100);

/// Limit of each step on a host, in its own time; the longest one takes 20 s there.
const STEP_LIMIT_S: u32 = 600;

const POOL: &str = "workers";
const KEYPAIR: &str = "operators";

const PRE_INSTALL: &str = "#!/bin/sh\nset -e\napt-get update && apt-get install -y chrony\n";
const POST_INSTALL: &str = "#!/bin/sh\nset -e\nsystemctl is-active kubelet\n";

/// What the calls gave.
pub struct Ids {
    pub cluster: String,
    pub pool: String,
}

fn text(answer: &Value, pointer: &str) -> anyhow::Result<String> {
    let found = answer.pointer(pointer).and_then(Value::as_str);
    Ok(found.with_context(|| format!("the server's answer has no {pointer}"))?.to_owned())
}

fn step(view: &mut View, what: impl Into<String>) -> std::io::Result<()> {
    view.tell(Event::Step { what: what.into() })
}

/// Registers the cluster and its machines, makes a pool, moves all nodes in, and changes its configuration.
pub async fn prepare(stage: &Stage, view: &mut View) -> anyhow::Result<Ids> {
    let client = &stage.client;
    let kubeconfig = stage.rehearsal.kubeconfig_yaml();
    let body = json!({ "name": "demo", "kubeconfig": kubeconfig });
    let answer = client.send(Method::POST, Place::Evenkeel(&["clusters"]), &[], &body).await?;
    let cluster = text(&answer, "/metadata/uid")?;
    step(view, "cluster demo registered")?;
    set_machines(stage, &cluster).await?;
    step(view, "machines: SSH access, host keys, and the scripts of a reset")?;
    let body = json!({ "name": KEYPAIR, "publicKeys": [stage.rehearsal.ssh_public_key()] });
    client.send(Method::POST, Place::Evenkeel(&["keypairs"]), &[], &body).await?;
    let place = Place::Cce(&["clusters", &cluster, "nodepools"]);
    let answer = client.send(Method::POST, place, &[], &new_pool()).await?;
    let pool = text(&answer, "/metadata/uid")?;
    step(view, format!("key pair {KEYPAIR} imported, pool {POOL} created"))?;
    let nodes = wait_for_nodes(stage, &cluster).await?;
    let list: Vec<Value> = nodes.iter().map(|id| json!({ "nodeId": id })).collect();
    let body = json!({ "kind": "List", "apiVersion": "v3", "nodeList": list });
    let place = Place::Cce(&["clusters", &cluster, "nodepools", &pool, "nodes", "migrate"]);
    client.send(Method::PUT, place, &[], &body).await?;
    step(view, format!("{} nodes moved into the pool", nodes.len()))?;
    let place = Place::Cce(&["clusters", &cluster, "nodepools", &pool]);
    client.send(Method::PUT, place, &[], &changed_pool()).await?;
    step(view, "the pool's configuration changed: scripts before and after installation")?;
    Ok(Ids { cluster, pool })
}

async fn set_machines(stage: &Stage, cluster: &str) -> anyhow::Result<()> {
    let rehearsal = &stage.rehearsal;
    let host_keys: BTreeMap<String, &str> = rehearsal
        .hosts()
        .iter()
        .map(|host| (host.node.to_string(), host.host_key.as_str()))
        .collect();
    let body = json!({
        "machines": {
            "user": "root",
            "port": rehearsal.ssh_port(),
            "privateKey": rehearsal.ssh_private_key(),
            "address": "internal-ip",
            "hostKeys": host_keys,
        },
        "recipe": {
            "type": "script",
            "teardown": "#!/bin/sh\nkubeadm reset --force\n",
            "install": "#!/bin/sh\nkubeadm join --config /etc/kubernetes/join.yaml\n",
            "limitSeconds": STEP_LIMIT_S,
        },
    });
    let place = Place::Evenkeel(&["clusters", cluster, "machines"]);
    stage.client.send(Method::PUT, place, &[], &body).await?;
    Ok(())
}

fn new_pool() -> Value {
    json!({
        "kind": "NodePool",
        "apiVersion": "v3",
        "metadata": { "name": POOL },
        "spec": {
            "type": "vm",
            "initialNodeCount": 0,
            "nodeTemplate": {
                "flavor": "bare.metal",
                "az": "rack-1",
                "os": "Debian 12",
                "login": { "sshKey": KEYPAIR },
                "rootVolume": { "size": 50, "volumetype": "SAS" },
                "dataVolumes": [],
            },
        },
    })
}

fn changed_pool() -> Value {
    json!({
        "metadata": { "name": POOL },
        "spec": {
            "ignoreInitialNodeCount": true,
            "nodeTemplate": {
                "waitPostInstallFinish": true,
                "extendParam": {
                    "alpha.cce/preInstall": STANDARD.encode(PRE_INSTALL),
                    "alpha.cce/postInstall": STANDARD.encode(POST_INSTALL),
                },
            },
        },
    })
}

/// Ids of all nodes, once the server has found as many as there are.
async fn wait_for_nodes(stage: &Stage, cluster: &str) -> anyhow::Result<Vec<String>> {
    let wanted = stage.rehearsal.hosts().len();
    let until = Instant::now() + NODES_LIMIT;
    loop {
        let place = Place::Cce(&["clusters", cluster, "nodes"]);
        let answer = stage.client.get(place, &[("limit", "2000")]).await?;
        let items = answer.pointer("/items").and_then(Value::as_array);
        let found: anyhow::Result<Vec<String>> =
            items.into_iter().flatten().map(|node| text(node, "/metadata/uid")).collect();
        let found = found?;
        if found.len() >= wanted {
            return Ok(found);
        }
        anyhow::ensure!(
            Instant::now() < until,
            "waited {} s for {wanted} nodes in DefaultPool, and {} came",
            NODES_LIMIT.as_secs(),
            found.len()
        );
        tokio::time::sleep(NODES_PAUSE).await;
    }
}

/// Asks for the synchronization, and gives the id of its job.
pub async fn synchronize(
    client: &Client,
    ids: &Ids,
    max_unavailable: u16,
    view: &mut View,
) -> anyhow::Result<String> {
    let request = UpgradeRequest::new(UpgradeSpec {
        node_pool_id: ids.pool.clone(),
        max_unavailable,
        ..UpgradeSpec::default()
    });
    let operation = ["operation", "upgrade"];
    let place =
        [&["clusters", ids.cluster.as_str(), "nodepools", &ids.pool][..], &operation].concat();
    let body = serde_json::to_value(&request)?;
    let answer = client.send(Method::POST, Place::Cce(&place), &[], &body).await?;
    let job = text(&answer, "/jobid")?;
    view.tell(Event::Accepted { job: job.clone() })?;
    Ok(job)
}
