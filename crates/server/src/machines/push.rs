//! The host binary: loaded once, put on a host over SSH once per build.
//!
//! Entry points: [`BinarySource`] and [`ensure`]. Absent: building it (`cargo xtask node-binary`).

use super::brief::SshAccess;
use super::host;
use super::link::{Ended, Link};
use super::ssh::Session;
use crate::sync::ports::Fault;
use async_trait::async_trait;
use evenkeel_node::protocol::{Have, Remote, Sha256Hex, Verb};
use serde::de::DeserializeOwned;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;

/// File name of the binary beside the running executable.
const FILE_NAME: &str = "evenkeel-node";

/// 6 MB in two minutes is 400 kbit/s: slower links cannot carry a reset's packages either.
const UPLOAD_LIMIT: Duration = Duration::from_mins(2);

/// Hashing 6 MB takes milliseconds; the rest is for a host that swaps.
const HAVE_LIMIT: Duration = Duration::from_secs(20);

/// `evenkeel-node` and its name.
#[derive(Clone)]
pub struct NodeBinary {
    /// The file.
    pub bytes: Arc<[u8]>,
    /// Its hash: names the build on the hosts.
    pub sha256: Sha256Hex,
}

impl NodeBinary {
    /// Takes the content of the file.
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        let sha256 = Sha256Hex::of(&bytes);
        Self { bytes, sha256 }
    }
}

/// The binary cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "the host binary {} cannot be read; build it with `cargo xtask node-binary`, or name its path in \
     the configuration",
    path.display()
)]
pub struct BinaryError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// Where the binary comes from; read at the first use, because `command` and `none` need none.
pub struct BinarySource {
    path: PathBuf,
    loaded: OnceCell<NodeBinary>,
}

impl BinarySource {
    /// `path`: as configured; beside the running executable if absent.
    pub fn file(path: Option<&Path>) -> Self {
        let beside = || {
            std::env::current_exe()
                .ok()
                .and_then(|exe| exe.parent().map(|dir| dir.join(FILE_NAME)))
                .unwrap_or_else(|| PathBuf::from(FILE_NAME))
        };
        Self { path: path.map_or_else(beside, Path::to_owned), loaded: OnceCell::new() }
    }

    /// A binary that is in memory already.
    pub fn loaded(binary: NodeBinary) -> Self {
        Self { path: PathBuf::new(), loaded: OnceCell::new_with(Some(binary)) }
    }

    /// The binary.
    pub async fn load(&self) -> Result<NodeBinary, BinaryError> {
        let read = || async {
            let bytes = tokio::fs::read(&self.path)
                .await
                .map_err(|source| BinaryError { path: self.path.clone(), source })?;
            Ok(NodeBinary::new(bytes))
        };
        self.loaded.get_or_try_init(read).await.cloned()
    }

    pub(super) async fn get(&self) -> Result<NodeBinary, Fault> {
        self.load().await.map_err(|error| Fault::Permanent {
            what: "the host binary evenkeel-node is not there".into(),
            source: Some(Box::new(error)),
        })
    }
}

/// A connection to a host that has this build of the binary.
pub(super) struct SshLink {
    session: Session,
    sudo: bool,
    hash: Sha256Hex,
}

impl SshLink {
    async fn ask<T: DeserializeOwned>(
        &self,
        remote: &Remote,
        stdin: &[u8],
        limit: Duration,
    ) -> Result<T, Fault> {
        let ended = self.session.exec(&remote.to_command(self.sudo), stdin, limit).await?;
        host::answer(self.peer(), &ended).map_err(|no| host::fault(self.peer(), no))
    }
}

#[async_trait]
impl Link for SshLink {
    fn peer(&self) -> &str {
        self.session.peer()
    }

    fn seen_from(&self) -> IpAddr {
        self.session.local_addr()
    }

    async fn run(&self, verb: &Verb, stdin: &[u8], limit: Duration) -> Result<Ended, Fault> {
        let remote = Remote::Run { hash: self.hash.clone(), verb: verb.clone() };
        self.session.exec(&remote.to_command(self.sudo), stdin, limit).await
    }

    async fn close(self: Box<Self>) {
        self.session.close().await;
    }
}

/// Connects, and makes sure that this build is on the host and whole.
pub(super) async fn ensure(access: &SshAccess, binary: &NodeBinary) -> Result<SshLink, Fault> {
    let session = Session::connect(access).await?;
    let hash = binary.sha256.clone();
    let link = SshLink { session, sudo: access.sudo, hash: hash.clone() };
    let have: Have = link.ask(&Remote::Have { hash: hash.clone() }, b"", HAVE_LIMIT).await?;
    if !have.have {
        let put: Have = link.ask(&Remote::Upload { hash }, &binary.bytes, UPLOAD_LIMIT).await?;
        if !put.have {
            return Err(Fault::transient(format!(
                "host {}: evenkeel-node is not there after the upload",
                link.peer()
            )));
        }
    }
    Ok(link)
}
