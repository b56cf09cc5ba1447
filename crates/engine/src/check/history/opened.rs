//! What must hold when a node is opened again: it is initialized, carries what its pool declares, and has lost nothing.

use super::History;
use crate::check::{Broken, broken};
use crate::ids::NodeName;
use crate::phase::{Outcome, Phase};
use std::collections::{BTreeMap, BTreeSet};

impl History {
    /// S21: a node that was reset is opened only once it is initialized.
    pub(super) fn opened(&self, node: &NodeName) -> Result<(), Broken> {
        let Some(entry) = self.nodes.get(node) else {
            return Ok(());
        };
        let Some((job, work)) = entry
            .holder
            .as_ref()
            .and_then(|job| Some((self.jobs.get(job)?, entry.works.get(job)?)))
        else {
            return Ok(());
        };
        let is_back = matches!(
            work.phase,
            Phase::PostInstall { .. } | Phase::Releasing { then: Outcome::Done, .. }
        );
        match job.initialized.difference(&entry.met).next() {
            Some(condition) if is_back => {
                broken("S21", format!("{node} was opened and {condition} is not True yet"))
            }
            _ => Ok(()),
        }
    }

    /// S5 and S22: the release brings what is the pool's, and takes nothing that is others'.
    pub(super) fn dressed(
        &mut self,
        node: &NodeName,
        labels: &BTreeMap<String, String>,
        taints: &BTreeSet<(String, String)>,
        lost: &[String],
    ) -> Result<(), Broken> {
        if !lost.is_empty() {
            return broken("S5", format!("our release took {} from {node}", lost.join(", ")));
        }
        let holder = self.node(node).holder.clone();
        let Some(job) = holder.as_ref().and_then(|job| self.jobs.get(job)) else {
            return Ok(());
        };
        let labelled = job.labels.iter().all(|(key, value)| labels.get(key) == Some(value));
        if !labelled || !job.taints.is_subset(taints) {
            return broken("S22", format!("{node} was released without what its pool declares"));
        }
        self.node(node).dressed = true;
        Ok(())
    }
}
