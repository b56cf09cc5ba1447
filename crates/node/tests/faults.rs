//! Things that go wrong while an order runs.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::*;
use evenkeel_node::protocol::*;

#[test]
fn the_runner_outlives_the_session_that_started_it() {
    let bed = Bed::new();
    let gate = bed.file("gate");
    let order = script(
        id("detached", 1),
        &format!("while [ ! -e {} ]; do sleep 0.05; done; echo end", gate.display()),
    );
    let input = bed.file("order.json");
    fs::write(&input, serde_json::to_vec(&order).unwrap()).unwrap();
    let accepted = bed.file("accepted");
    let session =
        format!("{BINARY} accept <{} >{}; exec sleep 60", input.display(), accepted.display());
    let mut shell = Command::new("/bin/sh")
        .args(["-c", &session])
        .env("EVENKEEL_NODE_STATE", bed.state())
        .env("EVENKEEL_NODE_ROOT", bed.dir.path().join("root"))
        .process_group(0)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wait("accept", || fs::read(&accepted).is_ok_and(|bytes| bytes.ends_with(b"\n")));
    let group = rustix::process::Pid::from_raw(shell.id() as i32).unwrap();
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
    shell.wait().unwrap();
    assert_eq!(bed.status(&order.id).state, State::Running);
    assert_eq!(bed.runners().len(), 1);
    fs::write(&gate, "").unwrap();
    assert_eq!(bed.finish(&order.id).state, State::Succeeded);
    assert!(bed.output(&order.id).ends_with(b"end\n"));
}

#[test]
fn a_killed_runner_is_interrupted_and_never_run_again() {
    let bed = Bed::new();
    let (count, alive) = (bed.file("count"), bed.file("alive"));
    let text = format!(
        "echo run >>{}; echo $$ >{}; while :; do sleep 0.05; done",
        count.display(),
        alive.display()
    );
    let order = script(id("killed", 1), &text);
    bed.accept(&order).unwrap();
    wait("the script", || lines(&alive) == 1);
    let script_pid: i32 = fs::read_to_string(&alive).unwrap().trim().parse().unwrap();
    let runners = bed.runners();
    assert_eq!(runners.len(), 1);
    kill(runners[0]);
    let progress = bed.finish(&order.id);
    let State::Interrupted { step, reason } = &progress.state else { panic!("{progress:?}") };
    assert_eq!((step.as_str(), reason.as_str()), ("install", "the runner on the host was killed"));
    wait("the orphaned script to be killed", || {
        let stat = fs::read_to_string(format!("/proc/{script_pid}/stat"));
        stat.map_or(true, |stat| stat.contains(") Z "))
    });
    assert_eq!(bed.accept(&order).unwrap().state, progress.state);
    assert!(!bed.state().join("run").join(order.id.to_string()).exists(), "secrets are gone");
    assert_eq!(lines(&count), 1);
    assert_eq!(bed.run(&script(id("killed", 2), "true")).state, State::Succeeded, "a new attempt");
}

#[test]
fn a_reboot_is_told_from_a_killed_runner() {
    let bed = Bed::new();
    let order = script(id("rebooted", 1), "sleep 60");
    bed.accept(&order).unwrap();
    wait("the step", || bed.status(&order.id).step.is_some());
    kill(bed.runners()[0]);
    wait("the runner to die", || bed.runners().is_empty());
    let journal = bed.state().join("orders").join(order.id.to_string()).join("journal");
    let boot = bed.ask::<Facts>(&Verb::Probe, b"").unwrap().boot_id;
    let before = fs::read_to_string(&journal).unwrap().replace(&boot, "an-earlier-boot");
    // The power failed in the middle of a line.
    fs::write(&journal, before + "{\"at_ms\":1,\"boot").unwrap();
    let State::Interrupted { reason, .. } = bed.status(&order.id).state else { panic!() };
    assert_eq!(reason, "the host was rebooted while it ran");
    assert!(matches!(bed.status(&order.id).state, State::Interrupted { .. }), "and stays so");
    for pid in processes(|words| words.iter().any(|w| w.contains("rebooted.node-1.1.reset/0"))) {
        kill(pid);
    }
}

#[test]
fn an_order_whose_runner_never_began_is_begun_by_the_next_accept() {
    let bed = Bed::new();
    let count = bed.file("count");
    let order = script(id("late", 1), &format!("echo run >>{}", count.display()));
    // A crash right after the first line: journal and secrets, no runner.
    bed.accept(&order).unwrap();
    bed.finish(&order.id);
    let dir = bed.state().join("orders").join(order.id.to_string());
    let journal = fs::read_to_string(dir.join("journal")).unwrap();
    let first = journal.split_inclusive('\n').next().unwrap();
    fs::write(dir.join("journal"), first).unwrap();
    let run = bed.state().join("run").join(order.id.to_string());
    fs::create_dir_all(&run).unwrap();
    fs::write(run.join("0"), format!("echo run >>{}", count.display())).unwrap();
    fs::remove_file(&count).unwrap();
    assert_eq!(bed.status(&order.id).state, State::Accepted);
    bed.accept(&order).unwrap();
    assert_eq!(bed.finish(&order.id).state, State::Succeeded);
    assert_eq!(lines(&count), 1);
}

#[test]
fn a_script_that_ignores_term_is_killed_with_its_group() {
    let bed = Bed::new();
    let child = bed.file("child");
    let text = format!(
        "trap '' TERM; sh -c 'trap \"\" TERM; echo $$ >{}; while :; do sleep 0.1; done' & \
         while :; do sleep 0.1; done",
        child.display()
    );
    let began = Instant::now();
    let progress = bed.run(&order(id("stubborn", 1), vec![Step::install(text.as_str(), 1)]));
    assert_eq!(progress.steps[0].outcome, Outcome::Timeout);
    assert!(began.elapsed() >= Duration::from_secs(11), "TERM had its ten seconds");
    let pid = fs::read_to_string(&child).unwrap();
    wait("the child to be gone", || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        stat.map_or(true, |stat| stat.contains(") Z "))
    });
}

#[test]
fn what_left_its_process_group_is_killed_at_the_limit_as_well() {
    let bed = Bed::new();
    let child = bed.file("child");
    // timeout(1) makes a group of its own, and `env -i` drops every mark.
    let text = format!(
        "timeout 60 env -i sh -c 'trap \"\" TERM; echo $$ >{}; while :; do /bin/sleep 0.1; done'",
        child.display()
    );
    let progress = bed.run(&order(id("escaped", 1), vec![Step::install(text.as_str(), 1)]));
    assert_eq!(progress.steps[0].outcome, Outcome::Timeout);
    let pid = fs::read_to_string(&child).unwrap();
    wait("the child to be gone", || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        stat.map_or(true, |stat| stat.contains(") Z "))
    });
}

#[test]
fn what_a_killed_runners_script_had_started_is_killed_with_it() {
    let bed = Bed::new();
    let child = bed.file("child");
    let text = format!(
        "timeout 60 env -i sh -c 'echo $$ >{}; while :; do /bin/sleep 0.1; done'",
        child.display()
    );
    let order = script(id("orphans", 1), &text);
    bed.accept(&order).unwrap();
    wait("the child", || lines(&child) == 1);
    kill(bed.runners()[0]);
    assert!(matches!(bed.finish(&order.id).state, State::Interrupted { .. }));
    let pid = fs::read_to_string(&child).unwrap();
    wait("the child to be gone", || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        stat.map_or(true, |stat| stat.contains(") Z "))
    });
}

#[test]
fn the_limit_of_one_step_spares_what_an_earlier_one_left_running() {
    let bed = Bed::new();
    let daemon = bed.file("daemon");
    let first = format!("sleep 40 >/dev/null 2>&1 & echo $! >{}", daemon.display());
    let steps = vec![Step::teardown(first.as_str(), 60), Step::install("sleep 60", 1)];
    let progress = bed.run(&order(id("spared", 1), steps));
    assert_eq!(progress.steps[1].outcome, Outcome::Timeout);
    let pid: i32 = fs::read_to_string(&daemon).unwrap().trim().parse().unwrap();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    assert!(!stat.contains(") Z "), "{stat}");
    kill(pid);
}

#[test]
fn a_script_that_heeds_term_ends_at_once_and_may_clean_up() {
    let bed = Bed::new();
    let text = "trap 'echo cleaned up; exit 0' TERM; echo begun; while :; do sleep 0.1; done";
    let began = Instant::now();
    let progress = bed.run(&order(id("polite", 1), vec![Step::install(text, 1)]));
    assert_eq!(progress.steps[0].outcome, Outcome::Timeout);
    assert!(began.elapsed() < Duration::from_secs(8));
    // Between the two the shell may say that its sleep was terminated.
    let output = bed.output(&progress.id);
    assert!(output.starts_with(b"== install ==\nbegun\n") && output.ends_with(b"cleaned up\n"));
}

#[test]
fn a_daemon_that_holds_stdout_does_not_hold_the_order() {
    let bed = Bed::new();
    let daemon = bed.file("daemon");
    let text = format!("sleep 40 & echo $! >{}; echo done", daemon.display());
    let began = Instant::now();
    let progress = bed.run(&script(id("daemon", 1), &text));
    assert_eq!(progress.state, State::Succeeded);
    assert!(began.elapsed() < Duration::from_secs(20));
    assert!(bed.output(&progress.id).ends_with(b"done\n"));
    let pid: i32 = fs::read_to_string(&daemon).unwrap().trim().parse().unwrap();
    assert!(fs::metadata(format!("/proc/{pid}")).is_ok(), "the daemon was meant to stay");
    kill(pid);
}

#[test]
fn five_mebibytes_of_output_keep_head_and_tail() {
    let bed = Bed::new();
    let text = "echo first; head -c 5242880 /dev/zero | tr '\\0' x; echo; echo last";
    let progress = bed.run(&script(id("flood", 1), text));
    assert_eq!(progress.state, State::Succeeded);
    let output = bed.output(&progress.id);
    assert!(output.len() < 1024 * 1024 + 200, "{}", output.len());
    assert!(output.starts_with(b"== install ==\nfirst\nxxx"));
    assert!(output.ends_with(b"xxx\nlast\n"));
    let total = "first\n".len() + 5_242_880 + "\nlast\n".len();
    let marker = format!("[evenkeel: {} bytes of output dropped here]", total - 1024 * 1024);
    assert!(String::from_utf8(output).unwrap().contains(&marker), "{marker}");
}

#[test]
fn a_script_that_removes_the_state_directory_is_still_accounted_for() {
    let bed = Bed::new();
    let (count, removed, gate) = (bed.file("count"), bed.file("removed"), bed.file("gate"));
    let text = format!(
        "echo run >>{}; rm -rf {}; touch {}; while [ ! -e {} ]; do sleep 0.05; done; exit 7",
        count.display(),
        bed.state().display(),
        removed.display(),
        gate.display()
    );
    let order = script(id("remover", 1), &text);
    bed.accept(&order).unwrap();
    wait("the state directory to be removed", || removed.exists());
    // For up to a second nothing on the disk speaks of the order; the living runner does.
    wait("the journal to be put back", || match bed.accept(&order) {
        Ok(progress) => progress.state == State::Running,
        Err(refusal) => {
            assert_eq!(refusal.kind, RefusalKind::Busy);
            false
        }
    });
    let other = bed.accept(&script(id("other", 1), "true")).unwrap_err();
    assert_eq!(other.kind, RefusalKind::Busy);
    fs::write(&gate, "").unwrap();
    let progress = bed.finish(&order.id);
    assert_eq!(progress.steps[0].outcome, Outcome::Exit(7));
    assert_eq!(lines(&count), 1);
}

#[test]
fn secrets_of_an_order_that_could_not_be_journaled_do_not_stay() {
    let bed = Bed::new();
    // A directory where a file belongs: the journal cannot be made, after the secrets were.
    fs::create_dir_all(bed.state()).unwrap();
    let blocked = bed.state().join("orders").join("broken.node-1.1.reset");
    fs::create_dir_all(blocked.join("journal.reserve")).unwrap();
    let refusal = bed.accept(&script(id("broken", 1), "true")).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Storage);
    assert!(!bed.state().join("run/broken.node-1.1.reset").exists());
    // What a crash between secrets and journal leaves goes with the next order.
    fs::remove_dir_all(blocked).unwrap();
    let stale = bed.state().join("run/crashed.node-1.1.reset");
    fs::create_dir_all(&stale).unwrap();
    fs::write(stale.join("0"), "secret").unwrap();
    assert_eq!(bed.run(&script(id("broken", 1), "true")).state, State::Succeeded);
    assert!(!stale.exists());
}

/// Makes the journal say that the order ran in an earlier boot, as after a power cut.
fn reboot(bed: &Bed, order: &OrderId) {
    for pid in bed.runners() {
        kill(pid);
    }
    wait("the runner to die", || bed.runners().is_empty());
    let mark = format!("{order}/");
    for pid in processes(|words| words.iter().any(|word| word.contains(&mark))) {
        kill(pid);
    }
    let journal = bed.state().join("orders").join(order.to_string()).join("journal");
    let boot = bed.ask::<Facts>(&Verb::Probe, b"").unwrap().boot_id;
    let before = fs::read_to_string(&journal).unwrap().replace(&boot, "an-earlier-boot");
    fs::write(&journal, before).unwrap();
}

#[test]
fn after_a_reboot_an_order_goes_on_where_its_author_says_so() {
    let bed = Bed::new();
    let (log, gate) = (bed.file("log"), bed.file("gate"));
    let say = |word: &str| format!("echo {word} >>{}", log.display());
    let slow =
        format!("{}; while [ ! -e {} ]; do sleep 0.05; done", say("install"), gate.display());
    let steps = vec![
        Step::teardown(say("teardown"), 60).resuming(true),
        Step::pre_install(b64(&say("pre"))),
        Step::install(slow, 60).resuming(true),
    ];
    let order = order(id("resumes", 1), steps);
    bed.accept(&order).unwrap();
    wait("the third step", || lines(&log) == 3);
    reboot(&bed, &order.id);
    let waiting = bed.status(&order.id);
    assert_eq!((waiting.state, waiting.step.as_deref()), (State::Accepted, Some("install")));
    assert!(bed.runners().is_empty(), "asking how far it is begins nothing");
    fs::write(&gate, "").unwrap();
    bed.accept(&order).unwrap();
    let progress = bed.finish(&order.id);
    assert_eq!(progress.state, State::Succeeded);
    let ran: Vec<String> = fs::read_to_string(&log).unwrap().lines().map(str::to_owned).collect();
    // What had ended is not done again.
    assert_eq!(ran, ["teardown", "pre", "install", "install"]);
    let names: Vec<&str> = progress.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["teardown", "pre_install", "install"], "one end of each");
    assert!(!bed.state().join("run").join(order.id.to_string()).exists(), "secrets are gone");
    assert_eq!(bed.accept(&order).unwrap().state, State::Succeeded);
    assert_eq!(lines(&log), 4);
}

#[test]
fn a_script_of_the_pool_is_never_run_again_after_a_reboot() {
    let bed = Bed::new();
    let log = bed.file("log");
    let pre = format!("echo pre >>{}; sleep 60", log.display());
    let steps = vec![Step::pre_install(b64(&pre)), Step::install("true", 60).resuming(true)];
    let order = order(id("once", 1), steps);
    bed.accept(&order).unwrap();
    wait("the script", || lines(&log) == 1);
    reboot(&bed, &order.id);
    let State::Interrupted { step, reason } = bed.accept(&order).unwrap().state else { panic!() };
    assert_eq!(
        (step.as_str(), reason.as_str()),
        ("pre_install", "the host was rebooted while it ran")
    );
    assert_eq!(lines(&log), 1);
}

#[test]
fn a_step_that_reboots_its_host_each_time_comes_to_an_end() {
    let bed = Bed::new();
    let log = bed.file("log");
    let steps = [Step::install(format!("echo run >>{}; sleep 60", log.display()), 60)];
    let order = order(id("poison", 1), vec![steps[0].clone().resuming(true)]);
    bed.accept(&order).unwrap();
    for run in 1..=4 {
        wait("the script", || lines(&log) == run);
        reboot(&bed, &order.id);
        let expected = if run < 4 { State::Running } else { bed.status(&order.id).state };
        assert_eq!(bed.accept(&order).unwrap().state, expected, "run {run}");
    }
    assert!(matches!(bed.status(&order.id).state, State::Interrupted { .. }));
    assert_eq!(lines(&log), 4);
}

#[test]
fn an_order_that_could_go_on_gives_way_to_a_later_one() {
    let bed = Bed::new();
    let log = bed.file("log");
    let slow = format!("echo first >>{}; sleep 60", log.display());
    let first = order(id("given-up", 1), vec![Step::install(slow, 60).resuming(true)]);
    bed.accept(&first).unwrap();
    wait("the script", || lines(&log) == 1);
    reboot(&bed, &first.id);
    assert_eq!(bed.run(&script(id("given-up", 2), "true")).state, State::Succeeded);
    assert!(matches!(bed.accept(&first).unwrap().state, State::Interrupted { .. }));
    assert_eq!(lines(&log), 1);
    assert!(!bed.state().join("run").join(first.id.to_string()).exists(), "secrets are gone");
}

#[test]
fn what_a_newer_binary_has_written_is_refused_by_name() {
    let bed = Bed::new();
    let old = script(id("old", 1), "true");
    bed.run(&old);
    let named = |refusal: Refusal| {
        assert_eq!(refusal.kind, RefusalKind::Protocol, "{refusal}");
        assert!(refusal.message.contains("a newer evenkeel-node has written it"), "{refusal}");
        assert!(refusal.message.contains("format 2, this one knows 1"), "{refusal}");
    };
    let newer = |path: &std::path::Path| {
        let text = fs::read_to_string(path).unwrap();
        fs::write(path, text.replacen("\"format\":1", "\"format\":2", 1)).unwrap();
        text
    };
    let journal = bed.state().join("orders").join(old.id.to_string()).join("journal");
    let kept = newer(&journal);
    named(bed.ask::<Progress>(&Verb::Status { order: old.id.clone() }, b"").unwrap_err());
    named(bed.accept(&script(id("new", 1), "true")).unwrap_err());
    fs::write(&journal, kept).unwrap();
    newer(&bed.state().join("fence.json"));
    named(bed.accept(&script(id("new", 1), "true")).unwrap_err());
    // Before the cordon.
    named(bed.ask::<Facts>(&Verb::Probe, b"").unwrap_err());
    assert!(bed.runners().is_empty());
}

#[test]
fn a_script_that_exits_255_failed_like_any_other() {
    let bed = Bed::new();
    let progress = bed.run(&script(id("exit255", 1), "echo before; exit 255"));
    assert_eq!(progress.steps[0].outcome, Outcome::Exit(255));
    let State::Failed { step, reason } = progress.state else { panic!() };
    assert_eq!((step.as_str(), reason.as_str()), ("install", "exit status 255"));
}
