//! How a node is logged in to: key pair or password, never both.
//!
//! Entry points: [`Login`] (as models carry it) and [`LoginSpec`] (as a checked request means it).
//! Deliberately absent: a way to answer with a password. [`Login`] always serialises masked.

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};

use crate::json::At;
use crate::password::{PasswordInput, Secret};
use crate::violation::Violation;

/// Longest name of a key pair (the newer of two documented limits).
const KEY_NAME_LIMIT: usize = 255;

/// Longest Linux user name (useradd).
const USER_NAME_LIMIT: usize = 32;

/// The wire model. Read it from requests; written, it shows the name of the key pair and an empty
/// `userPassword`, as CCE does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Login {
    pub ssh_key: Option<String>,
    pub user_password: Option<UserPassword>,
    pub remove_user_password: Option<bool>,
    #[serde(rename = "removeSSHKey")]
    pub remove_ssh_key: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct UserPassword {
    pub username: Option<String>,
    pub password: Option<Secret>,
}

impl Serialize for Login {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(name) = self.ssh_key.as_deref().filter(|name| !name.is_empty()) {
            map.serialize_entry("sshKey", name)?;
        }
        map.serialize_entry("userPassword", &json!({}))?;
        map.end()
    }
}

/// Masks every `login` and `init-node-password` of a raw document, at any depth and in any case.
pub fn mask_login(document: &mut Value) {
    match document {
        Value::Array(items) => items.iter_mut().for_each(mask_login),
        Value::Object(fields) => {
            for (key, value) in fields.iter_mut() {
                if key.eq_ignore_ascii_case("login") {
                    let name = value.as_object().and_then(|login| {
                        login.iter().find(|(key, _)| key.eq_ignore_ascii_case("sshKey"))
                    });
                    let name = name.and_then(|(_, name)| name.as_str()).map(str::to_owned);
                    let login = Login { ssh_key: name, ..Login::default() };
                    *value = serde_json::to_value(login).unwrap_or(Value::Null);
                } else if key.eq_ignore_ascii_case("init-node-password") {
                    *value = Value::from("******");
                } else {
                    mask_login(value);
                }
            }
        }
        _ => {}
    }
}

/// A checked login: exactly one way in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginSpec {
    /// Name of a key pair. Whether it exists is for the server to find out.
    SshKey(String),
    Password {
        username: String,
        password: PasswordInput,
    },
}

impl LoginSpec {
    /// The JSON to send in a request: the only place where a password is written. A hash is sent
    /// as the API wants it, in base64.
    pub fn to_request(&self) -> Value {
        match self {
            LoginSpec::SshKey(name) => json!({ "sshKey": name }),
            LoginSpec::Password { username, password } => {
                let text = match password {
                    PasswordInput::Clear(clear) => clear.expose().to_owned(),
                    PasswordInput::Hashed(hash) => {
                        use base64::Engine;
                        base64::engine::general_purpose::STANDARD.encode(hash.expose())
                    }
                };
                json!({ "userPassword": { "username": username, "password": text } })
            }
        }
    }
}

/// What a login is sent for; the rules differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginUse {
    /// A new pool: may be left out, nothing can be removed.
    CreatePool,
    /// A changed pool: may be left out, a credential may be removed.
    UpdatePool,
    /// A sync: one credential has to be given, nothing can be removed.
    Sync,
}

/// Checks a `login` object. `None` means: nothing given, or violations were noted.
pub fn check_login(
    login: &At<'_>,
    usage: LoginUse,
    found: &mut Vec<Violation>,
) -> Option<LoginSpec> {
    let login = login.object(found)?;
    let before = found.len();
    let key = key_name(&login, found);
    let password = user_password(&login, found);
    let removes = [("removeUserPassword", password.is_some()), ("removeSSHKey", key.is_some())];
    for (name, is_given) in removes {
        let Some(flag) = login.get(name) else {
            continue;
        };
        if flag.boolean(found) != Some(true) {
            continue;
        }
        if usage != LoginUse::UpdatePool {
            let violation = flag.violation("is supported only when a node pool is updated");
            found.push(violation.with_way_out("leave it out"));
        } else if is_given {
            let violation = flag.violation("excludes setting the same credential");
            found.push(violation.with_way_out("send one of the two"));
        }
    }
    if key.is_some() && password.is_some() {
        let rule = "gives both sshKey and userPassword";
        let violation = Violation::new(login.path.clone(), rule);
        found.push(violation.with_way_out("send exactly one of them"));
    }
    if found.len() > before {
        return None;
    }
    let spec = key.map(LoginSpec::SshKey).or(password);
    if spec.is_none() && usage == LoginUse::Sync {
        let rule = "gives neither sshKey nor userPassword";
        let violation = Violation::new(login.path.clone(), rule);
        found.push(violation.with_way_out("send exactly one of them"));
    }
    spec
}

fn key_name(login: &At<'_>, found: &mut Vec<Violation>) -> Option<String> {
    let at = login.get("sshKey")?;
    let name = at.string(found).filter(|name| !name.is_empty())?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if name.len() > KEY_NAME_LIMIT || !name.bytes().all(allowed) {
        let rule = "is not the name of a key pair (letters, digits, - and _, at most 255)";
        found.push(at.violation(rule));
    }
    Some(name.to_owned())
}

/// An empty object, or both fields empty, means "not given": Terraform sends that always.
fn user_password(login: &At<'_>, found: &mut Vec<Violation>) -> Option<LoginSpec> {
    let at = login.get("userPassword")?.object(found)?;
    let name = at.get("username").and_then(|name| Some((name.string(found)?, name)));
    let name = name.filter(|(text, _)| !text.is_empty());
    let text = match at.get("password") {
        None => "",
        Some(password) => match password.value.as_str() {
            Some(text) => text,
            None => {
                found.push(Violation::new(password.path, "is not a string"));
                return None;
            }
        },
    };
    if text.is_empty() {
        if name.is_some() {
            let violation = Violation::new(at.child_path("password"), "is mandatory");
            found.push(violation.with_way_out("leave userPassword out to set no password"));
        }
        return None;
    }
    if let Some((text, at)) = &name
        && !is_user_name(text)
    {
        let rule = "is not a Linux user name (a-z or _ first, then a-z, 0-9, - and _, at most 32)";
        found.push(at.violation(rule));
    }
    let username = name.map_or("root", |(text, _)| text).to_owned();
    match PasswordInput::read(text, &username) {
        Ok(password) => Some(LoginSpec::Password { username, password }),
        Err((rule, way_out)) => {
            let path = at.get("password").map_or(at.path.clone(), |at| at.path);
            found.push(Violation::new(path, rule).with_way_out(way_out));
            None
        }
    }
}

fn is_user_name(text: &str) -> bool {
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
    let rest = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    first && text.len() <= USER_NAME_LIMIT && text.bytes().all(rest)
}
