//! `pods/eviction`, step by step as the real server does it (`pkg/registry/core/pod/storage/eviction.go`, v1.36).

use super::api::{DeleteOptions, check_delete};
use super::{Task, World};
use crate::history::Happened;
use crate::objects::{Budget, Pod};
use crate::status::Refusal;
use evenkeel_engine::facts::PodPhase;
use evenkeel_engine::ids::ObjectKey;
use std::sync::Arc;

/// `MaxDisruptedPodSize` of the eviction registry.
const DISRUPTED_MAX: usize = 2000;
/// Two evictions under one budget closer than this conflict on its status: about one round trip to etcd.
const CONFLICT_WINDOW_MS: u64 = 10;
/// What the server sleeps before it tries again after a conflict (`EvictionsRetry`).
const CONFLICT_SLEEP_MS: u64 = 500;

impl World {
    /// POST of an eviction. `body_name` is the name in the Eviction object.
    pub fn evict(
        &mut self,
        key: &ObjectKey,
        body_name: &str,
        options: &DeleteOptions,
    ) -> Result<(), Refusal> {
        let answer = self.try_evict(key, body_name, options);
        if let Err(refusal) = &answer
            && !options.dry_run
        {
            if refusal.code == 429 {
                self.coverage.budget_429 += 1;
            }
            let uid = options.precondition.uid.clone();
            if let Some(uid) = uid.or_else(|| self.pods.get(key).map(|pod| pod.uid.clone())) {
                let code = refusal.code;
                self.happened(Happened::EvictionRefused { uid, code });
            }
        }
        answer
    }

    fn try_evict(
        &mut self,
        key: &ObjectKey,
        body_name: &str,
        options: &DeleteOptions,
    ) -> Result<(), Refusal> {
        if *key.name != *body_name {
            return Err(Refusal::bad_request("name in URL does not match name in Eviction object"));
        }
        let pod = self.pod(key)?;
        let over = matches!(pod.phase, PodPhase::Pending | PodPhase::Finished);
        if over || pod.deleting_since.is_some() {
            return self.delete_evicted(&pod, options);
        }
        let budgets: Vec<_> = self.budgets.values().filter(|b| b.covers(&pod)).cloned().collect();
        let budget = match budgets.as_slice() {
            [] => return self.delete_evicted(&pod, options),
            [one] => one.clone(),
            _ => return Err(Refusal::two_budgets()),
        };
        if !pod.ready {
            let spare = budget.status.current >= budget.status.desired && budget.status.desired > 0;
            if budget.always_allow_unready || spare {
                return self.delete_evicted(&pod, options);
            }
        }
        self.check_and_decrement(&pod, &budget, options.dry_run)?;
        // The budget is charged before the precondition is looked at: a stale UID burns it.
        self.delete_evicted(&pod, options)
    }

    fn check_and_decrement(
        &mut self,
        pod: &Pod,
        budget: &Budget,
        dry_run: bool,
    ) -> Result<(), Refusal> {
        let name = &budget.key.name;
        let status = &budget.status;
        if status.observed_generation < budget.generation {
            let cause =
                format!("The disruption budget {name} is still being processed by the server.");
            return Err(Refusal::budget(cause, Some(10)));
        }
        let forbidden = |why| Err(Refusal::forbidden("poddisruptionbudget", "policy", name, why));
        if status.allowed < 0 {
            return forbidden("pdb disruptions allowed is negative");
        }
        if status.disrupted.len() > DISRUPTED_MAX {
            return forbidden(
                "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
            );
        }
        if status.allowed == 0 {
            let cause = if status.current <= status.desired {
                format!(
                    "The disruption budget {name} needs {} healthy pods and has {} currently",
                    status.desired, status.current
                )
            } else {
                format!("The disruption budget {name} does not allow evicting pods currently")
            };
            return Err(Refusal::budget(cause, None));
        }
        if dry_run {
            return Ok(());
        }
        if self.last_decrement.get(&budget.key).is_some_and(|at| self.now - at < CONFLICT_WINDOW_MS)
        {
            self.coverage.budget_conflicts += 1;
            self.penalty_ms += CONFLICT_SLEEP_MS;
        }
        self.last_decrement.insert(budget.key.clone(), self.now);
        let mut charged = budget.clone();
        charged.status.allowed -= 1;
        charged.status.disrupted.insert(pod.key.name.to_string(), self.now);
        self.put_budget(charged);
        self.later_between(10, 400, Task::BudgetSync(budget.key.clone()));
        Ok(())
    }

    fn delete_evicted(&mut self, pod: &Arc<Pod>, options: &DeleteOptions) -> Result<(), Refusal> {
        check_delete("Pod", pod, &options.precondition)?;
        if options.dry_run {
            return Ok(());
        }
        if pod.deleting_since.is_some() {
            self.happened(Happened::EvictionRepeated { uid: pod.uid.clone() });
        } else {
            let mut marked = pod.as_ref().clone();
            marked.evicted = true;
            self.put_pod(marked);
            self.happened(Happened::EvictionAccepted {
                uid: pod.uid.clone(),
                node: pod.node.clone(),
            });
        }
        self.begin_delete(&pod.key, options.grace_s);
        Ok(())
    }
}
