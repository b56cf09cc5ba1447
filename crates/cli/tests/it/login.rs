//! `login`.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::support::{AK, Files, PROJECT, SK, Server, run};

#[test]
fn the_key_is_proved_then_stored_for_its_owner_alone() {
    let server = Server::start();
    let files = Files::new(&[]);
    let home = files.at("");
    server.on(
        "GET /v3/projects",
        200,
        json!({ "projects": [{ "id": PROJECT, "name": "evenkeel" }] }),
    );
    let args = format!("login --endpoint {} --ak {AK}", server.endpoint);
    let stored = files.path(".config/evenkeel/credentials.toml");
    let outcome = run(&args, &[("HOME", &home)], &format!("{SK}\n"));
    outcome.is(0, "", &format!("project {PROJECT} (evenkeel)\nstored in {}\n", stored.display()));
    assert_eq!(std::fs::metadata(&stored).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(
        std::fs::metadata(stored.parent().unwrap()).unwrap().permissions().mode() & 0o777,
        0o700
    );
    assert_eq!(run("cluster list", &[("HOME", &home)], "").exit, 0);
    // Again, over the old file.
    assert_eq!(run(&args, &[("HOME", &home)], SK).exit, 0);
    assert_eq!(std::fs::read_dir(stored.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn a_wrong_key_is_not_stored() {
    let server = Server::start();
    let files = Files::new(&[]);
    let (home, args) = (files.at(""), format!("login --endpoint {} --ak {AK}", server.endpoint));
    let outcome = run(&args, &[("HOME", &home)], "wrong\n");
    assert_eq!(outcome.exit, 1);
    assert!(outcome.stderr.starts_with("error: APIGW.0301: "), "{}", outcome.stderr);
    let outcome = run(&args, &[("HOME", &home)], "\n");
    assert_eq!(outcome.exit, 2);
    assert!(outcome.stderr.starts_with("error: the secret key is empty\n"), "{}", outcome.stderr);
    assert!(!files.path(".config").exists());
}
