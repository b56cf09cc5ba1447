//! Why not yet, as data. The API's conditions, the command line, Events and logs all print these values.

use crate::admit;
use crate::facts::NodeSeen;
use crate::ids::{NodeName, ObjectKey};
use crate::phase::{Blocker, Cause, Phase};
use crate::sync::{Counts, Sync};
use crate::time::Time;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// What one node waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "on", rename_all = "camelCase")]
pub enum WaitingOn {
    /// Our own write to come back through the watch.
    Ourselves {
        /// What was written.
        what: String,
    },
    /// The machine: probe or step.
    Host {
        /// Step, or what is tried.
        what: String,
    },
    /// A pod to end.
    PodEnding {
        /// How many are still there.
        pods: u32,
        /// One of them.
        pod: ObjectKey,
    },
    /// A budget to allow the next eviction.
    Budget {
        /// The pod and its budget.
        blocker: Blocker,
    },
    /// The node to be Ready, with a fresh heartbeat and its DaemonSet pods.
    Readiness {
        /// What is missing.
        missing: String,
    },
    /// Having been good for long enough.
    Settling {
        /// When that will be.
        until: Time,
    },
    /// A pause before the next try.
    Pause {
        /// Its end.
        until: Time,
        /// What went wrong before.
        cause: Cause,
    },
    /// A slot: as many nodes are in hand as allowed.
    Slot {
        /// Nodes in hand.
        in_hand: u32,
        /// The limit now (canary and ramp included).
        limit: u32,
    },
    /// Availability: nodes that are out for other reasons use up the budget.
    Availability {
        /// Those nodes, at most ten.
        out: Vec<NodeName>,
        /// The limit.
        limit: u32,
    },
    /// The API server or the pool to recover: fewer nodes are in hand than allowed.
    Calm {
        /// Nodes in hand.
        in_hand: u32,
        /// The limit for now.
        limit: u32,
        /// What the job allows.
        of: u32,
        /// The API server is slow or refuses requests; else nodes stopped being Ready.
        pressed: bool,
    },
    /// Room on other nodes for the pods of the next one.
    Room {
        /// The next node.
        node: NodeName,
        /// What is short.
        short: String,
    },
    /// A node of this zone to come back: no more of it may be in hand.
    Zone {
        /// The zone.
        zone: String,
    },
    /// The canary to succeed first.
    Canary {
        /// The node that goes first.
        node: Option<NodeName>,
    },
    /// The next maintenance window of the pool.
    Window {
        /// When it opens.
        opens: Time,
        /// That moment and the windows, in words.
        words: String,
    },
    /// The pool's soak time after the last node.
    Soak {
        /// Its end.
        until: Time,
    },
    /// A person to resume the job.
    Paused {
        /// Who paused it.
        by: String,
        /// When.
        since: Time,
    },
    /// Nothing any more: the job was cancelled, and what is in hand comes to its end.
    Cancelled {
        /// By whom.
        by: String,
    },
    /// A live view of the cluster.
    View,
    /// A person: cordoned by others or held.
    Person {
        /// Which.
        what: String,
    },
}

impl fmt::Display for WaitingOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitingOn::Ourselves { what } => write!(f, "waiting to see our own write: {what}"),
            WaitingOn::Host { what } => write!(f, "waiting for the machine: {what}"),
            WaitingOn::PodEnding { pods: 1, pod } => write!(f, "waiting for pod {pod} to end"),
            WaitingOn::PodEnding { pods, pod } => {
                write!(f, "waiting for {pods} pods to end, {pod} among them")
            }
            WaitingOn::Budget { blocker } => match &blocker.budget {
                Some(budget) => {
                    write!(f, "pod {} is held by budget {budget}: {}", blocker.pod, blocker.why)
                }
                None => write!(f, "pod {} blocks the drain: {}", blocker.pod, blocker.why),
            },
            WaitingOn::Readiness { missing } => write!(f, "waiting for the node: {missing}"),
            WaitingOn::Settling { .. } => f.write_str("back, and watched for a moment"),
            WaitingOn::Pause { cause, .. } => write!(f, "pausing before the next try: {cause}"),
            WaitingOn::Slot { in_hand, limit } => {
                write!(f, "waiting for a slot: {in_hand} of {limit} in hand")
            }
            WaitingOn::Availability { out, limit } => {
                let names: Vec<&str> = out.iter().map(NodeName::as_str).collect();
                write!(f, "no room: {} are out already, at most {limit} may be", names.join(", "))
            }
            WaitingOn::Calm { in_hand, limit, of, pressed } => {
                let why = if *pressed {
                    "the API server is slow or refuses requests"
                } else {
                    "nodes that are not in hand stopped being Ready"
                };
                write!(f, "waiting for calm: {why}; {in_hand} in hand, {limit} for now, of {of}")
            }
            WaitingOn::Room { node, short } => {
                write!(
                    f,
                    "waiting for room: {short} is short for the pods of {node} on other nodes"
                )
            }
            WaitingOn::Zone { zone } => {
                write!(f, "zone {zone} has as many nodes in hand as it may have")
            }
            WaitingOn::Canary { node: Some(node) } => {
                write!(f, "waiting for {node} to prove the configuration")
            }
            WaitingOn::Canary { node: None } => {
                f.write_str("waiting for a first node that can prove the configuration")
            }
            WaitingOn::Window { words, .. } => {
                write!(f, "waiting for a maintenance window: {words}")
            }
            WaitingOn::Soak { .. } => {
                f.write_str("waiting for the soak time after the last node to pass")
            }
            WaitingOn::Paused { by, .. } => {
                write!(f, "paused by {by}: no new node is taken until the job is resumed")
            }
            WaitingOn::Cancelled { by } => write!(f, "cancelled by {by}: no new node is taken"),
            WaitingOn::View => f.write_str("waiting for a live view of the cluster"),
            WaitingOn::Person { what } => f.write_str(what),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Undrainable { blocker } => match &blocker.budget {
                Some(budget) => write!(
                    f,
                    "undrainable: pod {} is held by budget {budget}: {}",
                    blocker.pod, blocker.why
                ),
                None => write!(f, "undrainable: pod {}: {}", blocker.pod, blocker.why),
            },
            Cause::Unreachable { message } => write!(f, "unreachable: {message}"),
            Cause::Unfit { message } => write!(f, "unfit for the reset: {message}"),
            Cause::Step { step, message } => write!(f, "step {step} failed: {message}"),
            Cause::NotReady { message } => write!(f, "did not come back: {message}"),
            Cause::NoRoom { message } => write!(f, "no room: {message}"),
        }
    }
}

/// The live part of a job: what its nodes in hand wait for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobReport {
    /// Counts over the frozen list.
    pub counts: Counts,
    /// Nodes in hand, and at most one entry that speaks for all that wait for their turn.
    pub nodes: BTreeMap<NodeName, WaitingOn>,
    /// When a node in hand is tried, or looked at, again if nothing happens before.
    #[serde(default)]
    pub again: BTreeMap<NodeName, Time>,
    /// Why the next node is not started, where one is waiting for its turn.
    pub next: Option<WaitingOn>,
    /// When that is looked at again if nothing happens before.
    #[serde(default)]
    pub next_again: Option<Time>,
}

impl WaitingOn {
    /// What it is about, for whoever tells only what is new: two sentences about the same differ in numbers alone.
    /// `None` for waits that are over in a moment.
    pub fn subject(&self) -> Option<String> {
        match self {
            WaitingOn::Ourselves { .. } | WaitingOn::Settling { .. } | WaitingOn::View => None,
            WaitingOn::PodEnding { .. } => Some("pods to end".to_owned()),
            WaitingOn::Budget { blocker } => Some(match &blocker.budget {
                Some(budget) => format!("budget {budget}"),
                None => format!("pod {}", blocker.pod),
            }),
            other => Some(other.to_string()),
        }
    }
}

/// What a node waits for that is not in hand and has no end yet, and when it is looked at again.
pub fn in_line(
    sync: &Sync,
    report: Option<&JobReport>,
    name: &NodeName,
    seen: Option<&NodeSeen>,
    now: Time,
) -> (WaitingOn, Option<Time>) {
    if let Some(work) = sync.work(name)
        && let Phase::Waiting { until, cause, .. } = &work.phase
        && admit::pauses(sync, work, now)
    {
        return (WaitingOn::Pause { until: *until, cause: cause.clone() }, Some(*until));
    }
    let person = |what: &str| (WaitingOn::Person { what: what.to_owned() }, None);
    if let Some(seen) = seen {
        if seen.hold {
            return person("held: take the annotation evenkeel.io/hold away");
        }
        if seen.cordoned_by_others() && !sync.spec.named {
            return person("cordoned by somebody else: uncordon it, or name it in nodeIDs");
        }
    }
    match report {
        Some(JobReport { next: Some(next), next_again, .. }) => (next.clone(), *next_again),
        _ => (WaitingOn::View, None),
    }
}
