//! What can happen outside, as those tell it to whom it happened.

use crate::control::Control;
use crate::ids::{JobId, NodeName, Uid};
use crate::sync::Work;
use std::collections::{BTreeMap, BTreeSet};

/// Whose doing something was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The controller.
    Us,
    /// A person.
    Person,
    /// Kubernetes itself.
    System,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A synchronization was accepted.
    Accepted {
        /// The job.
        job: JobId,
        /// All members of its pool.
        members: BTreeSet<NodeName>,
        /// Its targets.
        targets: BTreeSet<NodeName>,
        /// The limit.
        max_unavailable: u32,
        /// Whether pods may be deleted.
        force: bool,
        /// Whether the configuration is unproven, and a first node has to prove it.
        canary: bool,
        /// Conditions that a node which was reset must have met before it is opened.
        initialized: BTreeSet<String>,
        /// Labels of the pool.
        labels: BTreeMap<String, String>,
        /// Taints of the pool, by key and effect.
        taints: BTreeSet<(String, String)>,
    },
    /// A node's standing became durable.
    Stored {
        /// The job.
        job: JobId,
        /// The record.
        work: Box<Work>,
    },
    /// What people ask of a job became durable.
    Pressed {
        /// The job.
        job: JobId,
        /// Everything that is asked of it now.
        control: Box<Control>,
    },
    /// The controller was stopped and started again.
    Restarted,
    /// Our mark appeared, or was written anew.
    Marked {
        /// The node.
        node: NodeName,
        /// Its job.
        job: JobId,
    },
    /// The mark went away.
    Unmarked {
        /// The node.
        node: NodeName,
    },
    /// `spec.unschedulable` changed.
    Schedulable {
        /// The node.
        node: NodeName,
        /// The new state.
        schedulable: bool,
        /// Whose doing.
        by: Who,
    },
    /// The taint of a node that is still to do came or went, or taints of others went.
    Tainted {
        /// The node.
        node: NodeName,
        /// Whose doing.
        by: Who,
        /// It carries that taint now.
        steered: bool,
        /// Keys of taints that are gone and not ours.
        lost: Vec<String>,
    },
    /// The Ready condition changed.
    Ready {
        /// The node.
        node: NodeName,
        /// Ready=True.
        ready: bool,
    },
    /// A condition beside Ready became True.
    Initialized {
        /// The node.
        node: NodeName,
        /// Its type.
        condition: String,
    },
    /// Our release that brings the pool's labels and taints was applied.
    Dressed {
        /// The node.
        node: NodeName,
        /// Its labels afterwards.
        labels: BTreeMap<String, String>,
        /// Its taints afterwards, by key and effect.
        taints: BTreeSet<(String, String)>,
        /// Labels and taints that were there before, are not the pool's, and are gone or changed.
        lost: Vec<String>,
    },
    /// The Node object went away.
    Left {
        /// The node.
        node: NodeName,
    },
    /// The API server answered our fresh read of a node.
    Read {
        /// The node.
        node: NodeName,
        /// Unschedulable, or not there at all.
        closed: bool,
        /// Pods that a drain has to move and that are not yet gone. Terminating pods of a dead kubelet are left out.
        pods: BTreeSet<Uid>,
    },
    /// An eviction was accepted.
    Evicted {
        /// The pod.
        uid: Uid,
        /// Where it ran.
        node: Option<NodeName>,
    },
    /// A pod was deleted without an eviction.
    Deleted {
        /// The pod.
        uid: Uid,
        /// Where it ran.
        node: Option<NodeName>,
        /// Whose doing.
        by: Who,
    },
    /// A host took an order.
    Ordered {
        /// The node.
        node: NodeName,
        /// The epoch of the actor that gave it.
        epoch: u64,
    },
    /// A step began on a host.
    StepStarted {
        /// The job.
        job: JobId,
        /// The node.
        node: NodeName,
        /// The attempt.
        attempt: u32,
        /// `stage/step`.
        step: String,
        /// It goes on after a reboot of the host in the middle of it.
        again: bool,
    },
    /// A step ended on a host.
    StepEnded {
        /// The node.
        node: NodeName,
        /// `stage/step`.
        step: String,
    },
    /// The job has its verdict.
    Verdict {
        /// The job.
        job: JobId,
    },
}
