//! What of a kubeconfig is sent: one context with everything inline.
//!
//! Entry point: [`one_context`]. Other contexts hold other people's credentials and stay here. Files that the context
//! names exist on this machine only, so their content is put in. Programs (`exec`, `auth-provider`) are refused: they
//! cannot run at the server.
//!
//! Absent on purpose: a judgement on the rest. The server has the strict rules.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use evenkeel_api::password::Secret;
use serde_json::{Map, Value, json};

use crate::failure::CliError;

/// (key that names a file, key that holds its content, whether the content is base64).
const CLUSTER_FILES: &[(&str, &str, bool)] =
    &[("certificate-authority", "certificate-authority-data", true)];
const USER_FILES: &[(&str, &str, bool)] = &[
    ("client-certificate", "client-certificate-data", true),
    ("client-key", "client-key-data", true),
    ("tokenFile", "token", false),
];

/// Reads the file and gives the document to send, as JSON (which is YAML too).
pub(crate) fn one_context(path: &Path, context: Option<&str>) -> Result<Secret, CliError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        CliError::local(format!("the kubeconfig {} cannot be read", path.display()), error)
    })?;
    // The parser's own words may quote a secret.
    let document: Value = serde_saphyr::from_str(&text).map_err(|_| {
        CliError::usage(format!("{} is not a YAML or JSON document", path.display()))
    })?;
    let directory = path.parent().map(Path::to_path_buf).unwrap_or_default();
    let reader = Reader { document: &document, path, directory };
    reader.extract(context).map(|document| Secret::new(document.to_string()))
}

struct Reader<'a> {
    document: &'a Value,
    path: &'a Path,
    directory: PathBuf,
}

impl Reader<'_> {
    fn extract(&self, wanted: Option<&str>) -> Result<Value, CliError> {
        let current = self
            .document
            .get("current-context")
            .and_then(Value::as_str)
            .filter(|name| !name.is_empty());
        let Some(wanted) = wanted.or(current) else {
            let error = CliError::usage(format!("{} has no current-context", self.path.display()));
            return Err(
                error.with_hint(format!("name one with --context: {}", self.names("contexts")))
            );
        };
        let context = self.entry("contexts", "context", wanted)?;
        let name_of =
            |key: &str| context.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (cluster_name, user_name) = (name_of("cluster"), name_of("user"));
        let mut cluster = self.entry("clusters", "cluster", &cluster_name)?;
        self.inline(&mut cluster, CLUSTER_FILES)?;
        let mut document = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": wanted,
            "contexts": [{ "name": wanted, "context": { "cluster": cluster_name, "user": user_name } }],
            "clusters": [{ "name": cluster_name, "cluster": cluster }],
        });
        if !user_name.is_empty() {
            let mut user = self.entry("users", "user", &user_name)?;
            for program in ["exec", "auth-provider"] {
                if user.get(program).is_some_and(|value| !value.is_null()) {
                    let what = format!(
                        "user {user_name} of {} gets its credential from a program ({program})",
                        self.path.display()
                    );
                    return Err(CliError::usage(what).with_hint(
                        "the server cannot run it; make a ServiceAccount and a kubeconfig with its token",
                    ));
                }
            }
            self.inline(&mut user, USER_FILES)?;
            document["users"] = json!([{ "name": user_name, "user": user }]);
        }
        Ok(document)
    }

    fn list(&self, kind: &str) -> &[Value] {
        self.document.get(kind).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    }

    fn names(&self, kind: &str) -> String {
        let names = self.list(kind).iter().filter_map(|entry| entry.get("name")?.as_str());
        names.collect::<Vec<_>>().join(", ")
    }

    fn entry(&self, list: &str, kind: &str, name: &str) -> Result<Map<String, Value>, CliError> {
        let entry = self
            .list(list)
            .iter()
            .find(|entry| entry.get("name").and_then(Value::as_str) == Some(name));
        entry.and_then(|entry| entry.get(kind)?.as_object().cloned()).ok_or_else(|| {
            let error = CliError::usage(format!("{} has no {kind} {name}", self.path.display()));
            error.with_hint(format!("there are: {}", self.names(list)))
        })
    }

    /// Content wins over a file where both are given, as in kubectl.
    fn inline(
        &self,
        entry: &mut Map<String, Value>,
        files: &[(&str, &str, bool)],
    ) -> Result<(), CliError> {
        for (file_key, data_key, is_base64) in files {
            let named = entry.remove(*file_key).and_then(|value| value.as_str().map(str::to_owned));
            let has_data =
                entry.get(*data_key).and_then(Value::as_str).is_some_and(|data| !data.is_empty());
            let Some(named) = named.filter(|named| !named.is_empty() && !has_data) else {
                continue;
            };
            let path = self.directory.join(&named);
            let bytes = std::fs::read(&path).map_err(|error| {
                let what = format!(
                    "{}: {file_key} {} cannot be read",
                    self.path.display(),
                    path.display()
                );
                CliError::local(what, error)
            })?;
            let data = if *is_base64 {
                STANDARD.encode(&bytes)
            } else {
                String::from_utf8_lossy(&bytes).trim().to_owned()
            };
            entry.insert((*data_key).to_owned(), Value::String(data));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    const FILE: &str = "
apiVersion: v1
kind: Config
current-context: a
contexts:
- {name: a, context: {cluster: ca, user: ua}}
- {name: b, context: {cluster: cb, user: ub}}
- {name: c, context: {cluster: ca, user: uc}}
clusters:
- {name: ca, cluster: {server: 'https://a.example:6443', certificate-authority: ca.crt}}
- {name: cb, cluster: {server: 'https://b.example:6443'}}
users:
- {name: ua, user: {tokenFile: token}}
- {name: ub, user: {token: not-yours}}
- {name: uc, user: {exec: {command: aws}}}
";

    fn read(context: Option<&str>) -> Result<Value, CliError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        std::fs::write(&path, FILE).unwrap();
        std::fs::write(directory.path().join("ca.crt"), "PEM").unwrap();
        std::fs::write(directory.path().join("token"), "secret\n").unwrap();
        one_context(&path, context).map(|document| serde_json::from_str(document.expose()).unwrap())
    }

    #[test]
    fn one_context_is_sent_with_its_files_inline() {
        let document = read(None).unwrap();
        assert_eq!(document["clusters"][0]["cluster"]["certificate-authority-data"], "UEVN");
        assert_eq!(document["users"], json!([{ "name": "ua", "user": { "token": "secret" } }]));
        assert!(!document.to_string().contains("not-yours"));
        let other = read(Some("b")).unwrap();
        assert_eq!(other["clusters"][0]["cluster"]["server"], "https://b.example:6443");
        assert_eq!(other["current-context"], "b");
    }

    #[test]
    fn programs_and_unknown_contexts_are_refused() {
        let error = read(Some("c")).unwrap_err().to_string();
        assert!(error.contains("user uc") && error.contains("(exec)"), "{error}");
        let error = read(Some("x")).unwrap_err().to_string();
        assert!(error.ends_with("has no context x"), "{error}");
    }
}
