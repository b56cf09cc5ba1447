//! A host of its own for each test: temporary state directory and root, the real binary.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use evenkeel_node::protocol::*;
use tempfile::TempDir;

pub const BINARY: &str = env!("CARGO_BIN_EXE_evenkeel-node");

/// Longest wait of any test for an order: a time limit of 1 s, 10 s of grace, a slow machine.
const PATIENCE: Duration = Duration::from_mins(1);

pub struct Bed {
    pub dir: TempDir,
}

impl Bed {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("root/etc")).unwrap();
        fs::write(dir.path().join("root/etc/machine-id"), "0123abcd\n").unwrap();
        Self { dir }
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// A file scripts of the test may write to.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn command(&self, verb: &Verb) -> Command {
        let mut command = Command::new(BINARY);
        command.args(verb.args());
        command.env("EVENKEEL_NODE_STATE", self.state());
        command.env("EVENKEEL_NODE_ROOT", self.dir.path().join("root"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a verb as a controller would, and reads the answer with the protocol's own reader.
    pub fn ask<T: serde::de::DeserializeOwned>(
        &self,
        verb: &Verb,
        stdin: &[u8],
    ) -> Result<T, Refusal> {
        let mut child = self.command(verb).spawn().unwrap();
        // A host that refuses a flood stops reading it.
        let _ = child.stdin.take().unwrap().write_all(stdin);
        let output = child.wait_with_output().unwrap();
        match parse_answer(&output.stdout) {
            Ok(answer) => {
                assert_eq!(output.status.code(), Some(0));
                Ok(answer)
            }
            Err(AnswerError::Refused(refusal)) => {
                assert_eq!(output.status.code(), Some(EXIT_REFUSED));
                Err(refusal)
            }
            Err(AnswerError::Malformed(error)) => panic!("{error}: {output:?}"),
        }
    }

    pub fn accept(&self, order: &Order) -> Result<Progress, Refusal> {
        self.ask(&Verb::Accept, &serde_json::to_vec(order).unwrap())
    }

    pub fn status(&self, order: &OrderId) -> Progress {
        self.ask(&Verb::Status { order: order.clone() }, b"").unwrap()
    }

    /// Waits until nothing more happens under the id.
    pub fn finish(&self, order: &OrderId) -> Progress {
        let mut last = None;
        wait(&format!("the end of {order}"), || {
            let progress = self.status(order);
            let over = progress.state.is_final();
            last = Some(progress);
            over
        });
        last.unwrap()
    }

    pub fn run(&self, order: &Order) -> Progress {
        self.accept(order).unwrap();
        self.finish(&order.id)
    }

    pub fn read(&self, order: &OrderId, offset: u64) -> Chunk {
        self.ask(&Verb::Read { order: order.clone(), offset }, b"").unwrap()
    }

    pub fn output(&self, order: &OrderId) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let chunk = self.read(order, all.len() as u64);
            all.extend(chunk.bytes().unwrap());
            assert_eq!(chunk.next, all.len() as u64);
            if chunk.eof {
                return all;
            }
        }
    }

    /// Process ids of runners of this bed.
    pub fn runners(&self) -> Vec<i32> {
        processes(|words| {
            words.len() > 2 && words[1] == "run-order" && Path::new(&words[2]) == self.state()
        })
    }
}

impl Drop for Bed {
    /// No test leaves a runner behind, whatever became of it.
    fn drop(&mut self) {
        for pid in self.runners() {
            kill(pid);
        }
    }
}

pub fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

pub fn processes(wanted: impl Fn(&[String]) -> bool) -> Vec<i32> {
    let pids = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<String> = line
            .split(|b| *b == 0)
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        wanted(&words)
    })
    .collect()
}

pub fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn id(job: &str, attempt: u32) -> OrderId {
    OrderId::new(job, "node-1", attempt, Stage::Reset).unwrap()
}

pub fn order(id: OrderId, steps: Vec<Step>) -> Order {
    Order {
        protocol: PROTOCOL,
        id,
        epoch: 1,
        machine: MachineIdentity { machine_id: "0123abcd".into(), product_uuid: None },
        steps,
    }
}

/// An order with one script.
pub fn script(id: OrderId, text: &str) -> Order {
    order(id, vec![Step::install(text, 60)])
}

pub fn lines(path: &Path) -> usize {
    fs::read_to_string(path).unwrap_or_default().lines().count()
}

/// A script as CCE clients send it.
pub fn b64(text: &str) -> Hidden {
    STANDARD.encode(text).into()
}
