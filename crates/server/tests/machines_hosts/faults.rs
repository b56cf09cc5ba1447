//! Faults: each gives a clear reason, and no script runs twice.

use crate::support::{Cut, Lab, new_key, permanent, public_line, transient};
use evenkeel_engine::time::Span;
use evenkeel_server::machines::ssh;
use evenkeel_server::records::Recipe;
use evenkeel_server::sync::ports::{HostState, Machines, Stage};
use russh::keys::ssh_key::certificate::{Builder, CertType};
use russh::keys::{Algorithm, EcdsaCurve, PrivateKey};
use secrecy::SecretString;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_connection_is_unknown_and_the_next_call_re_attaches() {
    for step in ["have", "upload", "accept", "status", "read"] {
        for cut in [Cut::Before(step), Cut::After(step)] {
            for restart in [false, true] {
                let mut lab = Lab::new().await;
                let done = lab.host.file("done");
                lab.script(
                    format!("echo begun; sleep 0.3; echo install >>{}; echo ended", done.display()),
                    20,
                );
                *lab.host.shared.cut.lock().unwrap() = Some(cut);
                let order = lab.order(1, Stage::Reset);
                transient(lab.run(&order).await.0);
                assert_eq!(*lab.host.shared.cut.lock().unwrap(), None, "{cut:?} was not reached");
                if restart {
                    lab.restart();
                }
                let end = lab.run_to_end(&order).await;
                assert!(matches!(end, HostState::Succeeded { .. }), "{cut:?}: {end:?}");
                assert_eq!(lab.host.lines("done"), ["teardown", "install"], "{cut:?}");
                assert_eq!(
                    lab.output(1, Stage::Reset).await,
                    "== teardown ==\ntaking down\n== install ==\nbegun\nended\n",
                    "{cut:?}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_breaks_off_is_not_a_refusal() {
    let lab = Lab::new().await;
    *lab.host.shared.cut.lock().unwrap() = Some(Cut::Before("auth"));
    assert!(transient(lab.probe().await).contains("broke off"));
    lab.probe().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_that_is_cut_off_is_asked_for_again() {
    for cut in [Cut::Before("prove"), Cut::After("prove")] {
        let lab = Lab::new().await;
        lab.change(|brief| {
            brief.template.login.user = "root".into();
            brief.template.login.remove_keys = Some("root".to_owned());
        });
        let proof = r#"{"checks":[{"name":"key","ok":true,"detail":""}]}"#.to_owned();
        lab.host.shared.canned.lock().unwrap().insert("prove", proof);
        *lab.host.shared.cut.lock().unwrap() = Some(cut);
        let order = lab.order(1, Stage::Reset);
        transient(lab.run(&order).await.0);
        let end = lab.run_to_end(&order).await;
        assert!(matches!(end, HostState::Succeeded { .. }), "{end:?}");
        assert_eq!(lab.host.lines("done"), ["teardown", "install"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_host_key_is_refused_with_both_fingerprints() {
    let lab = Lab::new().await;
    let (pinned, real) = (public_line(&new_key()), public_line(&lab.host.host_key));
    lab.access(|access| access.host_key = Some(pinned.clone()));
    let said = permanent(lab.probe().await);
    assert!(said.contains(&ssh::fingerprint(&pinned).unwrap()), "{said}");
    assert!(said.contains(&ssh::fingerprint(&real).unwrap()), "{said}");
    assert!(said.contains("127.0.0.1") && said.contains("--host-key"), "{said}");
    permanent(lab.run(&lab.order(1, Stage::Reset)).await.0);
    assert!(lab.host.shared.seen.lock().unwrap().is_empty());

    // A key of another type is another key as well.
    let curve = Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 };
    let other = PrivateKey::random(&mut russh::keys::key::safe_rng(), curve).unwrap();
    lab.access(|access| access.host_key = Some(public_line(&other)));
    assert!(permanent(lab.probe().await).contains("only keys of type"));

    lab.access(|access| access.host_key = None);
    assert!(permanent(lab.probe().await).contains("no pinned SSH host key"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_ca_vouches_where_no_key_is_pinned() {
    let lab = Lab::new().await;
    let ca = new_key();
    lab.access(|access| {
        access.host_key = None;
        access.host_cas = vec![public_line(&new_key()), public_line(&ca)];
    });
    assert!(permanent(lab.probe().await).contains("no certificate of a host CA"));
    let certify = |name: &str| {
        let data = lab.host.host_key.public_key().key_data().clone();
        let mut builder = Builder::new([7; 16], data, 0, u64::MAX - 1).unwrap();
        builder.cert_type(CertType::Host).unwrap().valid_principal(name).unwrap();
        let line = builder.sign(&ca).unwrap().to_openssh().unwrap();
        std::fs::write(lab.host.file("host_key.cert"), line).unwrap();
    };
    certify("worker-2");
    assert!(permanent(lab.probe().await).contains("for worker-2, not for worker-1"));
    certify("worker-1");
    lab.probe().await.unwrap();
    certify("127.0.0.1");
    lab.probe().await.unwrap();
    let end = lab.run(&lab.order(1, Stage::Reset)).await.0;
    assert!(matches!(end, Ok(HostState::Succeeded { .. })), "{end:?}");
    // A pinned key wins over the best certificate.
    lab.access(|access| access.host_key = Some(public_line(&new_key())));
    assert!(permanent(lab.probe().await).contains("another SSH host key"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_login_names_user_and_host_and_no_key() {
    let lab = Lab::new().await;
    let key = new_key();
    let pem = key.to_openssh(russh::keys::ssh_key::LineEnding::LF).unwrap().to_string();
    lab.access(|access| access.private_key = SecretString::from(pem.clone()));
    let said = permanent(lab.probe().await);
    assert!(said.contains("user root") && said.contains("127.0.0.1"), "{said}");
    assert!(!said.contains(pem.lines().nth(1).unwrap()));
    lab.access(|access| access.private_key = SecretString::from("canary-not-a-key"));
    let said = permanent(lab.probe().await);
    assert!(said.contains("cannot be read") && !said.contains("canary"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wrong_machine_runs_nothing() {
    let lab = Lab::new().await;
    let mut order = lab.order(1, Stage::Reset);
    order.target.machine_id = Some("ffffffffffffffffffffffffffffffff".into());
    let said = permanent(lab.run(&order).await.0);
    assert!(said.contains("wrong machine"), "{said}");
    order.target.machine_id = None;
    assert!(permanent(lab.run(&order).await.0).contains("no machineID"));
    assert_eq!(lab.host.lines("done"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_host_may_come_back() {
    let lab = Lab::new().await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    lab.access(|access| access.port = closed);
    assert!(transient(lab.probe().await).contains("cannot be reached"));
    // Accepts, and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    lab.access(|access| access.port = silent.local_addr().unwrap().port());
    let begun = Instant::now();
    assert!(transient(lab.probe().await).contains("no SSH login within 10 s"));
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_script_ends_the_order() {
    let lab = Lab::new().await;
    lab.script("echo before; exit 7".into(), 20);
    let post = crate::b64("exit 0");
    lab.change(|brief| brief.template.post_install_b64 = Some(post));
    let end = lab.run(&lab.order(1, Stage::Reset)).await.0.unwrap();
    let HostState::Failed { step, reason } = end else { panic!("{end:?}") };
    assert_eq!(step, "install");
    assert!(reason.contains('7'), "{reason}");
    assert!(lab.output(1, Stage::Reset).await.ends_with("before\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_script_is_stopped_at_its_limit() {
    let lab = Lab::new().await;
    lab.script("sleep 100".into(), 1);
    let begun = Instant::now();
    let end = lab.run(&lab.order(1, Stage::Reset)).await.0.unwrap();
    let HostState::Failed { step, reason } = end else { panic!("{end:?}") };
    assert_eq!(step, "install");
    assert!(reason.contains("time limit"), "{reason}");
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_output_is_kept_bounded_with_its_end() {
    let lab = Lab::new().await;
    lab.script("echo first; head -c 50000000 /dev/zero | tr '\\0' x; echo; echo last".into(), 30);
    let end = lab.run(&lab.order(1, Stage::Reset)).await.0.unwrap();
    assert!(matches!(end, HostState::Succeeded { .. }), "{end:?}");
    let output = lab.output(1, Stage::Reset).await;
    assert!(output.len() < 1024 * 1024 + 200, "{}", output.len());
    assert!(
        output.starts_with("== teardown ==\ntaking down\n== install ==\nfirst\nxxx")
            && output.ends_with("x\nlast\n")
    );
    assert!(output.contains("bytes of output left out]"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_runner_is_an_interrupted_step() {
    let lab = Lab::new().await;
    let pid = lab.host.file("pid");
    // The runner is the parent of the script's shell.
    lab.script(format!("echo $PPID >{}; sleep 30", pid.display()), 60);
    let order = lab.order(1, Stage::Reset);
    let kill = async {
        let begun = Instant::now();
        loop {
            if let Some(pid) = lab.host.lines("pid").first() {
                let killed = std::process::Command::new("kill").args(["-9", pid]).status();
                return assert!(killed.unwrap().success());
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "waited 30 s for the script");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let ((end, _), ()) = tokio::join!(lab.run(&order), kill);
    let end = end.unwrap();
    let HostState::Failed { step, reason } = &end else { panic!("{end:?}") };
    assert_eq!(step, "install");
    assert!(reason.starts_with("interrupted: "), "{reason}");
    assert_eq!(lab.run(&order).await.0.unwrap(), end);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_controller_and_a_second_order_are_refused() {
    let lab = Lab::new().await;
    let mut newer = lab.order(1, Stage::Reset);
    newer.epoch = 9;
    lab.run(&newer).await.0.unwrap();
    let mut older = lab.order(2, Stage::Reset);
    older.epoch = 8;
    assert!(permanent(lab.run(&older).await.0).contains("newer controller"));
    for (epoch, fits) in [(8, false), (9, true), (10, true)] {
        lab.change(|brief| brief.epoch = Some(epoch));
        let probed = lab.probe().await;
        assert_eq!(probed.is_ok(), fits, "before the cordon: {epoch} {probed:?}");
        if !fits {
            assert!(permanent(probed).contains("fence.json"));
        }
    }

    lab.script("sleep 3".into(), 20);
    let mut first = lab.order(2, Stage::Reset);
    first.epoch = 9;
    let mut second = first.clone();
    second.job = "job-2".into();
    let late = async {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        lab.run(&second).await.0
    };
    let ((first, _), second) = tokio::join!(lab.run(&first), late);
    assert!(matches!(first, Ok(HostState::Succeeded { .. })), "{first:?}");
    assert!(transient(second).contains("cannot do it now"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_journal_is_not_run_again() {
    let lab = Lab::new().await;
    let done = lab.host.file("done");
    lab.script(format!("sleep 1; echo install >>{}", done.display()), 20);
    let order = lab.order(1, Stage::Reset);
    let lose = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let gone = r#"{"error":{"kind":"unknown_order","message":"no such order here"}}"#;
        let mut canned = lab.host.shared.canned.lock().unwrap();
        canned.extend([("status", gone.to_owned()), ("read", gone.to_owned())]);
    };
    let ((end, _), ()) = tokio::join!(lab.run(&order), lose);
    let end = end.unwrap();
    let HostState::Failed { step, reason } = end else { panic!("{end:?}") };
    assert_eq!(step, "journal");
    assert!(reason.contains("not run again"), "{reason}");
    let seen = lab.host.shared.seen.lock().unwrap();
    assert_eq!(seen.iter().filter(|word| *word == "accept").count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_lost_everything_does_not_run_an_order_again_after_a_restart() {
    let mut lab = Lab::new().await;
    let order = lab.order(1, Stage::Reset);
    lab.run(&order).await.0.unwrap();
    let ran = lab.host.lines("done");
    // A wiped disk: no journal, no fence. And a controller that died before it had stored the end.
    std::fs::remove_dir_all(lab.host.file("state")).unwrap();
    lab.restart();
    let end = lab.run(&order).await.0.unwrap();
    let HostState::Failed { step, reason } = end else { panic!("{end:?}") };
    assert_eq!(step, "journal");
    assert!(reason.contains("not run again"), "{reason}");
    assert_eq!(lab.host.lines("done"), ran);
    let next = lab.run(&lab.order(2, Stage::Reset)).await.0;
    assert!(matches!(next, Ok(HostState::Succeeded { .. })), "{next:?}");
}

/// Kills whatever runs on the host and lets its journals say that this was in an earlier boot.
fn reboot(lab: &Lab, script: &str) {
    let pid = &lab.host.lines(script)[0];
    let killed = std::process::Command::new("kill").args(["-9", pid]).status();
    assert!(killed.unwrap().success());
    let orders = lab.host.file("state/orders");
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    for order in std::fs::read_dir(orders).unwrap() {
        let journal = order.unwrap().path().join("journal");
        let text = std::fs::read_to_string(&journal).unwrap();
        std::fs::write(&journal, text.replace(boot.trim(), "an-earlier-boot")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reboot_in_the_middle_goes_on_where_the_recipe_says_so() {
    for resume in [true, false] {
        let mut lab = Lab::new().await;
        let (done, runner) = (lab.host.file("done"), lab.host.file("runner"));
        // Only the first run is long. The runner is the parent of the script's shell.
        lab.script(
            format!(
                "echo install >>{}; if [ ! -e {1} ]; then echo $PPID >{1}; exec sleep 2; fi",
                done.display(),
                runner.display()
            ),
            20,
        );
        lab.change(|brief| {
            if let Recipe::Script { resume: declared, .. } = &mut brief.recipe {
                *declared = resume;
            }
        });
        // The connection goes with the host.
        *lab.host.shared.cut.lock().unwrap() = Some(Cut::Before("status"));
        let order = lab.order(1, Stage::Reset);
        transient(lab.run(&order).await.0);
        let begun = Instant::now();
        while lab.host.lines("runner").is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(30), "waited 30 s for the script");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        reboot(&lab, "runner");
        lab.restart();
        let end = lab.run_to_end(&order).await;
        if resume {
            assert!(matches!(end, HostState::Succeeded { .. }), "{end:?}");
            assert_eq!(lab.host.lines("done"), ["teardown", "install", "install"]);
        } else {
            let HostState::Failed { step, reason } = end else { panic!("{end:?}") };
            assert_eq!(step, "install");
            assert_eq!(reason, "interrupted: the host was rebooted while it ran");
            assert_eq!(lab.host.lines("done"), ["teardown", "install"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_controller_says_what_a_silent_host_was_given() {
    let mut lab = Lab::new().await;
    lab.script("sleep 1".into(), 20);
    *lab.host.shared.cut.lock().unwrap() = Some(Cut::After("accept"));
    let order = lab.order(1, Stage::Reset);
    transient(lab.run(&order).await.0);
    *lab.host.shared.cut.lock().unwrap() = Some(Cut::Before("status"));
    transient(lab.run(&order).await.0);
    lab.restart();
    let port = lab.host.port;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    lab.access(|access| access.port = closed);
    let (to, mut from) = tokio::sync::mpsc::channel(8);
    transient(lab.fleet.run(&order, to).await);
    let told = from.recv().await;
    // Two steps of 20 s and the slack of two minutes.
    assert_eq!(told, Some(HostState::Given { limit: Span::secs(160) }));
    lab.access(|access| access.port = port);
    let end = lab.run_to_end(&order).await;
    assert!(matches!(end, HostState::Succeeded { .. }), "{end:?}");
}
