//! Carries one call out: this program with the verb's arguments, as SSH would start it.
//!
//! A process of its own, so that what an order starts belongs to nobody when it ends, and no secret stays in the
//! memory of an agent that lives for months.

use std::io::{Read, Write as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::is_verb;
use crate::host::ROOT_ENV;
use crate::protocol::agent::{ANSWER_BYTES_MAX, Call, CallEnd};
use crate::script::PATH;
use crate::store::STATE_ENV;

/// Status of a call that could not be carried out: that of a shell that finds no program.
const NOT_RUN: u32 = 127;

/// Status of a call that took too long: that of timeout(1).
const TOO_LONG: u32 = 124;

/// Bytes of stderr that are worth sending.
const STDERR_MAX: u64 = 4096;

/// How often a call is looked at; they take milliseconds.
const TICK: Duration = Duration::from_millis(2);

/// Runs the call; what went wrong is in its status.
pub(super) fn run(program: &Path, call: &Call, boot_id: &str) -> CallEnd {
    let end = |status, stdout: String, stderr: String| CallEnd {
        boot_id: boot_id.to_owned(),
        status,
        stdout,
        stderr,
    };
    if !is_verb(&call.args) {
        return end(NOT_RUN, String::new(), "this agent knows no such verb".to_owned());
    }
    let mut child = match spawn(program, call) {
        Ok(child) => child,
        Err(error) => {
            return end(NOT_RUN, String::new(), format!("{}: {error}", program.display()));
        }
    };
    let stdout = child.stdout.take().map(|pipe| reader(pipe, ANSWER_BYTES_MAX as u64));
    let stderr = child.stderr.take().map(|pipe| reader(pipe, STDERR_MAX));
    let input = call.stdin.expose().as_bytes().to_vec();
    let stdin = child.stdin.take();
    // Beside the rest: a verb that answers without reading its input must not stop us.
    thread::spawn(move || stdin.map(|mut pipe| pipe.write_all(&input)));
    let status = wait(&mut child, Duration::from_millis(call.limit_ms));
    let text = |thread: Option<thread::JoinHandle<String>>| {
        thread.and_then(|thread| thread.join().ok()).unwrap_or_default()
    };
    let (stdout, stderr) = (text(stdout), text(stderr));
    match status {
        Some(status) => {
            // A signal has no code; 255 is what SSH says of it.
            let code = status.code().and_then(|code| u32::try_from(code).ok()).unwrap_or(255);
            end(code, stdout, stderr)
        }
        None => end(TOO_LONG, String::new(), "the verb took too long".to_owned()),
    }
}

fn spawn(program: &Path, call: &Call) -> std::io::Result<Child> {
    let mut command = Command::new(program);
    command.args(&call.args).env_clear().env("PATH", PATH).env("LANG", "C").current_dir("/");
    for name in [STATE_ENV, ROOT_ENV] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
}

/// Its status; `None` if it had to be killed.
fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < deadline => thread::sleep(TICK),
            Ok(None) | Err(_) => {
                // Gone meanwhile is as good.
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
}

fn reader(pipe: impl Read + Send + 'static, limit: u64) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let mut pipe = pipe;
        // What was read before an error is still what was said; the rest is read so that nobody blocks.
        let _ = pipe.by_ref().take(limit).read_to_end(&mut bytes);
        let _ = std::io::copy(&mut pipe, &mut std::io::sink());
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
