//! What may differ between the two servers, each with its reason, and how to find what differs beside that.

use serde_json::{Map, Value};

enum How {
    /// Left out on both sides.
    Drop,
    /// Must be there on both sides or on neither; the value may differ.
    Mask,
    /// Of a text only what stands before this, and this, is compared.
    Until(&'static str),
    /// Of a list only the entries whose `type` is one of these are compared.
    Only(&'static [&'static str]),
    /// Of a list all but the entries with this `key` are compared.
    Without(&'static str),
}
use How::{Drop, Mask, Only, Until, Without};

/// A path; `*` is any one key or index. It applies at the end of longer paths, so that it holds for an object
/// alone, in a list and in a watch event.
struct Rule(&'static str, How, &'static str);

const RULES: &[Rule] = &[
    Rule(
        "spec/taints",
        Without("node.kubernetes.io/unschedulable"),
        "follows spec.unschedulable a moment later; not read",
    ),
    // Made anew on every server.
    Rule("metadata/uid", Mask, "random"),
    Rule("metadata/resourceVersion", Mask, "counts the server's own writes"),
    Rule("metadata/creationTimestamp", Mask, "when it was made"),
    Rule("metadata/deletionTimestamp", Mask, "when deletion was asked for"),
    Rule("metadata/continue", Mask, "opaque to clients"),
    Rule("conditions/*/lastTransitionTime", Drop, "when it happened; not read"),
    Rule("conditions/*/lastProbeTime", Drop, "always null; not read"),
    Rule("conditions/*/lastHeartbeatTime", Drop, "when it happened; not read"),
    Rule("disruptedPods/*", Mask, "when it was evicted"),
    Rule("spec/renewTime", Mask, "when it was renewed"),
    Rule("involvedObject/uid", Mask, "random"),
    // Bookkeeping that a client of ours never reads.
    Rule("metadata/managedFields", Drop, "server-side apply's records; not read"),
    Rule(
        "annotations/node.alpha.kubernetes.io~ttl",
        Drop,
        "set by a controller for kubelets; not read",
    ),
    Rule("annotations/testbed.evenkeel.io~ready-after", Drop, "an order to KWOK"),
    Rule(
        "metadata/generation",
        Drop,
        "of Pods since 1.33; that of budgets is compared by a row of its own",
    ),
    // What the real server and KWOK add to a pod.
    Rule("spec/dnsPolicy", Drop, "defaulted; not read"),
    Rule("spec/schedulerName", Drop, "defaulted; not read"),
    Rule("spec/securityContext", Drop, "defaulted; not read"),
    Rule("spec/tolerations", Drop, "defaulted by admission; not read"),
    Rule("spec/priority", Drop, "defaulted by admission; not read"),
    Rule("spec/preemptionPolicy", Drop, "defaulted by admission; not read"),
    Rule("spec/enableServiceLinks", Drop, "defaulted; not read"),
    Rule("containers/*/resources", Drop, "defaulted; not read"),
    Rule("containers/*/terminationMessagePath", Drop, "defaulted; not read"),
    Rule("containers/*/terminationMessagePolicy", Drop, "defaulted; not read"),
    Rule("containers/*/imagePullPolicy", Drop, "defaulted; not read"),
    Rule("status/qosClass", Drop, "computed; not read"),
    Rule("status/observedGeneration", Drop, "of Pods since 1.33; of budgets see generation"),
    Rule("status/hostIP", Drop, "a kubelet's; not read of pods"),
    Rule("status/hostIPs", Drop, "a kubelet's; not read of pods"),
    Rule("status/podIP", Drop, "a kubelet's; not read"),
    Rule("status/podIPs", Drop, "a kubelet's; not read"),
    Rule("status/startTime", Drop, "a kubelet's; not read"),
    Rule("status/containerStatuses", Drop, "a kubelet's; not read"),
    Rule(
        "status/conditions",
        Only(&["Ready", "DisruptionTarget", "DisruptionAllowed"]),
        "kubelet and scheduler say more than is read",
    ),
    Rule("conditions/*/observedGeneration", Drop, "of Pods since 1.33; not read"),
    // Words.
    Rule("status/reason", Mask, "of an access review: names the binding that grants it"),
    Rule("gitCommit", Mask, "of the build"),
    Rule("gitTreeState", Mask, "of the build"),
    Rule("buildDate", Mask, "of the build"),
    Rule("goVersion", Mask, "of the build"),
    Rule("emulationMajor", Drop, "compatibility versions; not read"),
    Rule("emulationMinor", Drop, "compatibility versions; not read"),
    Rule("minCompatibilityMajor", Drop, "compatibility versions; not read"),
    Rule("minCompatibilityMinor", Drop, "compatibility versions; not read"),
    Rule("message", Until("error decoding patch: "), "then the words of Go's JSON parser"),
    Rule("message", Until("continue key is not valid: "), "then the words of Go's JSON parser"),
];

/// Header `Retry-After` of priority and fairness is the server's estimate; only its presence is compared.
pub const ESTIMATED_RETRY: &str = "Too many requests, please try again later.\n";

/// The value as far as it is compared.
pub fn plain(value: &Value) -> Value {
    walk(value, &mut Vec::new()).unwrap_or(Value::Null)
}

fn applies(rule: &str, path: &[String]) -> bool {
    let parts: Vec<&str> = rule.split('/').collect();
    path.len() >= parts.len()
        && parts
            .iter()
            .zip(&path[path.len() - parts.len()..])
            .all(|(part, key)| *part == "*" || part.replace('~', "/") == *key)
}

fn walk(value: &Value, path: &mut Vec<String>) -> Option<Value> {
    let mut value = value.clone();
    for Rule(_, how, _) in RULES.iter().filter(|rule| applies(rule.0, path)) {
        match (how, &mut value) {
            (Drop, _) => return None,
            (Mask, Value::Null) => {}
            (Mask, _) => return Some("<any>".into()),
            (Until(mark), Value::String(text)) => {
                if let Some(at) = text.find(mark) {
                    text.truncate(at + mark.len());
                }
            }
            (Only(types), Value::Array(list)) => list
                .retain(|entry| entry["type"].as_str().is_some_and(|word| types.contains(&word))),
            (Without(key), Value::Array(list)) => list.retain(|entry| entry["key"] != **key),
            _ => {}
        }
    }
    let mut inside = |key: String, value: &Value| {
        path.push(key);
        let found = walk(value, path);
        path.pop();
        found
    };
    Some(match &value {
        Value::Object(map) => {
            let kept: Map<_, _> = map
                .iter()
                .filter_map(|(key, value)| Some((key.clone(), inside(key.clone(), value)?)))
                .collect();
            // Maps that held nothing but what is dropped.
            let optional = ["annotations", "labels"].map(Some);
            if kept.is_empty() && optional.contains(&path.last().map(String::as_str)) {
                return None;
            }
            kept.into()
        }
        Value::Array(list) => {
            let kept = list.iter().enumerate();
            let kept: Vec<_> = kept.filter_map(|(n, value)| inside(n.to_string(), value)).collect();
            let optional = ["conditions", "taints"].map(Some);
            if kept.is_empty() && optional.contains(&path.last().map(String::as_str)) {
                return None;
            }
            kept.into()
        }
        Value::String(text) => words(text).into(),
        other => other.clone(),
    })
}

/// Takes UIDs and versions out of a sentence.
fn words(text: &str) -> String {
    const OLD: &str = "too old resource version: ";
    if text.starts_with(OLD) {
        return format!("{OLD}<any>");
    }
    if let Some((before, after)) = text.split_once("ResourceVersion in record (") {
        let after = after.trim_start_matches(|c: char| c.is_ascii_digit());
        return format!("{before}ResourceVersion in record (<any>{after}");
    }
    let is_uid = |word: &str| {
        word.len() == 36 && word.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
    };
    let mut out = String::new();
    let mut word = String::new();
    for c in text.chars().chain(['\0']) {
        if c.is_ascii_alphanumeric() || c == '-' {
            word.push(c);
            continue;
        }
        out.push_str(if is_uid(&word) { "<uid>" } else { &word });
        word.clear();
        if c != '\0' {
            out.push(c);
        }
    }
    out
}

/// Where two values differ, one line each: path, played, real.
pub fn differences(played: &Value, real: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("", Some(played), Some(real), &mut found);
    found
}

fn compare(path: &str, played: Option<&Value>, real: Option<&Value>, found: &mut Vec<String>) {
    match (played, real) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
            for key in keys {
                compare(&format!("{path}/{key}"), a.get(key), b.get(key), found);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            for index in 0..a.len().max(b.len()) {
                compare(&format!("{path}/{index}"), a.get(index), b.get(index), found);
            }
        }
        (a, b) if a == b => {}
        (a, b) => {
            let shown =
                |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
            found.push(format!("{path}: played {}, real {}", shown(a), shown(b)));
        }
    }
}

#[test]
fn every_rule_says_why() {
    assert!(RULES.iter().all(|Rule(path, _, why)| !path.is_empty() && why.len() > 5));
}

#[test]
fn a_difference_is_found_and_what_may_differ_is_not() {
    use serde_json::json;
    let a = json!({"metadata": {"uid": "a", "name": "n"}, "spec": {"x": 1}});
    let b = json!({"metadata": {"uid": "b", "name": "n", "managedFields": []}, "spec": {"x": 1}});
    assert_eq!(differences(&plain(&a), &plain(&b)), Vec::<String>::new());
    let without_uid = json!({"metadata": {"name": "n"}, "spec": {"x": 2}});
    assert_eq!(differences(&plain(&a), &plain(&without_uid)).len(), 2);
}
