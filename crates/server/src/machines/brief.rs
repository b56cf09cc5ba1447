//! What the composition root tells this module about one job and one machine.
//!
//! Everything secret is opened here for the length of one call, hidden in `Debug` and wiped on drop.

use super::agent::AgentAccess;
use crate::records::{AddressRule, Image, MachineSettings, NodeConfig, Recipe, Reinstalled};
use crate::sync::ports::{Fault, HostOrder, Joiner, Target};
use async_trait::async_trait;
use evenkeel_engine::ids::JobId;
use secrecy::SecretString;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Knows what a job does to a machine and how the machine is reached.
#[async_trait]
pub trait Book: Send + Sync + 'static {
    /// The same job and node give the same recipe and template at every call: an order is never changed
    /// once a host has it.
    async fn brief(&self, job: &JobId, target: &Target) -> Result<Brief, Fault>;
    /// Pins the host key that a reinstallation announced, and the address if it names one, durably. Only for the
    /// actor of this epoch.
    async fn pin(&self, order: &HostOrder, key: &str, address: Option<&str>) -> Result<(), Fault>;
    /// Records the identity that the reinstalled machine has now, in place of the one that the order names. Only for
    /// the actor of this epoch.
    async fn came_back(&self, order: &HostOrder, now: &Reinstalled) -> Result<(), Fault>;
}

/// What to do on a machine.
#[derive(Clone)]
pub struct Brief {
    /// The recipe at acceptance of the job.
    pub recipe: Recipe,
    /// How the machine is reached; `None` if nobody has said.
    pub reach: Option<Reach>,
    /// Login and scripts.
    pub template: ClearTemplate,
    /// The cluster's side of a join; `None` unless the recipe is `kubeadm`.
    pub joiner: Option<Arc<dyn Joiner>>,
    /// The epoch that orders are given with at present; `None` if nobody holds the cluster.
    pub epoch: Option<u64>,
    /// Who the machine is since it was reinstalled; `None` if it never was.
    pub reinstalled: Option<Reinstalled>,
    /// More facts for programs and webhooks, by variable name. No secrets.
    pub facts_env: BTreeMap<String, String>,
}

impl fmt::Debug for Brief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The recipe's commands may hold a join token.
        f.debug_struct("Brief")
            .field("reach", &self.reach)
            .field("template", &self.template)
            .finish_non_exhaustive()
    }
}

impl Reinstalled {
    /// Puts the machine's identity in place of the one that its node showed before.
    pub(super) fn into_target(self, target: &mut Target) {
        target.machine_id = Some(self.machine_id.into());
        target.system_uuid = self.system_uuid.map(Into::into);
    }

    /// Whether the node's status still shows a machine that was reinstalled since.
    pub(super) fn stands_for(&self, target: &Target) -> bool {
        target.machine_id.as_deref().is_none_or(|id| self.replaces.contains(id))
    }
}

/// How one machine is reached.
#[derive(Clone, Debug)]
pub enum Reach {
    /// The controller connects.
    Ssh(SshAccess),
    /// An agent on the machine asks the controller.
    Agent(AgentAccess),
}

impl Reach {
    /// The controller's own public key, which stays on the host.
    pub(super) fn own_key(&self) -> Option<&str> {
        match self {
            Self::Ssh(access) => Some(access.public_key.trim()),
            Self::Agent(access) => access.public_key.as_deref().map(str::trim),
        }
    }

    /// The access over SSH; `None` where the host is reached otherwise.
    pub(super) fn ssh(&self) -> Option<&SshAccess> {
        match self {
            Self::Ssh(access) => Some(access),
            Self::Agent(_) => None,
        }
    }

    /// Where the host answers; `None` if it does not.
    pub(super) fn address(&self) -> Option<&str> {
        match self {
            Self::Ssh(access) => Some(&access.address),
            Self::Agent(_) => None,
        }
    }
}

/// How one machine is reached over SSH.
#[derive(Clone, Debug)]
pub struct SshAccess {
    /// Host name or IP address.
    pub address: String,
    /// TCP port.
    pub port: u16,
    /// Login user of the controller.
    pub user: String,
    /// Whether commands go through `sudo -n`.
    pub sudo: bool,
    /// The controller's private key, OpenSSH format without a passphrase.
    pub private_key: SecretString,
    /// Its public line.
    pub public_key: String,
    /// The pinned host key as an OpenSSH public key line.
    pub host_key: Option<String>,
    /// Host CAs as OpenSSH public key lines, asked where no key is pinned. Without either, a host is refused.
    pub host_cas: Vec<String>,
    /// Other names of the host that a certificate may hold.
    pub names: Vec<String>,
}

impl SshAccess {
    /// Where and how a node's machine answers by the cluster's settings; `private_key` is the opened
    /// [`MachineSettings::private_key`]. Permanent: no address is known, or an override is not one.
    pub fn of(
        settings: &MachineSettings,
        target: &Target,
        private_key: SecretString,
    ) -> Result<Self, Fault> {
        let name = target.node.as_str();
        let (address, port) = match (settings.overrides.get(name), settings.address) {
            (Some(text), _) => host_port(text, settings.port).ok_or_else(|| {
                Fault::permanent(format!(
                    "node {name}: the address {text:?} is not of the form HOST or HOST:PORT; \
                     correct it with `evenkeel cluster set-machines`"
                ))
            })?,
            (None, AddressRule::Name) => (name.to_owned(), settings.port),
            (None, AddressRule::InternalIp) => match &target.internal_ip {
                Some(ip) => (ip.to_string(), settings.port),
                None => {
                    return Err(Fault::permanent(format!(
                        "node {name}: its status reports no InternalIP; give its address with \
                         `evenkeel cluster set-machines`"
                    )));
                }
            },
        };
        Ok(Self {
            address,
            port,
            user: settings.user.clone(),
            sudo: settings.sudo,
            private_key,
            public_key: settings.public_key.clone(),
            host_key: settings.host_keys.get(name).cloned(),
            host_cas: settings.host_cas.clone(),
            names: vec![name.to_owned()],
        })
    }

    /// `address:port` for messages.
    pub fn peer(&self) -> String {
        ssh_peer(&self.address, self.port)
    }
}

/// Splits `host`, `host:port`, `[v6]` and `[v6]:port`; a bare IPv6 address has no port.
pub(super) fn host_port(text: &str, default: u16) -> Option<(String, u16)> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            None => return None,
        }
    } else {
        match text.split_once(':') {
            Some((_, rest)) if rest.contains(':') => (text, None),
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let port = port.map_or(Some(default), |port| port.parse().ok())?;
    let plain = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c == '/');
    (plain && port != 0).then(|| (host.to_owned(), port))
}

/// Whether a text is an address with or without a port.
pub(super) fn is_place(text: &str) -> bool {
    host_port(text, 22).is_some()
}

/// `address:port`, with brackets around an IPv6 address.
pub(super) fn ssh_peer(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// Login and scripts in clear.
#[derive(Clone, Debug, Default)]
pub struct ClearTemplate {
    /// Base64, as it came.
    pub pre_install_b64: Option<SecretString>,
    /// Base64, as it came.
    pub post_install_b64: Option<SecretString>,
    /// Login.
    pub login: ClearLogin,
    /// Data directories are left as they are.
    pub retain_volumes: bool,
    /// OS, image and runtime, for whoever reinstalls the machine.
    pub image: Option<Image>,
    /// What kubelet and runtime read on the host.
    pub config: NodeConfig,
    /// Conditions of the Node that are awaited after the reset.
    pub initialized: Vec<String>,
}

/// The login that a node shall have afterwards. What is absent stays as it is.
#[derive(Clone, Debug, Default)]
pub struct ClearLogin {
    /// Login user; `root` where none was given.
    pub user: String,
    /// sha512-crypt hash.
    pub password_hash: Option<SecretString>,
    /// Public key lines of the key pair, if one was named.
    pub authorized_keys: Option<Vec<String>>,
    /// Whose password login is taken away.
    pub remove_password: Option<String>,
    /// Whose keys in our block are taken away.
    pub remove_keys: Option<String>,
}

impl ClearLogin {
    /// Whether anything is to be set or removed.
    pub fn is_wanted(&self) -> bool {
        self.password_hash.is_some()
            || self.authorized_keys.is_some()
            || self.remove_password.is_some()
            || self.remove_keys.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_name_a_host_and_perhaps_a_port() {
        let cases = [
            ("h", Some(("h", 22))),
            ("h:2222", Some(("h", 2222))),
            ("10.0.0.1:1", Some(("10.0.0.1", 1))),
            ("fd00::1", Some(("fd00::1", 22))),
            ("[fd00::1]", Some(("fd00::1", 22))),
            ("[fd00::1]:2222", Some(("fd00::1", 2222))),
            ("", None),
            (":22", None),
            ("h:", None),
            ("h:0", None),
            ("h:65536", None),
            ("[fd00::1]2", None),
            ("a b", None),
        ];
        for (text, expected) in cases {
            let expected = expected.map(|(host, port)| (host.to_owned(), port));
            assert_eq!(host_port(text, 22), expected, "{text:?}");
        }
    }
}
