//! Makes previews: takes what the cluster's actor sees, lets the engine work on it off the loop, and has the API server
//! try the hardest evictions without effect. Changes nothing anywhere.

use crate::http::ports::{Foreseen, PreviewError, Previews, Trial};
use crate::sync::board::Board;
use crate::sync::chain;
use crate::sync::ports::{Cluster, Fault, PodRef};
use async_trait::async_trait;
use evenkeel_engine::ids::{ClusterId, ObjectKey};
use evenkeel_engine::index::Index;
use evenkeel_engine::preview::concern::Volumes;
use evenkeel_engine::preview::{self, Ask, Move, View};
use futures::stream::{self, StreamExt as _};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Trials at a time. Each is for another budget first, so they seldom meet; an eviction costs the server a few reads.
const TRIALS_AT_ONCE: usize = 4;
/// All trials together: a page that a person waits for.
const TRIALS_LIMIT: Duration = Duration::from_secs(5);
/// Listing claims and volumes.
const VOLUMES_LIMIT: Duration = Duration::from_secs(10);

/// Previews of every cluster whose actor publishes on the board.
pub struct Foresight {
    /// Where the actors are found.
    pub board: Board,
}

#[async_trait]
impl Previews for Foresight {
    async fn preview(&self, cluster: &ClusterId, ask: Ask) -> Result<Foreseen, PreviewError> {
        let trouble = || {
            let said = self.board.get(cluster).and_then(|snapshot| snapshot.trouble.clone());
            PreviewError::NotSeen(
                said.unwrap_or_else(|| "its nodes are still being read".to_owned()),
            )
        };
        let glimpse = self.board.desks().ask(cluster).await.ok_or_else(trouble)?;
        if !glimpse.index.live() {
            return Err(trouble());
        }
        let mut unknown = Vec::new();
        let volumes = match volumes(&*glimpse.kube, &glimpse.index, &ask).await {
            Ok(volumes) => volumes,
            Err(why) => {
                unknown.push(format!("which pods are bound to local disks: {why}"));
                Volumes::new()
            }
        };
        let (index, learned, now) = (glimpse.index, glimpse.learned, glimpse.now);
        let worked = tokio::task::spawn_blocking(move || {
            let view = View { index: &index, volumes: &volumes, learned: &learned, now };
            let made = preview::preview(&view, &ask);
            let zone = |name| index.node(name).and_then(|entry| entry.seen.zone.clone());
            let names = made.nodes.iter().map(|node| &node.name);
            let zones: BTreeMap<_, _> =
                names.filter_map(|name| Some((name.clone(), zone(name)?))).collect();
            (made, zones)
        });
        let (made, zones) = worked.await.map_err(PreviewError::Broken)?;
        let trials = trials(&glimpse.kube, made.trials.clone()).await;
        Ok(Foreseen { preview: made, trials, unknown, zones })
    }
}

/// The volumes of the cluster, if any pod of a target has a claim at all.
async fn volumes(kube: &dyn Cluster, index: &Index, ask: &Ask) -> Result<Volumes, String> {
    let claims = |name| {
        index.pods_on(name).any(|pod: &evenkeel_engine::facts::PodSeen| !pod.claims.is_empty())
    };
    if !ask.spec.targets.iter().any(|target| claims(&target.name)) {
        return Ok(Volumes::new());
    }
    match tokio::time::timeout(VOLUMES_LIMIT, kube.volumes()).await {
        Ok(Ok(volumes)) => Ok(volumes),
        Ok(Err(fault)) => Err(chain(&fault)),
        Err(_) => Err(format!("no answer within {} s", VOLUMES_LIMIT.as_secs())),
    }
}

/// Tries them in their order; those that are not answered in time say so.
async fn trials(kube: &Arc<dyn Cluster>, moves: Vec<Move>) -> Vec<Trial> {
    let late = || format!("no answer within {} s", TRIALS_LIMIT.as_secs());
    let mut answers: BTreeMap<ObjectKey, Result<_, String>> = BTreeMap::new();
    {
        let pods: Vec<PodRef> =
            moves.iter().map(|one| PodRef { key: one.pod.clone(), uid: one.uid.clone() }).collect();
        let calls = pods.into_iter().map(|pod| {
            let kube = kube.clone();
            async move {
                let answer = kube.try_evict(&pod).await;
                (pod.key, answer)
            }
        });
        let mut running = stream::iter(calls).buffer_unordered(TRIALS_AT_ONCE);
        let all = async {
            while let Some((pod, answer)) = running.next().await {
                answers.insert(pod, answer.map_err(|fault: Fault| chain(&fault)));
            }
        };
        // Those that are missing afterwards are late.
        let _ = tokio::time::timeout(TRIALS_LIMIT, all).await;
    }
    let trial = |one: Move| {
        let (answer, trouble) = match answers.remove(&one.pod) {
            Some(Ok(answer)) => (Some(answer), String::new()),
            Some(Err(why)) => (None, why),
            None => (None, late()),
        };
        Trial { pod: one.pod, budget: one.budget, answer, trouble }
    };
    moves.into_iter().map(trial).collect()
}
