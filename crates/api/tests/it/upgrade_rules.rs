//! Every rule of the sync request, one row each; and the requests that real clients sent.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use evenkeel_api::login::LoginSpec;
use evenkeel_api::password::PasswordInput;
use evenkeel_api::upgrade::{
    Generation, PoolRef, Upgrade, UpgradeAnswer, UpgradeRequest, UpgradeSpec, VolumeReset,
};
use evenkeel_api::{ErrorBody, Violation};
use serde_json::{Value, json};

use crate::assert_violation;

const POOL: &str = "cccccccc-cccc-cccc-cccc-cccccccccccc";
const NODE_A: &str = "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa";

fn parse(body: &Value, pool: &str) -> Result<Upgrade, Vec<Violation>> {
    UpgradeRequest::parse(body.to_string().as_bytes(), pool, 20)
}

/// A valid body with one change of `spec`; `null` removes the field.
fn spec_with(key: &str, value: Value) -> Value {
    let mut body = json!({"spec": {"nodePoolID": POOL, "maxUnavailable": 1}});
    body["spec"][key] = value;
    body
}

fn template(value: Value) -> Value {
    spec_with("nodeTemplate", value)
}

#[test]
fn every_rule_of_the_spec() {
    let rows = [
        ("maxUnavailable", json!(null), "is mandatory; send an integer from 1 to 20"),
        ("maxUnavailable", json!(0), "0 is not an integer from 1 to 20"),
        ("maxUnavailable", json!(21), "21 is not an integer from 1 to 20"),
        ("maxUnavailable", json!(-1), "-1 is not an integer"),
        ("maxUnavailable", json!(2.5), "2.5 is not an integer from 1 to 20"),
        ("maxUnavailable", json!("5"), "\"5\" is not an integer"),
        ("maxUnavailable", json!(1e300), "is not an integer"),
        ("nodePoolID", json!(null), "is mandatory"),
        ("nodePoolID", json!("DefaultPool"), "is not the pool of the path"),
        ("nodePoolID", json!("x"), "is neither a UUID nor DefaultPool"),
        ("nodePoolID", json!(7), "is not a string"),
        ("nodeIDs", json!([]), "is empty; leave it out to mean all"),
        ("nodeIDs", json!("x"), "is not a list"),
        ("skippedNodes", json!({}), "is not a list"),
        ("retryTimes", json!(-1), "is not an integer from 0 to 10"),
        ("retryTimes", json!(11), "is not an integer from 0 to 10"),
        ("force", json!("true"), "is not true or false"),
        ("validateStorage", json!(1), "is not true or false"),
        ("nodeTemplate", json!([]), "is not a JSON object"),
    ];
    for (key, value, text) in rows {
        let row = format!("{key} = {value}");
        let found = parse(&spec_with(key, value), POOL).unwrap_err();
        assert_violation(&found, &format!("spec.{key}"), text, &row);
        assert_eq!(found.len(), 1, "{row}: {found:?}");
    }
    let rows = [
        ("nodeIDs", json!([NODE_A, NODE_A]), "spec.nodeIDs[1]", "more than once"),
        ("nodeIDs", json!(["a", "A"]), "spec.nodeIDs[1]", "more than once"),
        ("nodeIDs", json!(["../x"]), "spec.nodeIDs[0]", "is not the id of a node"),
        ("nodeIDs", json!([""]), "spec.nodeIDs[0]", "is not the id of a node"),
        ("nodeIDs", json!([1]), "spec.nodeIDs[0]", "is not a string"),
        ("skippedNodes", json!([true]), "spec.skippedNodes[0]", "is not a string"),
    ];
    for (key, value, field, text) in rows {
        let row = format!("{key} = {value}");
        assert_violation(&parse(&spec_with(key, value), POOL).unwrap_err(), field, text, &row);
    }
}

#[test]
fn envelope_and_pool_of_the_path() {
    let mut body = spec_with("force", json!(true));
    body["kind"] = json!("Node");
    body["apiVersion"] = json!("v1");
    let found = parse(&body, POOL).unwrap_err();
    assert_violation(&found, "kind", "\"Node\" is not one of NodePool", "kind");
    assert_violation(&found, "apiVersion", "is not one of v3", "apiVersion");
    let found = parse(&json!({"kind": "NodePool"}), POOL).unwrap_err();
    assert_violation(&found, "spec", "is mandatory", "no spec");
    let body = json!({"spec": {"nodePoolID": "DefaultPool", "maxUnavailable": 1}});
    let found = parse(&body, "DefaultPool").unwrap_err();
    assert_violation(&found, "spec.nodeTemplate", "is mandatory for DefaultPool", "default");
    let shouted = spec_with("nodePoolID", json!(POOL.to_uppercase()));
    assert_eq!(parse(&shouted, POOL).unwrap().pool, PoolRef::Id(POOL.to_owned()));
}

#[test]
fn all_mistakes_are_in_one_answer() {
    let body = json!({"spec": {
        "NodePoolId": "x", "MAXUNAVAILABLE": 2.5, "nodeIDs": [], "retryTimes": 11, "force": 1,
        "nodeTemplate": {"LifeCycle": {"preInstall": "%"}, "login": {"sshKey": "a b"}}
    }});
    let found = parse(&body, POOL).unwrap_err();
    let fields: Vec<&str> = found.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "spec.NodePoolId",
            "spec.MAXUNAVAILABLE",
            "spec.nodeIDs",
            "spec.retryTimes",
            "spec.force",
            "spec.nodeTemplate.LifeCycle.preInstall",
            "spec.nodeTemplate.login.sshKey",
        ]
    );
    let answer = ErrorBody::invalid(&found).error_msg;
    assert!(answer.starts_with("Invalid request. spec.NodePoolId: \"x\" is neither"), "{answer}");
    assert!(answer.contains("spec.MAXUNAVAILABLE: 2.5 is not an integer from 1 to 20"));
}

#[test]
fn the_cap_is_the_servers() {
    let body = spec_with("maxUnavailable", json!(200)).to_string();
    let upgrade = UpgradeRequest::parse(body.as_bytes(), POOL, 500).unwrap();
    assert_eq!(upgrade.max_unavailable, 200);
}

#[test]
fn storage_is_checked_for_at_most_200_nodes() {
    let ids: Vec<String> = (0..201).map(|number| format!("node-{number}")).collect();
    let mut body = spec_with("nodeIDs", json!(ids));
    assert_eq!(parse(&body, POOL).unwrap().node_ids.unwrap().len(), 201);
    body["spec"]["validateStorage"] = json!(true);
    let found = parse(&body, POOL).unwrap_err();
    assert_violation(&found, "spec.nodeIDs", "names 201 nodes", "201");
}

#[test]
fn defaults_and_what_terraform_leaves_null() {
    let plain = Upgrade {
        pool: PoolRef::Id(POOL.to_owned()),
        max_unavailable: 1,
        node_ids: None,
        skipped_nodes: vec![],
        retry_times: 1,
        force: false,
        validate_storage: false,
        template: None,
    };
    assert_eq!(parse(&spec_with("force", json!(null)), POOL).unwrap(), plain);
    for key in ["nodeIDs", "skippedNodes", "retryTimes", "nodeTemplate", "unknownField"] {
        assert_eq!(parse(&spec_with(key, json!(null)), POOL).unwrap(), plain, "{key}");
    }
    let repeated = spec_with("skippedNodes", json!(["a", "b", "a"]));
    assert_eq!(parse(&repeated, POOL).unwrap().skipped_nodes, ["a", "b"]);
}

fn recorded_upgrades() -> Vec<(String, Vec<u8>)> {
    let all: Value =
        serde_json::from_str(include_str!("../fixtures/recorded-requests.json")).unwrap();
    let requests = all["requests"].as_array().unwrap().iter();
    let upgrade = requests
        .filter(|request| request["target"].as_str().unwrap().ends_with("/operation/upgrade"));
    let pool = |target: &str| target.rsplit('/').nth(2).unwrap().to_owned();
    upgrade
        .map(|request| {
            let body = request["body"].as_str().unwrap().as_bytes().to_vec();
            (pool(request["target"].as_str().unwrap()), body)
        })
        .collect()
}

#[test]
fn recorded_requests_mean_what_their_clients_meant() {
    let recorded = recorded_upgrades();
    assert_eq!(recorded.len(), 3);
    for (index, nodes) in [(0, 2), (2, 1)] {
        let (pool, body) = &recorded[index];
        let upgrade = UpgradeRequest::parse(body, pool, 20).unwrap();
        assert_eq!(upgrade.pool, PoolRef::Id(POOL.to_owned()));
        assert_eq!((upgrade.max_unavailable, upgrade.retry_times), (1, 1));
        assert_eq!(upgrade.node_ids.unwrap().len(), nodes);
        assert_eq!(upgrade.template, None);
    }
    // The second one carries a placeholder where the salted password belongs: base64 of `$6$`.
    let (pool, body) = &recorded[1];
    let found = UpgradeRequest::parse(body, pool, 20).unwrap_err();
    assert_eq!(found.len(), 1, "{found:?}");
    let field = "spec.nodeTemplate.login.userPassword.password";
    assert_violation(&found, field, "complete sha512-crypt", "JDYk");
    // With a real hash in its place it is the whole of generation C.
    let hash = format!("$6$0123456789abcdef${}", "a".repeat(86));
    let text = String::from_utf8(body.clone()).unwrap().replace("JDYk", &STANDARD.encode(&hash));
    let upgrade = UpgradeRequest::parse(text.as_bytes(), pool, 20).unwrap();
    assert_eq!(upgrade.pool, PoolRef::Default);
    assert_eq!((upgrade.max_unavailable, upgrade.retry_times), (20, 1));
    assert_eq!(upgrade.node_ids, Some(vec![NODE_A.to_owned()]));
    let template = upgrade.template.unwrap();
    assert_eq!(template.generation, Generation::C);
    assert_eq!(template.pre_install.as_deref(), Some(b"echo 1".as_slice()));
    assert_eq!(template.post_install.as_deref(), Some(b"echo 1".as_slice()));
    assert_eq!(template.wait_post_install_finish, Some(true));
    assert_eq!(template.volume_reset, VolumeReset::RetainCustomVolumes);
    let Some(LoginSpec::Password { username, password: PasswordInput::Hashed(read) }) =
        &template.login
    else {
        panic!("{template:?}");
    };
    assert_eq!((username.as_str(), read.expose()), ("root", hash.as_str()));
    assert!(!format!("{template:?}").contains("0123456789abcdef"), "Debug shows no secret");
    assert_eq!(template.ignored_fields(&PoolRef::Default), Vec::<String>::new());
    assert_eq!(template.ignored_fields(&PoolRef::Id(POOL.to_owned())).len(), 6);
}

#[test]
fn three_generations_one_meaning() {
    let login = json!({"sshKey": "kp"});
    let scripts = json!({"preInstall": "ZWNobyAx", "postInstall": "ZWNobyAy"});
    let rows = [
        (
            Generation::A,
            json!({"imageID": "img", "os": "linux", "login": login,
            "lifeCycle": scripts, "runtimeConfig": {"runtime": {"name": "containerd"}},
            "extendParam": {"userID": "u"}}),
        ),
        (
            Generation::B,
            json!({"os": "linux", "login": login, "flavor": "s6", "count": 1,
            "runtime": {"name": "containerd"}, "taints": [],
            "extendParam": {"alpha.cce/preInstall": "ZWNobyAx", "alpha.cce/NodeImageID": "img",
                "alpha.cce/postInstall": "ZWNobyAy"}}),
        ),
        (Generation::C, json!({"login": login, "lifeCycle": scripts})),
    ];
    for (generation, body) in rows {
        let read = parse(&template(body), POOL).unwrap().template.unwrap();
        assert_eq!(read.generation, generation);
        assert_eq!(read.pre_install.as_deref(), Some(b"echo 1".as_slice()));
        assert_eq!(read.post_install.as_deref(), Some(b"echo 2".as_slice()));
        assert_eq!(read.login, Some(LoginSpec::SshKey("kp".to_owned())));
        let sent = (generation != Generation::C).then_some("containerd");
        assert_eq!(read.runtime.as_deref(), sent);
        assert_eq!(read.image_id.as_deref(), sent.map(|_| "img"));
        assert_eq!(read.volume_reset, VolumeReset::ManagedVolumes);
        if generation == Generation::B {
            assert_eq!(read.ignored_fields(&PoolRef::Default), ["count", "flavor", "taints"]);
        }
    }
}

#[test]
fn every_rule_of_the_template() {
    let at = |path: &str| format!("spec.nodeTemplate.{path}");
    let long = STANDARD.encode("x".repeat(3840));
    assert_eq!(long.len(), 5120);
    let key = json!({"sshKey": "kp"});
    let cycle = |pre: Value, post: Value| json!({"login": {"sshKey": "kp"}, "lifeCycle": {"preInstall": pre, "postInstall": post}});
    let rows = [
        (json!({}), "lifeCycle", "is mandatory"),
        (json!({}), "login", "is mandatory"),
        (json!({"login": key}), "lifeCycle", "is mandatory"),
        (json!({"lifeCycle": {}, "login": {}}), "login", "gives neither"),
        (cycle(json!("a b"), json!("")), "lifeCycle.preInstall", "is not base64"),
        (cycle(json!(""), json!("ZWNobyAx\n")), "lifeCycle.postInstall", "is not base64"),
        (cycle(json!("ZWNobyA"), json!("")), "lifeCycle.preInstall", "is not base64"),
        (cycle(json!("_-__"), json!("")), "lifeCycle.preInstall", "is not base64"),
        (cycle(json!(1), json!("")), "lifeCycle.preInstall", "is not a string"),
        (cycle(json!(long), json!(format!("{long}YQ=="))), "lifeCycle.postInstall", "10244"),
        (
            json!({"login": key, "lifeCycle": {"waitPostInstallFinish": "no"}}),
            "lifeCycle.waitPostInstallFinish",
            "is not true or false",
        ),
        (
            json!({"login": key, "lifeCycle": {}, "volumeConfig": {"volumeResetPolicy": "all"}}),
            "volumeConfig.volumeResetPolicy",
            "is not one of",
        ),
        (json!({"os": "x", "runtime": {"name": "podman"}}), "runtime.name", "is not one of"),
        (json!({"os": 1}), "os", "is not a string"),
        (
            json!({"lifeCycle": {"preInstall": "YQ=="}, "login": key,
            "extendParam": {"alpha.cce/preInstall": "Yg=="}}),
            "lifeCycle.preInstall",
            "differs",
        ),
    ];
    for (body, field, text) in rows {
        let row = body.to_string();
        let found = parse(&template(body), POOL).unwrap_err();
        assert_violation(&found, &at(field), text, &row);
    }
    let most = cycle(json!(long), json!(long));
    assert!(parse(&template(most), POOL).is_ok(), "10,240 characters are allowed");
    let older = json!({"flavor": "s6"});
    assert!(parse(&template(older), POOL).is_ok(), "older clients cannot send lifeCycle");
}

#[test]
fn what_the_client_writes_is_what_the_server_reads() {
    let login = LoginSpec::Password {
        username: "ops".to_owned(),
        password: PasswordInput::read("Str0ng/pass", "ops").unwrap(),
    };
    let request = UpgradeRequest::new(UpgradeSpec {
        node_pool_id: POOL.to_owned(),
        max_unavailable: 3,
        node_ids: Some(vec!["n1".to_owned()]),
        retry_times: Some(0),
        node_template: Some(json!({"lifeCycle": {}, "login": login.to_request()})),
        ..UpgradeSpec::default()
    });
    let body = serde_json::to_vec(&request).unwrap();
    let upgrade = UpgradeRequest::parse(&body, POOL, 20).unwrap();
    assert_eq!((upgrade.max_unavailable, upgrade.retry_times), (3, 0));
    assert_eq!(upgrade.template.unwrap().login, Some(login));
    let bare: UpgradeAnswer = serde_json::from_str(r#"{"jobid":"u"}"#).unwrap();
    assert_eq!(bare, UpgradeAnswer { jobid: "u".to_owned(), job: None });
    assert_eq!(serde_json::to_value(&bare).unwrap(), json!({"jobid": "u"}));
}
