//! Hooks in a body: a program on the controller, or a webhook; and the hook that reinstalls machines.

use evenkeel_api::Violation;
use evenkeel_api::json::At;
use reqwest::Url;

use super::{LIMIT_SECONDS, strings, text};
use crate::addresses;
use crate::records::{Hook, Reimage, Webhook};

/// A deployment by MAAS or Ironic takes 5 to 30 minutes; twice that.
const REIMAGE_LIMIT_S: u32 = 3600;
/// From the announced key to a login: a boot of a server with its firmware's checks, and cloud-init.
const RETURN_LIMIT_S: u32 = 1800;
/// Shortest secret of a signature: 16 characters of base64 are 96 bits.
const SECRET_MIN: usize = 16;

/// `reimage` of a recipe, if it has one.
pub(super) fn reimage(recipe: &At<'_>, found: &mut Vec<Violation>) -> Option<Reimage> {
    let at = recipe.get("reimage")?.object(found)?;
    let limit = |key, default, found: &mut Vec<Violation>| {
        let (min, max) = LIMIT_SECONDS;
        let given = at.get(key).and_then(|at| at.integer(min, max, found));
        given.and_then(|s| u32::try_from(s).ok()).unwrap_or(default)
    };
    let limit_s = limit("limitSeconds", REIMAGE_LIMIT_S, found);
    let return_limit_s = limit("returnLimitSeconds", RETURN_LIMIT_S, found);
    let teardown = at.get("teardown").and_then(|at| at.boolean(found)).unwrap_or(true);
    Some(Reimage { hook: hook(&at, found)?, limit_s, return_limit_s, teardown })
}

/// `argv` or `webhook`, one of them.
pub(super) fn hook(at: &At<'_>, found: &mut Vec<Violation>) -> Option<Hook> {
    let argv = strings(at, "argv", found);
    let webhook = at.get("webhook").and_then(|at| at.object(found));
    let is_named = argv.first().is_some_and(|program| !program.is_empty());
    match (is_named, webhook) {
        (true, None) => Some(Hook::Program { argv }),
        (false, Some(at)) => read_webhook(&at, found).map(Hook::Webhook),
        (true, Some(_)) => {
            let violation = Violation::new(at.child_path("webhook"), "stands beside argv");
            found.push(violation.with_way_out("send one of argv and webhook"));
            None
        }
        (false, None) => {
            let rule = "is mandatory here, or webhook in its place";
            let violation = Violation::new(at.child_path("argv"), rule);
            found.push(violation.with_way_out("send the program and its fixed arguments"));
            None
        }
    }
}

/// Nothing of it is quoted: the URL may hold a token.
fn read_webhook(at: &At<'_>, found: &mut Vec<Violation>) -> Option<Webhook> {
    let url = text(at, "url", found);
    let rule = url.as_deref().map_or(Some("is mandatory"), |url| bad_url(url).err());
    if let Some(rule) = rule {
        let violation = Violation::new(at.child_path("url"), rule);
        found.push(violation.with_way_out("send a URL such as https://reinstall.example/nodes"));
    }
    let secret = text(at, "secret", found).filter(|secret| secret.len() >= SECRET_MIN);
    if secret.is_none() {
        let rule = format!("is mandatory, with at least {SECRET_MIN} characters");
        let violation = Violation::new(at.child_path("secret"), rule);
        found.push(violation.with_way_out("make one with `openssl rand -base64 32`"));
    }
    let ca = text(at, "ca", found);
    let is_pem = |pem: &str| {
        reqwest::Certificate::from_pem_bundle(pem.as_bytes()).is_ok_and(|list| !list.is_empty())
    };
    if ca.as_deref().is_some_and(|pem| !is_pem(pem)) {
        found.push(Violation::new(at.child_path("ca"), "holds no certificate in PEM"));
    }
    match (rule, url, secret) {
        (None, Some(url), Some(secret)) => Some(Webhook { url, secret, ca }),
        _ => None,
    }
}

fn bad_url(text: &str) -> Result<(), &'static str> {
    let url = Url::parse(text).map_err(|_| "is not a URL")?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("is not an http or https URL");
    }
    if url.scheme() == "http" && !addresses::is_loopback(url.host_str().unwrap_or_default()) {
        return Err("is http, so that anybody on the way could answer: use https");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds a user or a password, which the signature makes needless");
    }
    if url.fragment().is_some() { Err("has a fragment, which is never sent") } else { Ok(()) }
}

/// What kind of hook it is, for people.
pub(super) fn word(hook: &Hook) -> &'static str {
    match hook {
        Hook::Program { .. } => "program",
        Hook::Webhook(_) => "webhook",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(value: &Value) -> (Option<Reimage>, Vec<String>) {
        let mut found = Vec::new();
        let read = reimage(&At::root(value), &mut found);
        (read, found.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_hook_is_a_program_or_a_webhook() {
        let (read_as, found) = read(&json!({"reimage": {"argv": ["/r"], "teardown": false}}));
        let hook = Hook::Program { argv: vec!["/r".into()] };
        let wanted = Reimage {
            hook,
            limit_s: REIMAGE_LIMIT_S,
            return_limit_s: RETURN_LIMIT_S,
            teardown: false,
        };
        assert_eq!((read_as, found), (Some(wanted), vec![]));
        let webhook = json!({"url": "https://h/x?t=1", "secret": "0123456789abcdef"});
        let (read_as, found) = read(&json!({"reimage": {"webhook": webhook, "limitSeconds": 5}}));
        assert!(found.is_empty(), "{found:?}");
        assert!(
            matches!(&read_as, Some(Reimage { hook: Hook::Webhook(_), limit_s: 5, .. })),
            "{read_as:?}"
        );
        assert_eq!(read(&json!({})), (None, vec![]));
    }

    #[test]
    fn what_cannot_be_called_is_named_and_never_quoted() {
        let secret = "canary-0123456789";
        for (hook, said) in [
            (json!({}), "argv"),
            (json!({"argv": ["/r"], "webhook": {}}), "beside argv"),
            (json!({"webhook": {"secret": secret}}), "url"),
            (json!({"webhook": {"url": "https://u:canary@h/", "secret": secret}}), "a user"),
            (json!({"webhook": {"url": "ftp://canary/", "secret": secret}}), "http or https"),
            (json!({"webhook": {"url": "http://canary/", "secret": secret}}), "use https"),
            (json!({"webhook": {"url": "canary", "secret": secret}}), "not a URL"),
            (json!({"webhook": {"url": "https://h/#canary", "secret": secret}}), "fragment"),
            (json!({"webhook": {"url": "https://h/", "secret": "canary"}}), "16 characters"),
            (json!({"webhook": {"url": "https://h/", "secret": secret, "ca": "canary"}}), "PEM"),
        ] {
            let (_, found) = read(&json!({"reimage": hook}));
            let found = found.join("; ");
            assert!(found.contains(said) && !found.contains("canary"), "{hook}: {found}");
        }
    }
}
