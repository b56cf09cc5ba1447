//! `pool` and `node`.

use serde_json::{Value, json};

use crate::support::{
    CLUSTER, Files, JOB, POOL, Server, cce, cluster, in_cluster, node, nodes, own, refusal,
};

#[test]
fn pools_are_listed_and_shown() {
    let server = Server::start();
    server.run("pool list").is(
        0,
        &format!(
            "NAME         ID                                    NODES  READY  SYNCED  JOB\n\
             blue         {POOL}  2      2      1       {JOB}\n\
             DefaultPool  DefaultPool                           0      0      0       -\n"
        ),
        "",
    );
    let outcome = server.run("pool show blue --output json");
    let answer: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(answer["metadata"]["uid"], POOL);
    server.run("pool show red").is(
        2,
        "",
        "error: there is no node pool red\n\nhint: there are: blue, DefaultPool\n",
    );
}

#[test]
fn a_second_cluster_makes_the_choice_necessary() {
    let server = Server::empty();
    let mut other = cluster();
    other["metadata"]["uid"] = json!("c2");
    other["metadata"]["name"] = json!("prod");
    server.on(
        &cce("GET", "clusters?detail=true"),
        200,
        json!({ "items": [cluster(), other.clone()] }),
    );
    server.run("pool list").is(
        2,
        "",
        "error: there are 2 clusters and --cluster names none\n\nhint: give --cluster with one of lab, prod\n",
    );
    server.on(&in_cluster("GET", "nodes?limit=2000"), 200, nodes());
    assert_eq!(server.run("node list --cluster lab").exit, 0);
    assert_eq!(server.run_with("node list", &[("EVENKEEL_CLUSTER", CLUSTER)], "").exit, 0);
    other["metadata"]["name"] = json!("lab");
    let server = Server::empty();
    server.on(&cce("GET", "clusters?detail=true"), 200, json!({ "items": [cluster(), other] }));
    server.run("node list --cluster lab").is(
        2,
        "",
        &format!(
            "error: 2 clusters have the name lab\n\nhint: give one of the ids: {CLUSTER}, c2\n"
        ),
    );
}

#[test]
fn create_sends_the_file_as_it_is() {
    let server = Server::start();
    let body = json!({ "metadata": { "name": "red" }, "spec": { "initialNodeCount": 0 } });
    let files = Files::new(&[
        ("p.json", &body.to_string()),
        ("bad", "{\"password\": canary}"),
        ("list", "[]"),
    ]);
    server.on(
        &in_cluster("POST", "nodepools"),
        201,
        json!({ "metadata": { "name": "red", "uid": "u-red" } }),
    );
    let file = files.at("p.json");
    server.run(&format!("pool create --file {file}")).is(0, "u-red\n", "node pool red created\n");
    let from_stdin = server.run_with("pool create --file -", &[], &body.to_string());
    assert_eq!(from_stdin.exit, 0);
    assert_eq!(
        server.changes().iter().map(|seen| seen.body.clone()).collect::<Vec<_>>(),
        [body.clone(), body]
    );
    let bad = files.at("bad");
    server.run(&format!("pool create --file {bad}")).is(
        2,
        "",
        &format!("error: {bad} is not valid JSON: line 1, column 14\n"),
    );
    let list = files.at("list");
    server.run(&format!("pool create --file {list}")).is(
        2,
        "",
        &format!("error: {list} is not a JSON object\n"),
    );
}

#[test]
fn update_never_scales_to_nothing_by_omission() {
    let server = Server::start();
    let files = Files::new(&[(
        "p.json",
        "{\"metadata\":{\"name\":\"blue\"},\"spec\":{\"nodeTemplate\":{\"os\":\"x\"}}}",
    )]);
    server.on(
        &in_cluster("PUT", &format!("nodepools/{POOL}")),
        200,
        json!({ "metadata": { "name": "blue" } }),
    );
    server.run(&format!("pool update blue --file {}", files.at("p.json"))).is(
        0,
        &format!("{POOL}\n"),
        "the file has no spec.initialNodeCount, which would mean 0: sent with ignoreInitialNodeCount\n\
         node pool blue changed; `evenkeel sync blue` brings it to its nodes\n",
    );
    assert_eq!(server.changes()[0].body["spec"]["ignoreInitialNodeCount"], true);
}

#[test]
fn nodes_over_all_pages() {
    let server = Server::empty();
    server.on(&cce("GET", "clusters?detail=true"), 200, json!({ "items": [cluster()] }));
    let page = |name: &str, info: Value| json!({ "items": [node(name, true)], "pageInfo": info });
    server.on(
        &in_cluster("GET", "nodes?limit=2000"),
        200,
        page("node-2", json!({ "nextMarker": "m/1" })),
    );
    server.on(&in_cluster("GET", "nodes?limit=2000&marker=m%2F1"), 200, page("node-1", json!({})));
    server.run("node list").is(
        0,
        "NAME    ID          POOL  PHASE   ADDRESS   UP-TO-DATE\n\
         node-1  uid-node-1  blue  Active  10.0.0.1  yes\n\
         node-2  uid-node-2  blue  Active  10.0.0.2  yes\n",
        "",
    );
}

#[test]
fn nodes_of_a_pool_and_nodes_that_move() {
    let server = Server::start();
    let heads = "NAME  ID  POOL  PHASE  ADDRESS  UP-TO-DATE\n";
    server.run("node list --pool DefaultPool").is(0, heads, "");
    let call = in_cluster("PUT", &format!("nodepools/{POOL}/nodes/migrate"));
    server.on(&call, 200, json!({}));
    server.on(&format!("{call}?asCurrent=true"), 200, json!({}));
    server.run("node migrate --pool blue node-1 uid-node-2").is(
        0,
        "",
        "2 nodes are in node pool blue now\n",
    );
    server.run("node migrate --pool blue node-1 --as-current").is(
        0,
        "",
        "1 node is in node pool blue now, recorded as up to date\n",
    );
    let sent = server.changes();
    assert_eq!(
        sent[0].body,
        json!({ "kind": "List", "apiVersion": "v3",
            "nodeList": [{ "nodeID": "uid-node-1" }, { "nodeID": "uid-node-2" }] })
    );
    assert_eq!(sent[1].call, format!("{call}?asCurrent=true"));
    server.run("node migrate --pool blue node-9").is(
        2,
        "",
        "error: there is no node node-9\n\nhint: there are: node-1, node-2\n",
    );
    let server = Server::start();
    server.on(&call, 403, refusal("CCE.01403006", "The node pool has busy nodes"));
    assert_eq!(server.run("node migrate --pool blue node-1").exit, 1);
}

#[test]
fn a_policy_is_set_and_shown() {
    let server = Server::start();
    let path = format!("clusters/{CLUSTER}/nodepools/{POOL}/policy");
    let answer = json!({
        "pool": POOL, "open": false, "closedBecause": "the next one opens tonight", "soakSeconds": 600, "strictCapacity": true,
        "windows": [
            { "timeZone": "Europe/Berlin", "days": ["Mon", "Tue"], "from": "21:00:00", "to": "05:00:00" },
            { "timeZone": "UTC", "cron": "0 22 * * Sat", "durationSeconds": 14400 },
        ],
        "updatedBy": "ann/AK1", "updatedAt": "12:00",
    });
    server.on(&own("PUT", &path), 200, answer.clone());
    server.on(&own("GET", &path), 200, answer);
    let shown = "Pool      blue\n\
                 Window    Mon,Tue 21:00:00-05:00:00 Europe/Berlin\n\
                 Window    0 22 * * Sat for 14400 s UTC\n\
                 Now       closed\nBecause   the next one opens tonight\nSoak      600 s\n\
                 Capacity  strict\nSet by    ann/AK1\nSet at    12:00\n";
    server.run("pool policy blue").is(0, shown, "");
    server
        .run("pool policy blue --window Mon-Tue~21:00-05:00 --time-zone Europe/Berlin --soak 600 --strict-capacity true")
        .is(0, shown, "");
    let sent = server.changes()[0].body.clone();
    assert_eq!(sent["windows"][0]["days"], json!(["Mon-Tue"]));
    assert_eq!((&sent["windows"][0]["from"], &sent["soakSeconds"]), (&json!("21:00"), &json!(600)));
    assert_eq!(sent["strictCapacity"], true);
    assert_eq!(server.run("pool policy blue --window nonsense").exit, 2);
    assert_eq!(server.run("pool policy blue --always --window 1:00-2:00").exit, 2);
}
