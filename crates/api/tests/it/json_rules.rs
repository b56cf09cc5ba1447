//! Bodies that could be read in two ways are refused; spelling is not held against anybody.

use evenkeel_api::json::{DEPTH_LIMIT, canonical_keys, parse_request, typed};
use evenkeel_api::nodepool::NodePool;
use serde_json::json;

use crate::assert_violation;

#[test]
fn ambiguous_or_broken_bodies() {
    let rows = [
        ("", "body", "is empty"),
        (" \n", "body", "is empty"),
        ("[]", "body", "is not a JSON object"),
        ("{", "body", "is not valid JSON"),
        ("{} {}", "body", "is not valid JSON"),
        (r#"{"a":1,}"#, "body", "is not valid JSON"),
        (r#"{"a":1,"a":2}"#, "a", "is given twice;"),
        (r#"{"a":{"b":1,"B":2}}"#, "a.B", "also as `b`"),
        (r#"{"a":[{"b":1,"B":2}]}"#, "a.[0].B", "also as `b`"),
        (r#"{"k8sTags":{"a":"1","a":"2"}}"#, "k8sTags.a", "is given twice"),
    ];
    for (body, field, text) in rows {
        let field = field.replace(".[", "[");
        assert_violation(&parse_request(body.as_bytes()).unwrap_err(), &field, text, body);
    }
    let found = parse_request(b"{\"a\":\"\xff\"}").unwrap_err();
    assert_violation(&found, "body", "is not valid JSON", "not UTF-8");
    let labels = parse_request(br#"{"k8sTags":{"App":"1","app":"2"}}"#).unwrap();
    assert_eq!(labels, json!({"k8sTags": {"App": "1", "app": "2"}}), "labels have case");
}

#[test]
fn depth_is_limited() {
    let nested = |levels: usize| {
        format!("{}{}", "{\"a\":".repeat(levels - 1), "{}") + &"}".repeat(levels - 1)
    };
    assert!(parse_request(nested(DEPTH_LIMIT).as_bytes()).is_ok());
    let found = parse_request(nested(DEPTH_LIMIT + 1).as_bytes()).unwrap_err();
    assert_violation(&found, "body", "nested deeper than 32 levels", "33");
    let flood = "[".repeat(1_000_000);
    assert!(parse_request(flood.as_bytes()).is_err(), "no stack is exhausted");
}

#[test]
fn known_keys_get_their_spelling_and_labels_keep_theirs() {
    let mut body = json!({"apiversion": "v3", "X": [{"ROOTVOLUME": {"size": 1}}],
        "k8sTags": {"apiversion": "mine"}});
    canonical_keys(&mut body, &["apiVersion", "rootVolume", "k8sTags"]);
    assert_eq!(
        body,
        json!({"apiVersion": "v3", "X": [{"rootVolume": {"size": 1}}],
        "k8sTags": {"apiversion": "mine"}})
    );
}

#[test]
fn a_wrong_type_is_named_with_the_path_as_written_and_without_the_value() {
    let body = json!({"METADATA": {"name": "p"}, "spec": {"NodeTemplate": {"taints": [
        {"key": "k", "effect": "NoSchedule"}, {"key": 77, "effect": "NoSchedule"}]}}});
    let known = &["metadata", "nodeTemplate"];
    let found = typed::<NodePool>(&body, known).unwrap_err();
    let field = "spec.NodeTemplate.taints[1].key";
    assert_violation(&found, field, "has the wrong type; expected a string", "taint");
    assert!(!found[0].to_string().contains("77"));
    let found = typed::<NodePool>(&json!({"metadata": "x", "spec": {}}), known).unwrap_err();
    let text = "has the wrong type; expected a JSON object";
    assert_violation(&found, "metadata", text, "no name of our types");
}
