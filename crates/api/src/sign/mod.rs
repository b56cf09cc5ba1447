//! The request signature SDK-HMAC-SHA256: made for the client, checked for the server.
//!
//! Entry points: [`sign`], [`parse_authorization`] (to look the access key up) and [`verify`].
//!
//! The scheme has no nonce and the secret key itself is the MAC key. Hence three rules that hold
//! without exception: the time is signed and checked, the body is hashed here and never taken from
//! a header, and nothing that could be read in two ways is accepted.
//!
//! Deliberately absent: a clock, a key store, a memory of signatures already seen, and every other
//! algorithm. A server has to match query keys without regard to case, because one official client
//! signs them in lower case.

mod canonical;

#[cfg(test)]
mod tests;

use hmac::{Hmac, KeyInit, Mac};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::error::ErrorCode;
pub use canonical::{QueryForm, canonical_query, canonical_uri, check_path, check_query};

/// The only algorithm taken; the default of every official client.
pub const ALGORITHM: &str = "SDK-HMAC-SHA256";

/// How far the clocks of client and server may differ, in seconds (documented: 15 minutes).
pub const MAX_SKEW_SECS: i64 = 900;

/// MAC key for unknown access keys, as long as a real one, so that both cost the same.
pub const DUMMY_SECRET: &[u8] = b"an-access-key-nobody-has-ever-been-given";

const DATE_HEADER: &str = "x-sdk-date";
const BODY_HASH_HEADER: &str = "x-sdk-content-sha256";

/// A request as it stands on the wire. Header values are text; bytes beyond ASCII in them have to
/// be refused before. Path and query are raw, not decoded.
#[derive(Debug, Clone, Copy)]
pub struct RequestParts<'a> {
    pub method: &'a str,
    pub raw_path: &'a str,
    /// Without the `?`; empty if there is none.
    pub raw_query: &'a str,
    pub headers: &'a [(String, String)],
    pub body: &'a [u8],
}

/// What the `Authorization` header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    pub ak: String,
    /// Lower case, in the order of the header.
    pub signed_headers: Vec<String>,
    pub signature: [u8; 32],
}

/// Why a request is refused. The text names the rule, never the signature that would have passed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    #[error("Incorrect IAM authentication information: no Authorization header")]
    Missing,
    #[error("Incorrect IAM authentication information: header {0} is sent more than once")]
    DuplicateHeader(String),
    #[error(
        "Incorrect IAM authentication information: both Authorization and X-Auth-Token are sent"
    )]
    TwoCredentials,
    #[error(
        "Incorrect IAM authentication information: algorithm {0} is not supported, \
         sign with SDK-HMAC-SHA256"
    )]
    Algorithm(String),
    #[error("Incorrect IAM authentication information: the Authorization header is malformed: {0}")]
    Malformed(&'static str),
    #[error("Incorrect IAM authentication information: X-Sdk-Date is missing or not signed")]
    DateNotSigned,
    #[error(
        "Incorrect IAM authentication information: X-Sdk-Date is not of the form YYYYMMDDTHHMMSSZ"
    )]
    DateMalformed,
    #[error(
        "Incorrect app authentication information: X-Sdk-Date differs from the time of the \
         server by {skew_secs} s, at most 900 s are allowed; set the clock of the client"
    )]
    Skew { skew_secs: i64 },
    #[error("Incorrect IAM authentication information: signed header {0} is not in the request")]
    HeaderAbsent(String),
    #[error(
        "Incorrect IAM authentication information: UNSIGNED-PAYLOAD is not accepted, sign the body"
    )]
    UnsignedPayload,
    #[error(
        "Incorrect IAM authentication information: X-Sdk-Content-Sha256 is not the hash of the body"
    )]
    BodyHash,
    #[error("Incorrect IAM authentication information: the path {0}")]
    Path(&'static str),
    #[error("Incorrect IAM authentication information: the query {0}")]
    Query(&'static str),
    #[error("Incorrect IAM authentication information: verify aksk signature fail")]
    Mismatch,
}

impl SignError {
    pub fn code(&self) -> ErrorCode {
        match self {
            SignError::Skew { .. } => ErrorCode::BadTime,
            _ => ErrorCode::BadCredentials,
        }
    }
}

/// Reads `SDK-HMAC-SHA256 Access=..., SignedHeaders=a;b, Signature=<64 hex>`. Strict: these three
/// parts, each once.
pub fn parse_authorization(header: &str) -> Result<Credentials, SignError> {
    let (algorithm, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
    if algorithm != ALGORITHM {
        let name: String = algorithm.chars().filter(char::is_ascii_graphic).take(32).collect();
        return Err(SignError::Algorithm(name));
    }
    let (mut ak, mut names, mut signature) = (None, None, None);
    for part in rest.split(',') {
        let (key, value) =
            part.trim().split_once('=').ok_or(SignError::Malformed("a part has no `=`"))?;
        let slot = match key {
            "Access" => &mut ak,
            "SignedHeaders" => &mut names,
            "Signature" => &mut signature,
            _ => return Err(SignError::Malformed("a part is unknown")),
        };
        if slot.replace(value).is_some() {
            return Err(SignError::Malformed("a part is given twice"));
        }
    }
    let ak = ak.ok_or(SignError::Malformed("Access is missing"))?;
    if ak.is_empty()
        || ak.len() > 128
        || !ak.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    {
        return Err(SignError::Malformed("Access is not an access key id"));
    }
    let names = names.ok_or(SignError::Malformed("SignedHeaders is missing"))?;
    let signature = signature.ok_or(SignError::Malformed("Signature is missing"))?;
    let mut bytes = [0u8; 32];
    hex::decode_to_slice(signature, &mut bytes)
        .map_err(|_| SignError::Malformed("Signature is not 64 hexadecimal digits"))?;
    Ok(Credentials { ak: ak.to_owned(), signed_headers: header_names(names)?, signature: bytes })
}

fn header_names(list: &str) -> Result<Vec<String>, SignError> {
    let names: Vec<String> = list.split(';').map(str::to_owned).collect();
    for (index, name) in names.iter().enumerate() {
        let is_token = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(SignError::Malformed("SignedHeaders is not a list of lower-case names"));
        }
        if names[..index].contains(name) {
            return Err(SignError::Malformed("SignedHeaders names a header twice"));
        }
        if name == "authorization" {
            return Err(SignError::Malformed("SignedHeaders names Authorization itself"));
        }
    }
    Ok(names)
}

/// The credentials of a request: the one `Authorization` header, parsed.
pub fn credentials(parts: &RequestParts<'_>) -> Result<Credentials, SignError> {
    if values(parts.headers, "x-auth-token").next().is_some() {
        return Err(SignError::TwoCredentials);
    }
    let header = single(parts.headers, "authorization")?.ok_or(SignError::Missing)?;
    parse_authorization(header)
}

/// Checks everything: shape, path, query, time (`now_unix_secs`, +-15 min inclusive), body hash and
/// signature. `secret` is the secret key of the access key that the header names.
pub fn verify(
    parts: &RequestParts<'_>,
    secret: &[u8],
    now_unix_secs: i64,
) -> Result<(), SignError> {
    let credentials = credentials(parts)?;
    check_path(parts.raw_path)?;
    check_query(parts.raw_query)?;
    let date = check_date(parts, &credentials, now_unix_secs)?;
    let body_hash = check_body_hash(parts)?;
    // Both forms are always computed, so that the time taken says nothing about the client.
    let mut passed = subtle::Choice::from(0);
    for form in [QueryForm::AsSent, QueryForm::LowerCaseKeys] {
        let text = assemble(parts, &credentials.signed_headers, form, &body_hash)?;
        passed |= mac(secret, date, &text).as_slice().ct_eq(&credentials.signature);
    }
    if bool::from(passed) { Ok(()) } else { Err(SignError::Mismatch) }
}

/// The answer for an access key that nobody has: the same work and the same words as for a wrong
/// signature.
pub fn refuse_unknown_key(parts: &RequestParts<'_>, now_unix_secs: i64) -> SignError {
    match verify(parts, DUMMY_SECRET, now_unix_secs) {
        Ok(()) => SignError::Mismatch,
        Err(error) => error,
    }
}

/// The canonical request over `signed_headers` (lower case, in this order). The payload hash is
/// the one of the real body.
pub fn canonical_request(
    parts: &RequestParts<'_>,
    signed_headers: &[String],
    form: QueryForm,
) -> Result<String, SignError> {
    assemble(parts, signed_headers, form, &hex::encode(Sha256::digest(parts.body)))
}

/// The value of the `Authorization` header for a request that already carries `X-Sdk-Date` and all
/// other headers to be signed. Signs every header given, except `Authorization` and names with `_`,
/// which proxies drop.
pub fn sign(parts: &RequestParts<'_>, ak: &str, secret: &[u8]) -> Result<String, SignError> {
    let date = single(parts.headers, DATE_HEADER)?.ok_or(SignError::DateNotSigned)?;
    let mut names: Vec<String> = parts
        .headers
        .iter()
        .map(|(name, _)| name.to_ascii_lowercase())
        .filter(|name| name != "authorization" && !name.contains('_'))
        .collect();
    names.sort();
    let text = canonical_request(parts, &names, QueryForm::AsSent)?;
    let signature = hex::encode(mac(secret, date, &text));
    let names = names.join(";");
    Ok(format!("{ALGORITHM} Access={ak}, SignedHeaders={names}, Signature={signature}"))
}

/// `YYYYMMDDTHHMMSSZ` of a moment in seconds since 1970, for the `X-Sdk-Date` header.
pub fn date_header(unix_secs: i64) -> String {
    let time = jiff::Timestamp::from_second(unix_secs).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime("%Y%m%dT%H%M%SZ").to_string()
}

fn assemble(
    parts: &RequestParts<'_>,
    signed_headers: &[String],
    form: QueryForm,
    body_hash: &str,
) -> Result<String, SignError> {
    let mut headers = String::new();
    for name in signed_headers {
        let value = single(parts.headers, name)?;
        let value = value.ok_or_else(|| SignError::HeaderAbsent(name.clone()))?;
        headers.push_str(&format!("{name}:{}\n", value.trim()));
    }
    Ok(format!(
        "{}\n{}\n{}\n{headers}\n{}\n{body_hash}",
        parts.method,
        canonical_uri(parts.raw_path)?,
        canonical_query(parts.raw_query, form)?,
        signed_headers.join(";"),
    ))
}

fn mac(secret: &[u8], date: &str, canonical_request: &str) -> [u8; 32] {
    let hash = hex::encode(Sha256::digest(canonical_request.as_bytes()));
    let mut mac = match <Hmac<Sha256> as KeyInit>::new_from_slice(secret) {
        Ok(mac) => mac,
        Err(_) => unreachable!("HMAC takes keys of any length"),
    };
    mac.update(format!("{ALGORITHM}\n{date}\n{hash}").as_bytes());
    mac.finalize().into_bytes().into()
}

fn check_date<'a>(
    parts: &RequestParts<'a>,
    credentials: &Credentials,
    now_unix_secs: i64,
) -> Result<&'a str, SignError> {
    let date = single(parts.headers, DATE_HEADER)?.ok_or(SignError::DateNotSigned)?;
    if !credentials.signed_headers.iter().any(|name| name == DATE_HEADER) {
        return Err(SignError::DateNotSigned);
    }
    let seconds = parse_date(date).ok_or(SignError::DateMalformed)?;
    let skew_secs = now_unix_secs.saturating_sub(seconds);
    if skew_secs.saturating_abs() > MAX_SKEW_SECS {
        return Err(SignError::Skew { skew_secs });
    }
    Ok(date)
}

fn parse_date(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if bytes.len() != 16 || bytes[8] != b'T' || bytes[15] != b'Z' {
        return None;
    }
    let number = |from: usize, to: usize| -> Option<i16> {
        let digits = text.get(from..to)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let small = |from: usize| i8::try_from(number(from, from + 2)?).ok();
    let (year, month, day) = (number(0, 4)?, small(4)?, small(6)?);
    let (hour, minute, second) = (small(9)?, small(11)?, small(13)?);
    let time = DateTime::new(year, month, day, hour, minute, second, 0).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second())
}

/// The hash of the real body. A hash that the client states has to be the same.
fn check_body_hash(parts: &RequestParts<'_>) -> Result<String, SignError> {
    let real = hex::encode(Sha256::digest(parts.body));
    match single(parts.headers, BODY_HASH_HEADER)?.map(str::trim) {
        Some("UNSIGNED-PAYLOAD") => Err(SignError::UnsignedPayload),
        Some(stated) if stated != real => Err(SignError::BodyHash),
        _ => Ok(real),
    }
}

fn values<'a>(headers: &'a [(String, String)], name: &'a str) -> impl Iterator<Item = &'a str> {
    let matching = headers.iter().filter(move |(key, _)| key.eq_ignore_ascii_case(name));
    matching.map(|(_, value)| value.as_str())
}

fn single<'a>(
    headers: &'a [(String, String)],
    name: &'a str,
) -> Result<Option<&'a str>, SignError> {
    let mut found = values(headers, name);
    let first = found.next();
    if found.next().is_some() {
        return Err(SignError::DuplicateHeader(name.to_owned()));
    }
    Ok(first)
}
