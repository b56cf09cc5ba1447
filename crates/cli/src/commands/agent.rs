//! `agent enrol`, `list` and `revoke`.

use reqwest::Method;
use serde_json::{Value, json};

use super::show as print;
use crate::args::{AgentList, AgentOne};
use crate::client::{Client, Place};
use crate::failure::{CliError, Exit};
use crate::io::Io;
use crate::lookup::{self, Item};
use crate::render;

pub(super) async fn enrol(
    args: AgentOne,
    client: &Client,
    io: &mut Io<'_>,
) -> Result<Exit, CliError> {
    let cluster = lookup::cluster(client, args.place.cluster.as_deref()).await?;
    let nodes = lookup::nodes(client, &cluster.uid).await?;
    let node = lookup::pick(&nodes, "node", &args.node)?;
    let place = Place::Evenkeel(&["clusters", &cluster.uid, "agents", &node.uid, "token"]);
    let answer = client.send(Method::POST, place, &[], &json!({})).await?;
    io.say(&format!(
        "a token for node {}, good for one use until {}; on that host, as root, with the server's CA in ca.pem:\n  \
         evenkeel-node agent enrol {} ca.pem <token-file",
        node.name,
        lookup::text(&answer, "/expiresAt"),
        client.endpoint().trim_end_matches('/')
    ));
    print(io, args.show, &answer, || format!("{}\n", lookup::text(&answer, "/token")))
}

pub(super) async fn list(
    args: AgentList,
    client: &Client,
    io: &mut Io<'_>,
) -> Result<Exit, CliError> {
    let cluster = lookup::cluster(client, args.place.cluster.as_deref()).await?;
    let (answer, agents) = all(client, &cluster.uid).await?;
    print(io, args.show, &answer, || render::agents(&agents))
}

pub(super) async fn revoke(
    args: AgentOne,
    client: &Client,
    io: &mut Io<'_>,
) -> Result<Exit, CliError> {
    let cluster = lookup::cluster(client, args.place.cluster.as_deref()).await?;
    // Not the list of nodes: one that has left the cluster may still have an agent.
    let (_, agents) = all(client, &cluster.uid).await?;
    let agent = lookup::pick(&agents, "node with an agent", &args.node)?;
    let place = Place::Evenkeel(&["clusters", &cluster.uid, "agents", &agent.uid]);
    let answer = client.send(Method::DELETE, place, &[], &json!({})).await?;
    let text = format!("the agent of node {} has no rights any more\n", agent.name);
    print(io, args.show, &answer, || text)
}

async fn all(client: &Client, cluster: &str) -> Result<(Value, Vec<Item>), CliError> {
    let answer = client.get(Place::Evenkeel(&["clusters", cluster, "agents"]), &[]).await?;
    let items = answer.get("items").and_then(Value::as_array);
    let items = items.ok_or_else(|| client.foreign("a list has no `items`"))?;
    let item = |value: &Value| Item {
        uid: lookup::text(value, "/nodeID"),
        name: lookup::text(value, "/node"),
        value: value.clone(),
    };
    let items = items.iter().map(item).collect();
    Ok((answer, items))
}
