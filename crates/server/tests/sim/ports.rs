//! The real actor's ports, played on the world. Every request travels by itself: one that was on its way when the
//! controller died still arrives.

use crate::rig::{Inner, Rig};
use async_trait::async_trait;
use evenkeel_engine::check::Fact;
use evenkeel_engine::facts::{CLAIM_ANNOTATION, Mark, NodeSeen, Owner, PodPhase, Readiness};
use evenkeel_engine::ids::{JobId, NodeName};
use evenkeel_engine::preview::concern::Volumes;
use evenkeel_engine::time::Span;
use evenkeel_server::records::{self, Dress};
use evenkeel_server::sync::ports::{
    Cluster, EvictAnswer, Fault, HostOrder, HostState, Listed, LiveNode, Machines, PodRef, Seen,
    Stage, Target,
};
use evenkeel_sim::World;
use evenkeel_sim::history::Actor;
use evenkeel_sim::hosts::{self, HostFailure, Order, OrderKey, OrderState, RefusalKind, StepSpec};
use evenkeel_sim::objects::{Node, Taint};
use evenkeel_sim::status::Refusal;
use evenkeel_sim::world::{
    Call, Change, DeleteOptions, Failure, Gone410, NodeChange, Op, Precondition, Reply,
};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// The API server and the machines of one world.
#[derive(Clone)]
pub struct Outside(pub Arc<Rig>);

async fn sleep_ms(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// How long a request travels. Now and then one is held up.
fn way(inner: &mut Inner) -> u64 {
    let held_up = inner.world.plan().held_up_per_mille;
    if inner.world.faults_on() && inner.rng.chance(held_up) {
        inner.world.coverage.held_up += 1;
        inner.rng.range(300, 4000)
    } else {
        inner.rng.range(0, 6)
    }
}

/// What is listed and watched, each on a connection of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Nodes,
    Pods,
    Budgets,
}

/// The three watches of one controller: its view is live while all of them are up.
struct View {
    tx: mpsc::Sender<Vec<Seen>>,
    down: tokio::sync::Mutex<BTreeSet<Kind>>,
}

impl View {
    /// False once nobody listens any more.
    async fn set(&self, kind: Kind, up: bool) -> bool {
        let mut down = self.down.lock().await;
        let was = down.is_empty();
        if up {
            down.remove(&kind)
        } else {
            down.insert(kind)
        };
        let live = down.is_empty();
        // Sent under the lock: two changes must not overtake each other.
        was == live || self.tx.send(vec![Seen::Live(live)]).await.is_ok()
    }
}

/// A connection without events for so long was cut, and the view counts as lost.
const LOST_MS: u64 = 1500;

impl Outside {
    /// One request. `dies` says that it does not arrive if the controller has died in the meantime.
    async fn api<T: Send + 'static>(
        &self,
        call: Call,
        dies: bool,
        apply: impl FnOnce(&mut World) -> Result<T, Refusal> + Send + 'static,
        witness: impl FnOnce(&mut Inner, &T) + Send + 'static,
    ) -> Result<T, Failure> {
        let rig = self.0.clone();
        let sent = tokio::spawn(async move {
            let (way, life) = rig.with(|inner| (way(inner), inner.life));
            sleep_ms(way).await;
            let Reply { after_ms, result } = rig.with(|inner| {
                if dies && inner.life != life {
                    return Reply { after_ms: 0, result: Err(Failure::Lost) };
                }
                let reply = inner.world.call(call, apply);
                if let Ok(value) = &reply.result {
                    witness(inner, value);
                }
                reply
            });
            sleep_ms(after_ms).await;
            result
        });
        sent.await.unwrap_or(Err(Failure::Lost))
    }

    async fn patch(
        &self,
        node: &NodeSeen,
        change: NodeChange,
        what: &'static str,
    ) -> Result<(), Fault> {
        let (name, uid) = (node.name.clone(), node.uid.clone());
        let rv = node.resource_version.to_string();
        let patch = move |world: &mut World| {
            let precondition = Precondition { uid: Some(uid), resource_version: Some(rv) };
            world.patch_node(Actor::Us, &name, &precondition, &change).map(drop)
        };
        self.api(Call::Write, false, patch, |_, ()| ()).await.map_err(|f| to_fault(what, f))
    }

    /// Lists one kind and watches it, until nobody listens any more.
    async fn follow(self, kind: Kind, view: Arc<View>) {
        let tx = view.tx.clone();
        while !tx.is_closed() {
            let list = move |world: &mut World| Ok((world.resource_version(), listed(world, kind)));
            let Ok((rv, list)) = self.api(Call::Read, false, list, |_, _| ()).await else {
                if !view.set(kind, false).await {
                    return;
                }
                sleep_ms(200).await;
                continue;
            };
            let (rv, list, behind_ms) = self.0.with(|inner| replica(inner, kind, rv, list));
            if tx.send(vec![Seen::Relisted(list)]).await.is_err() || !view.set(kind, true).await {
                return;
            }
            sleep_ms(behind_ms).await;
            if !self.stream(kind, &view, rv).await {
                return;
            }
        }
    }

    /// Watches one kind from a version on. True: a new list is needed.
    async fn stream(&self, kind: Kind, view: &View, mut rv: u64) -> bool {
        let mut opened = self.0.now();
        loop {
            let moved = self.0.moved(kind).notified();
            let (pause, chunk, cut) = self.0.with(|inner| {
                let cut = inner.world.watch_dropped(opened);
                let pause = if cut { inner.rng.range(50, 3000) } else { inner.rng.range(0, 12) };
                (pause, inner.rng.range(1, 12) as usize, cut)
            });
            let lost = cut && pause > LOST_MS;
            if lost && !view.set(kind, false).await {
                return false;
            }
            sleep_ms(pause).await;
            let Ok((events, upto)) = self.0.with(|inner| inner.news(kind, rv)) else {
                return view.set(kind, false).await;
            };
            if cut {
                opened = self.0.now();
            }
            if lost && !view.set(kind, true).await {
                return false;
            }
            for part in events.chunks(chunk) {
                if view.tx.send(part.to_vec()).await.is_err() {
                    return false;
                }
            }
            rv = upto;
            tokio::select! {
                biased;
                () = view.tx.closed() => return false,
                () = moved => {}
            }
        }
    }
}

/// A list as this replica of the API server gives it: now and then one that is behind, and stays so for a while.
fn replica(inner: &mut Inner, kind: Kind, rv: u64, list: Listed) -> (u64, Listed, u64) {
    let stale = inner.world.plan().stale_list_per_mille;
    if stale == 0 || !inner.world.faults_on() {
        return (rv, list, 0);
    }
    match inner.lists.get(&kind).cloned() {
        Some((old, older)) if old < rv && inner.rng.chance(stale) => {
            inner.world.coverage.stale_lists += 1;
            (old, older, inner.rng.range(0, 8000))
        }
        _ => {
            inner.lists.insert(kind, (rv, list.clone()));
            (rv, list, 0)
        }
    }
}

impl Inner {
    /// What a watch of one kind brings after a version, and up to which version.
    fn news(&mut self, kind: Kind, rv: u64) -> Result<(Vec<Seen>, u64), Gone410> {
        let events = match self.world.events_since(rv) {
            Ok(events) => events,
            Err(gone) => {
                self.world.coverage.gone_410 += 1;
                return Err(gone);
            }
        };
        let upto = events.last().map_or(rv, |event| event.rv);
        let twice = self.world.plan().duplicate_per_mille;
        let newest = self.delivered.iter().filter(|(k, _)| **k != kind).map(|(_, rv)| *rv).max();
        let mut news = Vec::new();
        for event in events.iter().filter(|event| Kind::of(&event.change) == kind) {
            self.world.coverage.reordered += u64::from(newest.is_some_and(|rv| rv > event.rv));
            self.delivered.insert(kind, event.rv);
            news.push(seen(event.op, &event.change));
            if twice > 0 && self.world.faults_on() && self.rng.chance(twice) {
                self.world.coverage.duplicates += 1;
                news.push(seen(event.op, &event.change));
            }
        }
        Ok((news, upto))
    }
}

impl Kind {
    pub fn of(change: &Change) -> Self {
        match change {
            Change::Node(_) => Kind::Nodes,
            Change::Pod(..) => Kind::Pods,
            Change::Budget(_) => Kind::Budgets,
        }
    }
}

fn listed(world: &World, kind: Kind) -> Listed {
    match kind {
        Kind::Nodes => Listed::Nodes(world.nodes().map(|n| n.seen()).collect()),
        Kind::Pods => {
            Listed::Pods(world.pods().filter(|p| p.node.is_some()).map(|p| p.seen()).collect())
        }
        Kind::Budgets => Listed::Budgets(world.budgets().map(|b| b.seen()).collect()),
    }
}

fn seen(op: Op, change: &Change) -> Seen {
    match (op, change) {
        (Op::Deleted, Change::Node(node)) => Seen::NodeGone(node.name.clone()),
        (Op::Deleted, Change::Pod(pod, _)) => Seen::PodGone(pod.uid.clone()),
        (Op::Deleted, Change::Budget(budget)) => Seen::BudgetGone(budget.key.clone()),
        (_, Change::Node(node)) => Seen::Node(node.seen()),
        (_, Change::Pod(pod, _)) => Seen::Pod(pod.seen()),
        (_, Change::Budget(budget)) => Seen::Budget(budget.seen()),
    }
}

/// As the real client reads the server's answers.
fn to_fault(what: &str, failure: Failure) -> Fault {
    let refusal = match failure {
        Failure::Lost => return Fault::transient(format!("{what}: the connection was lost")),
        Failure::Status(refusal) => refusal,
    };
    let said = format!("{what}: {refusal}");
    match refusal.code {
        404 => Fault::Gone { what: said },
        409 => Fault::Conflict { what: said },
        429 => Fault::Busy { what: said },
        408 | 410 | 500..=599 => Fault::transient(said),
        _ => Fault::permanent(said),
    }
}

impl Outside {
    async fn eviction(&self, pod: &PodRef, dry_run: bool) -> Result<EvictAnswer, Fault> {
        let (key, uid) = (pod.key.clone(), pod.uid.clone());
        let evict = move |world: &mut World| {
            let precondition = Precondition { uid: Some(uid), resource_version: None };
            let options = DeleteOptions { precondition, dry_run, ..DeleteOptions::default() };
            world.evict(&key, &key.name, &options)
        };
        let refusal = match self.api(Call::Write, true, evict, |_, ()| ()).await {
            Ok(()) => return Ok(EvictAnswer::Accepted),
            Err(Failure::Status(refusal)) => refusal,
            Err(lost @ Failure::Lost) => return Err(to_fault("evict", lost)),
        };
        let by_budget = refusal.causes.iter().any(|c| c.reason == "DisruptionBudget");
        let message =
            refusal.causes.first().map_or_else(|| refusal.message.clone(), |c| c.message.clone());
        match refusal.code {
            404 => Ok(EvictAnswer::Gone),
            409 if refusal.message.contains("UID") => Ok(EvictAnswer::Gone),
            429 if by_budget => {
                Ok(EvictAnswer::Refused { message, retry_after_s: refusal.retry_after_s })
            }
            500 if refusal.message.contains("PodDisruptionBudget") => {
                Ok(EvictAnswer::Impossible { message })
            }
            400 | 403 | 422 => Ok(EvictAnswer::Impossible { message }),
            _ => Err(to_fault("evict", Failure::Status(refusal))),
        }
    }
}

/// The taints of a node that is let go: without ours (the startup taint only once it is opened), and with these.
fn taints_after(node: &NodeSeen, ours: &[records::Taint], opens: bool) -> Vec<Taint> {
    let (startup, steer) = (Taint::startup(), Taint::steer());
    let there = node.taints.iter().map(|taint| Taint {
        key: taint.key.to_string(),
        value: taint.value.to_string(),
        effect: taint.effect.to_string(),
    });
    let stays = |taint: &Taint| {
        (*taint != startup || !opens)
            && *taint != steer
            && !ours.iter().any(|o| (&o.key, &o.effect) == (&taint.key, &taint.effect))
    };
    let new = ours.iter().map(|o| Taint {
        key: o.key.clone(),
        value: o.value.clone(),
        effect: o.effect.clone(),
    });
    there.filter(stays).chain(new).collect()
}

/// What a release made of a node's labels and taints.
fn dressed(before: &Node, after: &Node, dress: &Dress) -> Fact {
    let known = |taint: &Taint| (taint.key.clone(), taint.effect.clone());
    let taints: BTreeSet<_> = after.taints.iter().map(known).collect();
    let changed = |(key, value): &(&String, &String)| {
        after.labels.get(*key) != Some(*value) && !dress.labels.contains_key(*key)
    };
    let gone = |taint: &&Taint| {
        ![Taint::startup(), Taint::steer()].contains(taint) && !taints.contains(&known(taint))
    };
    let lost = before.labels.iter().filter(changed).map(|(key, _)| key.clone());
    let lost = lost.chain(before.taints.iter().filter(gone).map(|taint| taint.key.clone()));
    Fact::Dressed {
        node: after.name.clone(),
        lost: lost.collect(),
        labels: (*after.labels).clone(),
        taints,
    }
}

#[async_trait]
impl Cluster for Outside {
    async fn watch(&self) -> Result<mpsc::Receiver<Vec<Seen>>, Fault> {
        let (tx, rx) = mpsc::channel(64);
        let kinds = [Kind::Nodes, Kind::Pods, Kind::Budgets];
        let view = Arc::new(View { tx, down: tokio::sync::Mutex::new(kinds.into()) });
        for kind in kinds {
            tokio::spawn(self.clone().follow(kind, view.clone()));
        }
        Ok(rx)
    }

    async fn claim(&self, node: &NodeSeen, mark: &Mark) -> Result<(), Fault> {
        let text = serde_json::to_string(mark).expect("a mark is plain data");
        let change = NodeChange {
            annotations: [(CLAIM_ANNOTATION.to_owned(), Some(text))].into(),
            ..NodeChange::default()
        };
        self.patch(node, change, "claim").await
    }

    async fn set_unschedulable(&self, node: &NodeSeen, value: bool) -> Result<(), Fault> {
        let ours = node.starting() || node.steered();
        let taints = (!value && ours).then(|| taints_after(node, &[], true));
        let change = NodeChange { unschedulable: Some(value), taints, ..NodeChange::default() };
        self.patch(node, change, "cordon").await
    }

    async fn release(
        &self,
        node: &NodeSeen,
        uncordon: bool,
        dress: Option<&Dress>,
    ) -> Result<(), Fault> {
        let ours = dress.map_or(&[][..], |dress| &dress.taints);
        let opens = uncordon || dress.is_some();
        let ends = (node.starting() && opens) || node.steered();
        let labels =
            dress.iter().flat_map(|d| &d.labels).map(|(k, v)| (k.clone(), Some(v.clone())));
        let change = NodeChange {
            unschedulable: uncordon.then_some(false),
            annotations: [(CLAIM_ANNOTATION.to_owned(), None)].into(),
            labels: labels.collect(),
            taints: (!ours.is_empty() || ends).then(|| taints_after(node, ours, opens)),
        };
        let Some(dress) = dress.cloned() else {
            return self.patch(node, change, "release").await;
        };
        let (name, uid) = (node.name.clone(), node.uid.clone());
        let rv = node.resource_version.to_string();
        let patch = move |world: &mut World| {
            let before = world.node(&name)?;
            let precondition = Precondition { uid: Some(uid), resource_version: Some(rv) };
            let after = world.patch_node(Actor::Us, &name, &precondition, &change)?;
            Ok(dressed(&before, &after, &dress))
        };
        let witness = |inner: &mut Inner, fact: &Fact| inner.fact(fact);
        self.api(Call::Write, false, patch, witness)
            .await
            .map(drop)
            .map_err(|f| to_fault("release", f))
    }

    async fn steer(&self, node: &NodeSeen, away: bool) -> Result<(), Fault> {
        let mut taints = taints_after(node, &[], false);
        taints.extend(away.then(Taint::steer));
        let change = NodeChange { taints: Some(taints), ..NodeChange::default() };
        self.patch(node, change, "steer").await
    }

    async fn evict(&self, pod: &PodRef) -> Result<EvictAnswer, Fault> {
        self.eviction(pod, false).await
    }

    async fn try_evict(&self, pod: &PodRef) -> Result<EvictAnswer, Fault> {
        self.eviction(pod, true).await
    }

    async fn volumes(&self) -> Result<Volumes, Fault> {
        Ok(Volumes::new())
    }

    async fn delete(&self, pod: &PodRef) -> Result<(), Fault> {
        let (key, uid) = (pod.key.clone(), pod.uid.clone());
        let delete = move |world: &mut World| {
            let precondition = Precondition { uid: Some(uid), resource_version: None };
            let options = DeleteOptions { precondition, ..DeleteOptions::default() };
            world.delete_pod(Actor::Us, &key, &options).map(drop)
        };
        self.api(Call::Write, true, delete, |_, ()| ()).await.map_err(|f| to_fault("delete", f))
    }

    async fn confirm(&self, node: &NodeName) -> Result<LiveNode, Fault> {
        let (name, witness_name) = (node.clone(), node.clone());
        let read = move |world: &mut World| {
            let node = world.node(&name).ok().map(|n| n.seen());
            let pods = world.pods_on(&name).map(|p| p.seen()).collect();
            Ok(LiveNode { node, pods })
        };
        let witness = move |inner: &mut Inner, live: &LiveNode| {
            let dead = live.node.as_ref().is_none_or(|n| n.ready != Readiness::Ready);
            let obstructs = |p: &&evenkeel_engine::facts::PodSeen| {
                !matches!(p.owner, Owner::DaemonSet | Owner::Static)
                    && p.phase != PodPhase::Finished
                    && !(p.deleting && dead)
            };
            let pods = live.pods.iter().filter(obstructs).map(|p| p.uid.clone()).collect();
            let closed = live.node.as_ref().is_none_or(|n| n.unschedulable);
            inner.fact(&Fact::Read { node: witness_name, closed, pods });
        };
        self.api(Call::Read, false, read, witness).await.map_err(|f| to_fault("read", f))
    }

    async fn heartbeat(&self, node: &NodeName) -> Result<Option<i64>, Fault> {
        let name = node.clone();
        let read = move |world: &mut World| Ok(world.lease(&name).ok().map(|l| l.renew_wall_ms));
        self.api(Call::Read, false, read, |_, _| ()).await.map_err(|f| to_fault("heartbeat", f))
    }

    async fn event(
        &self,
        node: &NodeSeen,
        reason: &str,
        message: &str,
        _: bool,
    ) -> Result<(), Fault> {
        let said = (node.name.clone(), reason.to_owned(), message.to_owned());
        self.0.with(|inner| inner.events.push((inner.world.now(), said)));
        Ok(())
    }
}

/// Limits of steps in ms: short, so that a step that hangs costs little.
const STEPS: [(&str, u64); 5] = [
    ("teardown", 40_000),
    ("login", 10_000),
    ("pre_install", 40_000),
    ("install", 60_000),
    ("post_install", 40_000),
];

fn host_fault(failure: HostFailure) -> Fault {
    match failure {
        HostFailure::Unreachable(why) => Fault::transient(why),
        HostFailure::Denied => Fault::permanent("the host does not take the key"),
        HostFailure::Lost => Fault::transient("the connection broke"),
        HostFailure::Refused { kind: RefusalKind::Busy, message } => Fault::transient(message),
        HostFailure::Refused { message, .. } => Fault::permanent(message),
    }
}

impl Outside {
    async fn ssh<T: Send + 'static>(
        &self,
        node: &NodeName,
        effect: impl FnOnce(&mut World) -> Result<T, HostFailure> + Send + 'static,
    ) -> Result<T, Fault> {
        let (rig, node) = (self.0.clone(), node.clone());
        let sent = tokio::spawn(async move {
            let way = rig.with(way);
            sleep_ms(way).await;
            let Reply { after_ms, result } = rig.with(|inner| inner.world.over_ssh(&node, effect));
            sleep_ms(after_ms).await;
            result
        });
        sent.await.unwrap_or(Err(HostFailure::Lost)).map_err(host_fault)
    }
}

fn state_of(state: &OrderState, step: Option<&str>, ended: Option<i64>, limit: Span) -> HostState {
    match state {
        OrderState::Accepted | OrderState::Running => {
            HostState::Running { step: step.map(str::to_owned), limit }
        }
        OrderState::Succeeded => HostState::Succeeded { ended_host_ms: ended },
        OrderState::Failed { step, reason } => {
            HostState::Failed { step: step.clone(), reason: reason.clone() }
        }
        OrderState::Interrupted { step, reason } => {
            HostState::Failed { step: step.clone(), reason: format!("interrupted: {reason}") }
        }
    }
}

#[async_trait]
impl Machines for Outside {
    async fn probe(&self, _: &JobId, target: &Target) -> Result<(), Fault> {
        let name = target.node.clone();
        let facts = self.ssh(&target.node, move |world| world.host_facts(&name)).await?;
        match &target.machine_id {
            Some(id) if *id != facts.machine_id => Err(Fault::permanent("another machine answers")),
            _ => Ok(()),
        }
    }

    async fn forget(&self, job: &JobId) -> Result<(), Fault> {
        self.0.with(|inner| inner.forgotten.push(job.clone()));
        Ok(())
    }

    async fn run(
        &self,
        order: &HostOrder,
        progress: mpsc::Sender<HostState>,
    ) -> Result<HostState, Fault> {
        let node = order.target.node.clone();
        let (stage, post) = match order.stage {
            Stage::Reset => (hosts::Stage::Reset, false),
            Stage::Post => (hosts::Stage::Post, true),
        };
        let steps = STEPS.iter().filter(|(name, _)| (*name == "post_install") == post);
        let key = OrderKey {
            job: order.job.to_string(),
            node: node.to_string(),
            attempt: order.attempt,
            stage,
        };
        let sent = Order {
            key: key.clone(),
            epoch: order.epoch,
            machine_id: order.target.machine_id.as_deref().unwrap_or_default().to_owned(),
            product_uuid: None,
            steps: steps
                .map(|(name, limit_ms)| StepSpec { name: (*name).to_owned(), limit_ms: *limit_ms })
                .collect(),
        };
        let limit = Span(sent.steps.iter().map(|step| step.limit_ms).sum());
        let name = node.clone();
        let mut known = self.ssh(&node, move |world| world.host_accept(&name, &sent)).await?;
        let mut told = None;
        loop {
            let step = known.step_name().map(str::to_owned);
            let state = state_of(&known.state, step.as_deref(), known.ended_ms, limit);
            if known.state.is_final() {
                return Ok(state);
            }
            if told.as_ref() != Some(&state) {
                let _heard = progress.send(state.clone()).await;
                told = Some(state);
            }
            sleep_ms(800).await;
            let (name, key) = (node.clone(), key.clone());
            known = self.ssh(&node, move |world| world.host_order(&name, &key).cloned()).await?;
        }
    }
}
