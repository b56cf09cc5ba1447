//! Checks that need the store: what is named must exist, belong here, and be fit to be reset.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::{HeaderMap, header};
use evenkeel_api::upgrade::{Upgrade, VALIDATE_STORAGE_LIMIT};
use evenkeel_api::{ErrorCode, Violation};
use evenkeel_engine::ids::{NodeId, NodeName, PoolId, TemplateRevision};
use evenkeel_engine::sync::TargetNode;
use serde_json::Value;

use crate::http::convert::up_to_date;
use crate::http::error::ApiError;
use crate::records::{ClusterRecord, Image, NodeRecord, PoolRecord, Recipe};
use crate::sync::board::Snapshot;

/// Bodies are JSON. The page of the operation lists two more types, which the service refuses with this code too.
pub(super) fn require_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(());
    };
    let text = value.to_str().unwrap_or_default();
    let media = text.split(';').next().unwrap_or_default().trim();
    if media.is_empty() || media.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let shown: String = media.chars().take(64).collect();
    let text = format!("Content-Type: {shown} cannot be read here; send application/json");
    Err(ApiError::refused(ErrorCode::ContentTypeNotSupported, text))
}

/// Whether the cluster says what a reset is and how its machines are reached.
pub(super) fn recipe(
    cluster: &ClusterRecord,
    has_agents: bool,
    found: &mut Vec<Violation>,
) -> Recipe {
    let way = format!("set one with `evenkeel cluster set-machines {}`", cluster.name);
    match (&cluster.recipe, &cluster.machines) {
        (None, _) => {
            let violation =
                Violation::new("cluster", "has no recipe, so nothing says what a reset is");
            found.push(violation.with_way_out(way));
            Recipe::None
        }
        (Some(recipe), None)
            if !has_agents && !matches!(recipe, Recipe::Command { .. } | Recipe::None) =>
        {
            let violation = Violation::new(
                "cluster",
                "has no SSH access to its machines and no agent on one, which its recipe needs",
            );
            found.push(violation.with_way_out(way));
            Recipe::None
        }
        (Some(recipe), _) => recipe.clone(),
    }
}

/// Names in a refusal are cut here: a line shows that many.
const NAMES_MAX: usize = 5;

/// A recipe that works inside the installed system cannot bring another OS, image or runtime: nodes that are known to
/// carry one and are to get another one are refused, not reset for nothing. With a reimage hook it can.
pub(super) fn image(
    cluster: &ClusterRecord,
    nodes: &[NodeRecord],
    targets: &Targets,
    wanted: Option<&Image>,
    found: &mut Vec<Violation>,
) {
    let (Some(recipe), Some(wanted)) = (&cluster.recipe, wanted) else { return };
    let inside = matches!(recipe, Recipe::Script { .. } | Recipe::Kubeadm(_));
    if !inside || recipe.reimage().is_some() {
        return;
    }
    let ids: BTreeSet<&str> = targets.targets.iter().map(|t| t.id.as_str()).collect();
    let other: Vec<&NodeRecord> = nodes
        .iter()
        .filter(|n| ids.contains(n.id.as_str()))
        .filter(|n| n.image.as_ref().is_some_and(|has| has.differs(wanted)))
        .collect();
    let Some(first) = other.first() else { return };
    let names: Vec<&str> = other.iter().take(NAMES_MAX).map(|n| n.name.as_str()).collect();
    let rule = format!(
        "names {wanted}, but {} of its nodes ({}) carry {}, and the cluster's recipe works inside the installed \
         system: it has no reimage hook",
        other.len(),
        names.join(", "),
        first.image.clone().unwrap_or_default()
    );
    let violation = Violation::new("the pool's spec.nodeTemplate", rule);
    found.push(violation.with_way_out(
        "give the recipe a hook that reinstalls machines (`evenkeel cluster set-machines ... --reimage`), use the \
         recipe `command`, or put os, image and runtime back to what the nodes carry",
    ));
}

/// A hook that reinstalls machines announces an SSH host key; an agent would go with the disk it is on.
pub(super) fn reimage(
    cluster: &ClusterRecord,
    targets: &Targets,
    agents: &BTreeSet<NodeId>,
    found: &mut Vec<Violation>,
) {
    if cluster.recipe.as_ref().and_then(Recipe::reimage).is_none() {
        return;
    }
    let theirs: Vec<&str> = targets
        .targets
        .iter()
        .filter(|t| agents.contains(&t.id))
        .map(|t| t.name.as_str())
        .collect();
    if theirs.is_empty() {
        return;
    }
    let rule = format!(
        "has a hook that reinstalls machines, but {} of the nodes ({}) are reached through agents, which would not \
         survive it",
        theirs.len(),
        theirs.iter().take(NAMES_MAX).copied().collect::<Vec<_>>().join(", ")
    );
    let violation = Violation::new("the cluster's recipe", rule);
    found.push(violation.with_way_out(
        "name them in skippedNodes, or revoke their agents (`evenkeel agent revoke NODE`) and let them be reached \
         over SSH, or take the hook out of the recipe",
    ));
}

/// The recipe `script` hands its commands nothing: parameters that were set for the pool would not arrive.
pub(super) fn configuration(
    cluster: &ClusterRecord,
    pool: Option<&PoolRecord>,
    found: &mut Vec<Violation>,
) {
    let Some(pool) = pool.filter(|pool| !pool.configuration.is_empty()) else { return };
    if !matches!(cluster.recipe, Some(Recipe::Script { .. })) {
        return;
    }
    let names = pool.configuration.values().flat_map(|package| package.keys());
    let names: Vec<&str> = names.take(NAMES_MAX).map(String::as_str).collect();
    let rule = format!(
        "sets {}, which the recipe `script` of the cluster does not bring to a host",
        names.join(", ")
    );
    let violation = Violation::new("the pool's configuration", rule);
    found.push(violation.with_way_out(
        "use the recipe `kubeadm` or `command`, or set them in your install script and here to null",
    ));
}

/// The nodes that a request means.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Targets {
    pub(super) targets: Vec<TargetNode>,
    pub(super) skipped: Vec<TargetNode>,
}

/// Freezes the list: the named nodes, or those of the pool that are not up to date; skipped ones win over both.
pub(super) fn targets(
    upgrade: &Upgrade,
    pool: &PoolId,
    nodes: &[NodeRecord],
    revision: &TemplateRevision,
    snapshot: Option<&Snapshot>,
    found: &mut Vec<Violation>,
) -> Targets {
    let known = Known {
        by_id: nodes.iter().map(|node| (node.id.as_str().to_ascii_lowercase(), node)).collect(),
        pool,
        snapshot,
    };
    let named = upgrade.node_ids.as_ref().map(|ids| known.look_up("spec.nodeIDs", ids, found));
    let skipped = known.look_up("spec.skippedNodes", &upgrade.skipped_nodes, found);
    let skip: BTreeSet<&str> = skipped.iter().map(|node| node.id.as_str()).collect();
    let meant = named.unwrap_or_else(|| {
        let outdated = |node: &&NodeRecord| {
            node.pool == *pool
                && !up_to_date(node, Some(revision))
                && !is_control_plane(node, snapshot)
        };
        nodes.iter().filter(outdated).collect()
    });
    let target =
        |node: &NodeRecord| TargetNode { id: node.id.clone(), name: NodeName::new(&node.name) };
    let sorted = |mut list: Vec<TargetNode>| {
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list.dedup();
        list
    };
    let targets: Vec<TargetNode> =
        meant.into_iter().filter(|node| !skip.contains(node.id.as_str())).map(target).collect();
    if upgrade.validate_storage && targets.len() > VALIDATE_STORAGE_LIMIT {
        let rule = format!(
            "is left out and means {} nodes, at most {VALIDATE_STORAGE_LIMIT} together with validateStorage",
            targets.len()
        );
        let violation = Violation::new("spec.nodeIDs", rule);
        found.push(violation.with_way_out("leave validateStorage out, or name fewer nodes"));
    }
    Targets {
        targets: sorted(targets),
        skipped: sorted(skipped.iter().map(|node| target(node)).collect()),
    }
}

/// The nodes of the cluster, to look ids up in.
struct Known<'a> {
    by_id: BTreeMap<String, &'a NodeRecord>,
    pool: &'a PoolId,
    snapshot: Option<&'a Snapshot>,
}

impl<'a> Known<'a> {
    /// The nodes of these ids that are in the pool; every other id is a violation.
    fn look_up(
        &self,
        field: &str,
        ids: &[String],
        found: &mut Vec<Violation>,
    ) -> Vec<&'a NodeRecord> {
        let mut known = Vec::new();
        for (index, id) in ids.iter().enumerate() {
            let (rule, way_out) = match self.by_id.get(&id.to_ascii_lowercase()) {
                Some(node) if is_control_plane(node, self.snapshot) => (
                    "is a control-plane node, which is in no pool and is never reset".to_owned(),
                    "leave it out",
                ),
                Some(node) if node.pool != *self.pool => (
                    format!("is in node pool {}, not in this one", node.pool),
                    "leave it out, or move it here with nodes/migrate",
                ),
                Some(node) => {
                    known.push(*node);
                    continue;
                }
                None => (
                    "is not a node of this cluster".to_owned(),
                    "send metadata.uid of a node, as the node list shows it",
                ),
            };
            let violation = Violation::new(format!("{field}[{index}]"), rule);
            found.push(violation.with_value(&Value::from(id.as_str())).with_way_out(way_out));
        }
        known
    }
}

/// Whether the node is seen to belong to the control plane.
pub(super) fn is_control_plane(node: &NodeRecord, snapshot: Option<&Snapshot>) -> bool {
    let seen = snapshot.and_then(|snapshot| snapshot.nodes.get(&NodeName::new(&node.name)));
    seen.is_some_and(|node| node.control_plane)
}
