//! Models against the documented answers, and the token request.

use evenkeel_api::cluster::{Cluster, ClusterPhase};
use evenkeel_api::iam::{Identity, NameOrId, Scope, TokenRequest};
use evenkeel_api::job::{Job, JobPhase, JobSpec, RESET_NODE, SYNC_NODE_POOL};
use evenkeel_api::node::{Node, NodeList};
use evenkeel_api::nodepool::NodePool;
use evenkeel_api::upgrade::UpgradeAnswer;
use serde_json::{Value, json};

use crate::assert_violation;

/// A pool as the service answers it, from its public documents.
const SAMPLE_POOL: &str = r#"{"kind":"NodePool","apiVersion":"v3",
 "metadata":{"name":"pool-1","uid":"99addaa2-69eb-11ea-a592-0255ac1001bb","creationTimestamp":"2026-01-15 08:09:10.672772389 +0000 UTC","updateTimestamp":"2026-01-15 08:09:10.672772389 +0000 UTC"},
 "spec":{"type":"vm","initialNodeCount":1,"autoscaling":{},"nodeManagement":{},
  "nodeTemplate":{"flavor":"s6.large.2","az":"cn-north-4a","os":"EulerOS 2.9","login":{"sshKey":"kp","userPassword":{}},
   "rootVolume":{"volumetype":"SAS","size":50},"dataVolumes":[{"volumetype":"SAS","size":100}],
   "publicIP":{"eip":{"bandwidth":{}}},"nodeNicSpec":{"primaryNic":{"subnetId":"7e767d10-7548-4df5-ad72-aeac1d08bd8a"}},
   "billingMode":0,"runtime":{"name":"containerd"},"taints":[],"k8sTags":{"cce.cloud.com/cce-nodepool":"pool-1"},"userTags":[],
   "extendParam":{"maxPods":110,"alpha.cce/preInstall":"ZWNobyAx"}}},
 "status":{"currentNode":1,"phase":""}}"#;

#[test]
fn the_documented_pool_comes_back_unchanged() {
    let raw: Value = serde_json::from_str(SAMPLE_POOL).unwrap();
    let pool: NodePool = serde_json::from_str(SAMPLE_POOL).unwrap();
    assert_eq!(pool.spec.node_template.extend_param.as_ref().unwrap().max_pods, Some(110));
    assert_eq!(serde_json::to_value(&pool).unwrap(), raw);
}

#[test]
fn a_recorded_create_is_stored_whole() {
    let all: Value =
        serde_json::from_str(include_str!("../fixtures/recorded-requests.json")).unwrap();
    let create = all["requests"].as_array().unwrap().iter().find(|request| {
        request["target"].as_str().unwrap().ends_with("/nodepools") && request["method"] == "POST"
    });
    let text = create.unwrap()["body"].as_str().unwrap();
    let mut sent: Value = serde_json::from_str(text).unwrap();
    let (pool, _) = NodePool::parse_create(text.as_bytes()).unwrap();
    sent["spec"]["nodeTemplate"]["login"]["userPassword"] = json!({});
    assert_eq!(serde_json::to_value(&pool).unwrap(), sent);
    let shouted = text.replace("apiVersion", "apiversion").replace("rootVolume", "RootVolume");
    assert_eq!(NodePool::parse_create(shouted.as_bytes()).unwrap().0, pool);
}

#[test]
fn the_answer_to_a_sync_is_the_job_with_its_id() {
    let mut job = Job::new(
        "4d1ecb2c-229a-11e8-9c75-0255ac100ceb",
        JobSpec { job_type: SYNC_NODE_POOL.to_owned(), ..JobSpec::default() },
        JobPhase::Running,
    );
    let sub =
        JobSpec { job_type: RESET_NODE.to_owned(), resource_id: "n".into(), ..JobSpec::default() };
    job.spec.sub_jobs.push(Job::new("s", sub, JobPhase::Success));
    let answer = UpgradeAnswer { jobid: job.metadata.uid.clone(), job: Some(job) };
    let value = serde_json::to_value(&answer).unwrap();
    assert_eq!(value["jobid"], "4d1ecb2c-229a-11e8-9c75-0255ac100ceb");
    assert_eq!((&value["kind"], &value["apiVersion"]), (&json!("Job"), &json!("v3")));
    assert_eq!(value["status"]["phase"], "Running");
    assert_eq!(value["spec"]["subJobs"][0]["spec"]["resourceID"], "n");
    let back: UpgradeAnswer = serde_json::from_value(value).unwrap();
    assert_eq!(back, answer);
}

#[test]
fn pages_of_nodes() {
    let raw = json!({"kind": "Node", "apiVersion": "v3", "metadata": {"name": "n", "uid": "u",
        "ownerReferences": {"nodepoolName": "p", "nodepoolID": "i"}},
        "spec": {"flavor": "s6"}, "status": {"phase": "Upgrading", "jobID": "j",
        "privateIP": "127.0.0.9", "configurationUpToDate": false}});
    let node: Node = serde_json::from_value(raw.clone()).unwrap();
    assert_eq!(serde_json::to_value(&node).unwrap(), raw);
    let page = serde_json::to_value(NodeList::page(vec![node.clone()], true)).unwrap();
    assert_eq!(page["pageInfo"], json!({"currentCount": 1, "nextMarker": "u"}));
    let last = serde_json::to_value(NodeList::page(vec![node], false)).unwrap();
    assert_eq!((&last["kind"], &last["pageInfo"]), (&json!("List"), &json!({"currentCount": 1})));
}

#[test]
fn a_cluster_always_shows_what_terraform_dereferences() {
    let raw = json!({"metadata": {"name": "c", "uid": "u"}, "spec": {"version": "v1.31"},
        "status": {"phase": "Hibernating"}});
    let cluster: Cluster = serde_json::from_value(raw).unwrap();
    assert_eq!(cluster.status.phase, ClusterPhase::Error);
    let value = serde_json::to_value(&cluster).unwrap();
    assert_eq!(value["spec"]["eniNetwork"], json!({}));
    assert_eq!(value["status"]["endpoints"], json!([]));
}

#[test]
fn token_requests() {
    let parse = |auth: Value| TokenRequest::parse(json!({"auth": auth}).to_string().as_bytes());
    let user = json!({"name": "ops", "password": "Passw0rd!", "domain": {"name": "d"}});
    let password = json!({"methods": ["password"], "password": {"user": user}});
    let read = parse(json!({"identity": password, "scope": {"project": {"name": "p"}}})).unwrap();
    assert!(matches!(&read.identity, Identity::Password { user, .. } if user == "ops"));
    assert_eq!(read.scope, Some(Scope::Project(NameOrId::Name("p".to_owned()))));
    assert!(!format!("{read:?}").contains("Passw0rd"));
    let token = json!({"identity": {"methods": ["token"], "token": {"id": "t"}}});
    assert!(matches!(parse(token).unwrap().identity, Identity::Token(_)));
    let rows = [
        (json!({}), "auth.identity", "is mandatory"),
        (json!({"identity": {"methods": ["totp"]}}), "auth.identity.methods", "is not"),
        (
            json!({"identity": {"methods": ["password"], "password": {"user": {"name": "x"}}}}),
            "auth.identity.password.user.password",
            "is mandatory",
        ),
        (json!({"identity": password, "scope": {}}), "auth.scope.domain", "is mandatory"),
    ];
    for (auth, field, text) in rows {
        let row = auth.to_string();
        assert_violation(&parse(auth).unwrap_err(), field, text, &row);
    }
}
