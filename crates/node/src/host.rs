//! The host as the login and the checks see it: files below a root, tools of the distribution.
//! Entry point: [`Host`]. Tests give it another root and tools of their own.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};

use crate::protocol::{MachineIdentity, UserName};
use crate::script::PATH;

/// Puts the files of the host below another directory; for tests. Root's rights are then not
/// asked for.
pub const ROOT_ENV: &str = "EVENKEEL_NODE_ROOT";

/// A tool that takes longer hangs: user lookups through a dead LDAP server take 10 s or so.
const TOOL_LIMIT: Duration = Duration::from_mins(1);

/// The machine this runs on.
pub struct Host {
    /// `/` outside of tests.
    pub root: PathBuf,
    /// Programs of the distribution.
    pub tools: Box<dyn Tools>,
}

/// What a tool said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// Exit status; `None` when a signal or our limit ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Programs of the distribution and signals to its daemons.
pub trait Tools {
    /// Runs a program with fixed arguments; secrets go through `stdin` only.
    fn run(&self, program: &str, args: &[&str], stdin: &[u8]) -> io::Result<Said>;
    /// Tells a daemon to read its configuration again.
    fn hang_up(&self, pid: i32) -> io::Result<()>;
}

/// A line of passwd(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Home directory as the host names it.
    pub home: PathBuf,
}

impl Host {
    /// This machine, or what [`ROOT_ENV`] says.
    pub fn from_env() -> Self {
        let root = std::env::var_os(ROOT_ENV).map_or_else(|| "/".into(), PathBuf::from);
        Self { root, tools: Box::new(Real) }
    }

    /// A path of the host below the root.
    pub fn path(&self, absolute: &str) -> PathBuf {
        self.root.join(absolute.trim_start_matches('/'))
    }

    /// Whether this process may change the host.
    pub fn may_change(&self) -> bool {
        rustix::process::geteuid().is_root() || self.root != Path::new("/")
    }

    /// Whether systemd is process 1 (`sd_booted(3)`).
    pub fn has_systemd(&self) -> bool {
        self.path("/run/systemd/system").is_dir()
    }

    /// Whether systemd is shutting the machine down, or booting it anew. (`is-system-running` does not tell before the
    /// boot has finished.)
    pub fn is_stopping(&self) -> bool {
        let ask = ["show", "--property=Job,ActiveState", "shutdown.target"];
        if !self.has_systemd() {
            return false;
        }
        let said = self.tools.run("systemctl", &ask, b"");
        // At the end systemd becomes another program, which answers nothing.
        let last =
            || self.line("/proc/1/comm").is_some_and(|name| name.starts_with("systemd-shut"));
        said.is_ok_and(|said| is_queued(&said.stdout)) || last()
    }

    /// First line of a file, trimmed; `None` when absent, unreadable or empty.
    pub fn line(&self, absolute: &str) -> Option<String> {
        let text = fs::read_to_string(self.path(absolute)).ok()?;
        // Device tree files end with a NUL.
        let line = text.lines().next()?.trim_matches(['\0', ' ', '\t']).to_owned();
        (!line.is_empty()).then_some(line)
    }

    /// What the kubelet reports as `nodeInfo`: the same files in the same order as cAdvisor's
    /// `GetSystemUUID` (google/cadvisor, `utils/sysfs/sysfs.go`).
    pub fn identity(&self) -> MachineIdentity {
        let uuid = [
            "/sys/class/dmi/id/product_uuid",
            "/proc/device-tree/system-id",
            "/proc/device-tree/vm,uuid",
        ];
        MachineIdentity {
            machine_id: self.line("/etc/machine-id").unwrap_or_default(),
            product_uuid: uuid.iter().find_map(|file| self.line(file)).map(|s| s.to_lowercase()),
        }
    }

    /// This boot. Read from the real `/proc`: it is a fact of the kernel.
    pub fn boot_id(&self) -> String {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        text.trim().to_owned()
    }

    /// Asks `getent`, which knows what the host's own name services know. `None`: no such user.
    pub fn account(&self, user: &UserName) -> io::Result<Option<Account>> {
        let said = self.tools.run("getent", &["passwd", user.as_str()], b"")?;
        match said.code {
            Some(0) => {}
            // getent(1): 2 is "not found".
            Some(2) => return Ok(None),
            _ => {
                return Err(io::Error::other(format!("getent passwd: {}", said.stderr.trim())));
            }
        }
        let fields: Vec<&str> = said.stdout.lines().next().unwrap_or("").split(':').collect();
        let account = match fields[..] {
            [_, _, uid, gid, _, home, ..] => uid
                .parse()
                .ok()
                .zip(gid.parse().ok())
                .map(|(uid, gid)| Account { uid, gid, home: home.into() }),
            _ => None,
        };
        account.map(Some).ok_or_else(|| io::Error::other("getent passwd: not a passwd(5) line"))
    }
}

/// Wall clock in ms since 1970; 0 when it stands before that.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as u64
}

/// Whether scripts find a program: an absolute path, or a name on the PATH they get.
pub fn finds(program: &str) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    let runs = |path: PathBuf| {
        fs::metadata(path)
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    // Joined to an absolute path, a directory makes no difference.
    !program.is_empty() && PATH.split(':').any(|dir| runs(Path::new(dir).join(program)))
}

/// Whether a unit is active or about to be, as `systemctl show` says it. Without a job the number is empty.
fn is_queued(shown: &str) -> bool {
    shown.lines().any(|line| {
        let job = line.strip_prefix("Job=").and_then(|number| number.parse::<u32>().ok());
        line == "ActiveState=active" || job.is_some_and(|number| number > 0)
    })
}

struct Real;

impl Tools for Real {
    fn run(&self, program: &str, args: &[&str], stdin: &[u8]) -> io::Result<Said> {
        let mut child = Command::new(program)
            .args(args)
            .env_clear()
            .env("PATH", PATH)
            .env("LANG", "C")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
        let stdout = child.stdout.take().map(reader);
        let stderr = child.stderr.take().map(reader);
        if let Some(mut pipe) = child.stdin.take() {
            // A tool that does not read its input says why by its exit status.
            let _ = pipe.write_all(stdin);
        }
        let deadline = Instant::now() + TOOL_LIMIT;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() >= deadline {
                child.kill()?;
                child.wait()?;
                return Err(io::Error::other(format!("{program}: no end after {TOOL_LIMIT:?}")));
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let text = |thread: Option<std::thread::JoinHandle<String>>| {
            thread.and_then(|thread| thread.join().ok()).unwrap_or_default()
        };
        Ok(Said { code: status.code(), stdout: text(stdout), stderr: text(stderr) })
    }

    fn hang_up(&self, pid: i32) -> io::Result<()> {
        let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::other("0 is no process"))?;
        Ok(kill_process(pid, Signal::HUP)?)
    }
}

fn reader(mut pipe: impl io::Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is still what the tool said.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shutdown_is_a_job_or_a_target_that_is_reached() {
        let cases = [
            ("ActiveState=inactive\nJob=\n", false),
            ("ActiveState=inactive\nJob=0\n", false),
            ("ActiveState=inactive\n", false),
            ("", false),
            ("ActiveState=inactive\nJob=241\n", true),
            ("Job=\nActiveState=active\n", true),
        ];
        for (shown, queued) in cases {
            assert_eq!(is_queued(shown), queued, "{shown:?}");
        }
    }
}
