//! The only loop. One actor per cluster: apply what came, plan, commit, act, publish, sleep.
//!
//! Events wake it, they do not steer it: what happens next depends on the state alone. It stops at once when the
//! store says that another actor holds the cluster's lease.

use super::act::{self, About, Hands, News};
use super::board::{Board, Snapshot};
use super::clock::{ClusterClock, WallClock};
use super::commit::{self, Committed};
use super::desk::{Glimpse, Questions};
use super::lease::{LEASE_RENEW, take_lease};
use super::points::Points;
use super::ports::{Cluster, Listed, Machines, Seen};
use super::retire::{self, Round};
use super::state::{self, State, StateError};
use super::tell::Told;
use super::{chain, enrol};
use crate::records::keys;
use crate::store::{LeaseId, Store, StoreError};
use evenkeel_engine::action::Action;
use evenkeel_engine::check;
use evenkeel_engine::facts::NodeSeen;
use evenkeel_engine::ids::{ClusterId, JobId, NodeName, Uid};
use evenkeel_engine::plan::{Plan, plan};
use evenkeel_engine::sync::Sync;
use evenkeel_engine::time::{Span, Time};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// The loop looks at everything again after this time even if nothing woke it (L6).
const RESYNC: Duration = Duration::from_secs(30);
/// Turns in a row without looking for news: a node passes at most about ten phases without waiting for anything.
const TURNS_MAX: u32 = 32;
/// The finest time that decisions know.
const TICK: Duration = Duration::from_millis(1);
/// Watch events that wait for the loop; the watch blocks beyond that.
const NEWS_QUEUE: usize = 256;
/// Readers see changes at most this much later.
const PUBLISH_EVERY: Duration = Duration::from_millis(100);
/// Pause after an error of the store or the API server before the actor starts over.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Everything an actor stands on.
#[derive(Clone)]
pub struct Setup {
    /// The project of the cluster.
    pub project: String,
    /// The cluster.
    pub cluster: ClusterId,
    /// The store.
    pub store: Arc<dyn Store>,
    /// The API server.
    pub kube: Arc<dyn Cluster>,
    /// The machines.
    pub machines: Arc<dyn Machines>,
    /// Where snapshots go.
    pub board: Board,
    /// The wall clock.
    pub wall: WallClock,
    /// The pod that this process runs in, if it runs in the cluster.
    pub own_pod: Option<Uid>,
    /// How long an ended job is kept.
    pub retention: Span,
    /// The store belongs to this process alone, so a lease found in it is a dead one's.
    pub exclusive: bool,
    /// Test points.
    pub points: Points,
}

/// Why an actor's life ended.
#[derive(Debug, thiserror::Error)]
pub enum ActorError {
    /// The store failed.
    #[error("the store failed")]
    Store(#[source] StoreError),
    /// The records cannot be used.
    #[error("the cluster's records cannot be used")]
    State(#[source] StateError),
    /// The API server cannot be watched.
    #[error("the cluster cannot be watched")]
    Watch(#[source] super::ports::Fault),
    /// The watch ended.
    #[error("the cluster's watch ended")]
    WatchEnded,
    /// Another actor took over.
    #[error("another replica took the cluster over")]
    Deposed,
    /// An invariant does not hold: nothing more is done.
    #[error("an invariant does not hold: {0}")]
    Broken(String),
}

/// Runs a cluster's actor for ever: a life that ends with an error is followed by another.
pub async fn run(setup: Setup) {
    loop {
        let error = match live(&setup).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        tracing::warn!(cluster.id = %setup.cluster, error = chain(&error), "actor starts over");
        let last = setup.board.get(&setup.cluster).map(|last| (*last).clone()).unwrap_or_default();
        let trouble = Some(chain(&error));
        setup.board.publish(&setup.cluster, Snapshot { live: false, trouble, ..last });
        tokio::time::sleep(RESTART_PAUSE).await;
    }
}

/// One life: from taking the lease to the first error.
async fn live(setup: &Setup) -> Result<std::convert::Infallible, ActorError> {
    let (lease, epoch) = take_lease(setup).await?;
    let mut state = State::load(&*setup.store, &setup.project, &setup.cluster)
        .await
        .map_err(ActorError::State)?;
    state.index.set_own_pod(setup.own_pod.clone());
    let seen = setup.kube.watch().await.map_err(ActorError::Watch)?;
    let prefix = keys::inside(&setup.project, &setup.cluster);
    let stored = setup.store.watch(&prefix, state.revision + 1).await.map_err(ActorError::Store)?;
    let (news_tx, news) = mpsc::channel(NEWS_QUEUE);
    let asked = setup.board.desks().open(&setup.cluster);
    let clock = ClusterClock::resume(state.clock.as_ref(), (setup.wall)());
    let mut actor = Actor {
        setup,
        state,
        clock,
        lease,
        hands: Hands {
            cluster: setup.kube.clone(),
            machines: setup.machines.clone(),
            points: setup.points.clone(),
            epoch,
        },
        nodes: Arc::default(),
        news_tx,
        tasks: JoinSet::new(),
        enrol: enrol::Enrol::default(),
        published: None,
        told: Told::default(),
        listed: false,
        trouble: Some("waiting for the first list".to_owned()),
    };
    actor.turns(seen, stored, news, asked).await
}

struct Actor<'a> {
    setup: &'a Setup,
    state: State,
    clock: ClusterClock,
    lease: LeaseId,
    hands: Hands,
    nodes: Arc<BTreeMap<NodeName, Arc<NodeSeen>>>,
    news_tx: mpsc::Sender<News>,
    tasks: JoinSet<()>,
    enrol: enrol::Enrol,
    published: Option<tokio::time::Instant>,
    told: Told,
    /// The view has been complete once: before that, a node that is not seen means nothing.
    listed: bool,
    trouble: Option<String>,
}

impl Actor<'_> {
    async fn turns(
        &mut self,
        mut seen: mpsc::Receiver<Vec<Seen>>,
        mut stored: crate::store::Watch,
        mut news: mpsc::Receiver<News>,
        mut asked: Questions,
    ) -> Result<std::convert::Infallible, ActorError> {
        let mut renew = tokio::time::interval(LEASE_RENEW);
        renew.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut retire = retire::every();
        loop {
            let (wake_at, report) = self.turn().await?;
            let unpublished = !self.publish(report);
            let now = tokio::time::Instant::now();
            let again = now + if unpublished { PUBLISH_EVERY } else { RESYNC };
            let until = wake_at.map_or(again, |at| self.clock.instant(at).min(again));
            // A decision that asks to be made again at once still lets others work.
            let until = until.max(now + TICK);
            tokio::select! {
                biased;
                _ = renew.tick() => {
                    self.setup.store.lease_keep_alive(self.lease).await
                        .map_err(|_| ActorError::Deposed)?;
                }
                batch = stored.next() => {
                    let batch = batch.map_err(ActorError::Store)?;
                    self.take_batch(batch).await?;
                }
                batch = seen.recv() => {
                    self.take_seen(batch.ok_or(ActorError::WatchEnded)?);
                    while let Ok(batch) = seen.try_recv() {
                        self.take_seen(batch);
                    }
                }
                Some(item) = news.recv() => {
                    self.take_news(item);
                    while let Ok(item) = news.try_recv() {
                        self.take_news(item);
                    }
                }
                Some(answer) = asked.recv() => {
                    let glimpse = Glimpse {
                        index: self.state.index.clone(),
                        learned: self.state.learned.clone(),
                        now: self.clock.now(),
                        kube: self.setup.kube.clone(),
                    };
                    // Whoever asked may have gone.
                    let _ = answer.send(glimpse);
                }
                _ = retire.tick() => self.retire(),
                Some(_) = self.tasks.join_next(), if !self.tasks.is_empty() => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    /// Plans and commits until nothing moves, then starts the actions of the last plan.
    async fn turn(&mut self) -> Result<(Option<Time>, Plan), ActorError> {
        if !self.listed {
            return Ok((None, Plan::default()));
        }
        let store = self.setup.store.clone();
        self.enrol
            .enrol(
                &*store,
                &mut self.state,
                self.hands.epoch,
                self.clock.now(),
                (self.setup.wall)(),
            )
            .await
            .map_err(ActorError::Store)?;
        let mut turns = 0;
        let decided = loop {
            let begun = std::time::Instant::now();
            let now = self.clock.now();
            self.state.follow(now);
            self.state.keep_pace(now, (self.setup.wall)());
            let decided = plan(&self.state.ctx(now), self.state.syncs.values());
            if let Err(broken) = check::plan(self.state.syncs.values(), &decided) {
                return Err(ActorError::Broken(broken.to_string()));
            }
            let decide_us = begun.elapsed().as_micros() as u64;
            tracing::debug!(target: "evenkeel_server::turn", decide_us, "decided");
            if !decided.has_transitions() {
                break decided;
            }
            turns += 1;
            if turns > TURNS_MAX {
                tokio::task::yield_now().await;
                turns = 0;
            }
            self.hands.points.pass("commit", "before").await;
            let wall = (self.setup.wall)();
            let epoch = self.hands.epoch;
            let done = commit::commit(&*store, &mut self.state, epoch, &decided, now, wall)
                .await
                .map_err(ActorError::Store)?;
            self.hands.points.pass("commit", "after").await;
            match done {
                Committed::Yes => self.announce(&decided),
                Committed::Stale => {}
                Committed::Deposed => return Err(ActorError::Deposed),
            }
        };
        let now = self.clock.now();
        for action in &decided.actions {
            self.start(action.clone(), now);
        }
        self.state.syncs.retain(|_, sync| state::keeps(sync, now));
        let (news, tell_at) = self.told.news(&decided.reports, now);
        for (node, job, words) in news {
            self.leave_event(&node, "Waiting", &job, &words, false);
        }
        let due = self.state.keep_costs(&*store, self.hands.epoch, now).await;
        let due = due.map_err(ActorError::Store)?;
        self.state.forget_ended();
        let wake_at = decided.wake_at.into_iter().chain(due).chain(tell_at).min();
        Ok((wake_at, decided))
    }

    fn start(&mut self, action: Action, now: Time) {
        self.state.ledger.start(&action, now);
        let about =
            act::node_of(&action).map_or_else(About::default, |name| self.state.about(name));
        tracing::debug!(cluster.id = %self.setup.cluster, action = %action.key(), "start");
        self.tasks.spawn(act::run(self.hands.clone(), action, about, self.news_tx.clone()));
    }

    /// Looks for old jobs, beside the turns. Without a view it is not known which of them nodes name.
    fn retire(&mut self) {
        if !self.state.index.live() {
            return;
        }
        let marks = self.state.index.marked().filter_map(|entry| entry.seen.mark.as_ref());
        let round = Round {
            project: self.setup.project.clone(),
            cluster: self.setup.cluster.clone(),
            store: self.setup.store.clone(),
            machines: self.setup.machines.clone(),
            epoch: self.hands.epoch,
            now: self.clock.now(),
            keep: self.setup.retention,
            referred: marks.map(|mark| &mark.job).chain(self.state.syncs.keys()).cloned().collect(),
        };
        self.tasks.spawn(async move {
            if let Err(error) = round.run().await {
                tracing::warn!(error = chain(&error), "old jobs stay for now");
            }
        });
    }

    /// Leaves a line for people: in the log, and as an Event on the node.
    fn announce(&mut self, decided: &Plan) {
        for (job, work) in &decided.works {
            let Some(line) = work.log.last() else {
                continue;
            };
            tracing::info!(
                cluster.id = %self.setup.cluster, job.id = %job, node = %work.name,
                phase = work.phase.word(), note = line.note, "node moves on"
            );
            let warning = work.phase.word() == "Failed" || work.phase.word() == "Retrying";
            let reason = work.phase.word();
            let note = if line.note.is_empty() { reason } else { &line.note };
            self.leave_event(&work.name, reason, job, note, warning);
        }
    }

    /// An Event on a node, beside the turn. The same words again are the same Event.
    fn leave_event(
        &mut self,
        node: &NodeName,
        reason: &'static str,
        job: &JobId,
        note: &str,
        warning: bool,
    ) {
        let Some(entry) = self.state.index.node(node) else {
            return;
        };
        let (kube, seen) = (self.setup.kube.clone(), entry.seen.clone());
        let message = format!("node pool synchronization {job}: {note}");
        self.tasks.spawn(async move {
            if let Err(fault) = kube.event(&seen, reason, &message, warning).await {
                tracing::debug!(node = %seen.name, error = chain(&fault), "no event left");
            }
        });
    }

    async fn take_batch(&mut self, batch: crate::store::Batch) -> Result<(), ActorError> {
        for event in &batch.events {
            if self.state.is_node(event.key()) {
                self.enrol.stir();
            }
            match self.state.take_event(event) {
                Ok(Some(job)) => {
                    let store = self.setup.store.clone();
                    self.state.take_job(&*store, &job).await.map_err(ActorError::State)?;
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(error = chain(&error), "a record is damaged and left out");
                }
            }
        }
        self.state.revision = batch.revision;
        Ok(())
    }

    fn take_seen(&mut self, batch: Vec<Seen>) {
        let now = self.clock.now();
        for item in batch {
            match item {
                Seen::Node(node) => {
                    let before = self.state.index.node(&node.name);
                    if before.is_none_or(|e| !enrol::same_machine(&e.seen, &node)) {
                        self.enrol.stir();
                    }
                    Arc::make_mut(&mut self.nodes)
                        .insert(node.name.clone(), Arc::new(node.clone()));
                    self.state.index.see_node(node, now);
                }
                Seen::NodeGone(name) => {
                    self.enrol.stir();
                    Arc::make_mut(&mut self.nodes).remove(&name);
                    self.state.index.lose_node(&name);
                }
                Seen::Pod(pod) => self.state.index.see_pod(pod, now),
                Seen::PodGone(uid) => {
                    self.state.index.lose_pod(&uid);
                    self.state.ledger.forget_pod(&uid);
                    self.state.costs.forget_pod(&uid);
                }
                Seen::Budget(budget) => self.state.index.see_budget(budget),
                Seen::BudgetGone(key) => {
                    self.state.index.lose_budget(&key);
                    self.state.ledger.forget_budget(&key);
                    self.state.learned.forget_budget(&key);
                }
                Seen::Relisted(Listed::Nodes(all)) => {
                    self.enrol.stir();
                    self.nodes = Arc::new(
                        all.iter().map(|n| (n.name.clone(), Arc::new(n.clone()))).collect(),
                    );
                    self.state.index.relist_nodes(all, now);
                }
                Seen::Relisted(Listed::Pods(all)) => {
                    for uid in self.state.index.relist_pods(all, now) {
                        self.state.ledger.forget_pod(&uid);
                        self.state.costs.forget_pod(&uid);
                    }
                }
                Seen::Relisted(Listed::Budgets(all)) => self.state.index.relist_budgets(all),
                Seen::Live(live) => {
                    self.state.index.set_live(live);
                    self.listed |= live;
                    self.trouble = (!live).then(|| "the API server's watches are down".to_owned());
                }
            }
        }
    }

    fn take_news(&mut self, news: News) {
        let now = self.clock.now();
        match news {
            News::Progress(action, state) => self.state.ledger.progress(&action, state),
            News::Ended(action, result) => {
                if let Err(fault) = &result {
                    tracing::debug!(
                        cluster.id = %self.setup.cluster, action = %action.key(),
                        permanent = fault.permanent, reason = fault.message, "action failed"
                    );
                }
                let version = match &action {
                    Action::Evict { budget: Some(key), .. } => {
                        self.state.index.budget(key).map(|b| b.resource_version.clone())
                    }
                    _ => None,
                };
                let done = result.is_ok();
                self.state.ledger.end(&action, result, version, now);
                if done {
                    if let Action::Delete { uid, .. } = &action {
                        self.state.count_deleted(uid, now);
                    }
                    self.forget(&action);
                }
            }
        }
    }

    /// An answer may arrive after its pod is gone, or after its node's way has ended: nobody asks for it then.
    fn forget(&mut self, action: &Action) {
        match action {
            Action::Steer { .. } => {}
            Action::Evict { uid, .. } | Action::Delete { uid, .. } => {
                if self.state.index.pod(uid).is_none() {
                    self.state.ledger.forget_pod(uid);
                }
            }
            _ => {
                let holds = |s: &Sync, n: &NodeName| s.work(n).is_some_and(|w| w.phase.is_active());
                let held = |n: &&NodeName| self.state.syncs.values().any(|s| holds(s, n));
                if let Some(node) = act::node_of(action).filter(|node| !held(node)) {
                    self.state.ledger.forget_node(node);
                }
            }
        }
    }

    /// Publishes what changed, or says that it is too early for that.
    fn publish(&mut self, decided: Plan) -> bool {
        let now = tokio::time::Instant::now();
        let quiet = decided.reports.is_empty();
        if quiet && self.published.is_some_and(|at| now - at < PUBLISH_EVERY) {
            return false;
        }
        self.published = Some(now);
        let snapshot = Snapshot {
            live: self.state.index.live(),
            trouble: self.trouble.clone(),
            nodes: self.nodes.clone(),
            reports: decided.reports.into_iter().map(|(j, r)| (j, Arc::new(r))).collect(),
            now: self.clock.now(),
            wall_ms: (self.setup.wall)(),
        };
        self.setup.board.publish(&self.setup.cluster, snapshot);
        true
    }
}
