#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;
use bytes::Bytes;
use http::StatusCode;

fn judged(code: u16, body: &Value, retry_after_s: Option<u32>) -> Result<EvictAnswer, Fault> {
    let answer = Answer {
        status: StatusCode::from_u16(code).unwrap(),
        retry_after_s,
        body: Bytes::from(body.to_string()),
    };
    let call = Call { verb: "create", resource: "pods/eviction", name: "d/p" };
    eviction_answer(&call, &answer)
}

fn status(code: u16, message: &str, cause: &str, said: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "code": code, "message": message,
        "details": {"causes": [{"reason": cause, "message": said}]}})
}

const VIOLATES: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
const NEEDS: &str = "The disruption budget web needs 2 healthy pods and has 2 currently";

#[test]
fn the_answers_of_the_eviction_api() {
    let refused = |message: &str, retry_after_s| EvictAnswer::Refused {
        message: message.into(),
        retry_after_s,
    };
    let impossible = |message: &str| EvictAnswer::Impossible { message: message.into() };
    let two = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
    let uid = "Operation cannot be fulfilled on Pod \"p\": Precondition failed: UID in precondition: a, UID in object meta: b";
    let hook = "admission webhook \"x.example.com\" denied the request: evacuating";
    let rows = [
        (201, json!({"kind": "Status", "status": "Success"}), None, EvictAnswer::Accepted),
        (200, json!({}), None, EvictAnswer::Accepted),
        (
            404,
            json!({"kind": "Status", "code": 404, "message": "pods \"p\" not found",
                "reason": "NotFound", "details": {"name": "p", "kind": "pods"}}),
            None,
            EvictAnswer::Gone,
        ),
        (409, status(409, uid, "", ""), None, EvictAnswer::Gone),
        (
            429,
            status(429, VIOLATES, "DisruptionBudget", NEEDS),
            None,
            refused(&format!("{VIOLATES} {NEEDS}"), None),
        ),
        (
            429,
            status(429, VIOLATES, "DisruptionBudget", NEEDS),
            Some(10),
            refused(&format!("{VIOLATES} {NEEDS}"), Some(10)),
        ),
        (429, status(429, hook, "", ""), None, refused(hook, None)),
        (
            403,
            status(403, "namespace goes", "NamespaceTerminating", ""),
            None,
            refused("namespace goes", None),
        ),
        (
            403,
            status(403, "pdb disruptions allowed is negative", "", ""),
            None,
            impossible("pdb disruptions allowed is negative"),
        ),
        (500, status(500, two, "", ""), None, impossible(two)),
        (
            400,
            status(400, "name in URL does not match", "", ""),
            None,
            impossible("name in URL does not match"),
        ),
        (403, status(403, hook, "", ""), None, impossible(hook)),
    ];
    for (code, body, retry, expected) in rows {
        assert_eq!(judged(code, &body, retry).unwrap(), expected, "{code} {body}");
    }
}

#[test]
fn what_says_nothing_about_the_pod_is_a_fault() {
    let rbac = "pods \"p\" is forbidden: User \"x\" cannot create resource \"pods/eviction\" in API group \"\"";
    let rows = [
        (429, json!("Too many requests, please try again later."), "busy"),
        (500, status(500, "etcdserver: request timed out", "", ""), "transient"),
        (
            504,
            status(504, "couldn't update PodDisruptionBudget due to conflicts", "", ""),
            "transient",
        ),
        (404, json!("404 page not found"), "transient"),
        (404, status(404, "the server could not find the requested resource", "", ""), "transient"),
        (401, status(401, "Unauthorized", "", ""), "permanent"),
        (403, status(403, rbac, "", ""), "permanent"),
        (409, status(409, "the object has been modified", "", ""), "conflict"),
    ];
    for (code, body, expected) in rows {
        let kind = match judged(code, &body, Some(1)).unwrap_err() {
            Fault::Transient { .. } => "transient",
            Fault::Busy { .. } => "busy",
            Fault::Permanent { .. } => "permanent",
            Fault::Conflict { .. } => "conflict",
            Fault::Gone { .. } => "gone",
        };
        assert_eq!(kind, expected, "{code} {body}");
    }
}
