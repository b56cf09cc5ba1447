//! What truly happened in the world, in order: the witness for every invariant. It is written by the world itself
//! and never read by the controller.

use crate::hosts::Stage;
use evenkeel_engine::ids::{JobId, NodeName, Uid};

/// Who did something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Actor {
    /// The controller under test.
    Us,
    /// A person with kubectl.
    Person,
    /// Kubernetes itself: its controllers and kubelets.
    System,
}

/// Which script run is meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    /// The synchronization.
    pub job: JobId,
    /// The node whose host it is.
    pub node: NodeName,
    /// 1 for the first.
    pub attempt: u32,
    /// Which part of the attempt.
    pub stage: Stage,
    /// Name of the step.
    pub step: String,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happened {
    /// A claim annotation was written, or rewritten by another job or epoch.
    MarkSet {
        /// Which node.
        node: NodeName,
        /// The job in the mark.
        job: JobId,
        /// The epoch in the mark.
        epoch: u64,
    },
    /// The claim annotation went away, or became unreadable.
    MarkCleared {
        /// Which node.
        node: NodeName,
    },
    /// A hold annotation was put on.
    Held {
        /// Which node.
        node: NodeName,
    },
    /// `spec.unschedulable` became true.
    Cordoned {
        /// Which node.
        node: NodeName,
        /// By whom.
        by: Actor,
    },
    /// `spec.unschedulable` became false.
    Uncordoned {
        /// Which node.
        node: NodeName,
        /// By whom.
        by: Actor,
    },
    /// The taint of a node that is still to do came or went, or taints of others went.
    Tainted {
        /// Which node.
        node: NodeName,
        /// By whom.
        by: Actor,
        /// It carries that taint now.
        steered: bool,
        /// Keys of taints that are gone and not ours.
        lost: Vec<String>,
    },
    /// The Ready condition changed to or from True.
    ReadyChanged {
        /// Which node.
        node: NodeName,
        /// Ready=True now.
        ready: bool,
    },
    /// A condition beside Ready became True.
    Initialized {
        /// Which node.
        node: NodeName,
        /// Its type.
        condition: String,
    },
    /// A Node object was created.
    NodeAdded {
        /// Which node.
        node: NodeName,
        /// Ready=True at once.
        ready: bool,
        /// Unschedulable at once.
        unschedulable: bool,
    },
    /// A Node object was deleted.
    NodeGone {
        /// Which node.
        node: NodeName,
        /// By whom.
        by: Actor,
    },
    /// An eviction of a pod that was not yet going was accepted.
    EvictionAccepted {
        /// The pod.
        uid: Uid,
        /// Where it ran.
        node: Option<NodeName>,
    },
    /// An eviction was accepted again for a pod that was already going.
    EvictionRepeated {
        /// The pod.
        uid: Uid,
    },
    /// An eviction was refused.
    EvictionRefused {
        /// The pod.
        uid: Uid,
        /// HTTP status.
        code: u16,
    },
    /// A pod was deleted without the eviction API.
    PodDeleted {
        /// The pod.
        uid: Uid,
        /// By whom.
        by: Actor,
    },
    /// A pod object is no more.
    PodGone {
        /// The pod.
        uid: Uid,
        /// Where it ran.
        node: Option<NodeName>,
    },
    /// A host took an order into its journal for the first time.
    OrderAccepted {
        /// The order, as text.
        order: String,
        /// Which node's host.
        node: NodeName,
        /// The epoch it came with.
        epoch: u64,
    },
    /// A host refused an order.
    OrderRefused {
        /// The order, as text.
        order: String,
        /// Which node's host.
        node: NodeName,
        /// Why.
        why: &'static str,
    },
    /// A step began to run on a host.
    ScriptStarted {
        /// Which.
        run: Run,
        /// It goes on after a reboot in the middle of it.
        again: bool,
    },
    /// A step ended.
    ScriptEnded {
        /// Which.
        run: Run,
        /// Exit status 0.
        ok: bool,
    },
    /// A host went down.
    HostDown {
        /// Which node's host.
        node: NodeName,
    },
    /// A host came up.
    HostUp {
        /// Which node's host.
        node: NodeName,
    },
}
