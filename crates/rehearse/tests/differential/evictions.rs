//! Rows: the eviction API. First with the budgets as the controllers of each side count them, then, with the real
//! controllers stopped, with a status that they would correct.

use crate::pair::{MERGE, Req, Side, post, send};
use crate::setup::Both;
use evenkeel_engine::ids::ObjectKey;
use evenkeel_sim::objects::BudgetStatus;
use reqwest::Method;
use serde_json::{Map, Value, json};

const BUDGETS: &str = "/apis/policy/v1/poddisruptionbudgets";
const OTHER: &str = "11111111-2222-3333-4444-555555555555";
/// `MaxDisruptedPodSize` of the API server.
const DISRUPTED_MAX: usize = 2000;

/// An eviction as the product sends it.
fn evict(pod: &str, options: &Value) -> Req {
    let (namespace, name) = pod.split_once('/').unwrap();
    let body = json!({
        "apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": name, "namespace": namespace}, "deleteOptions": options,
    });
    post(format!("/api/v1/namespaces/{namespace}/pods/{name}/eviction"), &body)
}

pub async fn run(both: &mut Both) {
    for (pod, phase) in [("spare-1", "Running"), ("short-1", "Running"), ("always-1", "Running")] {
        both.set_pod(pod, phase, false).await;
    }
    both.set_pod("pending-0", "Pending", false).await;
    both.set_pod("finished-0", "Succeeded", false).await;
    both.pair.settle("budgets are counted alike", BUDGETS).await;
    counted(both).await;
    both.pair.settle("budgets after the evictions", BUDGETS).await;
    both.bed.freeze("kube-controller-manager");
    set_up(both).await;
}

async fn row(both: &mut Both, name: &str, code: u16, pod: &str) {
    for (dry, what) in [(true, " (dry run)"), (false, "")] {
        let name = format!("evict {name}{what}");
        let looked = format!("pods/{pod}");
        both.pair.look(&looked).await;
        let req = |side: &Side| {
            let mut options = json!({"preconditions": {"uid": side.uid(&looked)}});
            if dry {
                options["dryRun"] = json!(["All"]);
            }
            evict(pod, &options)
        };
        both.pair.row(&name, code, req).await;
    }
}

async fn counted(both: &mut Both) {
    let rows = [
        ("a pod without a budget", 201, "default/plain-0"),
        ("a pod without a budget once more", 201, "default/plain-0"),
        ("a ready pod, none allowed", 429, "default/tight-0"),
        ("a ready pod, one allowed", 201, "default/loose-0"),
        ("a pod that is not ready, enough healthy", 201, "default/spare-1"),
        ("a pod that is not ready, too few healthy", 429, "default/short-1"),
        ("a ready pod, too few healthy", 429, "default/short-0"),
        ("a pod that is not ready, AlwaysAllow", 201, "default/always-1"),
        ("a ready pod, AlwaysAllow, none allowed", 429, "default/always-0"),
        ("a pending pod, none allowed", 201, "default/pending-0"),
        ("a finished pod, none allowed", 201, "default/finished-0"),
        ("a pod under two budgets", 500, "default/twice-0"),
        ("under the empty selector", 201, "every/some-0"),
        ("under a budget that selects nothing", 201, "every-none/alone-0"),
        ("a pod with local data", 201, "default/scratch-0"),
    ];
    for (name, code, pod) in rows {
        row(both, name, code, pod).await;
    }
    both.pair.settle("the empty selector's budget is used up", BUDGETS).await;
    row(both, "the second under the empty selector", 429, "every/some-1").await;
    row(both, "a terminating pod, none allowed", 201, "default/loose-0").await;
    named(both).await;
    stale(both).await;
}

/// Name, UID and version in the call.
async fn named(both: &mut Both) {
    let pair = &mut both.pair;
    let other_name = Req {
        path: "/api/v1/namespaces/default/pods/plain-1/eviction".to_owned(),
        ..evict("default/plain-0", &json!({}))
    };
    pair.row("evict: another name in the body", 400, |_| other_name.clone()).await;
    pair.row("evict a pod that is not there", 404, |_| evict("default/nobody", &json!({}))).await;
    let foreign = json!({"preconditions": {"uid": OTHER}});
    pair.row("evict another UID, no budget", 409, |_| evict("default/plain-1", &foreign)).await;
    let old = json!({"preconditions": {"resourceVersion": "5"}});
    pair.row("evict an old version, no budget", 409, |_| evict("default/plain-1", &old)).await;
    let dry = |_: &Side| {
        let req = evict("default/dry-0", &json!({}));
        Req { path: format!("{}?dryRun=All&fieldManager=evenkeel", req.path), ..req }
    };
    pair.row("evict with dryRun in the query", 201, dry).await;
    let none =
        Req { body: Some(("text/plain", "{}".to_owned())), ..evict("default/plain-1", &json!({})) };
    pair.row("evict as text", 415, |_| none.clone()).await;
    pair.look("pods/default/dry-0").await;
    let list = "/api/v1/namespaces/default/pods?labelSelector=app%3Ddry";
    pair.row("dry runs left the pods as they were", 200, |_| crate::pair::get(list)).await;
}

/// A stale UID is refused, but the budget has paid.
async fn stale(both: &mut Both) {
    let foreign = json!({"preconditions": {"uid": OTHER}});
    both.pair
        .row("evict another UID under a budget", 409, |_| evict("default/burned-0", &foreign))
        .await;
    both.pair.settle("the budget has paid for it", BUDGETS).await;
    row(both, "the right pod, now that the budget is used up", 429, "default/burned-1").await;
}

async fn set_up(both: &mut Both) {
    status(both, "fresh", |s| s.observed_generation = 0).await;
    row(both, "while the budget is still being processed", 429, "default/fresh-0").await;
    let names = || (0..=DISRUPTED_MAX).map(|n| format!("gone-{n}"));
    let at = both.with_world(|world| world.now());
    status(both, "crowded", |s| {
        s.disrupted = names().map(|name| (name, at)).collect();
    })
    .await;
    row(both, "with too many disrupted pods", 403, "default/crowded-0").await;
    status(both, "enough", |s| {
        (s.allowed, s.current, s.desired) = (0, 2, 1);
    })
    .await;
    row(both, "none allowed although enough are healthy", 429, "default/enough-0").await;
    let body = json!({"status": {"disruptionsAllowed": -1}});
    let refused = both.admin.ask(&status_patch("dry", &body)).await;
    // So nobody can set this row up: `disruptionsAllowed` below 0 answers 403 in the code of both.
    both.pair.values("a negative allowance cannot be stored", &json!(refused.code), &json!(422));
}

fn status_patch(name: &str, body: &Value) -> Req {
    let path = format!("/apis/policy/v1/namespaces/default/poddisruptionbudgets/{name}/status");
    send(Method::PATCH, path, MERGE, body)
}

/// Gives a budget the same status on both sides.
async fn status(both: &Both, name: &str, change: impl FnOnce(&mut BudgetStatus)) {
    let key = ObjectKey::new("default", name);
    let status = both.with_world(|world| {
        world.set_budget_status(&key, change).unwrap();
        world.budget(&key).unwrap().status.clone()
    });
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let disrupted: Map<String, Value> =
        status.disrupted.keys().map(|name| (name.clone(), now.clone().into())).collect();
    let body = json!({"status": {
        "observedGeneration": status.observed_generation,
        "disruptionsAllowed": status.allowed,
        "currentHealthy": status.current,
        "desiredHealthy": status.desired,
        "disruptedPods": disrupted,
    }});
    both.admin.must(&status_patch(name, &body)).await;
}
