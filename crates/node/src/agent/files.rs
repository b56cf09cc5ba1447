//! What an agent keeps: `agent/identity.json` and `agent/ca.pem` in the state directory, for root alone.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::AgentError;
use crate::protocol::Hidden;
use crate::store::{Store, StoreError, at, open_lock, private_dir, write_durably};

/// Who this host is to its server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Identity {
    /// Root of the server.
    pub url: String,
    /// Id of the agent.
    pub agent: String,
    /// The node that it is bound to.
    pub node: String,
    /// Its cluster.
    pub cluster: String,
    /// Bearer token; only its hash is at the server.
    pub credential: Hidden,
}

/// Where it is kept.
pub(super) struct Files {
    dir: PathBuf,
}

impl Files {
    pub(super) fn of(store: &Store) -> Self {
        Self { dir: store.dir().join("agent") }
    }

    pub(super) fn ca_path(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    fn identity_path(&self) -> PathBuf {
        self.dir.join("identity.json")
    }

    fn lock_path(&self) -> PathBuf {
        self.dir.join("lock")
    }

    /// Makes sure that something can be kept.
    pub(super) fn prepare(&self) -> Result<(), StoreError> {
        private_dir(&self.dir)?;
        let trial = self.dir.join("trial");
        write_durably(&trial, b"", 0o600)?;
        at("remove", &trial, fs::remove_file(&trial))
    }

    /// The identity last: with it the rest is there.
    pub(super) fn keep(&self, identity: &Identity, pem: &[u8]) -> Result<(), StoreError> {
        private_dir(&self.dir)?;
        write_durably(&self.ca_path(), pem, 0o600)?;
        // Plain text fields: they always serialize.
        let json = serde_json::to_vec(identity).unwrap_or_default();
        write_durably(&self.identity_path(), &json, 0o600)
    }

    pub(super) fn load(&self) -> Result<(Identity, Vec<u8>), AgentError> {
        let path = self.identity_path();
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(AgentError::NotEnrolled);
            }
            other => at("read", &path, other).map_err(AgentError::State)?,
        };
        let identity =
            serde_json::from_slice(&bytes).map_err(|_| AgentError::Damaged(path.clone()))?;
        let ca = self.ca_path();
        let pem = at("read", &ca, fs::read(&ca)).map_err(AgentError::State)?;
        Ok((identity, pem))
    }

    /// The file that a running agent holds locked.
    pub(super) fn lock(&self) -> Result<File, StoreError> {
        private_dir(&self.dir)?;
        open_lock(&self.lock_path())
    }

    pub(super) fn lock_failed(&self, source: io::Error) -> StoreError {
        StoreError::new("lock", self.lock_path(), source)
    }
}
