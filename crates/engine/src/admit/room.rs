//! Whether the pods of one more node fit on those that stay. Sums over the whole cluster, as the preview's verdict:
//! how pods pack and what confines them to some nodes is not looked at here.

use crate::ids::NodeName;
use crate::place::Resources;
use crate::plan::Ctx;
use crate::sync::Sync;
use std::collections::BTreeSet;

/// What is free, and what is promised of it. O(nodes in hand) to read, O(1) to ask.
pub(super) struct Room {
    left: Option<Resources>,
}

impl Room {
    /// Nodes in hand, of whichever job, keep nothing free, and what still runs on them wants a place.
    pub(super) fn of(ctx: &Ctx<'_>, sync: &Sync) -> Self {
        let mut room = Self { left: ctx.index.free() };
        let marked = ctx.index.marked().map(|entry| &entry.seen.name);
        let in_hand: BTreeSet<&NodeName> = sync.holding().map(|w| &w.name).chain(marked).collect();
        for name in in_hand {
            room.take(ctx, name);
        }
        room
    }

    pub(super) fn take(&mut self, ctx: &Ctx<'_>, node: &NodeName) {
        if let Some(left) = &mut self.left {
            *left -= Self::costs(ctx, node);
        }
    }

    /// What is short if this node is taken as well; nothing where there is room, or where nodes do not say.
    pub(super) fn short(&self, ctx: &Ctx<'_>, node: &NodeName) -> Option<&'static str> {
        let (left, costs) = (self.left?, Self::costs(ctx, node));
        if costs.cpu_m > left.cpu_m {
            Some("CPU")
        } else if costs.memory > left.memory {
            Some("memory")
        } else {
            (costs.pods > left.pods).then_some("places for pods")
        }
    }

    /// Its own free room goes, and its pods need room elsewhere.
    fn costs(ctx: &Ctx<'_>, node: &NodeName) -> Resources {
        ctx.index.free_on(node).unwrap_or_default() + ctx.index.moving(node)
    }
}
