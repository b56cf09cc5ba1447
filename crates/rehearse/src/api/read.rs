//! GET: single objects, lists in one piece or in pages.

use super::answer::{failed, ok, refuse, status};
use super::select::{Fields, Filter, Query};
use super::{Api, Kind, Target, render};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use evenkeel_engine::ids::{NodeName, ObjectKey};
use evenkeel_sim::World;
use evenkeel_sim::objects::{Node, Pod};
use evenkeel_sim::status::Refusal;
use evenkeel_sim::world::{Call, Failure};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Arc;

/// How many paged lists may be open at once; older ones answer 410.
const SNAPSHOTS_MAX: usize = 64;
/// Of a token that goes on with whatever is there now.
const INCONSISTENT: i64 = -1;
const EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

/// Lists whose later pages have not been read yet.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    next: u64,
    open: VecDeque<(u64, Arc<Vec<Value>>)>,
}

/// What a continue token says.
#[derive(Debug, Serialize, Deserialize)]
struct Continue {
    v: String,
    rv: i64,
    /// The place of the last object that was shown.
    start: String,
    snapshot: u64,
}

impl Continue {
    fn read(token: &str) -> Result<Self, Refusal> {
        let bad = |why: &dyn std::fmt::Display| {
            Refusal::bad_request(format!(
                "invalid continue token: continue key is not valid: {why}"
            ))
        };
        let bytes = STANDARD.decode(token).map_err(|error| bad(&error))?;
        serde_json::from_slice(&bytes).map_err(|error| bad(&error))
    }

    fn write(&self) -> Value {
        let text = serde_json::to_string(self).unwrap_or_default();
        STANDARD.encode(text).into()
    }
}

/// What a list is cut from.
struct Listed {
    items: Arc<Vec<Value>>,
    rv: u64,
    /// Place after which it goes on.
    after: Option<String>,
    snapshot: Option<u64>,
}

pub(super) fn node_fields(node: &Node) -> Fields<'_> {
    let unschedulable = node.unschedulable.to_string();
    Fields {
        name: node.name.as_str(),
        namespace: "",
        others: vec![("spec.unschedulable", unschedulable)],
        labels: &node.labels,
    }
}

pub(super) fn pod_fields(pod: &Pod) -> Fields<'_> {
    let mut fields = Fields::of_key(&pod.key, &pod.labels);
    let node = pod.node.as_ref().map(ToString::to_string).unwrap_or_default();
    let phase = format!("{:?}", pod.phase).replace("Finished", "Succeeded");
    fields.others = vec![("spec.nodeName", node), ("status.phase", phase)];
    fields
}

/// All objects of a kind that pass, as items of a list.
pub(super) fn items(world: &World, kind: Kind, filter: &Filter) -> Vec<Value> {
    let none = evenkeel_sim::objects::Map::new();
    let mut all: Vec<Value> = match kind {
        Kind::Nodes => {
            let nodes = world.nodes().filter(|node| filter.holds(&node_fields(node)));
            nodes.map(|node| render::node(world, node)).collect()
        }
        Kind::Pods => {
            let pods = world.pods().filter(|pod| filter.holds(&pod_fields(pod)));
            pods.map(|pod| render::pod(world, pod)).collect()
        }
        Kind::Budgets => {
            let budgets = world.budgets().filter(|b| filter.holds(&Fields::of_key(&b.key, &none)));
            budgets.map(|budget| render::budget(world, budget)).collect()
        }
        Kind::Leases => world
            .nodes()
            .filter_map(|node| Some((node, world.lease(&node.name).ok()?)))
            .filter(|(node, _)| {
                let key = ObjectKey::new("kube-node-lease", node.name.as_str());
                filter.holds(&Fields::of_key(&key, &none))
            })
            .map(|(node, lease)| render::lease(world, node, &lease))
            .collect(),
        Kind::Claims => {
            let claims =
                world.volumes().filter(|(key, _)| filter.holds(&Fields::of_key(key, &none)));
            claims.map(|(key, _)| render::claim(key)).collect()
        }
        Kind::Volumes => world.volumes().map(|(key, node)| render::volume(key, node)).collect(),
    };
    all.sort_by_cached_key(place);
    all
}

/// Lists are in the order of etcd's keys: of `a-b/x` and `a/x` the first comes first.
fn place(item: &Value) -> String {
    let text = |key: &str| item["metadata"][key].as_str().unwrap_or_default();
    format!("{}/{}", text("namespace"), text("name"))
}

fn one(world: &World, target: &Target, name: &str) -> Result<Value, Refusal> {
    let key = ObjectKey::new(target.namespace.as_deref().unwrap_or_default(), name);
    match target.kind {
        Kind::Nodes => Ok(render::node(world, world.node(&NodeName::new(name))?.as_ref())),
        Kind::Pods => Ok(render::pod(world, world.pod(&key)?.as_ref())),
        Kind::Budgets => Ok(render::budget(world, world.budget(&key)?.as_ref())),
        Kind::Leases => {
            let node = NodeName::new(name);
            if &*key.namespace != "kube-node-lease" {
                return Err(Refusal::not_found("leases", "coordination.k8s.io", name));
            }
            let lease = world.lease(&node)?;
            Ok(render::lease(world, world.node(&node)?.as_ref(), &lease))
        }
        Kind::Claims => Err(Refusal::not_found("persistentvolumeclaims", "", name)),
        Kind::Volumes => Err(Refusal::not_found("persistentvolumes", "", name)),
    }
}

impl Api {
    /// GET of one object.
    pub(super) async fn get(&self, target: &Target, name: &str) -> Response {
        let answer = self
            .call(Call::Read, |world| one(world, target, name))
            .await
            .map(|item| render::typed(target.kind.api_version(), target.kind.kind(), item));
        match answer {
            Ok(body) => ok(StatusCode::OK, &body),
            Err(failure) => failed(&failure),
        }
    }

    /// GET of a list, or of a page of it.
    pub(super) async fn list(&self, target: &Target, query: &Query) -> Response {
        let known = target.kind.fields();
        let filter = match Filter::read(query, target.namespace.as_deref(), known) {
            Ok(filter) => filter,
            Err(refusal) => return refuse(&refusal),
        };
        let (limit, token) =
            match (query.number("limit"), query.get("continue").map(Continue::read).transpose()) {
                (Ok(limit), Ok(token)) => (limit as usize, token),
                (Err(refusal), _) | (_, Err(refusal)) => return refuse(&refusal),
            };
        let answer = self
            .call(Call::Read, |world| self.listed(world, target.kind, &filter, token.as_ref()))
            .await;
        match (answer, token) {
            (Ok(listed), _) => {
                let body = self.page(target.kind, &listed, limit, filter.selects());
                ok(StatusCode::OK, &body)
            }
            (Err(Failure::Status(refusal)), Some(token)) if refusal.code == 410 => {
                let mut body = status(&refusal);
                let go_on = Continue { rv: INCONSISTENT, ..token };
                body["metadata"]["continue"] = go_on.write();
                ok(StatusCode::GONE, &body)
            }
            (Err(failure), _) => failed(&failure),
        }
    }

    fn page(&self, kind: Kind, listed: &Listed, limit: usize, selects: bool) -> Value {
        let all = &listed.items;
        let start = listed
            .after
            .as_ref()
            .map_or(0, |after| all.partition_point(|item| place(item) <= *after));
        let end = match limit {
            0 => all.len(),
            limit => all.len().min(start + limit),
        };
        let mut metadata = json!({"resourceVersion": listed.rv.to_string()});
        if end < all.len() {
            let token = Continue {
                v: "meta.k8s.io/v1".to_owned(),
                rv: listed.rv as i64,
                start: place(&all[end - 1]),
                snapshot: listed.snapshot.unwrap_or_else(|| self.keep(all.clone())),
            };
            metadata["continue"] = token.write();
            if !selects {
                metadata["remainingItemCount"] = (all.len() - end).into();
            }
        }
        json!({
            "kind": format!("{}List", kind.kind()),
            "apiVersion": kind.api_version(),
            "metadata": metadata,
            "items": all.get(start..end).unwrap_or_default(),
        })
    }

    fn keep(&self, items: Arc<Vec<Value>>) -> u64 {
        let mut snapshots = super::lock(&self.snapshots);
        snapshots.next += 1;
        let id = snapshots.next;
        snapshots.open.push_back((id, items));
        if snapshots.open.len() > SNAPSHOTS_MAX {
            snapshots.open.pop_front();
        }
        id
    }

    fn listed(
        &self,
        world: &World,
        kind: Kind,
        filter: &Filter,
        token: Option<&Continue>,
    ) -> Result<Listed, Refusal> {
        let fresh = |after| Listed {
            items: Arc::new(items(world, kind, filter)),
            rv: world.resource_version(),
            after,
            snapshot: None,
        };
        let Some(token) = token else {
            return Ok(fresh(None));
        };
        let after = Some(token.start.clone());
        let Ok(rv) = u64::try_from(token.rv) else {
            return Ok(fresh(after));
        };
        let snapshots = super::lock(&self.snapshots);
        let found = snapshots.open.iter().find(|(id, _)| *id == token.snapshot);
        match (found, world.events_since(rv)) {
            (Some((id, items)), Ok(_)) => {
                Ok(Listed { items: items.clone(), rv, after, snapshot: Some(*id) })
            }
            _ => Err(Refusal::expired(EXPIRED)),
        }
    }
}
