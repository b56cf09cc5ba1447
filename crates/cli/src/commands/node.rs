//! `node list` and `migrate`.

use reqwest::Method;
use serde_json::{Value, json};

use super::show as print;
use crate::args::{NodeListArgs, NodeMigrate};
use crate::client::{Client, Place};
use crate::failure::{CliError, Exit};
use crate::io::Io;
use crate::lookup::{self, Item};
use crate::render;

pub(super) async fn list(
    args: NodeListArgs,
    client: &Client,
    io: &mut Io<'_>,
) -> Result<Exit, CliError> {
    let cluster = lookup::cluster(client, args.place.cluster.as_deref()).await?;
    let mut nodes = lookup::nodes(client, &cluster.uid).await?;
    if let Some(wanted) = &args.pool {
        let pool = lookup::pool(client, &cluster.uid, wanted).await?;
        nodes.retain(|node| render::is_in_pool(node, &pool));
    }
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    let values: Vec<&Value> = nodes.iter().map(|node| &node.value).collect();
    let answer = json!({ "kind": "List", "apiVersion": "v3", "items": values });
    print(io, args.show, &answer, || render::nodes(&nodes))
}

pub(super) async fn migrate(
    args: NodeMigrate,
    client: &Client,
    io: &mut Io<'_>,
) -> Result<Exit, CliError> {
    let cluster = lookup::cluster(client, args.place.cluster.as_deref()).await?;
    let pool = lookup::pool(client, &cluster.uid, &args.pool).await?;
    let nodes = lookup::nodes(client, &cluster.uid).await?;
    let chosen = lookup::pick_all(&nodes, "node", &args.nodes)?;
    let list: Vec<Value> = chosen.iter().map(|node: &Item| json!({ "nodeID": node.uid })).collect();
    let body = json!({ "kind": "List", "apiVersion": "v3", "nodeList": list });
    let place = Place::Cce(&["clusters", &cluster.uid, "nodepools", &pool.uid, "nodes", "migrate"]);
    let query: &[(&str, &str)] = if args.as_current { &[("asCurrent", "true")] } else { &[] };
    client.send(Method::PUT, place, query, &body).await?;
    let count = match chosen.len() {
        1 => "1 node is".to_owned(),
        many => format!("{many} nodes are"),
    };
    let tail = if args.as_current { ", recorded as up to date" } else { "" };
    io.say(&format!("{count} in node pool {} now{tail}", pool.name));
    Ok(Exit::Done)
}
