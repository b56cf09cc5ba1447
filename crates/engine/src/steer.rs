//! Soft steering: while a job runs, the nodes that are still to do carry a taint that asks schedulers to prefer others.
//! Pods that are evicted then land on nodes that are done, and move once.
//!
//! Entry points: [`Steering::follow`], as part of [`Order::follow`](crate::order::Order::follow), and [`steer`], at the
//! end of each decision. The taint goes with the node's release, in the same write, and is taken off whatever carries
//! it and is not to do: after a failure, a skip, a cancel, and after a crash. Nothing ever waits for it.

use crate::action::Action;
use crate::changes::Changes;
use crate::facts::NodeSeen;
use crate::ids::{JobId, NodeName};
use crate::index::Index;
use crate::pace;
use crate::phase::Phase;
use crate::plan::{Ctx, Plan};
use crate::sync::Sync;
use crate::time::Span;
use std::collections::{BTreeMap, BTreeSet};

/// Between two writes: every write to a Node fans out to all who watch nodes, and a pool of 1,000 is done in less than
/// the reset of its first node takes.
pub const PACE: Span = Span(50);
/// Writes under way at once; a slow API server is asked for no more.
const AT_ONCE: usize = 4;
/// Nodes looked at in one decision where the first ones pause after a fault.
const LOOKED_MAX: usize = 64;

/// Which nodes carry the taint and should not, or should and do not. Kept from change to change.
#[derive(Clone, Debug, Default)]
pub struct Steering {
    /// The running jobs at the last look; none before the first.
    jobs: Option<BTreeSet<JobId>>,
    lack: BTreeMap<JobId, BTreeSet<NodeName>>,
    stray: BTreeSet<NodeName>,
}

impl Steering {
    /// Looks at what changed, and at every target when a job begins or ends.
    pub(crate) fn follow(&mut self, index: &Index, changes: &Changes, running: &[&Sync]) {
        let same = |jobs: &BTreeSet<JobId>| {
            jobs.len() == running.len() && running.iter().all(|s| jobs.contains(&s.spec.job))
        };
        if self.jobs.as_ref().is_some_and(same) {
            for name in changes.moved.values().flatten().chain(&changes.nodes) {
                self.judge(index, running, name);
            }
            return;
        }
        let jobs = running.iter().map(|sync| sync.spec.job.clone()).collect();
        *self = Self { jobs: Some(jobs), ..Self::default() };
        for target in running.iter().flat_map(|sync| &sync.spec.targets) {
            self.judge(index, running, &target.name);
        }
        for entry in index.steered() {
            self.judge(index, running, &entry.seen.name);
        }
    }

    fn judge(&mut self, index: &Index, running: &[&Sync], name: &NodeName) {
        self.stray.remove(name);
        for lack in self.lack.values_mut() {
            lack.remove(name);
        }
        let Some(seen) = index.node(name).map(|entry| &entry.seen) else {
            return;
        };
        // A node in hand is cordoned, and its release takes the taint along.
        if running.iter().any(|s| s.work(name).is_some_and(|w| w.phase.is_active())) {
            return;
        }
        let job = running.iter().find(|s| is_to_do(s, seen)).map(|s| &s.spec.job);
        match job {
            None if seen.steered() => _ = self.stray.insert(name.clone()),
            Some(job) if !seen.steered() && seen.available() => {
                self.lack.entry(job.clone()).or_default().insert(name.clone());
            }
            _ => {}
        }
    }
}

/// Whether a node still waits for its turn in this job, and steering is on.
fn is_to_do(sync: &Sync, seen: &NodeSeen) -> bool {
    let again = |name| sync.work(name).is_some_and(|w| matches!(w.phase, Phase::Waiting { .. }));
    let kept_by_people = seen.hold || (seen.cordoned_by_others() && !sync.spec.named);
    sync.spec.policy.steer
        && !kept_by_people
        && (sync.untouched().contains(&seen.name) || again(&seen.name))
}

/// Takes the taint off where it does not belong, then puts it on where it helps: at most one write in [`PACE`].
pub(crate) fn steer<'a>(ctx: &Ctx<'_>, syncs: impl Iterator<Item = &'a Sync>, plan: &mut Plan) {
    let steering = ctx.order.steering();
    if !ctx.index.live() || ctx.ledger.steering() >= AT_ONCE {
        return;
    }
    let strays = steering.stray.iter().map(|name| (name, false));
    // Whoever goes next gains nothing: the last ones first.
    let lacking = syncs
        .filter(|sync| sync.running() && helps(ctx, sync))
        .filter_map(|sync| steering.lack.get(&sync.spec.job))
        .flat_map(|names| names.iter().rev().map(|name| (name, true)));
    for (name, away) in strays.chain(lacking).take(LOOKED_MAX) {
        if let Some(at) = ctx.ledger.steered_at().map(|at| at + PACE).filter(|at| *at > ctx.now) {
            plan.wake(at);
            return;
        }
        let before = plan.actions.len();
        plan.emit(ctx, Action::Steer { node: name.clone(), away });
        if plan.actions.len() > before {
            return;
        }
    }
}

/// Whether evicted pods have anywhere better to go soon: the configuration is proven, nodes may be taken, some will be
/// left waiting, and the API server has time for it.
fn helps(ctx: &Ctx<'_>, sync: &Sync) -> bool {
    let (spec, max) = (&sync.spec, sync.spec.max_unavailable);
    let waiting = sync.untouched().len() + sync.waiting().count();
    (spec.proven || !spec.policy.canary || sync.proofs() > 0)
        && waiting > max.saturating_sub(sync.holding_count()) as usize
        && pace::holds_up(sync, ctx.now).is_none()
        && ctx.ledger.pressure().eases_at(ctx.now).is_none()
}
