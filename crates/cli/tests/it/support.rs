//! A small server over loopback that checks every signature, and a way to run a command against it.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Cursor, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use evenkeel_api::sign::{RequestParts, verify};
use evenkeel_cli::{Command, Io};
use serde_json::{Value, json};

pub const AK: &str = "TESTACCESSKEY";
pub const SK: &str = "test-secret-canary";
pub const PROJECT: &str = "0123456789abcdef0123456789abcdef";
pub const CLUSTER: &str = "c0000000-0000-4000-8000-000000000001";
pub const POOL: &str = "b0000000-0000-4000-8000-000000000001";
pub const JOB: &str = "01890000-0000-7000-8000-000000000001";

/// No request takes longer; a client that hangs must not hang the test.
const SOCKET_LIMIT: Duration = Duration::from_secs(20);

/// One request as it came, after its signature was found good.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub call: String,
    pub body: Value,
}

#[derive(Default)]
struct Script {
    /// Answers by `METHOD path?query`; the last one stays.
    answers: BTreeMap<String, VecDeque<(u16, String)>>,
    seen: Vec<Seen>,
}

/// The server. It ends with the process.
pub struct Server {
    pub endpoint: String,
    script: Arc<Mutex<Script>>,
}

impl Server {
    /// A server that knows one cluster, its pools and its nodes.
    pub fn start() -> Self {
        let server = Self::empty();
        server.on(&cce("GET", "clusters?detail=true"), 200, clusters());
        server.on(&in_cluster("GET", "nodepools?showDefaultNodePool=true"), 200, pools());
        server.on(&in_cluster("GET", "nodes?limit=2000"), 200, nodes());
        server
    }

    pub fn empty() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let script = Arc::new(Mutex::new(Script::default()));
        let shared = Arc::clone(&script);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { endpoint, script }
    }

    /// Adds an answer to a call. Several are given one after the other.
    pub fn on(&self, call: &str, status: u16, body: Value) {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        self.on_text(call, status, &text);
    }

    pub fn on_text(&self, call: &str, status: u16, body: &str) {
        let mut script = self.script.lock().unwrap();
        script.answers.entry(call.to_owned()).or_default().push_back((status, body.to_owned()));
    }

    /// The calls that change something.
    pub fn changes(&self) -> Vec<Seen> {
        let script = self.script.lock().unwrap();
        script.seen.iter().filter(|seen| !seen.call.starts_with("GET ")).cloned().collect()
    }

    pub fn calls(&self) -> Vec<String> {
        self.script.lock().unwrap().seen.iter().map(|seen| seen.call.clone()).collect()
    }

    pub fn run(&self, args: &str) -> Outcome {
        self.run_with(args, &[], "")
    }

    /// Runs a command with the credential of this server in its environment.
    pub fn run_with(&self, args: &str, env: &[(&str, &str)], stdin: &str) -> Outcome {
        let mut all = vec![
            ("EVENKEEL_ENDPOINT", self.endpoint.as_str()),
            ("EVENKEEL_AK", AK),
            ("EVENKEEL_SK", SK),
            ("EVENKEEL_PROJECT_ID", PROJECT),
        ];
        all.extend(env);
        run(args, &all, stdin)
    }
}

fn serve(mut stream: TcpStream, script: &Mutex<Script>) {
    stream.set_read_timeout(Some(SOCKET_LIMIT)).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut first = String::new();
    if reader.read_line(&mut first).unwrap_or(0) == 0 {
        return;
    }
    let mut words = first.split_whitespace();
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let mut body = vec![0; length.map_or(0, |(_, value)| value.parse().unwrap())];
    reader.read_exact(&mut body).unwrap();
    let (raw_path, raw_query) = target.split_once('?').unwrap_or((target, ""));
    let parts = RequestParts { method, raw_path, raw_query, headers: &headers, body: &body };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    let (status, answer) = match verify(&parts, SK.as_bytes(), now) {
        Err(error) => (401, refusal(error.code().code(), &error.to_string()).to_string()),
        Ok(()) => answer(script, &format!("{method} {target}"), &body),
    };
    write!(
        stream,
        "HTTP/1.1 {status} Any\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         X-Request-Id: req-1\r\nConnection: close\r\n\r\n{answer}",
        answer.len()
    )
    .unwrap();
}

fn answer(script: &Mutex<Script>, call: &str, body: &[u8]) -> (u16, String) {
    let mut script = script.lock().unwrap();
    let body = serde_json::from_slice(body).unwrap_or(Value::Null);
    script.seen.push(Seen { call: call.to_owned(), body });
    let Some(answers) = script.answers.get_mut(call) else {
        return (404, refusal("APIGW.0101", &format!("nothing stands at {call}")).to_string());
    };
    if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0].clone() }
}

/// A refusing answer as the API words it.
pub fn refusal(code: &str, message: &str) -> Value {
    json!({ "error_code": code, "error_msg": message, "errorCode": code, "errorMessage": message })
}

pub fn cce(method: &str, rest: &str) -> String {
    format!("{method} /api/v3/projects/{PROJECT}/{rest}")
}

pub fn in_cluster(method: &str, rest: &str) -> String {
    cce(method, &format!("clusters/{CLUSTER}/{rest}"))
}

pub fn own(method: &str, rest: &str) -> String {
    format!("{method} /evenkeel/v1/projects/{PROJECT}/{rest}")
}

pub fn cluster() -> Value {
    json!({
        "kind": "Cluster",
        "metadata": { "name": "lab", "uid": CLUSTER, "creationTimestamp": "2026-11-23 10:00:00 +0000 UTC",
            "annotations": { "totalNodesNumber": "2", "activeNodesNumber": "2" } },
        "spec": { "version": "v1.34.1" },
        "status": { "phase": "Available", "endpoints": [{ "url": "https://10.0.0.9:6443", "type": "External" }] }
    })
}

pub fn clusters() -> Value {
    json!({ "kind": "Cluster", "items": [cluster()] })
}

pub fn pools() -> Value {
    let running = json!([{ "type": "ConfigurationSynchronizing", "status": "True" }]);
    let status = json!({ "phase": "", "currentNode": 2, "activeNode": 2, "configurationSyncedNodeCount": 1,
        "jobId": JOB, "conditions": running });
    json!({ "kind": "List", "items": [
        { "metadata": { "name": "blue", "uid": POOL }, "spec": { "initialNodeCount": 2 }, "status": status },
        { "metadata": { "name": "DefaultPool", "uid": "DefaultPool" }, "spec": {},
            "status": { "phase": "", "currentNode": 0, "activeNode": 0, "configurationSyncedNodeCount": 0 } }
    ] })
}

pub fn node(name: &str, current: bool) -> Value {
    let last = &name[name.len() - 1..];
    json!({
        "metadata": { "name": name, "uid": format!("uid-{name}"),
            "ownerReferences": { "nodepoolName": "blue", "nodepoolID": POOL } },
        "spec": {},
        "status": { "phase": "Active", "privateIP": format!("10.0.0.{last}"), "configurationUpToDate": current }
    })
}

pub fn nodes() -> Value {
    json!({ "kind": "List", "items": [node("node-1", true), node("node-2", false)], "pageInfo": { "currentCount": 2 } })
}

/// What a command did.
#[derive(Debug)]
pub struct Outcome {
    pub exit: u8,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// All three at once, so that a failed test shows all of it.
    #[track_caller]
    pub fn is(&self, exit: u8, stdout: &str, stderr: &str) {
        assert_eq!((self.exit, self.stdout.as_str(), self.stderr.as_str()), (exit, stdout, stderr));
    }
}

#[derive(Parser)]
#[command(name = "evenkeel")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Runs a command; words are parted by blanks, `~` stands for a blank within a word.
pub fn run(args: &str, env: &[(&str, &str)], stdin: &str) -> Outcome {
    let words = std::iter::once("evenkeel".to_owned());
    let words = words.chain(args.split_whitespace().map(|word| word.replace('~', " ")));
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => {
            let (exit, text) = (error.exit_code() as u8, error.to_string());
            return Outcome { exit, stdout: String::new(), stderr: text };
        }
    };
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let exit = {
        let lookup = |name: &str| {
            let value = env
                .iter()
                .rev()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned());
            value.filter(|value| !value.is_empty())
        };
        let mut io = Io {
            stdin: Box::new(Cursor::new(stdin.as_bytes())),
            stdout: Box::new(&mut stdout),
            stderr: Box::new(&mut stderr),
            env: Box::new(lookup),
            stdin_is_terminal: false,
            stdout_is_terminal: false,
            colour: false,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(evenkeel_cli::run(cli.command, &mut io))
    };
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let outcome = Outcome { exit: exit as u8, stdout: text(stdout), stderr: text(stderr) };
    assert!(
        !outcome.stdout.contains(SK) && !outcome.stderr.contains(SK),
        "the secret key was shown"
    );
    outcome
}

/// A directory with files, gone with the value.
pub struct Files(tempfile::TempDir);

impl Files {
    pub fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(directory.path().join(name), content).unwrap();
        }
        Self(directory)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn at(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}
