//! What must hold of the taint that pods avoid nodes by: it is put on targets alone, and no other taint goes with it.

use super::History;
use crate::check::{Broken, Who, broken};
use crate::ids::NodeName;

impl History {
    /// S5 and S15. That it goes again is S24, at rest: a request that was held up may put it on after the end.
    pub(super) fn tainted(
        &mut self,
        node: &NodeName,
        by: Who,
        steered: bool,
        lost: &[String],
    ) -> Result<(), Broken> {
        if by == Who::Us && !lost.is_empty() {
            return broken("S5", format!("{node} lost {}", lost.join(", ")));
        }
        let target = self.jobs.values().any(|job| job.targets.contains(node));
        if by == Who::Us && steered && !target {
            return broken("S15", format!("pods avoid {node}, which is no target of any job"));
        }
        self.node(node).steered = steered;
        Ok(())
    }
}
