//! The real cluster: `xtask testbed up` in a directory of its own, and taken down however the test ends.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A cold build of the control plane takes 7 minutes on two cores; it is normally in the cache.
const UP_LIMIT: Duration = Duration::from_mins(15);
const DOWN_LIMIT: Duration = Duration::from_mins(1);
/// Signals, requests to etcd.
const SMALL_LIMIT: Duration = Duration::from_secs(10);

/// A running control plane with KWOK and no hosts.
pub struct Bed {
    dir: tempfile::TempDir,
    described: Value,
}

fn xtask(arguments: &[&str], dir: &Path) -> Command {
    let mut command = match std::env::var_os("EVENKEEL_XTASK") {
        Some(program) => Command::new(program),
        None => {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let mut command = Command::new(cargo);
            command.args(["run", "--quiet", "-p", "xtask", "--"]);
            command
        }
    };
    command.args(arguments).arg("--state-dir").arg(dir);
    command
}

/// Runs a command; its stdout, or why it failed or took too long.
fn within(mut command: Command, limit: Duration) -> Result<String, String> {
    let shown = format!("{command:?}");
    let out = tempfile::tempfile().map_err(|error| error.to_string())?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(out.try_clone().map_err(|error| error.to_string())?)
        .spawn()
        .map_err(|error| format!("{shown}: {error}"))?;
    let begun = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if begun.elapsed() < limit => std::thread::sleep(Duration::from_millis(50)),
            Ok(None) => {
                let _ = child.kill();
                return Err(format!("waited {limit:?} for the end of {shown}"));
            }
            Err(error) => return Err(format!("{shown}: {error}")),
        }
    };
    if !status.success() {
        return Err(format!("{shown}: {status}"));
    }
    read_from_start(out).map_err(|error| error.to_string())
}

fn read_from_start(mut file: std::fs::File) -> std::io::Result<String> {
    use std::io::{Read as _, Seek as _};
    file.rewind()?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

impl Bed {
    pub fn up() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text = within(xtask(&["testbed", "up", "--kwok"], dir.path()), UP_LIMIT).unwrap();
        Self { dir, described: serde_json::from_str(&text).unwrap() }
    }

    pub fn server(&self) -> String {
        self.described["server"].as_str().unwrap().to_owned()
    }

    fn kubeconfig(&self, user: &str) -> Value {
        let path = PathBuf::from(self.described["kubeconfigs"][user].as_str().unwrap());
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    pub fn token(&self, user: &str) -> String {
        let config = self.kubeconfig(user);
        config["users"][0]["user"]["token"].as_str().unwrap().to_owned()
    }

    pub fn authority_pem(&self) -> Vec<u8> {
        let config = self.kubeconfig("admin");
        let data = &config["clusters"][0]["cluster"]["certificate-authority-data"];
        STANDARD.decode(data.as_str().unwrap()).unwrap()
    }

    fn process(&self, name: &str) -> u64 {
        let processes = self.described["processes"].as_array().unwrap();
        let found = processes.iter().find(|process| process["name"] == name);
        found.unwrap()["pid"].as_u64().unwrap()
    }

    /// Stops a controller where it stands, so that nobody corrects what a test has set up.
    pub fn freeze(&self, name: &str) {
        let mut kill = Command::new("kill");
        kill.arg("-STOP").arg(self.process(name).to_string());
        within(kill, SMALL_LIMIT).unwrap();
    }

    /// Throws away all versions but the newest, as the API server does every five minutes.
    pub async fn compact(&self) {
        let arguments =
            std::fs::read_to_string(format!("/proc/{}/cmdline", self.process("etcd"))).unwrap();
        let url = arguments
            .split('\0')
            .find_map(|word| word.strip_prefix("--listen-client-urls="))
            .unwrap();
        let client = reqwest::Client::builder().timeout(SMALL_LIMIT).no_proxy().build().unwrap();
        let ask = async |call: &str, body: Value| -> Value {
            let answer =
                client.post(format!("{url}/v3/kv/{call}")).json(&body).send().await.unwrap();
            answer.error_for_status().unwrap().json().await.unwrap()
        };
        let now = ask("range", json!({"key": STANDARD.encode("compact_rev_key")})).await;
        ask("compaction", json!({"revision": now["header"]["revision"]})).await;
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let done = within(xtask(&["testbed", "down"], self.dir.path()), DOWN_LIMIT);
        assert!(done.is_ok() || std::thread::panicking(), "{done:?}");
    }
}
