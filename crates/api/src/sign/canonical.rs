//! Canonical path and query of a request, and what is refused in them.
//!
//! Entry points: [`canonical_uri`], [`canonical_query`], [`check_path`], [`check_query`].
//! The checks are also for requests that carry a token instead of a signature.

use std::collections::BTreeMap;

use super::SignError;

/// How the client spells query keys when it signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryForm {
    /// As they stand on the wire: Python, Java, Node, Terraform.
    AsSent,
    /// In lower case: the Go client signs `shownodepool` and sends `showNodePool`.
    LowerCaseKeys,
}

/// Refuses what a router and a signature could read differently: `.` and `..` segments, `//`,
/// backslashes, and encoded `/`, `\`, `%` or control characters; bad escapes; text that is not
/// UTF-8 after decoding.
pub fn check_path(raw_path: &str) -> Result<(), SignError> {
    if !raw_path.starts_with('/') {
        return Err(SignError::Path("does not start with /"));
    }
    if raw_path.contains("//") {
        return Err(SignError::Path("contains //"));
    }
    for segment in raw_path.split('/') {
        let text = decode(segment, false).map_err(SignError::Path)?;
        if text == "." || text == ".." {
            return Err(SignError::Path("contains a . or .. segment"));
        }
        if text.contains(['/', '\\', '%']) || text.chars().any(char::is_control) {
            return Err(SignError::Path("contains an encoded /, \\, % or control character"));
        }
        if segment.contains(['?', '#']) {
            return Err(SignError::Path("contains ? or #"));
        }
    }
    Ok(())
}

/// Refuses bad escapes, control characters, and two keys that differ only in case. The same key
/// in the same case may repeat: that is how a list is sent.
pub fn check_query(raw_query: &str) -> Result<(), SignError> {
    let mut spelling: BTreeMap<String, String> = BTreeMap::new();
    for (key, value) in pairs(raw_query)? {
        if key.chars().chain(value.chars()).any(char::is_control) {
            return Err(SignError::Query("contains a control character"));
        }
        let first = spelling.entry(key.to_lowercase()).or_insert_with(|| key.clone());
        if *first != key {
            return Err(SignError::Query("has two keys that differ only in case"));
        }
    }
    Ok(())
}

/// Every segment decoded and encoded again, with a `/` at the end.
pub fn canonical_uri(raw_path: &str) -> Result<String, SignError> {
    let segments: Result<Vec<String>, SignError> = raw_path
        .split('/')
        .map(|segment| decode(segment, false).map(|text| encode(&text)).map_err(SignError::Path))
        .collect();
    let mut uri = segments?.join("/");
    if !uri.ends_with('/') {
        uri.push('/');
    }
    Ok(uri)
}

/// Pairs decoded, sorted by key and value, encoded again. `+` means a space, as in a form.
pub fn canonical_query(raw_query: &str, form: QueryForm) -> Result<String, SignError> {
    let mut all = pairs(raw_query)?;
    if form == QueryForm::LowerCaseKeys {
        for (key, _) in &mut all {
            *key = key.to_lowercase();
        }
    }
    all.sort();
    let encoded: Vec<String> =
        all.iter().map(|(key, value)| format!("{}={}", encode(key), encode(value))).collect();
    Ok(encoded.join("&"))
}

fn pairs(raw_query: &str) -> Result<Vec<(String, String)>, SignError> {
    raw_query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let key = decode(key, true).map_err(SignError::Query)?;
            Ok((key, decode(value, true).map_err(SignError::Query)?))
        })
        .collect()
}

fn decode(text: &str, plus_is_space: bool) -> Result<String, &'static str> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digit = |byte: Option<u8>| byte.and_then(|b| char::from(b).to_digit(16));
                match (digit(rest.next()), digit(rest.next())) {
                    (Some(high), Some(low)) => bytes.push((high * 16 + low) as u8),
                    _ => return Err("contains a malformed % escape"),
                }
            }
            b'+' if plus_is_space => bytes.push(b' '),
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8")
}

/// RFC 3986: everything but letters, digits and `-_.~` as `%XX`, upper case.
fn encode(text: &str) -> String {
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
