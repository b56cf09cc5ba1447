#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use serde_json::json;

use super::*;

fn item(value: Value) -> Item {
    Item { uid: text(&value, "/metadata/uid"), name: text(&value, "/metadata/name"), value }
}

#[test]
fn nodes_are_counted_to_the_right_pool() {
    let owned = |id: &str| item(json!({ "metadata": { "ownerReferences": { "nodepoolID": id } } }));
    let noted = |text: &str| {
        item(json!({ "metadata": { "annotations": { "kubernetes.io/node-pool.id": text } } }))
    };
    let pool = |uid: &str| item(json!({ "metadata": { "uid": uid, "name": uid } }));
    let cases = [
        (owned("p-1"), "p-1", true),
        (owned("p-2"), "p-1", false),
        (noted("p-1"), "p-1", true),
        (noted("az1#c7#linux"), "DefaultPool", true),
        (noted("p-1"), "DefaultPool", false),
        (owned("DefaultPool"), "DefaultPool", true),
    ];
    for (node, uid, wanted) in cases {
        assert_eq!(is_in_pool(&node, &pool(uid)), wanted, "{} in {uid}", node.value);
    }
}

#[test]
fn a_job_of_the_real_service_is_shown_too() {
    let job: Job = serde_json::from_value(json!({
        "metadata": { "uid": "j" },
        "spec": {
            "type": "CreateNode", "resourceID": "n",
            "subJobs": [{ "metadata": { "uid": "s" }, "spec": { "type": "InstallNode", "resourceName": "node" },
                "status": { "phase": "Running" } }]
        },
        "status": { "phase": "Initializing", "reason": "" }
    }))
    .unwrap();
    assert_eq!(
        super::job(&job),
        "Job       j\nType      CreateNode\nResource  n\nPhase     Initializing\n\n\
         NODE  PHASE    STEP  ATTEMPT  SINCE  REASON\nnode  Running  -     -        -      -\n"
    );
}

#[test]
fn a_pool_shows_its_conditions() {
    let pool = item(json!({
        "metadata": { "name": "blue", "uid": "u" }, "spec": {},
        "status": { "phase": "", "currentNode": 2, "conditions": [
            { "type": "ConfigurationSynchronizing", "status": "True", "reason": "Synchronizing", "message": "0 of 2" }
        ] }
    }));
    let shown = super::pool(&pool);
    assert!(
        shown.contains("Condition  ConfigurationSynchronizing=True Synchronizing: 0 of 2\n"),
        "{shown}"
    );
    assert!(!shown.contains("Phase"), "{shown}");
}
