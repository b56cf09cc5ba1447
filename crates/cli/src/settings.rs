//! Where to, and as whom: resolved once, before a command runs.
//!
//! Precedence, for each setting: the environment variable, then the file of `evenkeel login`. AK and SK are a pair and
//! always come from the same place.
//!
//! | setting | variable | in the file |
//! |---|---|---|
//! | root of the server | `EVENKEEL_ENDPOINT` | `endpoint` |
//! | access key id | `EVENKEEL_AK` | `ak` |
//! | secret access key | `EVENKEEL_SK` | `sk` |
//! | project | `EVENKEEL_PROJECT_ID` | `project_id` |
//! | CA certificates (PEM) besides the system's | `EVENKEEL_CA_CERT` | `ca_cert` |
//! | the cluster of commands without `--cluster` | `EVENKEEL_CLUSTER` | |
//! | the file itself | `EVENKEEL_CREDENTIALS` | |
//!
//! Entry points: [`resolve`], [`endpoint`].

use std::path::PathBuf;

use evenkeel_api::password::Secret;
use reqwest::Url;

use crate::credentials::{self, Credentials};
use crate::failure::CliError;
use crate::io::Io;

/// What every call needs.
#[derive(Clone, Debug)]
pub struct Settings {
    pub(crate) endpoint: Url,
    pub(crate) ak: String,
    pub(crate) sk: Secret,
    pub(crate) project: String,
    pub(crate) ca_cert: Option<PathBuf>,
    /// Meant by commands that name none.
    pub(crate) cluster: Option<String>,
}

impl Settings {
    /// Settings that a program knows by itself: no environment, no file.
    pub fn new(root: &str, ak: &str, sk: &str, project: &str) -> Result<Self, CliError> {
        Ok(Self {
            endpoint: endpoint(root)?,
            ak: ak.to_owned(),
            sk: Secret::new(sk),
            project: project.to_owned(),
            ca_cert: None,
            cluster: None,
        })
    }
}

/// Environment first, then the file.
pub(crate) fn resolve(io: &Io<'_>) -> Result<Settings, CliError> {
    let path = credentials::path(io);
    let file = match &path {
        Some(path) => credentials::read(path)?,
        None => Credentials::default(),
    };
    let (ak, sk) = match ((io.env)("EVENKEEL_AK"), (io.env)("EVENKEEL_SK")) {
        (Some(ak), Some(sk)) => (ak, Secret::new(sk)),
        (Some(_), None) => return Err(half("EVENKEEL_AK", "EVENKEEL_SK")),
        (None, Some(_)) => return Err(half("EVENKEEL_SK", "EVENKEEL_AK")),
        (None, None) => match (file.ak, file.sk) {
            (Some(ak), Some(sk)) => (ak, sk),
            _ => return Err(missing("the access key", "EVENKEEL_AK and EVENKEEL_SK")),
        },
    };
    let root = (io.env)("EVENKEEL_ENDPOINT").or(file.endpoint);
    let root = root.ok_or_else(|| missing("the endpoint", "EVENKEEL_ENDPOINT"))?;
    let project = (io.env)("EVENKEEL_PROJECT_ID").or(file.project_id);
    let project = project.ok_or_else(|| missing("the project", "EVENKEEL_PROJECT_ID"))?;
    Ok(Settings {
        endpoint: endpoint(&root)?,
        ak,
        sk,
        project,
        ca_cert: (io.env)("EVENKEEL_CA_CERT").map(PathBuf::from).or(file.ca_cert),
        cluster: (io.env)("EVENKEEL_CLUSTER"),
    })
}

/// The root of a server. Clear text is taken on loopback only: kubeconfigs and keys travel in these calls.
pub(crate) fn endpoint(text: &str) -> Result<Url, CliError> {
    let wrong = |rule: &str| {
        let error = CliError::usage(format!("endpoint: {text} {rule}"));
        Err(error.with_hint("give the root of the server, such as https://evenkeel.example:8443"))
    };
    let Ok(url) = Url::parse(text) else {
        return wrong("is not a URL");
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(CliError::usage("endpoint: the URL holds a user name; leave it out"));
    }
    if url.path() != "/"
        || url.query().is_some()
        || url.fragment().is_some()
        || url.host_str().is_none()
    {
        return wrong("is not only scheme, host and port");
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        "http" => wrong("is not encrypted, which is taken for loopback addresses only"),
        _ => wrong("is neither https nor http"),
    }
}

/// Whether calls stay on this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn half(given: &str, other: &str) -> CliError {
    CliError::usage(format!("{given} is set and {other} is not; they are a pair"))
        .with_hint(format!("set {other} too"))
}

fn missing(what: &str, variables: &str) -> CliError {
    CliError::usage(format!("{what} is missing"))
        .with_hint(format!("run `evenkeel login`, or set {variables}"))
}
