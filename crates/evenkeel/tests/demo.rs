//! The demo as it is shipped: what it prints, how it ends, and that nothing of it stays behind.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

const EVENKEEL: &str = env!("CARGO_BIN_EXE_evenkeel");

/// A demo of three nodes takes about 15 s on an idle machine.
const RUN_LIMIT: Duration = Duration::from_mins(3);

/// From the start to the `ready` line: about a second on an idle machine.
const READY_LIMIT: Duration = Duration::from_mins(1);

/// A stop closes the store and removes a directory.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// A demo whose temporary files go to `home`.
fn demo(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(EVENKEEL);
    command
        .arg("demo")
        .args(args)
        .env_clear()
        .env("TMPDIR", home)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn wait(child: &mut Child, limit: Duration, what: &str) -> Option<i32> {
    let until = Instant::now() + limit;
    while Instant::now() < until {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    // The panic below says what went wrong.
    let _killed = child.kill();
    panic!("waited {} s for {what}", limit.as_secs());
}

/// Runs it to its end: exit status, standard output, standard error.
fn run(home: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let mut child = demo(home, args).spawn().unwrap();
    let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let read = |stream: Box<dyn std::io::Read + Send>| {
        std::thread::spawn(move || std::io::read_to_string(stream).unwrap())
    };
    let (out, err) = (read(Box::new(out)), read(Box::new(err)));
    let exit = wait(&mut child, RUN_LIMIT, "the demo to end");
    (exit, out.join().unwrap(), err.join().unwrap())
}

fn is_empty(home: &Path) -> bool {
    std::fs::read_dir(home).unwrap().next().is_none()
}

fn of_kind<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["event"] == kind).collect()
}

#[test]
fn json_lines_end_with_a_result_that_the_world_confirms() {
    let home = tempfile::tempdir().unwrap();
    let (exit, out, said) = run(home.path(), &["--json", "--nodes", "4", "--max-unavailable", "2"]);
    assert_eq!((exit, said.as_str()), (Some(0), ""), "{out}");
    let events: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events[0]["event"], "start");
    assert_eq!(of_kind(&events, "start").len(), 1);
    assert_eq!(of_kind(&events, "accepted").len(), 1);

    let result = events.last().unwrap();
    assert_eq!((&result["event"], &result["status"]), (&"result".into(), &"Success".into()));
    assert_eq!(of_kind(&events, "result").len(), 1);
    let number = |key: &str| result[key].as_u64().unwrap_or_else(|| panic!("{key}: {result}"));
    assert_eq!((number("nodes"), number("nodes_ok")), (4, 4));
    let most = number("max_out");
    assert!((1..=2).contains(&most), "{result}");
    // Four scripts on each node, each once.
    assert_eq!((number("scripts_run"), number("scripts_repeated")), (16, 0), "{result}");
    let moves: u64 = result["workloads"]
        .as_object()
        .unwrap()
        .values()
        .map(|of| of["moves"].as_u64().unwrap())
        .sum();
    assert!(
        moves > 0 && moves == number("evictions"),
        "each eviction belongs to a workload: {result}"
    );
    assert_eq!((number("evictions_repeated"), number("pods_deleted")), (0, 0), "{result}");
    assert_eq!(result["left_out"], serde_json::json!([]));
    assert!(number("duration_ms") > 0 && number("duration_ms") <= number("total_ms"));

    let mut ways: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for event in of_kind(&events, "phase") {
        ways.entry(event["node"].as_str().unwrap())
            .or_default()
            .push(event["phase"].as_str().unwrap());
    }
    assert_eq!(ways.len(), 4);
    for (node, way) in ways {
        assert_eq!((way[0], way[way.len() - 1]), ("Claiming", "Done"), "{node}: {way:?}");
        assert!(way.contains(&"Draining") && way.contains(&"Resetting"), "{node}: {way:?}");
    }
    for says in ["chosen: ", "is held by budget default/", "waiting for the machine: step "] {
        let reason = |event: &&Value| event["reason"].as_str().is_some_and(|r| r.contains(says));
        assert!(events.iter().any(|event| reason(&event)), "no reason says {says:?}: {out}");
    }
    assert!(is_empty(home.path()), "the temporary directory was left behind");
}

#[test]
fn a_pipe_gets_plain_lines() {
    let home = tempfile::tempdir().unwrap();
    let (exit, out, said) = run(home.path(), &["--nodes", "3", "--max-unavailable", "1"]);
    assert_eq!((exit, said.as_str()), (Some(0), ""), "{out}");
    assert!(!out.contains('\u{1b}') && !out.contains('\r'), "{out}");
    assert!(out.starts_with("A played cluster of 3 nodes with "), "{out}");
    for wanted in [
        "node-1  Claiming",
        "node-3  Done",
        "3 of 3 nodes done",
        "\nSuccess\n",
        "out at once  1 at most, 1 allowed",
    ] {
        assert!(out.contains(wanted), "{wanted}: {out}");
    }
    assert!(is_empty(home.path()));
}

#[test]
fn arguments_that_cannot_be_used_are_status_2() {
    let home = tempfile::tempdir().unwrap();
    for (args, why) in [
        (&["--nodes", "1"][..], "--nodes"),
        (&["--nodes", "51"], "--nodes"),
        (&["--max-unavailable", "0"], "--max-unavailable"),
        (&["--max-unavailable", "6"], "at least one of 6 nodes has to stay"),
        (&["--seed", "x"], "--seed"),
        (&["--listen", "0.0.0.0:0"], "is not on loopback"),
        (&["--time", "1"], "--time"),
        (&["more"], "more"),
    ] {
        let (exit, out, said) = run(home.path(), args);
        assert_eq!((exit, out.as_str()), (Some(2), ""), "{args:?}: {said}");
        assert!(said.starts_with("error: ") && said.contains(why), "{args:?}: {said}");
    }
    assert!(is_empty(home.path()));
}

/// A demo that runs; killed with the value if it was not stopped.
struct Shown(Child);

impl Drop for Shown {
    fn drop(&mut self) {
        // It has ended already unless the test failed.
        let _killed = self.0.kill();
        let _waited = self.0.wait();
    }
}

impl Shown {
    /// Starts a demo and gives the first line that it prints.
    fn first_line(home: &Path, args: &[&str]) -> (Self, Value, mpsc::Receiver<String>) {
        let mut shown = Shown(demo(home, args).spawn().unwrap());
        let out = shown.0.stdout.take().unwrap();
        let (said, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                // The test may have stopped listening; the pipe still has to be emptied.
                let _sent = said.send(line);
            }
        });
        let first = lines.recv_timeout(READY_LIMIT).expect("a first line within the limit");
        (shown, serde_json::from_str(&first).unwrap(), lines)
    }

    fn stop(&mut self, signal: &str) -> Option<i32> {
        let pid = self.0.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(sent.success());
        wait(&mut self.0, STOP_LIMIT, "the demo to stop")
    }
}

/// A call with the program's own client, as the credential of a demo.
fn client(home: &Path, ready: &Value, args: &[&str]) -> (Option<i32>, String, String) {
    let of = |key: &str| ready[key].as_str().unwrap();
    let Output { status, stdout, stderr } = Command::new(EVENKEEL)
        .args(args)
        .env_clear()
        .env("HOME", home)
        .env("EVENKEEL_ENDPOINT", of("endpoint"))
        .env("EVENKEEL_AK", of("ak"))
        .env("EVENKEEL_SK", of("sk"))
        .env("EVENKEEL_PROJECT_ID", of("project_id"))
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn a_demo_that_stays_is_driven_from_outside_and_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let (mut shown, ready, lines) =
        Shown::first_line(home.path(), &["--stay", "--json", "--nodes", "3"]);
    assert_eq!(ready["event"], "ready");
    let keys: Vec<&String> = ready.as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        ["ak", "cluster_id", "endpoint", "event", "nodepool_id", "project_id", "region", "sk"]
    );
    assert!(ready["endpoint"].as_str().unwrap().starts_with("http://127.0.0.1:"));

    let call = |args: &[&str]| client(home.path(), &ready, args);
    let (exit, out, said) = call(&["pool", "list", "--output", "json"]);
    assert_eq!(exit, Some(0), "{said}");
    let pools: Value = serde_json::from_str(&out).unwrap();
    let items = pools["items"].as_array().unwrap();
    let pool = items.iter().find(|pool| pool["metadata"]["uid"] == ready["nodepool_id"]);
    let status = &pool.unwrap()["status"];
    assert_eq!(
        (&status["currentNode"], &status["configurationSyncedNodeCount"]),
        (&3.into(), &0.into()),
        "{out}"
    );

    // Nobody has started a synchronization, so whoever drives it is the first.
    let pool = ready["nodepool_id"].as_str().unwrap();
    let (exit, out, said) = call(&[
        "sync",
        pool,
        "--max-unavailable",
        "2",
        "--wait",
        "--timeout",
        "120",
        "--output",
        "json",
    ]);
    assert_eq!(exit, Some(0), "{said}");
    let job: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(job["status"]["phase"], "Success", "{job}");

    let mut wrong = ready.clone();
    wrong["sk"] = "wrong".into();
    assert_eq!(client(home.path(), &wrong, &["pool", "list"]).0, Some(1), "a wrong key was let in");
    assert!(!is_empty(home.path()), "the test looks at the wrong directory");
    assert_eq!(shown.stop("-TERM"), Some(0));
    assert!(is_empty(home.path()), "the temporary directory was left behind");
    assert!(lines.recv_timeout(STOP_LIMIT).is_err(), "more than one object was printed");
}

#[test]
fn an_interrupted_run_is_no_success_and_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let (mut shown, start, _lines) = Shown::first_line(home.path(), &["--json", "--nodes", "3"]);
    assert_eq!(start["event"], "start");
    assert_eq!(shown.stop("-INT"), Some(1));
    assert!(is_empty(home.path()));
}

#[test]
fn the_same_seed_gives_the_same_cluster() {
    let home = tempfile::tempdir().unwrap();
    let start = |seed: &str| {
        let args = ["--json", "--nodes", "3", "--seed", seed];
        let (mut shown, mut start, _lines) = Shown::first_line(home.path(), &args);
        assert_eq!(shown.stop("-TERM"), Some(1));
        start.as_object_mut().unwrap().remove("seed");
        assert_eq!(start["nodes"], serde_json::json!(["node-1", "node-2", "node-3"]));
        start
    };
    let first = start("5");
    assert_eq!(start("5"), first);
    // Names of pods are random, as in a real cluster.
    assert_ne!(start("6")["pods"], first["pods"]);
}
