//! What came back from our own actions: observations of a second kind, kept in memory only.
//!
//! After a restart the ledger is empty, and every action is simply asked for again: each may be repeated.

use crate::action::{Action, ActionKey, Answer, EvictAnswer, FaultSeen, HostState, Stage};
use crate::changes::Changes;
use crate::facts::{NodeSeen, PodSeen};
use crate::ids::{NodeName, ObjectKey, Uid};
use crate::pressure::Pressure;
use crate::time::{Span, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// First pause after a fault; doubled up to [`FAULT_PAUSE_MAX`]. kubectl and client-go start in the same range.
pub const FAULT_PAUSE_MIN: Span = Span(250);
/// Longest pause between tries: a machine that comes back is noticed within this time.
pub const FAULT_PAUSE_MAX: Span = Span::secs(15);
/// A refused eviction without Retry-After is tried again after this even if the budget's watch brought nothing:
/// the server's own "still being processed" answers name the same ten seconds.
pub const REFUSAL_PAUSE: Span = Span::secs(10);

/// An acknowledged write that its watch does not show within this time is written again. Watches are seldom a
/// second behind; every write to a Node fans out to every kube-proxy.
pub const WATCH_LAG: Span = Span::secs(1);
/// Verbs of actions that write to the API server and are proved by a watch.
const WRITES: &[&str] = &["claim", "cordon", "lift", "release", "delete", "steer", "unsteer"];

/// An action that fails again and again.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// When it began.
    pub first: Time,
    /// How often.
    pub count: u32,
    /// Not before this.
    pub again_at: Time,
    /// The last fault.
    pub fault: FaultSeen,
}

/// A refused eviction.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// When.
    pub at: Time,
    /// The server's sentence.
    pub message: String,
    /// The budget's version at the refusal: another one is worth a try.
    pub budget_version: Option<Arc<str>>,
    /// Worth a try from here on whatever the budget shows.
    pub again_at: Time,
    /// It will not work as things are.
    pub impossible: bool,
}

/// A fresh read and the time at which it was asked for.
#[derive(Clone, Debug)]
pub struct Confirmed {
    /// When it was asked for: it proves nothing about earlier phases.
    pub asked: Time,
    /// The node.
    pub node: Option<NodeSeen>,
    /// Its pods.
    pub pods: Vec<PodSeen>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    running: BTreeMap<ActionKey, Time>,
    trouble: BTreeMap<ActionKey, Trouble>,
    done: BTreeMap<ActionKey, Time>,
    lanes: BTreeSet<ObjectKey>,
    writing: BTreeSet<NodeName>,
    evicted: BTreeMap<Uid, Time>,
    refused: BTreeMap<Uid, Refusal>,
    spent: BTreeMap<ObjectKey, (Arc<str>, u32)>,
    granted: BTreeMap<ObjectKey, Time>,
    confirmed: BTreeMap<NodeName, Confirmed>,
    hosts: BTreeMap<(NodeName, u32, Stage), HostState>,
    renewed: BTreeMap<NodeName, (Time, Option<i64>)>,
    pressure: Pressure,
    steered_at: Option<Time>,
    changes: Changes,
}

/// Whether an action may be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Now.
    Open,
    /// The same one is under way.
    Running,
    /// After a pause.
    NotBefore(Time),
}

impl Ledger {
    /// Whether `key` may be started now.
    pub fn gate(&self, key: &ActionKey, now: Time) -> Gate {
        if self.running.contains_key(key) {
            return Gate::Running;
        }
        if let Some(t) = self.trouble.get(key).filter(|t| t.again_at > now) {
            return Gate::NotBefore(t.again_at);
        }
        // An acknowledged write is on its way through the watch: the same write again would say nothing new.
        match self.done.get(key).map(|at| *at + WATCH_LAG) {
            Some(at) if at > now && WRITES.contains(&key.verb) => Gate::NotBefore(at),
            _ => Gate::Open,
        }
    }

    /// The trouble with `key`, if its last try failed.
    pub fn trouble(&self, key: &ActionKey) -> Option<&Trouble> {
        self.trouble.get(key)
    }

    /// When `key` was last acknowledged.
    pub fn done_at(&self, key: &ActionKey) -> Option<Time> {
        self.done.get(key).copied()
    }

    /// Whether an eviction under this budget is under way.
    pub fn lane_busy(&self, budget: &ObjectKey) -> bool {
        self.lanes.contains(budget)
    }

    /// Whether a write to this Node is under way.
    pub fn node_busy(&self, node: &NodeName) -> bool {
        self.writing.contains(node)
    }

    /// Whether an eviction or a deletion of this pod is under way.
    pub fn pod_busy(&self, uid: &Uid) -> bool {
        POD_VERBS.iter().any(|verb| self.running.contains_key(&key(verb, uid.as_str(), 0)))
    }

    /// Whether the server has accepted this pod's eviction.
    pub fn was_evicted(&self, uid: &Uid) -> bool {
        self.evicted.contains_key(uid)
    }

    /// The last refusal of this pod's eviction.
    pub fn refusal(&self, uid: &Uid) -> Option<&Refusal> {
        self.refused.get(uid)
    }

    /// Evictions accepted since the budget had this version: its status does not count them yet.
    pub fn spent(&self, budget: &ObjectKey, version: &Arc<str>) -> u32 {
        self.spent.get(budget).map_or(0, |(v, n)| if v == version { *n } else { 0 })
    }

    /// When an eviction under this budget was last accepted.
    pub fn granted_at(&self, budget: &ObjectKey) -> Option<Time> {
        self.granted.get(budget).copied()
    }

    /// A fresh read that was asked for at or after `since`.
    pub fn confirmed(&self, node: &NodeName, since: Time) -> Option<&Confirmed> {
        self.confirmed.get(node).filter(|c| c.asked >= since)
    }

    /// What is known of an order.
    pub fn host(&self, node: &NodeName, attempt: u32, stage: Stage) -> Option<&HostState> {
        self.hosts.get(&(node.clone(), attempt, stage))
    }

    /// The Lease as read at or after `since`: when it was read and its renewal by the host's clock.
    pub fn renewed(&self, node: &NodeName, since: Time) -> Option<(Time, Option<i64>)> {
        self.renewed.get(node).copied().filter(|(asked, _)| *asked >= since)
    }

    /// How the API server bears our work.
    pub fn pressure(&self) -> &Pressure {
        &self.pressure
    }

    /// How many writes of a steering taint are under way.
    pub fn steering(&self) -> usize {
        let of =
            |verb| self.running.range(key(verb, "", 0)..).take_while(move |(k, _)| k.verb == verb);
        STEER_VERBS.into_iter().flat_map(of).count()
    }

    /// When the last write of a steering taint began.
    pub fn steered_at(&self) -> Option<Time> {
        self.steered_at
    }

    /// What has changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// An action was started.
    pub fn start(&mut self, action: &Action, now: Time) {
        self.running.insert(action.key(), now);
        if let Action::Evict { budget: Some(budget), .. } = action {
            self.lanes.insert(budget.clone());
        }
        if let Some(node) = action.writes_node() {
            self.writing.insert(node.clone());
        }
        if let Action::Steer { .. } = action {
            self.steered_at = Some(now);
            self.forget_steers(now);
        }
    }

    /// Progress of an order, while its action is still under way. But for [`HostState::Given`] it shows that the
    /// machine can be reached.
    pub fn progress(&mut self, action: &Action, state: HostState) {
        let Action::Host { node, attempt, stage, .. } = action else {
            return;
        };
        let order = (node.clone(), *attempt, *stage);
        if let HostState::Given { .. } = state {
            self.hosts.entry(order).or_insert(state);
            return;
        }
        self.hosts.insert(order, state);
        self.trouble.remove(&action.key());
    }

    /// An action ended. `budget_version` is the version of the pod's budget now, for evictions.
    pub fn end(
        &mut self,
        action: &Action,
        result: Result<Answer, FaultSeen>,
        budget_version: Option<Arc<str>>,
        now: Time,
    ) {
        let key = action.key();
        let asked = self.running.remove(&key).unwrap_or(now);
        self.pressure.felt(action, result.as_ref().err(), now - asked, now);
        if let Action::Evict { budget: Some(budget), .. } = action {
            self.lanes.remove(budget);
        }
        if let Some(node) = action.writes_node() {
            self.writing.remove(node);
        }
        match result {
            Ok(answer) => {
                self.trouble.remove(&key);
                self.done.insert(key, now);
                self.keep(action, answer, budget_version, asked, now);
            }
            Err(fault) => {
                let t = self.trouble.entry(key).or_insert_with(|| Trouble {
                    first: now,
                    count: 0,
                    again_at: now,
                    fault: fault.clone(),
                });
                t.count += 1;
                // After a conflict the next observation decides; it is seldom further away than this.
                let shorter = if fault.conflict { 5 } else { 1 };
                t.again_at = now + Span(pause(t.count).0 / shorter);
                t.fault = fault;
            }
        }
    }

    fn keep(
        &mut self,
        action: &Action,
        answer: Answer,
        version: Option<Arc<str>>,
        asked: Time,
        now: Time,
    ) {
        match (action, answer) {
            (Action::Evict { uid, budget, .. }, Answer::Eviction(answer)) => {
                self.keep_eviction(uid, budget.as_ref(), answer, version, now);
            }
            (Action::Confirm { node }, Answer::Confirmed { node: seen, pods }) => {
                self.confirmed.insert(node.clone(), Confirmed { asked, node: seen, pods });
            }
            (Action::Host { node, attempt, stage, .. }, Answer::Host(state)) => {
                self.hosts.insert((node.clone(), *attempt, *stage), state);
            }
            (Action::Heartbeat { node }, Answer::Renewed(at)) => {
                self.renewed.insert(node.clone(), (asked, at));
            }
            _ => {}
        }
    }

    fn keep_eviction(
        &mut self,
        uid: &Uid,
        budget: Option<&ObjectKey>,
        answer: EvictAnswer,
        version: Option<Arc<str>>,
        now: Time,
    ) {
        match answer {
            EvictAnswer::Accepted | EvictAnswer::Gone => {
                self.refused.remove(uid);
                if answer == EvictAnswer::Accepted
                    && let (Some(budget), Some(version)) = (budget, version)
                {
                    let spent = self.spent.entry(budget.clone()).or_insert((version.clone(), 0));
                    if spent.0 != version {
                        *spent = (version, 0);
                    }
                    spent.1 += 1;
                }
                if answer == EvictAnswer::Accepted && !self.evicted.contains_key(uid) {
                    self.changes.evicted.push((uid.clone(), budget.cloned(), now));
                    if let Some(budget) = budget {
                        self.granted.insert(budget.clone(), now);
                        self.changes.budgets.insert(budget.clone());
                    }
                }
                self.evicted.insert(uid.clone(), now);
            }
            EvictAnswer::Refused { message, retry_after_s } => {
                let pause = retry_after_s.map_or(REFUSAL_PAUSE, |s| Span::secs(s.into()));
                let refusal = Refusal {
                    at: now,
                    message,
                    // A server that names a time wants us to keep it, whatever the budget shows.
                    budget_version: if retry_after_s.is_some() { None } else { version },
                    again_at: now + pause,
                    impossible: false,
                };
                self.refused.insert(uid.clone(), refusal);
            }
            EvictAnswer::Impossible { message } => {
                let refusal = Refusal {
                    at: now,
                    message,
                    budget_version: None,
                    again_at: now + FAULT_PAUSE_MAX,
                    impossible: true,
                };
                self.refused.insert(uid.clone(), refusal);
            }
        }
    }

    /// Forgets a pod that is gone.
    pub fn forget_pod(&mut self, uid: &Uid) {
        self.evicted.remove(uid);
        self.refused.remove(uid);
        for verb in POD_VERBS {
            self.forget(&key(verb, uid.as_str(), 0));
        }
    }

    /// Forgets a budget that is gone.
    pub fn forget_budget(&mut self, budget: &ObjectKey) {
        self.spent.remove(budget);
        self.granted.remove(budget);
    }

    /// Forgets a node whose way in a job has ended.
    pub fn forget_node(&mut self, node: &NodeName) {
        self.confirmed.remove(node);
        self.renewed.remove(node);
        for verb in NODE_VERBS {
            self.forget(&key(verb, node.as_str(), 0));
        }
        let first = (node.clone(), 0, Stage::Reset);
        let orders: Vec<_> = self
            .hosts
            .range(first..)
            .take_while(|((n, ..), _)| n == node)
            .map(|(order, _)| order.clone())
            .collect();
        for order in orders {
            self.hosts.remove(&order);
        }
        for verb in ORDER_VERBS {
            let range = key(verb, node.as_str(), 0)..=key(verb, node.as_str(), u32::MAX);
            let keys: Vec<_> = self
                .trouble
                .range(range.clone())
                .map(|(k, _)| k.clone())
                .chain(self.done.range(range).map(|(k, _)| k.clone()))
                .collect();
            for key in &keys {
                self.forget(key);
            }
        }
    }

    /// Nobody has steered nodes in hand: what their watch must have shown by now is dropped with the next write.
    fn forget_steers(&mut self, now: Time) {
        let old = |k: &ActionKey, at: Time| STEER_VERBS.contains(&k.verb) && at + WATCH_LAG <= now;
        self.done.retain(|k, at| !old(k, *at));
        self.trouble.retain(|k, t| !old(k, t.again_at));
    }

    fn forget(&mut self, key: &ActionKey) {
        self.trouble.remove(key);
        self.done.remove(key);
    }

    /// How many entries are kept: after a run it is what still runs, and one line per budget.
    pub fn len(&self) -> usize {
        self.running.len()
            + self.trouble.len()
            + self.done.len()
            + self.lanes.len()
            + self.writing.len()
            + self.evicted.len()
            + self.refused.len()
            + self.spent.len()
            + self.confirmed.len()
            + self.hosts.len()
            + self.renewed.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Verbs whose subject is a pod's UID.
const POD_VERBS: [&str; 2] = ["evict", "delete"];
/// Verbs whose subject is a node, without an attempt.
const NODE_VERBS: [&str; 9] =
    ["claim", "cordon", "lift", "release", "confirm", "probe", "heartbeat", "steer", "unsteer"];
/// Verbs of the steering taint.
const STEER_VERBS: [&str; 2] = ["steer", "unsteer"];
/// Verbs of orders: they name an attempt.
const ORDER_VERBS: [&str; 2] = ["reset", "post"];

fn key(verb: &'static str, subject: &str, attempt: u32) -> ActionKey {
    ActionKey { verb, subject: subject.to_owned(), attempt }
}

fn pause(count: u32) -> Span {
    let doubled = FAULT_PAUSE_MIN.0.saturating_mul(1 << count.saturating_sub(1).min(16));
    Span(doubled.min(FAULT_PAUSE_MAX.0))
}
