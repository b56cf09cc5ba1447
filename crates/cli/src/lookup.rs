//! Names to ids, by the lists of the server.
//!
//! Entry points: [`cluster`], [`pool`], [`nodes`], [`pick_all`].
//! An id wins over a name. Answers are read leniently: the real service has more fields and phases than are known here.

use serde_json::Value;

use crate::client::{Client, Place};
use crate::failure::CliError;

/// Largest page of a node list (documented).
const PAGE: &str = "2000";

/// Most pages that are read: ten times the largest cluster of the service.
const PAGES: usize = 100;

/// A resource with the whole answer about it.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) uid: String,
    pub(crate) name: String,
    pub(crate) value: Value,
}

impl Item {
    fn read(value: &Value) -> Option<Self> {
        let uid = value.pointer("/metadata/uid")?.as_str()?.to_owned();
        let name = text(value, "/metadata/name");
        Some(Self { uid, name, value: value.clone() })
    }

    /// A text or number of the answer; empty if it is absent.
    pub(crate) fn text(&self, pointer: &str) -> String {
        text(&self.value, pointer)
    }
}

/// A text or number of an answer; empty if it is absent.
pub(crate) fn text(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Bool(flag)) => flag.to_string(),
        _ => String::new(),
    }
}

/// The items of a list.
pub(crate) fn items(client: &Client, list: &Value) -> Result<Vec<Item>, CliError> {
    let items = list.get("items").and_then(Value::as_array);
    let items = items.ok_or_else(|| client.foreign("a list has no `items`"))?;
    let read =
        |value| Item::read(value).ok_or_else(|| client.foreign("an item has no `metadata.uid`"));
    items.iter().map(read).collect()
}

/// All clusters.
pub(crate) async fn clusters(client: &Client) -> Result<(Value, Vec<Item>), CliError> {
    let list = client.get(Place::Cce(&["clusters"]), &[("detail", "true")]).await?;
    let found = items(client, &list)?;
    Ok((list, found))
}

/// The cluster that is named, or that of the settings, or the only one.
pub(crate) async fn cluster(client: &Client, named: Option<&str>) -> Result<Item, CliError> {
    let (_, all) = clusters(client).await?;
    if let Some(wanted) = named.or(client.default_cluster()) {
        return pick(&all, "cluster", wanted);
    }
    match all.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(CliError::usage("there is no cluster yet")
            .with_hint("register one with `evenkeel cluster add`")),
        many => {
            let error = CliError::usage(format!(
                "there are {} clusters and --cluster names none",
                many.len()
            ));
            Err(error.with_hint(format!("give --cluster with one of {}", names(many))))
        }
    }
}

/// All pools of a cluster, `DefaultPool` among them.
pub(crate) async fn pools(client: &Client, cluster: &str) -> Result<(Value, Vec<Item>), CliError> {
    let place = Place::Cce(&["clusters", cluster, "nodepools"]);
    let list = client.get(place, &[("showDefaultNodePool", "true")]).await?;
    let found = items(client, &list)?;
    Ok((list, found))
}

/// A pool by name or id.
pub(crate) async fn pool(client: &Client, cluster: &str, wanted: &str) -> Result<Item, CliError> {
    pick(&pools(client, cluster).await?.1, "node pool", wanted)
}

/// All nodes of a cluster, over all pages.
pub(crate) async fn nodes(client: &Client, cluster: &str) -> Result<Vec<Item>, CliError> {
    let mut all: Vec<Item> = Vec::new();
    let mut marker = String::new();
    for _ in 0..PAGES {
        let mut query = vec![("limit", PAGE)];
        if !marker.is_empty() {
            query.push(("marker", marker.as_str()));
        }
        let list = client.get(Place::Cce(&["clusters", cluster, "nodes"]), &query).await?;
        all.extend(items(client, &list)?);
        let next = text(&list, "/pageInfo/nextMarker");
        if next.is_empty() {
            return Ok(all);
        }
        if next == marker {
            break;
        }
        marker = next;
    }
    Err(client.foreign("the pages of the node list do not end"))
}

/// The item of this id or name.
pub(crate) fn pick(all: &[Item], kind: &str, wanted: &str) -> Result<Item, CliError> {
    if let Some(item) = all.iter().find(|item| item.uid.eq_ignore_ascii_case(wanted)) {
        return Ok(item.clone());
    }
    let named: Vec<&Item> = all.iter().filter(|item| item.name == wanted).collect();
    match named.as_slice() {
        [item] => Ok((*item).clone()),
        [] => {
            let error = CliError::usage(format!("there is no {kind} {wanted}"));
            Err(if all.is_empty() {
                error
            } else {
                error.with_hint(format!("there are: {}", names(all)))
            })
        }
        many => {
            let ids: Vec<&str> = many.iter().map(|item| item.uid.as_str()).collect();
            let error = CliError::usage(format!("{} {kind}s have the name {wanted}", many.len()));
            Err(error.with_hint(format!("give one of the ids: {}", ids.join(", "))))
        }
    }
}

/// The items of all these ids or names.
pub(crate) fn pick_all(all: &[Item], kind: &str, wanted: &[String]) -> Result<Vec<Item>, CliError> {
    wanted.iter().map(|one| pick(all, kind, one)).collect()
}

/// Some names, for hints.
fn names(all: &[Item]) -> String {
    let mut text =
        all.iter().take(10).map(|item| item.name.as_str()).collect::<Vec<_>>().join(", ");
    if all.len() > 10 {
        text.push_str(&format!(" and {} more", all.len() - 10));
    }
    text
}
