//! Whether an order may begin, and its first durable traces.
//!
//! Entry points: [`accept`] and [`inspect`]. What was once accepted is never begun a second time:
//! the same id gets its progress as an answer, and a lost runner makes it `Interrupted`, or, after a
//! reboot where the recipe allows it, lets it go on with the first step that has not ended.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::host::{Host, ROOT_ENV, finds};
use crate::journal::{self, Entry, Journal, fold};
use crate::leftovers;
use crate::protocol::{Order, OrderId, PROTOCOL, Progress, Refusal, RefusalKind, State, Step};
use crate::script::PATH;
use crate::store::{STATE_ENV, Store, StoreError, at, private_dir, sync_parent};
use crate::sweep;

/// How long `accept` waits for the runner to be there; it takes milliseconds, more under systemd.
const RUNNER_WAIT: Duration = Duration::from_secs(5);

/// How long a runner may take from its last line to its end: it has nothing left to do.
const RUNNER_EXIT: Duration = Duration::from_millis(500);

/// A refusal with its kind.
pub(crate) fn refuse(kind: RefusalKind, message: impl Into<String>) -> Refusal {
    Refusal { kind, message: message.into() }
}

/// Reads an order without trusting it. The version comes first: an order of another version may
/// look different in every other respect.
pub fn parse(bytes: &[u8]) -> Result<Order, Refusal> {
    #[derive(serde::Deserialize)]
    struct Version {
        protocol: u32,
    }
    // serde's messages may quote values; those of an order can be secrets.
    let shape = |error: serde_json::Error| {
        let (line, column) = (error.line(), error.column());
        refuse(RefusalKind::BadOrder, format!("not an order (line {line}, column {column})"))
    };
    let version: Version = serde_json::from_slice(bytes).map_err(shape)?;
    if version.protocol != PROTOCOL {
        let bad = crate::protocol::BadOrder::Protocol { got: version.protocol };
        return Err(refuse(RefusalKind::Protocol, bad.to_string()));
    }
    let order: Order = serde_json::from_slice(bytes).map_err(shape)?;
    order.check().map_err(|bad| refuse(RefusalKind::BadOrder, bad.to_string()))?;
    Ok(order)
}

/// Takes an order: checks, journals, starts the runner, answers where it stands.
pub fn accept(store: &Store, host: &Host, order: &Order) -> Result<Progress, Refusal> {
    if !host.may_change() {
        let message = "a reset needs root: log in as root, or let the login user run sudo -n";
        return Err(refuse(RefusalKind::NotRoot, message));
    }
    check_machine(host, order)?;
    if host.is_stopping() {
        // What begins now would end with the machine.
        return Err(going_down());
    }
    let _lock = store.lock()?;
    let fence = store.fence()?;
    let fenced = |message| refuse(RefusalKind::Fenced, message);
    fence.admits_epoch(order.epoch).map_err(fenced)?;
    if let Some(known) = inspect(store, host, &order.id)? {
        // The journal is older than the fence when a crash came between the two.
        store.set_fence(&fence.raised(&order.id, order.epoch))?;
        if known.state != State::Accepted {
            return Ok(known);
        }
        return start(store, host, &order.id);
    }
    fence.admits(&order.id, order.epoch).map_err(fenced)?;
    check_users(host, order)?;
    check_idle(store, host)?;
    let journaled = write_secrets(store, order)
        .and_then(|()| Ok(Journal::create(store, order, &host.boot_id()).map(drop)?));
    if let Err(refusal) = journaled {
        store.drop_secrets(&order.id)?;
        return Err(refusal);
    }
    store.set_fence(&fence.raised(&order.id, order.epoch))?;
    let progress = start(store, host, &order.id)?;
    // What old orders keep is bounded without anybody asking for it; the next order tries again.
    let _ = sweep::sweep(store, host);
    Ok(progress)
}

/// Where an order stands; `None` when this host does not know it. An order whose runner is gone
/// and that cannot go on is marked as interrupted here, and what it left is removed.
pub fn inspect(store: &Store, host: &Host, id: &OrderId) -> Result<Option<Progress>, Refusal> {
    let Some(mut lines) = journal::read(store, id)? else {
        return Ok(None);
    };
    let unfinished = |lines: &[journal::Line]| {
        fold(lines).filter(|folded| {
            let lost = !folded.state.is_final() && folded.runner.is_some();
            lost && !folded.goes_on(&host.boot_id())
        })
    };
    if unfinished(&lines).is_some()
        && let Some(mut journal) = Journal::open(store, id, &host.boot_id(), false)?
    {
        // Read under the lock: the runner may have ended in between.
        if let Some(folded) = unfinished(&journal.lines()) {
            if host.is_stopping() {
                // The shutdown has ended its runner: whether it goes on is for the next boot to say.
                return Err(going_down());
            }
            interrupt(store, host, id, &mut journal, folded)?;
        }
        lines = journal.lines();
    }
    let output_len = std::fs::metadata(store.output_path(id)).map_or(0, |found| found.len());
    Ok(fold(&lines).map(|folded| folded.progress(id, output_len, host.boot_id())))
}

fn going_down() -> Refusal {
    refuse(RefusalKind::Busy, "this host is shutting down or rebooting")
}

/// Ends an order whose runner is gone. The caller holds its lock.
pub(crate) fn interrupt(
    store: &Store,
    host: &Host,
    id: &OrderId,
    journal: &mut Journal,
    folded: journal::Folded,
) -> Result<(), StoreError> {
    let reason = match &folded.runner {
        None => "a later order came before this one had begun",
        Some((_, boot)) if *boot != host.boot_id() => "the host was rebooted while it ran",
        Some((session, _)) => {
            leftovers::Leftovers { session: *session, order: id, step: None, except_group: None }
                .kill();
            "the runner on the host was killed"
        }
    };
    store.drop_secrets(id)?;
    let step = folded.step.unwrap_or_default();
    journal.append(Entry::Interrupted { step, reason: reason.into() })
}

fn check_machine(host: &Host, order: &Order) -> Result<(), Refusal> {
    let wanted = &order.machine;
    let found = host.identity();
    let uuid = |text: &Option<String>| text.as_deref().unwrap_or("none").to_lowercase();
    let same = found.machine_id.eq_ignore_ascii_case(wanted.machine_id.trim())
        && (wanted.product_uuid.is_none()
            || uuid(&found.product_uuid) == uuid(&wanted.product_uuid));
    if same {
        return Ok(());
    }
    let message = format!(
        "wrong machine: the order is for machine-id {} (product_uuid {}), this is {} ({})",
        wanted.machine_id,
        uuid(&wanted.product_uuid),
        found.machine_id,
        uuid(&found.product_uuid)
    );
    Err(refuse(RefusalKind::WrongMachine, message))
}

fn check_users(host: &Host, order: &Order) -> Result<(), Refusal> {
    for step in &order.steps {
        let Step::Login(login) = step else { continue };
        match host.account(&login.user) {
            Ok(Some(_)) => {}
            Ok(None) => {
                let message = format!("login user {} does not exist on this host", login.user);
                return Err(refuse(RefusalKind::UnknownUser, message));
            }
            Err(error) => return Err(refuse(RefusalKind::UnknownUser, error.to_string())),
        }
    }
    Ok(())
}

/// No other order may be under way; one that has never begun gives way.
fn check_idle(store: &Store, host: &Host) -> Result<(), Refusal> {
    for id in store.orders()? {
        let Some(progress) = inspect(store, host, &id)? else {
            continue;
        };
        if progress.state.is_final() {
            continue;
        }
        let busy =
            || refuse(RefusalKind::Busy, format!("order {id} is still running on this host"));
        let mut journal = Journal::open(store, &id, &host.boot_id(), false)?.ok_or_else(busy)?;
        match fold(&journal.lines()) {
            Some(folded) if folded.runner.is_none() || folded.goes_on(&host.boot_id()) => {
                interrupt(store, host, &id, &mut journal, folded)?;
            }
            Some(folded) if !folded.state.is_final() => return Err(busy()),
            _ => {}
        }
    }
    // A runner whose order is over takes a moment to end.
    let deadline = Instant::now() + RUNNER_EXIT;
    while leftovers::runner_lives(store.dir()) {
        if Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        let message = "a runner is alive on this host whose journal is gone";
        return Err(refuse(RefusalKind::Busy, message));
    }
    for id in store.runs()? {
        // Written right before a crash; without a journal nobody will ever use them.
        if journal::read(store, &id)?.is_none() {
            store.drop_secrets(&id)?;
        }
    }
    Ok(())
}

/// One file per step in a private directory. Scripts are decoded here, so that nothing has to be
/// trusted later.
fn write_secrets(store: &Store, order: &Order) -> Result<(), Refusal> {
    store.drop_secrets(&order.id)?;
    let dir = store.run_dir(&order.id);
    private_dir(&dir)?;
    for (number, step) in order.steps.iter().enumerate() {
        let bad = |message: String| refuse(RefusalKind::BadOrder, message);
        let (bytes, mode) = match step {
            Step::Login(login) => {
                let json = serde_json::to_vec(login);
                (json.map_err(|_| bad("step login cannot be written".into()))?, 0o600)
            }
            _ => (step.script().map_err(|e| bad(e.to_string()))?.unwrap_or_default(), 0o700),
        };
        let path = dir.join(number.to_string());
        let mut options = OpenOptions::new();
        options.create_new(true).write(true).mode(mode);
        let written = options.open(&path).and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_all()
        });
        at("write", &path, written)?;
    }
    // An order that goes on after a reboot finds its steps there.
    sync_parent(&dir.join("0"))?;
    sync_parent(&dir)?;
    Ok(())
}

/// Starts the runner and waits until it is there, so that the answer says `Running` or better.
fn start(store: &Store, host: &Host, id: &OrderId) -> Result<Progress, Refusal> {
    let executable = std::env::current_exe();
    let executable = at("find", Path::new("/proc/self/exe"), executable)?;
    let mut ways = vec![false];
    if host.has_systemd() && finds("systemd-run") {
        ways.insert(0, true);
    }
    for scoped in ways {
        let spawned = spawn(store, id, &executable, scoped);
        let mut child = at("run", &executable, spawned)?;
        let deadline = Instant::now() + RUNNER_WAIT;
        while Instant::now() < deadline {
            // Looked at before the journal: a runner that is gone has written all it will.
            let gone = matches!(child.try_wait(), Ok(Some(_)));
            match inspect(store, host, id)? {
                Some(progress) if progress.state != State::Accepted => return Ok(progress),
                _ if gone => break,
                _ => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }
    inspect(store, host, id)?
        .ok_or_else(|| refuse(RefusalKind::UnknownOrder, format!("order {id} has vanished")))
}

/// Under systemd in a scope of its own: what belongs to the SSH session may be killed with it.
fn spawn(store: &Store, id: &OrderId, exe: &Path, scoped: bool) -> std::io::Result<Child> {
    let mut command = if scoped {
        let mut command = Command::new("systemd-run");
        command.args(["--scope", "--quiet", "--collect"]);
        command.arg(format!("--unit=evenkeel-{id}")).arg("--").arg(exe);
        command
    } else {
        Command::new(exe)
    };
    command.arg("run-order").arg(store.dir()).arg(id.to_string());
    command.env_clear().env("PATH", PATH).env("LANG", "C");
    for name in [STATE_ENV, ROOT_ENV] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn()
}
