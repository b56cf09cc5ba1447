//! `login`: proves an access key against the server, then stores it.

use std::io::BufRead;

use evenkeel_api::password::Secret;
use serde_json::Value;

use crate::args::LoginArgs;
use crate::client::{Client, Place};
use crate::credentials::{self, Credentials};
use crate::failure::{CliError, Exit};
use crate::io::Io;
use crate::lookup::text;
use crate::settings::{self, Settings};

/// Longest line that is read as a secret key; the service's have 40 characters.
const SECRET_LIMIT: u64 = 1024;

pub(super) async fn login(args: LoginArgs, io: &mut Io<'_>) -> Result<Exit, CliError> {
    let endpoint = settings::endpoint(&args.endpoint)?;
    let path = credentials::path(io).ok_or_else(|| {
        CliError::usage("there is no home directory to store the credential in")
            .with_hint("set EVENKEEL_CREDENTIALS")
    })?;
    let sk = secret(io)?;
    let ca_cert = match args.ca_cert {
        None => None,
        Some(file) => Some(std::fs::canonicalize(&file).map_err(|error| {
            CliError::local(format!("--ca-cert: {} cannot be read", file.display()), error)
        })?),
    };
    let mut settings = Settings {
        endpoint,
        ak: args.ak,
        sk,
        project: args.project_id.clone().unwrap_or_default(),
        ca_cert,
        cluster: None,
    };
    if let Some(project) = &args.project_id {
        // The service keeps projects elsewhere, so a given project is proved by a call that is CCE's own.
        let client = Client::new(settings.clone())?;
        client.get(Place::Cce(&["clusters"]), &[]).await?;
        io.say(&format!("project {project}"));
    } else {
        let client = Client::new(settings.clone())?;
        settings.project = only_project(&client, io).await?;
    }
    let file = Credentials {
        endpoint: Some(settings.endpoint.to_string()),
        ak: Some(settings.ak),
        sk: Some(settings.sk),
        project_id: Some(settings.project),
        ca_cert: settings.ca_cert,
    };
    credentials::write(&path, &file)?;
    io.say(&format!("stored in {}", path.display()));
    Ok(Exit::Done)
}

/// Asks a person without showing what is typed, or reads the first line of a pipe.
fn secret(io: &mut Io<'_>) -> Result<Secret, CliError> {
    let typed = if io.stdin_is_terminal {
        rpassword::prompt_password("Secret access key: ").map(Secret::new)
    } else {
        let mut line = String::new();
        std::io::Read::take(&mut io.stdin, SECRET_LIMIT)
            .read_line(&mut line)
            .map(|_| Secret::new(line))
    };
    let typed = typed.map_err(|error| CliError::local("the secret key cannot be read", error))?;
    let trimmed = typed.expose().trim();
    if trimmed.is_empty() {
        let error = CliError::usage("the secret key is empty");
        return Err(error.with_hint(
            "write it to standard input: it is no argument, because others can read those",
        ));
    }
    Ok(Secret::new(trimmed))
}

async fn only_project(client: &Client, io: &mut Io<'_>) -> Result<String, CliError> {
    let answer = client.get(Place::Projects, &[]).await?;
    let projects = answer.get("projects").and_then(Value::as_array).cloned().unwrap_or_default();
    match projects.as_slice() {
        [only] if !text(only, "/id").is_empty() => {
            io.say(&format!("project {} ({})", text(only, "/id"), text(only, "/name")));
            Ok(text(only, "/id"))
        }
        [] => Err(client.foreign("it names no project of this access key")),
        many => {
            let ids: Vec<String> = many
                .iter()
                .map(|project| format!("{} ({})", text(project, "/id"), text(project, "/name")))
                .collect();
            let error = CliError::usage(format!("the access key has {} projects", many.len()));
            Err(error.with_hint(format!("give --project-id with one of {}", ids.join(", "))))
        }
    }
}
