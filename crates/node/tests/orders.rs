//! Orders that run as they should, and orders that must not run.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use common::*;
use evenkeel_node::protocol::*;

#[test]
fn steps_run_in_order_in_a_clean_environment_and_output_reads_from_any_offset() {
    let bed = Bed::new();
    let steps = vec![
        Step::teardown("echo down; echo to-stderr >&2", 60),
        Step::pre_install(b64("#!/bin/sh\nenv | sort; pwd; umask; ls -l $0 | cut -c1-10")),
        Step::install("echo up", 60),
        Step::post_install(b64("cat; echo post")),
    ];
    let order = order(id("clean", 3), steps);
    let mut command = bed.command(&Verb::Accept);
    command.env("LEAKED", "from-the-session");
    let mut child = command.spawn().unwrap();
    serde_json::to_writer(child.stdin.take().unwrap(), &order).unwrap();
    let first: Progress = parse_answer(&child.wait_with_output().unwrap().stdout).unwrap();
    assert_ne!(first.state, State::Accepted, "the answer comes when the runner is there");
    let progress = bed.finish(&order.id);
    assert_eq!(progress.state, State::Succeeded);
    let names: Vec<_> = progress.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["teardown", "pre_install", "install", "post_install"]);
    assert!(progress.steps.iter().all(|step| step.outcome == Outcome::Ok));

    let output = String::from_utf8(bed.output(&order.id)).unwrap();
    assert_eq!(output.len() as u64, progress.output_len);
    let expected = "== teardown ==\ndown\nto-stderr\n== pre_install ==\nEVENKEEL_ATTEMPT=3\n\
        EVENKEEL_JOB=clean\nEVENKEEL_NODE=node-1\nEVENKEEL_ORDER=clean.node-1.3.reset\n\
        EVENKEEL_STEP=pre_install\nHOME=/root\nLANG=C\n";
    assert!(output.starts_with(expected), "{output}");
    assert!(!output.contains("LEAKED"));
    assert!(output.contains("\n/\n0022\n-rwx------\n== install =="), "{output}");
    assert!(output.ends_with("== install ==\nup\n== post_install ==\npost\n"), "{output}");
    for offset in [0, 1, 40, output.len()] {
        let chunk = bed.read(&order.id, offset as u64);
        assert_eq!(chunk.bytes().unwrap(), &output.as_bytes()[offset..]);
        assert!(chunk.eof);
    }
    assert_eq!(bed.read(&order.id, 1 << 40).next, output.len() as u64);
}

#[test]
fn exit_status_and_signal_are_recorded_and_end_the_order() {
    let bed = Bed::new();
    let never = bed.file("never");
    let cases = [("exit 255", Outcome::Exit(255)), ("kill -9 $$", Outcome::Signal(9))];
    for (number, (text, outcome)) in cases.into_iter().enumerate() {
        let after = format!("touch {}", never.display());
        let steps = vec![Step::teardown(text, 60), Step::install(after.as_str(), 60)];
        let progress = bed.run(&order(id("ends", number as u32), steps));
        assert_eq!(progress.steps.len(), 1);
        assert_eq!(progress.steps[0].outcome, outcome);
        let State::Failed { step, .. } = progress.state else { panic!("{progress:?}") };
        assert_eq!(step, "teardown");
    }
    let broken = script(id("ends", 9), "#!/no/such/interpreter\n");
    let progress = bed.run(&broken);
    assert!(matches!(progress.steps[0].outcome, Outcome::Error(_)), "{progress:?}");
    assert!(!never.exists());
}

#[test]
fn the_same_order_runs_once_also_when_eight_controllers_send_it_at_once() {
    let bed = Bed::new();
    let count = bed.file("count");
    let order = script(id("once", 1), &format!("echo run >>{}; sleep 0.3", count.display()));
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| bed.accept(&order))).collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap().unwrap().id, order.id);
        }
    });
    assert_eq!(bed.finish(&order.id).state, State::Succeeded);
    assert_eq!(bed.accept(&order).unwrap().state, State::Succeeded);
    assert_eq!(lines(&count), 1);
}

#[test]
fn an_older_epoch_or_attempt_is_fenced() {
    let bed = Bed::new();
    let with_epoch = |job: &str, attempt, epoch| {
        let mut order = script(id(job, attempt), "true");
        order.epoch = epoch;
        order
    };
    bed.run(&with_epoch("a", 2, 5));
    let kind = |order: &Order| bed.accept(order).map_err(|refusal| refusal.kind);
    assert_eq!(kind(&with_epoch("a", 1, 5)), Err(RefusalKind::Fenced), "older attempt");
    assert_eq!(kind(&with_epoch("b", 1, 4)), Err(RefusalKind::Fenced), "older epoch, new job");
    assert_eq!(kind(&with_epoch("a", 2, 4)), Err(RefusalKind::Fenced), "older epoch, known order");
    let taken_over = kind(&with_epoch("a", 2, 6)).unwrap();
    assert_eq!(taken_over.state, State::Succeeded, "a new controller re-attaches");
    assert_eq!(kind(&with_epoch("a", 3, 5)), Err(RefusalKind::Fenced), "and fences the old one");
    assert!(kind(&with_epoch("a", 3, 6)).is_ok());
    bed.finish(&id("a", 3));
    fs::remove_dir_all(bed.state().join("orders")).unwrap();
    assert_eq!(kind(&with_epoch("a", 3, 6)), Err(RefusalKind::Fenced), "nor after a lost journal");
    let facts: Facts = bed.ask(&Verb::Probe, b"").unwrap();
    assert_eq!((facts.epoch_seen, facts.last_order), (6, Some(id("a", 3))));
}

#[test]
fn another_order_is_busy_until_the_first_is_over() {
    let bed = Bed::new();
    let gate = bed.file("gate");
    let waits = format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display());
    let first = script(id("first", 1), &waits);
    bed.accept(&first).unwrap();
    let second = script(id("second", 1), "true");
    assert_eq!(bed.accept(&second).unwrap_err().kind, RefusalKind::Busy);
    fs::write(&gate, "").unwrap();
    assert_eq!(bed.finish(&first.id).state, State::Succeeded);
    assert_eq!(bed.run(&second).state, State::Succeeded);
}

#[test]
fn what_must_not_run_leaves_no_trace() {
    let bed = Bed::new();
    let trace = bed.file("trace");
    let good = script(id("refused", 1), &format!("touch {}", trace.display()));
    let kind = |order: &Order| bed.accept(order).unwrap_err().kind;
    let mut other = good.clone();
    other.machine.machine_id = "another".into();
    assert_eq!(kind(&other), RefusalKind::WrongMachine);
    let mut cloned = good.clone();
    cloned.machine.product_uuid = Some("4c4c4544-0000".into());
    assert_eq!(kind(&cloned), RefusalKind::WrongMachine, "same machine-id, other hardware");
    let dmi = bed.dir.path().join("root/sys/class/dmi/id");
    fs::create_dir_all(&dmi).unwrap();
    fs::write(dmi.join("product_uuid"), "4C4C4544-0000\n").unwrap();
    let mut newer = good.clone();
    newer.protocol = PROTOCOL + 1;
    assert_eq!(kind(&newer), RefusalKind::Protocol);
    for bad in ["aGk", "a Gk=", "aGk=\n", "-_-_"] {
        let broken = order(id("refused", 1), vec![Step::pre_install(bad)]);
        assert_eq!(kind(&broken), RefusalKind::BadOrder, "{bad:?}");
    }
    let text = serde_json::to_string(&good).unwrap();
    for bad in ["{", &text.replace("refused.node-1", "../../etc.node-1"), &" ".repeat(600 * 1024)] {
        let refusal = bed.ask::<Progress>(&Verb::Accept, bad.as_bytes()).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::BadOrder);
    }
    assert!(!trace.exists() && !bed.state().join("orders").exists());
    let unknown: Result<Progress, Refusal> = bed.ask(&Verb::Status { order: good.id.clone() }, b"");
    assert_eq!(unknown.unwrap_err().kind, RefusalKind::UnknownOrder);
    let plan: Vec<PlanEntry> = bed.ask(&Verb::Plan, text.as_bytes()).unwrap();
    assert_eq!(plan.len(), 1);
    assert!(!trace.exists(), "plan runs nothing");
    assert_eq!(bed.run(&cloned).state, State::Succeeded, "the right machine takes it");
    assert!(trace.exists());
}

#[test]
fn secrets_are_nowhere_while_it_runs_and_gone_afterwards() {
    let bed = Bed::new();
    let gate = bed.file("gate");
    let waits = format!("while [ ! -e {} ]; do sleep 0.05; done # canary-7f3a", gate.display());
    for (attempt, end) in [(1, "exit 0"), (2, "exit 1")] {
        let _ = fs::remove_file(&gate);
        let text = format!("{waits}\n{end}");
        let last = Step::install("true # canary-7f3a", 60);
        let order = order(id("secret", attempt), vec![Step::pre_install(b64(&text)), last]);
        bed.accept(&order).unwrap();
        let run = bed.state().join("run").join(order.id.to_string());
        for dir in [bed.state(), bed.state().join("run"), run.clone()] {
            let mode = fs::metadata(&dir).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o700, "{}", dir.display());
        }
        wait("the script", || {
            !processes(|words| words.iter().any(|w| w.starts_with(&*run.to_string_lossy())))
                .is_empty()
        });
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            for file in ["cmdline", "environ"] {
                let seen = fs::read(entry.path().join(file)).unwrap_or_default();
                assert!(!holds_canary(&seen), "{}", entry.path().display());
            }
        }
        assert!(!tree_holds_canary(&bed.state().join("orders")), "journal or output");
        fs::write(&gate, "").unwrap();
        bed.finish(&order.id);
        assert!(!tree_holds_canary(&bed.state()));
        assert!(!run.exists());
    }
}

fn holds_canary(bytes: &[u8]) -> bool {
    let canaries: [&[u8]; 2] = [b"canary-7f3a", b"Y2FuYXJ5"];
    canaries.iter().any(|canary| bytes.windows(canary.len()).any(|window| window == *canary))
}

fn tree_holds_canary(dir: &std::path::Path) -> bool {
    fs::read_dir(dir).unwrap().flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            tree_holds_canary(&path)
        } else {
            holds_canary(&fs::read(path).unwrap())
        }
    })
}

#[test]
fn old_orders_are_swept_and_still_do_not_run_again() {
    let bed = Bed::new();
    let count = bed.file("count");
    let text = format!("echo run >>{}", count.display());
    for attempt in 1..=22 {
        bed.run(&script(id("many", attempt), &text));
    }
    let kept = || fs::read_dir(bed.state().join("orders")).unwrap().count();
    // The last one may not have been over when it swept.
    assert!((20..=21).contains(&kept()), "new orders sweep old ones");
    let _: Swept = bed.ask(&Verb::Gc, b"").unwrap();
    assert_eq!(kept(), 20);
    assert!(!bed.state().join("orders/many.node-1.1.reset").exists());
    assert_eq!(bed.accept(&script(id("many", 1), &text)).unwrap_err().kind, RefusalKind::Fenced);
    assert_eq!(lines(&count), 22);
}
