//! `sync`, with and without waiting.

use serde_json::{Value, json};

use crate::support::{Files, JOB, POOL, Server, cce, in_cluster, refusal};

fn call(pool: &str) -> String {
    in_cluster("POST", &format!("nodepools/{pool}/operation/upgrade"))
}

/// A job as the server shows it while it runs and after.
pub fn job(phase: &str, ok: u32, nodes: &[(&str, &str, &str)]) -> Value {
    let sub = |(name, word, reason): &(&str, &str, &str)| {
        json!({
            "metadata": { "uid": format!("sub-{name}") },
            "spec": { "type": "ResetNode", "resourceName": name, "resourceID": format!("uid-{name}"),
                "extendParam": { "phase": word, "attempt": "1", "since": "12:00", "step": "drain" } },
            "status": { "phase": "Running", "reason": reason }
        })
    };
    json!({
        "kind": "Job", "apiVersion": "v3",
        "metadata": { "uid": JOB },
        "spec": { "type": "SyncNodePool", "resourceID": POOL, "resourceName": "blue",
            "extendParam": { "total": "2", "ok": ok.to_string(), "failed": "0", "inHand": "1", "open": "0",
                "maxUnavailable": "1", "recipe": "script", "ignoredFields": "flavor, az" },
            "subJobs": nodes.iter().map(sub).collect::<Vec<_>>() },
        "status": { "phase": phase, "reason": if phase == "Failed" { "1 of 2 nodes failed" } else { "" } }
    })
}

#[test]
fn everything_that_was_asked_is_sent() {
    let server = Server::start();
    let template = json!({ "lifeCycle": { "preInstall": "" }, "login": { "sshKey": "ops" } });
    let files = Files::new(&[("t.json", &template.to_string())]);
    server.on(&call(POOL), 200, json!({ "jobid": JOB }));
    server
        .run(&format!(
            "sync blue --max-unavailable 3 --node node-2 --node uid-node-1 --skip node-1 --retry-times 0 --force \
             --template {}",
            files.at("t.json")
        ))
        .is(0, &format!("{JOB}\n"), &format!("accepted; watch it with `evenkeel get job {JOB} --watch`\n"));
    assert_eq!(
        server.changes()[0].body,
        json!({ "kind": "NodePool", "apiVersion": "v3", "spec": {
            "nodePoolID": POOL, "maxUnavailable": 3, "nodeIDs": ["uid-node-2", "uid-node-1"],
            "skippedNodes": ["uid-node-1"], "retryTimes": 0, "force": true, "nodeTemplate": template
        } })
    );
}

#[test]
fn what_was_not_asked_is_left_out() {
    let server = Server::start();
    server.on(&call(POOL), 200, json!({ "jobid": JOB }));
    let outcome = server.run(&format!("sync {POOL} --max-unavailable 1 -o json"));
    assert_eq!(outcome.stdout, format!("{{\n  \"jobid\": \"{JOB}\"\n}}\n"));
    let sent = &server.changes()[0].body;
    assert_eq!(sent["spec"], json!({ "nodePoolID": POOL, "maxUnavailable": 1 }));
    assert!(!server.calls().iter().any(|call| call.contains("/nodes")));
}

#[test]
fn wait_follows_to_success() {
    let server = Server::start();
    server.on(&call(POOL), 200, json!({ "jobid": JOB }));
    let get = cce("GET", &format!("jobs/{JOB}"));
    let held = "pod web-0 is held\x1b[2J";
    server.on(&get, 200, job("Initializing", 0, &[]));
    server.on(&get, 200, job("Running", 0, &[("node-1", "draining", held)]));
    server.on(&get, 200, job("Running", 0, &[("node-1", "draining", held)]));
    server.on(&get, 503, refusal("APIGW.0201", "Backend timeout"));
    server.on(&get, 200, job("Running", 1, &[("node-1", "done", "")]));
    server.on(&get, 200, job("Success", 2, &[("node-1", "done", "")]));
    server.run("sync blue --max-unavailable 1 --wait --timeout 60").is(
        0,
        &format!("{JOB}\n"),
        &format!(
            "job {JOB} accepted; to stop watching does not stop it\n\
             job {JOB} Initializing: 0 of 2 ok, 1 in hand\n\
             node-1  draining (drain): pod web-0 is held [2J\n\
             job {JOB} Running: 0 of 2 ok, 1 in hand\n\
             APIGW.0201: Backend timeout; trying again\n\
             the server answers again\n\
             node-1  done (drain)\n\
             job {JOB} Running: 1 of 2 ok, 1 in hand\n\
             job {JOB} Success (2 of 2 ok, 1 in hand)\n"
        ),
    );
}

#[test]
fn a_failed_job_and_one_that_takes_too_long_are_status_1() {
    let server = Server::start();
    server.on(&call(POOL), 200, json!({ "jobid": JOB }));
    let get = cce("GET", &format!("jobs/{JOB}"));
    server.on(&get, 200, job("Failed", 1, &[]));
    let outcome = server.run("sync blue --max-unavailable 1 --wait --output json");
    assert_eq!(outcome.exit, 1);
    assert!(
        outcome.stderr.ends_with("Failed (1 of 2 ok, 1 in hand): 1 of 2 nodes failed\n"),
        "{}",
        outcome.stderr
    );
    let answer: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(answer["status"]["phase"], "Failed");

    let server = Server::start();
    server.on(&call(POOL), 200, json!({ "jobid": JOB }));
    server.on(&get, 200, job("Running", 0, &[]));
    let outcome = server.run("sync blue --max-unavailable 1 --wait --timeout 1");
    assert_eq!(outcome.exit, 1);
    let end = format!(
        "error: job {JOB} has not ended after 1 s\n\n\
         hint: it goes on; watch it with `evenkeel get job {JOB} --watch`\n"
    );
    assert!(outcome.stderr.ends_with(&end), "{}", outcome.stderr);
}

#[test]
fn a_refusal_says_what_to_do() {
    let server = Server::start();
    server.on(
        &call(POOL),
        429,
        refusal("CCE.01429002", "Resource locked by other requests. Job x runs"),
    );
    server.run("sync blue --max-unavailable 1 --wait").is(
        1,
        "",
        "error: CCE.01429002: Resource locked by other requests. Job x runs\n  HTTP 429, request id req-1\n\n\
         hint: `evenkeel pool show POOL` names the job that holds the pool; `evenkeel get job ID` shows it\n",
    );
    assert_eq!(server.changes().len(), 1, "a change is never repeated");
}

#[test]
fn a_region_that_names_no_job_is_told_apart() {
    let server = Server::start();
    server.on(&call("DefaultPool"), 200, Value::Null);
    let said = "the sync of DefaultPool was accepted, but the server named no job to follow";
    server.run("sync DefaultPool --max-unavailable 1").is(0, "", &format!("{said}\n"));
    server.run("sync DefaultPool --max-unavailable 1 --wait").is(
        1,
        "",
        &format!("error: {said}\n\nhint: watch `evenkeel pool show DefaultPool`\n"),
    );
}
