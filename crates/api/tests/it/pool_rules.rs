//! Rules of the bodies that create, change and scale a pool and move nodes into it.

use evenkeel_api::Violation;
use evenkeel_api::login::LoginSpec;
use evenkeel_api::node::MigrateRequest;
use evenkeel_api::nodepool::{ExistingNodes, NodePool};
use evenkeel_api::pool_update::{LoginChange, NodePoolUpdate, ScaleRequest};
use serde_json::{Value, json};

use crate::assert_violation;

/// A valid body with the value at the pointer replaced.
fn pool_with(pointer: &str, value: Value) -> Value {
    let mut body = json!({"kind": "NodePool", "apiVersion": "v3", "metadata": {"name": "pool-1"},
        "spec": {"initialNodeCount": 1, "autoscaling": {}, "nodeTemplate": {"k8sTags": {},
            "extendParam": {}, "runtime": {}}}});
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    body.pointer_mut(parent).unwrap()[key] = value;
    body
}

fn create(body: &Value) -> Result<(NodePool, Option<LoginSpec>), Vec<Violation>> {
    NodePool::parse_create(body.to_string().as_bytes())
}

#[test]
fn every_rule_of_a_pool() {
    let template = "/spec/nodeTemplate";
    let labels: serde_json::Map<String, Value> =
        (0..21).map(|number| (format!("l{number}"), json!("v"))).collect();
    let taints: Vec<Value> = (0..21)
        .map(|number| json!({"key": format!("t{number}"), "effect": "NoSchedule"}))
        .collect();
    let tags: Vec<Value> = (0..9).map(|number| json!({"key": format!("t{number}")})).collect();
    let taint = json!({"key": "k", "effect": "NoExecute"});
    let rows = [
        (
            "/spec/nodeTemplate/rootVolume",
            json!(5),
            "spec.nodeTemplate.rootVolume",
            "is not a JSON object",
        ),
        (
            "/spec/nodeTemplate/dataVolumes",
            json!({}),
            "spec.nodeTemplate.dataVolumes",
            "is not a list",
        ),
        ("/kind", json!("Node"), "kind", "is not one of NodePool"),
        ("/apiVersion", json!("v1"), "apiVersion", "is not one of v3"),
        ("/metadata/name", json!(null), "metadata.name", "is mandatory"),
        ("/metadata/name", json!(""), "metadata.name", "is not a pool name"),
        ("/metadata/name", json!("1a"), "metadata.name", "is not a pool name"),
        ("/metadata/name", json!("a-"), "metadata.name", "is not a pool name"),
        ("/metadata/name", json!("DefaultPool"), "metadata.name", "is not a pool name"),
        ("/metadata/name", json!("a".repeat(51)), "metadata.name", "is not a pool name"),
        ("/spec", json!(null), "spec", "is mandatory"),
        ("/spec/nodeTemplate", json!(null), "spec.nodeTemplate", "is mandatory"),
        ("/spec/type", json!("container"), "spec.type", "is not one of vm"),
        ("/spec/initialNodeCount", json!(-1), "spec.initialNodeCount", "is not an integer from 0"),
        ("/spec/initialNodeCount", json!("1"), "spec.initialNodeCount", "is not an integer"),
        (
            "/spec/labelPolicyOnExistingNodes",
            json!("drop"),
            "spec.labelPolicyOnExistingNodes",
            "is not one of refresh, ignore",
        ),
        (
            "/spec/autoscaling",
            json!({"minNodeCount": 3, "maxNodeCount": 2}),
            "spec.autoscaling.maxNodeCount",
            "is less than minNodeCount, 3",
        ),
        (&format!("{template}/k8sTags"), json!(labels), "spec.nodeTemplate.k8sTags", "21 labels"),
        (
            &format!("{template}/k8sTags"),
            json!({"a/b/c": "v"}),
            "spec.nodeTemplate.k8sTags.a/b/c",
            "is not a label key",
        ),
        (
            &format!("{template}/k8sTags"),
            json!({"k": "a b"}),
            "spec.nodeTemplate.k8sTags.k",
            "is not a label value",
        ),
        (&format!("{template}/k8sTags"), json!({"k": 1}), "spec.nodeTemplate.k8sTags.k", "string"),
        (&format!("{template}/taints"), json!(taints), "spec.nodeTemplate.taints", "21 taints"),
        (
            &format!("{template}/taints"),
            json!([{"key": "k", "effect": "No"}]),
            "spec.nodeTemplate.taints[0].effect",
            "is not one of NoSchedule",
        ),
        (
            &format!("{template}/taints"),
            json!([{"effect": "NoExecute"}]),
            "spec.nodeTemplate.taints[0].key",
            "is mandatory",
        ),
        (
            &format!("{template}/taints"),
            json!([taint, taint]),
            "spec.nodeTemplate.taints[1].key",
            "more than once",
        ),
        (&format!("{template}/userTags"), json!(tags), "spec.nodeTemplate.userTags", "9 tags"),
        (
            &format!("{template}/userTags"),
            json!([{"key": "CCE-x"}]),
            "spec.nodeTemplate.userTags[0].key",
            "reserved prefix",
        ),
        (
            &format!("{template}/runtime"),
            json!({"name": "rkt"}),
            "spec.nodeTemplate.runtime.name",
            "is not one of docker, containerd",
        ),
        (
            &format!("{template}/extendParam"),
            json!({"maxPods": 15}),
            "spec.nodeTemplate.extendParam.maxPods",
            "from 16 to 1024",
        ),
        (
            &format!("{template}/extendParam"),
            json!({"alpha.cce/preInstall": "é"}),
            "spec.nodeTemplate.extendParam.alpha.cce/preInstall",
            "is not base64",
        ),
        (
            &format!("{template}/login"),
            json!({"sshKey": "k", "userPassword": {"password": "x"}}),
            "spec.nodeTemplate.login.userPassword.password",
            "8 to 26",
        ),
    ];
    for (pointer, value, field, text) in rows {
        let body = pool_with(pointer, value);
        assert_violation(&create(&body).unwrap_err(), field, text, &body.to_string());
    }
    let most = pool_with("/metadata/name", json!("a".repeat(50)));
    assert!(create(&most).is_ok());
    let echoed = json!({"example.com/tier": "", "cce.cloud.com/cce-nodepool": "pool-1"});
    assert!(create(&pool_with("/spec/nodeTemplate/k8sTags", echoed)).is_ok());
}

#[test]
fn what_the_client_cannot_set_is_dropped_on_create() {
    let mut body = pool_with("/metadata/uid", json!("mine"));
    body["status"] = json!({"phase": "Error"});
    let (pool, login) = create(&body).unwrap();
    assert_eq!((pool.metadata.uid, pool.status, login), (None, None, None));
}

fn update(body: &Value) -> NodePoolUpdate {
    NodePoolUpdate::parse(body.to_string().as_bytes()).unwrap()
}

#[test]
fn an_update_replaces_what_it_names_and_keeps_the_rest() {
    let body = pool_with(
        "/spec/nodeTemplate",
        json!({"flavor": "s6", "az": "z", "os": "old",
        "login": {"sshKey": "kp"}, "rootVolume": {"size": 50}, "k8sTags": {"a": "1"},
        "extendParam": {"maxPods": 110, "agency_name": "x"}}),
    );
    let (mut pool, _) = create(&body).unwrap();
    // As Terraform sends it: no kind, empty password, keys of the update.
    let change = update(&json!({"metadata": {"name": "pool-2"}, "spec": {
        "initialNodeCount": 5, "ignoreInitialNodeCount": true, "extensionScaleGroups": [],
        "labelPolicyOnExistingNodes": "ignore", "nodeManagementUpdate": {"serverGroupReference": ""},
        "nodeTemplate": {"flavor": "", "az": "", "os": "new", "rootVolumeUpdate": {"size": 60},
            "login": {"userPassword": {"username": "", "password": ""}},
            "extendParam": {"alpha.cce/preInstall": "ZWNobyAx"}}}}));
    assert_eq!((change.wanted_count(), &change.login), (None, &LoginChange::Keep));
    change.apply_to(&mut pool);
    let template = &pool.spec.node_template;
    assert_eq!(pool.metadata.name, "pool-2");
    assert_eq!(pool.spec.initial_node_count, Some(1));
    assert_eq!(pool.spec.label_policy_on_existing_nodes, Some(ExistingNodes::Ignore));
    assert_eq!((template.flavor.as_deref(), template.os.as_deref()), (Some("s6"), Some("new")));
    assert_eq!(template.extra["rootVolume"], json!({"size": 60}));
    assert_eq!(template.login.as_ref().unwrap().ssh_key.as_deref(), Some("kp"));
    let param = template.extend_param.as_ref().unwrap();
    assert_eq!(param.pre_install.as_deref(), Some("ZWNobyAx"));
    assert_eq!((param.max_pods, &param.extra["agency_name"]), (Some(110), &json!("x")));
    assert_eq!(template.k8s_tags.as_ref().unwrap().len(), 1);
}

#[test]
fn a_count_that_is_left_out_means_zero_and_says_so() {
    let silent = update(&json!({"spec": {}}));
    assert_eq!((silent.wanted_count(), silent.count_is_implied()), (Some(0), true));
    let zero = update(&json!({"spec": {"initialNodeCount": 0}}));
    assert_eq!((zero.wanted_count(), zero.count_is_implied()), (Some(0), false));
    let ignored = update(&json!({"spec": {"ignoreInitialNodeCount": true}}));
    assert_eq!((ignored.wanted_count(), ignored.count_is_implied()), (None, false));
}

#[test]
fn an_update_changes_the_login() {
    let login = |login: Value| update(&json!({"spec": {"nodeTemplate": {"login": login}}})).login;
    assert_eq!(login(json!({})), LoginChange::Keep);
    assert_eq!(
        login(json!({"removeUserPassword": true})),
        LoginChange::Remove { ssh_key: false, user_password: true }
    );
    assert_eq!(
        login(json!({"sshKey": "kp", "removeUserPassword": true})),
        LoginChange::Set { login: LoginSpec::SshKey("kp".to_owned()), remove_other: true }
    );
    assert_eq!(
        login(json!({"sshKey": "kp", "removeSSHKey": false})),
        LoginChange::Set { login: LoginSpec::SshKey("kp".to_owned()), remove_other: false }
    );
    let (mut pool, _) =
        create(&pool_with("/spec/nodeTemplate/login", json!({"sshKey": "k"}))).unwrap();
    update(&json!({"spec": {"nodeTemplate": {"login": {"removeSSHKey": true}}}}))
        .apply_to(&mut pool);
    assert_eq!(pool.spec.node_template.login.unwrap().ssh_key, None);
}

#[test]
fn two_spellings_may_not_contradict() {
    let body = json!({"spec": {"nodeTemplate": {"rootVolume": {"size": 1},
        "rootVolumeUpdate": {"size": 2}}}});
    let found = NodePoolUpdate::parse(body.to_string().as_bytes()).unwrap_err();
    assert_violation(&found, "spec.nodeTemplate.rootVolumeUpdate", "differs", "volumes");
}

#[test]
fn scaling() {
    let parse = |spec: Value| ScaleRequest::parse(json!({"spec": spec}).to_string().as_bytes());
    let good = parse(json!({"desiredNodeCount": 2, "scaleGroups": ["default"]})).unwrap();
    assert_eq!((good.desired_node_count, good.scale_groups), (2, vec!["default".to_owned()]));
    assert_violation(&parse(json!({})).unwrap_err(), "spec.desiredNodeCount", "mandatory", "none");
    let found = parse(json!({"desiredNodeCount": -1})).unwrap_err();
    assert_violation(&found, "spec.desiredNodeCount", "-1 is not an integer from 0", "-1");
}

#[test]
fn moving_nodes() {
    let parse = |list: Value| {
        let body = json!({"apiVersion": "v3", "kind": "List", "nodeList": list});
        MigrateRequest::parse(body.to_string().as_bytes())
    };
    let ids = |count: usize| -> Value {
        (0..count).map(|number| json!({"nodeID": format!("n{number}")})).collect()
    };
    assert_eq!(parse(ids(50)).unwrap().node_ids.len(), 50);
    let rows = [
        (ids(51), "nodeList", "has 51 nodes"),
        (json!([]), "nodeList", "is empty"),
        (json!(null), "nodeList", "is mandatory"),
        (json!({}), "nodeList", "is not a list"),
        (json!([{}]), "nodeList[0].nodeID", "is mandatory"),
        (json!([{"nodeID": "a"}, {"nodeid": "a"}]), "nodeList[1].nodeid", "more than once"),
    ];
    for (list, field, text) in rows {
        let row = list.to_string();
        assert_violation(&parse(list).unwrap_err(), field, text, &row);
    }
}
