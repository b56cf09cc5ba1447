use super::*;
use serde_json::Map;
use std::process::Command;

fn recipe() -> Kubeadm {
    Kubeadm {
        limit_s: 60,
        endpoint: None,
        cri_socket: None,
        ignore_preflight: Vec::new(),
        data_dirs: Vec::new(),
        reimage: None,
    }
}

fn ticket() -> Ticket {
    Ticket {
        server: "https://10.0.0.1:6443".into(),
        ca_data: Some("Q0E=".into()),
        token: SecretString::from("abcdef.0123456789abcdef"),
        token_id: "abcdef".into(),
    }
}

#[test]
fn the_join_names_server_ca_token_and_the_pools_settings() {
    let pool = NodeConfig {
        kubelet: Map::from_iter([("maxPods".to_owned(), json!(64))]),
        containerd: BTreeMap::from([("LimitNOFILE".to_owned(), "65536".to_owned())]),
    };
    let node = NodeName::new("node-1");
    let script = join(&recipe(), &node, &ticket(), "v1.36.3", &pool);
    let script = script.expose_secret();
    for part in [
        "https://10.0.0.1:6443",
        "Q0E=",
        "abcdef.0123456789abcdef",
        "kubeadm.k8s.io/v1beta4",
        "\"maxPods\":64",
        "\"name\":\"node-1\"",
        "[Service]\nLimitNOFILE=65536",
    ] {
        assert!(script.contains(part), "{part} is missing");
    }
    let other = Kubeadm { endpoint: Some("cp.example:6443".into()), ..recipe() };
    let script = join(&other, &node, &ticket(), "v1.30.1", &NodeConfig::default());
    assert!(script.expose_secret().contains("https://cp.example:6443"));
    assert!(script.expose_secret().contains("v1beta3"));
    assert!(!script.expose_secret().contains("kubeletconfiguration0"));
}

/// The real shell writes the real file: the startup taint is a list in it, and the directory is filled in.
#[test]
fn the_shell_makes_a_join_configuration_with_the_startup_taint() {
    let config = join_configuration(&recipe(), &NodeName::new("n"), &ticket(), "v1.36.3");
    let script = format!("set -eu\ndir=$1\n{}{}", startup_taint(), file("j", &config.to_string()));
    let dir = tempfile::tempdir().expect("a directory");
    let done = Command::new("/bin/sh").args(["-c", &script, "sh"]).arg(dir.path()).status();
    assert!(done.expect("a shell").success());
    let text = std::fs::read_to_string(dir.path().join("j")).expect("the file");
    let read: Value = serde_json::from_str(&text).expect("JSON");
    let taint = json!({"key": STARTUP_TAINT, "value": "evenkeel", "effect": "NoSchedule"});
    assert_eq!(read["nodeRegistration"]["taints"], json!([taint]));
    let place = read["discovery"]["file"]["kubeConfigPath"].as_str().unwrap_or_default();
    assert_eq!(place, format!("{}/discovery.conf", dir.path().display()));
}

#[test]
fn the_teardown_empties_data_directories_unless_they_are_retained() {
    let with = Kubeadm {
        data_dirs: vec!["/data/it's".to_owned()],
        cri_socket: Some("unix:///run/x.sock".into()),
        ..recipe()
    };
    let script = teardown(&with, false);
    assert!(script.contains(r"find '/data/it'\''s' -xdev -mindepth 1 -delete"), "{script}");
    assert!(script.contains("--cri-socket 'unix:///run/x.sock'"));
    assert!(script.contains("find /var/lib/containerd -xdev -mindepth 1 -delete"));
    let retained = teardown(&with, true);
    assert!(!retained.contains("/data") && !retained.contains("/var/lib/containerd"));
    for script in [script, retained] {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("teardown.sh");
        std::fs::write(&path, script).expect("a file");
        let read = Command::new("/bin/sh").arg("-n").arg(&path).status().expect("a shell");
        assert!(read.success(), "a shell cannot read it");
    }
}

#[test]
fn version_skew_follows_the_policy() {
    let rows = [
        ("Kubernetes v1.36.3", "v1.36.0", true),
        ("v1.33.9", "v1.36.0", true),
        ("v1.32.9", "v1.36.0", false),
        ("v1.37.0", "v1.36.9", false),
        ("v1.36.3", "v1.36.3+k3s1", true),
        ("nonsense", "v1.36.3", false),
    ];
    for (kubelet, server, fine) in rows {
        assert_eq!(skew(kubelet, server).is_ok(), fine, "{kubelet} {server}");
    }
}
