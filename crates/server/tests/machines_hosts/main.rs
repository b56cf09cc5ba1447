//! The machine module against real `evenkeel-node` processes behind an SSH server in this process: what happens on
//! hosts, and what happens when connections, hosts and people misbehave.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod agent;
mod faults;
mod join;
mod reimage;
mod service;
mod support;
mod webhook;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use evenkeel_server::machines::{BinarySource, ssh};
use evenkeel_server::records::{Hook, Recipe};
use evenkeel_server::sync::ports::{Fault, HostState, Stage};
use secrecy::SecretString;
use std::sync::atomic::Ordering;
use support::{Lab, new_key, permanent, public_line};

pub fn b64(script: &str) -> SecretString {
    SecretString::from(STANDARD.encode(script))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_runs_its_steps_in_order_and_keeps_their_output() {
    let lab = Lab::new().await;
    let done = lab.host.file("done");
    let pre = format!("echo pre >>{0}; sleep 0.2; echo preparing", done.display());
    let post = format!("echo post >>{0}; echo finishing", done.display());
    lab.change(|brief| {
        brief.template.pre_install_b64 = Some(b64(&pre));
        brief.template.post_install_b64 = Some(b64(&post));
    });
    lab.probe().await.unwrap();
    assert_eq!(lab.host.lines("done"), Vec::<String>::new(), "a probe runs nothing");

    let (end, steps) = lab.run(&lab.order(1, Stage::Reset)).await;
    let Ok(HostState::Succeeded { ended_host_ms: Some(ended) }) = end else { panic!("{end:?}") };
    assert!(ended > 1_700_000_000_000, "{ended} is no wall clock");
    assert_eq!(lab.host.lines("done"), ["teardown", "pre", "install"]);
    assert!(steps.contains(&"pre_install".to_owned()), "{steps:?}");
    assert_eq!(
        lab.output(1, Stage::Reset).await,
        "== teardown ==\ntaking down\n== pre_install ==\npreparing\n== install ==\nputting back\n"
    );

    let (end, _) = lab.run(&lab.order(1, Stage::Post)).await;
    assert!(matches!(end, Ok(HostState::Succeeded { .. })), "{end:?}");
    assert_eq!(lab.host.lines("done"), ["teardown", "pre", "install", "post"]);
    assert_eq!(lab.output(1, Stage::Post).await, "== post_install ==\nfinishing\n");
    // One upload for all of it.
    let seen = lab.host.shared.seen.lock().unwrap();
    assert_eq!(seen.iter().filter(|word| *word == "upload").count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_order_again_answers_what_it_did() {
    let mut lab = Lab::new().await;
    let order = lab.order(1, Stage::Reset);
    let first = lab.run(&order).await.0.unwrap();
    assert_eq!(lab.run(&order).await.0.unwrap(), first);
    lab.restart();
    assert_eq!(lab.run(&order).await.0.unwrap(), first);
    assert_eq!(lab.host.lines("done"), ["teardown", "install"]);
    assert_eq!(
        lab.output(1, Stage::Reset).await,
        "== teardown ==\ntaking down\n== install ==\nputting back\n"
    );
    // Another attempt is another order.
    lab.run(&lab.order(2, Stage::Reset)).await.0.unwrap();
    assert_eq!(lab.host.lines("done").len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_is_set_and_proved_over_a_new_connection() {
    let lab = Lab::new().await;
    let own = public_line(&new_key());
    lab.change(|brief| {
        brief.template.login.user = "root".into();
        brief.template.login.authorized_keys = Some(vec![own.clone()]);
    });
    let proof = |ok: bool| {
        format!(r#"{{"checks":[{{"name":"sshd_pubkey","ok":{ok},"detail":"as sshd -T says"}}]}}"#)
    };
    lab.host.shared.canned.lock().unwrap().insert("prove", proof(true));
    lab.probe().await.unwrap();
    let before = lab.host.shared.connections.load(Ordering::SeqCst);
    let end = lab.run(&lab.order(1, Stage::Reset)).await.0;
    assert!(matches!(end, Ok(HostState::Succeeded { .. })), "{end:?}");
    assert_eq!(lab.host.shared.connections.load(Ordering::SeqCst) - before, 2);
    let keys = lab.host.lines("root/root/.ssh/authorized_keys").join("\n");
    let mut controller = String::new();
    lab.access(|access| controller.clone_from(&access.public_key));
    assert!(keys.contains(&own[..60]) && keys.contains(&controller[..60]), "{keys}");

    lab.host.shared.canned.lock().unwrap().insert("prove", proof(false));
    let end = lab.run(&lab.order(2, Stage::Reset)).await.0.unwrap();
    let HostState::Failed { step, reason } = end else { panic!("{end:?}") };
    assert_eq!((step.as_str(), reason.as_str()), ("login-proof", "sshd_pubkey: as sshd -T says"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_reads_the_key_that_is_then_pinned() {
    let lab = Lab::new().await;
    let line = ssh::scan("127.0.0.1", lab.host.port).await.unwrap();
    assert_eq!(ssh::fingerprint(&line), ssh::fingerprint(&public_line(&lab.host.host_key)));
    lab.access(|access| access.host_key = Some(line));
    lab.probe().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_names_what_is_missing() {
    let lab = Lab::new().await;
    lab.change(|brief| {
        let Recipe::Script { needs, .. } = &mut brief.recipe else {
            panic!("not a script");
        };
        needs.push("no-such-command".into());
    });
    assert!(permanent(lab.probe().await).contains("lacks the commands no-such-command"));
    lab.change(|brief| {
        let Recipe::Script { needs, .. } = &mut brief.recipe else {
            panic!("not a script");
        };
        *needs = vec!["a; touch x".into()];
    });
    assert!(permanent(lab.probe().await).contains("not a command name"));
    lab.change(|brief| {
        let Recipe::Script { needs, .. } = &mut brief.recipe else {
            panic!("not a script");
        };
        needs.clear();
        brief.template.login.user = "no-such-user".into();
        brief.template.login.remove_keys = Some("root".to_owned());
    });
    assert!(permanent(lab.probe().await).contains("no-such-user"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_ssh_settings_a_script_recipe_is_refused() {
    let lab = Lab::new().await;
    lab.change(|brief| brief.reach = None);
    assert!(permanent(lab.probe().await).contains("evenkeel cluster set-machines"));
    let end: Result<HostState, Fault> = lab.run(&lab.order(1, Stage::Reset)).await.0;
    assert!(permanent(end).contains("worker-1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_recipe_with_ssh_lets_the_host_do_login_and_scripts() {
    let lab = Lab::new().await;
    let done = lab.host.file("done");
    lab.change(|brief| {
        let argv = vec!["/bin/sh".into(), "-c".into(), format!("cat >>{}", done.display())];
        brief.recipe = Recipe::Command { hook: Hook::Program { argv }, limit_s: 20 };
    });
    lab.probe().await.unwrap();
    // Without login and scripts nothing is left to do on the host.
    let end = lab.run(&lab.order(1, Stage::Reset)).await.0.unwrap();
    assert_eq!(end, HostState::Succeeded { ended_host_ms: None });
    assert!(!lab.host.shared.seen.lock().unwrap().contains(&"accept".to_owned()));
    lab.change(|brief| {
        brief.template.pre_install_b64 = Some(b64(&format!("echo pre >>{}", done.display())));
        brief.template.post_install_b64 = Some(b64(&format!("echo post >>{}", done.display())));
    });
    let (end, steps) = lab.run(&lab.order(2, Stage::Reset)).await;
    assert!(matches!(end, Ok(HostState::Succeeded { ended_host_ms: Some(_) })), "{end:?}");
    assert_eq!(steps.first().map(String::as_str), Some("command"));
    lab.run(&lab.order(2, Stage::Post)).await.0.unwrap();
    // The command got an empty document each time: the template is the host's business.
    assert_eq!(std::fs::read_to_string(&done).unwrap(), "{}{}pre\npost\n");
}

#[tokio::test]
async fn a_missing_host_binary_names_how_to_build_it() {
    let source = BinarySource::file(Some(std::path::Path::new("/nonexistent/evenkeel-node")));
    let Err(error) = source.load().await else { panic!("there is no such file") };
    let said = error.to_string();
    assert!(said.contains("/nonexistent/evenkeel-node") && said.contains("xtask node-binary"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sudo_that_asks_for_a_password_is_named() {
    let lab = Lab::new().await;
    lab.access(|access| access.sudo = true);
    *lab.host.shared.refusal.lock().unwrap() = Some("sudo: a password is required".into());
    let said = permanent(lab.probe().await);
    assert!(said.contains("allow it in sudoers") && said.contains("127.0.0.1"), "{said}");
}
