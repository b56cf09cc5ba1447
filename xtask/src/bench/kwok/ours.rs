//! The product's side: the release build of `evenkeel serve`, and one `evenkeel sync`.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::SLOTS;
use super::kubelets::Kubelets;
use super::scale::Scale;
use crate::run::{self, Process, note, spawn, wait_for};
use crate::testbed::Testbed;

/// Ten times what a start or a first look at 200 nodes takes on two busy cores.
const START_LIMIT: Duration = Duration::from_mins(1);
/// For one call of the client.
const CALL_LIMIT: Duration = Duration::from_mins(1);
/// Between two looks at the job: the makespan is too long by half of it on average.
const LOOK: Duration = Duration::from_millis(200);

/// Rolls all nodes; how long it took from the call to the end of the job.
pub fn roll(
    bed: &Testbed,
    scale: Scale,
    nodes: usize,
    kubelets: &Kubelets,
    binary: &Path,
    limit: Duration,
) -> Result<Duration> {
    let server = Server::start(bed, binary)?;
    let config = bed.kubeconfigs["evenkeel"].display().to_string();
    server.cli(&["cluster", "add", "bench", "--kubeconfig", &config])?;
    let script = kubelets.script.display().to_string();
    // Room for a busy machine; a reset that hangs fails its node.
    let seconds = (scale.reset().as_secs() * 4 + 30).to_string();
    let machines = ["cluster", "set-machines", "bench", "--recipe", "command", "--limit", &seconds];
    server.cli(&[&machines[..], &["--", &script]].concat())?;
    wait_for("the server to know all nodes", START_LIMIT, || {
        let list: Value = serde_json::from_str(&server.cli(&["node", "list", "-o", "json"])?)?;
        Ok((list["items"].as_array().is_some_and(|all| all.len() == nodes)).then_some(()))
    })?;
    let template = server.dir.join("template.json");
    // Any change will do: nobody logs in here, and the reset is given the script (`echo 1`) and leaves it.
    let login = json!({ "userPassword": { "username": "root", "password": "Bench-Pw-9" } });
    let text = json!({ "login": login, "lifeCycle": { "preInstall": "ZWNobyAx" } }).to_string();
    fs::write(&template, text)?;
    let (template, slots) = (template.display().to_string(), SLOTS.to_string());
    let what = ["sync", "DefaultPool", "--template", &template, "--max-unavailable", &slots];
    let begun = Instant::now();
    let accepted = server.cli(&[&what[..], &["-o", "json"]].concat())?;
    let accepted: Value = serde_json::from_str(&accepted)?;
    let job = accepted["jobid"].as_str().context("the sync named no job")?.to_owned();
    let ended = wait_for("the job to end", limit, || {
        std::thread::sleep(LOOK);
        let shown: Value = serde_json::from_str(&server.cli(&["get", "job", &job, "-o", "json"])?)?;
        let phase = shown["status"]["phase"].as_str().unwrap_or_default().to_owned();
        Ok(["Success", "Failed"].contains(&phase.as_str()).then_some(phase))
    });
    let took = begun.elapsed();
    server.keep_job(&job);
    match ended {
        Ok(phase) if phase == "Success" => Ok(took),
        Ok(phase) => bail!("the job ended {phase}; see {}", server.dir.display()),
        Err(error) => Err(error.context(format!("see {}", server.dir.display()))),
    }
}

/// A running server; stopped when dropped.
struct Server {
    dir: PathBuf,
    binary: PathBuf,
    process: Process,
    environment: Vec<(&'static str, String)>,
}

impl Server {
    fn start(bed: &Testbed, binary: &Path) -> Result<Self> {
        let dir = bed.state_dir.join("server");
        if dir.exists() {
            fs::remove_dir_all(&dir).context("remove what an earlier run left")?;
        }
        fs::create_dir_all(&dir)?;
        let port =
            TcpListener::bind("127.0.0.1:0").context("find a free port")?.local_addr()?.port();
        let (config, place) = (dir.join("config.toml"), dir.display());
        // What is not set has its default: the server's own times are not scaled.
        let text = format!(
            "listen = \"127.0.0.1:{port}\"\ndata_dir = \"{place}/data\"\nkey_file = \"{place}/key\"\n\
             [clusters]\nallow_loopback = true\n[policy]\ncanary = false\nsettle_s = 0\n"
        );
        fs::write(&config, text)?;
        let log = dir.join("server.log");
        let flags = ["serve", "--config", &config.display().to_string()].map(str::to_owned);
        let process = spawn("evenkeel", binary, &flags, &log)?;
        let mut server = Self { dir, binary: binary.to_owned(), process, environment: Vec::new() };
        wait_for("the server to listen", START_LIMIT, || {
            ensure!(server.process.alive(), "it has ended: {}", fs::read_to_string(&log)?);
            Ok(Some(TcpStream::connect(("127.0.0.1", port))?))
        })?;
        let text = fs::read_to_string(&log)?;
        server.environment = vec![
            ("EVENKEEL_ENDPOINT", format!("http://127.0.0.1:{port}")),
            ("EVENKEEL_PROJECT_ID", printed(&text, "project id")?),
            ("EVENKEEL_AK", printed(&text, "AK")?),
            ("EVENKEEL_SK", printed(&text, "SK")?),
            ("NO_COLOR", "1".to_owned()),
        ];
        Ok(server)
    }

    fn cli(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.binary);
        command.args(words).envs(self.environment.iter().map(|(name, value)| (name, value)));
        run::output(&mut command, CALL_LIMIT)
    }

    /// For whoever wants to know why it took so long.
    fn keep_job(&self, job: &str) {
        let kept = self.cli(&["get", "job", job, "--log", "--why"]).and_then(|text| {
            fs::write(self.dir.join("job.txt"), text).context("write the job's story")
        });
        if let Err(error) = kept {
            note(&format!("{error:#}"));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.process.stop(Duration::from_secs(10)) {
            note(&format!("{error:#}"));
        }
    }
}

/// The first start prints a credential once, a line for each part.
fn printed(text: &str, label: &str) -> Result<String> {
    let found = text.lines().find_map(|line| line.trim_start().strip_prefix(label));
    let value = found.map(str::trim).filter(|value| !value.is_empty());
    Ok(value.with_context(|| format!("the server printed no {label}"))?.to_owned())
}
