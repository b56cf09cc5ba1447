//! `keypair import` and `list`.

use reqwest::Method;
use serde_json::{Value, json};

use super::{read_text, show as print};
use crate::args::{KeypairImport, Show};
use crate::client::{Client, Place};
use crate::failure::{CliError, Exit};
use crate::io::Io;
use crate::render;

pub(super) async fn import(
    args: KeypairImport,
    client: &Client,
    io: &mut Io<'_>,
) -> Result<Exit, CliError> {
    let text = read_text(io, &args.file)?;
    let shown = args.file.display();
    if text.contains("PRIVATE KEY") || text.starts_with("PuTTY-User-Key-File") {
        let error = CliError::usage(format!("{shown} is a private key; it was not sent"));
        return Err(error.with_hint(format!(
            "give the public key: {shown}.pub, or `ssh-keygen -y -f {shown}`"
        )));
    }
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    if lines.is_empty() {
        return Err(CliError::usage(format!("{shown} holds no public key")));
    }
    for (index, line) in lines.iter().enumerate() {
        if ssh_key::PublicKey::from_openssh(line).is_err() {
            let error = CliError::usage(format!(
                "{shown}: key {} is not an OpenSSH public key line",
                index + 1
            ));
            return Err(error
                .with_hint("a line looks like \"ssh-ed25519 AAAA... comment\", without options"));
        }
    }
    let body = json!({ "name": args.name, "publicKeys": lines });
    let answer = client.send(Method::POST, Place::Evenkeel(&["keypairs"]), &[], &body).await?;
    print(io, args.show, &answer, || render::keypairs(std::slice::from_ref(&answer)))
}

pub(super) async fn list(show: Show, client: &Client, io: &mut Io<'_>) -> Result<Exit, CliError> {
    let answer = client.get(Place::Evenkeel(&["keypairs"]), &[]).await?;
    let pairs = answer.get("keypairs").and_then(Value::as_array);
    let pairs = pairs.ok_or_else(|| client.foreign("the list has no `keypairs`"))?;
    print(io, show, &answer, || render::keypairs(pairs))
}
