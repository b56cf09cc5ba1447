//! What the binary does for each [`Verb`]: reads stdin where the verb has any, gives one JSON
//! document back. The only place that knows how verbs and modules belong together.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::{Read, Seek as _, SeekFrom};
use std::path::Path;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Serialize;
use serde_json::Value;

use crate::accept::{accept, parse, refuse};
use crate::host::{Host, finds, now_ms};
use crate::protocol::{
    CHUNK_BYTES_MAX, Chunk, Facts, ORDER_BYTES_MAX, OrderId, PROTOCOL, PlanEntry, ProbeRequest,
    ProveRequest, Refusal, RefusalKind, Step, Verb,
};
use crate::prove::prove;
use crate::runner::known;
use crate::store::{Store, StoreError, at};
use crate::sweep::sweep;

/// Carries a verb out. `stdin` is read only by verbs that take something there.
pub fn answer(
    store: &Store,
    host: &Host,
    verb: &Verb,
    stdin: &mut dyn Read,
) -> Result<Value, Refusal> {
    match verb {
        Verb::Probe => json(&probe(store, host, &probe_request(&input(stdin)?)?)?),
        Verb::Accept => json(&accept(store, host, &parse(&input(stdin)?)?)?),
        Verb::Status { order } => json(&known(store, host, order)?),
        Verb::Read { order, offset } => json(&read(store, host, order, *offset)?),
        Verb::Prove => {
            let request: ProveRequest = serde_json::from_slice(&input(stdin)?)
                .map_err(|_| refuse(RefusalKind::BadOrder, "stdin is not a prove request"))?;
            json(&prove(host, &request))
        }
        Verb::Plan => json(&plan(&parse(&input(stdin)?)?.steps)),
        Verb::Gc => {
            let _lock = store.lock()?;
            json(&sweep(store, host)?)
        }
    }
}

/// An error with its causes, on one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

fn json(answer: &impl Serialize) -> Result<Value, Refusal> {
    serde_json::to_value(answer)
        .map_err(|error| refuse(RefusalKind::Storage, format!("no JSON for the answer: {error}")))
}

fn input(stdin: &mut dyn Read) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    let limit = ORDER_BYTES_MAX as u64 + 1;
    stdin
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(|error| refuse(RefusalKind::BadOrder, format!("stdin cannot be read: {error}")))?;
    if bytes.len() > ORDER_BYTES_MAX {
        let message = format!("the order is larger than {ORDER_BYTES_MAX} bytes");
        return Err(refuse(RefusalKind::BadOrder, message));
    }
    Ok(bytes)
}

fn probe_request(stdin: &[u8]) -> Result<ProbeRequest, Refusal> {
    if stdin.trim_ascii().is_empty() {
        return Ok(ProbeRequest::default());
    }
    serde_json::from_slice(stdin)
        .map_err(|_| refuse(RefusalKind::BadOrder, "stdin is not a probe request"))
}

fn probe(store: &Store, host: &Host, asked: &ProbeRequest) -> Result<Facts, Refusal> {
    let identity = host.identity();
    let fence = store.fence()?;
    let user_exists = match asked.user.as_ref().map(|user| host.account(user)).transpose() {
        Ok(account) => account.map(|found| found.is_some()),
        Err(error) => return Err(refuse(RefusalKind::UnknownUser, error.to_string())),
    };
    let (free_disk_mb, free_disk_at) = least_room(store, asked)?;
    Ok(Facts {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        machine_id: identity.machine_id,
        product_uuid: identity.product_uuid,
        boot_id: host.boot_id(),
        hostname: fs::read_to_string("/proc/sys/kernel/hostname")
            .map(|name| name.trim().to_owned())
            .unwrap_or_default(),
        root: host.may_change(),
        user_exists,
        free_disk_mb,
        free_disk_at,
        commands: asked
            .commands
            .iter()
            .map(|name| (name.clone(), finds(name)))
            .collect::<BTreeMap<_, _>>(),
        kubelet: if asked.kubelet { kubelet_version(host) } else { None },
        systemd: host.has_systemd(),
        epoch_seen: fence.epoch,
        last_order: fence.last,
        time_ms: now_ms(),
    })
}

fn kubelet_version(host: &Host) -> Option<String> {
    let said = host.tools.run("kubelet", &["--version"], b"").ok()?;
    let text = said.stdout.trim().to_owned();
    (said.code == Some(0) && !text.is_empty()).then_some(text)
}

/// The place with the least free space among those that a reset writes to.
fn least_room(store: &Store, asked: &ProbeRequest) -> Result<(u64, String), StoreError> {
    let mut least = (free_mb(store.dir())?, store.dir().display().to_string());
    for path in &asked.writes {
        let free = free_mb(Path::new(path))?;
        if free < least.0 {
            least = (free, path.clone());
        }
    }
    Ok(least)
}

/// Free space where a directory is, or will be.
fn free_mb(dir: &Path) -> Result<u64, StoreError> {
    let there = dir.ancestors().find(|dir| dir.is_dir()).unwrap_or(dir);
    let found = rustix::fs::statvfs(there).map_err(std::io::Error::from);
    let found = at("look at", there, found)?;
    if found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        let read_only = Err(std::io::ErrorKind::ReadOnlyFilesystem.into());
        return at("write to", there, read_only);
    }
    // Without a free inode there is no room either, whatever the blocks say. Zero of zero: it counts none.
    if found.f_files > 0 && found.f_favail == 0 {
        return Ok(0);
    }
    Ok(found.f_bavail.saturating_mul(found.f_frsize) / (1024 * 1024))
}

fn read(store: &Store, host: &Host, id: &OrderId, offset: u64) -> Result<Chunk, Refusal> {
    // Before the data: a final state then means that the output is whole.
    let progress = known(store, host, id)?;
    let path = store.output_path(id);
    let mut data = Vec::new();
    let mut length = 0;
    if let Ok(mut file) = File::open(&path) {
        length = at("look at", &path, file.metadata())?.len();
        at("read", &path, file.seek(SeekFrom::Start(offset.min(length))))?;
        at("read", &path, file.take(CHUNK_BYTES_MAX as u64).read_to_end(&mut data))?;
    }
    let offset = offset.min(length);
    let next = offset + data.len() as u64;
    let eof = progress.state.is_final() && next >= length;
    Ok(Chunk { offset, next, data_b64: STANDARD.encode(&data), eof, progress })
}

fn plan(steps: &[Step]) -> Vec<PlanEntry> {
    let entry = |step: &Step| PlanEntry {
        name: step.name().to_owned(),
        what: match step {
            Step::Login(login) => {
                let mut what = vec![format!("user {}", login.user)];
                let keys = login.authorized_keys.as_ref().map(Vec::len);
                what.extend(login.password_hash.as_ref().map(|_| "set the password".to_owned()));
                what.extend(
                    login.remove_password.iter().map(|user| format!("lock the password of {user}")),
                );
                what.extend(keys.map(|count| format!("put {count} keys into the managed block")));
                what.extend(
                    login
                        .remove_keys
                        .iter()
                        .map(|user| format!("empty the managed block of {user}")),
                );
                what.push("keep the controller's key".to_owned());
                what.join(", ")
            }
            _ => {
                let bytes = step.script().ok().flatten().unwrap_or_default();
                let hash = crate::protocol::Sha256Hex::of(&bytes);
                format!("run a script of {} bytes, sha256 {hash}", bytes.len())
            }
        },
        time_limit_s: step.time_limit_s(),
    };
    steps.iter().map(entry).collect()
}
