//! The real actor's ports, played on the world. Every request travels by itself: one that was on its way when the
//! controller died still arrives.

use crate::rig::{Inner, Rig};
use async_trait::async_trait;
use evenkeel_engine::check::Fact;
use evenkeel_engine::facts::{CLAIM_ANNOTATION, Mark, NodeSeen, Owner, PodPhase, Readiness};
use evenkeel_engine::ids::{JobId, NodeName};
use evenkeel_server::records::Dress;
use evenkeel_server::sync::ports::{
    Cluster, EvictAnswer, Fault, HostOrder, HostState, Listed, LiveNode, Machines, PodRef, Seen,
    Stage, Target,
};
use evenkeel_sim::World;
use evenkeel_sim::history::Actor;
use evenkeel_sim::hosts::{self, HostFailure, Order, OrderKey, OrderState, RefusalKind, StepSpec};
use evenkeel_sim::status::Refusal;
use evenkeel_sim::world::{
    Call, Change, DeleteOptions, Failure, NodeChange, Op, Precondition, Reply,
};
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
    if inner.world.faults_on() && inner.rng.chance(10) {
        inner.rng.range(300, 4000)
    } else {
        inner.rng.range(0, 6)
    }
}

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

    async fn follow(self, tx: mpsc::Sender<Vec<Seen>>) {
        let mut moved = self.0.moved.subscribe();
        loop {
            let listed = self.api(Call::Read, false, |world| Ok(snapshot(world)), |_, _| ()).await;
            let Ok((mut rv, all)) = listed else {
                sleep_ms(200).await;
                if tx.is_closed() {
                    return;
                }
                continue;
            };
            if tx.send(all).await.is_err() {
                return;
            }
            let mut opened = self.0.now();
            loop {
                tokio::select! {
                    biased;
                    () = tx.closed() => return,
                    _ = moved.changed() => {}
                }
                let (pause, chunk, cut) = self.0.with(|inner| {
                    let cut = inner.world.watch_dropped(opened);
                    let pause =
                        if cut { inner.rng.range(50, 3000) } else { inner.rng.range(0, 12) };
                    (pause, inner.rng.range(1, 12) as usize, cut)
                });
                if cut && pause > 1500 && tx.send(vec![Seen::Live(false)]).await.is_err() {
                    return;
                }
                sleep_ms(pause).await;
                let events = self.0.with(|inner| {
                    let events = inner.world.events_since(rv);
                    inner.world.coverage.gone_410 += u64::from(events.is_err());
                    events
                });
                let Ok(events) = events else {
                    if tx.send(vec![Seen::Live(false)]).await.is_err() {
                        return;
                    }
                    break;
                };
                if cut {
                    opened = self.0.now();
                    if pause > 1500 && tx.send(vec![Seen::Live(true)]).await.is_err() {
                        return;
                    }
                }
                for part in events.chunks(chunk) {
                    rv = part.last().map_or(rv, |e| e.rv);
                    let batch = part.iter().map(|e| seen(e.op, &e.change)).collect();
                    if tx.send(batch).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

fn snapshot(world: &World) -> (u64, Vec<Seen>) {
    let nodes = world.nodes().map(|n| n.seen()).collect();
    let pods = world.pods().filter(|p| p.node.is_some()).map(|p| p.seen()).collect();
    let budgets = world.budgets().map(|b| b.seen()).collect();
    let all = vec![
        Seen::Relisted(Listed::Nodes(nodes)),
        Seen::Relisted(Listed::Pods(pods)),
        Seen::Relisted(Listed::Budgets(budgets)),
        Seen::Live(true),
    ];
    (world.resource_version(), all)
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
        408 | 410 | 429 | 500..=599 => Fault::transient(said),
        _ => Fault::permanent(said),
    }
}

#[async_trait]
impl Cluster for Outside {
    async fn watch(&self) -> Result<mpsc::Receiver<Vec<Seen>>, Fault> {
        let (tx, rx) = mpsc::channel(64);
        tokio::spawn(self.clone().follow(tx));
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
        let change = NodeChange { unschedulable: Some(value), ..NodeChange::default() };
        self.patch(node, change, "cordon").await
    }

    async fn release(
        &self,
        node: &NodeSeen,
        uncordon: bool,
        _dress: Option<&Dress>,
    ) -> Result<(), Fault> {
        let change = NodeChange {
            unschedulable: uncordon.then_some(false),
            annotations: [(CLAIM_ANNOTATION.to_owned(), None)].into(),
            ..NodeChange::default()
        };
        self.patch(node, change, "release").await
    }

    async fn evict(&self, pod: &PodRef) -> Result<EvictAnswer, Fault> {
        let (key, uid) = (pod.key.clone(), pod.uid.clone());
        let evict = move |world: &mut World| {
            let precondition = Precondition { uid: Some(uid), resource_version: None };
            let options = DeleteOptions { precondition, ..DeleteOptions::default() };
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
            404 | 409 => Ok(EvictAnswer::Gone),
            429 if by_budget => {
                Ok(EvictAnswer::Refused { message, retry_after_s: refusal.retry_after_s })
            }
            500 if refusal.message.contains("PodDisruptionBudget") => {
                Ok(EvictAnswer::Impossible { message })
            }
            400 | 403 => Ok(EvictAnswer::Impossible { message }),
            _ => Err(to_fault("evict", Failure::Status(refusal))),
        }
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

    async fn event(&self, _: &NodeSeen, _: &str, _: &str, _: bool) -> Result<(), Fault> {
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

fn state_of(state: &OrderState, step: Option<&str>, ended: Option<i64>) -> HostState {
    match state {
        OrderState::Accepted | OrderState::Running => {
            HostState::Running { step: step.map(str::to_owned) }
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
        let name = node.clone();
        let mut known = self.ssh(&node, move |world| world.host_accept(&name, &sent)).await?;
        let mut told = None;
        loop {
            let step = known.step_name().map(str::to_owned);
            let state = state_of(&known.state, step.as_deref(), known.ended_ms);
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
