//! `POST` and `GET /evenkeel/v1/projects/{project}/keypairs`: public keys under a name, for `login.sshKey`.

use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use evenkeel_api::json::{At, parse_request};
use evenkeel_api::{ErrorCode, Violation};
use serde_json::{Value, json};
use ssh_key::{HashAlg, PublicKey};

use crate::http::auth::Call;
use crate::http::error::ApiError;
use crate::http::{ApiState, load};
use crate::records::{self, KeypairRecord, keys};
use crate::store::Txn;

/// Longest name (documented), and most keys under one name.
const NAME_LIMIT: usize = 64;
const KEYS_LIMIT: usize = 16;

/// Imports public keys: body `{"name": ..., "publicKeys": ["ssh-ed25519 ..."]}`.
pub(in crate::http) async fn import(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let record = read(&body)?;
    let key = keys::keypair(call.project(), &record.name);
    let txn = Txn::new().when_absent(&key).put(&key, records::encode(&record));
    if !state.store.txn(txn).await?.succeeded {
        let old = load::find::<KeypairRecord>(&*state.store, key).await?;
        if old.is_some_and(|old| old.record.public_keys != record.public_keys) {
            // Pools name it: other keys under the same name would change their nodes without a new revision.
            let text = format!(
                "name: a key pair {} with other keys exists already; choose another name",
                record.name
            );
            return Err(ApiError::refused(ErrorCode::AlreadyExists, text));
        }
    }
    load::json(StatusCode::CREATED, &shown(&record))
}

/// All key pairs by name.
pub(in crate::http) async fn list(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
) -> Result<Response, ApiError> {
    let all = load::list::<KeypairRecord>(&*state.store, &keys::keypairs(call.project())).await?;
    let items: Vec<Value> = all.iter().map(|stored| shown(&stored.record)).collect();
    load::json(StatusCode::OK, &json!({ "keypairs": items }))
}

fn shown(record: &KeypairRecord) -> Value {
    let prints: Vec<String> = record
        .public_keys
        .iter()
        .filter_map(|line| PublicKey::from_openssh(line).ok())
        .map(|key| key.fingerprint(HashAlg::Sha256).to_string())
        .collect();
    json!({ "name": record.name, "publicKeys": record.public_keys, "fingerprints": prints })
}

/// One line of a `.pub` file. The parser takes whatever follows the key as its comment, a second line too; that
/// would be another key in somebody's `authorized_keys`.
pub(super) fn public_key_line(text: &str) -> Option<(&str, PublicKey)> {
    let line = text.trim();
    if line.chars().any(char::is_control) {
        return None;
    }
    Some((line, PublicKey::from_openssh(line).ok()?))
}

fn read(body: &[u8]) -> Result<KeypairRecord, ApiError> {
    let request = parse_request(body).map_err(ApiError::Invalid)?;
    let root = At::root(&request);
    let mut found = Vec::new();
    let name =
        root.get("name").and_then(|at| {
            let name = at.string(&mut found)?;
            let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            if name.is_empty() || name.len() > NAME_LIMIT || !name.bytes().all(plain) {
                found.push(at.violation(
                    "is not the name of a key pair (letters, digits, - and _, at most 64)",
                ));
            }
            Some(name.to_owned())
        });
    if name.is_none() && found.is_empty() {
        found.push(Violation::new("name", "is mandatory"));
    }
    let mut public_keys = Vec::new();
    let items = root.get("publicKeys").and_then(|at| at.items(&mut found)).unwrap_or_default();
    if items.is_empty() || items.len() > KEYS_LIMIT {
        let violation =
            Violation::new("publicKeys", format!("is not a list of 1 to {KEYS_LIMIT} keys"));
        found.push(violation.with_way_out("send the lines of the .pub file"));
    }
    for at in items {
        match at.value.as_str().and_then(public_key_line) {
            Some((line, _)) => public_keys.push(line.to_owned()),
            // Not quoted: a private key may have been sent by mistake.
            None => {
                let violation = Violation::new(at.path, "is not an OpenSSH public key line");
                found.push(
                    violation.with_way_out("send a line of the .pub file, never the private key"),
                );
            }
        }
    }
    match name {
        Some(name) if found.is_empty() => Ok(KeypairRecord { name, public_keys }),
        _ => Err(ApiError::Invalid(found)),
    }
}
