#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;

fn hash() -> Sha256Hex {
    Sha256Hex::of(b"binary")
}

/// A real ed25519 public key.
pub(crate) const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8pb1xGvnU1xV0K5cyyGB7oPLgnXxmFQ3LzoPCy2yWs a@b";

fn login() -> LoginOrder {
    LoginOrder {
        user: "root".parse().unwrap(),
        password_hash: None,
        remove_password: None,
        authorized_keys: None,
        remove_keys: None,
        keep_key: Some(KEY.into()),
    }
}

fn order(steps: Vec<Step>) -> Order {
    Order {
        protocol: PROTOCOL,
        id: OrderId::new("job-1", "node-1", 1, Stage::Reset).unwrap(),
        epoch: 1,
        machine: MachineIdentity { machine_id: "m".into(), product_uuid: None },
        steps,
    }
}

#[test]
fn every_command_line_reads_back() {
    let order: OrderId = "job-1.node-1.2.post".parse().unwrap();
    let verbs = [
        Verb::Probe,
        Verb::Accept,
        Verb::Status { order: order.clone() },
        Verb::Read { order, offset: 77 },
        Verb::Prove,
        Verb::Plan,
        Verb::Gc,
    ];
    let mut all = vec![Remote::Have { hash: hash() }, Remote::Upload { hash: hash() }];
    all.extend(verbs.map(|verb| Remote::Run { hash: hash(), verb }));
    for remote in all {
        for sudo in [false, true] {
            assert_eq!(Remote::parse(&remote.to_command(sudo)), Some(remote.clone()));
        }
    }
    assert_eq!(Remote::parse("rm -rf /"), None);
    assert_eq!(
        Remote::parse(&format!("{}; id", Remote::Have { hash: hash() }.to_command(false))),
        None
    );
}

#[test]
fn ids_have_one_spelling() {
    for good in ["a.b.0.reset", "job-1.node-1.12.post"] {
        assert_eq!(good.parse::<OrderId>().unwrap().to_string(), good);
    }
    for bad in [
        "a.b.01.reset",
        "a.b.+1.reset",
        "a.b.1.x",
        "A.b.1.reset",
        "a.b.1",
        "a/../b.c.1.reset",
        ".b.1.reset",
    ] {
        assert!(bad.parse::<OrderId>().is_err(), "{bad}");
    }
    for bad in ["", "-x", "a b", "a;b", "a$", &"x".repeat(33)] {
        assert!(bad.parse::<UserName>().is_err(), "{bad}");
    }
}

#[test]
fn an_order_reads_back_and_hides_its_secrets() {
    let mut with_hash = login();
    with_hash.password_hash = Some("canary-hash".into());
    let order = order(vec![
        Step::teardown("canary-teardown", 60),
        Step::Login(with_hash),
        Step::pre_install("canary-pre"),
        Step::install("canary-install", 60),
        Step::post_install("canary-post"),
    ]);
    let json = serde_json::to_string(&order).unwrap();
    assert_eq!(serde_json::from_str::<Order>(&json).unwrap(), order);
    assert!(!format!("{order:?}").contains("canary"));
}

#[test]
fn bad_orders_are_named() {
    let digest = "a".repeat(86);
    let hashed = |hash: String| {
        let mut login = login();
        login.password_hash = Some(hash.into());
        order(vec![Step::Login(login)]).check()
    };
    assert_eq!(hashed(format!("$6$salt${digest}")), Ok(()));
    assert_eq!(hashed(format!("$6$rounds=100000$salt${digest}")), Ok(()));
    for bad in [
        format!("$6$rounds=100001$salt${digest}"),
        format!("$5$salt${digest}"),
        format!("$6$salt${digest}\nroot:x"),
        "$6$salt$short".into(),
        "clear".into(),
    ] {
        assert_eq!(hashed(bad), Err(BadOrder::PasswordHash));
    }
    for bad in ["aGk", "aGk= ", "a Gk=", "%%%%"] {
        let got = order(vec![Step::pre_install(bad)]).check();
        assert_eq!(got, Err(BadOrder::Base64("pre_install")), "{bad}");
    }
    let keyed = |key: &str| {
        let mut login = login();
        login.authorized_keys = Some(vec![key.into()]);
        order(vec![Step::Login(login)]).check().is_ok()
    };
    assert!(keyed(KEY));
    let renamed = KEY.replace("ssh-ed25519", "ssh-rsa");
    let optioned = format!("command=\"id\" {KEY}");
    let two_lines = format!("{KEY}\n{KEY}");
    for bad in [renamed.as_str(), optioned.as_str(), two_lines.as_str(), "ssh-ed25519", ""] {
        assert!(!keyed(bad), "{bad}");
    }
    assert_eq!(order(vec![]).check(), Err(BadOrder::NoSteps(order(vec![]).id)));
    let twice = order(vec![Step::teardown("a", 1), Step::teardown("b", 1)]);
    assert_eq!(twice.check(), Err(BadOrder::Twice("teardown")));
    let endless = order(vec![Step::teardown("a", 0)]).check();
    assert_eq!(endless, Err(BadOrder::TimeLimit { step: "teardown", got: 0 }));
}

#[test]
fn refusals_are_errors() {
    let wire = br#"{"error":{"kind":"busy","message":"another order runs"}}"#;
    let Err(AnswerError::Refused(refusal)) = parse_answer::<Have>(wire) else {
        panic!("a refusal was taken for an answer");
    };
    assert_eq!(refusal.kind, RefusalKind::Busy);
    assert!(parse_answer::<Have>(br#"{"have":true}"#).unwrap().have);
    let chatty = b"Welcome! {\"have\":false}\nYou have mail.\n{\"have\":true}\n";
    assert!(parse_answer::<Have>(chatty).unwrap().have, "a login shell that talks");
    assert!(matches!(parse_answer::<Have>(b"Welcome!\n{}"), Err(AnswerError::Malformed(_))));
}
