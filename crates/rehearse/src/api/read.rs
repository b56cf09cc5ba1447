//! GET: single objects, lists in one piece or in pages.

use super::answer::{failed, ok, refuse};
use super::select::{Fields, Filter, Query};
use super::{Api, Kind, Target, render};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use evenkeel_engine::ids::{NodeName, ObjectKey};
use evenkeel_sim::World;
use evenkeel_sim::objects::{Node, Pod};
use evenkeel_sim::status::Refusal;
use evenkeel_sim::world::Call;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Arc;

/// How many paged lists may be open at once; older ones answer 410.
const SNAPSHOTS_MAX: usize = 64;
const EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. You must start a new list without the continue parameter.";

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
    rv: u64,
    start: usize,
    snapshot: u64,
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
    let node = pod
        .node
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default();
    let phase = format!("{:?}", pod.phase).replace("Finished", "Succeeded");
    fields.others = vec![("spec.nodeName", node), ("status.phase", phase)];
    fields
}

/// All objects of a kind that pass, as items of a list.
pub(super) fn items(world: &World, kind: Kind, filter: &Filter) -> Vec<Value> {
    let none = evenkeel_sim::objects::Map::new();
    match kind {
        Kind::Nodes => {
            let nodes = world
                .nodes()
                .filter(|node| filter.holds(&node_fields(node)));
            nodes.map(|node| render::node(world, node)).collect()
        }
        Kind::Pods => {
            let pods = world.pods().filter(|pod| filter.holds(&pod_fields(pod)));
            pods.map(|pod| render::pod(world, pod)).collect()
        }
        Kind::Budgets => {
            let budgets = world
                .budgets()
                .filter(|b| filter.holds(&Fields::of_key(&b.key, &none)));
            budgets
                .map(|budget| render::budget(world, budget))
                .collect()
        }
        Kind::Leases => world
            .nodes()
            .filter_map(|node| Some((&node.name, world.lease(&node.name).ok()?)))
            .filter(|(name, _)| {
                let key = ObjectKey::new("kube-node-lease", name.as_str());
                filter.holds(&Fields::of_key(&key, &none))
            })
            .map(|(name, lease)| render::lease(name, &lease))
            .collect(),
    }
}

fn one(world: &World, target: &Target, name: &str) -> Result<Value, Refusal> {
    let key = ObjectKey::new(target.namespace.as_deref().unwrap_or_default(), name);
    match target.kind {
        Kind::Nodes => Ok(render::node(
            world,
            world.node(&NodeName::new(name))?.as_ref(),
        )),
        Kind::Pods => Ok(render::pod(world, world.pod(&key)?.as_ref())),
        Kind::Budgets => Ok(render::budget(world, world.budget(&key)?.as_ref())),
        Kind::Leases => {
            let node = NodeName::new(name);
            if &*key.namespace != "kube-node-lease" {
                return Err(Refusal::not_found("leases", "coordination.k8s.io", name));
            }
            Ok(render::lease(&node, &world.lease(&node)?))
        }
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
        let answer = match query.get("continue") {
            None => {
                self.call(Call::Read, |world| {
                    Ok((
                        Arc::new(items(world, target.kind, &filter)),
                        world.resource_version(),
                        0,
                        None,
                    ))
                })
                .await
            }
            Some(token) => {
                self.call(Call::Read, |world| self.resume(world, token))
                    .await
            }
        };
        let (all, rv, start, snapshot) = match answer {
            Ok(found) => found,
            Err(failure) => return failed(&failure),
        };
        let limit = match query.number("limit") as usize {
            0 => all.len(),
            limit => limit,
        };
        let end = all.len().min(start + limit);
        let mut metadata = json!({"resourceVersion": rv.to_string()});
        if end < all.len() {
            let snapshot = snapshot.unwrap_or_else(|| self.keep(all.clone()));
            let token = Continue {
                v: "meta.k8s.io/v1".to_owned(),
                rv,
                start: end,
                snapshot,
            };
            let text = serde_json::to_string(&token).unwrap_or_default();
            metadata["continue"] = STANDARD.encode(text).into();
            if !filter.selects() {
                metadata["remainingItemCount"] = (all.len() - end).into();
            }
        }
        let body = json!({
            "kind": format!("{}List", target.kind.kind()),
            "apiVersion": target.kind.api_version(),
            "metadata": metadata,
            "items": all.get(start..end).unwrap_or_default(),
        });
        ok(StatusCode::OK, &body)
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

    fn resume(
        &self,
        world: &World,
        token: &str,
    ) -> Result<(Arc<Vec<Value>>, u64, usize, Option<u64>), Refusal> {
        let bad = |why: &str| Refusal::bad_request(format!("continue key is not valid: {why}"));
        let bytes = STANDARD
            .decode(token)
            .map_err(|error| bad(&error.to_string()))?;
        let token: Continue =
            serde_json::from_slice(&bytes).map_err(|error| bad(&error.to_string()))?;
        let snapshots = super::lock(&self.snapshots);
        let found = snapshots.open.iter().find(|(id, _)| *id == token.snapshot);
        match (found, world.events_since(token.rv)) {
            (Some((id, items)), Ok(_)) => Ok((items.clone(), token.rv, token.start, Some(*id))),
            _ => Err(Refusal::expired(EXPIRED)),
        }
    }
}
