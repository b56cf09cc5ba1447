//! `cluster add`, `list` and `show`.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::show as print;
use crate::args::{ClusterAdd, ClusterShow, Show};
use crate::client::{Client, Place};
use crate::failure::{CliError, Exit};
use crate::io::Io;
use crate::lookup::{self, Item, text};
use crate::{kubeconfig, render};

pub(super) async fn add(
    args: ClusterAdd,
    client: &Client,
    io: &mut Io<'_>,
) -> Result<Exit, CliError> {
    let kubeconfig = kubeconfig::one_context(&args.kubeconfig, args.context.as_deref())?;
    let body = json!({ "name": args.name, "kubeconfig": kubeconfig.expose() });
    let answer = client.send(Method::POST, Place::Evenkeel(&["clusters"]), &[], &body).await?;
    let item = item(client, answer)?;
    match first_look(client, &item.uid).await? {
        Some(nodes) => io.say(&format!(
            "cluster {} registered; DefaultPool has its {nodes} worker nodes",
            item.name
        )),
        None => io.say(&format!(
            "cluster {} registered; the server has not seen its nodes yet, look again with `evenkeel node list`",
            item.name
        )),
    }
    io.say(&format!(
        "next: `evenkeel cluster set-machines {}` says how machines are reached and reset",
        item.name
    ));
    print(io, args.show, &item.value, || format!("{}\n", item.uid))
}

/// How long the first look at a cluster may take: a list of 10,000 nodes and their pods in pages.
const FIRST_LOOK: Duration = Duration::from_secs(20);
/// Between two questions.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Waits until the server has seen the cluster's nodes, so that the next command knows them.
async fn first_look(client: &Client, uid: &str) -> Result<Option<String>, CliError> {
    let end = tokio::time::Instant::now() + FIRST_LOOK;
    while tokio::time::Instant::now() < end {
        let place = Place::Cce(&["clusters", uid]);
        let shown = client.get(place, &[("detail", "true")]).await?;
        if text(&shown, "/status/phase") == "Available" {
            return Ok(Some(text(&shown, "/metadata/annotations/totalNodesNumber")));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(None)
}

pub(super) async fn list(show: Show, client: &Client, io: &mut Io<'_>) -> Result<Exit, CliError> {
    let (list, items) = lookup::clusters(client).await?;
    print(io, show, &list, || render::clusters(&items))
}

pub(super) async fn show(
    args: ClusterShow,
    client: &Client,
    io: &mut Io<'_>,
) -> Result<Exit, CliError> {
    let found = lookup::cluster(client, Some(&args.cluster)).await?;
    let place = Place::Cce(&["clusters", &found.uid]);
    let item = item(client, client.get(place, &[("detail", "true")]).await?)?;
    print(io, args.show, &item.value, || render::cluster(&item))
}

fn item(client: &Client, answer: Value) -> Result<Item, CliError> {
    let (uid, name) = (text(&answer, "/metadata/uid"), text(&answer, "/metadata/name"));
    if uid.is_empty() {
        return Err(client.foreign("a cluster has no `metadata.uid`"));
    }
    Ok(Item { uid, name, value: answer })
}
