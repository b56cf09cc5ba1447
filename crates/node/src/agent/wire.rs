//! HTTPS to the server: one connection that is kept open, certificates of the given CA only.
//!
//! Absent on purpose: redirects (a credential goes to one place), retries, and a switch for the certificate check.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::Response;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};
use ureq::{Agent, Body};

use crate::protocol::Hidden;
use crate::protocol::agent::{
    CALLS_PATH, Call, CallEnd, ENROL_PATH, EnrolRequest, Enrolled, POLL_LIMIT, Poll, Polled,
};

/// Connection and TLS handshake, also over a slow line.
const CONNECT_LIMIT: Duration = Duration::from_secs(15);

/// Anything but a poll is answered at once.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// Orders have half a MiB at most; in JSON a script's line ends take two characters.
const BODY_MAX: u64 = 4 * 1024 * 1024;

/// Why the server did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// It was not reached, or is not who it should be.
    #[error("the server cannot be reached over TLS")]
    Unreachable(#[source] Box<ureq::Error>),
    /// It said no.
    #[error(transparent)]
    Denied(Denied),
    /// It said something else.
    #[error("the server answered with status {0}")]
    Status(u16),
    /// Not the JSON that was expected.
    #[error("the answer of the server cannot be read")]
    Malformed(#[source] serde_json::Error),
}

/// How a server says no.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// 401.
    #[error("the credential is unknown or revoked; enrol this host again")]
    Credential,
    /// Other refusals, in the server's words.
    #[error("{0}")]
    Words(String),
}

/// See the module.
pub(super) struct Wire {
    http: Agent,
    url: String,
}

pub(super) fn is_https(url: &str) -> bool {
    url.strip_prefix("https://").is_some_and(|rest| !rest.trim_end_matches('/').is_empty())
}

impl Wire {
    /// `None`: not an `https` address, or no certificate in `pem`.
    pub(super) fn new(url: &str, pem: &[u8]) -> Option<Self> {
        let certificates: Vec<Certificate<'static>> = parse_pem(pem)
            .filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            })
            .collect();
        if !is_https(url) || certificates.is_empty() {
            return None;
        }
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(Arc::new(
                rustls::crypto::aws_lc_rs::default_provider(),
            ))
            .root_certs(RootCerts::new_with_certs(&certificates))
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .https_only(true)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT_LIMIT))
            .user_agent(concat!("evenkeel-node/", env!("CARGO_PKG_VERSION")))
            .build();
        Some(Self { http: config.new_agent(), url: url.trim_end_matches('/').to_owned() })
    }

    pub(super) fn enrol(&self, request: &EnrolRequest) -> Result<Enrolled, Trouble> {
        self.post(ENROL_PATH, None, request).and_then(read)
    }

    /// The next call; `None` when there was none for a while.
    pub(super) fn poll(&self, credential: &Hidden, poll: &Poll) -> Result<Option<Call>, Trouble> {
        let request = self
            .http
            .get(format!("{}{CALLS_PATH}", self.url))
            .query("boot_id", &poll.boot_id)
            .query("version", &poll.version)
            .query("protocol", poll.protocol.to_string())
            .header("authorization", bearer(credential))
            .config()
            .timeout_global(Some(POLL_LIMIT + CALL_LIMIT))
            .build();
        let polled: Polled = check(request.call()).and_then(read)?;
        Ok(polled.call)
    }

    pub(super) fn answer(
        &self,
        credential: &Hidden,
        id: &str,
        end: &CallEnd,
    ) -> Result<(), Trouble> {
        // The id came from the server and is part of a path.
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if !id.bytes().all(plain) {
            return Err(Trouble::Denied(Denied::Words("a call's id is not an id".to_owned())));
        }
        self.post(&format!("{CALLS_PATH}/{id}"), Some(credential), end).map(drop)
    }

    fn post(
        &self,
        path: &str,
        credential: Option<&Hidden>,
        body: &impl Serialize,
    ) -> Result<Response<Body>, Trouble> {
        let json = serde_json::to_vec(body).map_err(Trouble::Malformed)?;
        let mut request = self
            .http
            .post(format!("{}{path}", self.url))
            .header("content-type", "application/json")
            .config()
            .timeout_global(Some(CALL_LIMIT))
            .build();
        if let Some(credential) = credential {
            request = request.header("authorization", bearer(credential));
        }
        check(request.send(&json))
    }
}

fn bearer(credential: &Hidden) -> String {
    format!("Bearer {}", credential.expose())
}

/// Refusals in the server's words.
fn check(answer: Result<Response<Body>, ureq::Error>) -> Result<Response<Body>, Trouble> {
    let answer = answer.map_err(|error| Trouble::Unreachable(Box::new(error)))?;
    match answer.status().as_u16() {
        200..=299 => Ok(answer),
        status @ (400 | 401 | 403 | 404 | 409) => {
            let words = read::<serde_json::Value>(answer).ok();
            let words = words.as_ref().and_then(|body| body["error_msg"].as_str());
            Err(match words {
                // Also the answer to a token, where the words say more.
                Some(words) if status != 401 || words.contains("token") => {
                    Trouble::Denied(Denied::Words(words.chars().take(400).collect()))
                }
                _ if status == 401 => Trouble::Denied(Denied::Credential),
                // A proxy's, perhaps.
                _ => Trouble::Status(status),
            })
        }
        status => Err(Trouble::Status(status)),
    }
}

fn read<T: DeserializeOwned>(mut answer: Response<Body>) -> Result<T, Trouble> {
    let bytes = answer
        .body_mut()
        .with_config()
        .limit(BODY_MAX)
        .read_to_vec()
        .map_err(|error| Trouble::Unreachable(Box::new(error)))?;
    serde_json::from_slice(&bytes).map_err(Trouble::Malformed)
}
