//! Passwords and logins: what is taken, what is refused, and that no refusal shows the secret.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use evenkeel_api::json::At;
use evenkeel_api::login::{Login, LoginSpec, LoginUse, check_login, mask_login};
use evenkeel_api::password::PasswordInput;
use serde_json::{Value, json};

use crate::assert_violation;

fn hash(prefix: &str, salt: &str, length: usize) -> String {
    format!("{prefix}{salt}${}", "Ab./".repeat(30).get(..length).unwrap())
}

#[test]
fn hashes() {
    for good in [
        hash("$6$", "0123456789abcdef", 86),
        hash("$6$", "a", 86),
        hash("$6$rounds=5000$", "abc", 86),
        hash("$6$rounds=100000$", "abc", 86),
    ] {
        let read = PasswordInput::read(&STANDARD.encode(&good), "root").unwrap();
        let PasswordInput::Hashed(secret) = &read else { panic!("{read:?}") };
        assert_eq!(secret.expose(), good);
        assert_eq!(format!("{read:?}"), "Hashed([redacted])");
        let (rule, way_out) = PasswordInput::read(&good, "root").unwrap_err();
        assert!(rule.contains("not base64-encoded") && way_out.contains("base64"), "{rule}");
    }
    for (bad, text) in [
        (hash("$6$", "abc", 85), "complete sha512-crypt"),
        (hash("$6$", "", 86), "complete sha512-crypt"),
        (hash("$6$", "0123456789abcdefg", 86), "complete sha512-crypt"),
        (hash("$6$", "ab c", 86), "complete sha512-crypt"),
        (hash("$6$rounds=100001$", "abc", 86), "rounds"),
        (hash("$6$rounds=999$", "abc", 86), "rounds"),
        (hash("$6$rounds=05000$", "abc", 86), "rounds"),
        (hash("$6$rounds=+5000$", "abc", 86), "rounds"),
        (hash("$5$", "abc", 43), "$5$"),
        (hash("$1$", "abc", 22), "$1$"),
        (hash("$y$", "abc", 43), "$y$"),
        (hash("$2b$", "10", 53), "$2b$"),
    ] {
        let (rule, _) = PasswordInput::read(&STANDARD.encode(&bad), "root").unwrap_err();
        assert!(rule.contains(text), "{bad}: {rule}");
        assert!(!rule.contains(&bad), "no secret in the rule");
    }
}

#[test]
fn clear_text() {
    for good in ["Passw0rd", "aaaa!1aa", "Ab1~#*./", "A1aA1aA1aA1aA1aA1aA1aA1aA1", "Root1234!"] {
        let read = PasswordInput::read(good, "root").unwrap();
        assert!(matches!(read, PasswordInput::Clear(_)), "{good}");
        assert_eq!(format!("{read:?}"), "Clear([redacted])");
    }
    for (bad, text) in [
        ("Passw0r", "8 to 26"),
        ("A1aA1aA1aA1aA1aA1aA1aA1aA1a", "8 to 26"),
        ("xxxxx", "8 to 26"),
        ("password1", "fewer than three"),
        ("PASSWORD!", "fewer than three"),
        ("Pass word1", "other than"),
        ("Passwörd1", "other than"),
        ("xroot12!", "user name"),
        ("Xtoor123", "user name"),
    ] {
        let (rule, way_out) = PasswordInput::read(bad, "root").unwrap_err();
        assert!(rule.contains(text), "{bad}: {rule}");
        assert!(!rule.contains(bad) && !way_out.contains(bad));
    }
}

fn check(
    login: &Value,
    usage: LoginUse,
) -> Result<Option<LoginSpec>, Vec<evenkeel_api::Violation>> {
    let mut found = Vec::new();
    let body = json!({"login": login});
    let spec = check_login(&At::root(&body).get("login").unwrap(), usage, &mut found);
    if found.is_empty() { Ok(spec) } else { Err(found) }
}

#[test]
fn exactly_one_way_in() {
    let password = json!({"username": "root", "password": "Passw0rd!"});
    let rows = [
        (json!({"sshKey": "kp", "userPassword": password}), "login", "both"),
        (json!({}), "login", "neither"),
        (json!({"userPassword": {"username": "", "password": ""}}), "login", "neither"),
        (json!({"sshKey": ""}), "login", "neither"),
        (json!({"sshKey": "a/b"}), "login.sshKey", "is not the name of a key pair"),
        (json!({"sshKey": 1}), "login.sshKey", "is not a string"),
        (json!({"userPassword": {"username": "root"}}), "login.userPassword.password", "mandatory"),
        (json!({"userPassword": {"password": 12345678}}), "login.userPassword.password", "string"),
        (
            json!({"userPassword": {"username": "a;b", "password": "Passw0rd!"}}),
            "login.userPassword.username",
            "is not a Linux user name",
        ),
        (
            json!({"userPassword": {"username": "1a", "password": "Passw0rd!"}}),
            "login.userPassword.username",
            "is not a Linux user name",
        ),
        (json!({"userPassword": password, "removeSSHKey": true}), "login.removeSSHKey", "updated"),
        (
            json!({"sshKey": "kp", "removeUserPassword": true}),
            "login.removeUserPassword",
            "supported only when a node pool is updated",
        ),
        (json!({"sshKey": "kp", "removeUserPassword": "x"}), "login.removeUserPassword", "true or"),
        (json!("kp"), "login", "is not a JSON object"),
    ];
    for (login, field, text) in rows {
        let found = check(&login, LoginUse::Sync).unwrap_err();
        assert_violation(&found, field, text, &login.to_string());
        assert!(!found.iter().any(|violation| violation.to_string().contains("12345678")));
    }
    let key = check(&json!({"SSHKEY": "kp", "removeSSHKey": false}), LoginUse::Sync).unwrap();
    assert_eq!(key, Some(LoginSpec::SshKey("kp".to_owned())));
    let terraform = json!({"sshKey": "kp", "userPassword": {"username": "", "password": ""}});
    assert_eq!(check(&terraform, LoginUse::Sync).unwrap(), key);
    let unnamed = check(&json!({"userPassword": {"password": "Passw0rd!"}}), LoginUse::Sync);
    let Some(LoginSpec::Password { username, .. }) = unnamed.unwrap() else { panic!() };
    assert_eq!(username, "root");
}

#[test]
fn a_secret_in_the_wrong_place_is_not_quoted() {
    for login in [
        json!("Passw0rd!"),
        json!({"userPassword": "Passw0rd!"}),
        json!({"userPassword": ["Passw0rd!"]}),
        json!({"userPassword": {"password": ["Passw0rd!"]}}),
    ] {
        let found = check(&login, LoginUse::Sync).unwrap_err();
        assert!(!format!("{found:?}").contains("Passw0rd"), "{found:?}");
    }
}

#[test]
fn only_an_update_removes() {
    let remove = json!({"removeSSHKey": true});
    assert_eq!(check(&remove, LoginUse::UpdatePool), Ok(None));
    assert_violation(
        &check(&remove, LoginUse::CreatePool).unwrap_err(),
        "login.removeSSHKey",
        "updated",
        "create",
    );
    let both = json!({"removeSSHKey": true, "sshKey": "kp"});
    let found = check(&both, LoginUse::UpdatePool).unwrap_err();
    assert_violation(&found, "login.removeSSHKey", "excludes", "both");
}

#[test]
fn a_login_is_always_written_masked() {
    let login: Login = serde_json::from_value(json!({
        "sshKey": "kp", "userPassword": {"username": "root", "password": "Passw0rd!"}
    }))
    .unwrap();
    assert!(!format!("{login:?}").contains("Passw0rd"));
    let masked = json!({"sshKey": "kp", "userPassword": {}});
    assert_eq!(serde_json::to_value(&login).unwrap(), masked);
    let mut raw = json!({"items": [{"spec": {"Login": {"SSHKey": "kp", "userPassword":
        {"password": "Passw0rd!"}}, "extendParam": {"init-node-password": "Passw0rd!"}}}]});
    mask_login(&mut raw);
    assert_eq!(raw["items"][0]["spec"]["Login"], masked);
    assert!(!raw.to_string().contains("Passw0rd"));
}
