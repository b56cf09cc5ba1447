//! Running other programs: with a limit on every wait, and with words for what was waited for.
//!
//! Entry points: [`output`] for commands that end, [`spawn`] for servers, [`wait_for`] for states.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// How often a state is looked at while waiting.
const POLL: Duration = Duration::from_millis(50);

/// One line to the person at the terminal; stdout is kept for answers.
pub fn note(text: &str) {
    // Nobody to tell when stderr is closed.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Asks `probe` until it answers `Some`, for at most `limit`. An `Err` is remembered, not final.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        let last = match probe() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => String::from("not yet"),
            Err(error) => format!("{error:#}"),
        };
        if start.elapsed() >= limit {
            bail!("waited {} s for {what}; last answer: {last}", limit.as_secs());
        }
        thread::sleep(POLL);
    }
}

/// Runs `command` to its end and returns its stdout. Fails with its stderr when it fails, and kills
/// it when it takes longer than `limit`.
pub fn output(command: &mut Command, limit: Duration) -> Result<String> {
    output_with_input(command, b"", limit)
}

/// Like [`output`], with `input` on stdin.
pub fn output_with_input(command: &mut Command, input: &[u8], limit: Duration) -> Result<String> {
    let shown = show(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start `{shown}`"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that does not read its input closes the pipe early; its status tells the rest.
        let _ = stdin.write_all(input);
    }
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let status = wait_for(&format!("`{shown}` to end"), limit, || Ok(child.try_wait()?));
    let status = match status {
        Ok(status) => status,
        Err(error) => {
            child.kill().context("kill what took too long")?;
            child.wait().context("wait for what was killed")?;
            return Err(error);
        }
    };
    // A daemon that inherited the pipes must not hold us: what came until now is the answer.
    let grace = Duration::from_secs(2);
    let stdout = stdout.recv_timeout(grace).unwrap_or_default();
    let stderr = stderr.recv_timeout(grace).unwrap_or_default();
    if !status.success() {
        bail!("`{shown}` failed ({status}): {}", String::from_utf8_lossy(&stderr).trim());
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (send, receive) = mpsc::channel();
    if let Some(mut pipe) = pipe {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            // A broken pipe ends the text; the exit status is judged elsewhere.
            let _ = pipe.read_to_end(&mut bytes);
            let _ = send.send(bytes);
        });
    }
    receive
}

/// Runs `command` with this program's own stdout and stderr, for at most `limit`. The answer says
/// whether it succeeded.
pub fn passed(command: &mut Command, limit: Duration) -> Result<bool> {
    let shown = show(command);
    let mut child =
        command.stdin(Stdio::null()).spawn().with_context(|| format!("start `{shown}`"))?;
    match wait_for(&format!("`{shown}` to end"), limit, || Ok(child.try_wait()?)) {
        Ok(status) => Ok(status.success()),
        Err(error) => {
            child.kill().context("kill what took too long")?;
            child.wait().context("wait for what was killed")?;
            Err(error)
        }
    }
}

/// The command as a person would type it.
pub fn show(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}

/// A process that outlives this program. The start time guards against a reused id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub name: String,
    pub pid: u32,
    /// Clock ticks after boot, field 22 of `/proc/<pid>/stat`.
    pub started: u64,
}

/// Starts `program` in a session of its own, with its output in `log`.
pub fn spawn(name: &str, program: &Path, arguments: &[String], log: &Path) -> Result<Process> {
    let out = File::create(log).with_context(|| format!("create {}", log.display()))?;
    let child = Command::new("setsid")
        .arg(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(out.try_clone().context("share the log file")?)
        .stderr(out)
        .spawn()
        .with_context(|| format!("start {name} ({})", program.display()))?;
    Process::of(name, child.id())
}

impl Process {
    /// The process that has this id now.
    pub fn of(name: &str, pid: u32) -> Result<Self> {
        let (_, started) = stat(pid).with_context(|| format!("{name} ended at once"))?;
        Ok(Self { name: name.to_owned(), pid, started })
    }

    /// Still the same process, and not merely its unread exit status.
    pub fn alive(&self) -> bool {
        stat(self.pid).is_some_and(|(state, started)| state != 'Z' && started == self.started)
    }

    /// Sends a signal by name if the process still lives.
    pub fn signal(&self, name: &str) -> Result<()> {
        if self.alive() {
            let mut kill = Command::new("kill");
            kill.arg(format!("-{name}")).arg(self.pid.to_string());
            let sent = output(&mut kill, Duration::from_secs(5));
            if self.alive() {
                sent?;
            }
        }
        Ok(())
    }

    /// SIGTERM, then SIGKILL after `patience`; returns when it is gone.
    pub fn stop(&self, patience: Duration) -> Result<()> {
        self.signal("TERM")?;
        if self.wait_gone(patience).is_err() {
            self.signal("KILL")?;
            self.wait_gone(Duration::from_secs(10))?;
        }
        Ok(())
    }

    /// Waits until the process has ended.
    pub fn wait_gone(&self, limit: Duration) -> Result<()> {
        let what = format!("{} (process {}) to end", self.name, self.pid);
        wait_for(&what, limit, || Ok((!self.alive()).then_some(())))
    }
}

/// State letter and start time of a process; None when there is none.
fn stat(pid: u32) -> Option<(char, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name stands in brackets and may hold blanks and brackets itself.
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    Some((fields.first()?.chars().next()?, fields.get(19)?.parse().ok()?))
}

/// Children of a process, as the kernel lists them.
pub fn children(pid: u32) -> Vec<u32> {
    std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_failure_carries_the_command_and_its_words() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo why >&2; exit 3"]);
        let error = output(&mut command, Duration::from_secs(5)).unwrap_err().to_string();
        assert!(error.contains("sh -c") && error.contains("why") && error.contains('3'), "{error}");
    }

    #[test]
    fn a_wait_ends_at_its_limit_and_says_for_what() {
        let never = || Ok(None::<()>);
        let error = wait_for("rain", Duration::from_millis(60), never).unwrap_err().to_string();
        assert!(error.contains("rain"), "{error}");
    }

    #[test]
    fn a_command_that_hangs_is_killed() {
        let mut command = Command::new("sleep");
        command.arg("60");
        let start = Instant::now();
        assert!(output(&mut command, Duration::from_millis(200)).is_err());
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_stopped_process_is_not_alive_though_unread() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let arguments = [String::from("60")];
        let process = spawn("sleep", Path::new("sleep"), &arguments, log.path()).unwrap();
        assert!(process.alive());
        process.stop(Duration::from_secs(5)).unwrap();
        assert!(!process.alive());
    }
}
