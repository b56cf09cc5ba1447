//! Machines that are reinstalled in the middle of a reset: the hook truly makes new host keys and a new machine id, and
//! wipes what was on the disk.

use crate::service::{SECRET, Service};
use crate::support::{LIMIT, Lab, TestHost, new_key, permanent, public_line};
use evenkeel_server::machines::{Reach, ssh};
use evenkeel_server::records::{Hook, Image, Recipe, Reimage, Webhook};
use evenkeel_server::sync::ports::{HostState, Machines, Stage};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// What a deployment does to the machine of the test; prints the new key.
fn deploy(host: &TestHost) -> String {
    let dir = host.dir.path().display();
    format!(
        "set -eu\nd={dir}\nrm -rf $d/state\nrm -f $d/host_key $d/host_key.pub\n\
         ssh-keygen -q -t ed25519 -N '' -C new -f $d/host_key\n\
         od -An -N16 -tx1 /dev/urandom | tr -d ' \\n' >$d/root/etc/machine-id\n"
    )
}

/// A hook of these lines before and after the deployment.
fn hook(lab: &Lab, before: &str, after: &str) -> PathBuf {
    let path = lab.host.file("hook");
    let deploy = deploy(&lab.host);
    let text = format!(
        "#!/bin/sh\n{deploy_env}echo \"$EVENKEEL_ORDER $EVENKEEL_STAGE $EVENKEEL_OS\" >>$d/hooked\n{before}\n{deploy}{after}\n",
        deploy_env = format_args!("d={}\n", lab.host.dir.path().display()),
    );
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

const ANNOUNCE: &str = r#"echo deployed; printf '{"host_key": "%s"}\n' "$(cat $d/host_key.pub)""#;

fn set(lab: &Lab, hook: Hook, limit_s: u32, return_limit_s: u32) {
    lab.change(|brief| {
        brief.template.image = Some(Image { os: Some("Debian 13".into()), ..Image::default() });
        if let Recipe::Script { reimage, .. } = &mut brief.recipe {
            *reimage = Some(Reimage { hook, limit_s, return_limit_s, teardown: true });
        }
    });
}

async fn with_hook(before: &str, after: &str, limit_s: u32, return_limit_s: u32) -> Lab {
    let lab = Lab::new().await;
    let argv = vec![hook(&lab, before, after).to_str().unwrap().to_owned()];
    set(&lab, Hook::Program { argv }, limit_s, return_limit_s);
    lab
}

fn failed(end: HostState) -> String {
    match end {
        HostState::Failed { step, reason } if step == "reimage" => reason,
        other => panic!("expected a failure of the reinstallation, got {other:?}"),
    }
}

fn pinned(lab: &Lab) -> Option<String> {
    let brief = lab.book.0.lock().unwrap();
    let Some(Reach::Ssh(access)) = &brief.reach else { panic!("no SSH") };
    access.host_key.clone()
}

fn machine_id(lab: &Lab) -> String {
    std::fs::read_to_string(lab.host.file("root/etc/machine-id")).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_is_reinstalled_between_teardown_and_install() {
    let mut lab = with_hook("", ANNOUNCE, 30, 30).await;
    let post = crate::b64(&format!("echo post >>{}", lab.host.file("done").display()));
    lab.change(|brief| brief.template.post_install_b64 = Some(post));
    lab.probe().await.unwrap();
    let (old_key, old_id) = (pinned(&lab), machine_id(&lab));
    let order = lab.order(1, Stage::Reset);
    let (end, _) = lab.run(&order).await;
    assert!(matches!(end, Ok(HostState::Succeeded { ended_host_ms: Some(_) })), "{end:?}");
    assert_eq!(lab.host.lines("done"), ["teardown", "install"]);
    assert_eq!(lab.host.lines("hooked"), ["job-1.node-1.1.reset reimage Debian 13"]);
    assert_eq!(
        lab.output(1, Stage::Reset).await.replace(&pinned(&lab).unwrap(), "KEY"),
        "== teardown ==\ntaking down\ndeployed\n{\"host_key\": \"KEY new\"}\n== install ==\nputting back\n"
    );
    assert!(pinned(&lab) != old_key && machine_id(&lab) != old_id);
    // The node's status still shows the old machine: later stages know better, with a new controller as well.
    for restart in [false, true] {
        if restart {
            lab.restart();
        }
        assert_eq!(lab.run(&order).await.0.unwrap(), end.clone_ok());
        let (post, _) = lab.run(&lab.order(1, Stage::Post)).await;
        assert!(matches!(post, Ok(HostState::Succeeded { .. })), "{post:?}");
    }
    lab.probe().await.unwrap();
    assert_eq!(lab.host.lines("done"), ["teardown", "install", "post"]);
    assert_eq!(lab.host.lines("hooked").len(), 1);
    lab.fleet.forget(&"job-1".into()).await.unwrap();
    let kept = Command::new("find").arg(lab.data.path()).args(["-type", "f"]).output().unwrap();
    assert!(kept.stdout.is_empty(), "{}", String::from_utf8_lossy(&kept.stdout));
}

trait CloneOk {
    fn clone_ok(&self) -> HostState;
}

impl CloneOk for Result<HostState, evenkeel_server::sync::ports::Fault> {
    fn clone_ok(&self) -> HostState {
        self.as_ref().unwrap().clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_key_than_the_announced_one_is_refused_and_named() {
    let other = public_line(&new_key());
    let lab = with_hook("", &format!("echo '{{\"host_key\": \"{other}\"}}'"), 30, 2).await;
    let order = lab.order(1, Stage::Reset);
    let said = failed(lab.run(&order).await.0.unwrap());
    let real = std::fs::read_to_string(lab.host.file("host_key.pub")).unwrap();
    for line in [&other, &real] {
        assert!(said.contains(&ssh::fingerprint(line).unwrap()), "{said}");
    }
    assert_eq!(lab.host.lines("done"), ["teardown"]);
    assert!(!lab.host.file("state").exists(), "nothing was put on a machine that is not known");
    // The end stays the end, and the hook is not asked again.
    assert_eq!(failed(lab.run(&order).await.0.unwrap()), said);
    assert_eq!(lab.host.lines("hooked").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_without_a_new_key_is_no_answer() {
    for (after, words) in [
        ("echo fine", "announced no host key"),
        ("echo '{}'", "holds no host_key"),
        ("exit 3", "exit status 3"),
    ] {
        let lab = with_hook("", after, 30, 2).await;
        let said = failed(lab.run(&lab.order(1, Stage::Reset)).await.0.unwrap());
        assert!(said.contains(words), "{said}");
        assert_eq!(lab.host.lines("done"), ["teardown"]);
    }
    let lab = Lab::new().await;
    let old = public_line(&lab.host.host_key);
    let path = lab.host.file("lazy");
    std::fs::write(&path, format!("#!/bin/sh\necho '{{\"host_key\": \"{old}\"}}'\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    set(&lab, Hook::Program { argv: vec![path.to_str().unwrap().into()] }, 30, 2);
    let said = failed(lab.run(&lab.order(1, Stage::Reset)).await.0.unwrap());
    assert!(said.contains("proves nothing"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hook_that_never_ends_is_stopped_at_its_limit() {
    let lab = with_hook("sleep 60", ANNOUNCE, 1, 5).await;
    let begun = Instant::now();
    let said = failed(lab.run(&lab.order(1, Stage::Reset)).await.0.unwrap());
    assert!(said.contains("time limit of 1 s"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(30));
    // The next attempt finds a disk that may be half written: no teardown, a new hook.
    let second = hook(&lab, "", ANNOUNCE);
    set(&lab, Hook::Program { argv: vec![second.to_str().unwrap().into()] }, 30, 30);
    let (end, _) = lab.run(&lab.order(2, Stage::Reset)).await;
    assert!(matches!(end, Ok(HostState::Succeeded { .. })), "{end:?}");
    assert_eq!(lab.host.lines("done"), ["teardown", "install"]);
    assert_eq!(lab.host.lines("hooked").len(), 2);
}

/// Drops the controller as soon as the condition holds.
async fn killed_when(lab: &Lab, what: &str, is_so: impl Fn() -> bool) {
    let order = lab.order(1, Stage::Reset);
    let wait = async {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < LIMIT, "waited 60 s for {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        (end, _) = lab.run(&order) => panic!("ended too early: {end:?}"),
        () = wait => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_that_dies_in_the_middle_reinstalls_once() {
    // While the hook runs, and while the machine boots.
    let late = "mv $d/host_key $d/later; (sleep 2; mv $d/later $d/host_key) >/dev/null 2>&1 &";
    for (before, after, what) in
        [("sleep 1", ANNOUNCE.to_owned(), "hooked"), ("", format!("{ANNOUNCE}\n{late}"), "later")]
    {
        let mut lab = with_hook(before, &after, 30, 30).await;
        let seen = lab.host.file(what);
        killed_when(&lab, what, || seen.exists()).await;
        lab.restart();
        let end = lab.run_to_end(&lab.order(1, Stage::Reset)).await;
        assert!(matches!(end, HostState::Succeeded { .. }), "{what}: {end:?}");
        assert_eq!(lab.host.lines("hooked").len(), 1, "{what}");
        assert_eq!(lab.host.lines("done"), ["teardown", "install"], "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wrong_machine_is_not_reinstalled_and_a_replaced_controller_reinstalls_nothing() {
    let lab = with_hook("", ANNOUNCE, 30, 30).await;
    let mut order = lab.order(1, Stage::Reset);
    order.target.machine_id = Some("ffffffffffffffffffffffffffffffff".into());
    assert!(permanent(lab.run(&order).await.0).contains("wrong machine"));
    lab.change(|brief| brief.epoch = Some(7));
    let said = crate::support::transient(lab.run(&lab.order(2, Stage::Reset)).await.0);
    assert!(said.contains("another controller"), "{said}");
    assert_eq!(lab.host.lines("hooked"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_lacks_a_command_is_found_before_anything_runs_on_it() {
    let lab = with_hook("", ANNOUNCE, 30, 30).await;
    lab.change(|brief| {
        if let Recipe::Script { needs, .. } = &mut brief.recipe {
            needs.push("no-such-command".into());
        }
    });
    let said = failed(lab.run(&lab.order(1, Stage::Reset)).await.0.unwrap());
    assert!(said.contains("lacks the commands no-such-command"), "{said}");
    assert_eq!(lab.host.lines("done"), ["teardown"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_reinstalls_a_machine() {
    let mut lab = Lab::new().await;
    let service = Service::start().await;
    let script = deploy(&lab.host);
    let key_file = lab.host.file("host_key.pub");
    service
        .then(|_| (503, None, "busy".into()))
        .then(|_| (202, Some("/progress/7"), String::new()))
        .then(|_| (202, None, String::new()))
        .then(move |asked| {
            if !key_file.exists() {
                let done = Command::new("sh").args(["-c", &script]).status().unwrap();
                assert!(done.success());
            }
            let line = std::fs::read_to_string(&key_file).unwrap();
            let document = json!({"order": asked.key, "host_key": line, "output": "deployed\n"});
            (200, None, document.to_string())
        });
    let hook = Webhook { url: service.url.clone(), secret: SECRET.into(), ca: None };
    set(&lab, Hook::Webhook(hook), 30, 30);
    lab.probe().await.unwrap();
    let order = lab.order(1, Stage::Reset);
    let end = lab.run(&order).await.0.unwrap();
    assert!(matches!(end, HostState::Succeeded { .. }), "{end:?}");
    lab.restart();
    assert_eq!(lab.run(&order).await.0.unwrap(), end);
    assert_eq!(lab.host.lines("done"), ["teardown", "install"]);
    let asked = service.asked();
    let told: Vec<String> = asked.iter().map(|a| format!("{} {}", a.method, a.path)).collect();
    assert_eq!(told, ["POST /hook", "POST /hook", "GET /progress/7", "GET /progress/7"]);
    assert!(asked.iter().all(|a| a.key == "job-1.node-1.1.reimage"), "{asked:?}");
    let body = &asked[0].body;
    assert_eq!(body["wanted"], json!({"os": "Debian 13"}));
    assert_eq!((&body["stage"], &body["attempt"]), (&json!("reimage"), &json!(1)));
    assert!(body["ssh"]["public_key"].as_str().unwrap().starts_with("ssh-ed25519 "));
    assert!(body.get("template").is_none());
    assert!(lab.output(1, Stage::Reset).await.contains("deployed\n== install =="));
    let found = Command::new("grep").args(["-r", "canary"]).arg(lab.data.path()).output().unwrap();
    assert!(found.stdout.is_empty(), "{}", String::from_utf8_lossy(&found.stdout));
}
