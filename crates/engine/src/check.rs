//! The invariants. Simulator, tests and (for those that one turn can break) the actor share this module.
//!
//! [`plan`] looks at one decision before it is committed. [`history`] looks at what happened outside, as the API
//! server, the hosts and the store saw it, and never at the controller's own memory.

mod fact;
mod history;

pub use fact::{Fact, Who};
pub use history::History;

use crate::control;
use crate::ids::{JobId, NodeName};
use crate::phase::Phase;
use crate::plan::Plan;
use crate::sync::{Sync, Work};
use std::collections::BTreeMap;

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{id}: {what}")]
pub struct Broken {
    /// S1, S2, ...
    pub id: &'static str,
    /// What was found.
    pub what: String,
}

pub(crate) fn broken<T>(id: &'static str, what: impl Into<String>) -> Result<T, Broken> {
    Err(Broken { id, what: what.into() })
}

/// Checks a decision before it is stored: S1 (work limit), S2, S13, S15 and S23.
pub fn plan<'a>(syncs: impl Iterator<Item = &'a Sync>, plan: &Plan) -> Result<(), Broken> {
    let mut owner: BTreeMap<NodeName, JobId> = BTreeMap::new();
    for sync in syncs {
        let job = &sync.spec.job;
        let mut after: BTreeMap<&NodeName, &Phase> =
            sync.works().map(|w| (&w.name, &w.phase)).collect();
        for (_, work) in plan.works.iter().filter(|(j, _)| j == job) {
            if sync.id_of(&work.name).is_none() {
                return broken("S15", format!("{} is not a target of {job}", work.name));
            }
            if let Some(before) = after.insert(&work.name, &work.phase)
                && before.is_terminal()
                && !control::reopens(&sync.control, &work.name, before, &work.phase)
            {
                return broken("S13", format!("{} had ended as {}", work.name, before.word()));
            }
        }
        let takes = |w: &Work| {
            let held = sync.work(&w.name).is_some_and(|before| before.phase.is_active());
            matches!(w.phase, Phase::Claiming { .. }) && !held
        };
        if sync.control.stops()
            && let Some((_, work)) = plan.works.iter().find(|(j, w)| j == job && takes(w))
        {
            return broken("S23", format!("{} was taken while {job} is stopped", work.name));
        }
        let holding = after.values().filter(|p| p.holds_slot()).count();
        if holding > sync.spec.max_unavailable as usize {
            let max = sync.spec.max_unavailable;
            return broken("S1", format!("{holding} nodes of {job} in hand, at most {max} may be"));
        }
        for (name, phase) in after {
            if phase.is_active()
                && let Some(other) = owner.insert(name.clone(), job.clone())
            {
                return broken("S2", format!("{name} is held by {other} and by {job}"));
            }
        }
    }
    Ok(())
}
