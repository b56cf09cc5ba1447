//! What a runner that was killed leaves behind, found through `/proc`.
//!
//! A script of a dead runner has no time limit and no reader; letting it run on beside the next
//! attempt would be two runs at a time.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use crate::protocol::OrderId;

/// Kills the processes of a dead runner's session that carry the order's name in their
/// environment. Daemons that a script has put into a session of their own are not touched.
pub fn kill_session(session: i32, id: &OrderId) {
    let mark = format!("EVENKEEL_ORDER={id}");
    // Twice: a process may have forked between being listed and being killed.
    for _ in 0..2 {
        for pid in processes() {
            if session_of(pid) == Some(session)
                && has_environment(pid, &mark)
                && let Some(pid) = Pid::from_raw(pid)
            {
                // Gone meanwhile is as good.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// Whether a runner lives for this state directory, even if its files were deleted under it.
pub fn runner_lives(state_dir: &Path) -> bool {
    let wanted = state_dir.as_os_str().as_encoded_bytes();
    processes().any(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|b| *b == 0).collect();
        matches!(words[..], [program, b"run-order", dir, ..]
            if dir == wanted && !program.ends_with(b"systemd-run"))
    })
}

fn processes() -> impl Iterator<Item = i32> {
    let listing = fs::read_dir("/proc").into_iter().flatten();
    listing.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// proc_pid_stat(5): the name in parentheses may hold anything, the session is the fourth field
/// after it. Zombies are over.
fn session_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(2)?.parse().ok()
}

fn has_environment(pid: i32, mark: &str) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment
        .split(|b| *b == 0)
        .any(|pair| pair == mark.as_bytes())
}
