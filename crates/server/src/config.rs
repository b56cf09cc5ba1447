//! Configuration: one TOML file, read once at the start. `config.example.toml` is parsed by a test.
//!
//! Absent on purpose: environment variables; secrets (they come from the key file and the store).

use evenkeel_engine::sync::Policy;
use evenkeel_engine::time::Span;
use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Settings of a server.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where to listen. Off loopback only with TLS.
    pub listen: SocketAddr,
    /// Database, outputs, journals. Created if absent.
    pub data_dir: PathBuf,
    /// The key that seals secrets; outside the data directory, and not in a backup.
    pub key_file: PathBuf,
    /// SDKs look their project up by this name.
    pub region: String,
    /// The host binary; absent: `evenkeel-node` beside the running executable.
    pub node_binary: Option<PathBuf>,
    /// UID of the pod that the server runs in, if it runs in a cluster that it manages: its node is taken last.
    pub pod_uid: Option<String>,
    /// Largest `maxUnavailable` that is taken; the API page says 20.
    pub max_unavailable_cap: u16,
    /// Days for which an ended job is kept, with its outputs.
    pub job_retention_days: u32,
    /// TLS certificate and key.
    pub tls: Option<Tls>,
    /// How API servers may be reached.
    pub clusters: Clusters,
    /// How webhooks may be reached.
    pub webhooks: Webhooks,
    /// Time limits, copied into each job at its acceptance.
    pub policy: PolicyConfig,
    /// `text` or `json`.
    pub log: LogFormat,
}

/// TLS files, PEM.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Certificate chain.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

/// How API servers may be reached.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Clusters {
    /// API servers on this machine.
    pub allow_loopback: bool,
    /// `insecure-skip-tls-verify` in kubeconfigs.
    pub allow_insecure_tls: bool,
}

/// How webhooks may be reached.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Webhooks {
    /// Webhooks on this machine.
    pub allow_loopback: bool,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// [`Policy`] in seconds; what is absent keeps its default.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyConfig {
    /// See [`Policy::canary`].
    pub canary: Option<bool>,
    /// See [`Policy::drain_timeout`].
    pub drain_timeout_s: Option<u64>,
    /// See [`Policy::grace_margin`].
    pub grace_margin_s: Option<u64>,
    /// See [`Policy::yield_after`].
    pub yield_after_s: Option<u64>,
    /// See [`Policy::drain_tries`].
    pub drain_tries: Option<u32>,
    /// See [`Policy::requeue_pause`].
    pub requeue_pause_s: Option<u64>,
    /// See [`Policy::retry_pause`].
    pub retry_pause_s: Option<u64>,
    /// See [`Policy::reach_timeout`].
    pub reach_timeout_s: Option<u64>,
    /// See [`Policy::ready_timeout`].
    pub ready_timeout_s: Option<u64>,
    /// See [`Policy::settle`].
    pub settle_s: Option<u64>,
    /// See [`Policy::stall_timeout`].
    pub stall_timeout_s: Option<u64>,
    /// See [`Policy::sick_after`].
    pub sick_after_s: Option<u64>,
    /// See [`Policy::steer`].
    pub steer: Option<bool>,
    /// See [`Policy::zone_max`].
    pub zone_max: Option<u32>,
}

impl PolicyConfig {
    /// The policy with defaults filled in.
    pub fn resolve(&self) -> Policy {
        let d = Policy::default();
        let span = |given: Option<u64>, default| given.map_or(default, Span::secs);
        Policy {
            canary: self.canary.unwrap_or(d.canary),
            drain_timeout: span(self.drain_timeout_s, d.drain_timeout),
            grace_margin: span(self.grace_margin_s, d.grace_margin),
            yield_after: span(self.yield_after_s, d.yield_after),
            drain_tries: self.drain_tries.unwrap_or(d.drain_tries),
            requeue_pause: span(self.requeue_pause_s, d.requeue_pause),
            retry_pause: span(self.retry_pause_s, d.retry_pause),
            reach_timeout: span(self.reach_timeout_s, d.reach_timeout),
            ready_timeout: span(self.ready_timeout_s, d.ready_timeout),
            settle: span(self.settle_s, d.settle),
            stall_timeout: span(self.stall_timeout_s, d.stall_timeout),
            sick_after: span(self.sick_after_s, d.sick_after),
            steer: self.steer.unwrap_or(d.steer),
            zone_max: self.zone_max.or(d.zone_max),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8443),
            data_dir: PathBuf::from("evenkeel-data"),
            key_file: PathBuf::from("evenkeel.key"),
            region: "evenkeel".to_owned(),
            node_binary: None,
            pod_uid: None,
            max_unavailable_cap: 20,
            job_retention_days: 30,
            tls: None,
            clusters: Clusters::default(),
            webhooks: Webhooks::default(),
            policy: PolicyConfig::default(),
            log: LogFormat::default(),
        }
    }
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration {} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Not the TOML that is expected.
    #[error("the configuration {} is not valid", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The cause; names line, field and value.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// Clear text on a network.
    #[error(
        "listen = \"{0}\" is not on loopback and [tls] is absent: set [tls] cert and key, or listen on 127.0.0.1"
    )]
    PlainText(SocketAddr),
    /// A job would be gone before anybody has read how it ended.
    #[error("job_retention_days = 0 would remove a job as it ends: set 1 or more")]
    Retention,
}

impl Config {
    /// Reads the file; without one, every setting has its default.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let Some(path) = path else {
            return Ok(Self::default());
        };
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        toml::from_str(&text)
            .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: source.into() })
    }

    /// Refuses what must not run.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.tls.is_none() && !self.listen.ip().is_loopback() {
            return Err(ConfigError::PlainText(self.listen));
        }
        if self.job_retention_days == 0 {
            return Err(ConfigError::Retention);
        }
        Ok(())
    }

    /// How long an ended job is kept.
    pub fn retention(&self) -> Span {
        Span::mins(u64::from(self.job_retention_days) * 24 * 60)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn the_example_is_valid_and_names_every_setting() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config.example.toml");
        let config = Config::load(Some(&path)).unwrap();
        config.check().unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let settings = "listen data_dir key_file region node_binary max_unavailable_cap job_retention_days log cert key \
            allow_loopback allow_insecure_tls canary drain_timeout_s grace_margin_s yield_after_s drain_tries \
            requeue_pause_s retry_pause_s reach_timeout_s ready_timeout_s settle_s stall_timeout_s sick_after_s";
        for setting in settings.split_whitespace() {
            assert!(text.contains(&format!("{setting} = ")), "{setting} is missing");
        }
        assert_eq!(config.policy.resolve(), Policy::default());
    }

    #[test]
    fn clear_text_stays_on_loopback() {
        let mut config = Config { listen: "0.0.0.0:8443".parse().unwrap(), ..Config::default() };
        assert!(matches!(config.check(), Err(ConfigError::PlainText(_))));
        config.tls = Some(Tls { cert: "c".into(), key: "k".into() });
        config.check().unwrap();
        config.job_retention_days = 0;
        assert!(matches!(config.check(), Err(ConfigError::Retention)));
    }
}
