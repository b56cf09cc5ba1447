//! `agent enrol`, `list` and `revoke`.

use serde_json::json;

use crate::support::{CLUSTER, Server, own};

#[test]
fn a_token_goes_to_standard_output_alone() {
    let server = Server::start();
    let token =
        json!({ "node": "node-1", "nodeID": "uid-node-1", "token": "canary", "expiresAt": "soon" });
    server.on(&own("POST", &format!("clusters/{CLUSTER}/agents/uid-node-1/token")), 201, token);
    let outcome = server.run("agent enrol node-1");
    assert_eq!((outcome.exit, outcome.stdout.as_str()), (0, "canary\n"));
    assert!(
        outcome.stderr.contains("node node-1, good for one use until soon"),
        "{}",
        outcome.stderr
    );
    assert!(!outcome.stderr.contains("canary"));
    assert_eq!(server.run("agent enrol node-9").exit, 2);
}

#[test]
fn agents_are_listed_and_revoked_by_the_name_of_their_node() {
    let server = Server::start();
    let agents = json!({ "items": [
        { "node": "node-1", "nodeID": "uid-node-1", "agent": "a1", "version": "1", "enrolledAt": "then", "connected": true,
            "lastSeenSecondsAgo": 0, "tokenExpiresAt": null },
        { "node": "gone", "nodeID": "uid-gone", "agent": "a2", "version": "1", "enrolledAt": "then", "connected": false,
            "lastSeenSecondsAgo": 7, "tokenExpiresAt": null },
        { "node": "new", "nodeID": "uid-new", "agent": null, "version": null, "enrolledAt": null, "connected": false,
            "lastSeenSecondsAgo": null, "tokenExpiresAt": "soon" },
    ] });
    server.on(&own("GET", &format!("clusters/{CLUSTER}/agents")), 200, agents);
    let outcome = server.run("agent list");
    let words = |line: usize| -> Vec<String> {
        outcome.stdout.lines().nth(line).unwrap().split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(words(1), ["node-1", "connected", "1", "then", "a1"]);
    assert_eq!(words(2).join(" "), "gone last seen 7 s ago 1 then a2");
    assert_eq!(words(3).join(" "), "new to be enrolled - - -");
    // A node that has left its cluster as well.
    let revoked = json!({ "node": "gone", "revoked": true });
    server.on(&own("DELETE", &format!("clusters/{CLUSTER}/agents/uid-gone")), 200, revoked);
    server.run("agent revoke gone").is(0, "the agent of node gone has no rights any more\n", "");
    assert_eq!(server.run("agent revoke node-2").exit, 2);
}
