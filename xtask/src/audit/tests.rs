#![expect(clippy::unwrap_used, reason = "tests")]
//! `recorded.jsonl` was written by kube-apiserver v1.36.3; bodies are shortened to what is judged.
use super::*;

const RECORDED: &str = include_str!("recorded.jsonl");

fn of(text: &str, nodes: &[&str]) -> Report {
    let nodes = nodes.iter().map(|name| (*name).to_owned()).collect();
    judge(text.as_bytes(), PRODUCT_USER, &nodes).unwrap()
}

#[test]
fn a_recorded_run_is_judged() {
    let report = of(RECORDED, &[]);
    assert_eq!(report.max_out, 2);
    assert_eq!(report.max_out_nodes, ["node-1".to_owned(), "node-2".to_owned()].into());
    assert!(report.still_out.is_empty(), "{:?}", report.still_out);
    assert_eq!(report.accepted_evictions.len(), 2);
    assert!(report.evicted_twice().is_empty());
    assert_eq!(report.refused_evictions.values().sum::<u32>(), 1);
    assert_eq!((report.dry_run_evictions, report.evictions_without_uid), (1, 0));
    assert_eq!(report.bare_deletes, ["default/bare"]);
    assert!(report.first_claim < report.first_cordon);
}

#[test]
fn only_the_named_nodes_count() {
    assert_eq!(of(RECORDED, &["node-2"]).max_out, 1);
    // Cordoned by a person only: not out by us, though we wrote to it meanwhile.
    assert_eq!(of(RECORDED, &["node-3"]).max_out, 0);
}

#[test]
fn the_order_of_lines_does_not_matter() {
    let mut lines: Vec<&str> = RECORDED.lines().collect();
    lines.reverse();
    let reversed = lines.join("\n") + "\n";
    assert_eq!(of(&reversed, &[]).max_out_nodes, of(RECORDED, &[]).max_out_nodes);
}

#[test]
fn a_second_accepted_eviction_is_seen() {
    let accepted = |line: &&str| {
        line.contains("\"subresource\":\"eviction\"")
            && line.contains("\"code\":201")
            && !line.contains("dryRun")
    };
    let again = RECORDED.lines().find(accepted).unwrap();
    assert_eq!(of(&format!("{RECORDED}{again}\n"), &[]).evicted_twice().len(), 1);
}

/// A write to a Node as the API server logs it.
fn write(user: &str, verb: &str, version: u32, claim: bool, cordon: bool) -> String {
    let annotations = if claim { r#"{"evenkeel.io/claim":"j"}"# } else { "{}" };
    format!(
        r#"{{"stage":"ResponseComplete","requestURI":"/api/v1/nodes/n","verb":"{verb}","user":{{"username":"{user}"}},"objectRef":{{"resource":"nodes","name":"n"}},"responseStatus":{{"code":200}},"responseObject":{{"metadata":{{"name":"n","resourceVersion":"{version}","annotations":{annotations}}},"spec":{{"unschedulable":{cordon}}}}},"stageTimestamp":"2026-01-01T00:00:{version:02}Z"}}"#
    ) + "\n"
}

#[test]
fn people_who_interfere_do_not_hide_our_nodes() {
    let ours = write("evenkeel", "patch", 1, true, true);
    let theirs = write("admin", "patch", 2, false, false);
    let release = write("evenkeel", "patch", 3, false, false);
    // They took claim and cordon away, but we have not said that we are done.
    assert_eq!(of(&format!("{ours}{theirs}"), &[]).still_out.len(), 1);
    assert_eq!(of(&format!("{ours}{theirs}{release}"), &[]).still_out.len(), 0);
    // Our write over a foreign cordon does not make it ours.
    let foreign = write("admin", "patch", 1, false, true);
    let label = write("evenkeel", "patch", 2, false, true);
    assert_eq!(of(&format!("{foreign}{label}"), &[]).max_out, 0);
    // Deleted: there is nothing left to be out.
    let deleted = write("admin", "delete", 4, false, false);
    assert_eq!(of(&format!("{ours}{deleted}"), &[]).still_out.len(), 0);
}

#[test]
fn a_broken_log_is_an_error_and_an_unfinished_line_is_not() {
    let bad = judge("not json\n".as_bytes(), PRODUCT_USER, &BTreeSet::new()).unwrap_err();
    assert!(bad.to_string().contains("line 1"), "{bad}");
    let whole = RECORDED.lines().count();
    assert_eq!(of(&format!("{RECORDED}{{\"stage\":"), &[]).events, whole);
}

#[test]
fn a_write_that_was_logged_without_its_body_is_an_error() {
    let line = write("evenkeel", "patch", 1, true, true).replace("resourceVersion", "gone");
    assert!(judge(line.as_bytes(), PRODUCT_USER, &BTreeSet::new()).is_err());
}
