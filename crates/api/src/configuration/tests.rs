use super::*;

fn body(package: &str, name: &str, value: Value) -> Vec<u8> {
    let item = json!({"name": name, "value": value});
    let packages = json!([{"name": package, "configurations": [item]}]);
    json!({"kind": "Configuration", "apiVersion": "v3", "metadata": {"name": "configuration"},
        "spec": {"packages": packages}})
    .to_string()
    .into_bytes()
}

/// Parameter and value, and what is kept of it or which words the refusal has.
#[test]
fn parameters() {
    let kept = [
        ("kubelet", "max-pods", json!(64), json!(64)),
        ("kubelet", "cpu-manager-policy", json!("static"), json!("static")),
        ("kubelet", "pod-pids-limit", json!(-1), json!(-1)),
        ("kubelet", "serialize-image-pulls", json!(false), json!(false)),
        ("kubelet", "runtime-request-timeout", json!("1m30s"), json!("1m30s")),
        ("kubelet", "resolv-conf", json!("/run/resolv.conf"), json!("/run/resolv.conf")),
        (
            "kubelet",
            "allowed-unsafe-sysctls",
            json!("a.b, kernel.msg*"),
            json!(["a.b", "kernel.msg*"]),
        ),
        ("kubelet", "allowed-unsafe-sysctls", json!(["a.b"]), json!(["a.b"])),
        ("containerd", "default-ulimit-nofile", json!(65536), json!("65536")),
        ("containerd", "default-ulimit-nofile", json!("1024:65536"), json!("1024:65536")),
        ("containerd", "limitcore", json!("infinity"), json!("infinity")),
    ];
    for (package, name, value, expected) in kept {
        let update = ConfigurationUpdate::parse(&body(package, name, value)).expect(name);
        let settings = update.apply(&Settings::new()).expect(name);
        assert_eq!(settings[package][name], expected, "{name}");
        assert_eq!(
            Configuration::of("p", &settings).spec.packages[0].configurations[0].value,
            expected
        );
    }
    let refused = [
        ("kubelet", "max-pods", json!(5), "16 to 1024"),
        ("kubelet", "max-pods", json!("64"), "\"64\""),
        ("kubelet", "cpu-manager-policy", json!("enhanced-static"), "enhanced-static"),
        ("kubelet", "cpu-manager-polizy", json!("none"), "cpu-manager-polizy"),
        ("kubelet", "with-local-dns", json!(true), "NodeLocal"),
        ("kubelet", "resolv-conf", json!("resolv.conf"), "absolute"),
        ("kubelet", "runtime-request-timeout", json!("2 minutes"), "duration"),
        ("kubelet", "allowed-unsafe-sysctls", json!("a b"), "names"),
        ("containerd", "registry-mirrors", json!("x"), "preInstall"),
        ("containerd", "limitcore", json!("lots"), "limit"),
        ("containerd", "limitcore", json!(-1), "limit"),
        ("kube-proxy", "conntrack-min", json!(1), "ConfigMap"),
        ("docker", "limitcore", json!(1), "preInstall"),
        ("apiserver", "x", json!(1), "kubelet and containerd"),
    ];
    for (package, name, value, words) in refused {
        let found = ConfigurationUpdate::parse(&body(package, name, value)).expect_err(name);
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        assert!(found[0].to_string().contains(words), "{name}: {}", found[0]);
    }
}

#[test]
fn bodies_that_are_none() {
    for text in [
        "{}",
        r#"{"spec": {}}"#,
        r#"{"spec": {"packages": {}}}"#,
        r#"{"kind": "NodePool", "spec": {"packages": []}}"#,
        r#"{"spec": {"packages": [{"configurations": []}]}}"#,
        r#"{"spec": {"packages": [{"name": "kubelet", "configurations": [{"value": 1}]}]}}"#,
        r#"{"spec": {"packages": [{"name": "kubelet", "configurations":
            [{"name": "max-pods", "value": 64}, {"name": "max-pods", "value": 65}]}]}}"#,
    ] {
        assert!(ConfigurationUpdate::parse(text.as_bytes()).is_err(), "{text}");
    }
}

#[test]
fn a_change_leaves_the_rest_and_null_goes_back_to_the_default() {
    let set = |name: &str, value, settings: &Settings| {
        let update = ConfigurationUpdate::parse(&body("kubelet", name, value)).expect(name);
        update.apply(settings)
    };
    let one = set("max-pods", json!(64), &Settings::new()).expect("fits");
    let two = set("event-qps", json!(7), &one).expect("fits");
    assert_eq!(two["kubelet"].len(), 2);
    let back = set("max-pods", Value::Null, &two).expect("fits");
    assert_eq!(back["kubelet"], BTreeMap::from([("event-qps".to_owned(), json!(7))]));
    assert!(set("event-qps", Value::Null, &back).expect("fits").is_empty());
    // Garbage collection stops below where it starts: the defaults are 85 and 80.
    assert!(set("image-gc-high-threshold", json!(80), &two).is_err());
    assert!(set("image-gc-low-threshold", json!(84), &two).is_ok());
}

#[test]
fn a_templates_override_takes_what_it_knows() {
    let list = json!([{"name": "kubelet", "configurations": [
        {"name": "max-pods", "value": 64}, {"name": "unknown", "value": 1}, {"name": "event-qps", "value": "x"}]},
        {"name": "kube-proxy", "configurations": [{"name": "conntrack-min", "value": 1}]}]);
    let expected = BTreeMap::from([("max-pods".to_owned(), json!(64))]);
    assert_eq!(overrides(&list), Settings::from([("kubelet".to_owned(), expected)]));
    assert!(overrides(&Value::Null).is_empty());
}

#[test]
fn the_detail_names_every_parameter() {
    let detail = detail();
    assert_eq!(detail.values().map(Vec::len).sum::<usize>(), PARAMETERS.len());
    let qps = detail["kubelet"].iter().find(|o| o.name == "kube-api-qps").expect("there");
    let shown = serde_json::to_value(qps).expect("plain data");
    let expected = json!({"name": "kube-api-qps", "default": 50, "validAt": "immediately", "empty": false,
        "schema": "1 to 2147483647", "type": "int"});
    assert_eq!(shown, expected);
}
