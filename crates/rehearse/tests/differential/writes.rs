//! Rows: node patches, Events, deletions of pods, and priority and fairness.

use crate::pair::{JSON_PATCH, Req, Side, delete, get, merge, post, send};
use crate::setup::Both;
use evenkeel_sim::faults::FaultPlan;
use reqwest::Method;
use serde_json::{Value, json};

const NODE: &str = "/api/v1/nodes/node-1";
const CLAIM: &str = "evenkeel.io/claim";
const OTHER: &str = "11111111-2222-3333-4444-555555555555";

pub async fn run(both: &mut Both) {
    merge_patches(both).await;
    json_patches(both).await;
    not_patches(both).await;
    events(both).await;
    deletions(both).await;
    flow_control(both).await;
}

async fn merge_patches(both: &mut Both) {
    let pair = &mut both.pair;
    pair.look("nodes/node-1").await;
    let claim = |side: &Side| {
        merge(
            NODE,
            &json!({"metadata": {"uid": side.uid("nodes/node-1"),
            "resourceVersion": side.version("nodes/node-1"), "annotations": {CLAIM: "{}"}}}),
        )
    };
    pair.row("claim at the version that was read", 200, claim).await;
    pair.row("claim at an old version", 409, claim).await;
    let manager = format!("{NODE}?fieldManager=evenkeel");
    let cordon = |side: &Side| {
        merge(
            manager.clone(),
            &json!({"metadata": {"uid": side.uid("nodes/node-1")}, "spec": {"unschedulable": true}}),
        )
    };
    pair.row("cordon", 200, cordon).await;
    pair.row("cordon again", 200, cordon).await;
    pair.row("nodes that are cordoned", 200, |_| {
        get("/api/v1/nodes?fieldSelector=spec.unschedulable%3Dtrue")
    })
    .await;
    let foreign = json!({"metadata": {"uid": OTHER}, "spec": {"unschedulable": true}});
    pair.row("patch with a foreign UID", 422, |_| merge(NODE, &foreign)).await;
    let foreign_and_old =
        json!({"metadata": {"uid": OTHER, "resourceVersion": "5", "annotations": {"a": "b"}}});
    pair.row("patch with a foreign UID and an old version", 409, |_| merge(NODE, &foreign_and_old))
        .await;
    let no_version =
        json!({"metadata": {"resourceVersion": "nonsense", "annotations": {"a": "b"}}});
    pair.row("patch at a version that is none", 500, |_| merge(NODE, &no_version)).await;
    let release = |side: &Side| {
        merge(
            NODE,
            &json!({"metadata": {"uid": side.uid("nodes/node-1"),
            "resourceVersion": side.version("nodes/node-1"), "annotations": {CLAIM: null}},
            "spec": {"unschedulable": null}}),
        )
    };
    pair.row("release at an old version", 409, release).await;
    both.until_tainted("node-1", true).await;
    let pair = &mut both.pair;
    pair.look("nodes/node-1").await;
    pair.row("release", 200, release).await;
    both.until_tainted("node-1", false).await;
    let pair = &mut both.pair;
    pair.row("patch a node that is not there", 404, |_| merge("/api/v1/nodes/nobody", &foreign))
        .await;
    let labels = json!({"metadata": {"labels": {"tier": "x", "kubernetes.io/hostname": null}}});
    pair.row("set and remove labels", 200, |_| merge(NODE, &labels)).await;
    let taints =
        json!({"spec": {"taints": [{"key": "own", "value": "v", "effect": "NoSchedule"}]}});
    pair.row("set taints", 200, |_| merge(NODE, &taints)).await;
    pair.row("remove taints", 200, |_| merge(NODE, &json!({"spec": {"taints": null}}))).await;
    let dry = format!("{NODE}?dryRun=All");
    pair.row("a dry run of a cordon", 200, |_| {
        merge(dry.clone(), &json!({"spec": {"unschedulable": true}}))
    })
    .await;
    pair.row("after the dry run", 200, |_| get(NODE)).await;
}

async fn json_patches(both: &mut Both) {
    both.until_tainted("node-1", false).await;
    let pair = &mut both.pair;
    let patch = |body: Value| send(Method::PATCH, NODE, JSON_PATCH, &body);
    pair.look("nodes/node-1").await;
    let tested = |side: &Side| {
        patch(json!([
            {"op": "test", "path": "/metadata/resourceVersion", "value": side.version("nodes/node-1")},
            {"op": "test", "path": "/metadata/uid", "value": side.uid("nodes/node-1")},
            {"op": "add", "path": "/spec/unschedulable", "value": true},
        ]))
    };
    pair.row("JSON patch whose test holds", 200, tested).await;
    pair.row("JSON patch whose test fails", 422, tested).await;
    let rows = [
        (
            "JSON patch that replaces",
            200,
            json!([{"op": "replace", "path": "/spec/unschedulable", "value": false}]),
        ),
        (
            "JSON patch that removes what is not there",
            422,
            json!([{"op": "remove", "path": "/metadata/annotations/none"}]),
        ),
        (
            "JSON patch that tests what is not there",
            422,
            json!([{"op": "test", "path": "/metadata/nothing", "value": "x"}]),
        ),
        (
            "JSON patch of an unknown kind",
            422,
            json!([{"op": "fly", "path": "/metadata", "value": "x"}]),
        ),
        ("JSON patch that is no list", 400, json!({})),
    ];
    for (name, code, body) in rows {
        pair.row(name, code, |_| patch(body.clone())).await;
    }
}

async fn not_patches(both: &mut Both) {
    let pair = &mut both.pair;
    let body = json!({"metadata": {"annotations": {"a": "b"}}});
    for kind in ["text/plain", "application/json", "application/json-patch"] {
        let name = format!("patch as {kind}");
        pair.row(&name, 415, |_| send(Method::PATCH, NODE, kind, &body)).await;
    }
    let broken = Req { body: Some((crate::pair::MERGE, "{nope".to_owned())), ..merge(NODE, &body) };
    pair.row("patch that is no JSON", 400, |_| broken.clone()).await;
    pair.row("patch that is a list", 400, |_| merge(NODE, &json!([]))).await;
    pair.row("no right to delete nodes", 403, |_| delete(NODE, &json!({}))).await;
    pair.row("no right to create nodes", 403, |_| post("/api/v1/nodes", &json!({}))).await;
    let budget = "/apis/policy/v1/namespaces/default/poddisruptionbudgets/tight";
    pair.row("no right to patch budgets", 403, |_| merge(budget, &body)).await;
}

async fn events(both: &mut Both) {
    const EVENTS: &str = "/api/v1/namespaces/default/events";
    let pair = &mut both.pair;
    let event = |name: &str| {
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": "default"},
            "involvedObject": {"apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": OTHER},
            "reason": "Cordoned", "message": "why", "type": "Normal",
            "source": {"component": "evenkeel"},
            "reportingComponent": "evenkeel", "reportingInstance": "evenkeel",
            "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00Z", "count": 1,
        })
    };
    pair.row("create an Event", 201, |_| post(EVENTS, &event("node-1.a"))).await;
    pair.row("create it again", 409, |_| post(EVENTS, &event("node-1.a"))).await;
    let later = json!({"lastTimestamp": "2026-01-01T00:01:00Z"});
    pair.row("patch an Event", 200, |_| merge(format!("{EVENTS}/node-1.a"), &later)).await;
    pair.row("patch an Event that is not there", 404, |_| merge(format!("{EVENTS}/none"), &later))
        .await;
    let elsewhere = "/api/v1/namespaces/kube-system/events";
    pair.row("an Event of another namespace", 400, |_| post(elsewhere, &event("node-1.b"))).await;
}

async fn deletions(both: &mut Both) {
    let pair = &mut both.pair;
    let path = "/api/v1/namespaces/default/pods/plain-2";
    let pod = "pods/default/plain-2";
    pair.look(pod).await;
    let options = |preconditions: Value| json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions});
    let stale = json!({"uid": OTHER});
    pair.row("delete a pod of another UID", 409, |_| delete(path, &options(stale.clone()))).await;
    let old = json!({"resourceVersion": "5"});
    pair.row("delete a pod at an old version", 409, |_| delete(path, &options(old.clone()))).await;
    let right = |side: &Side| delete(path, &options(json!({"uid": side.uid(pod)})));
    pair.row("delete a pod", 200, right).await;
    pair.row("delete it again", 200, right).await;
    let nobody = "/api/v1/namespaces/default/pods/nobody";
    pair.row("delete a pod that is not there", 404, |_| delete(nobody, &options(stale.clone())))
        .await;
}

/// A priority level without seats: the real server lets one request through at a time and refuses the others.
async fn flow_control(both: &mut Both) {
    const API: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/node-1";
    let level = json!({"metadata": {"name": "closed"}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": 0, "lendablePercent": 0, "borrowingLimitPercent": 0,
        "limitResponse": {"type": "Reject"}}}});
    both.admin.must(&post(format!("{API}/prioritylevelconfigurations"), &level)).await;
    let schema = json!({"metadata": {"name": "closed"}, "spec": {
        "priorityLevelConfiguration": {"name": "closed"}, "matchingPrecedence": 2, "rules": [{
            "subjects": [{"kind": "User", "user": {"name": "evenkeel"}}],
            "resourceRules": [{"verbs": ["get"], "apiGroups": ["coordination.k8s.io"], "resources": ["leases"],
                "namespaces": ["*"]}]}]}});
    both.admin.must(&post(format!("{API}/flowschemas"), &schema)).await;
    let begun = std::time::Instant::now();
    let real = loop {
        let (real, req) = (&both.pair.real, get(lease));
        let all = futures::future::join_all((0..40).map(|_| real.ask(&req))).await;
        if let Some(refused) = all.into_iter().find(|answer| answer.code != 200) {
            break refused;
        }
        let limit = crate::pair::LIMIT;
        assert!(begun.elapsed() < limit, "waited {limit:?} for a request to be refused");
    };
    both.with_world(|world| {
        world.inject(FaultPlan {
            until_ms: 3_600_000,
            flow_control_per_mille: 1000,
            ..FaultPlan::default()
        });
    });
    let played = both.pair.played.ask(&get(lease)).await;
    both.with_world(|world| world.inject(FaultPlan::default()));
    both.admin.must(&delete(format!("{API}/flowschemas/closed"), &json!({}))).await;
    both.pair.answers("refused by priority and fairness", 429, played, real);
}
