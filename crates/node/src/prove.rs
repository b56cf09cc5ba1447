//! Proof that a login is what was ordered, looked up where it counts: shadow, the keys file, and
//! sshd's own view for this user and this client. Changes nothing.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use crate::host::{Account, Host};
use crate::login::{keys_in_block, same_key};
use crate::protocol::{LoginOrder, Proof, ProofCheck, ProveRequest, UserName};
use crate::sshd;

/// Looks at everything, also after something did not fit.
pub fn prove(host: &Host, request: &ProveRequest) -> Proof {
    let login = &request.login;
    let account = match host.account(&login.user) {
        Ok(Some(account)) => account,
        Ok(None) => return single("user", format!("{} does not exist", login.user)),
        Err(error) => return single("user", error.to_string()),
    };
    let mut checks = vec![check("user", true, format!("uid {}", account.uid))];
    checks.extend(shadow(host, login));
    checks.extend(keys(host, login, &account));
    checks.extend(removed(host, login));
    checks.extend(daemon(host, request));
    Proof { checks }
}

fn check(name: &str, ok: bool, detail: impl Into<String>) -> ProofCheck {
    ProofCheck { name: name.to_owned(), ok, detail: detail.into() }
}

fn single(name: &str, detail: String) -> Proof {
    Proof { checks: vec![check(name, false, detail)] }
}

fn shadow(host: &Host, login: &LoginOrder) -> Option<ProofCheck> {
    let hash = login.password_hash.as_ref()?;
    Some(match shadow_field(host, &login.user) {
        Ok(field) if field == hash.expose() => {
            check("password", true, "the shadow field is the ordered hash")
        }
        Ok(_) => check("password", false, "the shadow field is not the ordered hash"),
        Err(why) => check("password", false, why),
    })
}

fn shadow_field(host: &Host, user: &UserName) -> Result<String, String> {
    let said = host.tools.run("getent", &["shadow", user.as_str()], b"");
    let said = said.map_err(|error| error.to_string())?;
    if said.code != Some(0) {
        return Err(format!("getent shadow: {:?}", said.code));
    }
    Ok(said.stdout.split(':').nth(1).unwrap_or("").to_owned())
}

/// What was taken away, perhaps from the user of an earlier login. Who does not exist has nothing left.
fn removed(host: &Host, login: &LoginOrder) -> Vec<ProofCheck> {
    let gone = |user: &UserName| matches!(host.account(user), Ok(None));
    let mut checks = Vec::new();
    if let Some(user) = login.remove_password.as_ref().filter(|user| !gone(user)) {
        checks.push(match shadow_field(host, user) {
            Ok(field) if field.starts_with(['!', '*']) => {
                check("password_locked", true, format!("the password of {user} is locked"))
            }
            Ok(_) => {
                check("password_locked", false, format!("the password of {user} is not locked"))
            }
            Err(why) => check("password_locked", false, why),
        });
    }
    if let Some(user) = login.remove_keys.as_ref().filter(|user| **user != login.user)
        && let Ok(Some(account)) = host.account(user)
    {
        let only = LoginOrder {
            user: user.clone(),
            password_hash: None,
            remove_password: None,
            authorized_keys: None,
            remove_keys: Some(user.clone()),
            keep_key: login.keep_key.clone(),
        };
        checks.extend(keys(host, &only, &account));
    }
    checks
}

fn keys(host: &Host, login: &LoginOrder, account: &Account) -> Vec<ProofCheck> {
    let shown = account.home.join(".ssh/authorized_keys");
    let path = host.path(&shown.to_string_lossy());
    let read = fs::read(&path).map_err(|error| error.to_string());
    let block = match read.and_then(|bytes| keys_in_block(&bytes).map_err(str::to_owned)) {
        Ok(block) => block,
        Err(reason) => {
            return vec![check("managed_block", false, format!("{}: {reason}", shown.display()))];
        }
    };
    let mut checks = vec![modes(&path, account)];
    for key in login.authorized_keys.iter().flatten().chain(&login.keep_key) {
        let ok = block.iter().any(|have| same_key(have, key));
        let kind = key.split(' ').next().unwrap_or("");
        let word = if ok { "in" } else { "missing from" };
        let detail = format!("{kind} key {} is {word} the block", fingerprint(key));
        checks.push(check("key", ok, detail));
    }
    if login.authorized_keys.is_some() || login.remove_keys.as_ref() == Some(&login.user) {
        let ordered = |have: &String| {
            let wanted = login.authorized_keys.iter().flatten().chain(&login.keep_key);
            wanted.into_iter().any(|key| same_key(key, have))
        };
        let foreign = block.iter().filter(|have| !ordered(have)).count();
        let detail = format!("{foreign} keys in the block that were not ordered");
        checks.push(check("managed_block", foreign == 0, detail));
    }
    checks
}

/// sshd's StrictModes ignores keys that others could have written.
fn modes(path: &std::path::Path, account: &Account) -> ProofCheck {
    let mut problems = Vec::new();
    for path in [Some(path), path.parent()].into_iter().flatten() {
        match fs::symlink_metadata(path) {
            Ok(found) if found.uid() != account.uid => problems.push("wrong owner"),
            Ok(found) if found.mode() & 0o022 != 0 => problems.push("writable for others"),
            Ok(_) => {}
            Err(_) => problems.push("cannot be looked at"),
        }
    }
    check("managed_block", problems.is_empty(), format!("owner and modes {problems:?}"))
}

/// As `ssh-keygen -l` shows it.
fn fingerprint(key: &str) -> String {
    use base64::{Engine as _, engine::general_purpose as engines};
    use sha2::Digest as _;
    let blob = key.split(' ').nth(1).and_then(|blob| engines::STANDARD.decode(blob).ok());
    let digest = sha2::Sha256::digest(blob.unwrap_or_default());
    format!("SHA256:{}", engines::STANDARD_NO_PAD.encode(digest))
}

fn daemon(host: &Host, request: &ProveRequest) -> Vec<ProofCheck> {
    let login = &request.login;
    let who = format!("user={},host={addr},addr={addr}", login.user, addr = request.addr);
    let settings = match sshd::settings(host, &["-C", &who]) {
        Ok(settings) => settings,
        Err(error) => return vec![check("sshd_pubkey", false, error.to_string())],
    };
    let value = |keyword| sshd::value(&settings, keyword).unwrap_or("");
    let methods = value("authenticationmethods");
    let takes = |method: &str| {
        methods.is_empty() || methods == "any" || methods.split(' ').any(|list| list == method)
    };
    let root = login.user.as_str() == "root";
    let root_rule = value("permitrootlogin");
    let files = value("authorizedkeysfile");
    let pubkey = value("pubkeyauthentication") == "yes"
        && takes("publickey")
        && files.split(' ').any(|file| file.ends_with(".ssh/authorized_keys"))
        && (!root || root_rule != "no");
    let mut detail = format!(
        "pubkeyauthentication {}, authenticationmethods {methods}, authorizedkeysfile {files}",
        value("pubkeyauthentication")
    );
    if root {
        detail.push_str(&format!(", permitrootlogin {root_rule}"));
    }
    let mut checks = vec![check("sshd_pubkey", pubkey, detail)];
    if login.password_hash.is_some() {
        let rule = value("passwordauthentication");
        let ok = rule == "yes" && takes("password") && (!root || root_rule == "yes");
        let detail = format!(
            "passwordauthentication {rule}, authenticationmethods {methods}, \
             permitrootlogin {root_rule}"
        );
        checks.push(check("sshd_password", ok, detail));
    }
    checks
}
