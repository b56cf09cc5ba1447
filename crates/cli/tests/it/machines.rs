//! `cluster set-machines`.

use serde_json::json;

use crate::support::{CLUSTER, Files, Server, own};

const LINE: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKS60DkNUVc1UszF+aBad73bWcMIOuMU2FZq1NvyRby8";
const OTHER: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEsO2gyc0qPc2fpKuo59gqgGpj5FiHHCNLQOPnWLDnAL";

fn call() -> String {
    own("PUT", &format!("clusters/{CLUSTER}/machines"))
}

fn server() -> Server {
    let server = Server::start();
    server.on(
        &call(),
        200,
        json!({
            "cluster": CLUSTER, "recipe": "script",
            "machines": { "user": "ops", "port": 2222, "sudo": true, "address": "internal-ip",
                "overrides": {}, "hostKeys": { "node-1": LINE } }
        }),
    );
    server
}

fn files() -> Files {
    Files::new(&[
        ("key", &plain_key()),
        ("locked", &locked_key()),
        ("pem", "-----BEGIN RSA PRIVATE KEY-----\ncanary\n-----END RSA PRIVATE KEY-----\n"),
        ("down", "#!/bin/sh\nkubeadm reset -f\n"),
        ("up", "#!/bin/sh\nkubeadm join\n"),
        ("empty", "\n"),
        ("known", &format!("[10.0.0.1]:2222 {LINE}\n[gate]:2 {OTHER}\n")),
    ])
}

#[test]
fn access_and_recipe_in_one_call() {
    let (server, files) = (server(), files());
    let args = format!(
        "cluster set-machines lab --user ops --port 2222 --key {} --sudo --host node-2=gate:2 --known-hosts {} \
         --recipe script --teardown {} --install {} --needs kubeadm --limit 600",
        files.at("key"),
        files.at("known"),
        files.at("down"),
        files.at("up")
    );
    server.run(&args).is(
        0,
        &format!(
            "Cluster      {CLUSTER}\nRecipe       script\nUser         ops\nPort         2222\nSudo         true\n\
             Address      internal-ip\nOther hosts  0\nHost keys    1\n"
        ),
        "",
    );
    assert_eq!(
        server.changes()[0].body,
        json!({
            "machines": { "user": "ops", "port": 2222, "sudo": true, "address": "internal-ip", "privateKey": plain_key(),
                "overrides": { "node-2": "gate:2" }, "hostKeys": { "node-1": LINE, "node-2": OTHER } },
            "recipe": { "type": "script", "teardown": "#!/bin/sh\nkubeadm reset -f\n",
                "install": "#!/bin/sh\nkubeadm join\n", "needs": ["kubeadm"],
                "limitSeconds": 600, "resume": false }
        })
    );
}

#[test]
fn a_key_by_hand_wins_and_nodes_without_one_are_named() {
    let (server, files) = (server(), files());
    let args = format!(
        "cluster set-machines lab --port 2222 --known-hosts {} --host-key node-1={} --host-key new={}",
        files.at("known"),
        OTHER.replace(' ', "~"),
        LINE.replace(' ', "~")
    );
    let outcome = server.run(&args);
    assert_eq!(
        outcome.stderr,
        "warning: --host-key new: the cluster has no node of this name yet\n\
         warning: without a host key these nodes cannot be reset: node-2\n"
    );
    let sent = &server.changes()[0].body;
    assert_eq!(sent["machines"]["hostKeys"], json!({ "node-1": OTHER, "new": LINE }));
    assert_eq!(sent.get("recipe"), None);
    assert_eq!(sent["machines"].get("sudo"), None);
}

#[test]
fn the_other_recipes_need_no_access() {
    let server = server();
    assert_eq!(server.run("cluster set-machines lab --recipe none").exit, 0);
    assert_eq!(
        server.run("cluster set-machines lab --recipe command --limit 9 -- /bin/reset --fast").exit,
        0
    );
    let sent: Vec<_> = server.changes().into_iter().map(|seen| seen.body).collect();
    assert_eq!(sent[0], json!({ "recipe": { "type": "none" } }));
    assert_eq!(
        sent[1],
        json!({ "recipe": { "type": "command", "argv": ["/bin/reset", "--fast"], "limitSeconds": 9 } })
    );
}

#[test]
fn what_cannot_be_meant_is_refused_before_anything_is_sent() {
    let (server, files) = (server(), files());
    let (down, up, key) = (files.at("down"), files.at("up"), files.at("locked"));
    let cases = [
        (String::new(), "nothing is to be set: neither SSH access nor a recipe is given"),
        ("--recipe script".to_owned(), "the recipe script needs --teardown FILE"),
        (format!("--recipe script --teardown {down}"), "the recipe script needs --install FILE"),
        (format!("--teardown {down} --install {up}"), "--teardown belongs to the recipe script"),
        ("--recipe command".to_owned(), "the recipe command needs a program"),
        (
            "--recipe none -- /bin/true".to_owned(),
            "a program after -- belongs to the recipe command or to --reimage",
        ),
        (
            "--recipe none --limit 5".to_owned(),
            "--limit belongs to the recipes script, kubeadm and command",
        ),
        (format!("--key {key}"), "has a passphrase, which the server cannot ask for"),
        (format!("--key {}", files.at("pem")), "is not a private key in OpenSSH's format"),
        (format!("--recipe script --teardown {} --install {up}", files.at("empty")), "is empty"),
        ("--host node-1".to_owned(), "it is not NODE=VALUE"),
        ("--host-key node-1=nonsense".to_owned(), "this is not an OpenSSH public key line"),
    ];
    for (args, message) in cases {
        let outcome = server.run(&format!("cluster set-machines lab {args}"));
        assert_eq!(outcome.exit, 2, "{args}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(message), "{args}: {}", outcome.stderr);
        assert!(!outcome.stderr.contains("canary"), "{}", outcome.stderr);
    }
    assert!(server.changes().is_empty());
}

/// A key made of a fixed seed.
fn key() -> ssh_key::PrivateKey {
    ssh_key::private::Ed25519Keypair::from_seed(&[7; 32]).into()
}

fn plain_key() -> String {
    key().to_openssh(ssh_key::LineEnding::LF).unwrap().to_string()
}

fn locked_key() -> String {
    let kdf = ssh_key::Kdf::Bcrypt { salt: vec![1; 16], rounds: 1 };
    let locked = key().encrypt_with(ssh_key::Cipher::Aes256Ctr, kdf, 1, "passphrase").unwrap();
    locked.to_openssh(ssh_key::LineEnding::LF).unwrap().to_string()
}

#[test]
fn scanned_keys_are_pinned_only_if_their_fingerprint_is_accepted() {
    let server = server();
    let scan = own("POST", &format!("clusters/{CLUSTER}/machines/scan"));
    let hosts = json!([
        { "node": "node-1", "address": "10.0.0.1:22", "hostKey": LINE, "fingerprint": "SHA256:one" },
        { "node": "node-2", "address": "10.0.0.2:22", "hostKey": OTHER, "fingerprint": "SHA256:two" },
    ]);
    server.on(&scan, 200, json!({ "hosts": hosts }));
    let outcome = server.run("cluster set-machines lab --scan --accept-fingerprint SHA256:two");
    assert_eq!(
        outcome.stderr,
        "node-1  10.0.0.1:22  SHA256:one\nnode-2  10.0.0.2:22  SHA256:two\n\
         warning: without a host key these nodes cannot be reset: node-1\n"
    );
    let changes = server.changes();
    assert_eq!(changes[0].body["nodes"], json!(["node-1", "node-2"]));
    assert_eq!(changes[1].body["machines"]["hostKeys"], json!({ "node-2": OTHER }));
    // Nobody to ask and no list: nothing is set.
    let outcome = server.run("cluster set-machines lab --scan");
    assert!(outcome.stderr.contains("nobody is there to confirm"), "{}", outcome.stderr);
    assert_eq!(server.changes().len(), 3);
}

#[test]
fn machines_can_be_reinstalled_by_a_program_or_a_webhook() {
    let server = server();
    let files = Files::new(&[("secret", "canary-secret-0123\n"), ("ca", "PEM")]);
    let args = format!(
        "cluster set-machines lab --recipe kubeadm --reimage --webhook https://h/x --webhook-secret {} \
         --webhook-ca {} --reimage-limit 60 --return-limit 30 --no-teardown --host-ca {}",
        files.at("secret"),
        files.at("ca"),
        LINE.replace(' ', "~")
    );
    assert_eq!(server.run(&args).exit, 0);
    assert_eq!(
        server.run("cluster set-machines lab --recipe kubeadm --reimage -- /opt/reimage -v").exit,
        0
    );
    let sent: Vec<_> = server.changes().into_iter().map(|seen| seen.body).collect();
    assert_eq!(
        sent[0]["recipe"]["reimage"],
        json!({ "webhook": { "url": "https://h/x", "secret": "canary-secret-0123", "ca": "PEM" },
                "limitSeconds": 60, "returnLimitSeconds": 30, "teardown": false })
    );
    assert_eq!(sent[0]["machines"]["hostCAs"], json!([LINE]));
    assert_eq!(sent[1]["recipe"]["reimage"], json!({ "argv": ["/opt/reimage", "-v"] }));
    for (args, said) in [
        ("--recipe command --reimage -- /x", "--reimage belongs to the recipes script and kubeadm"),
        ("--recipe kubeadm --reimage", "--reimage needs a program or --webhook URL"),
        ("--recipe kubeadm --webhook https://h/", "--webhook belongs to the recipe command"),
        ("--recipe command --webhook https://h/", "--webhook needs --webhook-secret FILE"),
        ("--recipe command --webhook https://h/ -- /x", "exclude each other"),
    ] {
        let outcome = server.run(&format!("cluster set-machines lab {args}"));
        assert!(outcome.exit != 0 && outcome.stderr.contains(said), "{args}: {}", outcome.stderr);
    }
}
