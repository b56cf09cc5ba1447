#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;

const TOKEN: &str = "canary-token-8d1f";

fn kubeconfig(server: &str, cluster: &str, user: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts:\n- name: c\n  context: {{cluster: k, user: u}}\n\
         clusters:\n- name: k\n  cluster:\n    server: {server}\n{cluster}users:\n- name: u\n  user:\n{user}"
    )
}

fn with(server: &str, cluster: &str, user: &str) -> Result<Access, ConfigError> {
    Access::parse(&kubeconfig(server, cluster, user), &Options::default())
}

const GOOD: &str = "https://10.0.0.1:6443";

fn token() -> String {
    format!("    token: {TOKEN}\n")
}

#[test]
fn an_inline_kubeconfig_is_accepted_with_retries_off() {
    let access = with(GOOD, "", &token()).unwrap();
    assert_eq!(access.server(), GOOD);
    assert!(!access.config().default_retry);
    assert!(!format!("{access:?}").contains(TOKEN));
    let json = r#"{"current-context":"c","contexts":[{"name":"c","context":{"cluster":"k","user":"u"}}],
        "clusters":[{"name":"k","cluster":{"server":"https://k.example.com"}}],
        "users":[{"name":"u","user":{"token":"t"}}]}"#;
    assert_eq!(Access::parse(json, &Options::default()).unwrap().server(), "https://k.example.com");
}

#[test]
fn whatever_runs_reads_or_weakens_is_refused_by_name() {
    let t = token();
    let rows: [(&str, &str, &str, &str); 17] = [
        (
            "",
            "    exec: {apiVersion: client.authentication.k8s.io/v1, command: aws}\n",
            "exec",
            "service account",
        ),
        ("", "    auth-provider: {name: gcp}\n", "auth-provider", "service account"),
        ("", "    tokenFile: /etc/shadow\n", "tokenFile", "`token`"),
        ("", "    client-certificate: /a\n    client-key: /b\n", "client-certificate", "--flatten"),
        ("", "    token: t\n    client-key: /b\n", "client-key", "--flatten"),
        ("", "    client-certificate-data: QQ==\n", "client-certificate-data", "belong together"),
        ("", "    username: admin\n    password: hunter2\n", "username", "token"),
        ("", "    token: t\n    run: rm\n", "run", "does not know"),
        ("", "    {}\n", "user \"u\"", "neither a token"),
        ("    certificate-authority: /etc/passwd\n", &t, "certificate-authority", "--flatten"),
        (
            "    insecure-skip-tls-verify: true\n",
            &t,
            "insecure-skip-tls-verify",
            "certificate-authority-data",
        ),
        ("    proxy-url: http://10.0.0.9:3128\n", &t, "proxy-url", "not supported"),
        ("    surprise: 1\n", &t, "surprise", "does not know"),
        ("    certificate-authority-data: '%%'\n", &t, "certificate-authority-data", "base64"),
        ("    certificate-authority-data: QUJD\n", &t, "certificate-authority-data", "PEM"),
        ("    certificate-authority-data: ''\n", &t, "certificate-authority-data", "PEM"),
        ("    tls-server-name: [1]\n", &t, "not a kubeconfig", "line"),
    ];
    for (cluster, user, field, way_out) in rows {
        let error = with(GOOD, cluster, user).unwrap_err().to_string();
        assert!(error.contains(field) && error.contains(way_out), "{cluster}{user} -> {error}");
        assert!(!error.contains("hunter2") && !error.contains(TOKEN), "{error}");
    }
}

#[test]
fn options_allow_what_an_operator_asked_for() {
    let options = Options { allow_insecure_tls: true, allow_loopback: true, ..Options::default() };
    let insecure = kubeconfig(GOOD, "    insecure-skip-tls-verify: true\n", &token());
    assert!(Access::parse(&insecure, &options).unwrap().config().accept_invalid_certs);
    let loopback = kubeconfig("http://127.0.0.1:6443", "", "    {}\n");
    assert!(
        Access::parse(&loopback, &options).is_ok(),
        "loopback may go without TLS and credential"
    );
}

#[test]
fn server_addresses_are_judged_by_a_table() {
    let rows = [
        ("https://10.0.0.1:6443", true, true),
        ("https://k8s.example.com/prefix", true, true),
        ("https://[2001:db8::1]:6443", true, true),
        ("https://127.0.0.1:6443", false, true),
        ("https://localhost:6443", false, true),
        ("https://[::1]:6443", false, true),
        ("https://[::ffff:127.0.0.1]", false, true),
        ("http://127.0.0.1:6443", false, true),
        ("http://10.0.0.1:6443", false, false),
        ("http://k8s.example.com", false, false),
        ("https://169.254.169.254", false, false),
        ("https://169.254.1.1:6443", false, false),
        ("https://[::ffff:169.254.169.254]", false, false),
        ("https://[fe80::1]:6443", false, false),
        ("https://[fd00:ec2::254]", false, false),
        ("https://100.100.100.200", false, false),
        ("https://metadata.google.internal", false, false),
        ("https://0.0.0.0:6443", false, false),
        ("https://[::]:6443", false, false),
        ("https://224.0.0.1", false, false),
        ("https://user:pw@10.0.0.1", false, false),
        ("ftp://10.0.0.1", false, false),
        ("unix:///run/k.sock", false, false),
        ("10.0.0.1:6443", false, false),
        ("''", false, false),
    ];
    for (server, by_default, with_loopback) in rows {
        for (allow_loopback, expected) in [(false, by_default), (true, with_loopback)] {
            let options = Options { allow_loopback, ..Options::default() };
            let text = kubeconfig(&format!("\"{}\"", server.trim_matches('\'')), "", &token());
            let got = Access::parse(&text, &options);
            assert_eq!(got.is_ok(), expected, "{server}, loopback {allow_loopback}: {got:?}");
        }
    }
}

#[test]
fn names_that_lead_nowhere_are_named() {
    let good = kubeconfig(GOOD, "", &token());
    let rows = [
        (good.replace("current-context: c\n", ""), None, "no current-context"),
        (good.clone(), Some("other"), "no context named \"other\""),
        (good.replace("cluster: k,", "cluster: x,"), None, "no cluster named \"x\""),
        (good.replace("user: u}", "user: y}"), None, "no user named \"y\""),
        ("- 1\n- 2".to_owned(), None, "not a kubeconfig"),
        (format!("users: [{{name: u, user: {{token: {TOKEN}"), None, "not a kubeconfig"),
        (format!("token: [{TOKEN}\n}}"), None, "not a kubeconfig"),
        ("x".repeat(MAX_BYTES + 1), None, "at most"),
    ];
    for (text, context, expected) in rows {
        let options = Options { context: context.map(str::to_owned), ..Options::default() };
        let error = Access::parse(&text, &options).unwrap_err();
        let shown = format!("{error} {error:?} {:?}", std::error::Error::source(&error));
        assert!(shown.contains(expected), "{shown}");
        assert!(!shown.contains(TOKEN), "{shown}");
    }
}
