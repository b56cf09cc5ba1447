//! Programs on the controller: the recipe `command` and the hook that reinstalls a machine, at most once per order.
//!
//! Entry point: [`Commands::run`]. The command runs under a small shell wrapper in a process group of its own, so it
//! survives the controller; the wrapper enforces the limit and writes the exit status to a file. A
//! controller that comes back reads that file, or waits for it, and never runs the command again.
//! Absent: retries, and any look at what the command did.

mod journal;

use super::brief::{Brief, ClearTemplate};
use super::durable;
use super::output::{HEAD_MAX, OutputKey, OutputSink, TAIL_MAX};
use super::ssh::transient;
use crate::sync::ports::{Fault, HostOrder, HostState, Stage};
use evenkeel_engine::ids::JobId;
use evenkeel_engine::time::Span;
use evenkeel_node::protocol::OrderId;
use journal::{End, Files, Life};
use secrecy::ExposeSecret;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

/// What a login shell of Debian gives to root; scripts on hosts get the same.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// TERM first; whatever is left of the process group is killed after this many seconds.
const KILL_AFTER_S: u32 = 10;

/// `timeout(1)` and fsync beyond the limit; then something is wrong with the controller itself.
const SLACK: Duration = Duration::from_mins(1);

/// The wrapper's first act takes milliseconds. If there is no trace of it after this, it never began.
const BEGIN_LIMIT: Duration = Duration::from_secs(5);

/// How long the wrapper may take after the end to write the last output away.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// First and longest pause between looks.
const LOOK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Nothing is put into this text: paths and the command come as parameters. The exclusive creation of `.pid` decides
/// who runs. Standard input must have arrived whole (its last line is `end`) before the command sees it.
const WRAPPER: &str = r#"
p=$1; limit=$2; kill_after=$3; head=$4; tail=$5; shift 5
umask 077
finish() {
  printf '%s %s\n' "$1" "$(date +%s%3N)" >"$p.end.new"
  sync "$p.end.new"; mv -f "$p.end.new" "$p.end"
}
set -C
{ echo "$$ $(cut -d' ' -f22 "/proc/$$/stat") $(cat /proc/sys/kernel/random/boot_id) $(date +%s%3N)" \
  >"$p.pid"; } 2>/dev/null || exit 75
set +C
in=$(cat)
case $in in
*'
end') ;;
*) finish interrupted; exit 0 ;;
esac
{ printf '%s' "${in%?end}" | timeout -k "$kill_after" "$limit" "$@"; finish "$?"; } 2>&1 | {
  stdbuf -o0 head -c "$head" >"$p.out"
  LC_ALL=C dd bs=64k 2>"$p.rest" | tail -c "$tail" >"$p.tail"
}
"#;

/// Runs commands and remembers that they ran.
pub(super) struct Commands {
    dir: PathBuf,
}

/// One order for a command.
pub(super) struct Run<'a> {
    pub(super) id: &'a OrderId,
    pub(super) order: &'a HostOrder,
    pub(super) brief: &'a Brief,
    pub(super) argv: &'a [String],
    pub(super) limit_s: u32,
    /// Given on standard input as JSON, where nobody else applies it.
    pub(super) template: Option<&'a ClearTemplate>,
    /// What people see.
    pub(super) step: &'static str,
    /// More facts, by variable name. No secrets.
    pub(super) more_env: BTreeMap<String, String>,
}

impl Commands {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Runs the command unless it ran before, and waits for its end.
    pub(super) async fn run(
        &self,
        run: &Run<'_>,
        output: &dyn OutputSink,
        progress: &mpsc::Sender<HostState>,
    ) -> Result<HostState, Fault> {
        let files = Files::new(&self.dir, run.id);
        let journal = |source| {
            transient(
                format!("the journal of commands {} cannot be used", self.dir.display()),
                source,
            )
        };
        if files.end().map_err(journal)?.is_none() {
            if files.begin(run.id).await.map_err(journal)? {
                spawn(run, &files).await?;
            }
            // Nobody may be listening any more; the outcome is still wanted.
            let _heard = progress.send(running(run.step)).await;
        }
        let end = follow(run, &files, output).await?;
        Ok(end.state(run))
    }

    /// What a program that has ended wrote, without what was left out in the middle.
    pub(super) async fn said(&self, id: &OrderId) -> io::Result<String> {
        let files = Files::new(&self.dir, id);
        let mut bytes = files.output_from(0).await?;
        if let Some((_, tail)) = files.tail().await? {
            bytes.extend_from_slice(&tail);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Removes the journal of a job that has ended.
    pub(super) async fn forget(&self, job: &JobId) -> io::Result<()> {
        durable::forget(&self.dir, job).await
    }
}

impl End {
    fn state(&self, run: &Run<'_>) -> HostState {
        let limit_s = run.limit_s;
        let failed = |reason: String| HostState::Failed { step: run.step.into(), reason };
        match self {
            Self::Status { code: 0, .. } => HostState::Succeeded { ended_host_ms: None },
            // timeout(1): 124 after TERM, 137 if KILL was needed.
            Self::Status { code: 124 | 137, ran_ms }
                if *ran_ms >= u64::from(limit_s).saturating_mul(1000) =>
            {
                failed(format!("stopped: time limit of {limit_s} s passed"))
            }
            Self::Status { code: 126, .. } => failed("exit status 126: it cannot be run".into()),
            Self::Status { code: 127, .. } => failed("exit status 127: it was not found".into()),
            Self::Status { code, .. } => failed(format!("exit status {code}")),
            Self::Interrupted => failed(
                "interrupted: the command ended without leaving its exit status (the controller's \
                 machine went down, or somebody killed it); what it did is unknown, and it is not \
                 run again in this attempt"
                    .into(),
            ),
        }
    }
}

/// The program of a `command` recipe exists and may be executed.
pub(super) fn check_executable(argv: &[String]) -> Result<(), Fault> {
    let Some(program) = argv.first().filter(|program| !program.is_empty()) else {
        return Err(Fault::permanent(
            "the cluster's recipe names an empty program; set one with `evenkeel cluster set-machines`",
        ));
    };
    let executable = |path: &Path| {
        path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    let found = if program.contains('/') {
        program.starts_with('/') && executable(Path::new(program))
    } else {
        PATH.split(':').any(|dir| executable(&Path::new(dir).join(program)))
    };
    if found {
        return Ok(());
    }
    Err(Fault::permanent(format!(
        "the command {program:?} of the cluster's recipe is not an executable file on the \
         controller (an absolute path, or a name on {PATH}); put it there or name another with \
         `evenkeel cluster set-machines`"
    )))
}

async fn spawn(run: &Run<'_>, files: &Files) -> Result<(), Fault> {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", WRAPPER, "evenkeel-command"])
        .arg(files.prefix())
        .args([run.limit_s, KILL_AFTER_S].map(|s| s.to_string()))
        .args([HEAD_MAX, TAIL_MAX].map(|bytes| bytes.to_string()))
        .args(run.argv)
        .env_clear()
        .envs(environment(run))
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    let spawned = command.spawn().map_err(|source| {
        // It never ran; saying so in the journal keeps the order's answer the same for ever.
        Fault::Permanent {
            what: format!("node {}: the command cannot be started", run.order.target.node),
            source: Some(Box::new(source)),
        }
    });
    let mut child = match spawned {
        Ok(child) => child,
        Err(fault) => {
            files.interrupted().map_err(|source| {
                transient("the journal of commands cannot be written".into(), source)
            })?;
            return Err(fault);
        }
    };
    if let Some(mut stdin) = child.stdin.take() {
        let input = input(run.template);
        // A wrapper that is gone already says so by its missing end.
        let _given = stdin.write_all(&input).await;
    }
    Ok(())
}

fn environment(run: &Run<'_>) -> BTreeMap<String, String> {
    let target = &run.order.target;
    let reached = run.brief.reach.as_ref().and_then(|reach| reach.address());
    let address = reached.or(target.internal_ip.as_deref()).unwrap_or_default().to_owned();
    let stage = match run.order.stage {
        Stage::Reset => "reset",
        Stage::Post => "post",
    };
    let mut env = run.brief.facts_env.clone();
    env.extend(
        [
            ("PATH", PATH.to_owned()),
            // Tools look for their own configuration there.
            ("HOME", std::env::var("HOME").unwrap_or_else(|_| "/".into())),
            ("LANG", "C.UTF-8".to_owned()),
            ("EVENKEEL_ORDER", run.id.to_string()),
            ("EVENKEEL_JOB", run.order.job.to_string()),
            ("EVENKEEL_NODE", target.node.to_string()),
            ("EVENKEEL_NODE_ID", target.node_id.to_string()),
            ("EVENKEEL_ADDRESS", address),
            ("EVENKEEL_ATTEMPT", run.order.attempt.to_string()),
            ("EVENKEEL_STAGE", stage.to_owned()),
            ("EVENKEEL_MACHINE_ID", target.machine_id.as_deref().unwrap_or_default().to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    env.extend(run.more_env.clone());
    env
}

/// One JSON document and the line that says it is whole. Well under the 64 KiB that a pipe takes at once
/// (pipe(7)): scripts are 10,240 bytes together.
fn input(template: Option<&ClearTemplate>) -> Zeroizing<Vec<u8>> {
    let mut json = Zeroizing::new(Vec::new());
    match template {
        Some(template) => json.extend_from_slice(shown(template).to_string().as_bytes()),
        None => json.extend_from_slice(b"{}"),
    }
    json.extend_from_slice(b"\nend");
    json
}

/// Login and scripts for whoever applies them in place of the host. Secret.
pub(super) fn shown(template: &ClearTemplate) -> serde_json::Value {
    let login = &template.login;
    let text = |s: &Option<secrecy::SecretString>| s.as_ref().map(|s| s.expose_secret().to_owned());
    serde_json::json!({
        "pre_install_b64": text(&template.pre_install_b64),
        "post_install_b64": text(&template.post_install_b64),
        "login": {
            "user": login.user,
            "password_hash": text(&login.password_hash),
            "authorized_keys": login.authorized_keys,
            "remove_password": login.remove_password,
            "remove_keys": login.remove_keys,
        },
        "kubelet": template.config.kubelet,
        "containerd": template.config.containerd,
    })
}

/// That a step runs.
pub(super) fn running(step: impl Into<String>) -> HostState {
    HostState::Running { step: Some(step.into()), limit: Span(0) }
}

async fn follow(run: &Run<'_>, files: &Files, output: &dyn OutputSink) -> Result<End, Fault> {
    let key = OutputKey::beside(run.id);
    let begun = Instant::now();
    let mut survived = begun;
    let limit = Duration::from_secs(u64::from(run.limit_s) + u64::from(KILL_AFTER_S)) + SLACK;
    let mut pause = LOOK.0;
    let broken = |source| transient("the journal of commands cannot be used".into(), source);
    loop {
        keep_head(files, &key, output).await;
        // Looked at before the end: a wrapper that is gone has written all it will.
        let life = files.life().map_err(broken)?;
        if let Some(end) = files.end().map_err(broken)? {
            drain(files).await;
            keep_head(files, &key, output).await;
            keep_tail(files, &key, output).await;
            return Ok(end);
        }
        let gone = match life {
            Life::Alive => false,
            // The wrapper alone was killed: what it ran may still run, and its end may still be written.
            Life::Gone if journal::survives(run.id) => {
                survived = Instant::now();
                false
            }
            Life::Gone => survived.elapsed() > DRAIN_LIMIT,
            Life::NoTrace => {
                // The second half is for a trace that was begun but never written.
                begun.elapsed() > BEGIN_LIMIT
                    && (files.claim().map_err(broken)? || begun.elapsed() > 2 * BEGIN_LIMIT)
            }
        };
        if gone {
            files.interrupted().map_err(broken)?;
            continue;
        }
        if begun.elapsed() > limit {
            return Err(Fault::transient(format!(
                "node {}: the command has not ended {} s after it was looked at first, longer than \
                 all its limits; the outcome is unknown",
                run.order.target.node,
                limit.as_secs()
            )));
        }
        sleep(pause).await;
        pause = (pause * 2).min(LOOK.1);
    }
}

/// Lets the wrapper write the last output away. A daemon that holds the pipe keeps it from ending.
async fn drain(files: &Files) {
    let begun = Instant::now();
    while begun.elapsed() < DRAIN_LIMIT && matches!(files.life(), Ok(Life::Alive)) {
        sleep(LOOK.0).await;
    }
}

async fn keep_head(files: &Files, key: &OutputKey, output: &dyn OutputSink) {
    let kept = async {
        let stored = output.stored(key).await?;
        let fresh = files.output_from(stored).await?;
        if fresh.is_empty() { Ok(()) } else { output.append(key, stored, &fresh).await }
    };
    warn_if_lost(key, kept.await);
}

async fn keep_tail(files: &Files, key: &OutputKey, output: &dyn OutputSink) {
    let kept = async {
        match files.tail().await? {
            Some((rest, tail)) if !tail.is_empty() => {
                let total = HEAD_MAX + rest.max(tail.len() as u64);
                output.tail(key, total - tail.len() as u64, &tail).await
            }
            _ => output.tail(key, output.stored(key).await?, b"").await,
        }
    };
    warn_if_lost(key, kept.await);
}

fn warn_if_lost(key: &OutputKey, kept: io::Result<()>) {
    if let Err(error) = kept {
        tracing::warn!(order = ?key, %error, "output is not kept");
    }
}
