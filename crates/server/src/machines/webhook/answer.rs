//! What a service's answer means. Bodies and headers are not trusted: sizes are bounded, a poll URL stays at the
//! service's own origin, and text for people is made plain.

use super::journal::End;
use reqwest::header::{LOCATION, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};
use serde_json::Value;
use std::error::Error as _;
use std::time::Duration;

/// Largest answer that is read: as much as is kept of a script's output.
const ANSWER_MAX: usize = 1024 * 1024;
/// Characters of an answer that go into a reason.
const SHOWN: usize = 200;

/// One answer, or none.
pub(super) enum Said {
    /// It is over.
    Ended(End),
    /// Ask again, perhaps elsewhere.
    Running { poll: Option<String>, retry_after: Option<Duration> },
    /// Nothing is known: ask again.
    Trouble { what: String, retry_after: Option<Duration> },
}

pub(super) fn trouble(place: &str, error: reqwest::Error) -> Said {
    // The URL may hold a token.
    let error = error.without_url();
    let mut what = format!("{place} cannot be reached: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        what.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    Said::Trouble { what, retry_after: None }
}

fn failed(reason: String, output: String, document: Option<Value>) -> Said {
    Said::Ended(End { failed: Some(reason), output, document })
}

/// The limit has passed.
pub(super) fn late(place: &str, limit_s: u32, last: &str) -> End {
    let mut reason =
        format!("time limit of {limit_s} s passed, and {place} has not said that it ended");
    if !last.is_empty() {
        reason.push_str(&format!("; last: {last}"));
    }
    End { failed: Some(reason), output: String::new(), document: None }
}

/// Reads an answer of the service at `url`; `polls`: it was asked for how far it is.
pub(super) async fn read(mut response: Response, url: &Url, place: &str, polls: bool) -> Said {
    let status = response.status();
    let header = |name| response.headers().get(name)?.to_str().ok().map(str::to_owned);
    let location = header(LOCATION);
    let retry_after =
        header(RETRY_AFTER).and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() <= ANSWER_MAX => body.extend(chunk),
            Ok(Some(_)) => {
                let reason = format!("{place} answered with more than {ANSWER_MAX} bytes");
                return failed(reason, String::new(), None);
            }
            Ok(None) => break,
            Err(error) => return trouble(place, error),
        }
    }
    judge(&Heard { status, location, retry_after, body, url, place, polls })
}

/// An answer that arrived whole.
struct Heard<'a> {
    status: StatusCode,
    location: Option<String>,
    retry_after: Option<Duration>,
    body: Vec<u8>,
    url: &'a Url,
    place: &'a str,
    polls: bool,
}

fn judge(heard: &Heard<'_>) -> Said {
    let (place, status) = (heard.place, heard.status);
    let text = String::from_utf8_lossy(&heard.body).into_owned();
    let document: Option<Value> = serde_json::from_slice(&heard.body).ok().filter(Value::is_object);
    let field = |name: &str| {
        let text = document.as_ref().and_then(|d| d.get(name)).and_then(Value::as_str);
        text.map(str::to_owned)
    };
    let output =
        if document.is_some() { field("output").unwrap_or_default() } else { text.clone() };
    let state = field("state");
    match status.as_u16() {
        200..=299 => {}
        408 | 425 | 429 | 500..=599 => {
            let what = format!("{place} answered HTTP {}{}", status.as_u16(), excerpt(&text));
            return Said::Trouble { what, retry_after: heard.retry_after };
        }
        404 | 410 if heard.polls => {
            let reason = format!(
                "{place} does not know its own poll URL any more (HTTP {}); what it did is unknown, \
                 and it is not asked to do it again in this attempt",
                status.as_u16()
            );
            return failed(reason, output, document);
        }
        300..=399 => {
            let reason = format!(
                "{place} answered HTTP {}, and redirects are not followed",
                status.as_u16()
            );
            return failed(reason, output, document);
        }
        _ => {
            let reason = format!("{place} answered HTTP {}{}", status.as_u16(), excerpt(&text));
            return failed(reason, output, document);
        }
    }
    let is_running = state.as_deref() == Some("running");
    if status == StatusCode::ACCEPTED && state.is_none() || is_running {
        return match poll_url(heard, field("poll")) {
            Ok(poll) => Said::Running { poll, retry_after: heard.retry_after },
            Err(reason) => failed(reason, output, document),
        };
    }
    match state.as_deref() {
        None | Some("succeeded") => Said::Ended(End { failed: None, output, document }),
        Some("failed") => {
            let reason = field("reason").unwrap_or_default();
            let reason = format!("{place} failed{}", excerpt(&reason));
            failed(reason, output, document)
        }
        Some(other) => {
            let reason = format!(
                "{place} answered with the state{}; running, succeeded and failed are known",
                excerpt(other)
            );
            failed(reason, output, document)
        }
    }
}

/// Where to ask from now on. Only the service's own origin: an answer must not send our signature elsewhere.
fn poll_url(heard: &Heard<'_>, field: Option<String>) -> Result<Option<String>, String> {
    let Some(text) = heard.location.clone().or(field) else {
        return Ok(None);
    };
    match heard.url.join(&text) {
        Ok(poll) if poll.origin() == heard.url.origin() && poll.username().is_empty() => {
            Ok(Some(poll.into()))
        }
        _ => Err(format!(
            "{} names a poll URL that is not at its own scheme, host and port",
            heard.place
        )),
    }
}

/// `: text`, on one line and cut; empty for an empty text.
fn excerpt(text: &str) -> String {
    let plain: String =
        text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN).collect();
    if plain.is_empty() { plain } else { format!(": {plain}") }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn heard(status: u16, location: Option<&str>, body: &str, polls: bool) -> String {
        let url = Url::parse("https://h.example:8443/a?token=canary").unwrap();
        let said = judge(&Heard {
            status: StatusCode::from_u16(status).unwrap(),
            location: location.map(str::to_owned),
            retry_after: None,
            body: body.as_bytes().to_vec(),
            url: &url,
            place: "webhook h",
            polls,
        });
        match said {
            Said::Ended(End { failed: None, output, .. }) => format!("done {output}"),
            Said::Ended(End { failed: Some(reason), .. }) => format!("failed {reason}"),
            Said::Running { poll, .. } => format!("running {}", poll.unwrap_or_default()),
            Said::Trouble { what, .. } => format!("trouble {what}"),
        }
    }

    #[test]
    fn every_answer_has_one_meaning() {
        for (status, location, body, polls, expected) in [
            (200, None, "", false, "done "),
            (200, None, "plain text", false, "done plain text"),
            (204, None, "", true, "done "),
            (200, None, r#"{"output":"o"}"#, false, "done o"),
            (200, None, r#"{"state":"succeeded"}"#, false, "done "),
            (200, None, r#"{"state":"running"}"#, false, "running "),
            (
                200,
                None,
                r#"{"state":"failed","reason":"no\ndisk"}"#,
                false,
                "failed webhook h failed: no disk",
            ),
            (
                200,
                None,
                r#"{"state":"odd"}"#,
                false,
                "failed webhook h answered with the state: odd",
            ),
            (202, None, "", false, "running "),
            (202, Some("/b"), "", false, "running https://h.example:8443/b"),
            (202, None, r#"{"poll":"c"}"#, false, "running https://h.example:8443/c"),
            (202, Some("https://other/b"), "", false, "failed webhook h names a poll URL"),
            (202, Some("http://h.example:8443/b"), "", false, "failed webhook h names a poll URL"),
            (301, Some("/b"), "", false, "failed webhook h answered HTTP 301, and redirects"),
            (400, None, "bad node", false, "failed webhook h answered HTTP 400: bad node"),
            (404, None, "", false, "failed webhook h answered HTTP 404"),
            (404, None, "", true, "failed webhook h does not know its own poll URL"),
            (429, None, "", false, "trouble webhook h answered HTTP 429"),
            (503, None, "later", true, "trouble webhook h answered HTTP 503: later"),
        ] {
            let said = heard(status, location, body, polls);
            assert!(said.starts_with(expected), "{status} {body}: {said}");
            assert!(!said.contains("canary"), "{said}");
        }
    }
}
