//! Runs one script: own process group, clean environment, time limit, bounded output.
//!
//! Entry point: [`run`]. Deliberately absent: the journal, and where the script comes from.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, getsid, kill_process_group, waitid};

use crate::leftovers::Leftovers;
use crate::output::Capped;
use crate::protocol::{OrderId, Outcome};

/// What scripts find on their PATH: the order of Debian's and RHEL's root shells.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Between TERM and KILL: 10 s, docker stop's default and enough for a shell trap.
const TERM_GRACE: Duration = Duration::from_secs(10);

/// A daemon that keeps stdout open must not hold the order: after the script itself has ended,
/// what is still in the pipe gets this long.
const DRAIN: Duration = Duration::from_secs(1);

/// How often a running script is looked at; its end is noticed at once through the pipe.
const TICK: Duration = Duration::from_millis(100);

/// Between two calls of `every_second`.
const SECOND: Duration = Duration::from_secs(1);

/// Runs the file and writes what it says to `output`. `every_second` is called about once a
/// second while it runs.
pub fn run(
    file: &Path,
    id: &OrderId,
    step: &str,
    limit: Duration,
    output: File,
    every_second: &mut dyn FnMut(),
) -> Outcome {
    let (reader, mut child) = match spawn(file, id, step) {
        Ok(started) => started,
        Err(error) => return Outcome::Error(format!("the script cannot be started: {error}")),
    };
    let sink = Arc::new(Mutex::new(Some(Capped::new(output))));
    let drained = drain(reader, Arc::clone(&sink));
    let leftovers = Leftovers {
        session: getsid(None).map_or(0, |session| session.as_raw_nonzero().get()),
        order: id,
        step: Some(step),
        except_group: i32::try_from(child.id()).ok(),
    };
    let outcome = supervise(&mut child, limit, &drained, &leftovers, every_second);
    if let Some(capped) = sink.lock().unwrap_or_else(PoisonError::into_inner).take() {
        capped.finish();
    }
    outcome
}

fn spawn(file: &Path, id: &OrderId, step: &str) -> io::Result<(io::PipeReader, Child)> {
    let mut first = [0; 2];
    let has_shebang = File::open(file)?.read_exact(&mut first).is_ok() && &first == b"#!";
    let mut command = if has_shebang {
        Command::new(file)
    } else {
        let mut shell = Command::new("/bin/sh");
        shell.arg(file);
        shell
    };
    let (reader, writer) = io::pipe()?;
    command
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", "/root")
        .env("LANG", "C")
        .env("EVENKEEL_ORDER", id.to_string())
        .env("EVENKEEL_JOB", id.job())
        .env("EVENKEEL_NODE", id.node())
        .env("EVENKEEL_ATTEMPT", id.attempt().to_string())
        .env("EVENKEEL_STEP", step)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0);
    Ok((reader, command.spawn()?))
}

/// Reads until the last writer is gone. The thread may outlive the script (a daemon holds the
/// pipe); then it finds the sink closed and drops what it reads.
fn drain(mut reader: io::PipeReader, sink: Arc<Mutex<Option<Capped<File>>>>) -> Receiver<()> {
    let (done, drained) = channel();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(capped) = sink.as_mut() {
                        capped.take(&buffer[..n]);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        // Nobody listens any more when the script ended first.
        let _ = done.send(());
    });
    drained
}

/// The script is not reaped before its group has been killed: until then nobody else can get the
/// number of the group.
fn supervise(
    child: &mut Child,
    limit: Duration,
    drained: &Receiver<()>,
    leftovers: &Leftovers<'_>,
    every_second: &mut dyn FnMut(),
) -> Outcome {
    let Some(pid) = Pid::from_raw(child.id() as i32) else {
        return Outcome::Error("the script has no process id".into());
    };
    let mut watch = Watch { pid, drained, silent: false, nap: Duration::from_millis(1) };
    let deadline = Instant::now() + limit;
    let mut next_second = Instant::now() + SECOND;
    let mut timed_out = false;
    while !watch.ended() {
        let now = Instant::now();
        if now >= deadline {
            timed_out = true;
            // An error means that the group is gone already.
            let _ = kill_process_group(pid, Signal::TERM);
            leftovers.signal(Signal::TERM);
            watch.wait(Instant::now() + TERM_GRACE, true);
            leftovers.kill();
            let _ = kill_process_group(pid, Signal::KILL);
            break;
        }
        if now >= next_second {
            every_second();
            next_second = now + SECOND;
        }
        watch.pause(TICK.min(deadline - now));
    }
    watch.wait_silence(Instant::now() + DRAIN);
    match child.wait() {
        _ if timed_out => Outcome::Timeout,
        Ok(status) => match (status.code(), status.signal()) {
            (Some(0), _) => Outcome::Ok,
            (Some(code), _) => Outcome::Exit(code),
            (None, Some(signal)) => Outcome::Signal(signal),
            (None, None) => Outcome::Error(format!("the script ended with {status}")),
        },
        Err(error) => Outcome::Error(format!("the script cannot be waited for: {error}")),
    }
}

struct Watch<'a> {
    pid: Pid,
    drained: &'a Receiver<()>,
    silent: bool,
    nap: Duration,
}

impl Watch<'_> {
    /// Looks without reaping.
    fn ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        // ECHILD cannot happen to a child that was not reaped; were it so, it is over.
        !matches!(waitid(WaitId::Pid(self.pid), options), Ok(None))
    }

    fn pause(&mut self, time: Duration) {
        if self.silent {
            // The pipe is closed but the process lives: mostly it is about to end.
            std::thread::sleep(time.min(self.nap));
            self.nap = (self.nap * 2).min(TICK);
            return;
        }
        self.silent = !matches!(self.drained.recv_timeout(time), Err(RecvTimeoutError::Timeout));
    }

    /// Until the script has ended and, if asked, nobody of its group holds the pipe.
    fn wait(&mut self, deadline: Instant, and_silence: bool) {
        while Instant::now() < deadline && !(self.ended() && (self.silent || !and_silence)) {
            self.pause(TICK);
        }
    }

    fn wait_silence(&mut self, deadline: Instant) {
        while !self.silent && Instant::now() < deadline {
            self.pause(deadline.saturating_duration_since(Instant::now()));
        }
    }
}
