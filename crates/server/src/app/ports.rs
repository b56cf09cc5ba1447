//! The ports of the HTTP API, on Kubernetes, the output files and sha512-crypt.

use crate::http::ports::{
    OutputChunk, OutputQuery, OutputSource, PasswordError, Passwords, RegisterError, Registered,
    Registrar, Scanned, Scanner,
};
use crate::kube;
use crate::machines::{FileOutput, OutputKey, OutputSink, Part, password, ssh};
use crate::sync::chain;
use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use std::sync::Arc;

/// Looks at a cluster through kube-rs.
pub struct KubeRegistrar {
    /// How API servers may be reached.
    pub options: kube::Options,
}

#[async_trait]
impl Registrar for KubeRegistrar {
    async fn check(&self, kubeconfig: &str) -> Result<Registered, RegisterError> {
        let api = kube::Api::connect(kubeconfig, &self.options)
            .await
            .map_err(|e| RegisterError::Kubeconfig(chain(&e)))?;
        let seen = api.check().await.map_err(|e| RegisterError::Unreachable(chain(&e)))?;
        if !seen.missing_rights.is_empty() {
            return Err(RegisterError::Rights(format!(
                "the credential lacks these rights: {}; apply deploy/rbac.yaml and use its service account",
                seen.missing_rights.join(", ")
            )));
        }
        Ok(Registered {
            version: seen.version,
            server: seen.server,
            kubeconfig: kubeconfig.to_owned(),
        })
    }
}

/// Reads host keys over SSH.
pub struct SshScanner;

#[async_trait]
impl Scanner for SshScanner {
    async fn scan(&self, place: &str, port: u16) -> Result<Scanned, String> {
        let (host, port) = ssh::place(place, port)
            .ok_or_else(|| format!("{place} is not of the form HOST or HOST:PORT"))?;
        let line = ssh::scan(&host, port).await.map_err(|fault| chain(&fault))?;
        Ok(Scanned {
            address: ssh::peer(&host, port),
            fingerprint: ssh::fingerprint(&line).unwrap_or_default(),
            host_key: line.trim().to_owned(),
        })
    }
}

/// Reads what [`FileOutput`] keeps.
pub struct FileOutputs {
    /// The files.
    pub sink: Arc<FileOutput>,
}

#[async_trait]
impl OutputSource for FileOutputs {
    async fn read(&self, query: &OutputQuery) -> std::io::Result<Option<OutputChunk>> {
        let key = OutputKey {
            job: query.job.clone(),
            node: query.node_id.clone(),
            attempt: query.attempt,
            stage: query.stage,
            part: Part::Host,
        };
        let Some(kept) = self.sink.load(&key).await? else {
            return Ok(None);
        };
        let text = kept.to_bytes();
        let from = usize::try_from(query.offset).unwrap_or(usize::MAX).min(text.len());
        Ok(Some(OutputChunk {
            data: text[from..].to_vec(),
            next_offset: text.len() as u64,
            complete: kept.complete,
        }))
    }
}

/// sha512-crypt, as hosts' `crypt(3)` knows it.
pub struct ShaCrypt;

impl Passwords for ShaCrypt {
    fn hash(&self, clear: &str) -> Result<String, PasswordError> {
        password::hash(&SecretString::from(clear))
            .map(|hash| hash.expose_secret().to_owned())
            .map_err(|e| PasswordError(chain(&e)))
    }

    fn matches(&self, clear: &str, hash: &str) -> bool {
        password::verify(&SecretString::from(clear), &SecretString::from(hash))
    }
}
