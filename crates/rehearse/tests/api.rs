//! A real Kubernetes client against the played API server.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use evenkeel_rehearse::{Rehearsal, RehearseOptions};
use evenkeel_sim::Scenario;
use evenkeel_sim::faults::{FaultPlan, Lag};
use evenkeel_sim::objects::{Amount, Kind, Limit, Workload};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Node, ObjectReference, Pod};
use k8s_openapi::api::policy::v1::{Eviction, PodDisruptionBudget};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta, Preconditions};
use kube::api::{ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt as _};
use serde_json::json;
use std::time::Duration;
use tokio::time::timeout;

/// Longest wait for anything in these tests.
const LIMIT: Duration = Duration::from_secs(20);

fn scenario() -> Scenario {
    Scenario::new(1, 3)
        .with(Workload::new("web", Kind::Deployment, 4))
        .guarded("web", Limit::MaxUnavailable(Amount::Pods(1)))
        .with(Workload::new("agent", Kind::DaemonSet, 0))
}

async fn start(scenario: Scenario) -> (Rehearsal, Client) {
    let options = RehearseOptions { time_scale: 10.0, ..RehearseOptions::default() };
    let rehearsal = Rehearsal::start(scenario, options).await.unwrap();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let kubeconfig = Kubeconfig::from_yaml(&rehearsal.kubeconfig_yaml()).unwrap();
    let mut config =
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    // The client's own retries would hide what the server said.
    config.default_retry = false;
    (rehearsal, Client::try_from(config).unwrap())
}

fn status(error: kube::Error) -> (u16, String, String) {
    match error {
        kube::Error::Api(status) => (status.code, status.reason.clone(), status.message.clone()),
        other => panic!("{other:?}"),
    }
}

async fn evict(
    client: &Client,
    pod: &Pod,
    uid: Option<String>,
    dry_run: bool,
) -> Result<(), kube::Error> {
    let (name, namespace) = (pod.name_any(), pod.namespace().unwrap());
    let eviction = Eviction {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        delete_options: Some(DeleteOptions {
            preconditions: Some(Preconditions { uid, resource_version: None }),
            dry_run: dry_run.then(|| vec!["All".to_owned()]),
            ..DeleteOptions::default()
        }),
    };
    let request =
        http::Request::post(format!("/api/v1/namespaces/{namespace}/pods/{name}/eviction"))
            .header("content-type", "application/json")
            .body(serde_json::to_vec(&eviction).unwrap())
            .unwrap();
    client.request::<serde_json::Value>(request).await.map(drop)
}

#[tokio::test]
async fn lists_pages_and_reads() {
    let (rehearsal, client) = start(scenario()).await;
    assert_eq!(client.apiserver_version().await.unwrap().minor, "36");
    let nodes: Api<Node> = Api::all(client.clone());
    let all = nodes.list(&ListParams::default()).await.unwrap();
    assert_eq!(all.items.len(), 3);
    let info = all.items[0].status.as_ref().unwrap().node_info.as_ref().unwrap();
    let world = rehearsal.world();
    let id = world.lock().unwrap().nodes().next().unwrap().machine_id.to_string();
    assert_eq!(info.machine_id, id);
    let address = &all.items[0].status.as_ref().unwrap().addresses.as_ref().unwrap()[0].address;
    let host =
        rehearsal.hosts().iter().find(|h| h.node.as_str() == all.items[0].name_any()).unwrap();
    assert_eq!(*address, host.addr.ip().to_string(), "the node's address is its host's");

    let pods: Api<Pod> = Api::all(client.clone());
    let whole: Vec<_> =
        pods.list(&ListParams::default()).await.unwrap().iter().map(|p| p.name_any()).collect();
    let mut paged = Vec::new();
    let mut params = ListParams::default().limit(3);
    loop {
        let page = pods.list(&params).await.unwrap();
        assert!(page.items.len() <= 3);
        paged.extend(page.iter().map(|pod| pod.name_any()));
        match page.metadata.continue_ {
            Some(token) => params.continue_token = Some(token),
            None => break,
        }
    }
    assert_eq!(paged, whole);
    let on = pods.list(&ListParams::default().fields("spec.nodeName=node-1")).await.unwrap();
    assert!(!on.items.is_empty());
    assert!(on.iter().all(|pod| pod.spec.as_ref().unwrap().node_name.as_deref() == Some("node-1")));
    let agents = pods.list(&ListParams::default().labels("app=agent")).await.unwrap();
    assert_eq!(agents.items.len(), 3);
    assert_eq!(agents.items[0].owner_references()[0].kind, "DaemonSet");

    let budgets: Api<PodDisruptionBudget> = Api::all(client.clone());
    let budget = budgets.list(&ListParams::default()).await.unwrap().items.remove(0);
    assert_eq!(budget.status.unwrap().disruptions_allowed, 1);
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    assert!(leases.get("node-1").await.unwrap().spec.unwrap().renew_time.is_some());
    let (code, reason, message) = status(nodes.get("nobody").await.unwrap_err());
    assert_eq!(
        (code, reason.as_str(), message.as_str()),
        (404, "NotFound", "nodes \"nobody\" not found")
    );
    let bad = status(pods.list(&ListParams::default().fields("spec.nope=1")).await.unwrap_err());
    assert_eq!((bad.0, bad.2.as_str()), (400, "field label not supported: spec.nope"));
}

#[tokio::test]
async fn patches_are_conditional() {
    let (rehearsal, client) = start(scenario()).await;
    let nodes: Api<Node> = Api::all(client);
    let node = nodes.get("node-1").await.unwrap();
    let merge = |body: serde_json::Value| {
        let nodes = nodes.clone();
        async move { nodes.patch("node-1", &PatchParams::default(), &Patch::Merge(body)).await }
    };
    let version = node.resource_version().unwrap();
    let cordon = json!({"metadata": {"resourceVersion": version, "annotations": {"a": "b"}},
        "spec": {"unschedulable": true}});
    let after = merge(cordon.clone()).await.unwrap();
    assert_eq!(after.spec.as_ref().unwrap().unschedulable, Some(true));
    assert_eq!(after.annotations()["a"], "b");
    let (code, reason, message) = status(merge(cordon).await.unwrap_err());
    assert_eq!((code, reason.as_str()), (409, "Conflict"));
    assert_eq!(
        message,
        "Operation cannot be fulfilled on nodes \"node-1\": the object has been modified; please apply your \
         changes to the latest version and try again"
    );
    let (code, reason, _) = status(merge(json!({"metadata": {"uid": "other"}})).await.unwrap_err());
    assert_eq!((code, reason.as_str()), (422, "Invalid"));

    let test = |version: &str| {
        let operations = json!([
            {"op": "test", "path": "/metadata/resourceVersion", "value": version},
            {"op": "remove", "path": "/metadata/annotations/a"},
            {"op": "replace", "path": "/spec/unschedulable", "value": false},
        ]);
        Patch::<Node>::Json(serde_json::from_value(operations).unwrap())
    };
    let old = nodes.patch("node-1", &PatchParams::default(), &test(&version)).await.unwrap_err();
    let (code, reason, message) = status(old);
    assert_eq!((code, reason.as_str()), (422, "Invalid"));
    assert_eq!(message, "the server rejected our request due to an error in our request");
    let version = after.resource_version().unwrap();
    let back = nodes.patch("node-1", &PatchParams::default(), &test(&version)).await.unwrap();
    assert_eq!(back.spec.unwrap_or_default().unschedulable, None, "false is left out");
    assert!(!rehearsal.world().lock().unwrap().node(&"node-1".into()).unwrap().unschedulable);
    nodes.cordon("node-1").await.unwrap();
    nodes.uncordon("node-1").await.unwrap();
}

#[tokio::test]
async fn evictions_answer_as_the_real_server_does() {
    let (rehearsal, client) = start(scenario()).await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let web = pods.list(&ListParams::default().labels("app=web")).await.unwrap().items;
    evict(&client, &web[0], web[0].uid(), true).await.unwrap();
    evict(&client, &web[0], web[0].uid(), false).await.unwrap();
    let (code, reason, message) =
        status(evict(&client, &web[1], web[1].uid(), false).await.unwrap_err());
    assert_eq!((code, reason.as_str()), (429, "TooManyRequests"));
    assert_eq!(message, "Cannot evict pod as it would violate the pod's disruption budget.");
    let mut nobody = web[0].clone();
    nobody.metadata.name = Some("nobody".into());
    assert_eq!(status(evict(&client, &nobody, None, false).await.unwrap_err()).0, 404);

    // The pod goes, another comes, and the budget allows the next one: all by itself.
    let wait = async {
        while evict(&client, &web[1], web[1].uid(), false).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LIMIT, wait).await.expect("waited for the budget to allow a second eviction");

    let agent =
        pods.list(&ListParams::default().labels("app=agent")).await.unwrap().items.remove(0);
    let (code, reason, message) =
        status(evict(&client, &agent, Some("other".into()), false).await.unwrap_err());
    assert_eq!((code, reason.as_str()), (409, "Conflict"));
    assert!(message.contains("the UID in the precondition (other) does not match"), "{message}");
    let history = rehearsal.world().lock().unwrap().history.clone();
    let accepted = history
        .iter()
        .filter(|(_, what)| {
            matches!(what, evenkeel_sim::history::Happened::EvictionAccepted { .. })
        })
        .count();
    assert_eq!(accepted, 2);
}

#[tokio::test]
async fn watches_deliver_changes_and_bookmarks() {
    let (_rehearsal, client) = start(scenario()).await;
    let nodes: Api<Node> = Api::all(client.clone());
    let version =
        nodes.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let mut stream = nodes.watch(&WatchParams::default(), &version).await.unwrap().boxed();
    nodes.cordon("node-2").await.unwrap();
    let next =
        timeout(LIMIT, stream.try_next()).await.expect("waited for the cordon").unwrap().unwrap();
    match next {
        WatchEvent::Modified(node) => {
            assert_eq!(node.name_any(), "node-2");
            assert_eq!(node.spec.unwrap().unschedulable, Some(true));
        }
        other => panic!("{other:?}"),
    }
    // A minute of the world is six seconds here.
    let next =
        timeout(LIMIT, stream.try_next()).await.expect("waited for a bookmark").unwrap().unwrap();
    assert!(matches!(next, WatchEvent::Bookmark(_)), "{next:?}");

    let pods: Api<Pod> = Api::all(client.clone());
    let bound = pods.list(&ListParams::default().fields("spec.nodeName!=")).await.unwrap();
    let params = WatchParams::default().fields("spec.nodeName!=");
    let mut stream = pods
        .watch(&params, &bound.metadata.resource_version.clone().unwrap())
        .await
        .unwrap()
        .boxed();
    let web = bound.iter().find(|pod| pod.name_any().starts_with("web")).unwrap();
    evict(&client, web, web.uid(), false).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        match timeout(LIMIT, stream.try_next())
            .await
            .expect("waited for the pod's move")
            .unwrap()
            .unwrap()
        {
            WatchEvent::Added(pod) => {
                assert!(pod.spec.unwrap().node_name.is_some(), "unbound pods are not asked for");
                seen.push("added");
            }
            WatchEvent::Deleted(pod) => {
                assert_eq!(pod.uid(), web.uid());
                seen.push("deleted");
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn watches_expire_drop_and_lag() {
    let mut scenario = scenario();
    scenario.faults = FaultPlan {
        lags: vec![Lag { from_ms: 0, to_ms: 20_000, by_ms: 3000 }],
        watch_drops: vec![15_000],
        ..FaultPlan::default()
    };
    let (rehearsal, client) = start(scenario).await;
    let nodes: Api<Node> = Api::all(client.clone());
    let version =
        nodes.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let mut stream = nodes.watch(&WatchParams::default(), &version).await.unwrap().boxed();
    let began = std::time::Instant::now();
    nodes.cordon("node-2").await.unwrap();
    let first =
        timeout(LIMIT, stream.try_next()).await.expect("waited for the late event").unwrap();
    assert!(matches!(first, Some(WatchEvent::Modified(_))), "{first:?}");
    assert!(began.elapsed() >= Duration::from_millis(250), "3 s late, ten times as fast");
    let end = timeout(LIMIT, stream.try_next()).await.expect("waited for the watch to be cut");
    assert!(matches!(end, Err(_) | Ok(None)), "{end:?}");

    rehearsal.world().lock().unwrap().compact();
    let mut stream = nodes.watch(&WatchParams::default(), &version).await.unwrap().boxed();
    let next =
        timeout(LIMIT, stream.try_next()).await.expect("waited for the 410").unwrap().unwrap();
    match next {
        WatchEvent::Error(error) => {
            assert_eq!((error.code, error.reason.as_str()), (410, "Expired"));
            assert!(error.message.starts_with("too old resource version: "), "{}", error.message);
        }
        other => panic!("{other:?}"),
    }
    let mut params = ListParams::default().limit(1);
    params.continue_token = nodes.list(&params).await.unwrap().metadata.continue_;
    nodes.uncordon("node-2").await.unwrap();
    rehearsal.world().lock().unwrap().compact();
    assert_eq!(status(nodes.list(&params).await.unwrap_err()).0, 410);
}

#[tokio::test]
async fn rights_events_and_strangers() {
    let (rehearsal, client) = start(scenario()).await;
    let ask = |verb: &str, group: &str, resource: &str, sub: Option<&str>| {
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.into()),
                    group: Some(group.into()),
                    resource: Some(resource.into()),
                    subresource: sub.map(str::to_owned),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
        async move { api.create(&PostParams::default(), &review).await.unwrap().status.unwrap().allowed }
    };
    assert!(ask("patch", "", "nodes", None).await);
    assert!(ask("create", "", "pods", Some("eviction")).await);
    assert!(ask("get", "coordination.k8s.io", "leases", None).await);
    assert!(!ask("get", "", "secrets", None).await);
    assert!(!ask("delete", "", "nodes", None).await);

    let events: Api<Event> = Api::namespaced(client.clone(), "default");
    let event = Event {
        metadata: ObjectMeta { generate_name: Some("node-1.".into()), ..ObjectMeta::default() },
        involved_object: ObjectReference {
            kind: Some("Node".into()),
            name: Some("node-1".into()),
            ..ObjectReference::default()
        },
        reason: Some("Cordoned".into()),
        ..Event::default()
    };
    let made = events.create(&PostParams::default(), &event).await.unwrap();
    let again = Patch::Merge(json!({"count": 2}));
    let counted = events.patch(&made.name_any(), &PatchParams::default(), &again).await.unwrap();
    assert_eq!(counted.count, Some(2));
    assert_eq!(rehearsal.events().len(), 1);

    let mut config = Config::new(format!("http://{}", rehearsal.api_addr()).parse().unwrap());
    config.default_retry = false;
    let stranger: Api<Node> = Api::all(Client::try_from(config).unwrap());
    let (code, reason, message) = status(stranger.list(&ListParams::default()).await.unwrap_err());
    assert_eq!((code, reason.as_str(), message.as_str()), (401, "Unauthorized", "Unauthorized"));
}

#[tokio::test]
async fn a_lost_answer_is_an_error_and_may_have_been_applied() {
    let mut scenario = scenario();
    scenario.faults =
        FaultPlan { until_ms: 3_600_000, lost_per_mille: 1000, ..FaultPlan::default() };
    let (rehearsal, client) = start(scenario).await;
    let nodes: Api<Node> = Api::all(client);
    let mut cut = 0;
    for round in 0..12 {
        let result = if round % 2 == 0 {
            nodes.cordon("node-1").await
        } else {
            nodes.uncordon("node-1").await
        };
        match result.expect_err("every answer is lost") {
            kube::Error::Api(status) => assert_eq!(status.code, 504),
            _ => cut += 1,
        }
    }
    assert!(cut > 0, "some connections were cut");
    assert!(rehearsal.world().lock().unwrap().coverage.lost_after_applying > 0);
}
