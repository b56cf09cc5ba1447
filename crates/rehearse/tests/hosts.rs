//! A real SSH client against the played hosts.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use evenkeel_engine::facts::Readiness;
use evenkeel_node::protocol::{
    AnswerError, Chunk, EXIT_REFUSED, Facts, Have, LoginOrder, MachineIdentity, Order, OrderId,
    PROTOCOL, Progress, Proof, ProveRequest, RefusalKind, Remote, Sha256Hex, Stage, State, Step,
    Verb, parse_answer,
};
use evenkeel_rehearse::{Rehearsal, RehearseOptions};
use evenkeel_sim::Scenario;
use evenkeel_sim::faults::{HostTrouble, StepFault, StepTrouble};
use russh::ChannelMsg;
use russh::client::{self, Handle};
use russh::keys::{
    Algorithm, PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate, decode_secret_key,
};
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for anything in these tests.
const LIMIT: Duration = Duration::from_secs(20);
const BINARY: &[u8] = b"stands for the host binary";

struct Pinned(String);

impl client::Handler for Pinned {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        key: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        Ok(key.public_key().to_openssh().is_ok_and(|text| text == self.0))
    }
}

async fn start(scenario: Scenario) -> Rehearsal {
    let options = RehearseOptions { time_scale: 20.0, ..RehearseOptions::default() };
    Rehearsal::start(scenario, options).await.unwrap()
}

async fn connect(rehearsal: &Rehearsal, node: &str, key: &str) -> Result<Handle<Pinned>, String> {
    let host = rehearsal.hosts().iter().find(|host| host.node.as_str() == node).unwrap();
    let session = client::connect(Arc::default(), host.addr, Pinned(host.host_key.clone()));
    let mut session = session.await.map_err(|error| error.to_string())?;
    let key = PrivateKeyWithHashAlg::new(Arc::new(decode_secret_key(key, None).unwrap()), None);
    let answer =
        session.authenticate_publickey("root", key).await.map_err(|error| error.to_string())?;
    if answer.success() { Ok(session) } else { Err("refused".to_owned()) }
}

/// Runs one command over a connection of its own. `None` for the status: the connection was cut.
async fn exec(
    rehearsal: &Rehearsal,
    node: &str,
    remote: &Remote,
    stdin: &[u8],
) -> (Vec<u8>, Option<u32>) {
    let run = async {
        let session = connect(rehearsal, node, rehearsal.ssh_private_key()).await.unwrap();
        let mut channel = session.channel_open_session().await.unwrap();
        channel.exec(true, remote.to_command(false)).await.unwrap();
        channel.data(stdin).await.unwrap();
        channel.eof().await.unwrap();
        let (mut out, mut status) = (Vec::new(), None);
        while let Some(message) = channel.wait().await {
            match message {
                ChannelMsg::Data { data } => out.extend_from_slice(&data),
                ChannelMsg::ExitStatus { exit_status } => status = Some(exit_status),
                _ => {}
            }
        }
        (out, status)
    };
    tokio::time::timeout(LIMIT, run).await.expect("waited for a command to end")
}

fn binary() -> Sha256Hex {
    Sha256Hex::of(BINARY)
}

fn verb(verb: Verb) -> Remote {
    Remote::Run { hash: binary(), verb }
}

async fn push(rehearsal: &Rehearsal, node: &str) {
    let (out, status) = exec(rehearsal, node, &Remote::Upload { hash: binary() }, BINARY).await;
    assert_eq!(status, Some(0));
    assert!(parse_answer::<Have>(&out).unwrap().have);
}

fn login() -> LoginOrder {
    let key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).unwrap();
    LoginOrder {
        user: "root".parse().unwrap(),
        password_hash: Some(format!("$6$saltsalt${}", "a".repeat(86)).as_str().into()),
        remove_password: None,
        authorized_keys: None,
        remove_keys: None,
        keep_key: Some(key.public_key().to_openssh().unwrap()),
    }
}

fn order(facts: &Facts, attempt: u32, login: LoginOrder) -> Order {
    Order {
        protocol: PROTOCOL,
        id: OrderId::new("job", "node-1", attempt, Stage::Reset).unwrap(),
        epoch: 1,
        machine: MachineIdentity {
            machine_id: facts.machine_id.clone(),
            product_uuid: facts.product_uuid.clone(),
        },
        steps: vec![
            Step::teardown("kubeadm reset -f", 600),
            Step::Login(login),
            Step::pre_install("ZWNobyBoaQ=="),
            Step::install("kubeadm join", 600),
        ],
    }
}

async fn facts(rehearsal: &Rehearsal) -> Facts {
    push(rehearsal, "node-1").await;
    let asked = br#"{"user":"root"}"#;
    let (out, status) = exec(rehearsal, "node-1", &verb(Verb::Probe), asked).await;
    assert_eq!(status, Some(0));
    parse_answer(&out).unwrap()
}

async fn accept(rehearsal: &Rehearsal, order: &Order) -> Result<Progress, AnswerError> {
    let stdin = serde_json::to_vec(order).unwrap();
    let (out, status) = exec(rehearsal, "node-1", &verb(Verb::Accept), &stdin).await;
    let answer = parse_answer(&out);
    assert_eq!(status, Some(if answer.is_ok() { 0 } else { EXIT_REFUSED as u32 }));
    answer
}

async fn to_the_end(rehearsal: &Rehearsal, id: &OrderId) -> Progress {
    let wait = async {
        loop {
            let (out, _) =
                exec(rehearsal, "node-1", &verb(Verb::Status { order: id.clone() }), b"").await;
            let progress: Progress = parse_answer(&out).unwrap();
            if progress.state.is_final() {
                return progress;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.expect("waited for the order to end")
}

#[tokio::test]
async fn probe_accept_and_status_to_the_end() {
    let rehearsal = start(Scenario::new(1, 2)).await;
    let (_, status) = exec(&rehearsal, "node-1", &verb(Verb::Probe), b"").await;
    assert_eq!(status, Some(127), "no binary yet");
    let (out, _) = exec(&rehearsal, "node-1", &Remote::Have { hash: binary() }, b"").await;
    assert!(!parse_answer::<Have>(&out).unwrap().have);
    let (out, status) =
        exec(&rehearsal, "node-1", &Remote::Upload { hash: binary() }, b"damaged").await;
    assert_eq!(status, Some(EXIT_REFUSED as u32));
    match parse_answer::<Have>(&out) {
        Err(AnswerError::Refused(refusal)) => assert_eq!(refusal.kind, RefusalKind::Upload),
        other => panic!("{other:?}"),
    }
    let facts = facts(&rehearsal).await;
    assert_eq!((facts.protocol, facts.user_exists, facts.root), (PROTOCOL, Some(true), true));

    let given = order(&facts, 1, login());
    let first = accept(&rehearsal, &given).await.unwrap();
    assert!(!first.state.is_final());
    let done = to_the_end(&rehearsal, &given.id).await;
    assert_eq!(done.state, State::Succeeded);
    let names: Vec<_> = done.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["teardown", "login", "pre_install", "install"]);
    assert!(done.ended_ms > done.started_ms);
    let again = accept(&rehearsal, &given).await.unwrap();
    assert_eq!(again.state, State::Succeeded, "an order is run once");
    assert_eq!(rehearsal.world().lock().unwrap().runs.len(), 4);

    let read = verb(Verb::Read { order: given.id.clone(), offset: 3 });
    let (out, _) = exec(&rehearsal, "node-1", &read, b"").await;
    let chunk: Chunk = parse_answer(&out).unwrap();
    assert!(chunk.eof && chunk.offset == 3 && chunk.next == done.output_len);
    assert!(String::from_utf8(chunk.bytes().unwrap()).unwrap().contains("install on node-1"));

    let Step::Login(login) = given.steps[1].clone() else { panic!("the second step is the login") };
    let addr = "127.0.0.1".parse().unwrap();
    for (request, proved) in [
        (ProveRequest { login: login.clone(), addr }, true),
        (
            ProveRequest {
                login: LoginOrder { password_hash: Some("$6$other".into()), ..login },
                addr,
            },
            false,
        ),
    ] {
        let stdin = serde_json::to_vec(&request).unwrap();
        let (out, _) = exec(&rehearsal, "node-1", &verb(Verb::Prove), &stdin).await;
        let proof: Proof = parse_answer(&out).unwrap();
        assert_eq!(proof.first_failure().is_none(), proved, "{proof:?}");
    }
}

#[tokio::test]
async fn hosts_refuse_other_keys_machines_and_epochs() {
    let rehearsal = start(Scenario::new(2, 2)).await;
    let other = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).unwrap();
    let other = other.to_openssh(russh::keys::ssh_key::LineEnding::LF).unwrap();
    assert_eq!(connect(&rehearsal, "node-1", &other).await.err().as_deref(), Some("refused"));

    let facts = facts(&rehearsal).await;
    let kind = |answer: Result<Progress, AnswerError>| match answer {
        Err(AnswerError::Refused(refusal)) => refusal.kind,
        other => panic!("{other:?}"),
    };
    let mut elsewhere = order(&facts, 1, login());
    elsewhere.machine.machine_id = "another".into();
    assert_eq!(kind(accept(&rehearsal, &elsewhere).await), RefusalKind::WrongMachine);
    let mut stranger = order(&facts, 1, login());
    let Step::Login(asked) = &mut stranger.steps[1] else { panic!("the second step is the login") };
    asked.user = "nobody-here".parse().unwrap();
    assert_eq!(kind(accept(&rehearsal, &stranger).await), RefusalKind::UnknownUser);
    let mut newer = order(&facts, 1, login());
    newer.epoch = 7;
    accept(&rehearsal, &newer).await.unwrap();
    assert_eq!(kind(accept(&rehearsal, &order(&facts, 2, login())).await), RefusalKind::Fenced);
    to_the_end(&rehearsal, &newer.id).await;
    assert!(rehearsal.world().lock().unwrap().runs.len() == 4, "nothing else was run");
}

#[tokio::test]
async fn faults_of_hosts_reach_the_wire() {
    let mut scenario = Scenario::new(3, 3);
    scenario.faults.hosts =
        vec![(0, "node-2".into(), HostTrouble::Denies), (0, "node-3".into(), HostTrouble::Dead)];
    let trouble = StepTrouble::Exit(9);
    let attempts = 1..=1;
    scenario.faults.steps =
        vec![StepFault { node: None, step: "install".into(), attempts, trouble }];
    let rehearsal = start(scenario).await;
    let key = rehearsal.ssh_private_key();
    assert_eq!(connect(&rehearsal, "node-2", key).await.err().as_deref(), Some("refused"));
    assert!(connect(&rehearsal, "node-3", key).await.is_err());
    let facts = facts(&rehearsal).await;
    let given = order(&facts, 1, login());
    accept(&rehearsal, &given).await.unwrap();
    let done = to_the_end(&rehearsal, &given.id).await;
    assert_eq!(
        done.state,
        State::Failed { step: "install".into(), reason: "exit status 9".into() }
    );
    let again = order(&facts, 2, login());
    accept(&rehearsal, &again).await.unwrap();
    assert_eq!(to_the_end(&rehearsal, &again.id).await.state, State::Succeeded);
    let ready = async {
        loop {
            let state = rehearsal.world().lock().unwrap().node(&"node-1".into()).unwrap().ready;
            if state == Readiness::Ready {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, ready).await.expect("waited for node-1 to be Ready again");
}

#[tokio::test]
async fn a_lost_answer_has_no_exit_status_and_the_order_goes_on() {
    let rehearsal = start(Scenario::new(4, 1)).await;
    let facts = facts(&rehearsal).await;
    let mut plan = evenkeel_sim::FaultPlan::default();
    (plan.until_ms, plan.ssh_lost_per_mille) = (10_000_000, 1000);
    rehearsal.world().lock().unwrap().inject(plan);
    let given = order(&facts, 1, login());
    let stdin = serde_json::to_vec(&given).unwrap();
    let (out, status) = exec(&rehearsal, "node-1", &verb(Verb::Accept), &stdin).await;
    assert_eq!((out.len(), status), (0, None), "nobody knows");
    rehearsal.world().lock().unwrap().inject(evenkeel_sim::FaultPlan::default());
    let done = to_the_end(&rehearsal, &given.id).await;
    assert_eq!(done.state, State::Succeeded);
}
