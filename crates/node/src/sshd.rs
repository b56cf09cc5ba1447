//! The host's sshd: the drop-in that lets a user in with a password, checked before it counts.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::host::Host;
use crate::protocol::UserName;

const CONFIG: &str = "/etc/ssh/sshd_config";
const DROP_IN_DIR: &str = "/etc/ssh/sshd_config.d";

/// Why sshd could not be told.
#[derive(Debug, thiserror::Error)]
pub enum SshdError {
    /// Drop-ins would have no effect.
    #[error(
        "/etc/ssh/sshd_config has no Include for /etc/ssh/sshd_config.d; put the line \
         `Include /etc/ssh/sshd_config.d/*.conf` at its top"
    )]
    NoInclude,
    /// sshd would not start again with it; it was taken back.
    #[error("sshd refuses the configuration with password login (taken back): {0}")]
    Refused(String),
    /// Nothing listens that could be told.
    #[error("sshd cannot be told to read its configuration again: {0}")]
    Reload(String),
    /// A file could not be read or written, or a tool not run.
    #[error("sshd's configuration cannot be changed")]
    Io(#[source] io::Error),
}

/// Where the drop-in of a user is.
pub fn drop_in_path(host: &Host, user: &UserName) -> PathBuf {
    // sshd_config(5) reads drop-ins in order and keeps the first value: early in the alphabet.
    host.path(&format!("{DROP_IN_DIR}/10-evenkeel-{user}.conf"))
}

/// A Match block overrides the global part wherever that stands, for this user alone.
fn drop_in(user: &UserName) -> String {
    let root = if user.as_str() == "root" { "    PermitRootLogin yes\n" } else { "" };
    format!(
        "# Managed by evenkeel: this user has a password set through the node pool's login.\n\
         Match User {user}\n    PasswordAuthentication yes\n{root}Match all\n"
    )
}

/// Puts the drop-in in place or takes it away, and tells sshd. A drop-in that was there already says nothing of what the
/// running sshd has read: whoever put it there may have died before telling.
pub fn allow_password(host: &Host, user: &UserName, allow: bool) -> Result<(), SshdError> {
    let path = drop_in_path(host, user);
    let before = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        other => Some(other.map_err(SshdError::Io)?),
    };
    let wanted = allow.then(|| drop_in(user).into_bytes());
    if before == wanted {
        return if allow { reload(host) } else { Ok(()) };
    }
    if allow {
        check_include(host)?;
    }
    put(&path, wanted.as_deref()).map_err(SshdError::Io)?;
    let checked = host.tools.run("sshd", &["-t"], b"");
    if checked.as_ref().is_ok_and(|said| said.code == Some(0)) {
        return reload(host);
    }
    put(&path, before.as_deref()).map_err(SshdError::Io)?;
    let said = checked.map_err(SshdError::Io)?;
    Err(SshdError::Refused(said.stderr.trim().to_owned()))
}

fn put(path: &std::path::Path, content: Option<&[u8]>) -> io::Result<()> {
    match content {
        Some(bytes) => crate::store::write_durably(path, bytes, 0o600).map_err(io::Error::other),
        None => fs::remove_file(path),
    }
}

fn check_include(host: &Host) -> Result<(), SshdError> {
    let text = fs::read_to_string(host.path(CONFIG)).map_err(SshdError::Io)?;
    let includes = text.lines().any(|line| {
        let mut words = line.split_ascii_whitespace();
        words.next().is_some_and(|word| word.eq_ignore_ascii_case("include"))
            && words.any(|word| {
                [format!("{DROP_IN_DIR}/*.conf"), "sshd_config.d/*.conf".to_owned()]
                    .contains(&word.trim_matches('"').to_owned())
            })
    });
    if includes { Ok(()) } else { Err(SshdError::NoInclude) }
}

/// systemd where it runs, else SIGHUP to the listening sshd (sshd(8): it reads its configuration
/// again; sessions go on).
fn reload(host: &Host) -> Result<(), SshdError> {
    if host.has_systemd() {
        let mut reasons = Vec::new();
        // Debian's name, then that of everyone else.
        for unit in ["ssh.service", "sshd.service"] {
            let args = ["try-reload-or-restart", unit];
            match host.tools.run("systemctl", &args, b"").map_err(SshdError::Io)? {
                said if said.code == Some(0) => return Ok(()),
                said => reasons.push(said.stderr.trim().to_owned()),
            }
        }
        return Err(SshdError::Reload(reasons.join("; ")));
    }
    let pid_file = settings(host, &[]).map_err(SshdError::Io)?;
    let pid_file = value(&pid_file, "pidfile").unwrap_or("/run/sshd.pid").to_owned();
    let pid = host.line(&pid_file).and_then(|line| line.parse().ok()).ok_or_else(|| {
        SshdError::Reload(format!("no process id in {pid_file}, and systemd does not run"))
    })?;
    if fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() != "sshd") {
        return Err(SshdError::Reload(format!("process {pid} of {pid_file} is not sshd")));
    }
    host.tools.hang_up(pid).map_err(|error| SshdError::Reload(error.to_string()))
}

/// `sshd -T`: the configuration as sshd understands it, keywords in lower case.
pub fn settings(host: &Host, more: &[&str]) -> io::Result<String> {
    let said = host.tools.run("sshd", &[&["-T"], more].concat(), b"")?;
    match said.code {
        Some(0) => Ok(said.stdout),
        _ => Err(io::Error::other(format!("sshd -T: {}", said.stderr.trim()))),
    }
}

/// Value of one keyword in the output of [`settings`].
pub fn value<'a>(settings: &'a str, keyword: &str) -> Option<&'a str> {
    let pairs = settings.lines().filter_map(|line| line.split_once(' '));
    pairs.into_iter().find(|(word, _)| *word == keyword).map(|(_, value)| value.trim())
}
