//! Signed calls.
//!
//! Entry points: [`Client::get`], [`Client::send`]. Every call carries a signature over path, query, body, date and
//! project; redirects are not followed, and nothing is tried again here: the caller knows what may be repeated.

use std::error::Error as StdError;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use evenkeel_api::ErrorBody;
use evenkeel_api::sign::{RequestParts, date_header, sign};
use reqwest::{Method, Url};
use serde_json::Value;

use crate::failure::CliError;
use crate::settings::{Settings, is_loopback};

/// How long a connection may take to come about.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// How long a call may take. The longest one registers a cluster, which looks at an API server on the way.
const CALL_LIMIT: Duration = Duration::from_mins(2);

/// Largest answer that is read. 2,000 nodes, the largest page, are about 2 MiB.
const ANSWER_LIMIT: usize = 64 * 1024 * 1024;

/// One piece of a path, encoded.
fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// A path below the project of the credential.
pub enum Place<'a> {
    /// CCE's own: `/api/v3/projects/{project}/...`.
    Cce(&'a [&'a str]),
    /// Evenkeel's: `/evenkeel/v1/projects/{project}/...`.
    Evenkeel(&'a [&'a str]),
    /// The projects of the credential.
    Projects,
}

impl Place<'_> {
    fn path(&self, project: &str) -> Result<String, CliError> {
        let (root, rest) = match self {
            Place::Cce(rest) => ("/api/v3/projects", *rest),
            Place::Evenkeel(rest) => ("/evenkeel/v1/projects", *rest),
            Place::Projects => return Ok("/v3/projects".to_owned()),
        };
        let mut path = root.to_owned();
        for text in std::iter::once(&project).chain(rest) {
            if !is_id(text) {
                let shown: String = text.chars().take(64).collect();
                return Err(CliError::usage(format!("\"{shown}\" cannot be an id or a name")));
            }
            path.push('/');
            path.push_str(&segment(text));
        }
        Ok(path)
    }
}

/// Whether a text is one segment of a path for everybody who reads it; the signature refuses all others.
fn is_id(text: &str) -> bool {
    let is_odd = |c: char| matches!(c, '/' | '\\' | '%') || c.is_control();
    !matches!(text, "" | "." | "..") && !text.contains(is_odd)
}

/// A connection to a server with an identity.
pub struct Client {
    http: reqwest::Client,
    settings: Settings,
}

impl Client {
    /// Makes the connection ready; sends nothing.
    pub fn new(settings: Settings) -> Result<Self, CliError> {
        // A second installation fails harmlessly: then there is a provider already.
        let _installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_LIMIT)
            .timeout(CALL_LIMIT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("evenkeel/", env!("CARGO_PKG_VERSION")));
        if is_loopback(&settings.endpoint) {
            builder = builder.no_proxy();
        }
        if let Some(path) = &settings.ca_cert {
            let pem = std::fs::read(path).map_err(|error| {
                CliError::local(format!("the CA file {} cannot be read", path.display()), error)
            })?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| {
                CliError::local(format!("{} holds no PEM certificates", path.display()), error)
            })?;
            builder = builder.tls_certs_merge(certificates);
        }
        let http = builder
            .build()
            .map_err(|error| CliError::local("no HTTP client can be made", error))?;
        Ok(Self { http, settings })
    }

    /// Where calls go.
    pub(crate) fn endpoint(&self) -> &str {
        self.settings.endpoint.as_str()
    }

    /// The cluster that the settings name.
    pub(crate) fn default_cluster(&self) -> Option<&str> {
        self.settings.cluster.as_deref()
    }

    /// Reads.
    pub async fn get(&self, place: Place<'_>, query: &[(&str, &str)]) -> Result<Value, CliError> {
        self.call(Method::GET, place, query, None).await
    }

    /// Changes. An empty answer is `null`.
    pub async fn send(
        &self,
        method: Method,
        place: Place<'_>,
        query: &[(&str, &str)],
        body: &Value,
    ) -> Result<Value, CliError> {
        self.call(method, place, query, Some(body.to_string().into_bytes())).await
    }

    async fn call(
        &self,
        method: Method,
        place: Place<'_>,
        query: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Result<Value, CliError> {
        let path = place.path(&self.settings.project)?;
        let pairs: Vec<String> = query
            .iter()
            .map(|(key, value)| format!("{}={}", segment(key), segment(value)))
            .collect();
        let query = pairs.join("&");
        let is_read = method == Method::GET;
        let request = self.signed(method, &path, &query, body)?;
        let response = request.send().await.map_err(|error| {
            let in_doubt = !is_read && !error.is_connect();
            self.unreachable(error, in_doubt)
        })?;
        let status = response.status().as_u16();
        let request_id = response
            .headers()
            .get("x-request-id")
            .and_then(|id| id.to_str().ok())
            .map(str::to_owned);
        let body = self.read(response, !is_read).await?;
        if (200..300).contains(&status) {
            return self.parse(&body);
        }
        Err(match ErrorBody::parse(&body) {
            Some(told) => CliError::Refused {
                status,
                code: told.error_code,
                message: told.error_msg,
                request_id: request_id.or(told.request_id),
            },
            None => {
                let start: String = String::from_utf8_lossy(&body).chars().take(120).collect();
                CliError::Foreign {
                    endpoint: self.endpoint().to_owned(),
                    what: format!("HTTP {status} {start}"),
                }
            }
        })
    }

    fn signed(
        &self,
        method: Method,
        path: &str,
        query: &str,
        body: Option<Vec<u8>>,
    ) -> Result<reqwest::RequestBuilder, CliError> {
        let settings = &self.settings;
        let mut url = settings.endpoint.clone();
        url.set_path(path);
        url.set_query((!query.is_empty()).then_some(query));
        let now =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        let mut headers =
            vec![("host".to_owned(), authority(&url)), ("x-sdk-date".to_owned(), date_header(now))];
        if body.is_some() {
            headers.push(("content-type".to_owned(), "application/json".to_owned()));
        }
        if !settings.project.is_empty() {
            headers.push(("x-project-id".to_owned(), settings.project.clone()));
        }
        let parts = RequestParts {
            method: method.as_str(),
            raw_path: url.path(),
            raw_query: url.query().unwrap_or_default(),
            headers: &headers,
            body: body.as_deref().unwrap_or_default(),
        };
        let authorization = sign(&parts, &settings.ak, settings.sk.expose().as_bytes())
            .map_err(|error| CliError::local("the request cannot be signed", error))?;
        let mut request = self.http.request(method, url).header("authorization", authorization);
        for (name, value) in &headers {
            request = request.header(name, value);
        }
        Ok(match body {
            Some(body) => request.body(body),
            None => request,
        })
    }

    async fn read(
        &self,
        mut response: reqwest::Response,
        in_doubt: bool,
    ) -> Result<Vec<u8>, CliError> {
        let mut body = Vec::new();
        while let Some(chunk) =
            response.chunk().await.map_err(|error| self.unreachable(error, in_doubt))?
        {
            if body.len() + chunk.len() > ANSWER_LIMIT {
                let what = format!("more than {ANSWER_LIMIT} bytes");
                return Err(CliError::Foreign { endpoint: self.endpoint().to_owned(), what });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn parse(&self, body: &[u8]) -> Result<Value, CliError> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Null);
        }
        serde_json::from_slice(body).map_err(|error| CliError::Foreign {
            endpoint: self.endpoint().to_owned(),
            what: format!("the body is not JSON ({error})"),
        })
    }

    /// Where a model does not fit the answer.
    pub(crate) fn foreign(&self, what: impl Into<String>) -> CliError {
        CliError::Foreign { endpoint: self.endpoint().to_owned(), what: what.into() }
    }

    fn unreachable(&self, error: reqwest::Error, in_doubt: bool) -> CliError {
        let source: Box<dyn StdError + Send + Sync> = Box::new(error.without_url());
        CliError::Unreachable { endpoint: self.endpoint().to_owned(), in_doubt, source }
    }
}

/// `Host` as it stands on the wire: without the port that the scheme implies.
fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}
