//! What nodes in hand wait for, told to people with kubectl: an Event on the node when that changes.

use evenkeel_engine::ids::{JobId, NodeName};
use evenkeel_engine::report::JobReport;
use evenkeel_engine::time::{Span, Time};
use std::collections::BTreeMap;

/// Between two Events about one node's waiting: reasons may change with every pod that ends, and each Event is a write.
const TELL_EVERY: Span = Span::secs(2);

/// What was told last, by node.
#[derive(Debug, Default)]
pub(super) struct Told(BTreeMap<NodeName, (String, Time)>);

impl Told {
    /// What there is to tell now: the node, its job, and the sentence that the job shows as well. And when the next
    /// sentence is due that came too soon.
    pub(super) fn news(
        &mut self,
        reports: &BTreeMap<JobId, JobReport>,
        now: Time,
    ) -> (Vec<(NodeName, JobId, String)>, Option<Time>) {
        let held = |node: &NodeName| reports.values().any(|report| report.nodes.contains_key(node));
        self.0.retain(|node, _| held(node));
        let (mut news, mut due) = (Vec::new(), None::<Time>);
        for (job, report) in reports {
            for (node, on) in &report.nodes {
                let Some(subject) = on.subject() else {
                    continue;
                };
                match self.0.get(node) {
                    Some((told, _)) if *told == subject => continue,
                    Some((_, at)) if now - *at < TELL_EVERY => {
                        due = due.into_iter().chain([*at + TELL_EVERY]).min();
                        continue;
                    }
                    _ => {}
                }
                self.0.insert(node.clone(), (subject, now));
                news.push((node.clone(), job.clone(), on.to_string()));
            }
        }
        (news, due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_engine::ids::ObjectKey;
    use evenkeel_engine::phase::Blocker;
    use evenkeel_engine::report::WaitingOn;

    fn report(on: WaitingOn) -> BTreeMap<JobId, JobReport> {
        let nodes = [(NodeName::new("n1"), on)].into();
        [(JobId::new("job"), JobReport { nodes, ..JobReport::default() })].into()
    }

    #[test]
    fn each_subject_is_told_once_and_not_too_often() {
        let budget = |name: &str, why: &str| {
            let blocker = Blocker {
                pod: ObjectKey::new("default", "web-1"),
                budget: Some(ObjectKey::new("default", name)),
                why: why.to_owned(),
            };
            report(WaitingOn::Budget { blocker })
        };
        let mut told = Told::default();
        let at = |s| Time(0) + Span::secs(s);
        assert!(told.news(&report(WaitingOn::View), at(0)).0.is_empty());
        let (first, _) = told.news(&budget("web", "it needs 3 healthy pods and has 3"), at(1));
        assert_eq!(first.len(), 1);
        assert!(first[0].2.contains("budget default/web"), "{first:?}");
        assert!(told.news(&budget("web", "in other words"), at(9)).0.is_empty());
        assert_eq!(told.news(&budget("db", "why"), at(10)).0.len(), 1);
        let soon = told.news(&budget("web", "why"), at(11));
        assert_eq!(soon, (Vec::new(), Some(at(12))), "too soon");
        assert_eq!(told.news(&budget("web", "why"), at(12)).0.len(), 1);
        assert!(told.news(&BTreeMap::new(), at(13)).0.is_empty());
        assert!(told.0.is_empty(), "nothing is kept of a node that nobody has in hand");
    }
}
