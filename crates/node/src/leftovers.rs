//! What a script leaves behind, found through `/proc`: when its runner was killed, or when its time is up
//! and it has started processes outside its process group.
//!
//! Such a process has no time limit and no reader; letting it run on beside the next attempt would be
//! two runs at a time.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use crate::protocol::OrderId;

/// Processes of a runner's session that belong to an order.
#[derive(Debug, Clone, Copy)]
pub struct Leftovers<'a> {
    /// The runner's session.
    pub session: i32,
    /// Its order.
    pub order: &'a OrderId,
    /// Only this step's; absent: every step's.
    pub step: Option<&'a str>,
    /// Left out: a process group that is dealt with already.
    pub except_group: Option<i32>,
}

impl Leftovers<'_> {
    /// Kills them. Daemons that a script has put into a session of their own are not touched.
    pub fn kill(&self) {
        // Twice: a process may have forked between being listed and being killed.
        for _ in 0..2 {
            self.signal(Signal::KILL);
        }
    }

    /// Sends each of them a signal.
    pub fn signal(&self, signal: Signal) {
        for pid in self.find() {
            if let Some(pid) = Pid::from_raw(pid) {
                // Gone meanwhile is as good.
                let _ = kill_process(pid, signal);
            }
        }
    }

    /// Processes that carry the order's name in their environment, and what they have started: `sudo` and
    /// `env -i` drop the name.
    fn find(&self) -> Vec<i32> {
        let members: Vec<Process> = processes()
            .filter_map(Process::read)
            .filter(|process| process.session == self.session)
            .collect();
        let marked = members.iter().filter(|process| self.marks(process.pid));
        let mut ours: BTreeSet<i32> = marked.map(|process| process.pid).collect();
        loop {
            let before = ours.len();
            let children = members.iter().filter(|p| ours.contains(&p.parent));
            ours.extend(children.map(|p| p.pid).collect::<Vec<_>>());
            if ours.len() == before {
                break;
            }
        }
        let members = members.iter().filter(|p| ours.contains(&p.pid));
        members
            .filter(|process| Some(process.group) != self.except_group)
            .map(|process| process.pid)
            .collect()
    }

    fn marks(&self, pid: i32) -> bool {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let holds = |mark: String| {
            let mut pairs = environment.split(|b| *b == 0);
            pairs.any(|pair| pair == mark.as_bytes())
        };
        holds(format!("EVENKEEL_ORDER={}", self.order))
            && self.step.is_none_or(|step| holds(format!("EVENKEEL_STEP={step}")))
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

struct Process {
    pid: i32,
    parent: i32,
    group: i32,
    session: i32,
}

impl Process {
    /// proc_pid_stat(5): the name in parentheses may hold anything; state, parent, group and session follow.
    /// Zombies are over.
    fn read(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        if fields.next()? == "Z" {
            return None;
        }
        let mut number = || fields.next()?.parse().ok();
        Some(Self { pid, parent: number()?, group: number()?, session: number()? })
    }
}
