//! The file that `evenkeel login` writes: endpoint and access key, readable by its owner alone.
//!
//! Entry points: [`path`], [`read`], [`write`].

use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use evenkeel_api::password::Secret;
use serde::Deserialize;

use crate::failure::CliError;
use crate::io::Io;

/// What the file holds. Every field may be absent: the environment can fill in.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Credentials {
    pub(crate) endpoint: Option<String>,
    pub(crate) ak: Option<String>,
    pub(crate) sk: Option<Secret>,
    pub(crate) project_id: Option<String>,
    pub(crate) ca_cert: Option<PathBuf>,
}

/// `EVENKEEL_CREDENTIALS`, else `$XDG_CONFIG_HOME/evenkeel/credentials.toml`, else below `~/.config`.
pub(crate) fn path(io: &Io<'_>) -> Option<PathBuf> {
    if let Some(path) = (io.env)("EVENKEEL_CREDENTIALS") {
        return Some(PathBuf::from(path));
    }
    let config = (io.env)("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.or_else(|| Some(PathBuf::from((io.env)("HOME")?).join(".config")))?;
    Some(config.join("evenkeel").join("credentials.toml"))
}

/// Reads the file; an absent one is empty. One that others can read is refused, as ssh does with keys.
pub(crate) fn read(path: &Path) -> Result<Credentials, CliError> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Credentials::default());
        }
        Err(error) => {
            return Err(CliError::local(format!("{} cannot be read", path.display()), error));
        }
    };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let what =
            format!("{} has mode {mode:03o}: others can read the secret key in it", path.display());
        return Err(CliError::usage(what).with_hint(format!("chmod 600 {}", path.display())));
    }
    let text = std::fs::read_to_string(path)
        .map_err(|error| CliError::local(format!("{} cannot be read", path.display()), error))?;
    // The parser's own words quote the line, which may be the one with the secret key.
    toml::from_str(&text).map_err(|error| {
        let line =
            error.span().map(|span| text[..span.start.min(text.len())].lines().count().max(1));
        let place = line.map(|line| format!(", line {line}")).unwrap_or_default();
        let what =
            format!("{}{place}: this is not the TOML that `evenkeel login` writes", path.display());
        CliError::usage(what).with_hint("run `evenkeel login` again")
    })
}

/// Writes the file in one step, mode 0600; its directory gets 0700 if it is new.
pub(crate) fn write(path: &Path, credentials: &Credentials) -> Result<(), CliError> {
    let failed = |error| CliError::local(format!("{} cannot be written", path.display()), error);
    let mut table = toml::Table::new();
    let mut put = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            table.insert(key.to_owned(), toml::Value::String(value));
        }
    };
    put("endpoint", credentials.endpoint.clone());
    put("ak", credentials.ak.clone());
    put("sk", credentials.sk.as_ref().map(|sk| sk.expose().to_owned()));
    put("project_id", credentials.project_id.clone());
    put("ca_cert", credentials.ca_cert.as_ref().map(|path| path.display().to_string()));
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(directory) = directory.filter(|directory| !directory.exists()) {
        std::fs::create_dir_all(directory).map_err(failed)?;
        std::fs::set_permissions(directory, PermissionsExt::from_mode(0o700)).map_err(failed)?;
    }
    let fresh = path.with_extension(format!("toml.{}", std::process::id()));
    let done = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)
        .and_then(|mut file| {
            file.write_all(table.to_string().as_bytes()).and_then(|()| file.sync_all())
        })
        .and_then(|()| std::fs::rename(&fresh, path));
    if done.is_err() {
        // What is left of it is of no use; the first error is the one to tell.
        let _removed = std::fs::remove_file(&fresh);
    }
    done.map_err(failed)
}
