//! The exact command lines the controller sends over SSH, and how a host reads them back.
//!
//! Only validated types are put into a command line. Everything that is not one word is wrapped
//! in `sh -c '...'` without single quotes inside, because the login shell may be any shell.

use super::{OrderId, STATE_DIR, Sha256Hex};

/// One command for one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remote {
    /// Is this build of the binary there, whole? Answers [`super::Have`].
    Have {
        /// Which build.
        hash: Sha256Hex,
    },
    /// Puts the binary on stdin in its place. Answers [`super::Have`].
    Upload {
        /// Which build.
        hash: Sha256Hex,
    },
    /// Runs the binary.
    Run {
        /// Which build.
        hash: Sha256Hex,
        /// What to do.
        verb: Verb,
    },
}

/// What the binary does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    /// Takes a [`super::ProbeRequest`] on stdin, or nothing. Answers [`super::Facts`].
    Probe,
    /// Takes an [`super::Order`] on stdin. Answers [`super::Progress`].
    Accept,
    /// Answers [`super::Progress`].
    Status {
        /// Which order.
        order: OrderId,
    },
    /// Answers [`super::Chunk`].
    Read {
        /// Which order.
        order: OrderId,
        /// Bytes of output to skip.
        offset: u64,
    },
    /// Takes a [`super::ProveRequest`] on stdin. Answers [`super::Proof`].
    Prove,
    /// Takes an [`super::Order`] on stdin. Answers a list of [`super::PlanEntry`]; runs nothing.
    Plan,
    /// Removes old orders and binaries. Answers [`super::Swept`].
    Gc,
}

impl Remote {
    /// The command line for an SSH exec request. `sudo`: the login user is not root and has
    /// password-less sudo.
    pub fn to_command(&self, sudo: bool) -> String {
        let sudo = if sudo { "sudo -n " } else { "" };
        match self {
            Self::Have { hash } => format!("{sudo}sh -c '{}'", have(hash)),
            Self::Upload { hash } => format!("{sudo}sh -c '{}'", upload(hash)),
            Self::Run { hash, verb } => {
                format!("{sudo}{} {}", binary_path(hash), verb.args().join(" "))
            }
        }
    }

    /// Reads a command line of [`Remote::to_command`] back; `None` for anything else.
    pub fn parse(command: &str) -> Option<Self> {
        let command = command.strip_prefix("sudo -n ").unwrap_or(command);
        if let Some(rest) = command.strip_prefix(&binary_prefix()) {
            let mut words = rest.split(' ');
            let hash = words.next()?.parse().ok()?;
            let verb = Verb::parse(&words.collect::<Vec<_>>())?;
            return Some(Self::Run { hash, verb });
        }
        // Both scripts name their hash right after the directory; comparing with what we would
        // have written keeps this exact.
        let prefix = binary_prefix();
        let start = command.find(&prefix)? + prefix.len();
        let hash: Sha256Hex = command.get(start..start + 64)?.parse().ok()?;
        [Self::Have { hash: hash.clone() }, Self::Upload { hash }]
            .into_iter()
            .find(|remote| remote.to_command(false) == command)
    }
}

impl Verb {
    /// The arguments of the binary.
    pub fn args(&self) -> Vec<String> {
        match self {
            Self::Probe => vec!["probe".into()],
            Self::Accept => vec!["accept".into()],
            Self::Status { order } => vec!["status".into(), order.to_string()],
            Self::Read { order, offset } => {
                vec!["read".into(), order.to_string(), offset.to_string()]
            }
            Self::Prove => vec!["prove".into()],
            Self::Plan => vec!["plan".into()],
            Self::Gc => vec!["gc".into()],
        }
    }

    /// Reads arguments back; the binary itself uses this.
    pub fn parse<S: AsRef<str>>(args: &[S]) -> Option<Self> {
        let words: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
        match words[..] {
            ["probe"] => Some(Self::Probe),
            ["accept"] => Some(Self::Accept),
            ["status", order] => Some(Self::Status { order: order.parse().ok()? }),
            ["read", order, offset] => {
                Some(Self::Read { order: order.parse().ok()?, offset: offset.parse().ok()? })
            }
            ["prove"] => Some(Self::Prove),
            ["plan"] => Some(Self::Plan),
            ["gc"] => Some(Self::Gc),
            _ => None,
        }
    }
}

fn binary_prefix() -> String {
    format!("{STATE_DIR}/bin/evenkeel-node-")
}

fn binary_path(hash: &Sha256Hex) -> String {
    format!("{}{hash}", binary_prefix())
}

/// The hash is computed again: a file cut short by a full disk or a lost power supply would
/// otherwise be taken for the binary.
fn have(hash: &Sha256Hex) -> String {
    let path = binary_path(hash);
    format!(
        "f={path}; s=; if [ -x $f ]; then s=$(sha256sum $f); fi; \
         if [ \"${{s%% *}}\" = {hash} ]; then echo \"{{\\\"have\\\":true}}\"; \
         else echo \"{{\\\"have\\\":false}}\"; fi"
    )
}

/// The temporary name is random and the rename is atomic: two controllers may upload at once.
fn upload(hash: &Sha256Hex) -> String {
    let path = binary_path(hash);
    format!(
        "f={path}; umask 077; fail() {{ rm -f \"$t\"; \
         echo \"{{\\\"error\\\":{{\\\"kind\\\":\\\"upload\\\",\\\"message\\\":\\\"$1\\\"}}}}\"; exit 3; }}; \
         mkdir -p {STATE_DIR}/bin && t=$(mktemp {STATE_DIR}/bin/.upload.XXXXXX) \
         || fail \"cannot write to {STATE_DIR}/bin\"; \
         cat >\"$t\" || fail \"cannot write the binary (disk full?)\"; \
         s=$(sha256sum \"$t\"); [ \"${{s%% *}}\" = {hash} ] || fail \"the binary arrived damaged\"; \
         chmod 0700 \"$t\" && mv -f \"$t\" $f || fail \"cannot put the binary in place\"; \
         echo \"{{\\\"have\\\":true}}\""
    )
}
