//! `plan`: one page, or the server's answer.

use serde_json::{Value, json};

use crate::support::{POOL, Server, own, refusal};

fn call(pool: &str) -> String {
    own(
        "POST",
        &format!("clusters/{}/nodepools/{pool}/operation/upgrade/preview", crate::support::CLUSTER),
    )
}

fn node(name: &str, from: Option<u64>, pods: &[&str], concerns: Value) -> Value {
    json!({
        "nodeID": format!("uid-{name}"), "name": name, "zone": "z1", "rule": "chosen: can be drained now",
        "startSeconds": from, "endSeconds": from.map(|from| from + 330),
        "drift": [
            { "field": "preInstall", "wanted": "sha256:1a2b3c4d", "found": null, "applied": "reset" },
            { "field": "label tier", "wanted": "back", "found": "front", "applied": "inPlace" }
        ],
        "moves": pods, "stays": 2, "concerns": concerns
    })
}

fn preview() -> Value {
    let never = json!([{ "pod": "shop/cart-0", "budget": "shop/cart", "kind": "budgetNeverAllows", "blocks": true,
        "why": "it can never allow an eviction: raise the replicas or lower the budget" }]);
    let data = json!([{ "pod": "db/pg-1", "kind": "localData", "blocks": false,
        "why": "the data of its emptyDir is lost with the eviction" }]);
    json!({
        "cluster": "c", "clusterName": "lab", "pool": POOL, "poolName": "blue", "revision": "r",
        "maxUnavailable": 20, "basis": "assumed",
        "missing": ["cluster has no recipe, so nothing says what a reset is; set one with `evenkeel cluster set-machines lab`"],
        "nodes": [
            node("node-1", Some(0), &["db/pg-0", "web/a"], json!([])),
            node("node-2", Some(330), &["db/pg-1"], data),
            node("node-3", None, &["web/b"], never)
        ],
        "capacity": { "nodes": 2, "limits": true, "sentence": "at most 2 nodes may be out at once, beyond that memory is short" },
        "bounds": [
            { "name": "LB1", "seconds": 330, "what": "node node-1" }, { "name": "LB2", "seconds": 49, "what": "maxUnavailable" },
            { "name": "LB3", "seconds": 480, "what": "budget db/pg" }, { "name": "LB3'", "seconds": 0, "what": "" },
            { "name": "LB4", "seconds": 0, "what": "" }, { "name": "LB5", "seconds": 0, "what": "" }
        ],
        "eta": { "lowSeconds": 240, "likelySeconds": 660, "highSeconds": 8000 },
        "useful": { "maxUnavailable": 8, "sentence": "20 gains nothing over 8: budget db/pg is the limit" },
        "trials": [
            { "pod": "db/pg-0", "budget": "db/pg", "answer": "allowed" },
            { "pod": "shop/cart-0", "budget": "shop/cart", "answer": "refused",
              "message": "Cannot evict pod as it would violate the pod's disruption budget." }
        ]
    })
}

const PAGE: &str = "\
blue in lab: 3 nodes, 20 at a time

Time     about 11 min, between 4 min and 2 h 13 min (assumed times: none of its nodes has shown its own yet)
At best  8 min (LB3: budget db/pg)
Useful   20 gains nothing over 8: budget db/pg is the limit
Room     at most 2 nodes may be out at once, beyond that memory is short
Pods     4 leave; 1 node cannot be drained as things are

A sync would be refused
  cluster has no recipe, so nothing says what a reset is; set one with `evenkeel cluster set-machines lab`

Blocks a drain
  PODS         BUDGET     NODE    WHY
  shop/cart-0  shop/cart  node-3  it can never allow an eviction: raise the replicas or lower the budget

Costs something
  PODS     BUDGET  NODE    WHY
  db/pg-1  -       node-2  the data of its emptyDir is lost with the eviction

Changes
  FIELD       FOUND  WANTED           NODES  HOW
  label tier  front  back             3      in place
  preInstall  ?      sha256:1a2b3c4d  3      by reset

Order
  NODE    ZONE  FROM   TO      PODS  WHY
  node-1  z1    0 s    6 min   2     chosen: can be drained now
  node-2  z1    6 min  11 min  1     chosen: can be drained now
  node-3  z1    -      -       1     cannot be drained: pod shop/cart-0

The API server was asked about the 2 hardest evictions: 1 would be let go now
  POD          BUDGET     ANSWER   WHAT IT SAID
  shop/cart-0  shop/cart  refused  Cannot evict pod as it would violate the pod's disruption budget.
";

#[test]
fn the_page_says_the_verdict_first() {
    let server = Server::start();
    server.on(&call(POOL), 200, preview());
    server.run("plan blue --max-unavailable 20").is(0, PAGE, "");
    assert!(PAGE.lines().count() < 40, "a page is read in half a minute");
    let sent = &server.changes()[0].body;
    assert_eq!(sent["spec"], json!({ "nodePoolID": POOL, "maxUnavailable": 20 }));
}

#[test]
fn json_is_the_servers_answer() {
    let server = Server::start();
    server.on(&call(POOL), 200, preview());
    let outcome = server.run("plan blue --json --node node-2 --force");
    let shown: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(shown, preview());
    let sent = &server.changes()[0].body;
    assert_eq!(
        sent["spec"],
        json!({ "nodePoolID": POOL, "maxUnavailable": 1, "nodeIDs": ["uid-node-2"], "force": true })
    );
}

#[test]
fn long_lists_are_cut_and_counted_and_nothing_to_do_is_one_line() {
    let server = Server::start();
    let mut many = preview();
    let nodes: Vec<Value> =
        (0..40).map(|n| node(&format!("n{n}"), Some(n), &["a/b"], json!([]))).collect();
    many["nodes"] = nodes.into();
    server.on(&call(POOL), 200, many);
    let outcome = server.run("plan blue --max-unavailable 2");
    assert!(outcome.stdout.contains("  and 28 more\n"), "{}", outcome.stdout);
    assert!(outcome.stdout.lines().count() < 50, "{}", outcome.stdout);

    let server = Server::start();
    server.on(&call(POOL), 200, json!({ "poolName": "blue", "clusterName": "lab" }));
    server.run("plan blue").is(0, "blue in lab: nothing to do\n\n", "");
}

#[test]
fn a_refusal_is_shown_as_it_came() {
    let server = Server::start();
    server.on(&call(POOL), 403, refusal("CCE.01403009", "The cluster cannot be seen"));
    let outcome = server.run("plan blue");
    assert_eq!(outcome.exit, 1);
    assert!(
        outcome.stderr.contains("CCE.01403009: The cluster cannot be seen"),
        "{}",
        outcome.stderr
    );
}
