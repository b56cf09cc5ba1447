//! What an accepted request becomes, and second requests.

use crate::support::*;
use evenkeel_engine::ids::{ClusterId, JobId, NodeId, NodeName, PoolId, TemplateRevision};
use evenkeel_engine::phase::{Cause, Phase};
use evenkeel_engine::sync::{Status, SyncState, Work};
use evenkeel_engine::time::Time;
use evenkeel_server::records::{self, JobRecord, NodeRecord, keys};
use evenkeel_server::store::{Store, Txn};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

fn cluster() -> ClusterId {
    ClusterId::new(CLUSTER)
}

async fn header(world: &World, job: &str) -> JobRecord {
    world.record(&keys::job(PROJECT, &cluster(), &JobId::new(job))).await.unwrap()
}

async fn verdict(world: &World, job: &str) -> SyncState {
    world.record(&keys::job_state(PROJECT, &cluster(), &JobId::new(job))).await.unwrap()
}

fn names(record: &JobRecord) -> Vec<&str> {
    record.spec.targets.iter().map(|target| target.name.as_str()).collect()
}

fn jobid(answer: &Answer) -> String {
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text);
    let id = answer.json["jobid"].as_str().unwrap().to_owned();
    assert_eq!(uuid::Uuid::parse_str(&id).unwrap().get_version_num(), 4);
    id
}

fn default_pool(password: &str) -> Value {
    json!({ "spec": { "nodePoolID": "DefaultPool", "maxUnavailable": 2, "nodeTemplate": {
        "lifeCycle": { "preInstall": "ZWNobyAx" },
        "login": { "userPassword": { "password": password } } } } })
}

#[tokio::test]
async fn an_accepted_request_is_a_job_with_a_frozen_list() {
    let world = World::new().await;
    let answer = world.upgrade(POOL, &minimal(POOL)).await;
    let job = jobid(&answer);
    assert_eq!(answer.json["kind"], "Job");
    assert_eq!(answer.json["spec"]["type"], "SyncNodePool");
    assert_eq!(answer.json["status"]["phase"], "Initializing");
    let record = header(&world, &job).await;
    assert_eq!(names(&record), ["node-a", "node-b"]);
    assert_eq!(
        (record.spec.max_unavailable, record.spec.retry_times, record.spec.force),
        (1, 1, false)
    );
    assert!(!record.spec.named && !record.spec.resets);
    assert_eq!(record.requested_by, format!("admin/{AK}"));
    let state = verdict(&world, &job).await;
    assert_eq!(state.status, Status::Running);
    assert!(state.accepted >= Time(1_000_000));
    let active: JobId =
        world.record(&keys::active(PROJECT, &cluster(), &PoolId::new(POOL))).await.unwrap();
    assert_eq!(active.as_str(), job);
    let shown = world.get(&format!("/clusters/{CLUSTER}/nodepools/{POOL}")).await;
    assert_eq!(shown.json["status"]["phase"], "");
    assert_eq!(shown.json["status"]["jobId"], job.as_str());
    assert_eq!(shown.json["status"]["conditions"][0]["type"], "ConfigurationSynchronizing");
    assert_eq!(shown.json["status"]["conditions"][0]["status"], "True");
    let read = world.get(&format!("/jobs/{job}")).await;
    assert_eq!(read.json["metadata"]["uid"], job.as_str());
    assert_eq!(read.json["spec"]["resourceName"], "pool-0");
}

#[tokio::test]
async fn who_is_meant() {
    let rows: Vec<(&str, Value, Vec<&str>, Vec<&str>, bool)> = vec![
        ("named, up to date or not", json!({ "nodeIDs": [NODE_A] }), vec!["node-a"], vec![], true),
        ("absent: what is out of date", json!({}), vec!["node-b"], vec![], false),
        (
            "skipped wins",
            json!({ "nodeIDs": [NODE_A, NODE_B], "skippedNodes": [NODE_B] }),
            vec!["node-a"],
            vec!["node-b"],
            true,
        ),
        ("upper case", json!({ "nodeIDs": [NODE_A.to_uppercase()] }), vec!["node-a"], vec![], true),
    ];
    for (what, extra, targets, skipped, named) in rows {
        let world = World::new().await;
        // Node a carries the pool's revision already.
        let key = keys::node(PROJECT, &cluster(), &NodeId::new(NODE_A));
        let mut node: NodeRecord = world.record(&key).await.unwrap();
        node.applied = Some(TemplateRevision::new("rev-1"));
        world.store.txn(Txn::new().put(key, records::encode(&node))).await.unwrap();
        let mut body = minimal(POOL);
        body["spec"].as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let record = header(&world, &jobid(&world.upgrade(POOL, &body).await)).await;
        assert_eq!(names(&record), targets, "{what}");
        let left: Vec<&str> = record.spec.skipped.iter().map(|node| node.name.as_str()).collect();
        assert_eq!((left, record.spec.named), (skipped, named), "{what}");
    }
}

#[tokio::test]
async fn nothing_to_do_is_a_success_at_once() {
    let world = World::new().await;
    let mut body = minimal(POOL);
    body["spec"]["skippedNodes"] = json!([NODE_A, NODE_B]);
    let answer = world.upgrade(POOL, &body).await;
    let job = jobid(&answer);
    assert_eq!(answer.json["status"]["phase"], "Success");
    assert!(answer.json["spec"].get("subJobs").is_none());
    assert!(matches!(verdict(&world, &job).await.status, Status::Success { .. }));
    assert_eq!(world.count(&keys::actives(PROJECT, &cluster())).await, 0);
}

#[tokio::test]
async fn an_identical_request_gets_the_same_job_and_a_different_one_429() {
    let world = World::new().await;
    let mut body = minimal(POOL);
    body["spec"]["nodeIDs"] = json!([NODE_A, NODE_B]);
    let job = jobid(&world.upgrade(POOL, &body).await);
    let same = [
        json!({ "spec": { "maxUnavailable": 1, "nodePoolID": POOL, "nodeIDs": [NODE_B, NODE_A], "retryTimes": 1,
                          "force": false, "skippedNodes": [] } }),
        json!({ "kind": "NodePool", "apiversion": "v3", "spec": body["spec"] }),
    ];
    for body in same {
        assert_eq!(jobid(&world.upgrade(POOL, &body).await), job, "{body}");
    }
    let different = [
        ("maxUnavailable", json!(2)),
        ("nodeIDs", json!([NODE_A])),
        ("force", json!(true)),
        ("retryTimes", json!(0)),
        ("skippedNodes", json!([NODE_A])),
    ];
    for (field, value) in different {
        let mut body = body.clone();
        body["spec"][field] = value;
        let answer = world.upgrade(POOL, &body).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (429, "CCE.01429002"), "{field}");
        assert!(
            answer.message().contains(&job) && answer.message().contains(POOL),
            "{}",
            answer.message()
        );
    }
    assert_eq!(world.count(&keys::jobs(PROJECT, &cluster())).await, 1);
    world.release(POOL).await;
    assert_ne!(jobid(&world.upgrade(POOL, &body).await), job, "a pool that is free gets a new job");
}

#[tokio::test]
async fn a_newer_revision_is_not_the_same_request() {
    let world = World::new().await;
    let job = jobid(&world.upgrade(POOL, &minimal(POOL)).await);
    let path = format!("{}/nodepools/{POOL}", base());
    let change = json!({ "spec": { "ignoreInitialNodeCount": true, "nodeTemplate": { "os": "Another 1" } } });
    let updated = world.call("PUT", &path, &change.to_string()).await;
    assert_eq!(updated.status.as_u16(), 200, "accepted while a job runs: {}", updated.text);
    assert_eq!(
        header(&world, &job).await.spec.revision.as_str(),
        "rev-1",
        "the running job keeps its revision"
    );
    let answer = world.upgrade(POOL, &minimal(POOL)).await;
    assert_eq!(answer.code(), "CCE.01429002");
    assert!(answer.message().contains("rev-1"), "{}", answer.message());
}

#[tokio::test]
async fn a_clear_password_twice_is_the_same_request() {
    let world = World::new().await;
    let body = default_pool(CANARY_PASSWORD);
    let job = jobid(&world.upgrade("DefaultPool", &body).await);
    let record = header(&world, &job).await;
    assert_eq!(names(&record), ["node-d"], "nodes in no pool, without the control plane");
    assert_eq!(jobid(&world.upgrade("DefaultPool", &body).await), job);
    assert_eq!(
        world.upgrade("DefaultPool", &default_pool("Another-Pw-1")).await.code(),
        "CCE.01429002"
    );
    world.release("DefaultPool").await;
    let key = keys::node(PROJECT, &cluster(), &NodeId::new(NODE_LOOSE));
    let mut node: NodeRecord = world.record(&key).await.unwrap();
    node.applied = Some(record.spec.revision.clone());
    world.store.txn(Txn::new().put(key, records::encode(&node))).await.unwrap();
    let again = world.upgrade("DefaultPool", &body).await;
    assert_eq!(
        again.json["status"]["phase"], "Success",
        "the node carries this template already: {}",
        again.text
    );
}

#[tokio::test]
async fn generations_of_clients_mean_the_same_template() {
    let a = json!({ "lifeCycle": { "preInstall": "ZWNobyAx", "postInstall": "ZWNobyAy", "waitPostInstallFinish": true },
                    "login": { "sshKey": "kp" } });
    let b = json!({ "extendParam": { "alpha.cce/preInstall": "ZWNobyAx", "alpha.cce/postInstall": "ZWNobyAy" },
                    "waitPostInstallFinish": true, "login": { "sshKey": "kp" }, "k8sTags": {} });
    let mut seen = Vec::new();
    for template in [a, b] {
        let world = World::new().await;
        let body = json!({ "spec": { "nodePoolID": "DefaultPool", "maxUnavailable": 1, "nodeTemplate": template } });
        let record = header(&world, &jobid(&world.upgrade("DefaultPool", &body).await)).await;
        assert!(record.spec.post_install && record.spec.wait_post_install);
        assert_eq!(record.authorized_keys.as_deref(), Some(&[PUBLIC_KEY.to_owned()][..]));
        seen.push((record.spec.revision.clone(), record.fingerprint.clone()));
    }
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test]
async fn in_a_custom_pool_the_template_of_the_request_is_ignored_and_listed() {
    let world = World::new().await;
    let mut body = minimal(POOL);
    body["spec"]["nodeTemplate"] =
        json!({ "lifeCycle": { "preInstall": "ZWNobyAx" }, "login": { "sshKey": "kp" } });
    let job = jobid(&world.upgrade(POOL, &body).await);
    let record = header(&world, &job).await;
    assert_eq!(record.spec.revision.as_str(), "rev-1");
    assert!(record.template.pre_install.is_none());
    assert!(
        record.ignored.contains(&"spec.nodeTemplate.lifeCycle.preInstall".to_owned()),
        "{:?}",
        record.ignored
    );
    let read = world.get(&format!("/jobs/{job}")).await;
    assert!(
        read.json["spec"]["extendParam"]["ignoredFields"]
            .as_str()
            .unwrap()
            .contains("login.sshKey")
    );
    assert_eq!(
        jobid(&world.upgrade(POOL, &minimal(POOL)).await),
        job,
        "without it the request is the same"
    );
}

#[tokio::test]
async fn ten_at_once_are_one_job() {
    for same_signature in [true, false] {
        let world = World::new().await;
        let body = default_pool(CANARY_PASSWORD).to_string();
        let mut requests = Vec::new();
        for _ in 0..10 {
            if !same_signature {
                world.clock.fetch_add(1000, Ordering::SeqCst);
            }
            requests.push(world.sign(&call("POST", &upgrade_path("DefaultPool"), &body)));
        }
        let answers =
            futures::future::join_all(requests.iter().map(|request| world.send(request))).await;
        let ids: std::collections::BTreeSet<String> = answers.iter().map(jobid).collect();
        assert_eq!(ids.len(), 1, "{ids:?}");
        assert_eq!(world.count(&keys::jobs(PROJECT, &cluster())).await, 1);
    }
}

#[tokio::test]
async fn a_replayed_signature_gets_the_first_answer_even_after_the_job() {
    let world = World::new().await;
    let request = world.sign(&call("POST", &upgrade_path(POOL), &minimal(POOL).to_string()));
    let first = world.send(&request).await;
    world.release(POOL).await;
    let second = world.send(&request).await;
    assert_eq!(first.json, second.json);
    assert_eq!(world.count(&keys::jobs(PROJECT, &cluster())).await, 1, "a replay starts nothing");
    assert_ne!(first.headers["x-request-id"], second.headers["x-request-id"]);
}

#[tokio::test]
async fn touched_nodes_are_sub_jobs_that_can_be_read() {
    let world = World::new().await;
    let job = jobid(&world.upgrade(POOL, &minimal(POOL)).await);
    let work = |name: &str, id: &str, phase: Phase| Work {
        id: NodeId::new(id),
        name: NodeName::new(name),
        phase,
        spent: 0,
        attempt: 1,
        tries: 0,
        was_unschedulable: false,
        was_available: true,
        uncordons: 0,
        last_cause: None,
        log: vec![],
    };
    let failed = Phase::Failed {
        at: Time(1_000_500),
        cause: Cause::Step { step: "install".into(), message: "exit status 3".into() },
        left: evenkeel_engine::phase::Left::Cordoned,
    };
    for work in [
        work("node-a", NODE_A, Phase::Draining { since: Time(1_000_100), cordoned: true }),
        work("node-b", NODE_B, failed),
    ] {
        let key = keys::work(PROJECT, &cluster(), &JobId::new(&job), &work.name);
        world.store.txn(Txn::new().put(key, records::encode(&work))).await.unwrap();
    }
    let read = world.get(&format!("/jobs/{job}")).await;
    assert_eq!(read.json["status"]["phase"], "Running");
    let subs = read.json["spec"]["subJobs"].as_array().unwrap();
    assert_eq!(subs.len(), 2);
    for (sub, (phase, node)) in subs.iter().zip([("Running", NODE_A), ("Failed", NODE_B)]) {
        assert_eq!(
            (&sub["status"]["phase"], &sub["spec"]["resourceID"]),
            (&json!(phase), &json!(node))
        );
        assert_eq!(sub["spec"]["type"], "ResetNode");
        assert!(sub["spec"]["extendParam"].as_object().unwrap().values().all(Value::is_string));
        let id = sub["metadata"]["uid"].as_str().unwrap();
        assert!(uuid::Uuid::parse_str(id).is_ok());
        assert_eq!(&world.get(&format!("/jobs/{id}")).await.json, sub);
    }
    assert!(subs[1]["status"]["reason"].as_str().unwrap().contains("exit status 3"));
    let missing = format!("{}0000-8000-8000-000000000000", &job[..14]);
    assert_eq!(world.get(&format!("/jobs/{missing}")).await.status.as_u16(), 404);
    let node = world.get(&format!("/clusters/{CLUSTER}/nodes/{NODE_A}")).await;
    assert_eq!(node.json["status"]["phase"], "Upgrading");
    assert_eq!(node.json["status"]["configurationUpToDate"], false);
    let detail =
        world.call("GET", &format!("/evenkeel/v1/projects/{PROJECT}/jobs/{job}"), "").await;
    assert_eq!(detail.json["nodes"]["node-b"]["phase"], "Failed");
    assert_eq!(detail.json["counts"]["failed"], 1);
    let output =
        format!("/evenkeel/v1/projects/{PROJECT}/jobs/{job}/nodes/{NODE_B}/output?offset=6");
    let output = world.call("GET", &output, "").await;
    assert_eq!(output.json["text"], "from the host");
}

#[tokio::test]
async fn an_accepted_request_keeps_its_job_whatever_becomes_of_its_nodes() {
    let world = World::new().await;
    let mut body = minimal(POOL);
    body["spec"]["nodeIDs"] = json!([NODE_A]);
    let job = jobid(&world.upgrade(POOL, &body).await);
    let key = keys::node(PROJECT, &cluster(), &NodeId::new(NODE_A));
    world.store.txn(Txn::new().delete(key)).await.unwrap();
    world.cluster(|cluster| cluster.recipe = None).await;
    assert_eq!(jobid(&world.upgrade(POOL, &body).await), job);
}

#[tokio::test]
async fn a_migration_at_the_same_time_cannot_put_a_lost_node_on_the_list() {
    let mut outcomes = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let world = World::new().await;
        world.store.seed(seed);
        let target = format!("{}/nodepools/{POOL}/nodes/migrate", base());
        let list =
            json!({ "kind": "List", "apiVersion": "v3", "nodeList": [{ "nodeID": NODE_LOOSE }] })
                .to_string();
        let body = json!({ "spec": { "nodePoolID": "DefaultPool", "maxUnavailable": 1, "nodeTemplate": {
            "lifeCycle": { "preInstall": "ZWNobyAx" }, "login": { "sshKey": "kp" } } } });
        let (moved, accepted) =
            tokio::join!(world.call("PUT", &target, &list), world.upgrade("DefaultPool", &body));
        let record = header(&world, &jobid(&accepted)).await;
        let listed = names(&record) == ["node-d"];
        outcomes.insert((moved.status.as_u16(), listed));
    }
    // Either the job has the node and the move is refused, or the other way round; both happen here.
    let expected = [(200, false), (403, true)];
    assert_eq!(outcomes.into_iter().collect::<Vec<_>>(), expected);
}
