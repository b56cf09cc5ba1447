//! How a node differs from what its pool declares: field by field, and what brings it there.
//!
//! Pure comparison. What a template means, field by field, is said by whoever reads templates.

use crate::facts::NodeSeen;
use crate::place::Taint;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How a change reaches a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Applied {
    /// Without a reset.
    InPlace,
    /// By a reset.
    Reset,
    /// Not at all: nodes that are made later get it.
    NewNodesOnly,
}

/// Fields of a template in words, by how they are applied. Secrets appear as digests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Parts {
    /// What only a reset brings.
    pub reset: BTreeMap<String, String>,
    /// What only new nodes get.
    pub new_nodes: BTreeMap<String, String>,
}

/// What a pool wants of each of its nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Fields of the template.
    pub parts: Parts,
    /// Labels that its nodes are to carry.
    pub labels: BTreeMap<String, String>,
    /// Taints that its nodes are to carry.
    pub taints: Vec<Taint>,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// The field, as the template names it.
    pub field: String,
    /// What the pool declares; nothing where it declares nothing.
    pub wanted: Option<String>,
    /// What is there; nothing where nothing is, or nothing is known.
    pub found: Option<String>,
    /// What brings it there.
    pub applied: Applied,
}

/// Compares. `carried` is what was last applied on the node; `None` before its first synchronization, when only what
/// the pool declares can be said.
pub fn drift(wanted: &Wanted, carried: Option<&Parts>, seen: Option<&NodeSeen>) -> Vec<Drift> {
    let mut found = Vec::new();
    let empty = Parts::default();
    let has = carried.unwrap_or(&empty);
    differ(&wanted.parts.reset, &has.reset, Applied::Reset, &mut found);
    if carried.is_some() {
        differ(&wanted.parts.new_nodes, &has.new_nodes, Applied::NewNodesOnly, &mut found);
    }
    let Some(seen) = seen else {
        return found;
    };
    for (key, value) in &wanted.labels {
        let there = seen.labels.get(key);
        if there != Some(value) {
            let (wanted, found_) = (Some(value.clone()), there.cloned());
            let field = format!("label {key}");
            found.push(Drift { field, wanted, found: found_, applied: Applied::InPlace });
        }
    }
    for taint in &wanted.taints {
        let there = seen.taints.iter().find(|t| t.key == taint.key && t.effect == taint.effect);
        if there != Some(taint) {
            found.push(Drift {
                field: format!("taint {}:{}", taint.key, taint.effect),
                wanted: Some(taint.value.to_string()),
                found: there.map(|t| t.value.to_string()),
                applied: Applied::InPlace,
            });
        }
    }
    found
}

fn differ(
    wanted: &BTreeMap<String, String>,
    has: &BTreeMap<String, String>,
    applied: Applied,
    found: &mut Vec<Drift>,
) {
    for (field, value) in wanted {
        let there = has.get(field);
        if there != Some(value) {
            let (wanted, there) = (Some(value.clone()), there.cloned());
            found.push(Drift { field: field.clone(), wanted, found: there, applied });
        }
    }
    for (field, value) in has.iter().filter(|(field, _)| !wanted.contains_key(*field)) {
        let there = Some(value.clone());
        found.push(Drift { field: field.clone(), wanted: None, found: there, applied });
    }
}
