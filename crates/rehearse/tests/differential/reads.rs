//! Rows: reads, lists, pages, selectors, rights, and who is not let in.

use crate::pair::{Req, get, post};
use crate::setup::Both;
use serde_json::{Value, json};

const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
const BUDGETS: &str = "/apis/policy/v1/poddisruptionbudgets";

pub async fn run(both: &mut Both) {
    both.set_pod("pending-0", "Pending", false).await;
    whole(both).await;
    pages(both).await;
    refused(both).await;
    rights(both).await;
}

async fn whole(both: &mut Both) {
    let pair = &mut both.pair;
    pair.row("version", 200, |_| get("/version")).await;
    pair.settle("list nodes", "/api/v1/nodes").await;
    pair.settle("list pods", "/api/v1/pods").await;
    pair.settle("list budgets", BUDGETS).await;
    let generations = |list: &Value| -> Value {
        let all = list["items"].as_array().unwrap().iter();
        all.map(|b| {
            json!([
                b["metadata"]["name"],
                b["metadata"]["generation"],
                b["status"]["observedGeneration"]
            ])
        })
        .collect()
    };
    pair.row("list budgets again", 200, |_| get(BUDGETS)).await;
    let (played, real) = (generations(&pair.played.last), generations(&pair.real.last));
    pair.values("generations of budgets, and which are observed", &played, &real);
    let selected = [
        ("pods of a node", "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-1"),
        ("bound pods", "/api/v1/pods?fieldSelector=spec.nodeName!%3D"),
        ("pods of a namespace", "/api/v1/namespaces/every/pods"),
        ("pods of no namespace", "/api/v1/namespaces/nowhere/pods"),
        ("pods by phase", "/api/v1/pods?fieldSelector=status.phase%3DPending"),
        ("pods by label", "/api/v1/pods?labelSelector=app%3Dplain"),
        ("pods by labels", "/api/v1/pods?labelSelector=app+in+(plain,loose),!nothing"),
        ("pods with limit and selector", "/api/v1/pods?limit=1&labelSelector=app%3Dplain"),
        ("nodes that are cordoned", "/api/v1/nodes?fieldSelector=spec.unschedulable%3Dtrue"),
        ("list of the cache", "/api/v1/nodes?resourceVersion=0"),
    ];
    for (name, path) in selected {
        pair.row(name, 200, |_| get(path)).await;
    }
    pair.row("get a node", 200, |_| get("/api/v1/nodes/node-1")).await;
    pair.row("get a node that is not there", 404, |_| get("/api/v1/nodes/nobody")).await;
    pair.row("get a lease", 200, |_| get(format!("{LEASES}/node-1"))).await;
    pair.row("get a lease that is not there", 404, |_| get(format!("{LEASES}/nobody"))).await;
    let elsewhere = "/apis/coordination.k8s.io/v1/namespaces/default/leases/node-1";
    pair.row("get a lease of another namespace", 404, |_| get(elsewhere)).await;
}

fn next(last: &Value, path: &str) -> Req {
    let token = last["metadata"]["continue"].as_str().unwrap_or("missing");
    get(format!("{path}&continue={token}"))
}

async fn pages(both: &mut Both) {
    let two = "/api/v1/nodes?limit=2";
    let pair = &mut both.pair;
    pair.row("first page", 200, |_| get(two)).await;
    let versions = |last: &Value| last["metadata"]["resourceVersion"].clone();
    let first = (versions(&pair.played.last), versions(&pair.real.last));
    pair.row("last page", 200, |side| next(&side.last, two)).await;
    let last = (versions(&pair.played.last), versions(&pair.real.last));
    let same = |a: &Value, b: &Value| json!(a == b);
    pair.values("pages are of one version", &same(&first.0, &last.0), &same(&first.1, &last.1));
    pair.row("a page larger than the list", 200, |_| get("/api/v1/nodes?limit=500")).await;
    pair.row("a continue token that is none", 400, |_| {
        get("/api/v1/nodes?limit=1&continue=nonsense")
    })
    .await;
    pair.row("a limit that is none", 400, |_| get("/api/v1/nodes?limit=many")).await;
    expired(both).await;
}

/// The real server answers pages of most kinds from memory, also when etcd has forgotten them; Events it always
/// reads from etcd. So the expired list is one of Events there.
async fn expired(both: &mut Both) {
    const EVENTS: &str = "/api/v1/namespaces/default/events?limit=1";
    for name in ["one", "two", "three"] {
        let event = json!({"metadata": {"name": name}, "involvedObject": {"namespace": "default"}, "reason": "Test"});
        both.admin.must(&post("/api/v1/namespaces/default/events", &event)).await;
    }
    let (played, real) = (&both.pair.played, &both.admin);
    const NODES: &str = "/api/v1/nodes?limit=1";
    let first = (played.must(&get(NODES)).await, real.must(&get(EVENTS)).await);
    let write = json!({"metadata": {"annotations": {"version": "next"}}});
    for side in [played, real] {
        side.must(&crate::pair::merge("/api/v1/nodes/node-3", &write)).await;
    }
    both.with_world(evenkeel_sim::World::compact);
    both.bed.compact().await;
    let expired =
        (played.ask(&next(&first.0, NODES)).await, real.ask(&next(&first.1, EVENTS)).await);
    let codes = (json!(expired.0.code), json!(expired.1.code));
    let rest = (
        played.must(&next(&expired.0.body, NODES)).await,
        real.must(&next(&expired.1.body, EVENTS)).await,
    );
    let shape = |list: &Value| {
        let left = list["metadata"].get("continue").is_some();
        json!({"items": list["items"].as_array().map(Vec::len), "more": left})
    };
    let pair = &mut both.pair;
    pair.values("an expired page: status", &codes.0, &codes.1);
    pair.values("an expired page: 410", &codes.1, &json!(410));
    pair.values("an expired page: body", &expired.0.body, &expired.1.body);
    pair.values("an expired page: going on all the same", &shape(&rest.0), &shape(&rest.1));
}

async fn refused(both: &mut Both) {
    let pair = &mut both.pair;
    let strange = |path: &'static str, token| Req { token: Some(token), ..get(path) };
    pair.row("a wrong token", 401, |_| strange("/api/v1/nodes", "wrong")).await;
    pair.row("a wrong token in a watch", 401, |_| strange("/api/v1/pods?watch=1", "wrong")).await;
    let rows = [
        ("a field that cannot be selected", 400, "/api/v1/nodes?fieldSelector=spec.nope%3D1"),
        ("a field selector that is none", 400, "/api/v1/pods?fieldSelector=nonsense"),
        ("a label selector that is none", 400, "/api/v1/pods?labelSelector=a+b"),
        ("no right to read pods one by one", 403, "/api/v1/namespaces/default/pods/plain-0"),
        ("no right to Secrets", 403, "/api/v1/secrets"),
        ("no right to Secrets of a namespace", 403, "/api/v1/namespaces/default/secrets"),
        ("no right to watch Leases", 403, "/apis/coordination.k8s.io/v1/leases?watch=1"),
        ("no right to a group", 403, "/apis/apps/v1/namespaces/default/deployments/web"),
        ("a path that is none", 404, "/api/v9/nodes"),
    ];
    for (name, code, path) in rows {
        pair.row(name, code, |_| get(path)).await;
    }
}

async fn rights(both: &mut Both) {
    let ask = |verb: &str, group: &str, resource: &str, sub: &str, namespace: &str| {
        let body = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {
                "group": group, "resource": resource, "subresource": sub, "verb": verb, "namespace": namespace,
            }},
        });
        post(REVIEWS, &body)
    };
    let rows = [
        ("patch", "", "nodes", "", ""),
        ("watch", "", "pods", "", ""),
        ("create", "", "pods", "eviction", ""),
        ("list", "policy", "poddisruptionbudgets", "", ""),
        ("get", "coordination.k8s.io", "leases", "", "kube-node-lease"),
        ("create", "", "events", "", "default"),
        ("get", "", "pods", "", ""),
        ("get", "", "secrets", "", "default"),
        ("delete", "", "nodes", "", ""),
        ("update", "policy", "poddisruptionbudgets", "", ""),
    ];
    for (verb, group, resource, sub, namespace) in rows {
        let name = format!("may we {verb} {resource} {sub}");
        both.pair.row(&name, 201, |_| ask(verb, group, resource, sub, namespace)).await;
    }
}
