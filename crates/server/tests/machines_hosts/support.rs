//! An SSH server in this process that runs the real `evenkeel-node`, and cuts connections on demand.
//!
//! Entry point: [`Lab`]. Each host has its own state directory and its own root directory (machine id, home
//! directories), so nothing of the machine that runs the tests is touched.

use async_trait::async_trait;
use evenkeel_engine::ids::JobId;
use evenkeel_node::protocol::Remote;
use evenkeel_server::machines::{
    BinarySource, Book, Brief, ClearTemplate, FileOutput, Fleet, HookOptions, NodeBinary,
    OutputKey, OutputSink, Part, Reach, SshAccess,
};
use evenkeel_server::records::{Recipe, Reinstalled};
use evenkeel_server::sync::ports::{Fault, HostOrder, HostState, Machines, Stage, Target};
use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey, PublicKey};
use russh::server::{self, Auth, ChannelOpenHandle, Msg, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelMsg, Disconnect};
use secrecy::SecretString;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// Nothing in these tests takes longer than a few seconds on an idle machine.
pub const LIMIT: Duration = Duration::from_mins(1);

pub fn new_key() -> PrivateKey {
    PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519).unwrap()
}

pub fn public_line(key: &PrivateKey) -> String {
    key.public_key().to_openssh().unwrap()
}

/// Builds `evenkeel-node` (a no-op if it is fresh) and reads it.
pub fn node_binary() -> NodeBinary {
    static BINARY: OnceLock<NodeBinary> = OnceLock::new();
    BINARY
        .get_or_init(|| {
            let mut build = std::process::Command::new(env!("CARGO"))
                .args(["build", "--quiet", "-p", "evenkeel-node", "--bin", "evenkeel-node"])
                .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
                .spawn()
                .unwrap();
            let begun = Instant::now();
            let status = loop {
                if let Some(status) = build.try_wait().unwrap() {
                    break status;
                }
                if begun.elapsed() > Duration::from_mins(8) {
                    build.kill().unwrap();
                    panic!("waited 8 minutes for `cargo build -p evenkeel-node`");
                }
                std::thread::sleep(Duration::from_millis(50));
            };
            assert!(status.success(), "`cargo build -p evenkeel-node` failed");
            // target/<profile>/deps/<test>: the build above is always the dev profile.
            let test = std::env::current_exe().unwrap();
            let target = test.ancestors().nth(3).unwrap();
            NodeBinary::new(std::fs::read(target.join("debug/evenkeel-node")).unwrap())
        })
        .clone()
}

/// Where a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The command arrives and never runs.
    Before(&'static str),
    /// The command runs to its end, its answer is lost.
    After(&'static str),
}

/// What the host's server shares between connections.
pub struct HostShared {
    state: PathBuf,
    root: PathBuf,
    keys: Mutex<Vec<PublicKey>>,
    /// Taken at the first fit.
    pub cut: Mutex<Option<Cut>>,
    /// Answers instead of the binary's, by command word.
    pub canned: Mutex<BTreeMap<&'static str, String>>,
    /// Command words in the order they came.
    pub seen: Mutex<Vec<String>>,
    pub connections: AtomicUsize,
    /// Every command ends with status 1 and this on stderr.
    pub refusal: Mutex<Option<String>>,
}

fn word(command: &str) -> String {
    match Remote::parse(command) {
        Some(Remote::Have { .. }) => "have".into(),
        Some(Remote::Upload { .. }) => "upload".into(),
        Some(Remote::Run { verb, .. }) => verb.args()[0].clone(),
        None => "shell".into(),
    }
}

struct Connection {
    shared: Arc<HostShared>,
    channels: BTreeMap<ChannelId, Channel<Msg>>,
}

impl server::Handler for Connection {
    type Error = russh::Error;

    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        if self.shared.cut.lock().unwrap().take_if(|cut| *cut == Cut::Before("auth")).is_some() {
            return Err(russh::Error::Disconnect);
        }
        let known = self.shared.keys.lock().unwrap();
        let fits = known.iter().any(|k| k.key_data() == key.public_key.key_data());
        Ok(if user == "root" && fits { Auth::Accept } else { Auth::reject() })
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.channels.insert(channel.id(), channel);
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let command = String::from_utf8(data.to_vec()).unwrap();
        let word = word(&command);
        self.shared.seen.lock().unwrap().push(word.clone());
        let cut = {
            let mut cut = self.shared.cut.lock().unwrap();
            let fits = matches!(*cut, Some(Cut::Before(w) | Cut::After(w)) if w == word);
            if fits { cut.take() } else { None }
        };
        if matches!(cut, Some(Cut::Before(_))) {
            return Err(russh::Error::Disconnect);
        }
        session.channel_success(id)?;
        if let Some(words) = self.shared.refusal.lock().unwrap().clone() {
            session.extended_data(id, 1, words)?;
            session.exit_status_request(id, 1)?;
            return session.close(id);
        }
        let channel = self.channels.remove(&id).unwrap();
        let (shared, handle) = (Arc::clone(&self.shared), session.handle());
        tokio::spawn(async move {
            let (status, stdout) = execute(&shared, &word, &command, channel_input(channel)).await;
            if cut.is_some() {
                handle.disconnect(Disconnect::ByApplication, "cut".into(), "en".into()).await.ok();
                return;
            }
            handle.data(id, stdout).await.ok();
            handle.exit_status_request(id, status).await.ok();
            handle.eof(id).await.ok();
            handle.close(id).await.ok();
        });
        Ok(())
    }
}

/// Standard input of a command, as it comes.
fn channel_input(mut channel: Channel<Msg>) -> mpsc::UnboundedReceiver<Vec<u8>> {
    let (to, from) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(message) = channel.wait().await {
            match message {
                ChannelMsg::Data { data } => drop(to.send(data.to_vec())),
                ChannelMsg::Eof | ChannelMsg::Close => break,
                _ => {}
            }
        }
    });
    from
}

async fn execute(
    shared: &HostShared,
    word: &str,
    command: &str,
    mut input: mpsc::UnboundedReceiver<Vec<u8>>,
) -> (u32, Vec<u8>) {
    if let Some(canned) = shared.canned.lock().unwrap().get(word) {
        return (0, canned.clone().into_bytes());
    }
    let local = command.replace("/var/lib/evenkeel", shared.state.to_str().unwrap());
    let mut child = tokio::process::Command::new("sh")
        .args(["-c", &local])
        .env("EVENKEEL_NODE_STATE", &shared.state)
        .env("EVENKEEL_NODE_ROOT", &shared.root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let feed = tokio::spawn(async move {
        while let Some(bytes) = input.recv().await {
            if stdin.write_all(&bytes).await.is_err() {
                break;
            }
        }
    });
    let output = tokio::time::timeout(LIMIT, child.wait_with_output()).await.unwrap().unwrap();
    feed.abort();
    (output.status.code().unwrap_or(255) as u32, output.stdout)
}

/// Keys as they lie on the disk now: a host that was reinstalled has others, and none while it boots.
fn config(key_file: &Path) -> Option<server::Config> {
    let key = PrivateKey::read_openssh_file(key_file).ok()?;
    let certificate = std::fs::read_to_string(key_file.with_added_extension("cert"));
    Some(server::Config {
        keys: vec![key],
        certificates: certificate.iter().map(|line| line.parse().unwrap()).collect(),
        auth_rejection_time: Duration::from_millis(10),
        nodelay: true,
        ..server::Config::default()
    })
}

/// One host.
pub struct TestHost {
    pub dir: tempfile::TempDir,
    pub shared: Arc<HostShared>,
    pub host_key: PrivateKey,
    pub port: u16,
    pub machine_id: String,
}

impl TestHost {
    pub async fn start(machine_id: &str, allowed: &PrivateKey) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (state, root) = (dir.path().join("state"), dir.path().join("root"));
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::create_dir_all(root.join("root")).unwrap();
        std::fs::write(root.join("etc/machine-id"), format!("{machine_id}\n")).unwrap();
        let host_key = new_key();
        let shared = Arc::new(HostShared {
            state,
            root,
            keys: Mutex::new(vec![allowed.public_key().clone()]),
            cut: Mutex::new(None),
            canned: Mutex::default(),
            seen: Mutex::default(),
            connections: AtomicUsize::new(0),
            refusal: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let key_file = dir.path().join("host_key");
        std::fs::write(&key_file, host_key.to_openssh(LineEnding::LF).unwrap()).unwrap();
        let accepting = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepting.connections.fetch_add(1, Ordering::SeqCst);
                let shared = Arc::clone(&accepting);
                let connection = Connection { shared, channels: BTreeMap::new() };
                let Some(config) = config(&key_file).map(Arc::new) else {
                    continue;
                };
                tokio::spawn(async move {
                    if let Ok(session) = server::run_stream(config, stream, connection).await {
                        session.await.ok();
                    }
                });
            }
        });
        Self { dir, shared, host_key, port, machine_id: machine_id.into() }
    }

    /// The host binary as a file of this host.
    pub fn installed(&self) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.file("evenkeel-node");
        if !path.exists() {
            std::fs::write(&path, &node_binary().bytes).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        }
        path
    }

    /// A file that scripts of the test write to.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn lines(&self, name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.file(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// What the book says; tests change it.
pub struct TestBook(pub Mutex<Brief>);

#[async_trait]
impl Book for TestBook {
    async fn brief(&self, _job: &JobId, _target: &Target) -> Result<Brief, Fault> {
        Ok(self.0.lock().unwrap().clone())
    }

    async fn pin(&self, _: &HostOrder, key: &str, _: Option<&str>) -> Result<(), Fault> {
        let mut brief = self.0.lock().unwrap();
        let Some(Reach::Ssh(access)) = &mut brief.reach else { panic!("no SSH") };
        access.host_key = Some(key.to_owned());
        Ok(())
    }

    async fn came_back(&self, _: &HostOrder, now: &Reinstalled) -> Result<(), Fault> {
        self.0.lock().unwrap().reinstalled = Some(now.clone());
        Ok(())
    }
}

/// A controller with one host.
pub struct Lab {
    pub host: TestHost,
    pub book: Arc<TestBook>,
    pub data: tempfile::TempDir,
    pub fleet: Fleet,
}

impl Lab {
    pub async fn new() -> Self {
        let key = new_key();
        let host = TestHost::start("0123456789abcdef0123456789abcdef", &key).await;
        let ssh = SshAccess {
            address: "127.0.0.1".into(),
            port: host.port,
            user: "root".into(),
            sudo: false,
            private_key: SecretString::from(key.to_openssh(LineEnding::LF).unwrap().to_string()),
            public_key: public_line(&key),
            host_key: Some(public_line(&host.host_key)),
            host_cas: Vec::new(),
            names: vec!["worker-1".into()],
        };
        let done = host.file("done");
        let done = done.display();
        let recipe = Recipe::Script {
            teardown: format!("echo teardown >>{done}; echo taking down"),
            install: format!("echo install >>{done}; echo putting back"),
            limit_s: 20,
            needs: vec!["sh".into(), "cat".into()],
            reimage: None,
            resume: false,
        };
        let template = ClearTemplate::default();
        let brief = Brief {
            recipe,
            reach: Some(Reach::Ssh(ssh)),
            template,
            joiner: None,
            epoch: None,
            reinstalled: None,
            facts_env: BTreeMap::new(),
        };
        let book = Arc::new(TestBook(Mutex::new(brief)));
        let data = tempfile::tempdir().unwrap();
        let fleet = Self::controller(&book, data.path());
        Self { host, book, data, fleet }
    }

    /// A controller that has just started.
    pub fn controller(book: &Arc<TestBook>, data: &Path) -> Fleet {
        let output = Arc::new(FileOutput::new(data));
        Fleet::new(
            Arc::clone(book) as Arc<dyn Book>,
            output,
            BinarySource::loaded(node_binary()),
            data,
            HookOptions { allow_loopback: true },
        )
    }

    pub fn restart(&mut self) {
        self.fleet = Self::controller(&self.book, self.data.path());
    }

    pub fn change(&self, change: impl FnOnce(&mut Brief)) {
        change(&mut self.book.0.lock().unwrap());
    }

    pub fn script(&self, text: String, limit: u32) {
        self.change(|brief| {
            if let Recipe::Script { install, limit_s, .. } = &mut brief.recipe {
                *install = text;
                *limit_s = limit;
            }
        });
    }

    pub fn access(&self, change: impl FnOnce(&mut SshAccess)) {
        self.change(|brief| match brief.reach.as_mut().unwrap() {
            Reach::Ssh(access) => change(access),
            Reach::Agent(_) => panic!("the host has an agent"),
        });
    }

    pub fn target(&self) -> Target {
        Target {
            node_id: "node-1".into(),
            node: "worker-1".into(),
            internal_ip: Some("127.0.0.1".into()),
            machine_id: Some(self.host.machine_id.as_str().into()),
            system_uuid: None,
        }
    }

    pub fn order(&self, attempt: u32, stage: Stage) -> HostOrder {
        HostOrder { job: "job-1".into(), target: self.target(), attempt, stage, epoch: 1 }
    }

    pub async fn probe(&self) -> Result<(), Fault> {
        let (job, target) = ("job-1".into(), self.target());
        let probe = self.fleet.probe(&job, &target);
        tokio::time::timeout(LIMIT, probe).await.expect("waited 60 s for a probe")
    }

    pub async fn run(&self, order: &HostOrder) -> (Result<HostState, Fault>, Vec<String>) {
        let (to, mut from) = mpsc::channel(64);
        let run = self.fleet.run(order, to);
        let end = tokio::time::timeout(LIMIT, run).await.expect("waited 60 s for an order");
        let mut steps = Vec::new();
        while let Ok(HostState::Running { step, .. }) = from.try_recv() {
            steps.extend(step);
        }
        (end, steps)
    }

    /// Runs again while the outcome is unknown, as the actor does.
    pub async fn run_to_end(&self, order: &HostOrder) -> HostState {
        for _ in 0..5 {
            match self.run(order).await.0 {
                Ok(state) => return state,
                Err(Fault::Transient { .. }) => {}
                Err(other) => panic!("{}", words(&other)),
            }
        }
        panic!("the outcome stayed unknown five times");
    }

    pub async fn output(&self, attempt: u32, stage: Stage) -> String {
        let (job, node) = ("job-1".into(), "node-1".into());
        let key = OutputKey { job, node, attempt, stage, part: Part::Host };
        let output = FileOutput::new(self.data.path()).load(&key).await.unwrap();
        output.unwrap_or_default().to_text()
    }
}

/// A fault with its causes.
pub fn words(fault: &Fault) -> String {
    let mut text = fault.to_string();
    let mut source = std::error::Error::source(fault);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

pub fn permanent(end: Result<impl std::fmt::Debug, Fault>) -> String {
    match end {
        Err(fault @ Fault::Permanent { .. }) => words(&fault),
        other => panic!("expected a permanent fault, got {other:?}"),
    }
}

pub fn transient(end: Result<impl std::fmt::Debug, Fault>) -> String {
    match end {
        Err(fault @ Fault::Transient { .. }) => words(&fault),
        other => panic!("expected a transient fault, got {other:?}"),
    }
}
