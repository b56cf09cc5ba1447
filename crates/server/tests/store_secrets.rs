//! Sealed secrets: what opens, and everything that must not.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use evenkeel_server::secrets::{KeyFile, Sealed, SecretContext, SecretError};
use tempfile::TempDir;

const SECRET: &[u8] = b"canary-7f3a";

fn place() -> SecretContext<'static> {
    SecretContext { project: "p1", kind: "cluster", id: "c1", field: "kubeconfig", version: 3 }
}

fn paths(dir: &TempDir) -> (PathBuf, PathBuf) {
    (dir.path().join("keys/evenkeel.key"), dir.path().join("data"))
}

fn key_file(dir: &TempDir) -> KeyFile {
    let (path, data) = paths(dir);
    KeyFile::open(&path, &data, true).unwrap()
}

#[test]
fn a_sealed_secret_opens_after_a_restart_and_shows_nothing() {
    let dir = TempDir::new().unwrap();
    let keys = key_file(&dir);
    let sealed = keys.seal(&place(), SECRET).unwrap();
    let stored = serde_json::to_string(&sealed).unwrap();
    assert!(!stored.contains("canary"));
    let (path, data) = paths(&dir);
    let again = KeyFile::open(&path, &data, false).unwrap();
    let sealed: Sealed = serde_json::from_str(&stored).unwrap();
    assert_eq!(&again.unseal(&place(), &sealed).unwrap()[..], SECRET);

    let key = fs::read_to_string(&path).unwrap();
    let key = key.split_whitespace().nth(1).unwrap();
    for shown in [format!("{sealed:?}"), format!("{again:?}")] {
        assert!(!shown.contains(key) && !shown.contains("canary"), "{shown}");
    }
    assert_ne!(keys.seal(&place(), SECRET).unwrap(), sealed, "every record has its own key");
}

#[test]
fn a_moved_secret_does_not_open() {
    let dir = TempDir::new().unwrap();
    let keys = key_file(&dir);
    let sealed = keys.seal(&place(), SECRET).unwrap();
    let elsewhere = [
        SecretContext { project: "p2", ..place() },
        SecretContext { kind: "pool", ..place() },
        SecretContext { id: "c2", ..place() },
        SecretContext { field: "token", ..place() },
        SecretContext { version: 2, ..place() },
        // The same letters, cut elsewhere.
        SecretContext { project: "p1c", kind: "luster", ..place() },
    ];
    for ctx in elsewhere {
        let error = keys.unseal(&ctx, &sealed).unwrap_err();
        assert!(matches!(error, SecretError::Refused { .. }), "{ctx:?}: {error}");
        assert!(matches!(keys.rewrap(&ctx, &sealed), Err(SecretError::Refused { .. })));
    }
}

#[test]
fn a_changed_secret_does_not_open() {
    let dir = TempDir::new().unwrap();
    let keys = key_file(&dir);
    let sealed = serde_json::to_value(keys.seal(&place(), SECRET).unwrap()).unwrap();
    for field in ["dek", "data"] {
        let text = sealed[field].as_str().unwrap();
        for at in 0..text.len() {
            let mut changed = text.as_bytes().to_vec();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let mut value = sealed.clone();
            value[field] = String::from_utf8(changed).unwrap().into();
            if let Ok(sealed) = serde_json::from_value::<Sealed>(value) {
                assert!(keys.unseal(&place(), &sealed).is_err(), "{field} changed at {at}");
            }
        }
        let mut value = sealed.clone();
        value[field] = "AAAA".into();
        let short: Sealed = serde_json::from_value(value).unwrap();
        assert!(matches!(keys.unseal(&place(), &short), Err(SecretError::Refused { .. })));
    }
}

#[test]
fn another_key_does_not_open_and_is_named() {
    let (dir, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let keys = key_file(&dir);
    let sealed = keys.seal(&place(), SECRET).unwrap();
    let error = key_file(&other).unseal(&place(), &sealed).unwrap_err();
    assert!(matches!(error, SecretError::UnknownKey { .. }));
    assert!(error.to_string().contains(keys.key_id()), "{error}");
}

#[test]
fn rotation_wraps_again_and_retires_the_old_key() {
    let dir = TempDir::new().unwrap();
    let mut keys = key_file(&dir);
    let old = keys.seal(&place(), SECRET).unwrap();
    keys.rotate().unwrap();
    assert_eq!(&keys.unseal(&place(), &old).unwrap()[..], SECRET);
    let new = keys.rewrap(&place(), &old).unwrap();
    keys.retire().unwrap();
    let (path, data) = paths(&dir);
    let again = KeyFile::open(&path, &data, false).unwrap();
    assert_eq!(&again.unseal(&place(), &new).unwrap()[..], SECRET);
    assert!(matches!(again.unseal(&place(), &old), Err(SecretError::UnknownKey { .. })));
}

#[test]
fn a_key_file_is_private_outside_the_data_and_never_replaced() {
    let dir = TempDir::new().unwrap();
    let (path, data) = paths(&dir);
    fs::create_dir_all(&data).unwrap();
    let missing = KeyFile::open(&path, &data, false).unwrap_err();
    assert!(matches!(missing, SecretError::Missing { .. }) && !path.exists());
    key_file(&dir);
    let mode = |path: &PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    let before = fs::read(&path).unwrap();
    key_file(&dir);
    assert_eq!(fs::read(&path).unwrap(), before);

    let inside = KeyFile::open(&data.join("k"), &data, true).unwrap_err();
    assert!(matches!(inside, SecretError::InsideDataDir { .. }), "{inside}");
    std::os::unix::fs::symlink(&data, dir.path().join("link")).unwrap();
    let linked = KeyFile::open(&dir.path().join("link/k"), &data, true).unwrap_err();
    assert!(matches!(linked, SecretError::InsideDataDir { .. }), "{linked}");

    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let open = KeyFile::open(&path, &data, true).unwrap_err();
    assert!(open.to_string().contains("chmod 600"), "{open}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, "evenkeel-key-v1 AAAA\n").unwrap();
    let broken = KeyFile::open(&path, &data, true).unwrap_err();
    assert!(matches!(broken, SecretError::Malformed { line: 1, .. }), "{broken}");
}
