//! The detached process that carries an order out, step by step.
//!
//! Entry point: [`run_order`]. It runs an order from its first step, or after a reboot from the first
//! that has not ended where that one may be run again. Anything else that a dead runner left is
//! `Interrupted`.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{Duration, Instant};

use rustix::fs::Mode;
use rustix::process::{getsid, setsid, umask};

use crate::accept::{inspect, interrupt, refuse};
use crate::host::Host;
use crate::journal::{Entry, Journal, StepDigest, fold};
use crate::login;
use crate::protocol::{LoginOrder, OrderId, Outcome, Refusal, RefusalKind, StepResult};
use crate::script;
use crate::store::{Store, StoreError, at};

/// How often the end of a step is written again when the disk is full, and how long between:
/// together a minute. Afterwards the order counts as interrupted, which is the truth.
const WRITE_TRIES: u32 = 60;
const WRITE_PAUSE: Duration = Duration::from_secs(1);

/// Longer than a service manager waits before it kills (systemd's `DefaultTimeoutStopSec` is 90 s).
const SHUTDOWN_LIMIT: Duration = Duration::from_mins(2);

/// Runs an accepted order to its end.
pub fn run_order(store: &Store, host: &Host, id: &OrderId) -> Result<(), Refusal> {
    // Fails only when this is a session leader already, as under a service manager.
    let _ = setsid();
    // Scripts get the usual mask; everything private says its mode itself.
    umask(Mode::from_raw_mode(0o022));
    let session = getsid(None).map_or(0, |session| session.as_raw_nonzero().get());
    let vanished = || refuse(RefusalKind::UnknownOrder, format!("order {id} has vanished"));
    let mut journal = Journal::open(store, id, &host.boot_id(), true)?.ok_or_else(vanished)?;
    let folded = fold(&journal.lines()).ok_or_else(vanished)?;
    if folded.state.is_final() {
        return Ok(());
    }
    if folded.runner.is_some() && !folded.goes_on(&host.boot_id()) {
        return Ok(interrupt(store, host, id, &mut journal, folded)?);
    }
    journal.append(Entry::Runner { session })?;
    let last = folded.steps.len().saturating_sub(1);
    let ended = folded.results.len();
    for (number, step) in folded.steps.iter().enumerate().skip(ended) {
        journal.append(Entry::Started { step: step.name.clone() })?;
        let began = Instant::now();
        let outcome = perform(store, host, id, &mut journal, number, step);
        let duration_ms = began.elapsed().as_millis() as u64;
        let failed = outcome != Outcome::Ok;
        if failed {
            wait_out_a_shutdown(host);
        }
        if failed || number == last {
            // Before the last line: an order that is over has no secrets on this host.
            store.drop_secrets(id)?;
        }
        let result = StepResult { name: step.name.clone(), outcome, duration_ms };
        append_patiently(&mut journal, &Entry::Ended(result))?;
        if step.resumes {
            // Not before its end is on the disk: a reboot in between would find nothing to run again. Whatever
            // stays here goes with the order's other secrets.
            let _ = fs::remove_file(secret(store, id, number));
        }
        if failed {
            break;
        }
    }
    Ok(())
}

/// A shutdown ends scripts as it ends this process, in whatever order: what it has ended did not fail, and the next
/// boot tells. Returns if none is under way.
fn wait_out_a_shutdown(host: &Host) {
    let begun = Instant::now();
    while begun.elapsed() < SHUTDOWN_LIMIT && host.is_stopping() {
        std::thread::sleep(WRITE_PAUSE);
    }
}

fn append_patiently(journal: &mut Journal, entry: &Entry) -> Result<(), StoreError> {
    for _ in 1..WRITE_TRIES {
        if journal.append(entry.clone()).is_ok() {
            return Ok(());
        }
        std::thread::sleep(WRITE_PAUSE);
    }
    journal.append(entry.clone())
}

fn perform(
    store: &Store,
    host: &Host,
    id: &OrderId,
    journal: &mut Journal,
    number: usize,
    step: &StepDigest,
) -> Outcome {
    let secret = secret(store, id, number);
    let output = match open_output(store, id, &step.name) {
        Ok(output) => output,
        Err(error) => return Outcome::Error(Refusal::from(error).message),
    };
    let outcome = match step.time_limit_s {
        Some(seconds) => {
            let limit = Duration::from_secs(seconds);
            let mut restore = || {
                // Tried again a second later; the last line insists.
                let _ = journal.restore();
            };
            script::run(&secret, id, &step.name, limit, output, &mut restore)
        }
        None => match read_login(&secret) {
            Ok(order) => match login::apply(host, &order) {
                Ok(()) => Outcome::Ok,
                Err(error) => Outcome::Error(crate::verbs::chain(&error)),
            },
            Err(reason) => Outcome::Error(reason),
        },
    };
    if step.resumes {
        return outcome;
    }
    match fs::remove_file(&secret) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound && outcome == Outcome::Ok => {
            Outcome::Error(format!("the step's private file cannot be removed: {error}"))
        }
        _ => outcome,
    }
}

fn secret(store: &Store, id: &OrderId, number: usize) -> std::path::PathBuf {
    store.run_dir(id).join(number.to_string())
}

fn open_output(store: &Store, id: &OrderId, step: &str) -> Result<File, StoreError> {
    let path = store.output_path(id);
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600);
    let mut file = at("open", &path, options.open(&path))?;
    // Output is not worth an order: on a full disk the header is missing, no more.
    let _ = writeln!(file, "== {step} ==");
    Ok(file)
}

fn read_login(path: &std::path::Path) -> Result<LoginOrder, String> {
    let bytes = fs::read(path).map_err(|error| format!("the login cannot be read: {error}"))?;
    // No source: its message could quote the hash.
    serde_json::from_slice(&bytes).map_err(|_| "the login cannot be understood".to_owned())
}

/// Progress of an order that must be known.
pub(crate) fn known(
    store: &Store,
    host: &Host,
    id: &OrderId,
) -> Result<crate::protocol::Progress, Refusal> {
    inspect(store, host, id)?
        .ok_or_else(|| refuse(RefusalKind::UnknownOrder, format!("no order {id} on this host")))
}
