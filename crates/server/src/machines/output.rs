//! What scripts print, kept for people: bounded per order, head and tail.
//!
//! Entry points: [`OutputSink`] and [`FileOutput`]. Absent: meaning. Losing output never fails an order.

use crate::sync::ports::Stage;
use async_trait::async_trait;
use evenkeel_engine::ids::{JobId, NodeId};
use evenkeel_node::protocol::{self, OrderId};
use std::io;
use std::path::{Path, PathBuf};
use tokio::fs;
use tokio::io::AsyncWriteExt;

/// Output kept of one order: 1 MiB, as a host keeps of one script.
pub(super) const KEPT_MAX: u64 = 1024 * 1024;

/// The end of a long output holds the error, so an eighth is kept for it.
pub(super) const TAIL_MAX: u64 = KEPT_MAX / 8;

/// The beginning that is kept.
pub(super) const HEAD_MAX: u64 = KEPT_MAX - TAIL_MAX;

/// Who wrote output of a stage: each counts its own bytes from 0. In the order in which people read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The host, in an order of its own for the teardown.
    Teardown,
    /// A program or a webhook on the controller.
    Controller,
    /// The host.
    Host,
}

impl Part {
    const ALL: [Self; 3] = [Self::Teardown, Self::Controller, Self::Host];
}

/// Whose output it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OutputKey {
    /// The synchronization.
    pub job: JobId,
    /// The node's id.
    pub node: NodeId,
    /// 1 for the first.
    pub attempt: u32,
    /// Which stage.
    pub stage: Stage,
    /// Which part of the stage.
    pub part: Part,
}

impl OutputKey {
    /// What the host writes in an order.
    pub(super) fn of(id: &OrderId) -> Self {
        let (stage, part) = match id.stage() {
            protocol::Stage::Teardown => (Stage::Reset, Part::Teardown),
            protocol::Stage::Reset => (Stage::Reset, Part::Host),
            protocol::Stage::Post => (Stage::Post, Part::Host),
        };
        Self { job: id.job().into(), node: id.node().into(), attempt: id.attempt(), stage, part }
    }

    /// What the controller's side writes in an order.
    pub(super) fn beside(id: &OrderId) -> Self {
        Self { part: Part::Controller, ..Self::of(id) }
    }
}

/// Output as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// From the beginning.
    pub head: Vec<u8>,
    /// Bytes between head and tail that were left out.
    pub left_out: u64,
    /// Up to the end.
    pub tail: Vec<u8>,
    /// Whether nothing will follow.
    pub complete: bool,
}

impl Output {
    /// One text for people; says how much is missing.
    pub fn to_text(&self) -> String {
        String::from_utf8_lossy(&self.to_bytes()).into_owned()
    }

    /// The same as the bytes that scripts wrote: a position in it stays what it is while output grows.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.head.clone();
        if self.left_out > 0 {
            let marker = format!("\n[evenkeel: {} bytes of output left out]\n", self.left_out);
            bytes.extend_from_slice(marker.as_bytes());
        }
        bytes.extend_from_slice(&self.tail);
        bytes
    }
}

/// Keeps output. Offsets count bytes of the order's whole output.
#[async_trait]
pub trait OutputSink: Send + Sync + 'static {
    /// Bytes of the head that are kept: where to read on.
    async fn stored(&self, of: &OutputKey) -> io::Result<u64>;
    /// Adds to the head what is not there yet. Bytes beyond a gap or beyond the limit are left out.
    async fn append(&self, of: &OutputKey, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Replaces the tail, once the order has ended; an empty one says that the head was all.
    async fn tail(&self, of: &OutputKey, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// What is kept of all parts of the key's stage; `None` if nothing is.
    async fn load(&self, of: &OutputKey) -> io::Result<Option<Output>>;
    /// Removes everything of a job.
    async fn forget(&self, job: &JobId) -> io::Result<()>;
}

/// Files under the data directory: `outputs/<job>/<node>.<attempt>.<stage>`, readable by the server only.
#[derive(Clone, Debug)]
pub struct FileOutput {
    dir: PathBuf,
}

impl FileOutput {
    /// `data_dir`: the server's data directory; created at the first write.
    pub fn new(data_dir: &Path) -> Self {
        Self { dir: data_dir.join("outputs") }
    }

    /// Ids become file names, so they are checked like an order's.
    fn path(&self, of: &OutputKey) -> io::Result<PathBuf> {
        let stage = match of.stage {
            Stage::Reset => protocol::Stage::Reset,
            Stage::Post => protocol::Stage::Post,
        };
        let id = OrderId::new(of.job.as_str(), of.node.as_str(), of.attempt, stage)
            .map_err(|bad| io::Error::new(io::ErrorKind::InvalidInput, bad))?;
        let mut file = id.to_string().split_off(id.job().len() + 1);
        file.push_str(match of.part {
            Part::Teardown => ".teardown",
            Part::Controller => ".controller",
            Part::Host => "",
        });
        Ok(self.dir.join(id.job()).join(file))
    }

    async fn load_part(&self, of: &OutputKey) -> io::Result<Option<Output>> {
        let path = self.path(of)?;
        let head = absent_ok(fs::read(&path).await)?;
        let tail = absent_ok(fs::read(path.with_added_extension("tail")).await)?;
        if head.is_none() && tail.is_none() {
            return Ok(None);
        }
        let mut output = Output { head: head.unwrap_or_default(), ..Output::default() };
        if let Some((offset, bytes)) = tail.as_deref().and_then(|t| t.split_first_chunk::<8>()) {
            let (offset, kept) = (u64::from_be_bytes(*offset), output.head.len() as u64);
            output.left_out = offset.saturating_sub(kept);
            let overlap = kept.saturating_sub(offset).min(bytes.len() as u64);
            output.tail = bytes[overlap as usize..].to_vec();
            output.complete = true;
        }
        Ok(Some(output))
    }
}

#[async_trait]
impl OutputSink for FileOutput {
    async fn stored(&self, of: &OutputKey) -> io::Result<u64> {
        Ok(absent_ok(fs::metadata(self.path(of)?).await)?.map_or(0, |meta| meta.len()))
    }

    async fn append(&self, of: &OutputKey, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let stored = self.stored(of).await?;
        let end = (offset + bytes.len() as u64).min(HEAD_MAX);
        if offset > stored || end <= stored {
            return Ok(());
        }
        let fresh = &bytes[(stored - offset) as usize..(end - offset) as usize];
        let path = self.path(of)?;
        private_dirs(&self.dir, path.parent()).await?;
        let mut file =
            fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&path).await?;
        file.write_all(fresh).await?;
        file.flush().await
    }

    async fn tail(&self, of: &OutputKey, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(of)?;
        private_dirs(&self.dir, path.parent()).await?;
        let over = bytes.len().saturating_sub(TAIL_MAX as usize);
        let mut content = (offset + over as u64).to_be_bytes().to_vec();
        content.extend_from_slice(&bytes[over..]);
        let new = path.with_added_extension("tail.new");
        let mut options = fs::OpenOptions::new();
        let mut file =
            options.create(true).truncate(true).write(true).mode(0o600).open(&new).await?;
        file.write_all(&content).await?;
        file.flush().await?;
        fs::rename(&new, path.with_added_extension("tail")).await
    }

    async fn load(&self, of: &OutputKey) -> io::Result<Option<Output>> {
        let mut whole: Option<Output> = None;
        for part in Part::ALL {
            if let Some(mut next) = self.load_part(&OutputKey { part, ..of.clone() }).await? {
                // A part begins when the one before it has ended.
                let mut head = whole.map(|before| before.to_bytes()).unwrap_or_default();
                head.append(&mut next.head);
                whole = Some(Output { head, ..next });
            }
        }
        Ok(whole)
    }

    async fn forget(&self, job: &JobId) -> io::Result<()> {
        let (node, stage, part) = (NodeId::new("x"), Stage::Reset, Part::Host);
        let key = OutputKey { job: job.clone(), node, attempt: 0, stage, part };
        match self.path(&key)?.parent() {
            Some(dir) => absent_ok(fs::remove_dir_all(dir).await).map(|_| ()),
            None => Ok(()),
        }
    }
}

/// `None` for a file that is not there.
pub(super) fn absent_ok<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

async fn private_dirs(top: &Path, dir: Option<&Path>) -> io::Result<()> {
    for dir in [Some(top), dir].into_iter().flatten() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn key() -> OutputKey {
        let (stage, part) = (Stage::Reset, Part::Host);
        OutputKey { job: "job-1".into(), node: "node-1".into(), attempt: 1, stage, part }
    }

    #[tokio::test]
    async fn the_head_grows_without_gaps_or_repeats() {
        let dir = tempfile::tempdir().unwrap();
        let sink = FileOutput::new(dir.path());
        assert_eq!(sink.load(&key()).await.unwrap(), None);
        sink.append(&key(), 0, b"abc").await.unwrap();
        sink.append(&key(), 1, b"bcd").await.unwrap();
        sink.append(&key(), 9, b"zzz").await.unwrap();
        assert_eq!(sink.stored(&key()).await.unwrap(), 4);
        let growing = sink.load(&key()).await.unwrap().unwrap();
        assert_eq!((growing.to_text().as_str(), growing.complete), ("abcd", false));
        sink.tail(&key(), 4, b"").await.unwrap();
        let whole = sink.load(&key()).await.unwrap().unwrap();
        assert_eq!((whole.to_text().as_str(), whole.complete), ("abcd", true));
        sink.forget(&"job-1".into()).await.unwrap();
        assert_eq!(sink.load(&key()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn long_output_keeps_both_ends_and_says_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let sink = FileOutput::new(dir.path());
        sink.append(&key(), 0, &vec![b'a'; KEPT_MAX as usize * 2]).await.unwrap();
        assert_eq!(sink.stored(&key()).await.unwrap(), HEAD_MAX);
        sink.tail(&key(), HEAD_MAX + 10, b"the error").await.unwrap();
        let output = sink.load(&key()).await.unwrap().unwrap();
        assert_eq!((output.left_out, output.tail.as_slice()), (10, &b"the error"[..]));
        assert!(output.to_text().ends_with("[evenkeel: 10 bytes of output left out]\nthe error"));
    }

    #[tokio::test]
    async fn parts_are_read_as_one_text() {
        let dir = tempfile::tempdir().unwrap();
        let sink = FileOutput::new(dir.path());
        for (part, text) in [(Part::Host, "c"), (Part::Controller, "b"), (Part::Teardown, "a")] {
            let key = OutputKey { part, ..key() };
            sink.append(&key, 0, text.as_bytes()).await.unwrap();
            if part != Part::Host {
                sink.tail(&key, 1, b"").await.unwrap();
            }
        }
        let whole = sink.load(&key()).await.unwrap().unwrap();
        assert_eq!((whole.to_text().as_str(), whole.complete), ("abc", false));
    }

    #[tokio::test]
    async fn ids_are_never_paths() {
        let sink = FileOutput::new(Path::new("/nonexistent"));
        let bad = OutputKey { job: "../x".into(), ..key() };
        assert!(sink.append(&bad, 0, b"x").await.is_err());
        assert!(sink.forget(&"..".into()).await.is_err());
    }
}
