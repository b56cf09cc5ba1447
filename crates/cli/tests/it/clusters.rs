//! `cluster add`, `list`, `show` and `keypair`.

use serde_json::{Value, json};

use crate::support::{CLUSTER, Files, Server, cce, cluster, own, refusal};

const KUBECONFIG: &str = "
current-context: mine
contexts: [{name: mine, context: {cluster: c, user: u}}, {name: other, context: {cluster: c, user: o}}]
clusters: [{name: c, cluster: {server: 'https://10.0.0.9:6443', certificate-authority-data: UEVN}}]
users: [{name: u, user: {token: mine}}, {name: o, user: {token: of-others}}]
";

#[test]
fn list_and_show() {
    let server = Server::start();
    server.run("cluster list").is(
        0,
        &format!(
            "NAME  ID                                    PHASE      VERSION  NODES  READY\n\
             lab   {CLUSTER}  Available  v1.34.1  2      2\n"
        ),
        "",
    );
    server.on(&cce("GET", &format!("clusters/{CLUSTER}?detail=true")), 200, cluster());
    let shown = "Cluster     lab\nID          c0000000-0000-4000-8000-000000000001\nPhase       Available\n\
        Version     v1.34.1\nAPI server  https://10.0.0.9:6443\nNodes       2\nReady       2\n\
        Registered  2026-11-23 10:00:00 +0000 UTC\n";
    server.run("cluster show lab").is(0, shown, "");
    server.run(&format!("cluster show {}", CLUSTER.to_uppercase())).is(0, shown, "");
    server.run("cluster show x").is(
        2,
        "",
        "error: there is no cluster x\n\nhint: there are: lab\n",
    );
    let outcome = server.run("cluster list --output json");
    let answer: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(answer["items"][0], cluster());
}

#[test]
fn add_sends_one_context() {
    let server = Server::start();
    let files = Files::new(&[("k", KUBECONFIG)]);
    server.on(&own("POST", "clusters"), 201, cluster());
    server.on(&cce("GET", &format!("clusters/{CLUSTER}?detail=true")), 200, cluster());
    server.run(&format!("cluster add lab --kubeconfig {}", files.at("k"))).is(
        0,
        &format!("{CLUSTER}\n"),
        "cluster lab registered; DefaultPool has its 2 worker nodes\n\
         next: `evenkeel cluster set-machines lab` says how machines are reached and reset\n",
    );
    let sent = &server.changes()[0].body;
    assert_eq!(sent["name"], "lab");
    let kubeconfig = sent["kubeconfig"].as_str().unwrap();
    assert!(
        kubeconfig.contains("\"token\":\"mine\"") && !kubeconfig.contains("of-others"),
        "{kubeconfig}"
    );
}

#[test]
fn add_fails_before_anything_is_sent() {
    let server = Server::start();
    let files = Files::new(&[("k", KUBECONFIG), ("bad", "a: [")]);
    let run = |file: &str, more: &str| {
        server.run(&format!("cluster add lab --kubeconfig {}{more}", files.at(file)))
    };
    let path = files.at("k");
    let hint = "hint: there are: mine, other\n";
    run("k", " --context x").is(2, "", &format!("error: {path} has no context x\n\n{hint}"));
    let bad = files.at("bad");
    run("bad", "").is(2, "", &format!("error: {bad} is not a YAML or JSON document\n"));
    assert_eq!(run("absent", "").exit, 2);
    assert!(server.calls().is_empty());
}

#[test]
fn a_real_cce_has_no_way_to_add_one() {
    let server = Server::start();
    let files = Files::new(&[("k", KUBECONFIG)]);
    let text = "The API does not exist or has not been published.";
    server.on(&own("POST", "clusters"), 404, refusal("APIGW.0101", text));
    server.run(&format!("cluster add lab --kubeconfig {}", files.at("k"))).is(
        1,
        "",
        "error: APIGW.0101: The API does not exist or has not been published.\n  HTTP 404, request id req-1\n\n\
         hint: this server does not have the call: commands beyond CCE's own need an Evenkeel server\n",
    );
}

#[test]
fn key_pairs_are_public() {
    let server = Server::start();
    let line =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKS60DkNUVc1UszF+aBad73bWcMIOuMU2FZq1NvyRby8 me";
    let pair = json!({ "name": "ops", "publicKeys": [line], "fingerprints": ["SHA256:x"] });
    let files = Files::new(&[
        ("k.pub", &format!("{line}\n\n")),
        ("k", "-----BEGIN OPENSSH PRIVATE KEY-----\ncanary\n-----END OPENSSH PRIVATE KEY-----\n"),
        ("bad", "hello\n"),
    ]);
    server.on(&own("POST", "keypairs"), 201, pair.clone());
    server.on(&own("GET", "keypairs"), 200, json!({ "keypairs": [pair] }));
    let table = "NAME  FINGERPRINTS\nops   SHA256:x\n";
    server.run(&format!("keypair import ops {}", files.at("k.pub"))).is(0, table, "");
    assert_eq!(server.changes()[0].body, json!({ "name": "ops", "publicKeys": [line] }));
    server.run("keypair list").is(0, table, "");
    let path = files.at("k");
    server.run(&format!("keypair import ops {path}")).is(
        2,
        "",
        &format!(
            "error: {path} is a private key; it was not sent\n\n\
             hint: give the public key: {path}.pub, or `ssh-keygen -y -f {path}`\n"
        ),
    );
    assert_eq!(server.run(&format!("keypair import ops {}", files.at("bad"))).exit, 2);
    assert_eq!(server.changes().len(), 1);
}
