//! Carries out one action through the ports. No decision is made here.

use super::points::Points;
use super::ports::{Cluster, Fault, HostOrder, Machines, PodRef, Target};
use crate::records::{Dress, NodeRecord};
use crate::store::Revision;
use evenkeel_engine::action::{Action, Answer, FaultSeen, HostState};
use evenkeel_engine::facts::{Mark, NodeSeen};
use evenkeel_engine::ids::{NodeId, NodeName};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// A call to the API server that takes longer is given up: the answer no longer matters, the next observation does.
const API_LIMIT: Duration = Duration::from_secs(30);
/// A node's taint is a wish: nothing waits for it longer than this.
const STEER_LIMIT: Duration = Duration::from_secs(5);
/// A probe connects, pushes the host binary once, and reads a page of facts.
const PROBE_LIMIT: Duration = Duration::from_mins(2);
/// Progress reports that wait for the actor; more would only be older.
const PROGRESS_QUEUE: usize = 16;

/// What the actions of one turn need beside the action itself.
#[derive(Clone)]
pub struct Hands {
    /// The API server.
    pub cluster: Arc<dyn Cluster>,
    /// The machines.
    pub machines: Arc<dyn Machines>,
    /// Test points.
    pub points: Points,
    /// The actor's epoch.
    pub epoch: Revision,
}

/// What the actor knows of an action's node.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// The Node object as last seen.
    pub seen: Option<NodeSeen>,
    /// The machine on record, for a node that has left.
    pub record: Option<NodeRecord>,
    /// What it is to carry once it is released as synchronized.
    pub dress: Option<Dress>,
}

/// News from an action under way.
#[derive(Debug)]
pub enum News {
    /// An order got further.
    Progress(Action, HostState),
    /// The action ended.
    Ended(Action, Result<Answer, FaultSeen>),
}

/// Runs one action to its end and reports to `news`.
pub async fn run(hands: Hands, action: Action, about: About, news: mpsc::Sender<News>) {
    let verb = action.key().verb;
    hands.points.pass(verb, "before").await;
    let result = perform(&hands, &action, &about, &news).await;
    hands.points.pass(verb, "after").await;
    // The actor has gone: whoever comes next asks again.
    let _ = news.send(News::Ended(action, result.map_err(to_seen))).await;
}

fn to_seen(fault: Fault) -> FaultSeen {
    let message = super::chain(&fault);
    FaultSeen {
        permanent: matches!(fault, Fault::Permanent { .. }),
        conflict: matches!(fault, Fault::Conflict { .. }),
        busy: matches!(fault, Fault::Busy { .. }),
        message,
    }
}

async fn limited<T>(
    limit: Duration,
    what: &str,
    call: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
        Err(Fault::transient(format!("{what}: no answer within {} s", limit.as_secs())))
    })
}

async fn perform(
    hands: &Hands,
    action: &Action,
    about: &About,
    news: &mpsc::Sender<News>,
) -> Result<Answer, Fault> {
    let cluster = &hands.cluster;
    let seen = |node: &NodeName| {
        about.seen.as_ref().ok_or_else(|| Fault::Gone { what: format!("node {node} is not there") })
    };
    match action {
        Action::Claim { node, job, was_unschedulable } => {
            let mark = Mark {
                job: job.clone(),
                epoch: hands.epoch,
                was_unschedulable: *was_unschedulable,
            };
            limited(API_LIMIT, "claim", cluster.claim(seen(node)?, &mark)).await?;
            Ok(Answer::Written)
        }
        Action::Cordon { node } | Action::Lift { node } => {
            let closes = matches!(action, Action::Cordon { .. });
            let call = cluster.set_unschedulable(seen(node)?, closes);
            limited(API_LIMIT, action.key().verb, call).await.map(|()| Answer::Written)
        }
        Action::Release { node, uncordon } => {
            let call = cluster.release(seen(node)?, *uncordon, about.dress.as_ref());
            limited(API_LIMIT, "release", call).await.map(|()| Answer::Written)
        }
        Action::Steer { node, away } => {
            let call = cluster.steer(seen(node)?, *away);
            limited(STEER_LIMIT, "steering taint", call).await.map(|()| Answer::Written)
        }
        Action::Evict { pod, uid, .. } => {
            let pod = PodRef { key: pod.clone(), uid: uid.clone() };
            limited(API_LIMIT, "evict", cluster.evict(&pod)).await.map(Answer::Eviction)
        }
        Action::Delete { pod, uid } => {
            let pod = PodRef { key: pod.clone(), uid: uid.clone() };
            match limited(API_LIMIT, "delete", cluster.delete(&pod)).await {
                Ok(()) | Err(Fault::Gone { .. }) => Ok(Answer::Written),
                Err(fault) => Err(fault),
            }
        }
        Action::Confirm { node } => {
            let live = limited(API_LIMIT, "fresh read", cluster.confirm(node)).await?;
            Ok(Answer::Confirmed { node: live.node, pods: live.pods })
        }
        Action::Heartbeat { node } => {
            let call = cluster.heartbeat(node);
            limited(API_LIMIT, "heartbeat", call).await.map(Answer::Renewed)
        }
        Action::Probe { node, id, job } => {
            let target = target(node, id, about);
            let call = hands.machines.probe(job, &target);
            limited(PROBE_LIMIT, "probe", call).await.map(|()| Answer::Fit)
        }
        Action::Host { node, id, job, attempt, stage } => {
            let order = HostOrder {
                job: job.clone(),
                target: target(node, id, about),
                attempt: *attempt,
                stage: *stage,
                epoch: hands.epoch,
            };
            follow(hands, action, &order, news).await.map(Answer::Host)
        }
    }
}

fn target(node: &NodeName, id: &NodeId, about: &About) -> Target {
    let seen = about.seen.as_ref();
    let record = about.record.as_ref();
    let either = |now: Option<&Arc<str>>, kept: Option<&String>| {
        now.cloned().or_else(|| kept.map(|text| Arc::from(text.as_str())))
    };
    Target {
        node_id: id.clone(),
        node: node.clone(),
        internal_ip: either(
            seen.and_then(|s| s.internal_ip.as_ref()),
            record.and_then(|r| r.internal_ip.as_ref()),
        ),
        machine_id: either(
            seen.and_then(|s| s.machine_id.as_ref()),
            record.and_then(|r| r.machine_id.as_ref()),
        ),
        system_uuid: either(
            seen.and_then(|s| s.system_uuid.as_ref()),
            record.and_then(|r| r.system_uuid.as_ref()),
        ),
    }
}

/// An order has no limit here: its steps carry their own, on the host.
async fn follow(
    hands: &Hands,
    action: &Action,
    order: &HostOrder,
    news: &mpsc::Sender<News>,
) -> Result<HostState, Fault> {
    let (tx, mut rx) = mpsc::channel(PROGRESS_QUEUE);
    let run = hands.machines.run(order, tx);
    tokio::pin!(run);
    let mut open = true;
    loop {
        tokio::select! {
            biased;
            state = rx.recv(), if open => match state {
                Some(state) => {
                    let _ = news.send(News::Progress(action.clone(), state)).await;
                }
                None => open = false,
            },
            result = &mut run => return result,
        }
    }
}

/// The node that an action is about, where it is about one.
pub(super) fn node_of(action: &Action) -> Option<&NodeName> {
    match action {
        Action::Claim { node, .. }
        | Action::Cordon { node }
        | Action::Lift { node }
        | Action::Release { node, .. }
        | Action::Steer { node, .. }
        | Action::Confirm { node }
        | Action::Probe { node, .. }
        | Action::Host { node, .. }
        | Action::Heartbeat { node } => Some(node),
        Action::Evict { .. } | Action::Delete { .. } => None,
    }
}
