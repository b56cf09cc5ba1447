//! The Kubernetes client against a scripted API server: what it sends, and what it makes of each answer.
#![expect(clippy::unwrap_used, reason = "a failed expectation must end the test")]

mod kube_server;

use evenkeel_engine::facts::{Mark, NodeSeen, Readiness};
use evenkeel_engine::ids::{NodeName, ObjectKey};
use evenkeel_engine::place::{self, Resources};
use evenkeel_server::kube::{Api, Options, WatchLimits};
use evenkeel_server::records::{Dress, Taint};
use evenkeel_server::sync::ports::{Cluster as _, EvictAnswer, Fault, Listed, PodRef, Seen};
use kube_server::{Piece, Reply, Server, event, list, missing, ok, status};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

const NODES: &str = "GET /api/v1/nodes";
const PODS: &str = "GET /api/v1/pods";
const WATCH_NODES: &str = "WATCH /api/v1/nodes";
const N1: &str = "PATCH /api/v1/nodes/n1";
const EVICT: &str = "POST /api/v1/namespaces/d/pods/p/eviction";
const TOKEN: &str = "canary-4a1c";

async fn api(server: &Server) -> Api {
    // Long enough that a busy machine does not lose the view by itself.
    api_with(server, Duration::from_secs(3)).await
}

async fn api_with(server: &Server, grace: Duration) -> Api {
    let kubeconfig = json!({
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": server.address}}],
        "users": [{"name": "u", "user": {"token": TOKEN}}],
    });
    let options = Options {
        allow_loopback: true,
        request_timeout: Duration::from_secs(2),
        watch: WatchLimits {
            server_s: 60,
            idle: Duration::from_millis(400),
            grace,
            backoff: Duration::from_millis(20),
            backoff_cap: Duration::from_millis(100),
        },
        ..Options::default()
    };
    Api::connect(&kubeconfig.to_string(), &options).await.unwrap()
}

fn node_json(name: &str, version: &str) -> Value {
    json!({"metadata": {"name": name, "uid": format!("uid-{name}"), "resourceVersion": version}})
}

fn node() -> NodeSeen {
    NodeSeen {
        name: "n1".into(),
        uid: "uid-n1".into(),
        resource_version: "41".into(),
        unschedulable: false,
        ready: Readiness::Ready,
        mark: None,
        hold: false,
        zone: None,
        control_plane: false,
        machine_id: None,
        system_uuid: None,
        provider_id: None,
        internal_ip: None,
        kubelet_version: None,
        labels: Arc::default(),
        taints: Arc::default(),
        allocatable: Resources::default(),
        met: Arc::default(),
    }
}

fn mark() -> Mark {
    Mark { job: "j1".into(), epoch: 7, was_unschedulable: false }
}

fn pod() -> PodRef {
    PodRef { key: ObjectKey::new("d", "p"), uid: "uid-p".into() }
}

/// What a watch said, in words: `live`, `lost`, `nodes[a@1 b@2]`, `node a@3`, `gone a`.
async fn heard(rx: &mut mpsc::Receiver<Vec<Seen>>, until: &str) -> Vec<String> {
    let mut words = Vec::new();
    while words.last().is_none_or(|w| w != until) {
        let batch = timeout(Duration::from_secs(5), rx.recv())
            .await
            .unwrap_or_else(|_| panic!("waited 5 s for {until:?}, heard {words:?}"))
            .unwrap();
        for seen in batch {
            let show = |n: &NodeSeen| format!("{}@{}", n.name, n.resource_version);
            let word = match seen {
                Seen::Live(true) => "live".to_owned(),
                Seen::Live(false) => "lost".to_owned(),
                Seen::Node(n) => format!("node {}", show(&n)),
                Seen::NodeGone(name) => format!("gone {name}"),
                Seen::Relisted(Listed::Nodes(all)) => {
                    format!("nodes[{}]", all.iter().map(show).collect::<Vec<_>>().join(" "))
                }
                Seen::Relisted(Listed::Pods(_) | Listed::Budgets(_)) => continue,
                other => format!("{other:?}"),
            };
            words.push(word);
            if words.last().is_some_and(|w| w == until) {
                break;
            }
        }
    }
    words
}

/// The first list of each kind is the check of rights.
fn probe() -> Reply {
    list("1", &[])
}

#[tokio::test]
async fn live_is_said_once_all_three_kinds_are_listed() {
    let server = Server::start().await;
    let slow = Reply::Stream(vec![Piece::Hold]);
    server.on(NODES, vec![probe(), list("5", &[node_json("a", "3")])]).on(WATCH_NODES, vec![slow]);
    let mut rx = api(&server).await.watch().await.unwrap();
    assert_eq!(heard(&mut rx, "live").await, ["nodes[a@3]", "live"]);
    let watch = server.asked(WATCH_NODES)[0].query.clone();
    for part in ["resourceVersion=5", "allowWatchBookmarks=true", "timeoutSeconds=60"] {
        assert!(watch.contains(part), "{watch}");
    }
    let pods = &server.asked(PODS)[1];
    assert!(pods.query.contains("fieldSelector=spec.nodeName%21%3D"), "{}", pods.query);
    assert!(pods.query.contains("limit=500") && !pods.query.contains("resourceVersion"));
    assert_eq!(pods.headers["authorization"], format!("Bearer {TOKEN}"));
    assert!(pods.headers["user-agent"].starts_with("evenkeel/"));
}

#[tokio::test]
async fn lists_are_paged_and_an_expired_page_starts_over_in_one_piece() {
    let server = Server::start().await;
    let first = || {
        ok(
            json!({"metadata": {"resourceVersion": "5", "continue": "to/ken+="}, "items": [node_json("a", "1")]}),
        )
    };
    server.on(NODES, vec![probe(), first(), list("6", &[node_json("b", "2")])]);
    let mut rx = api(&server).await.watch().await.unwrap();
    assert_eq!(heard(&mut rx, "live").await, ["nodes[a@1 b@2]", "live"]);
    assert!(server.asked(NODES)[2].query.contains("continue=to%2Fken%2B%3D"));

    let server = Server::start().await;
    let whole = list("9", &[node_json("a", "1"), node_json("b", "2")]);
    server.on(NODES, vec![probe(), first(), status(410, "expired"), whole]);
    let mut rx = api(&server).await.watch().await.unwrap();
    assert_eq!(heard(&mut rx, "live").await, ["nodes[a@1 b@2]", "live"]);
    let last = server.asked(NODES)[3].query.clone();
    assert!(!last.contains("limit") && !last.contains("continue"), "{last}");
}

#[tokio::test]
async fn a_dropped_watch_is_resumed_at_the_last_version_and_stays_live() {
    let server = Server::start().await;
    let bookmark = event(
        "BOOKMARK",
        json!({"kind": "Node", "apiVersion": "v1", "metadata": {"resourceVersion": "8"}}),
    );
    server.on(NODES, vec![probe(), list("5", &[])]).on(
        WATCH_NODES,
        vec![
            Reply::Stream(vec![event("ADDED", node_json("a", "6")), bookmark, Piece::Cut]),
            Reply::Drop,
            // A duplicate, and a line that is cut in the middle of the connection.
            Reply::Stream(vec![
                event("ADDED", node_json("a", "6")),
                event("MODIFIED", node_json("a", "9")),
                Piece::Text("{\"type\":\"DELE".to_owned()),
                Piece::Cut,
            ]),
            Reply::Stream(vec![event("DELETED", node_json("a", "10")), Piece::Hold]),
        ],
    );
    let mut rx = api(&server).await.watch().await.unwrap();
    let words = heard(&mut rx, "gone a").await;
    let mut of_nodes = words.clone();
    of_nodes.retain(|w| w != "live");
    assert_eq!(of_nodes, ["nodes[]", "node a@6", "node a@6", "node a@9", "gone a"]);
    assert!(!words.contains(&"lost".to_owned()), "{words:?}");
    let from: Vec<_> = server
        .asked(WATCH_NODES)
        .iter()
        .map(|a| a.query.split("resourceVersion=").nth(1).unwrap().to_owned())
        .collect();
    assert_eq!(from, ["5", "8", "8", "9"]);
    assert_eq!(server.asked(NODES).len(), 2, "no second list");
}

#[tokio::test]
async fn gone_in_mid_stream_leads_to_a_new_list_and_the_view_is_lost_meanwhile() {
    for breaking in [
        event(
            "ERROR",
            json!({"kind": "Status", "code": 410, "message": "too old resource version", "reason": "Expired"}),
        ),
        // A line that ends, but was cut: skipping it would hide a change for good.
        Piece::Text("{\"type\":\"ADDED\",\"object\":{\"metad\n".to_owned()),
        Piece::Text("<html>\n".to_owned()),
    ] {
        let server = Server::start().await;
        let wait = Piece::Wait(Duration::from_millis(100));
        server
            .on(NODES, vec![probe(), list("5", &[]), list("20", &[node_json("b", "19")])])
            .on(WATCH_NODES, vec![Reply::Stream(vec![wait, breaking, Piece::Hold])]);
        let client = api(&server).await;
        let mut rx = client.watch().await.unwrap();
        heard(&mut rx, "live").await;
        assert_eq!(heard(&mut rx, "live").await, ["lost", "nodes[b@19]", "live"]);
        assert!(server.asked(WATCH_NODES)[1].query.contains("resourceVersion=20"));
        assert_eq!(client.trouble(), None);
    }
}

#[tokio::test]
async fn gone_when_the_watch_opens_leads_to_a_new_list() {
    let server = Server::start().await;
    server
        .on(NODES, vec![probe(), list("5", &[]), list("20", &[])])
        .on(WATCH_NODES, vec![status(410, "too old resource version")]);
    let mut rx = api(&server).await.watch().await.unwrap();
    assert_eq!(heard(&mut rx, "live").await, ["nodes[]", "nodes[]", "live"]);
}

#[tokio::test]
async fn a_stream_that_stays_broken_loses_the_view_and_gets_it_back_without_a_list() {
    let server = Server::start().await;
    let mut replies = vec![Reply::Stream(vec![Piece::Wait(Duration::from_millis(50)), Piece::Cut])];
    replies.extend((0..8).map(|_| Reply::Drop));
    replies.push(Reply::Stream(vec![event("ADDED", node_json("a", "6")), Piece::Hold]));
    server.on(NODES, vec![probe(), list("5", &[])]).on(WATCH_NODES, replies);
    let client = api_with(&server, Duration::from_millis(300)).await;
    let mut rx = client.watch().await.unwrap();
    heard(&mut rx, "lost").await;
    let why = client.trouble().unwrap();
    assert!(why.contains("watch nodes") && !why.contains(TOKEN), "{why}");
    let words = heard(&mut rx, "node a@6").await;
    assert_eq!(words, ["live", "node a@6"]);
    assert_eq!(client.trouble(), None);
    assert_eq!(server.asked(NODES).len(), 2, "no second list");
}

#[tokio::test]
async fn a_silent_stream_is_given_up_and_resumed() {
    let server = Server::start().await;
    server.on(NODES, vec![probe(), list("5", &[])]).on(
        WATCH_NODES,
        vec![
            Reply::Stream(vec![Piece::Hold]),
            Reply::Stream(vec![event("ADDED", node_json("a", "6")), Piece::Hold]),
        ],
    );
    let mut rx = api(&server).await.watch().await.unwrap();
    let words = heard(&mut rx, "node a@6").await;
    assert!(!words.contains(&"lost".to_owned()), "{words:?}");
}

#[tokio::test]
async fn a_version_the_server_does_not_reach_leads_to_a_new_list() {
    let server = Server::start().await;
    let refusals =
        (0..5).map(|_| status(504, "Too large resource version: 5, current: 3")).collect();
    server.on(NODES, vec![probe(), list("5", &[]), list("3", &[])]).on(WATCH_NODES, refusals);
    let mut rx = api(&server).await.watch().await.unwrap();
    assert_eq!(heard(&mut rx, "live").await, ["nodes[]", "nodes[]", "live"]);
    assert!(server.asked(WATCH_NODES)[5].query.contains("resourceVersion=3"));
}

#[tokio::test]
async fn a_withdrawn_credential_or_missing_right_is_said_at_once() {
    for (code, words) in [
        (401, "register the cluster again"),
        (403, "not allowed to list pods (403); apply deploy/rbac.yaml"),
    ] {
        let server = Server::start().await;
        server.on(PODS, vec![status(code, "no")]);
        let fault = api(&server).await.watch().await.unwrap_err();
        assert!(
            matches!(fault, Fault::Permanent { .. }) && fault.to_string().contains(words),
            "{fault}"
        );
    }
}

#[tokio::test]
async fn watches_end_when_nobody_listens() {
    let server = Server::start().await;
    let client = api(&server).await;
    let mut rx = client.watch().await.unwrap();
    heard(&mut rx, "live").await;
    drop(rx);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = server.asked(WATCH_NODES).len();
    // Silent streams are resumed after 400 ms: one that still ran would ask again.
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(server.asked(WATCH_NODES).len(), before);
}

#[tokio::test]
async fn writes_to_a_node_are_conditional_merge_patches() {
    let server = Server::start().await;
    server.on(N1, (0..4).map(|_| ok(json!({}))).collect());
    let client = api(&server).await;
    client.claim(&node(), &mark()).await.unwrap();
    client.set_unschedulable(&node(), true).await.unwrap();
    client.release(&node(), true, None).await.unwrap();
    client.release(&node(), false, None).await.unwrap();
    let asked = server.asked(N1);
    let claim = asked[0].json();
    assert_eq!(claim["metadata"]["uid"], "uid-n1");
    assert_eq!(claim["metadata"]["resourceVersion"], "41");
    let text = claim["metadata"]["annotations"]["evenkeel.io/claim"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Mark>(text).unwrap(), mark());
    assert_eq!(
        asked[1].json(),
        json!({"metadata": {"uid": "uid-n1", "resourceVersion": "41"}, "spec": {"unschedulable": true}})
    );
    let meta = json!({"uid": "uid-n1", "resourceVersion": "41", "annotations": {"evenkeel.io/claim": null}});
    assert_eq!(asked[2].json(), json!({"metadata": meta, "spec": {"unschedulable": null}}));
    assert_eq!(asked[3].json(), json!({"metadata": meta}), "the cordon of others stays");
    assert!(asked.iter().all(|a| a.headers["content-type"] == "application/merge-patch+json"));
}

/// Labels and taints of the pool come with the release; what people put there stays.
#[tokio::test]
async fn a_release_dresses_a_node_in_the_same_write() {
    let server = Server::start().await;
    let taint =
        |key: &str, value: &str| json!({"key": key, "value": value, "effect": "NoSchedule"});
    let seen = json!({"metadata": {"resourceVersion": "41"}, "spec": {"taints": [
        taint("people/own", "1"), taint("pool/kind", "old"),
        {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},
    ]}});
    let moved = json!({"metadata": {"resourceVersion": "42"}, "spec": {}});
    server.on("GET /api/v1/nodes/n1", vec![ok(seen), ok(moved)]);
    server.on(N1, vec![ok(json!({}))]);
    let client = api(&server).await;
    let dress = Dress {
        labels: [("pool".to_owned(), "a".to_owned())].into(),
        taints: vec![Taint {
            key: "pool/kind".into(),
            value: "new".into(),
            effect: "NoSchedule".into(),
        }],
    };
    client.release(&node(), true, Some(&dress)).await.unwrap();
    let asked = server.asked(N1);
    let patch = asked[0].json();
    assert_eq!(patch["metadata"]["labels"], json!({"pool": "a"}));
    assert_eq!(
        patch["spec"],
        json!({"unschedulable": null, "taints": [taint("people/own", "1"), taint("pool/kind", "new")]})
    );
    let lost = client.release(&node(), true, Some(&dress)).await;
    assert!(matches!(lost, Err(Fault::Conflict { .. })), "it changed since it was seen: {lost:?}");
}

/// The taint of a node that is still to do comes and goes alone, and goes with a release or a lift in their write.
#[tokio::test]
async fn the_steering_taint_leaves_all_others() {
    let server = Server::start().await;
    let people =
        json!({"key": "people/own", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"});
    let steering = json!({"key": "evenkeel.io/outdated", "effect": "PreferNoSchedule"});
    let starting = json!({"key": "node.cloudprovider.kubernetes.io/uninitialized", "value": "evenkeel",
        "effect": "NoSchedule"});
    let seen = |taints: Value| {
        ok(json!({"metadata": {"resourceVersion": "41"}, "spec": {"taints": taints}}))
    };
    let all = json!([people, steering, starting]);
    server.on(
        "GET /api/v1/nodes/n1",
        vec![seen(json!([people])), seen(all.clone()), seen(all.clone()), seen(all.clone())],
    );
    server.on(N1, vec![ok(json!({})), ok(json!({})), ok(json!({})), ok(json!({}))]);
    let client = api(&server).await;
    let mut tainted = node();
    tainted.taints = [place::Taint {
        key: "evenkeel.io/outdated".into(),
        value: "".into(),
        effect: "PreferNoSchedule".into(),
    }]
    .into();
    client.steer(&node(), true).await.unwrap();
    client.steer(&tainted, false).await.unwrap();
    client.release(&tainted, false, None).await.unwrap();
    client.set_unschedulable(&tainted, false).await.unwrap();
    let asked = server.asked(N1);
    let meta = json!({"uid": "uid-n1", "resourceVersion": "41"});
    assert_eq!(asked[0].json(), json!({"metadata": meta, "spec": {"taints": [people, steering]}}));
    assert_eq!(asked[1].json(), json!({"metadata": meta, "spec": {"taints": [people, starting]}}));
    assert_eq!(asked[2].json()["spec"], json!({"taints": [people, starting]}), "it is not opened");
    assert_eq!(asked[3].json()["spec"], json!({"unschedulable": null, "taints": [people]}));
}

#[tokio::test]
async fn nothing_is_sent_twice_whatever_the_answer() {
    let rows = [
        (Reply::Drop, "transient"),
        (Reply::Silence, "transient"),
        (status(504, "timeout"), "transient"),
        (status(503, "down"), "transient"),
        (
            Reply::Whole {
                code: 429,
                headers: vec![("Retry-After", "1".to_owned())],
                body: "busy".to_owned(),
            },
            "busy",
        ),
        (Reply::Stream(vec![Piece::Text("{\"kind\":".to_owned()), Piece::Cut]), "transient"),
        (status(409, "modified"), "conflict"),
        (missing("nodes", "n1"), "gone"),
        (status(401, "Unauthorized"), "permanent"),
        (status(403, "forbidden"), "permanent"),
        (status(422, "invalid"), "permanent"),
    ];
    for (reply, expected) in rows {
        let server = Server::start().await;
        server.on(N1, vec![reply]);
        let client = api(&server).await;
        let fault = client.claim(&node(), &mark()).await.unwrap_err();
        let kind = match &fault {
            Fault::Transient { .. } => "transient",
            Fault::Busy { .. } => "busy",
            Fault::Permanent { .. } => "permanent",
            Fault::Conflict { .. } => "conflict",
            Fault::Gone { .. } => "gone",
        };
        assert_eq!(kind, expected, "{fault:?}");
        assert!(!format!("{fault:?}").contains(TOKEN), "{fault:?}");
        assert_eq!(server.asked(N1).len(), 1, "{fault}");
    }
}

#[tokio::test]
async fn an_unreachable_server_is_named() {
    let server = Server::start().await;
    let mut gone = server.clone();
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    gone.address = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let fault = api(&gone).await.confirm(&"n1".into()).await.unwrap_err();
    assert!(matches!(fault, Fault::Transient { .. }), "{fault:?}");
    assert!(fault.to_string().contains(&gone.address), "{fault}");
}

#[tokio::test]
async fn an_eviction_carries_the_uid_and_each_answer_its_meaning() {
    let budget = |headers| {
        let body = json!({"kind": "Status", "code": 429,
            "message": "Cannot evict pod as it would violate the pod's disruption budget.",
            "details": {"causes": [{"reason": "DisruptionBudget", "message": "The disruption budget web needs 2"}]}});
        Reply::Whole { code: 429, headers, body: body.to_string() }
    };
    let server = Server::start().await;
    server.on(
        EVICT,
        vec![
            ok(json!({"kind": "Status", "status": "Success", "code": 201})),
            budget(vec![]),
            budget(vec![("Retry-After", "10".to_owned())]),
            missing("pods", "p"),
            Reply::Drop,
        ],
    );
    let client = api(&server).await;
    assert_eq!(client.evict(&pod()).await.unwrap(), EvictAnswer::Accepted);
    for expected in [None, Some(10)] {
        match client.evict(&pod()).await.unwrap() {
            EvictAnswer::Refused { message, retry_after_s } => {
                assert!(message.contains("budget web"), "{message}");
                assert_eq!(retry_after_s, expected);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(client.evict(&pod()).await.unwrap(), EvictAnswer::Gone);
    let lost = client.evict(&pod()).await.unwrap_err();
    assert!(matches!(lost, Fault::Transient { .. }), "may have been applied: {lost:?}");
    let asked = server.asked(EVICT);
    assert_eq!(asked.len(), 5, "nothing was retried");
    let body = asked[0].json();
    assert_eq!(
        body,
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p", "namespace": "d"},
            "deleteOptions": {"preconditions": {"uid": "uid-p"}}})
    );
}

#[tokio::test]
async fn deletion_has_a_uid_and_the_pods_own_grace() {
    let what = "DELETE /api/v1/namespaces/d/pods/p";
    let server = Server::start().await;
    server.on(what, vec![ok(json!({})), status(409, "UID in precondition"), missing("pods", "p")]);
    let client = api(&server).await;
    client.delete(&pod()).await.unwrap();
    assert!(matches!(client.delete(&pod()).await, Err(Fault::Conflict { .. })));
    assert!(matches!(client.delete(&pod()).await, Err(Fault::Gone { .. })));
    let body = server.asked(what)[0].json();
    assert_eq!(body["preconditions"]["uid"], "uid-p");
    assert!(body.get("gracePeriodSeconds").is_none());
}

#[tokio::test]
async fn a_confirmation_is_read_from_the_server_and_not_from_a_cache() {
    let server = Server::start().await;
    let on = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u", "resourceVersion": "1"}, "spec": {"nodeName": "n1"}});
    let get = "GET /api/v1/nodes/n1";
    server.on(get, vec![ok(node_json("n1", "50")), missing("nodes", "n1")]);
    server.on(
        get,
        vec![Reply::Whole { code: 404, headers: vec![], body: "404 page not found".to_owned() }],
    );
    server.on(PODS, vec![list("51", &[on]), list("51", &[])]);
    let client = api(&server).await;
    let name = NodeName::new("n1");
    let live = client.confirm(&name).await.unwrap();
    assert_eq!(&*live.node.unwrap().resource_version, "50");
    assert_eq!(live.pods.len(), 1);
    let asked = &server.asked(PODS)[0].query;
    assert!(
        asked.contains("fieldSelector=spec.nodeName%3Dn1") && !asked.contains("resourceVersion"),
        "{asked}"
    );
    assert!(client.confirm(&name).await.unwrap().node.is_none());
    let proxy = client.confirm(&name).await.unwrap_err();
    assert!(
        matches!(proxy, Fault::Transient { .. }),
        "a proxy cannot say that a node is gone: {proxy:?}"
    );
    let bad = client.confirm(&"../secrets".into()).await.unwrap_err();
    assert!(matches!(bad, Fault::Permanent { .. }), "{bad:?}");
}

#[tokio::test]
async fn heartbeats_are_milliseconds() {
    let what = "GET /apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1";
    let server = Server::start().await;
    server.on(
        what,
        vec![
            ok(json!({"metadata": {}, "spec": {"renewTime": "2026-01-02T03:04:05.678901Z"}})),
            ok(json!({"spec": {}})),
            missing("leases", "n1"),
        ],
    );
    let client = api(&server).await;
    let name = NodeName::new("n1");
    assert_eq!(client.heartbeat(&name).await.unwrap(), Some(1_767_323_045_678));
    assert_eq!(client.heartbeat(&name).await.unwrap(), None);
    assert_eq!(client.heartbeat(&name).await.unwrap(), None);
}

#[tokio::test]
async fn the_same_words_are_one_event() {
    let post = "POST /api/v1/namespaces/default/events";
    let server = Server::start().await;
    server.on(post, vec![ok(json!({})), status(409, "already exists"), ok(json!({}))]);
    let client = api(&server).await;
    client.event(&node(), "Cordoned", "for j1", false).await.unwrap();
    let first = server.asked(post)[0].json();
    let name = first["metadata"]["name"].as_str().unwrap().to_owned();
    assert!(name.starts_with("n1."), "{name}");
    assert_eq!(first["involvedObject"]["uid"], "uid-n1");
    assert_eq!(first["type"], "Normal");
    let patch = format!("PATCH /api/v1/namespaces/default/events/{name}");
    server.on(&patch, vec![ok(json!({}))]);
    client.event(&node(), "Cordoned", "for j1", false).await.unwrap();
    assert_eq!(server.asked(&patch).len(), 1);
    client.event(&node(), "Cordoned", "for j2", true).await.unwrap();
    let other = server.asked(post)[2].json();
    assert_ne!(other["metadata"]["name"], name.as_str());
    assert_eq!(other["type"], "Warning");
}

#[tokio::test]
async fn registration_names_the_version_and_each_missing_right() {
    let review = "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let server = Server::start().await;
    server.on("GET /version", vec![ok(json!({"major": "1", "gitVersion": "v1.36.3"}))]);
    let total: usize = evenkeel_server::kube::register::RIGHTS.iter().map(|r| r.verbs.len()).sum();
    let verdicts = (0..total).map(|i| ok(json!({"status": {"allowed": i != 3 && i != total - 1}})));
    server.on(review, verdicts.collect());
    let found = api(&server).await.check().await.unwrap();
    assert_eq!(found.version, "v1.36.3");
    assert_eq!(found.server, server.address);
    assert_eq!(found.missing_rights, ["patch nodes", "patch events"]);
    let asked = server.asked(review);
    assert_eq!(asked.len(), total);
    let eviction = asked.iter().map(|a| a.json()["spec"]["resourceAttributes"].clone());
    let eviction = eviction.into_iter().find(|r| r["subresource"] == "eviction").unwrap();
    assert_eq!((&eviction["resource"], &eviction["verb"]), (&json!("pods"), &json!("create")));
}
