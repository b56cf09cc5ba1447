//! `get job` and `get output`.

use serde_json::{Value, json};

use crate::support::{JOB, POOL, Server, cce, own, refusal};
use crate::sync::job;

#[test]
fn a_job_with_its_nodes() {
    let server = Server::start();
    server.on(
        &cce("GET", &format!("jobs/{JOB}")),
        200,
        job("Running", 1, &[("node-1", "draining", "why")]),
    );
    let shown = format!(
        "Job              {JOB}\nType             SyncNodePool\nResource         blue ({POOL})\n\
         Phase            Running\nNodes            1 of 2 ok, 1 in hand\nMax unavailable  1\n\
         Recipe           script\nIgnored fields   flavor, az\n\n\
         NODE    PHASE     STEP   ATTEMPT  SINCE  REASON\nnode-1  draining  drain  1        12:00  why\n"
    );
    server.run(&format!("get job {JOB}")).is(0, &shown, "");
    let log = json!({ "nodes": { "node-1": { "log": [{ "at": "12:00", "word": "cordon", "note": "" }] } } });
    server.on(&own("GET", &format!("jobs/{JOB}")), 200, log);
    server.run(&format!("get job {JOB} --log")).is(
        0,
        &format!("{shown}\nnode-1\n  12:00  cordon\n"),
        "",
    );
}

#[test]
fn watch_ends_with_the_status_of_the_job() {
    let server = Server::start();
    let get = cce("GET", &format!("jobs/{JOB}"));
    server.on(&get, 200, job("Failed", 1, &[]));
    let outcome = server.run(&format!("get job {JOB} --watch"));
    assert_eq!(outcome.exit, 1);
    assert!(
        outcome.stdout.contains("Reason           1 of 2 nodes failed\n"),
        "{}",
        outcome.stdout
    );
    // Without --watch the question was answered, whatever the answer.
    assert_eq!(server.run(&format!("get job {JOB} --output json")).exit, 0);
}

#[test]
fn an_unknown_job() {
    let server = Server::start();
    server.on(
        &cce("GET", "jobs/a%20b"),
        404,
        refusal("CCE.01404001", "Resource not found. There is no job a b here"),
    );
    server.run("get job a~b --watch").is(
        1,
        "",
        "error: CCE.01404001: Resource not found. There is no job a b here\n  HTTP 404, request id req-1\n\n\
         hint: see `evenkeel cluster list`, `evenkeel pool list`, `evenkeel node list`\n",
    );
}

#[test]
fn what_cannot_be_an_id_is_not_sent() {
    let server = Server::start();
    for (args, id) in [("get job a/b", "a/b"), ("get job ..", ".."), ("get output j %2e", "%2e")] {
        server.run(args).is(2, "", &format!("error: \"{id}\" cannot be an id or a name\n"));
    }
    assert!(server.calls().is_empty());
}

fn piece(data: &str, next: u64, complete: bool) -> Value {
    json!({ "node": "node-1", "attempt": 2, "text": "", "data": data, "nextOffset": next, "complete": complete })
}

#[test]
fn output_is_read_to_its_end_within_one_attempt() {
    let server = Server::start();
    let place = |query: &str| own("GET", &format!("jobs/{JOB}/nodes/node-1/output?{query}"));
    server.on(&place("stage=reset&offset=0"), 200, piece("aGVsbG8g", 6, false));
    server.on(&place("stage=reset&offset=6&attempt=2"), 200, piece("d29ybGQK", 12, true));
    server.run(&format!("get output {JOB} node-1")).is(0, "hello world\n", "");
    server.on(&place("stage=post&offset=0&attempt=1"), 200, piece("", 0, false));
    server.run(&format!("get output {JOB} node-1 --attempt 1 --stage post")).is(
        0,
        "",
        "the output goes on: the step is still running\n",
    );
}

#[test]
fn buttons_say_what_was_pressed() {
    let server = Server::start();
    let answer = json!({
        "job": JOB, "state": { "status": "running" }, "changed": true,
        "control": {
            "paused": { "by": "ann/AK1", "at": "12:00" }, "cancelled": null, "nodes": {},
            "log": [{ "at": "12:00", "by": "ann/AK1", "deed": "pause", "node": null }],
        },
    });
    server.on(&own("POST", &format!("jobs/{JOB}/pause")), 200, answer.clone());
    let shown = format!(
        "Job     {JOB}\nState   running\nPaused  by ann/AK1 at 12:00\n\n\
         AT     BY       DEED   NODE\n12:00  ann/AK1  pause  -\n"
    );
    server.run(&format!("job pause {JOB}")).is(0, &shown, "");
    for (command, path) in [
        ("retry", format!("jobs/{JOB}/retry")),
        ("skip", format!("jobs/{JOB}/skip")),
        ("force", format!("jobs/{JOB}/nodes/node-1/force")),
    ] {
        server.on(&own("POST", &path), 200, answer.clone());
        assert_eq!(server.run(&format!("job {command} {JOB} node-1")).exit, 0, "{command}");
    }
    assert_eq!(server.run(&format!("job skip {JOB}")).exit, 2, "a skip needs a node");
}

#[test]
fn why_a_job_waits_and_what_it_cost() {
    let server = Server::start();
    server.on(&cce("GET", &format!("jobs/{JOB}")), 200, job("Running", 1, &[]));
    let described = json!({
        "nodes": {
            "node-1": { "inHand": true, "phase": "Draining", "since": "12:00", "nextTry": "12:01",
                "waitingFor": "pod a/b is held by budget a/c: why", "chosen": "the emptiest" },
            "node-2": { "inHand": false, "phase": "Done" },
        },
        "queue": [{ "waitingFor": "waiting for a slot: 1 of 1 in hand", "nextTry": null, "nodes": ["node-3", "node-4"] }],
        "control": { "log": [{ "at": "11:59", "by": "ann/AK1", "deed": "skip", "node": "node-9" }] },
        "costs": {
            "workloads": [{ "workload": "StatefulSet a/db", "moves": 3, "deleted": 0, "worstPod": "db-0", "worstPodMoves": 2 }],
            "budgets": [{ "budget": "a/c", "secondsBelow": 7, "mostMissing": 1, "isBelow": false }],
            "otherMoves": 0,
        },
    });
    server.on(&own("GET", &format!("jobs/{JOB}")), 200, described);
    let shown = server.run(&format!("get job {JOB} --why")).stdout;
    let why = "\nIN HAND  PHASE     SINCE  WAITING FOR                         NEXT TRY  CHOSEN\n\
         node-1   Draining  12:00  pod a/b is held by budget a/c: why  12:01     the emptiest\n\
         \nIN LINE  WAITING FOR                         NEXT TRY  NODES\n\
         2        waiting for a slot: 1 of 1 in hand  -         node-3 node-4\n\
         \nAT     BY       DEED  NODE\n11:59  ann/AK1  skip  node-9\n\
         \nWORKLOAD          MOVES  DELETED  WORST POD\nStatefulSet a/db  3      0        db-0 (2)\n\
         \nBUDGET  BELOW FOR  MOST MISSING\na/c     7 s        1\n";
    assert!(shown.ends_with(why), "{shown}");
}
