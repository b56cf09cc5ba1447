//! The files that remember a command: `<id>` (it was to be run), `.pid` (it runs), `.end` (how it ended).
//!
//! Entry point: [`Files`]. Each step is durable before the next begins; none is ever taken back.

use crate::machines::output::absent_ok;
use evenkeel_node::protocol::OrderId;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// What stands in `.pid` when the wrapper never began and must not begin any more.
const CLAIMED: &str = "-\n";

/// The word in `.end` for an unknown outcome.
const INTERRUPTED: &str = "interrupted";

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With this exit status (128 + signal for a signal), after so many milliseconds.
    Status { code: i32, ran_ms: u64 },
    /// Without one.
    Interrupted,
}

/// What is known of the wrapper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// It has not begun, or not yet.
    NoTrace,
    /// It runs.
    Alive,
    /// It ran.
    Gone,
}

/// The files of one order.
pub(super) struct Files {
    dir: PathBuf,
    prefix: PathBuf,
}

impl Files {
    pub(super) fn new(dir: &Path, id: &OrderId) -> Self {
        Self { dir: dir.to_owned(), prefix: dir.join(id.to_string()) }
    }

    /// Path of the first file; the others have an extension more.
    pub(super) fn prefix(&self) -> &Path {
        &self.prefix
    }

    fn path(&self, extension: &str) -> PathBuf {
        self.prefix.with_added_extension(extension)
    }

    /// Says durably that the command is about to run. `false`: somebody said so before.
    pub(super) async fn begin(&self, id: &OrderId) -> io::Result<bool> {
        let (dir, path, line) = (self.dir.clone(), self.prefix.clone(), format!("{id}\n"));
        let begun = tokio::task::spawn_blocking(move || {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
            create_once(&dir, &path, &line)
        });
        begun.await.map_err(io::Error::other)?
    }

    /// Takes the wrapper's right to run away. `false`: it has begun.
    pub(super) fn claim(&self) -> io::Result<bool> {
        create_once(&self.dir, &self.path("pid"), CLAIMED)
    }

    /// Records an unknown outcome, unless the end is known after all.
    pub(super) fn interrupted(&self) -> io::Result<()> {
        create_once(&self.dir, &self.path("end"), &format!("{INTERRUPTED} 0\n")).map(|_| ())
    }

    /// How it ended, if it did.
    pub(super) fn end(&self) -> io::Result<Option<End>> {
        let Some(text) = absent_ok(fs::read_to_string(self.path("end")))? else {
            return Ok(None);
        };
        let mut words = text.split_whitespace();
        let code = words.next().and_then(|word| word.parse().ok());
        let ended: u64 = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
        let begun = self.wrapper()?.and_then(|w| w.begun_ms).unwrap_or(ended);
        Ok(Some(match code {
            Some(code) => End::Status { code, ran_ms: ended.saturating_sub(begun) },
            None => End::Interrupted,
        }))
    }

    /// Whether the wrapper runs: the same process of the same boot, not merely the same number.
    pub(super) fn life(&self) -> io::Result<Life> {
        let Some(wrapper) = self.wrapper()? else {
            return Ok(Life::NoTrace);
        };
        let (Some(pid), Some(start), Some(boot)) = (wrapper.pid, wrapper.start, wrapper.boot)
        else {
            return Ok(Life::Gone);
        };
        if fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim() != boot {
            return Ok(Life::Gone);
        }
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            return Ok(Life::Gone);
        };
        // proc(5): state is field 3 and starttime field 22; the name in field 2 may hold anything.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        let alive = fields.first() != Some(&"Z") && fields.get(19) == Some(&start.as_str());
        Ok(if alive { Life::Alive } else { Life::Gone })
    }

    fn wrapper(&self) -> io::Result<Option<Wrapper>> {
        let Some(text) = absent_ok(fs::read_to_string(self.path("pid")))? else {
            return Ok(None);
        };
        // Created but not written yet.
        if !text.ends_with('\n') {
            return Ok(None);
        }
        let mut words = text.split_whitespace();
        Ok(Some(Wrapper {
            pid: words.next().and_then(|word| word.parse().ok()),
            start: words.next().map(str::to_owned),
            boot: words.next().map(str::to_owned),
            begun_ms: words.next().and_then(|word| word.parse().ok()),
        }))
    }

    /// Output beyond `offset`, as far as it is there.
    pub(super) async fn output_from(&self, offset: u64) -> io::Result<Vec<u8>> {
        let Some(mut file) = absent_ok(tokio::fs::File::open(self.path("out")).await)? else {
            return Ok(Vec::new());
        };
        file.seek(io::SeekFrom::Start(offset)).await?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).await?;
        Ok(bytes)
    }

    /// Bytes of output beyond the head, and the last of them.
    pub(super) async fn tail(&self) -> io::Result<Option<(u64, Vec<u8>)>> {
        let Some(tail) = absent_ok(tokio::fs::read(self.path("tail")).await)? else {
            return Ok(None);
        };
        let rest = absent_ok(tokio::fs::read_to_string(self.path("rest")).await)?;
        // dd(1) ends with `12345 bytes (12 kB, 12 KiB) copied, ...`.
        let count = rest
            .as_deref()
            .and_then(|text| text.lines().last())
            .and_then(|line| line.split_once(" byte"))
            .and_then(|(count, _)| count.parse().ok());
        Ok(Some((count.unwrap_or(tail.len() as u64), tail)))
    }
}

struct Wrapper {
    pid: Option<u32>,
    start: Option<String>,
    boot: Option<String>,
    begun_ms: Option<u64>,
}

/// Creates a file with this content, durably. `false`: it was there.
fn create_once(dir: &Path, path: &Path, content: &str) -> io::Result<bool> {
    let mut file = match OpenOptions::new().create_new(true).write(true).mode(0o600).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(error),
    };
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    File::open(dir)?.sync_all()?;
    Ok(true)
}

/// Whether a wrapper's `timeout(1)` outlives it: it carries the order's name in its environment, enforces
/// the limit, and ends with the command. Daemons of the command are not looked for.
pub(super) fn survives(id: &OrderId) -> bool {
    let mark = format!("EVENKEEL_ORDER={id}");
    let listing = fs::read_dir("/proc").into_iter().flatten().flatten();
    listing.map(|entry| entry.path()).any(|dir| {
        let comm = fs::read_to_string(dir.join("comm")).unwrap_or_default();
        // A zombie has no environment any more.
        comm.trim() == "timeout"
            && fs::read(dir.join("environ"))
                .is_ok_and(|pairs| pairs.split(|b| *b == 0).any(|pair| pair == mark.as_bytes()))
    })
}
