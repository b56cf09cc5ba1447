//! `xtask bench plan`: what a pool of 10,000 nodes costs the server, and how that grows from 100.
//!
//! `evenkeel serve` in one process, an API server played by another (`crates/rehearse/examples/herd`): 4 kB of JSON a
//! pod. Measured from outside: the time of a preview with the program that a person would use, memory from /proc; the
//! time of each decision is what the server's own log says.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::run::{Process, output, passed, spawn, wait_for};

/// Everything in release mode, cold, on two slow cores.
const BUILD_LIMIT: Duration = Duration::from_mins(30);
/// 300,000 pods of 4 kB are 1.2 GB of JSON, made by one core and read by the other.
const LIST_LIMIT: Duration = Duration::from_mins(5);
/// A call of the command line.
const CALL_LIMIT: Duration = Duration::from_mins(1);
/// Previews at each size; the median counts.
const PREVIEWS: usize = 5;
/// How long a synchronization runs while its decisions are timed: thousands of them.
const RUN: Duration = Duration::from_secs(30);
/// As many pods as the largest setting has on each node: 300,000 on 10,000.
const PODS_PER_NODE: u32 = 30;

/// A program that is killed when it is no longer needed.
struct Herd(Child);

impl Drop for Herd {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Server(Process);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.stop(Duration::from_secs(10));
    }
}

/// Measures at each size; returns the table. The figures go to `target/bench/plan.json`.
pub fn run(root: &Path, sizes: &[u32]) -> Result<String> {
    ensure!(!sizes.is_empty() && sizes.iter().all(|n| *n >= 2), "at least two nodes are needed");
    let mut build = Command::new(env!("CARGO"));
    build.current_dir(root).args([
        "build",
        "--release",
        "-p",
        "evenkeel",
        "-p",
        "evenkeel-rehearse",
        "--bins",
        "--examples",
    ]);
    ensure!(passed(&mut build, BUILD_LIMIT)?, "the release build failed");
    let mut rows = Vec::new();
    for nodes in sizes {
        rows.push(measure(root, *nodes).with_context(|| format!("{nodes} nodes"))?);
    }
    let out = root.join("target/bench");
    fs::create_dir_all(&out).context("create target/bench")?;
    let figures =
        serde_json::to_vec_pretty(&json!({"pods_per_node": PODS_PER_NODE, "rows": rows}))?;
    fs::write(out.join("plan.json"), figures).context("write plan.json")?;
    Ok(table(&rows))
}

const COLUMNS: [(&str, &str); 9] = [
    ("nodes", "nodes"),
    ("pods", "pods"),
    ("first_list_s", "first list s"),
    ("rss_mb", "RSS MB"),
    ("peak_mb", "peak MB"),
    ("preview_s", "preview s"),
    ("decisions", "decisions"),
    ("decision_p50_us", "p50 us"),
    ("decision_p99_us", "p99 us"),
];

fn table(rows: &[Value]) -> String {
    let mut text = String::new();
    let heads: Vec<String> = COLUMNS.iter().map(|(_, head)| format!("{head:>12}")).collect();
    let _ = writeln!(text, "{}", heads.join(" "));
    for row in rows {
        let cells: Vec<String> =
            COLUMNS.iter().map(|(key, _)| format!("{:>12}", row[*key].to_string())).collect();
        let _ = writeln!(text, "{}", cells.join(" "));
    }
    text
}

/// A server of its own in a directory of its own.
struct Bench {
    program: PathBuf,
    dir: PathBuf,
    server: Server,
    environment: Vec<(&'static str, String)>,
}

impl Bench {
    fn start(root: &Path) -> Result<Self> {
        let dir = root.join("target/bench/plan");
        if dir.exists() {
            fs::remove_dir_all(&dir).context("remove the last run")?;
        }
        fs::create_dir_all(&dir).context("create target/bench/plan")?;
        let shown = dir.display();
        let config = format!(
            "listen = \"127.0.0.1:0\"\ndata_dir = \"{shown}/data\"\nkey_file = \"{shown}/key\"\nlog = \"json\"\n\
             [clusters]\nallow_loopback = true\n[policy]\ncanary = false\nsettle_s = 0\n"
        );
        fs::write(dir.join("config.toml"), config).context("write the configuration")?;
        let program = root.join("target/release/evenkeel");
        let log = dir.join("server.log");
        let words = [
            "serve",
            "--config",
            &format!("{shown}/config.toml"),
            "--log-filter",
            "warn,evenkeel_server=info,evenkeel_server::turn=debug",
        ];
        let server = Server(spawn("the server", &program, &words.map(str::to_owned), &log)?);
        let address = wait_for("the server to listen", Duration::from_secs(20), || {
            ensure!(
                server.0.alive(),
                "the server ended: {}",
                fs::read_to_string(&log).unwrap_or_default()
            );
            Ok(lines(&log)?
                .iter()
                .find_map(|line| Some(line["fields"]["address"].as_str()?.to_owned())))
        })?;
        let said = fs::read_to_string(&log).context("read the server's log")?;
        let word = |label: &str| {
            let found = said.lines().find_map(|line| line.trim().strip_prefix(label));
            found
                .map(|rest| rest.trim().to_owned())
                .with_context(|| format!("the server printed no {label}"))
        };
        let environment = vec![
            ("EVENKEEL_ENDPOINT", format!("http://{address}")),
            ("EVENKEEL_PROJECT_ID", word("project id")?),
            ("EVENKEEL_AK", word("AK")?),
            ("EVENKEEL_SK", word("SK")?),
            ("NO_COLOR", "1".to_owned()),
        ];
        Ok(Self { program, dir, server, environment })
    }

    fn cli(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.args(words).envs(self.environment.iter().map(|(key, value)| (*key, value)));
        output(&mut command, CALL_LIMIT)
    }

    fn memory_mb(&self, field: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.server.0.pid))
            .context("read the server's memory")?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .context("no such figure in /proc")?;
        let kb: u64 = line
            .trim_start_matches(':')
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .context("read the figure")?;
        Ok(kb / 1024)
    }
}

/// What the log holds so far, without lines that are not JSON (the first start's credential).
fn lines(log: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(log).context("read the server's log")?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

fn herd(root: &Path, nodes: u32) -> Result<(Herd, String)> {
    let mut child = Command::new(root.join("target/release/examples/herd"))
        .args([nodes.to_string(), PODS_PER_NODE.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start the played API server")?;
    let out = child.stdout.take().context("its output")?;
    let herd = Herd(child);
    let mut address = String::new();
    BufReader::new(out).read_line(&mut address).context("read its address")?;
    Ok((herd, address.trim().to_owned()))
}

fn measure(root: &Path, nodes: u32) -> Result<Value> {
    let (_herd, address) = herd(root, nodes)?;
    let bench = Bench::start(root)?;
    let kubeconfig = bench.dir.join("kubeconfig");
    fs::write(&kubeconfig, format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: a\nclusters: [{{name: a, cluster: {{server: \"http://{address}\"}}}}]\n\
         users: [{{name: a, user: {{token: t}}}}]\ncontexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n"
    )).context("write the kubeconfig")?;
    let template = bench.dir.join("template.json");
    // base64 of `true`; the recipe runs nothing.
    let body = json!({"lifeCycle": {"preInstall": "dHJ1ZQ=="}, "login": {"sshKey": "bench"}});
    fs::write(&template, body.to_string()).context("write the template")?;
    let (kubeconfig, template) = (kubeconfig.display().to_string(), template.display().to_string());
    let key = bench.dir.join("id");
    let mut keygen = Command::new("ssh-keygen");
    output(keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key), CALL_LIMIT)?;
    bench.cli(&["keypair", "import", "bench", &format!("{}.pub", key.display())])?;

    let begun = Instant::now();
    bench.cli(&["cluster", "add", "herd", "--kubeconfig", &kubeconfig])?;
    let plan =
        ["plan", "DefaultPool", "--template", &template, "--max-unavailable", "20", "--json"];
    wait_for("the first list", LIST_LIMIT, || Ok(Some(planned(&bench.cli(&plan)?, nodes)?)))?;
    let first_list = begun.elapsed();
    bench.cli(&["cluster", "set-machines", "herd", "--recipe", "none"])?;
    let rss = bench.memory_mb("VmRSS")?;
    let mut took = Vec::new();
    for _ in 0..PREVIEWS {
        let begun = Instant::now();
        planned(&bench.cli(&plan)?, nodes)?;
        took.push(begun.elapsed());
    }
    took.sort();
    let decisions = decisions(&bench, &template)?;
    let seconds = |time: Duration| (time.as_secs_f64() * 1000.0).round() / 1000.0;
    let at = |share: usize| decisions[(decisions.len() - 1) * share / 100];
    Ok(json!({
        "nodes": nodes, "pods": nodes * PODS_PER_NODE, "first_list_s": seconds(first_list), "rss_mb": rss,
        "rss_end_mb": bench.memory_mb("VmRSS")?, "peak_mb": bench.memory_mb("VmHWM")?,
        "preview_s": seconds(took[PREVIEWS / 2]), "decisions": decisions.len(),
        "decision_p50_us": at(50), "decision_p99_us": at(99), "decision_max_us": at(100),
    }))
}

/// A preview of all nodes.
fn planned(answer: &str, nodes: u32) -> Result<()> {
    let answer: Value = serde_json::from_str(answer).context("read the preview")?;
    let found = answer["nodes"].as_array().map_or(0, Vec::len);
    ensure!(found == nodes as usize, "the preview names {found} nodes of {nodes}");
    Ok(())
}

/// Runs a synchronization for a while; how long each decision took, in µs, sorted.
fn decisions(bench: &Bench, template: &str) -> Result<Vec<u64>> {
    let log = bench.dir.join("server.log");
    let before = lines(&log)?.len();
    let job =
        bench.cli(&["sync", "DefaultPool", "--template", template, "--max-unavailable", "20"])?;
    let job = job
        .split_whitespace()
        .find(|word| word.len() == 36)
        .context("the sync names no job")?
        .to_owned();
    std::thread::sleep(RUN);
    let shown: Value = serde_json::from_str(&bench.cli(&["get", "job", &job, "-o", "json"])?)?;
    let done =
        shown["spec"]["extendParam"]["ok"].as_str().and_then(|n| n.parse().ok()).unwrap_or(0_u32);
    if done == 0 {
        bail!("no node was synchronized within {} s: {}", RUN.as_secs(), shown["status"]);
    }
    // It may be over already where nodes are few.
    let _ = bench.cli(&["job", "cancel", &job]);
    let all = lines(&log)?;
    let mut took: Vec<u64> =
        all[before..].iter().filter_map(|line| line["fields"]["decide_us"].as_u64()).collect();
    ensure!(took.len() > 10, "the log tells of {} decisions only", took.len());
    took.sort_unstable();
    Ok(took)
}
