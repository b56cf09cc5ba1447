//! Sets the login of a node: password, public keys, and whether sshd takes the password.
//!
//! Entry point: [`apply`]. The order of things is chosen so that a failure leaves the old way in:
//! what can be refused comes first, keys are only ever replaced inside the marked block, and the
//! controller's own key is always in it.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid};

use crate::host::{Account, Host};
use crate::protocol::{LoginOrder, UserName};
use crate::sshd::{self, SshdError};

/// First line of the block in `authorized_keys`.
pub const BLOCK_BEGIN: &str = "# BEGIN evenkeel managed";
/// Last line of the block.
pub const BLOCK_END: &str = "# END evenkeel managed";

/// An `authorized_keys` of more than 1 MiB is not one.
const KEYS_FILE_MAX: u64 = 1024 * 1024;

/// Why the login could not be set. Holds no secret.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// Nothing was touched.
    #[error("user {0} does not exist on this host")]
    UnknownUser(UserName),
    /// `getent`, `chpasswd` or `passwd` could not be run.
    #[error("{tool} cannot be run")]
    Tool {
        /// Which one.
        tool: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The tool ran and refused.
    #[error("{tool} ended with status {code:?}: {said}")]
    Refused {
        /// Which one.
        tool: &'static str,
        /// Its exit status.
        code: Option<i32>,
        /// Its standard error.
        said: String,
    },
    /// sshd's part.
    #[error("password login cannot be switched")]
    Sshd(#[source] SshdError),
    /// The user's `authorized_keys`.
    #[error("{path} cannot be changed")]
    Keys {
        /// Which file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Makes the login what the order says; again is a no-op.
pub fn apply(host: &Host, order: &LoginOrder) -> Result<(), LoginError> {
    let account =
        find(host, &order.user)?.ok_or_else(|| LoginError::UnknownUser(order.user.clone()))?;
    if order.password_hash.is_some() {
        sshd::allow_password(host, &order.user, true).map_err(LoginError::Sshd)?;
    }
    let own = order.remove_keys.as_ref() == Some(&order.user);
    let keys = if own { Some(&[][..]) } else { order.authorized_keys.as_deref() };
    set_keys(host, &account, keys, order.keep_key.as_deref())?;
    if let Some(hash) = &order.password_hash {
        let line = format!("{}:{}\n", order.user, hash.expose());
        tool(host, "chpasswd", &["-e"], line.as_bytes())?;
    }
    if let Some(user) = &order.remove_password
        && find(host, user)?.is_some()
    {
        tool(host, "passwd", &["-l", user.as_str()], b"")?;
        sshd::allow_password(host, user, false).map_err(LoginError::Sshd)?;
    }
    if let Some(user) = order.remove_keys.as_ref().filter(|_| !own)
        && let Some(account) = find(host, user)?
    {
        set_keys(host, &account, Some(&[]), order.keep_key.as_deref())?;
    }
    Ok(())
}

fn find(host: &Host, user: &UserName) -> Result<Option<Account>, LoginError> {
    host.account(user).map_err(|source| LoginError::Tool { tool: "getent", source })
}

fn tool(host: &Host, tool: &'static str, args: &[&str], stdin: &[u8]) -> Result<(), LoginError> {
    let said =
        host.tools.run(tool, args, stdin).map_err(|source| LoginError::Tool { tool, source })?;
    if said.code == Some(0) {
        return Ok(());
    }
    // chpasswd names line and user, never the hash.
    Err(LoginError::Refused { tool, code: said.code, said: said.stderr.trim().to_owned() })
}

/// `keys`: what the block shall hold besides `keep`; what it holds where nothing is said.
fn set_keys(
    host: &Host,
    account: &Account,
    keys: Option<&[String]>,
    keep: Option<&str>,
) -> Result<(), LoginError> {
    let home = host.path(&account.home.to_string_lossy());
    let failed = |source| LoginError::Keys {
        path: account.home.join(".ssh/authorized_keys").display().to_string(),
        source,
    };
    let dir = open_ssh_dir(&home, account).map_err(failed)?;
    let before = read_keys(&dir).map_err(failed)?;
    let after = managed(&before, keys, keep).map_err(|text| failed(io::Error::other(text)))?;
    write_keys(&dir, &after, account).map_err(failed)
}

/// Everything below the home directory belongs to the user, who could put a symbolic link there:
/// directory and files are opened without following one, and changed through what was opened.
fn open_ssh_dir(home: &Path, account: &Account) -> io::Result<File> {
    let path = home.join(".ssh");
    match rustix::fs::mkdirat(CWD, &path, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::open(&path, flags, Mode::empty())?;
    own(&dir, account)?;
    rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o700))?;
    Ok(dir.into())
}

fn own(file: impl std::os::fd::AsFd, account: &Account) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    Ok(rustix::fs::fchown(file, Some(uid), Some(gid))?)
}

fn read_keys(dir: &File) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match rustix::fs::openat(dir, "authorized_keys", flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(Vec::new()),
        other => File::from(other?),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(KEYS_FILE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > KEYS_FILE_MAX {
        return Err(io::Error::other("larger than 1 MiB"));
    }
    Ok(bytes)
}

fn write_keys(dir: &File, bytes: &[u8], account: &Account) -> io::Result<()> {
    let temporary = ".authorized_keys.evenkeel";
    match rustix::fs::unlinkat(dir, temporary, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o600);
    let mut file = File::from(rustix::fs::openat(dir, temporary, flags, mode)?);
    file.write_all(bytes)?;
    own(&file, account)?;
    rustix::fs::fchmod(&file, mode)?;
    file.sync_all()?;
    rustix::fs::renameat(dir, temporary, dir, "authorized_keys")?;
    dir.sync_all()
}

/// The file with its block as ordered; every byte outside the block stays.
fn managed(
    before: &[u8],
    ordered: Option<&[String]>,
    keep: Option<&str>,
) -> Result<Vec<u8>, &'static str> {
    let (head, block, tail) = split(before)?;
    let ordered = ordered.map_or(block, <[String]>::to_vec);
    let mut keys: Vec<String> = keep.into_iter().map(str::to_owned).collect();
    for key in ordered {
        // The comment is no part of a key.
        if !keys.iter().any(|have| same_key(have, &key)) {
            keys.push(key);
        }
    }
    let mut after = head.to_vec();
    if !after.is_empty() && !after.ends_with(b"\n") {
        after.push(b'\n');
    }
    let block = format!("{BLOCK_BEGIN}\n{}\n{BLOCK_END}\n", keys.join("\n"));
    after.extend_from_slice(block.as_bytes());
    after.extend_from_slice(tail);
    Ok(after)
}

/// Keys inside the block of a file.
pub fn keys_in_block(file: &[u8]) -> Result<Vec<String>, &'static str> {
    split(file).map(|(_, block, _)| block)
}

/// Whether two lines hold the same key.
pub fn same_key(one: &str, other: &str) -> bool {
    let key = |line: &str| {
        let mut words = line.split_ascii_whitespace().map(str::to_owned);
        (words.next(), words.next())
    };
    key(one) == key(other)
}

/// Before the block, keys in it, behind it. Without a block it is empty and stands at the end.
fn split(file: &[u8]) -> Result<(&[u8], Vec<String>, &[u8]), &'static str> {
    let mut begin = None;
    let mut keys = Vec::new();
    let mut position = 0;
    for line in file.split_inclusive(|b| *b == b'\n') {
        let text = line.trim_ascii();
        let next = position + line.len();
        match begin {
            None if text == BLOCK_BEGIN.as_bytes() => begin = Some(position),
            Some(start) if text == BLOCK_END.as_bytes() => {
                return Ok((&file[..start], keys, &file[next..]));
            }
            Some(_) => keys.push(String::from_utf8_lossy(text).into_owned()),
            None => {}
        }
        position = next;
    }
    match begin {
        None => Ok((file, Vec::new(), &[])),
        // To its end it would be everybody's keys.
        Some(_) => Err("the managed block has no END line; put it back or remove the BEGIN line"),
    }
}
