//! What is stored: keys, records and their versioned envelope.
//!
//! Every key of a tenant begins with its project, so an id of another project is a missing id. Clear-text secrets
//! never stand here: they are [`Sealed`].

mod agents;
mod hook;
pub mod keys;
mod pace;

pub use agents::{AgentPlace, AgentRecord, EnrolToken, EnrolledAgent};
pub use hook::{Hook, Image, Reimage, Reinstalled, Webhook};
pub use pace::PaceRecord;

use crate::secrets::Sealed;
use evenkeel_api::configuration::Settings;
use evenkeel_engine::ids::{ClusterId, JobId, NodeId, PoolId, TemplateRevision};
use evenkeel_engine::preview::drift::Parts;
use evenkeel_engine::sync::{Awaited, Policy, SyncSpec};
use evenkeel_engine::time::Time;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Version of the envelope; a reader refuses a newer one.
pub const ENVELOPE_VERSION: u32 = 1;

/// Why a stored value could not be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not the JSON that was expected.
    #[error("the record {key} cannot be read")]
    Malformed {
        /// Its key.
        key: String,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// Written by a newer program.
    #[error(
        "the record {key} has version {version}; this program reads {ENVELOPE_VERSION}: update it"
    )]
    Newer {
        /// Its key.
        key: String,
        /// Its version.
        version: u32,
    },
}

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    v: u32,
    data: T,
}

/// The stored form of a record.
pub fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    serde_json::to_vec(&Envelope { v: ENVELOPE_VERSION, data: record })
        .expect("records are plain data and always serialize")
}

/// Reads a stored record.
pub fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, RecordError> {
    let malformed = |source| RecordError::Malformed { key: key.to_owned(), source };
    let envelope: Envelope<Value> = serde_json::from_slice(bytes).map_err(malformed)?;
    if envelope.v > ENVELOPE_VERSION {
        return Err(RecordError::Newer { key: key.to_owned(), version: envelope.v });
    }
    serde_json::from_value(envelope.data).map_err(malformed)
}

/// A tenant.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProjectRecord {
    /// 32 hex digits, as CCE's are.
    pub id: String,
    /// Name; SDKs look a project up by their region's name.
    pub name: String,
    /// Id of the domain.
    pub domain_id: String,
    /// Name of the domain.
    pub domain_name: String,
}

/// A person or program that may call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UserRecord {
    /// Id.
    pub id: String,
    /// Name.
    pub name: String,
    /// argon2id, PHC string.
    pub password_hash: String,
    /// The project.
    pub project: String,
}

/// An access key. The SK is the HMAC key, so it is sealed, not hashed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AccessKeyRecord {
    /// The AK.
    pub ak: String,
    /// The SK.
    pub secret: Sealed,
    /// The project.
    pub project: String,
    /// The user.
    pub user: String,
    /// A disabled key is answered like an unknown one.
    pub enabled: bool,
}

/// A token, by hash.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenRecord {
    /// The project.
    pub project: String,
    /// The user.
    pub user: String,
    /// Wall clock, ms since the epoch.
    pub expires_ms: i64,
}

/// Public keys under a name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeypairRecord {
    /// Name.
    pub name: String,
    /// OpenSSH public key lines.
    pub public_keys: Vec<String>,
}

/// A registered cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// Id.
    pub id: ClusterId,
    /// Name.
    pub name: String,
    /// The API server's version, as read at registration.
    pub version: String,
    /// The API server's URL, for people.
    pub server: String,
    /// Kubeconfig (inline data only).
    pub kubeconfig: Sealed,
    /// How its machines are reached; none yet after `cluster add`.
    pub machines: Option<MachineSettings>,
    /// What a reset is; none by default, so an upgrade is refused until one is chosen. Its commands are sealed
    /// ([`Recipe::map_commands`]).
    pub recipe: Option<Recipe>,
    /// Time limits of its synchronizations.
    #[serde(default)]
    pub policy: Policy,
    /// Wall clock, ms since the epoch.
    pub created_ms: i64,
}

/// How the machines of a cluster are reached over SSH.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MachineSettings {
    /// Login user.
    pub user: String,
    /// Port.
    pub port: u16,
    /// The controller's private key, OpenSSH format.
    pub private_key: Sealed,
    /// Its public line, kept on every host.
    pub public_key: String,
    /// Whether commands go through `sudo -n`.
    pub sudo: bool,
    /// Where a node's machine answers.
    pub address: AddressRule,
    /// Per node name: `host` or `host:port`.
    #[serde(default)]
    pub overrides: BTreeMap<String, String>,
    /// Per node name: the pinned host key, as an OpenSSH public key line.
    #[serde(default)]
    pub host_keys: BTreeMap<String, String>,
    /// Host CAs, as OpenSSH public key lines: a host without a pinned key is known by a certificate of one of them,
    /// and refused without.
    #[serde(default)]
    pub host_cas: Vec<String>,
}

/// Where a node's machine answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AddressRule {
    /// The node's InternalIP.
    InternalIp,
    /// The node's name, resolved by the controller.
    Name,
}

/// What a reset is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "recipe", rename_all = "kebab-case")]
pub enum Recipe {
    /// The user's own commands on the host, around login and the pre- and post-install scripts.
    Script {
        /// Takes Kubernetes off the host.
        teardown: String,
        /// Puts it back.
        install: String,
        /// Limit for each, seconds.
        limit_s: u32,
        /// Commands that the probe must find.
        #[serde(default)]
        needs: Vec<String>,
        /// What reinstalls the machine in between.
        #[serde(default)]
        reimage: Option<Reimage>,
        /// Both may be run again when their host was rebooted in the middle: their author says so.
        #[serde(default)]
        resume: bool,
    },
    /// `kubeadm reset` and `kubeadm join` with a fresh bootstrap token per node.
    Kubeadm(Kubeadm),
    /// The user's own tool, once per attempt.
    Command {
        /// A program on the controller, or a webhook.
        hook: Hook,
        /// Limit, seconds.
        limit_s: u32,
    },
    /// Nothing is reset: cordon, drain and back. Jobs say so.
    None,
}

/// The settings of the recipe `kubeadm`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kubeadm {
    /// Limit for teardown and for join, seconds.
    pub limit_s: u32,
    /// `host:port` at which nodes reach the API server; absent: as the kubeconfig has it.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// The runtime's socket; absent: what kubeadm finds.
    #[serde(default)]
    pub cri_socket: Option<String>,
    /// Preflight errors that kubeadm is to ignore.
    #[serde(default)]
    pub ignore_preflight: Vec<String>,
    /// Directories that are emptied in the teardown, unless `volumeResetPolicy` retains volumes.
    #[serde(default)]
    pub data_dirs: Vec<String>,
    /// What reinstalls the machine between teardown and join.
    #[serde(default)]
    pub reimage: Option<Reimage>,
}

impl Recipe {
    /// The same recipe with every text changed that may hold a secret: the commands, the arguments of programs, and
    /// addresses and secrets of webhooks. In the store these are sealed.
    pub fn map_commands<E>(
        self,
        mut change: impl FnMut(String) -> Result<String, E>,
    ) -> Result<Self, E> {
        Ok(match self {
            Self::Script { teardown, install, limit_s, needs, reimage, resume } => Self::Script {
                teardown: change(teardown)?,
                install: change(install)?,
                limit_s,
                needs,
                reimage: reimage.map(|reimage| reimage.map_secrets(&mut change)).transpose()?,
                resume,
            },
            Self::Command { hook, limit_s } => {
                Self::Command { hook: hook.map_secrets(&mut change)?, limit_s }
            }
            Self::Kubeadm(mut kubeadm) => {
                let secret = |reimage: Reimage| reimage.map_secrets(&mut change);
                kubeadm.reimage = kubeadm.reimage.map(secret).transpose()?;
                Self::Kubeadm(kubeadm)
            }
            Self::None => Self::None,
        })
    }

    /// What reinstalls the machine, if anything does.
    pub fn reimage(&self) -> Option<&Reimage> {
        match self {
            Self::Script { reimage, .. } => reimage.as_ref(),
            Self::Kubeadm(kubeadm) => kubeadm.reimage.as_ref(),
            Self::Command { .. } | Self::None => None,
        }
    }
}

/// A node pool.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PoolRecord {
    /// Id.
    pub id: PoolId,
    /// Name.
    pub name: String,
    /// `spec` as the client gave it and gets it back, without scripts and passwords.
    pub spec: Value,
    /// Parameters of its kubelets and runtimes that were set, by package and name, as the client wrote them.
    #[serde(default)]
    pub configuration: Settings,
    /// What a reset of its nodes applies.
    pub template: Template,
    /// Hash over everything that needs a reset.
    pub revision: TemplateRevision,
    /// The revision that a node of this pool has been synchronized to at least once.
    pub proven: Option<TemplateRevision>,
    /// Wall clock, ms since the epoch.
    pub created_ms: i64,
    /// Wall clock, ms since the epoch.
    pub updated_ms: i64,
}

/// Login and scripts: the part of a template that a reset applies on the host. Secrets are sealed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Template {
    /// Base64, as it came.
    pub pre_install: Option<Sealed>,
    /// Base64, as it came.
    pub post_install: Option<Sealed>,
    /// Out of service until the post-install script ended well.
    pub wait_post_install: bool,
    /// Data directories are left as they are (`volumeResetPolicy: retain_custom_volumes`).
    #[serde(default)]
    pub retain_volumes: bool,
    /// OS, image and runtime that the template names; none where it names none of them.
    #[serde(default)]
    pub image: Option<Image>,
    /// Labels and taints that a synchronized node carries, beside those that people gave it.
    #[serde(default)]
    pub dress: Dress,
    /// The template field by field, for comparing; secrets as digests.
    #[serde(default)]
    pub parts: Parts,
    /// Conditions of the Node that must be True before it goes into service.
    #[serde(default)]
    pub initialized: Vec<Awaited>,
    /// What of the pool's configuration goes to the host.
    #[serde(default)]
    pub config: NodeConfig,
    /// Login.
    pub login: LoginRecord,
}

/// The part of a pool's configuration that kubelet and runtime read on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeConfig {
    /// Fragment of the KubeletConfiguration.
    pub kubelet: serde_json::Map<String, Value>,
    /// Settings of containerd's systemd unit, such as `LimitNOFILE`.
    pub containerd: BTreeMap<String, String>,
}

/// Labels and taints of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dress {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Taints; one is known by its key and effect.
    pub taints: Vec<Taint>,
}

/// A taint of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value, may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// NoSchedule, PreferNoSchedule or NoExecute.
    pub effect: String,
}

/// Login of a template.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoginRecord {
    /// Login user; `root` where none was given.
    pub user: String,
    /// Name of a key pair.
    pub ssh_key: Option<String>,
    /// sha512-crypt hash.
    pub password: Option<Sealed>,
    /// Whose password login is taken away.
    #[serde(default)]
    pub remove_password: Option<String>,
    /// Whose keys in our block are taken away (the controller's own key stays).
    #[serde(default)]
    pub remove_keys: Option<String>,
    /// The login user before this one: what was set for it may still be there.
    #[serde(default)]
    pub former: Option<String>,
}

/// A registered node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Id, minted by us.
    pub id: NodeId,
    /// Name of the Node object.
    pub name: String,
    /// Its pool.
    pub pool: PoolId,
    /// `status.nodeInfo.machineID` as last seen: a node that has left its cluster in a reset is still found.
    pub machine_id: Option<String>,
    /// `status.nodeInfo.systemUUID` as last seen.
    #[serde(default)]
    pub system_uuid: Option<String>,
    /// The InternalIP address as last seen.
    #[serde(default)]
    pub internal_ip: Option<String>,
    /// `spec.providerID` when it was registered.
    pub provider_id: Option<String>,
    /// What was last applied there.
    pub applied: Option<TemplateRevision>,
    /// The fields of the template that was last applied.
    #[serde(default)]
    pub carries: Parts,
    /// OS, image and runtime of the template that was last applied; unknown before the first time.
    #[serde(default)]
    pub image: Option<Image>,
    /// Wall clock, ms since the epoch.
    pub created_ms: i64,
    /// Wall clock, ms since the epoch.
    pub updated_ms: i64,
}

/// A job's immutable header.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobRecord {
    /// What was asked, as the engine reads it.
    pub spec: SyncSpec,
    /// What is applied on the hosts; taken from the pool, or from the request for `DefaultPool`.
    pub template: Template,
    /// The recipe at acceptance; its commands are sealed as in the cluster's record.
    pub recipe: Recipe,
    /// Hash over the normalized request: an identical one gets this job again.
    pub fingerprint: String,
    /// Fields of the request that had no effect.
    pub ignored: Vec<String>,
    /// Who asked: `user/AK` or `user/token`.
    pub requested_by: String,
    /// `X-Request-Id` of the call.
    pub request_id: String,
    /// Wall clock, ms since the epoch.
    pub accepted_ms: i64,
    /// Public key lines of the key pair as they were at acceptance; none if the login names no key pair.
    #[serde(default)]
    pub authorized_keys: Option<Vec<String>>,
}

/// Where a job lives.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobIndexRecord {
    /// Its cluster.
    pub cluster: ClusterId,
}

/// Where a job or a cluster is found without knowing its tenant.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlaceRecord {
    /// Its project.
    pub project: String,
    /// Its cluster, or itself.
    pub cluster: ClusterId,
}

/// The first answer to a signed mutating call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReplayRecord {
    /// HTTP status.
    pub status: u16,
    /// The body; sealed, because answers may echo scripts.
    pub body: Sealed,
    /// `X-Request-Id` of the first call.
    pub request_id: String,
}

/// The password that was last asked for in `DefaultPool`: the same clear text again is the same template.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DefaultTemplateRecord {
    /// sha512-crypt hash.
    pub password: Sealed,
}

/// The cluster's clock as of the last commit.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ClockRecord {
    /// Time on the cluster's clock.
    pub at: Time,
    /// Wall clock at that moment, ms since the epoch.
    pub wall_ms: i64,
}
