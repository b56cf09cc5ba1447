//! What the host binary would answer, with the world's host behind it.

use crate::api::lock;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use evenkeel_engine::ids::NodeName;
use evenkeel_node::protocol::{
    BadOrder, CHUNK_BYTES_MAX, Chunk, EXIT_REFUSED, Facts, Have, LoginOrder, Order, OrderId,
    Outcome, PROTOCOL, PlanEntry, ProbeRequest, Progress, Proof, ProofCheck, ProveRequest, Refusal,
    RefusalKind, Remote, STATE_DIR, Sha256Hex, State, Step, StepResult, Swept, Verb,
};
use evenkeel_sim::World;
use evenkeel_sim::hosts as sim;
use serde::Serialize;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

/// Users that every played host has.
const USERS: &[&str] = &["root", "admin"];

/// What its kubelet says of itself; the version that the played API server reports.
const KUBELET: &str = "Kubernetes v1.36.3";

/// Commands that every played host has.
const COMMANDS: &[&str] = &["sh", "systemctl", "chpasswd", "passwd", "sshd"];

/// What the disk of a host holds besides its journal.
#[derive(Debug, Default)]
pub(super) struct HostFiles {
    binaries: BTreeSet<String>,
    orders: BTreeMap<OrderId, Order>,
}

/// What a command writes, and how it ends.
pub(super) struct Answer {
    pub(super) stdout: Vec<u8>,
    pub(super) status: u32,
}

fn said(value: &impl Serialize) -> Answer {
    Answer { stdout: serde_json::to_vec(value).unwrap_or_default(), status: 0 }
}

fn refused(kind: RefusalKind, message: impl Into<String>) -> Answer {
    let refusal = Refusal { kind, message: message.into() };
    let stdout = serde_json::to_vec(&json!({"error": refusal})).unwrap_or_default();
    Answer { stdout, status: EXIT_REFUSED as u32 }
}

/// Runs a command on a host. Returns what it costs in world milliseconds, and the answer; `None` cuts the
/// connection, before or after the effect.
pub(super) fn run(
    world: &Mutex<World>,
    node: &NodeName,
    files: &Mutex<HostFiles>,
    remote: &Remote,
    stdin: &[u8],
) -> (u64, Option<Answer>) {
    let mut world = lock(world);
    let mut files = lock(files);
    let reply = world.over_ssh(node, |world| Ok(answer(world, node, &mut files, remote, stdin)));
    (reply.after_ms, reply.result.ok())
}

fn answer(
    world: &mut World,
    node: &NodeName,
    files: &mut HostFiles,
    remote: &Remote,
    stdin: &[u8],
) -> Answer {
    let has = |files: &HostFiles, hash: &Sha256Hex| files.binaries.contains(hash.as_str());
    match remote {
        Remote::Have { hash } => said(&Have { have: has(files, hash) }),
        Remote::Upload { hash } => {
            if Sha256Hex::of(stdin) != *hash {
                return refused(RefusalKind::Upload, "the binary arrived damaged");
            }
            files.binaries.insert(hash.to_string());
            said(&Have { have: true })
        }
        // As a shell says it when the file is not there.
        Remote::Run { hash, .. } if !has(files, hash) => Answer { stdout: Vec::new(), status: 127 },
        Remote::Run { hash, verb } => match verb {
            Verb::Probe => probe(world, node, stdin),
            Verb::Accept => accept(world, node, files, stdin),
            Verb::Status { order } => match find(world, node, order) {
                Ok(journaled) => said(&progress(world, node, order, journaled)),
                Err(refusal) => refusal,
            },
            Verb::Read { order, offset } => match find(world, node, order) {
                Ok(journaled) => said(&chunk(world, node, order, journaled, *offset)),
                Err(refusal) => refusal,
            },
            Verb::Prove => prove(world, node, files, stdin),
            Verb::Plan => plan(stdin),
            Verb::Gc => {
                let old: Vec<_> =
                    files.binaries.iter().filter(|b| *b != hash.as_str()).cloned().collect();
                files.binaries.retain(|binary| binary == hash.as_str());
                said(&Swept { orders: Vec::new(), binaries: old })
            }
        },
    }
}

fn probe(world: &World, node: &NodeName, stdin: &[u8]) -> Answer {
    let asked: ProbeRequest = match serde_json::from_slice(stdin) {
        Ok(asked) => asked,
        Err(_) if stdin.is_empty() => ProbeRequest::default(),
        Err(error) => return refused(RefusalKind::BadOrder, error.to_string()),
    };
    let facts = match world.host_facts(node) {
        Ok(facts) => facts,
        Err(failure) => return refused(RefusalKind::Storage, format!("{failure:?}")),
    };
    let found = |name: String| (COMMANDS.contains(&name.as_str()), name);
    let commands = asked.commands.into_iter().map(found).map(|(there, name)| (name, there));
    said(&Facts {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        machine_id: facts.machine_id.to_string(),
        product_uuid: Some(facts.product_uuid.to_lowercase()),
        boot_id: facts.boot_id.to_string(),
        hostname: node.to_string(),
        root: true,
        user_exists: asked.user.map(|user| USERS.contains(&user.as_str())),
        free_disk_mb: 20_480,
        free_disk_at: STATE_DIR.to_owned(),
        commands: commands.collect(),
        kubelet: asked.kubelet.then(|| KUBELET.to_owned()),
        systemd: true,
        epoch_seen: facts.epoch_seen,
        last_order: facts.last_order.and_then(|key| key.to_string().parse().ok()),
        time_ms: u64::try_from(facts.time_ms).unwrap_or(0),
    })
}

fn read_order(stdin: &[u8]) -> Result<Order, Answer> {
    let order: Order = serde_json::from_slice(stdin).map_err(|error| {
        refused(RefusalKind::BadOrder, format!("the order cannot be read: {error}"))
    })?;
    match order.check() {
        Ok(()) => Ok(order),
        Err(error @ BadOrder::Protocol { .. }) => {
            Err(refused(RefusalKind::Protocol, error.to_string()))
        }
        Err(error) => Err(refused(RefusalKind::BadOrder, error.to_string())),
    }
}

fn key_of(id: &OrderId) -> sim::OrderKey {
    sim::OrderKey {
        job: id.job().to_owned(),
        node: id.node().to_owned(),
        attempt: id.attempt(),
        stage: match id.stage() {
            // The played world knows one stage before Post; no rehearsal uses the recipe that parts it.
            evenkeel_node::protocol::Stage::Teardown | evenkeel_node::protocol::Stage::Reset => {
                sim::Stage::Reset
            }
            evenkeel_node::protocol::Stage::Post => sim::Stage::Post,
        },
    }
}

fn accept(world: &mut World, node: &NodeName, files: &mut HostFiles, stdin: &[u8]) -> Answer {
    let order = match read_order(stdin) {
        Ok(order) => order,
        Err(refusal) => return refusal,
    };
    let login = order.steps.iter().find_map(|step| match step {
        Step::Login(login) => Some(login),
        _ => None,
    });
    if let Some(login) = login.filter(|login| !USERS.contains(&login.user.as_str())) {
        return refused(
            RefusalKind::UnknownUser,
            format!("user {} does not exist on this host", login.user),
        );
    }
    let given = sim::Order {
        key: key_of(&order.id),
        epoch: order.epoch,
        machine_id: order.machine.machine_id.clone(),
        product_uuid: order.machine.product_uuid.clone(),
        steps: order.steps.iter().map(step_spec).collect(),
    };
    match world.host_accept(node, &given) {
        Ok(journaled) => {
            let id = order.id.clone();
            files.orders.insert(id.clone(), order);
            said(&progress(world, node, &id, &journaled))
        }
        Err(failure) => said_no(failure),
    }
}

fn step_spec(step: &Step) -> sim::StepSpec {
    sim::StepSpec {
        name: step.name().to_owned(),
        limit_ms: step.time_limit_s().unwrap_or(60) * 1000,
    }
}

fn said_no(failure: sim::HostFailure) -> Answer {
    let (kind, message) = match failure {
        sim::HostFailure::Refused { kind, message } => (kind, message),
        other => return refused(RefusalKind::Storage, format!("{other:?}")),
    };
    let kind = match kind {
        sim::RefusalKind::BadOrder => RefusalKind::BadOrder,
        sim::RefusalKind::WrongMachine => RefusalKind::WrongMachine,
        sim::RefusalKind::Fenced => RefusalKind::Fenced,
        sim::RefusalKind::Busy => RefusalKind::Busy,
        sim::RefusalKind::UnknownOrder => RefusalKind::UnknownOrder,
    };
    refused(kind, message)
}

fn find<'a>(world: &'a World, node: &NodeName, id: &OrderId) -> Result<&'a sim::Journaled, Answer> {
    world.host_order(node, &key_of(id)).map_err(said_no)
}

fn progress(world: &World, node: &NodeName, id: &OrderId, journaled: &sim::Journaled) -> Progress {
    let state = match &journaled.state {
        sim::OrderState::Accepted => State::Accepted,
        sim::OrderState::Running => State::Running,
        sim::OrderState::Succeeded => State::Succeeded,
        sim::OrderState::Failed { step, reason } => {
            State::Failed { step: step.clone(), reason: reason.clone() }
        }
        sim::OrderState::Interrupted { step, reason } => {
            State::Interrupted { step: step.clone(), reason: reason.clone() }
        }
    };
    let ended = |done: &sim::StepDone| StepResult {
        name: done.name.clone(),
        outcome: match done.outcome {
            sim::Outcome::Ok => Outcome::Ok,
            sim::Outcome::Exit(code) => Outcome::Exit(code),
            sim::Outcome::Timeout => Outcome::Timeout,
        },
        duration_ms: done.duration_ms,
    };
    let step = match &state {
        State::Running => journaled.step_name().map(str::to_owned),
        State::Failed { step, .. } | State::Interrupted { step, .. } => Some(step.clone()),
        State::Accepted | State::Succeeded => None,
    };
    let clock = |ms: Option<i64>| ms.and_then(|ms| u64::try_from(ms).ok());
    Progress {
        id: id.clone(),
        state,
        step,
        started_ms: clock(journaled.started_ms),
        ended_ms: clock(journaled.ended_ms),
        steps: journaled.done.iter().map(ended).collect(),
        output_len: journaled.output.len() as u64,
        boot_id: world.host(node).map(|host| host.boot_id.to_string()).unwrap_or_default(),
    }
}

fn chunk(
    world: &World,
    node: &NodeName,
    id: &OrderId,
    journaled: &sim::Journaled,
    offset: u64,
) -> Chunk {
    let output = &journaled.output;
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(output.len());
    let end = output.len().min(start + CHUNK_BYTES_MAX);
    Chunk {
        offset: start as u64,
        next: end as u64,
        data_b64: STANDARD.encode(&output[start..end]),
        eof: journaled.state.is_final() && end == output.len(),
        progress: progress(world, node, id, journaled),
    }
}

/// The login that the host has: that of the last order whose login step ended well.
fn login_now<'a>(world: &World, node: &NodeName, files: &'a HostFiles) -> Option<&'a LoginOrder> {
    let done = |order: &&Order| {
        let journaled = world.host_order(node, &key_of(&order.id)).ok()?;
        let ok = journaled.done.iter().any(|s| s.name == "login" && s.outcome == sim::Outcome::Ok);
        ok.then_some(journaled.started_ms)
    };
    let last = files
        .orders
        .values()
        .filter_map(|order| Some((done(&order)?, order)))
        .max_by_key(|(at, _)| *at)?;
    last.1.steps.iter().find_map(|step| match step {
        Step::Login(login) => Some(login),
        _ => None,
    })
}

fn prove(world: &World, node: &NodeName, files: &HostFiles, stdin: &[u8]) -> Answer {
    let request: ProveRequest = match serde_json::from_slice(stdin) {
        Ok(request) => request,
        Err(error) => {
            return refused(RefusalKind::BadOrder, format!("the request cannot be read: {error}"));
        }
    };
    let wanted = &request.login;
    let now = login_now(world, node, files);
    let mut checks = Vec::new();
    let mut check = |name: &str, ok: bool, detail: &str| {
        checks.push(ProofCheck { name: name.to_owned(), ok, detail: detail.to_owned() });
    };
    check("user", USERS.contains(&wanted.user.as_str()), wanted.user.as_str());
    if wanted.password_hash.is_some() {
        let same = now.is_some_and(|now| now.password_hash == wanted.password_hash);
        check(
            "password",
            same,
            if same { "the shadow field is the ordered hash" } else { "another hash" },
        );
        check("sshd_password", same, "passwordauthentication");
    }
    if wanted.remove_password.is_some() {
        let locked = now.is_some_and(|now| now.remove_password == wanted.remove_password);
        check("password_locked", locked, "the shadow field");
    }
    if let Some(keys) = &wanted.authorized_keys {
        let same = now.is_some_and(|now| now.authorized_keys.as_ref() == Some(keys));
        check("managed_block", same, "keys of the managed block");
        check("sshd_pubkey", same, "pubkeyauthentication");
    }
    if wanted.remove_keys.is_some() {
        let gone = now.is_some_and(|now| now.remove_keys == wanted.remove_keys);
        check("managed_block", gone, "keys of the managed block");
    }
    said(&Proof { checks })
}

fn plan(stdin: &[u8]) -> Answer {
    match read_order(stdin) {
        Ok(order) => said(&order.steps.iter().map(plan_entry).collect::<Vec<_>>()),
        Err(refusal) => refusal,
    }
}

fn plan_entry(step: &Step) -> PlanEntry {
    let what = match step {
        Step::Login(login) => format!("set the login of {}", login.user),
        other => format!("run the {} script", other.name()),
    };
    PlanEntry { name: step.name().to_owned(), what, time_limit_s: step.time_limit_s() }
}
