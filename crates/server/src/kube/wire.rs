//! One request and its answer, and what an answer means: status, `Retry-After` and the Status body are read
//! here, under our own time limit, and become a [`Fault`] that names verb, resource and object.

use super::connect::RefusedAddress;
use crate::sync::ports::Fault;
use ::kube::client::{AuthError, Body};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;
use tokio::time::timeout;

/// Largest answer that is read. A page has 500 objects of at most 1.5 MiB (etcd's limit); real pages are below 20 MiB.
const MAX_ANSWER: usize = 256 * 1024 * 1024;
/// Longest sentence of the server that is passed on, in characters.
const MAX_SENTENCE: usize = 1024;

/// What is asked for, in words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    /// The RBAC verb.
    pub verb: &'static str,
    /// The RBAC resource.
    pub resource: &'static str,
    /// The object; empty for collections.
    pub name: &'a str,
}

impl fmt::Display for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if self.name.is_empty() { Ok(()) } else { write!(f, " {}", self.name) }
    }
}

/// An answer, whatever its status.
pub(super) struct Answer {
    pub status: StatusCode,
    /// `Retry-After` in seconds.
    pub retry_after_s: Option<u32>,
    pub body: Bytes,
}

/// A `Status` object, as far as it matters.
#[derive(Deserialize, Default, Debug)]
#[serde(default)]
pub(super) struct Status {
    pub kind: String,
    pub message: String,
    pub reason: String,
    pub code: u16,
    pub details: Option<Details>,
}

#[derive(Deserialize, Default, Debug)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Details {
    pub kind: String,
    pub name: String,
    pub causes: Option<Vec<Cause>>,
    pub retry_after_seconds: Option<u32>,
}

#[derive(Deserialize, Default, Debug)]
#[serde(default)]
pub(super) struct Cause {
    pub reason: String,
    pub message: String,
    pub field: String,
}

impl Status {
    pub fn causes(&self) -> &[Cause] {
        self.details.as_ref().and_then(|d| d.causes.as_deref()).unwrap_or_default()
    }

    /// Whether this says that the object of the call is not there, and not that its path or its namespace is unknown.
    pub fn says_gone(&self, call: &Call<'_>) -> bool {
        let kind = call.resource.split('/').next().unwrap_or_default();
        let name = call.name.rsplit('/').next().unwrap_or_default();
        let about = |d: &Details| d.kind == kind && d.name == name;
        self.reason == "NotFound" && !name.is_empty() && self.details.as_ref().is_some_and(about)
    }

    /// The message and what its causes add to it, bounded.
    pub fn sentence(&self) -> String {
        let mut all = self.message.clone();
        for cause in self.causes() {
            if !cause.message.is_empty() && !all.contains(&cause.message) {
                all.push(' ');
                all.push_str(&cause.message);
            }
        }
        all.chars().take(MAX_SENTENCE).collect()
    }
}

impl Answer {
    /// The Status object, if the answer is one.
    pub fn api_status(&self) -> Option<Status> {
        serde_json::from_slice::<Status>(&self.body).ok().filter(|s| s.kind == "Status")
    }

    /// Decodes a good answer, or says what a bad one means.
    pub fn decode<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<T, Fault> {
        if !self.status.is_success() {
            return Err(self.fault(call));
        }
        // The parser's error is passed on: it names a line and a type, never the object's content.
        serde_json::from_slice(&self.body).map_err(|e| Fault::Transient {
            what: format!("{call}: the answer cannot be read"),
            source: Some(Box::new(e)),
        })
    }

    /// A good answer whose content does not matter, or what a bad one means.
    pub fn done(&self, call: &Call<'_>) -> Result<(), Fault> {
        if self.status.is_success() { Ok(()) } else { Err(self.fault(call)) }
    }

    /// What an answer that is not 2xx means.
    pub fn fault(&self, call: &Call<'_>) -> Fault {
        let code = self.status.as_u16();
        let status = self.api_status();
        let said = match &status {
            Some(s) if !s.message.is_empty() => format!(": {}", s.sentence()),
            _ => String::new(),
        };
        match code {
            401 => Fault::permanent(format!(
                "{call}: the API server does not accept our credential (401); it may have expired or been \
                 withdrawn: register the cluster again with a valid one"
            )),
            403 => Fault::permanent(format!(
                "not allowed to {} {} (403); apply deploy/rbac.yaml to the cluster{said}",
                call.verb, call.resource
            )),
            404 if status.as_ref().is_some_and(|s| s.says_gone(call)) => {
                Fault::Gone { what: format!("{call}: not found{said}") }
            }
            // Anything that stands in between may say 404, and so does the API server to a path that it does not serve:
            // only a Status about this very object says that it is gone.
            404 => Fault::transient(format!(
                "{call}: 404, but not from a Kubernetes API server about this object{said}"
            )),
            409 => Fault::Conflict { what: format!("{call}{said}") },
            422 if names_uid(status.as_ref()) => {
                Fault::Conflict { what: format!("{call}: another object has this name now{said}") }
            }
            429 => Fault::Busy { what: format!("{call}: the API server answered {code}{said}") },
            408 | 410 | 500..=599 => {
                Fault::transient(format!("{call}: the API server answered {code}{said}"))
            }
            _ => Fault::permanent(format!("{call}: the API server answered {code}{said}")),
        }
    }
}

/// A patch that carries a foreign `metadata.uid` is invalid: the field is immutable.
fn names_uid(status: Option<&Status>) -> bool {
    status.is_some_and(|s| s.causes().iter().any(|c| c.field == "metadata.uid"))
}

/// Sends requests.
#[derive(Clone)]
pub(super) struct Wire {
    client: ::kube::Client,
    server: String,
    limit: Duration,
}

impl Wire {
    pub fn new(client: ::kube::Client, server: String, limit: Duration) -> Self {
        Self { client, server, limit }
    }

    pub fn server(&self) -> &str {
        &self.server
    }

    /// Sends a request and reads the whole answer.
    pub async fn send(&self, call: &Call<'_>, request: Request<Vec<u8>>) -> Result<Answer, Fault> {
        let exchange = async {
            let response = self.begin(call, request).await?;
            read(call, response).await
        };
        timeout(self.limit, exchange).await.unwrap_or_else(|_| Err(self.late(call)))
    }

    /// Sends a request; the answer's body is still to come.
    pub async fn open(
        &self,
        call: &Call<'_>,
        request: Request<Vec<u8>>,
    ) -> Result<Response<Body>, Fault> {
        let response = timeout(self.limit, self.begin(call, request))
            .await
            .unwrap_or_else(|_| Err(self.late(call)))?;
        Ok(response)
    }

    /// Reads the rest of an answer that turned out to be none we can stream.
    pub async fn finish(&self, call: &Call<'_>, response: Response<Body>) -> Result<Answer, Fault> {
        timeout(self.limit, read(call, response)).await.unwrap_or_else(|_| Err(self.late(call)))
    }

    async fn begin(
        &self,
        call: &Call<'_>,
        request: Request<Vec<u8>>,
    ) -> Result<Response<Body>, Fault> {
        self.client.send(request.map(Body::from)).await.map_err(|e| self.failed(call, e))
    }

    fn late(&self, call: &Call<'_>) -> Fault {
        Fault::transient(format!(
            "{call}: {} gave no answer within {} s",
            self.server,
            self.limit.as_secs_f32()
        ))
    }

    fn failed(&self, call: &Call<'_>, error: ::kube::Error) -> Fault {
        let hint = chain(&error).find_map(unusable);
        match hint {
            Some(hint) => Fault::Permanent {
                what: format!("{call}: {}: {hint}", self.server),
                source: Some(Box::new(error)),
            },
            None => Fault::Transient {
                what: format!("{call}: {} cannot be reached or broke off", self.server),
                source: Some(Box::new(error)),
            },
        }
    }
}

async fn read(call: &Call<'_>, response: Response<Body>) -> Result<Answer, Fault> {
    let (head, body) = response.into_parts();
    let retry_after_s = head
        .headers
        .get(http::header::RETRY_AFTER)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.trim().parse().ok());
    let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|e| Fault::Transient {
        what: format!("{call}: the answer broke off"),
        source: Some(e),
    })?;
    Ok(Answer { status: head.status, retry_after_s, body: body.to_bytes() })
}

/// A cause that no retry removes, with the way out.
fn unusable(error: &(dyn StdError + 'static)) -> Option<&'static str> {
    if error.is::<RefusedAddress>() {
        return Some("its name resolves to an address that is not accepted");
    }
    if error.is::<AuthError>() {
        return Some("the credential in the kubeconfig cannot be used");
    }
    match error.downcast_ref::<rustls::Error>() {
        Some(rustls::Error::InvalidCertificate(_)) => Some(
            "its certificate is not the one that the kubeconfig leads us to expect; \
             check certificate-authority-data and the server's name",
        ),
        _ => None,
    }
}

/// The chain of causes, also through `io::Error`, which hides the one it carries.
fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |e| {
        let e: &'a (dyn StdError + 'static) = *e;
        match e.downcast_ref::<std::io::Error>() {
            Some(io) => io.get_ref().map(|inner| inner as &(dyn StdError + 'static)),
            None => e.source(),
        }
    })
}

/// A request that cannot be built is a defect of its arguments.
pub(super) fn built(
    call: &Call<'_>,
    request: Result<Request<Vec<u8>>, impl StdError + Send + Sync + 'static>,
) -> Result<Request<Vec<u8>>, Fault> {
    request.map_err(|e| Fault::Permanent {
        what: format!("{call}: no request can be built"),
        source: Some(Box::new(e)),
    })
}

/// Checks that a name can stand in a path. Every name that an API server hands out can.
pub(super) fn segment<'a>(call: &Call<'_>, name: &'a str) -> Result<&'a str, Fault> {
    let fine = !name.is_empty()
        && name.len() <= 253
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':'));
    if fine {
        Ok(name)
    } else {
        Err(Fault::permanent(format!(
            "{call}: \"{}\" is not the name of an object",
            name.escape_debug()
        )))
    }
}

#[cfg(test)]
mod tests;
