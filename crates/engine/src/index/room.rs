//! What nodes in service have free, node by node and together: kept up to date with each change of one node.

use crate::ids::NodeName;
use crate::place::Resources;
use std::collections::BTreeMap;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Room {
    free: BTreeMap<NodeName, Resources>,
    total: Resources,
}

impl Room {
    /// What a node has free now; nothing if it takes no pods or says nothing of what it offers.
    pub(super) fn set(&mut self, node: &NodeName, free: Option<Resources>) {
        let before = match free {
            Some(free) => {
                self.total += free;
                self.free.insert(node.clone(), free)
            }
            None => self.free.remove(node),
        };
        self.total -= before.unwrap_or_default();
    }

    pub(super) fn on(&self, node: &NodeName) -> Option<Resources> {
        self.free.get(node).copied()
    }

    pub(super) fn total(&self) -> Option<Resources> {
        (!self.free.is_empty()).then_some(self.total)
    }
}
