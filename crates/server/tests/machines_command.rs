//! The `command` recipe: once per order, also when the controller dies while the command runs.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use async_trait::async_trait;
use evenkeel_engine::ids::JobId;
use evenkeel_server::machines::{
    BinarySource, Book, Brief, ClearLogin, ClearTemplate, FileOutput, Fleet, HookOptions,
    OutputKey, OutputSink, Part,
};
use evenkeel_server::records::{Hook, Recipe, Reinstalled};
use evenkeel_server::sync::ports::{Fault, HostOrder, HostState, Machines, Stage, Target};
use secrecy::SecretString;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

const LIMIT: Duration = Duration::from_secs(40);

struct TestBook(Mutex<Brief>);

#[async_trait]
impl Book for TestBook {
    async fn brief(&self, _job: &JobId, _target: &Target) -> Result<Brief, Fault> {
        Ok(self.0.lock().unwrap().clone())
    }

    async fn pin(&self, _: &HostOrder, _: &str, _: Option<&str>) -> Result<(), Fault> {
        Err(Fault::permanent("nothing is reinstalled here"))
    }

    async fn came_back(&self, _: &HostOrder, _: &Reinstalled) -> Result<(), Fault> {
        Err(Fault::permanent("nothing is reinstalled here"))
    }
}

struct Lab {
    dir: tempfile::TempDir,
    book: Arc<TestBook>,
}

impl Lab {
    /// The command is a script of the test with this text.
    fn new(script: &str, limit_s: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let command = dir.path().join("command");
        let text = format!("#!/bin/sh\nd={}\n{script}\n", dir.path().display());
        std::fs::write(&command, text).unwrap();
        std::fs::set_permissions(&command, PermissionsExt::from_mode(0o755)).unwrap();
        let argv = vec![command.to_str().unwrap().to_owned(), "fixed argument".into()];
        let brief = Brief {
            recipe: Recipe::Command { hook: Hook::Program { argv }, limit_s },
            reach: None,
            template: ClearTemplate::default(),
            joiner: None,
            epoch: None,
            reinstalled: None,
            facts_env: BTreeMap::from([("EVENKEEL_RACK".to_owned(), "r 7; id".to_owned())]),
        };
        Self { dir, book: Arc::new(TestBook(Mutex::new(brief))) }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A controller that has just started.
    fn fleet(&self) -> Fleet {
        let output = Arc::new(FileOutput::new(&self.data()));
        let hooks = HookOptions { allow_loopback: true };
        Fleet::new(self.book.clone(), output, BinarySource::file(None), &self.data(), hooks)
    }

    async fn run(&self, order: &HostOrder) -> HostState {
        let (to, _from) = mpsc::channel(64);
        let fleet = self.fleet();
        let run = fleet.run(order, to);
        tokio::time::timeout(LIMIT, run).await.expect("waited 40 s for a command").unwrap()
    }

    async fn output(&self) -> String {
        let (job, node) = ("job-1".into(), "node-1".into());
        let key = OutputKey { job, node, attempt: 1, stage: Stage::Reset, part: Part::Host };
        FileOutput::new(&self.data()).load(&key).await.unwrap().unwrap_or_default().to_text()
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }

    async fn wait_for(&self, name: &str) {
        let begun = Instant::now();
        while self.read(name).is_empty() {
            assert!(begun.elapsed() < LIMIT, "waited 40 s for the file {name}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Starts the order and drops everything once the file is there, as a killed controller would.
    async fn killed_after(&self, order: &HostOrder, name: &str) {
        let fleet = self.fleet();
        let (to, _from) = mpsc::channel(64);
        tokio::select! {
            end = fleet.run(order, to) => panic!("ended too early: {end:?}"),
            () = self.wait_for(name) => {}
        }
    }
}

fn target() -> Target {
    Target {
        node_id: "node-1".into(),
        node: "worker-1".into(),
        internal_ip: Some("127.0.0.9".into()),
        machine_id: Some("m1".into()),
        system_uuid: None,
    }
}

fn order(stage: Stage) -> HostOrder {
    HostOrder { job: "job-1".into(), target: target(), attempt: 1, stage, epoch: 1 }
}

fn failed(state: HostState) -> String {
    match state {
        HostState::Failed { step, reason } if step == "command" => reason,
        other => panic!("expected a failure, got {other:?}"),
    }
}

#[tokio::test]
async fn facts_are_in_the_environment_and_nothing_else() {
    let lab = Lab::new(
        "env | sort >$d/env; echo \"$1\" >$d/args; cat >$d/stdin; echo said; echo err >&2",
        20,
    );
    lab.book.0.lock().unwrap().template = ClearTemplate {
        pre_install_b64: Some(SecretString::from("cHJl")),
        post_install_b64: None,
        login: ClearLogin {
            user: "root".into(),
            password_hash: Some(SecretString::from("$6$canary")),
            ..ClearLogin::default()
        },
        ..ClearTemplate::default()
    };
    lab.fleet().probe(&"job-1".into(), &target()).await.unwrap();
    let end = lab.run(&order(Stage::Reset)).await;
    assert_eq!(end, HostState::Succeeded { ended_host_ms: None });
    let env = lab.read("env");
    let names: Vec<&str> = env.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    assert_eq!(
        names,
        [
            "EVENKEEL_ADDRESS",
            "EVENKEEL_ATTEMPT",
            "EVENKEEL_JOB",
            "EVENKEEL_MACHINE_ID",
            "EVENKEEL_NODE",
            "EVENKEEL_NODE_ID",
            "EVENKEEL_ORDER",
            "EVENKEEL_RACK",
            "EVENKEEL_STAGE",
            "HOME",
            "LANG",
            "PATH",
            "PWD",
        ]
    );
    for line in ["EVENKEEL_ADDRESS=127.0.0.9", "EVENKEEL_RACK=r 7; id", "EVENKEEL_STAGE=reset"] {
        assert!(env.lines().any(|have| have == line), "{line} is not in {env}");
    }
    assert_eq!(lab.read("args"), "fixed argument\n");
    let stdin: serde_json::Value = serde_json::from_str(&lab.read("stdin")).unwrap();
    assert_eq!(stdin["login"]["password_hash"], "$6$canary");
    assert_eq!(stdin["pre_install_b64"], "cHJl");
    let output = lab.output().await;
    assert!(output.contains("said\n") && output.contains("err\n"), "{output}");
    // Secrets travel on standard input: no file of the journal has them.
    for entry in std::fs::read_dir(lab.data().join("commands")).unwrap() {
        let path = entry.unwrap().path();
        assert!(!std::fs::read_to_string(&path).unwrap().contains("canary"), "{}", path.display());
    }
}

#[tokio::test]
async fn the_same_order_runs_once() {
    let lab = Lab::new("echo x >>$d/ran; exit 3", 20);
    for _ in 0..2 {
        assert_eq!(failed(lab.run(&order(Stage::Reset)).await), "exit status 3");
    }
    let both = (order(Stage::Reset), order(Stage::Reset));
    tokio::join!(lab.run(&both.0), lab.run(&both.1));
    assert_eq!(lab.read("ran"), "x\n");
    let mut second = order(Stage::Reset);
    second.attempt = 2;
    lab.run(&second).await;
    assert_eq!(lab.read("ran"), "x\nx\n");
    lab.fleet().forget(&"job-1".into()).await.unwrap();
    assert_eq!(std::fs::read_dir(lab.data().join("commands")).unwrap().count(), 0);
}

#[tokio::test]
async fn two_controllers_at_once_run_it_once() {
    let lab = Lab::new("echo x >>$d/ran; sleep 0.3", 20);
    let one = order(Stage::Reset);
    let ends = tokio::join!(lab.run(&one), lab.run(&one), lab.run(&one));
    assert!(matches!(ends.0, HostState::Succeeded { .. }), "{ends:?}");
    assert!(ends.0 == ends.1 && ends.1 == ends.2, "{ends:?}");
    assert_eq!(lab.read("ran"), "x\n");
}

#[tokio::test]
async fn the_end_is_read_after_the_controller_was_killed() {
    // Still running when the new controller comes.
    let lab = Lab::new("echo x >>$d/ran; echo begun; sleep 1; echo ended; exit 5", 20);
    lab.killed_after(&order(Stage::Reset), "ran").await;
    assert_eq!(failed(lab.run(&order(Stage::Reset)).await), "exit status 5");
    assert_eq!(lab.read("ran"), "x\n");
    assert_eq!(lab.output().await, "begun\nended\n");
    // Ended in between.
    let lab = Lab::new("echo x >>$d/ran; sleep 0.3; echo x >>$d/over", 20);
    lab.killed_after(&order(Stage::Reset), "ran").await;
    lab.wait_for("over").await;
    let end = lab.run(&order(Stage::Reset)).await;
    assert!(matches!(end, HostState::Succeeded { .. }), "{end:?}");
    assert_eq!(lab.read("ran"), "x\n");
}

#[tokio::test]
async fn a_killed_wrapper_is_an_interrupted_command() {
    // Kills the wrapper (its process group), not the command.
    let lab =
        Lab::new("echo x >>$d/ran; kill -9 -$(cut -d' ' -f1 $d/data/commands/*.pid); sleep 1", 20);
    let said = failed(lab.run(&order(Stage::Reset)).await);
    assert!(said.starts_with("interrupted: "), "{said}");
    assert_eq!(failed(lab.run(&order(Stage::Reset)).await), said);
    assert_eq!(lab.read("ran"), "x\n");
}

#[tokio::test]
async fn a_command_that_outlives_its_wrapper_is_waited_for() {
    // The whole wrapper: the end is unknown, but nothing of it runs any more when that is said.
    let kill = "kill -9 -$(cut -d' ' -f1 $d/data/commands/*.pid)";
    let lab = Lab::new(&format!("echo x >>$d/ran; {kill}; sleep 3; echo x >>$d/over"), 20);
    let said = failed(lab.run(&order(Stage::Reset)).await);
    assert!(said.starts_with("interrupted: "), "{said}");
    assert_eq!(lab.read("over"), "x\n", "it still ran when its end was reported");
    // Its first process alone: the rest of it still writes the end.
    let kill = "kill -9 $(cut -d' ' -f1 $d/data/commands/*.pid)";
    let lab = Lab::new(&format!("echo x >>$d/ran; {kill}; sleep 1; exit 6"), 20);
    assert_eq!(failed(lab.run(&order(Stage::Reset)).await), "exit status 6");
    assert_eq!(lab.read("ran"), "x\n");
}

#[tokio::test]
async fn what_was_to_run_and_left_no_trace_is_not_run() {
    let lab = Lab::new("echo x >>$d/ran", 20);
    // The controller wrote its intent and died before the wrapper began; the machine may have gone down.
    std::fs::create_dir_all(lab.data().join("commands")).unwrap();
    std::fs::write(lab.data().join("commands/job-1.node-1.1.reset"), "").unwrap();
    assert!(failed(lab.run(&order(Stage::Reset)).await).starts_with("interrupted: "));
    assert_eq!(lab.read("ran"), "");
}

#[tokio::test]
async fn a_command_that_hangs_is_killed_with_its_children() {
    let lab = Lab::new("trap '' TERM; (trap '' TERM; echo $$ >$d/ran; sleep 60) & sleep 60", 1);
    let begun = Instant::now();
    assert_eq!(failed(lab.run(&order(Stage::Reset)).await), "stopped: time limit of 1 s passed");
    assert!(begun.elapsed() < Duration::from_secs(30));
    let pid = lab.read("ran");
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z"), "{stat}");
}

#[tokio::test]
async fn a_flood_is_kept_bounded_with_its_end() {
    let lab = Lab::new("echo first; head -c 30000000 /dev/zero | tr '\\0' x; echo; echo last", 20);
    let end = lab.run(&order(Stage::Reset)).await;
    assert!(matches!(end, HostState::Succeeded { .. }), "{end:?}");
    let output = lab.output().await;
    assert!(output.starts_with("first\nxxx") && output.ends_with("x\nlast\n"));
    assert!(output.len() < 1024 * 1024 + 200);
    // 30,000,000 + "first\n" + "\n" + "last\n" less 1 MiB.
    let left_out = 30_000_000 + 6 + 1 + 5 - 1024 * 1024;
    assert!(output.contains(&format!("[evenkeel: {left_out} bytes of output left out]")));
}

#[tokio::test]
async fn a_daemon_that_holds_the_output_does_not_hold_the_order() {
    let lab = Lab::new("setsid sleep 30 & echo said", 20);
    let begun = Instant::now();
    let end = lab.run(&order(Stage::Reset)).await;
    assert!(matches!(end, HostState::Succeeded { .. }), "{end:?}");
    assert!(begun.elapsed() < Duration::from_secs(15));
    assert_eq!(lab.output().await, "said\n");
}

#[tokio::test]
async fn a_command_that_is_not_there_is_found_out_by_the_probe() {
    let lab = Lab::new("exit 0", 20);
    for argv in [vec![], vec!["/nonexistent".to_owned()], vec!["./relative".to_owned()]] {
        let hook = Hook::Program { argv: argv.clone() };
        lab.book.0.lock().unwrap().recipe = Recipe::Command { hook, limit_s: 5 };
        let end = lab.fleet().probe(&"job-1".into(), &target()).await;
        assert!(matches!(end, Err(Fault::Permanent { .. })), "{argv:?}: {end:?}");
    }
    let said = failed(lab.run(&order(Stage::Reset)).await);
    assert!(said.starts_with("exit status 127"), "{said}");
}

#[tokio::test]
async fn the_post_stage_needs_a_script_to_do_anything() {
    let lab = Lab::new("echo $EVENKEEL_STAGE >>$d/ran", 20);
    lab.run(&order(Stage::Post)).await;
    assert_eq!(lab.read("ran"), "");
    lab.book.0.lock().unwrap().template.post_install_b64 = Some(SecretString::from("eA=="));
    lab.run(&order(Stage::Post)).await;
    assert_eq!(lab.read("ran"), "post\n");
}

#[tokio::test]
async fn nothing_is_reset_by_none() {
    let lab = Lab::new("echo x >>$d/ran", 20);
    lab.book.0.lock().unwrap().recipe = Recipe::None;
    lab.fleet().probe(&"job-1".into(), &target()).await.unwrap();
    let end = lab.run(&order(Stage::Reset)).await;
    assert_eq!(end, HostState::Succeeded { ended_host_ms: None });
    assert_eq!(lab.read("ran"), "");
}
