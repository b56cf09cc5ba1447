//! `POST /evenkeel/v1/projects/{project}/clusters/{cluster}/machines/scan`: which SSH host keys the machines of nodes show
//! to the server, for a person to compare and confirm. Nothing is stored, and nobody is logged in to.
//!
//! ```json
//! {"nodes": ["node-1"], "port": 22, "address": "internal-ip", "overrides": {"node-1": "10.0.0.1:2222"}}
//! ```

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use evenkeel_api::Violation;
use evenkeel_api::json::{At, parse_request};
use evenkeel_engine::ids::NodeName;
use futures::StreamExt as _;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

use super::machines::{is_place, map, strings};
use crate::http::auth::Call;
use crate::http::error::ApiError;
use crate::http::ports::Scanner;
use crate::http::{ApiState, load};
use crate::records::{NodeRecord, keys};

/// Nodes per call. A machine that does not answer takes 15 s; with [`AT_ONCE`] a call ends within two minutes.
const NODES_MAX: usize = 100;
/// Machines that are looked at side by side.
const AT_ONCE: usize = 16;

struct Asked {
    nodes: Vec<String>,
    port: u16,
    by_name: bool,
    overrides: BTreeMap<String, String>,
}

/// Shows the keys.
pub(in crate::http) async fn scan(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    Path((_, cluster)): Path<(String, String)>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let project = call.project();
    let cluster = load::cluster(&*state.store, project, &cluster).await?.record.id;
    let request = parse_request(&body).map_err(ApiError::Invalid)?;
    let known: BTreeMap<String, NodeRecord> =
        load::list::<NodeRecord>(&*state.store, &keys::nodes(project, &cluster))
            .await?
            .into_iter()
            .map(|node| (node.record.name.clone(), node.record))
            .collect();
    let mut found = Vec::new();
    let asked = read(&At::root(&request), &known, &mut found);
    let (Some(asked), true) = (asked, found.is_empty()) else {
        return Err(ApiError::Invalid(found));
    };
    let snapshot = state.board.get(&cluster);
    let mut looks = Vec::new();
    for name in asked.nodes {
        let seen = snapshot.as_deref().and_then(|s| s.nodes.get(&NodeName::new(&name)));
        let ip = seen.and_then(|node| node.internal_ip.as_deref().map(str::to_owned));
        let ip = ip.or_else(|| known.get(&name).and_then(|record| record.internal_ip.clone()));
        let by_rule = if asked.by_name { Some(name.clone()) } else { ip };
        let place = asked.overrides.get(&name).cloned().or(by_rule);
        looks.push(look(state.scanner.clone(), name, place, asked.port));
    }
    let hosts: Vec<Value> = futures::stream::iter(looks).buffered(AT_ONCE).collect().await;
    load::json(StatusCode::OK, &json!({ "hosts": hosts }))
}

async fn look(scanner: Arc<dyn Scanner>, node: String, place: Option<String>, port: u16) -> Value {
    let Some(place) = place else {
        let error = "its status reports no InternalIP; give its address";
        return json!({ "node": node, "error": error });
    };
    match scanner.scan(&place, port).await {
        Ok(shown) => json!({
            "node": node,
            "address": shown.address,
            "hostKey": shown.host_key,
            "fingerprint": shown.fingerprint,
        }),
        Err(error) => json!({ "node": node, "address": place, "error": error }),
    }
}

fn read(
    root: &At<'_>,
    known: &BTreeMap<String, NodeRecord>,
    found: &mut Vec<Violation>,
) -> Option<Asked> {
    let nodes = strings(root, "nodes", found);
    if nodes.is_empty() || nodes.len() > NODES_MAX {
        let rule = format!("holds {} names, 1 to {NODES_MAX} are taken", nodes.len());
        found.push(Violation::new(root.child_path("nodes"), rule));
    }
    let overrides = map(root, "overrides", found);
    for name in nodes.iter().filter(|name| !known.contains_key(*name)) {
        let violation = Violation::new(root.child_path("nodes"), "names no node of this cluster");
        found.push(violation.with_value(&Value::from(name.as_str())));
    }
    for place in overrides.values().filter(|place| !is_place(place)) {
        let violation = Violation::new(root.child_path("overrides"), "is not host or host:port");
        found.push(violation.with_value(&Value::from(place.as_str())));
    }
    let port = root.get("port").map_or(Some(22), |port| port.integer(1, 65_535, found))?;
    let rule = root.get("address").map(|at| at.one_of(&["internal-ip", "name"], found));
    let by_name = rule == Some(Some("name"));
    Some(Asked { nodes, port: u16::try_from(port).ok()?, by_name, overrides })
}
