#![expect(clippy::unwrap_used, reason = "tests")]
use super::*;

#[test]
fn the_workspace_keeps_its_rules() {
    let findings = check(&crate::paths::workspace_root()).unwrap();
    let said: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert!(findings.is_empty(), "{}", said.join("\n"));
}

fn server(path: &str, text: &str) -> Vec<String> {
    let source = Source { path: format!("crates/server/src/{path}"), text: text.to_owned() };
    modules::check(&[source]).unwrap().iter().map(|finding| finding.what.clone()).collect()
}

#[test]
fn layers_of_the_server_are_kept() {
    for (path, text, wanted) in [
        ("http/show.rs", "use crate::sync::act::reset;", Some("crate::sync::act::reset")),
        ("http/show.rs", "use crate::{store, kube::Cluster};", Some("crate::kube::Cluster")),
        ("http/show.rs", "fn f() { kube::Client::new(); }", Some("kube::Client::new")),
        ("http/show.rs", "use super::super::machines::Ssh;", Some("crate::machines::Ssh")),
        ("http/show.rs", "use crate::sync::nudge;", None),
        ("sync/turn.rs", "use evenkeel_api::Pool;", Some("evenkeel_api::Pool")),
        ("sync/turn.rs", "fn f(c: crate::kube::Cluster) {}", Some("crate::kube::Cluster")),
        ("sync/turn.rs", "use crate::store::Store;", None),
        ("store/mod.rs", "use crate::sync::Job;", Some("crate::sync::Job")),
        ("store/mod.rs", "pub use self::sqlite::Sqlite;", None),
        ("sync/turn.rs", "use crate::store::sqlite::Sqlite;", Some("crate::store::sqlite::Sqlite")),
        ("app.rs", "use crate::{kube::Cluster, machines::Ssh, store::sqlite::Sqlite};", None),
        ("kube/watch.rs", "use super::Cluster; use crate::sync::ports::Port;", None),
        ("sync/turn.rs", "#[cfg(test)] mod tests { use crate::kube::Cluster; }", None),
        ("sync/tests.rs", "use crate::kube::Cluster;", None),
    ] {
        let said = server(path, text);
        match wanted {
            Some(name) => assert!(said.len() == 1 && said[0].ends_with(name), "{text}: {said:?}"),
            None => assert!(said.is_empty(), "{path}: {text}: {said:?}"),
        }
    }
}

#[test]
fn walls_between_crates_are_kept() {
    let judge = |name: &str, wanted: &str| -> usize {
        let text = format!(
            r#"[{{"name": "{name}", "manifest_path": "Cargo.toml", "dependencies": [{wanted}]}}]"#
        );
        let packages: Vec<edges::Package> = serde_json::from_str(&text).unwrap();
        edges::judge(&packages).len()
    };
    let ours = |name: &str, kind: &str| format!(r#"{{"name":"{name}","kind":{kind},"path":"/x"}}"#);
    let other =
        |name: &str, kind: &str| format!(r#"{{"name":"{name}","kind":{kind},"path":null}}"#);
    assert_eq!(judge("evenkeel-engine", &other("serde", "null")), 0);
    assert_eq!(judge("evenkeel-engine", &other("tokio", "null")), 1);
    assert_eq!(judge("evenkeel-engine", &other("proptest", "\"dev\"")), 0);
    assert_eq!(judge("evenkeel-node", &other("kube", "null")), 1);
    assert_eq!(judge("evenkeel-server", &ours("evenkeel-sim", "null")), 1);
    assert_eq!(judge("evenkeel-server", &ours("evenkeel-sim", "\"dev\"")), 0);
    assert_eq!(judge("evenkeel-cli", &ours("evenkeel-engine", "null")), 1);
    assert_eq!(judge("newcomer", &other("serde", "null")), 1);
}
