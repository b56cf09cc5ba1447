//! What a hook announces: the new SSH host key of the machine, for exactly one order. Pure.

use super::ssh;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The new machine, as its hook names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Announced {
    /// OpenSSH public key line without a comment.
    pub(super) host_key: String,
    /// `host` or `host:port`, where it is another one from now on.
    pub(super) address: Option<String>,
}

impl Announced {
    /// The same key as before proves nothing: the old system would show it as well.
    pub(super) fn differs_from(self, before: Option<&str>) -> Result<Self, String> {
        let print = ssh::fingerprint(&self.host_key);
        if print.is_some() && print == before.and_then(ssh::fingerprint) {
            return Err(format!(
                "the hook announced the host key {} that the machine had before, which proves nothing: \
                 a reinstalled machine makes new keys",
                print.unwrap_or_default()
            ));
        }
        Ok(self)
    }
}

/// The last line of a program's output that begins with `{`.
pub(super) fn in_output(text: &str, order: &str) -> Result<Announced, String> {
    let line = text.lines().rev().map(str::trim).find(|line| line.starts_with('{'));
    let document = line.and_then(|line| serde_json::from_str(line).ok());
    read(document.as_ref(), order, false)
}

/// The document of a webhook, which must name the order: an answer to another one is no answer.
pub(super) fn in_document(document: Option<&Value>, order: &str) -> Result<Announced, String> {
    read(document, order, true)
}

fn read(document: Option<&Value>, order: &str, names_order: bool) -> Result<Announced, String> {
    const WANTED: &str = r#"{"host_key": "ssh-ed25519 AAAA..."}"#;
    let Some(document) = document else {
        return Err(format!(
            "the hook ended well and announced no host key: its answer has to hold {WANTED}"
        ));
    };
    let text = |name: &str| document.get(name).and_then(Value::as_str);
    match text("order") {
        Some(named) if named != order => {
            return Err(format!("the hook's answer is for the order {named:?}, not for {order}"));
        }
        None if names_order => {
            return Err(format!(
                "the hook's answer does not say for which order it is; expected \"order\": {order:?}"
            ));
        }
        _ => {}
    }
    let Some(line) = text("host_key") else {
        return Err(format!("the hook's answer holds no host_key; expected {WANTED}"));
    };
    let Some(host_key) = ssh::plain_line(line) else {
        let shown: String = line.chars().filter(|c| !c.is_control()).take(40).collect();
        return Err(format!(
            "the hook's host_key {shown:?} is not an OpenSSH public key line; expected {WANTED}"
        ));
    };
    let address = text("address").map(str::trim).filter(|address| !address.is_empty());
    if let Some(address) = address
        && !super::super::brief::is_place(address)
    {
        let shown: String = address.chars().filter(|c| !c.is_control()).take(60).collect();
        return Err(format!("the hook's address {shown:?} is not of the form HOST or HOST:PORT"));
    }
    Ok(Announced { host_key, address: address.map(str::to_owned) })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKS60DkNUVc1UszF+aBad73bWcMIOuMU2FZq1NvyRby8";

    #[test]
    fn a_program_prints_its_answer_last() {
        let text =
            format!("deploying\n{{\"old\": 1}}\n {{\"host_key\": \"{KEY} root@new\"}}\nbye\n");
        let read = in_output(&text, "o").unwrap();
        assert_eq!(read, Announced { host_key: KEY.into(), address: None });
        for (text, said) in [
            ("", "announced no host key"),
            ("{not json", "announced no host key"),
            ("{}", "holds no host_key"),
            (r#"{"host_key": "hello"}"#, "not an OpenSSH public key line"),
            (&format!(r#"{{"host_key": "{KEY}", "order": "p"}}"#), "is for the order"),
            (&format!(r#"{{"host_key": "{KEY}", "address": "a b"}}"#), "HOST:PORT"),
        ] {
            let error = in_output(text, "o").unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn a_webhook_names_the_order() {
        let document =
            serde_json::json!({"host_key": KEY, "address": "10.0.0.7:2222", "order": "o"});
        let read = in_document(Some(&document), "o").unwrap();
        assert_eq!(read.address.as_deref(), Some("10.0.0.7:2222"));
        assert!(in_document(Some(&document), "p").unwrap_err().contains("not for p"));
        let bare = serde_json::json!({"host_key": KEY});
        assert!(in_document(Some(&bare), "o").unwrap_err().contains("for which order"));
    }

    #[test]
    fn the_old_key_is_no_new_key() {
        let announced = Announced { host_key: KEY.into(), address: None };
        let error = announced.clone().differs_from(Some(KEY)).unwrap_err();
        assert!(error.contains("SHA256:") && error.contains("proves nothing"), "{error}");
        assert!(announced.differs_from(None).is_ok());
    }
}
