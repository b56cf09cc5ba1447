//! Settings, refusals and exit states that all commands share.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::support::{AK, Files, PROJECT, SK, Server, cce, refusal, run};

#[test]
fn without_settings_the_way_out_is_named() {
    run("cluster list", &[], "").is(
        2,
        "",
        "error: the access key is missing\n\nhint: run `evenkeel login`, or set EVENKEEL_AK and EVENKEEL_SK\n",
    );
    run("cluster list", &[("EVENKEEL_AK", "a")], "").is(
        2,
        "",
        "error: EVENKEEL_AK is set and EVENKEEL_SK is not; they are a pair\n\nhint: set EVENKEEL_SK too\n",
    );
}

#[test]
fn the_environment_wins_over_the_file_and_keys_stay_a_pair() {
    let server = Server::start();
    let text = format!(
        "endpoint = \"{}\"\nak = \"{AK}\"\nsk = \"{SK}\"\nproject_id = \"{PROJECT}\"\n",
        server.endpoint
    );
    let files = Files::new(&[("c.toml", &text)]);
    let path = files.at("c.toml");
    let mode = |mode| {
        std::fs::set_permissions(files.path("c.toml"), PermissionsExt::from_mode(mode)).unwrap();
    };
    mode(0o600);
    let file = ("EVENKEEL_CREDENTIALS", path.as_str());
    assert_eq!(run("cluster list", &[file], "").exit, 0);
    let wrong = run("cluster list", &[file, ("EVENKEEL_AK", AK), ("EVENKEEL_SK", "another")], "");
    wrong.is(
        1,
        "",
        "error: APIGW.0301: Incorrect IAM authentication information: verify aksk signature fail\n  \
         HTTP 401, request id req-1\n\nhint: check EVENKEEL_AK and EVENKEEL_SK, or run `evenkeel login` again\n",
    );
    mode(0o644);
    run("cluster list", &[file], "").is(
        2,
        "",
        &format!("error: {path} has mode 644: others can read the secret key in it\n\nhint: chmod 600 {path}\n"),
    );
    mode(0o600);
    std::fs::write(files.path("c.toml"), format!("ak = \"{AK}\"\nsk = {SK}\n")).unwrap();
    run("cluster list", &[file], "").is(
        2,
        "",
        &format!(
            "error: {path}, line 2: this is not the TOML that `evenkeel login` writes\n\n\
             hint: run `evenkeel login` again\n"
        ),
    );
}

#[test]
fn endpoints_are_roots_and_clear_text_stays_on_loopback() {
    let keys = [("EVENKEEL_AK", AK), ("EVENKEEL_SK", SK), ("EVENKEEL_PROJECT_ID", PROJECT)];
    let cases = [
        ("http://10.0.0.1", "is not encrypted, which is taken for loopback addresses only"),
        ("https://host/api", "is not only scheme, host and port"),
        ("host:8443", "is not only scheme, host and port"),
        ("nonsense", "is not a URL"),
    ];
    for (endpoint, rule) in cases {
        let mut env = keys.to_vec();
        env.push(("EVENKEEL_ENDPOINT", endpoint));
        run("cluster list", &env, "").is(
            2,
            "",
            &format!(
                "error: endpoint: {endpoint} {rule}\n\nhint: give the root of the server, such as \
                 https://evenkeel.example:8443\n"
            ),
        );
    }
}

#[test]
fn a_server_that_is_not_there_is_status_3() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let env = [
        ("EVENKEEL_AK", AK),
        ("EVENKEEL_SK", SK),
        ("EVENKEEL_PROJECT_ID", PROJECT),
        ("EVENKEEL_ENDPOINT", endpoint.as_str()),
    ];
    let outcome = run("cluster list", &env, "");
    assert_eq!(outcome.exit, 3);
    assert!(
        outcome.stderr.starts_with(&format!("error: {endpoint}/ cannot be reached\n  caused by: "))
    );
    assert!(outcome.stderr.ends_with(
        "\n\nhint: is the server running, and is EVENKEEL_ENDPOINT (or `evenkeel login`) right?\n"
    ));
}

#[test]
fn something_else_that_answers_is_status_3() {
    let server = Server::empty();
    server.on_text(&cce("GET", "clusters?detail=true"), 502, "<html>\x1b[2J</html>");
    let outcome = server.run("cluster list");
    assert_eq!((outcome.exit, outcome.stdout.as_str()), (3, ""));
    assert!(
        outcome.stderr.contains("answered, but not as this API does: HTTP 502 <html> [2J</html>\n")
    );
    let server = Server::empty();
    server.on(&cce("GET", "clusters?detail=true"), 200, json!({ "items": [{ "metadata": {} }] }));
    let outcome = server.run("cluster list");
    assert_eq!(outcome.exit, 3);
    assert!(outcome.stderr.contains("an item has no `metadata.uid`"));
}

#[test]
fn the_words_of_the_server_come_through() {
    let server = Server::empty();
    server.on(
        &cce("GET", "clusters?detail=true"),
        403,
        refusal("CCE.01403001", "Forbidden. Ask someone"),
    );
    server.run("cluster list").is(
        1,
        "",
        "error: CCE.01403001: Forbidden. Ask someone\n  HTTP 403, request id req-1\n",
    );
}

#[test]
fn wrong_arguments_are_status_2_and_secrets_have_no_option() {
    for args in [
        "cluster",
        "sync blue",
        "sync blue --max-unavailable 0",
        "sync b --max-unavailable 1 --timeout 5",
    ] {
        assert_eq!(run(args, &[], "").exit, 2, "{args}");
    }
    for option in ["--sk", "--secret", "--password"] {
        let outcome = run(&format!("login --endpoint http://127.0.0.1 --ak A {option} s"), &[], "");
        assert_eq!(outcome.exit, 2, "{option}");
        assert!(outcome.stderr.contains("unexpected argument"), "{}", outcome.stderr);
    }
}
