//! The same orders through a real `evenkeel-node agent`, which asks a real server over TLS.

use crate::b64;
use crate::support::{LIMIT, Lab, permanent, transient};
use evenkeel_engine::ids::{ClusterId, NodeId};
use evenkeel_node::protocol::agent::Poll;
use evenkeel_server::agents::{Exchange, PollError};
use evenkeel_server::app::{self, Running};
use evenkeel_server::config::{Config, Tls};
use evenkeel_server::machines::{AgentAccess, Reach};
use evenkeel_server::records::{self, AgentPlace, AgentRecord, EnrolToken, NodeRecord, keys};
use evenkeel_server::store::Txn;
use evenkeel_server::sync::points::Points;
use evenkeel_server::sync::ports::{Fault, HostState, Stage};
use sha2::{Digest, Sha256};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server of its own, with TLS, and one host with an agent.
struct AgentLab {
    lab: Lab,
    dir: tempfile::TempDir,
    server: Option<Running>,
    config: Config,
    project: String,
    agent: Option<Child>,
}

fn openssl(dir: &std::path::Path, args: &str) {
    let mut run = Command::new("openssl");
    run.args(args.split(' ')).current_dir(dir).stdin(Stdio::null());
    let out = run.output().unwrap();
    assert!(out.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&out.stderr));
}

/// A CA, and a certificate of it for 127.0.0.1.
fn certificates(dir: &std::path::Path) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(dir, &format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=test-ca"));
    openssl(dir, &format!("req {key} -keyout key.pem -out csr.pem -subj /CN=evenkeel"));
    std::fs::write(dir.join("ext"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    openssl(
        dir,
        "x509 -req -in csr.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out cert.pem",
    );
}

const CLUSTER: &str = "11111111-2222-3333-4444-555555555555";
const TOKEN: &str = "token-token-token-token-token-token-token-0";

impl AgentLab {
    async fn new() -> Self {
        let lab = Lab::new().await;
        let dir = tempfile::tempdir().unwrap();
        certificates(dir.path());
        let config = Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            data_dir: dir.path().join("data"),
            key_file: dir.path().join("key"),
            tls: Some(Tls { cert: dir.path().join("cert.pem"), key: dir.path().join("key.pem") }),
            ..Config::default()
        };
        let server = app::start(config.clone(), Points::default()).await.unwrap();
        let config = Config { listen: server.address, ..config };
        let project = server.bootstrap.as_ref().unwrap().project_id.clone();
        let mut this = Self { lab, dir, server: Some(server), config, project, agent: None };
        this.token(TOKEN).await;
        let (ended, said) = this.enrol(TOKEN, "ca.pem");
        assert!(ended, "{said}");
        assert!(said.contains("enrolled as node worker-1 of cluster lab"), "{said}");
        this.reach();
        this.start_agent();
        this
    }

    /// A token, as the API makes it.
    async fn token(&self, token: &str) {
        let sha256 = hex::encode(Sha256::digest(token));
        let (cluster, node) = (ClusterId::new(CLUSTER), NodeId::new("node-1"));
        let record = NodeRecord {
            id: node.clone(),
            name: "worker-1".into(),
            pool: "DefaultPool".into(),
            machine_id: Some(self.lab.host.machine_id.clone()),
            system_uuid: None,
            internal_ip: None,
            provider_id: None,
            applied: None,
            image: None,
            carries: Default::default(),
            created_ms: 0,
            updated_ms: 0,
        };
        let agent = AgentRecord {
            node: node.clone(),
            name: "worker-1".into(),
            token: Some(EnrolToken {
                sha256: sha256.clone(),
                expires_ms: i64::MAX,
                by: "t".into(),
            }),
            agent: self.record().await.and_then(|record| record.agent),
        };
        let place = AgentPlace {
            project: self.project.clone(),
            cluster: cluster.clone(),
            node: node.clone(),
        };
        let lab = serde_json::json!({
            "id": CLUSTER, "name": "lab", "version": "v1", "server": "s", "machines": null, "recipe": null,
            "kubeconfig": { "key": "k", "dek": "", "data": "" }, "created_ms": 0
        });
        let txn = Txn::new()
            .put(keys::node(&self.project, &cluster, &node), records::encode(&record))
            .put(keys::agent(&self.project, &cluster, &node), records::encode(&agent))
            .put(keys::agent_token(&sha256), records::encode(&place))
            .put(keys::cluster(&self.project, &cluster), records::encode(&lab));
        self.server.as_ref().unwrap().store.txn(txn).await.unwrap();
    }

    fn key(&self) -> String {
        keys::agent(&self.project, &ClusterId::new(CLUSTER), &NodeId::new("node-1"))
    }

    async fn record(&self) -> Option<AgentRecord> {
        let key = self.key();
        let kv = self.server.as_ref().unwrap().store.get(&key, None).await.unwrap()?;
        Some(records::decode(&key, &kv.value).unwrap())
    }

    fn exchange(&self) -> Exchange {
        self.server.as_ref().unwrap().agents.clone()
    }

    /// The book says that the node is reached through its agent at the present server.
    fn reach(&self) {
        let identity: serde_json::Value =
            serde_json::from_slice(&std::fs::read(self.identity()).unwrap()).unwrap();
        let access = AgentAccess {
            exchange: self.exchange(),
            agent: identity["agent"].as_str().unwrap().to_owned(),
            node: "worker-1".into(),
            public_key: None,
        };
        self.lab.change(|brief| brief.reach = Some(Reach::Agent(access)));
    }

    fn identity(&self) -> PathBuf {
        self.lab.host.file("state/agent/identity.json")
    }

    fn program(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.lab.host.installed());
        command
            .args(args)
            .env("EVENKEEL_NODE_STATE", self.lab.host.file("state"))
            .env("EVENKEEL_NODE_ROOT", self.lab.host.file("root"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Enrols the host; what it printed.
    fn enrol(&self, token: &str, ca: &str) -> (bool, String) {
        let url = format!("https://{}", self.config.listen);
        let ca = self.dir.path().join(ca);
        self.enrol_at(&url, token, ca.to_str().unwrap())
    }

    fn enrol_at(&self, url: &str, token: &str, ca: &str) -> (bool, String) {
        let mut child = self.program(&["agent", "enrol", url, ca]).spawn().unwrap();
        // A program that refuses early does not read it.
        let _ = child.stdin.take().unwrap().write_all(format!("{token}\n").as_bytes());
        let out = child.wait_with_output().unwrap();
        let text = [out.stdout, out.stderr].concat();
        (out.status.success(), String::from_utf8(text).unwrap())
    }

    fn start_agent(&mut self) {
        let path = self.dir.path().join("agent.log");
        let log = std::fs::File::options().create(true).append(true).open(path).unwrap();
        let mut agent = self.program(&["agent"]);
        self.agent =
            Some(agent.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
    }

    fn kill_agent(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    async fn stop_server(&mut self) {
        drop(self.server.take());
        // The port is free when the listener's task is gone.
        let begun = Instant::now();
        while std::net::TcpListener::bind(self.config.listen).is_err() {
            assert!(begun.elapsed() < LIMIT, "waited for the port of the old server");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn start_server(&mut self) {
        // The store's file is free when the last task of the old server is gone.
        let begun = Instant::now();
        self.server = loop {
            match app::start(self.config.clone(), Points::default()).await {
                Ok(server) => break Some(server),
                Err(error) => assert!(begun.elapsed() < LIMIT, "waited for a new server: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        self.reach();
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("agent.log")).unwrap_or_default()
    }

    async fn logged(&self, words: &str) {
        let begun = Instant::now();
        while !self.log().contains(words) {
            assert!(
                begun.elapsed() < LIMIT,
                "waited for {words:?} in the agent's log: {}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn line(&self, file: &str, line: &str) {
        let begun = Instant::now();
        while !self.lab.host.lines(file).iter().any(|found| found == line) {
            assert!(begun.elapsed() < LIMIT, "waited for {line:?} in {file}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for AgentLab {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().ok();
            agent.wait().ok();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_through_an_agent_is_the_same_as_over_ssh() {
    let lab = AgentLab::new().await;
    let done = lab.lab.host.file("done");
    lab.lab.change(|brief| {
        brief.template.pre_install_b64 =
            Some(b64(&format!("sleep 0.3; echo pre >>{}", done.display())));
        brief.template.post_install_b64 = Some(b64(&format!("echo post >>{}", done.display())));
    });
    lab.lab.probe().await.unwrap();
    let (end, steps) = lab.lab.run(&lab.lab.order(1, Stage::Reset)).await;
    assert!(matches!(end, Ok(HostState::Succeeded { ended_host_ms: Some(_) })), "{end:?}");
    assert!(!steps.is_empty());
    lab.lab.run(&lab.lab.order(1, Stage::Post)).await.0.unwrap();
    assert_eq!(lab.lab.host.lines("done"), ["teardown", "pre", "install", "post"]);
    assert_eq!(
        lab.lab.output(1, Stage::Reset).await,
        "== teardown ==\ntaking down\n== pre_install ==\n== install ==\nputting back\n"
    );
    assert_eq!(lab.lab.host.shared.seen.lock().unwrap().len(), 0, "nothing went over SSH");
    // A script that says more than one answer holds.
    lab.lab.script("head -c 900000 /dev/zero | tr '\\0' x".into(), 20);
    lab.lab.run(&lab.lab.order(2, Stage::Reset)).await.0.unwrap();
    assert!(lab.lab.output(2, Stage::Reset).await.len() > 400_000);
    // The wrong machine is told as over SSH.
    let mut order = lab.lab.order(3, Stage::Reset);
    order.target.machine_id = Some("ffffffffffffffffffffffffffffffff".into());
    assert!(permanent(lab.lab.run(&order).await.0).contains("wrong machine"));
    // What is kept is for root alone, and nothing of the secret is in the log.
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(lab.identity()).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    assert!(!lab.log().contains(TOKEN) && !lab.log().contains("credential"), "{}", lab.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_outlives_its_agent_and_its_server() {
    let mut lab = AgentLab::new().await;
    let (done, gate) = (lab.lab.host.file("done"), lab.lab.host.file("gate"));
    let script = format!(
        "echo begun >>{0}; while [ ! -e {1} ]; do sleep 0.05; done; echo ended >>{0}",
        done.display(),
        gate.display()
    );
    lab.lab.script(script, 50);
    let order = lab.lab.order(1, Stage::Reset);
    // The agent is killed in the middle: the outcome is unknown, and nothing is run again.
    let mut agent = lab.agent.take().unwrap();
    let (run, ()) = tokio::join!(lab.lab.run(&order), async {
        lab.line("done", "begun").await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        agent.kill().unwrap();
    });
    agent.wait().unwrap();
    assert!(transient(run.0).contains("worker-1 (agent)"));
    // So is the server, while nobody asks.
    lab.stop_server().await;
    lab.start_agent();
    lab.logged("cannot be reached").await;
    lab.start_server().await;
    lab.lab.restart();
    std::fs::write(&gate, "").unwrap();
    let end = lab.lab.run_to_end(&order).await;
    assert!(matches!(end, HostState::Succeeded { .. }), "{end:?}");
    assert_eq!(lab.lab.host.lines("done"), ["teardown", "begun", "ended"], "once each");
    assert!(lab.lab.output(1, Stage::Reset).await.starts_with("== teardown ==\ntaking down\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_let_in() {
    let mut lab = AgentLab::new().await;
    lab.lab.probe().await.unwrap();
    // A token is good for one use; another CA, clear text and an empty input are refused before it is spent.
    let (ended, said) = lab.enrol(TOKEN, "ca.pem");
    assert!(!ended && said.contains("unknown, used or too old"), "{said}");
    lab.token("second").await;
    std::fs::create_dir(lab.dir.path().join("other")).unwrap();
    certificates(&lab.dir.path().join("other"));
    let (ended, said) = lab.enrol("second", "other/ca.pem");
    assert!(!ended && said.contains("certificate"), "{said}");
    let ca = lab.dir.path().join("ca.pem");
    let plain = format!("http://{}", lab.config.listen);
    let (ended, said) = lab.enrol_at(&plain, "second", ca.to_str().unwrap());
    assert!(!ended && said.contains("over TLS only"), "{said}");
    let (ended, said) = lab.enrol("", "ca.pem");
    assert!(!ended && said.contains("holds no token"), "{said}");
    // A second agent on one host waits for nobody: it ends.
    let out = lab.program(&["agent"]).output().unwrap();
    assert!(!out.status.success());
    assert!(String::from_utf8_lossy(&out.stderr).contains("another agent runs"), "{out:?}");
    // A new enrolment takes the old credential its rights at once.
    let (ended, said) = lab.enrol("second", "ca.pem");
    assert!(ended, "{said}");
    lab.logged("unknown or revoked").await;
    lab.kill_agent();
    lab.start_agent();
    lab.reach();
    lab.lab.probe().await.unwrap();
    // Revoked as the API does it: the store first, then whoever is in.
    let agent = lab.record().await.unwrap().agent.unwrap();
    let asking = lab.exchange();
    let id = agent.id.clone();
    let txn = Txn::new().delete(lab.key()).delete(keys::agent_id(&id));
    lab.server.as_ref().unwrap().store.txn(txn).await.unwrap();
    let begun = Instant::now();
    asking.revoke(&id);
    lab.logged("unknown or revoked; enrol this host again").await;
    let end: Result<(), Fault> = lab.lab.probe().await;
    assert!(transient(end).contains("cannot be reached"), "a revoked agent gets nothing");
    assert!(begun.elapsed() < Duration::from_secs(20));
}

/// Replaced by a binary of another protocol: before an order that is said and final, in its middle it is waited out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_protocol_refuses_what_has_not_begun_and_keeps_what_has() {
    let mut lab = AgentLab::new().await;
    let (done, gate) = (lab.lab.host.file("done"), lab.lab.host.file("gate"));
    let wait = format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display());
    lab.lab.script(format!("echo begun >>{0}; {wait}; echo ended >>{0}", done.display()), 50);
    let order = lab.lab.order(1, Stage::Reset);
    let mut agent = lab.agent.take().unwrap();
    let (run, ()) = tokio::join!(lab.lab.run(&order), async {
        lab.line("done", "begun").await;
        agent.kill().unwrap();
    });
    agent.wait().unwrap();
    transient(run.0);
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let poll = Poll { boot_id: boot_id.trim().into(), version: "0.9".into(), protocol: 7 };
    let id = lab.record().await.unwrap().agent.unwrap().id;
    let told = lab.exchange().poll(&id, &poll, LIMIT).await;
    assert!(matches!(told, Err(PollError::Misfit(_))), "{told:?}");
    for part in ["evenkeel-node 0.9", "protocol 7", "restart its agent"] {
        let said = permanent(lab.lab.probe().await);
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(transient(lab.lab.run(&order).await.0).contains("protocol 7"));
    std::fs::write(&gate, "").unwrap();
    lab.start_agent();
    let begun = Instant::now();
    while lab.exchange().seen(&id).is_none_or(|seen| !seen.connected) {
        assert!(begun.elapsed() < LIMIT, "waited for the agent that fits");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let end = lab.lab.run_to_end(&order).await;
    assert!(matches!(end, HostState::Succeeded { .. }), "{end:?}");
    assert_eq!(lab.lab.host.lines("done"), ["teardown", "begun", "ended"], "once each");
}
