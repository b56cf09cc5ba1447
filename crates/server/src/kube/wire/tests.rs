#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;
use serde_json::json;

const CALL: Call<'_> = Call { verb: "patch", resource: "nodes", name: "n1" };

fn answer(code: u16, body: &str) -> Answer {
    Answer {
        status: StatusCode::from_u16(code).unwrap(),
        retry_after_s: None,
        body: Bytes::copy_from_slice(body.as_bytes()),
    }
}

#[test]
fn statuses_become_faults() {
    let status =
        |code: u16| json!({"kind": "Status", "code": code, "message": "why so"}).to_string();
    let kind = |f: &Fault| match f {
        Fault::Transient { .. } => "transient",
        Fault::Busy { .. } => "busy",
        Fault::Permanent { .. } => "permanent",
        Fault::Conflict { .. } => "conflict",
        Fault::Gone { .. } => "gone",
    };
    let uid = json!({"kind": "Status", "code": 422, "message": "invalid",
        "details": {"causes": [{"field": "metadata.uid", "message": "field is immutable"}]}})
    .to_string();
    let gone = |name: &str, kind: &str| {
        json!({"kind": "Status", "code": 404, "message": "why so", "reason": "NotFound",
            "details": {"name": name, "kind": kind}})
        .to_string()
    };
    let rows = [
        (400, status(400), "permanent", "why so"),
        (401, status(401), "permanent", "credential"),
        (
            403,
            status(403),
            "permanent",
            "patch nodes (403); apply deploy/rbac.yaml to the cluster: why so",
        ),
        (404, gone("n1", "nodes"), "gone", "patch nodes n1: not found: why so"),
        (404, status(404), "transient", "about this object: why so"),
        (404, gone("", ""), "transient", "about this object: why so"),
        (404, gone("n2", "nodes"), "transient", "about this object"),
        (404, gone("n1", "namespaces"), "transient", "about this object"),
        (404, "<html>no such page</html>".to_owned(), "transient", "not from a Kubernetes"),
        (409, status(409), "conflict", "why so"),
        (410, status(410), "transient", "410"),
        (422, status(422), "permanent", "why so"),
        (422, uid, "conflict", "another object has this name now"),
        (429, "slow down".to_owned(), "busy", "429"),
        (500, status(500), "transient", "why so"),
        (503, String::new(), "transient", "503"),
        (504, status(504), "transient", "why so"),
        (301, String::new(), "permanent", "301"),
    ];
    for (code, body, expected, words) in rows {
        let fault = answer(code, &body).fault(&CALL);
        assert_eq!(kind(&fault), expected, "{code}: {fault}");
        assert!(fault.to_string().contains(words), "{code}: {fault}");
    }
}

#[test]
fn names_that_would_change_a_path_are_refused() {
    for good in ["n1", "node-1.example.com", "a:b"] {
        assert!(segment(&CALL, good).is_ok(), "{good}");
    }
    for bad in ["", "a/b", "..", ".", "a?b", "a%2f", "a b", "a\r\nb", &"x".repeat(300)] {
        assert!(matches!(segment(&CALL, bad), Err(Fault::Permanent { .. })), "{bad}");
    }
}
