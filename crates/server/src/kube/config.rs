//! Which kubeconfigs are accepted. A kubeconfig is code: `exec` runs programs, paths read files of this machine,
//! and a server address can point at a metadata service. Entry point: [`Access::parse`].
//!
//! Deliberately absent: environment variables, files, and any fallback to the configuration of a pod.

use super::Options;
use crate::addresses::{self, LOOPBACK_WHY, METADATA_WHY, literal};
use ::kube::config::{AuthInfo, Cluster, Kubeconfig};
use base64::Engine as _;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// Longest kubeconfig that is looked at, in bytes. Real ones hold a few certificates: below 20 KiB.
const MAX_BYTES: usize = 256 * 1024;

/// Why a kubeconfig is refused. No variant carries a secret.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Larger than any real one.
    #[error("the kubeconfig has {0} bytes; at most {MAX_BYTES} are accepted")]
    TooLarge(usize),
    /// Not YAML, or not of a kubeconfig's shape. The parser's own words are left out: they may quote a secret.
    #[error("this is not a kubeconfig{0}: it must be a YAML or JSON document of kind Config")]
    NotYaml(String),
    /// No context chosen.
    #[error("the kubeconfig has no current-context; name one of its contexts")]
    NoContext,
    /// A name that leads nowhere.
    #[error("the kubeconfig has no {kind} named \"{name}\"")]
    Missing {
        /// context, cluster or user.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// A field that is not accepted.
    #[error("{path} is not accepted: {why}")]
    Refused {
        /// Where it stands.
        path: String,
        /// The reason and the way out.
        why: &'static str,
    },
    /// A server address that is not accepted.
    #[error("server \"{server}\" is not accepted: {why}")]
    Server {
        /// The address.
        server: String,
        /// The reason and the way out.
        why: &'static str,
    },
    /// Data that cannot be decoded.
    #[error("{path} cannot be read: {why}")]
    Data {
        /// Where it stands.
        path: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The TLS or HTTP client cannot be built from it.
    #[error("no client can be built from the kubeconfig's certificates and keys")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What is left of a kubeconfig: one server, its CA, one inline credential.
pub struct Access {
    server: String,
    ca_data: Option<String>,
    config: ::kube::Config,
}

impl Access {
    /// Reads a kubeconfig by the strict rules.
    pub fn parse(kubeconfig: &str, options: &Options) -> Result<Self, ConfigError> {
        if kubeconfig.len() > MAX_BYTES {
            return Err(ConfigError::TooLarge(kubeconfig.len()));
        }
        let file = Kubeconfig::from_yaml(kubeconfig).map_err(not_yaml)?;
        let (cluster_name, cluster, user_name, user) = select(file, options.context.as_deref())?;
        check_cluster(&cluster_name, &cluster, options)?;
        check_user(&user_name, &user)?;
        let server = cluster.server.clone().unwrap_or_default();
        let uri = check_server(&server, options)?;
        let loopback = is_loopback_uri(&uri);
        if user.token.is_none() && user.client_certificate_data.is_none() && !loopback {
            return Err(ConfigError::Refused {
                path: format!("user \"{user_name}\""),
                why: "it holds neither a token nor a client certificate",
            });
        }
        let path = || format!("clusters \"{cluster_name}\": certificate-authority-data");
        let mut config = ::kube::Config::new(uri);
        config.root_cert = match &cluster.certificate_authority_data {
            None => None,
            Some(data) => Some(certificates(data, path)?),
        };
        let ca_data = cluster.certificate_authority_data.clone();
        config.accept_invalid_certs = cluster.insecure_skip_tls_verify == Some(true);
        config.tls_server_name = cluster.tls_server_name;
        config.auth_info = user;
        config.connect_timeout = Some(options.connect_timeout);
        // Our own rules decide what is tried again: a 504 on a write may have been applied.
        config.default_retry = false;
        config.headers.push((
            http::header::USER_AGENT,
            http::HeaderValue::from_static(concat!("evenkeel/", env!("CARGO_PKG_VERSION"))),
        ));
        Ok(Self { server, ca_data, config })
    }

    /// The server's address.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The CA, base64 of PEM.
    pub(super) fn ca_data(&self) -> Option<&str> {
        self.ca_data.as_deref()
    }

    pub(super) fn config(&self) -> &::kube::Config {
        &self.config
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("server", &self.server).finish_non_exhaustive()
    }
}

fn not_yaml(error: ::kube::config::KubeconfigError) -> ConfigError {
    let place = match error {
        ::kube::config::KubeconfigError::Parse(e) => e
            .location()
            .map(|l| format!(" (line {}, column {})", l.line(), l.column()))
            .unwrap_or_default(),
        _ => String::new(),
    };
    ConfigError::NotYaml(place)
}

fn select(
    file: Kubeconfig,
    context: Option<&str>,
) -> Result<(String, Cluster, String, AuthInfo), ConfigError> {
    let missing = |kind, name: &str| ConfigError::Missing { kind, name: name.to_owned() };
    let wanted = match (context, &file.current_context) {
        (Some(name), _) => name.to_owned(),
        (None, Some(name)) if !name.is_empty() => name.clone(),
        (None, _) => return Err(ConfigError::NoContext),
    };
    let context = file
        .contexts
        .into_iter()
        .find(|c| c.name == wanted)
        .and_then(|c| c.context)
        .ok_or_else(|| missing("context", &wanted))?;
    let cluster = file
        .clusters
        .into_iter()
        .find(|c| c.name == context.cluster)
        .and_then(|c| c.cluster)
        .ok_or_else(|| missing("cluster", &context.cluster))?;
    let user_name = context.user.unwrap_or_default();
    let user = if user_name.is_empty() {
        AuthInfo::default()
    } else {
        file.auth_infos
            .into_iter()
            .find(|u| u.name == user_name)
            .and_then(|u| u.auth_info)
            .ok_or_else(|| missing("user", &user_name))?
    };
    Ok((context.cluster, cluster, user_name, user))
}

fn check_cluster(name: &str, cluster: &Cluster, options: &Options) -> Result<(), ConfigError> {
    let refuse = |field: &str, why| {
        Err(ConfigError::Refused { path: format!("clusters \"{name}\": {field}"), why })
    };
    if cluster.certificate_authority.is_some() {
        return refuse("certificate-authority", PATH_WHY);
    }
    if cluster.insecure_skip_tls_verify == Some(true) && !options.allow_insecure_tls {
        return refuse(
            "insecure-skip-tls-verify",
            "whoever stands in between would get the credential; give certificate-authority-data",
        );
    }
    if cluster.proxy_url.is_some() {
        return refuse("proxy-url", "proxies are not supported; name an address that is reachable");
    }
    match cluster.other.keys().next() {
        Some(key) => refuse(key, "this version does not know the field"),
        None => Ok(()),
    }
}

const PATH_WHY: &str = "it names a file of this machine; put the content in the field ending in -data \
    (`kubectl config view --raw --flatten` does that)";

fn check_user(name: &str, user: &AuthInfo) -> Result<(), ConfigError> {
    let refuse = |field: &str, why| {
        Err(ConfigError::Refused { path: format!("users \"{name}\": {field}"), why })
    };
    if user.exec.is_some() {
        return refuse(
            "exec",
            "it would run a program on the controller; create a service account and use its token: \
             deploy/rbac.yaml does",
        );
    }
    if user.auth_provider.is_some() {
        return refuse(
            "auth-provider",
            "Kubernetes has removed it; create a service account and use its token: deploy/rbac.yaml does",
        );
    }
    if user.token_file.is_some() {
        return refuse("tokenFile", "it names a file of this machine; put the content in `token`");
    }
    if user.client_certificate.is_some() {
        return refuse("client-certificate", PATH_WHY);
    }
    if user.client_key.is_some() {
        return refuse("client-key", PATH_WHY);
    }
    if user.username.is_some() || user.password.is_some() {
        return refuse(
            "username",
            "Kubernetes no longer has passwords; use a token or a certificate",
        );
    }
    if user.client_certificate_data.is_some() != user.client_key_data.is_some() {
        return refuse(
            "client-certificate-data",
            "client-certificate-data and client-key-data belong together",
        );
    }
    match user.other.keys().next() {
        Some(key) => refuse(key, "this version does not know the field"),
        None => Ok(()),
    }
}

fn certificates(data: &str, path: impl Fn() -> String) -> Result<Vec<Vec<u8>>, ConfigError> {
    let bad = |why| ConfigError::Data { path: path(), why };
    let pem = base64::engine::general_purpose::STANDARD
        .decode(data.split_whitespace().collect::<String>())
        .map_err(|_| bad("it is not base64"))?;
    let all: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(&pem).map(|c| c.map(|c| c.to_vec())).collect();
    match all {
        Ok(list) if !list.is_empty() => Ok(list),
        _ => Err(bad("it holds no certificate in PEM")),
    }
}

fn check_server(server: &str, options: &Options) -> Result<http::Uri, ConfigError> {
    let refuse = |why| Err(ConfigError::Server { server: server.to_owned(), why });
    let Ok(uri) = server.parse::<http::Uri>() else {
        return refuse("it is not an address like https://host:6443");
    };
    let Some(host) = uri.host().filter(|h| !h.is_empty()) else {
        return refuse("it is not an address like https://host:6443");
    };
    if uri.authority().is_some_and(|a| a.as_str().contains('@')) || uri.query().is_some() {
        return refuse("it must not hold user information or a query");
    }
    match literal(host) {
        Some(ip) => {
            if let Some(why) = addresses::refused(ip, options.allow_loopback) {
                return refuse(why);
            }
        }
        None if is_metadata_name(host) => return refuse(METADATA_WHY),
        None if is_loopback_uri(&uri) && !options.allow_loopback => return refuse(LOOPBACK_WHY),
        None => (),
    }
    match uri.scheme_str() {
        Some("https") => Ok(uri),
        Some("http") if is_loopback_uri(&uri) => Ok(uri),
        Some("http") => {
            refuse("without TLS the credential would cross the network in clear; use https")
        }
        _ => refuse("it must begin with https://"),
    }
}

fn is_metadata_name(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host == "metadata" || host == "metadata.google.internal"
}

fn is_loopback_uri(uri: &http::Uri) -> bool {
    addresses::is_loopback(uri.host().unwrap_or_default())
}

#[cfg(test)]
mod tests;
