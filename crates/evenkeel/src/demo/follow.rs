//! Follows the job through the API, from its acceptance to its end.
//!
//! Entry point: [`to_the_end`]. Each look gives a picture for the live view, and the news since the look before for
//! everybody else. The stories that the server keeps of its nodes make up for phases between two looks.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use evenkeel_cli::{Client, Place};
use serde_json::Value;

use super::event::{Event, SUCCESS, Seen};
use super::view::View;
use super::witness::Witness;

/// Between two looks: often enough for the eye, far below the service's 70 reads a second.
const PAUSE: Duration = Duration::from_millis(150);

/// When a run is given up: twenty times what a node takes, and a start.
const LIMIT_PER_NODE: Duration = Duration::from_mins(1);
const LIMIT_BASE: Duration = Duration::from_mins(3);

/// How it ended.
pub struct Ended {
    pub took: Duration,
    pub succeeded: bool,
    /// The job's, where it did not succeed.
    pub reason: String,
    pub nodes_ok: u64,
    pub seen: Seen,
}

/// What is to be seen of one node.
pub struct Line {
    pub node: String,
    /// Empty before its turn.
    pub phase: String,
    /// In this phase; none at its end.
    pub since: Option<Duration>,
    pub reason: String,
}

/// What is to be seen at one moment.
pub struct Picture {
    pub done: u64,
    pub total: u64,
    pub lines: Vec<Line>,
}

/// Looks until the job has ended.
pub async fn to_the_end(
    client: &Client,
    job: &str,
    nodes: u32,
    mut witness: Witness,
    view: &mut View,
) -> anyhow::Result<Ended> {
    let limit = LIMIT_BASE + LIMIT_PER_NODE * nodes;
    let mut memory = Memory::new(Instant::now());
    loop {
        let answer = client.get(Place::Evenkeel(&["jobs", job]), &[]).await?;
        witness.look();
        for event in memory.news(&answer) {
            view.tell(event)?;
        }
        view.draw(&memory.picture(&answer));
        if at(&answer, "/state/status") != "running" {
            return end(client, job, memory.began.elapsed(), &answer, &witness).await;
        }
        anyhow::ensure!(
            memory.began.elapsed() < limit,
            "waited {} s for job {job} to end; {} of {nodes} nodes are done",
            limit.as_secs(),
            finished(&answer)
        );
        tokio::time::sleep(PAUSE).await;
    }
}

/// The verdict is that of the call that every client knows.
async fn end(
    client: &Client,
    job: &str,
    took: Duration,
    answer: &Value,
    witness: &Witness,
) -> anyhow::Result<Ended> {
    let shown = client.get(Place::Cce(&["jobs", job]), &[]).await?;
    let phase = at(&shown, "/status/phase");
    let reason = match at(&shown, "/status/reason") {
        "" => format!("the job ended with {phase}"),
        reason => reason.to_owned(),
    };
    Ok(Ended {
        took,
        succeeded: phase == SUCCESS,
        reason,
        nodes_ok: number(answer, "/counts/ok"),
        seen: witness.testify(job),
    })
}

fn at<'a>(answer: &'a Value, pointer: &str) -> &'a str {
    answer.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn number(answer: &Value, pointer: &str) -> u64 {
    answer.pointer(pointer).and_then(Value::as_u64).unwrap_or_default()
}

fn finished(answer: &Value) -> u64 {
    number(answer, "/counts/total").saturating_sub(number(answer, "/counts/open"))
}

/// What was told of a node.
struct Told {
    entries: usize,
    phase: String,
    since: Instant,
    reason: String,
    first: Instant,
    /// From its claim to its end.
    took: Option<Duration>,
}

struct Memory {
    began: Instant,
    nodes: BTreeMap<String, Told>,
    done: u64,
}

impl Memory {
    fn new(began: Instant) -> Self {
        Self { began, nodes: BTreeMap::new(), done: 0 }
    }

    /// What has changed since the look before.
    fn news(&mut self, answer: &Value) -> Vec<Event> {
        let at_ms = self.began.elapsed().as_millis() as u64;
        let mut news = Vec::new();
        let works = answer.get("nodes").and_then(Value::as_object);
        for (name, work) in works.into_iter().flatten() {
            let told = self.nodes.entry(name.clone()).or_insert_with(|| Told {
                entries: 0,
                phase: String::new(),
                since: Instant::now(),
                reason: String::new(),
                first: Instant::now(),
                took: None,
            });
            told.take(name, work, at_ms, &mut news);
        }
        let done = finished(answer);
        if done != self.done {
            self.done = done;
            let total = number(answer, "/counts/total");
            news.push(Event::Progress { at_ms, done, total });
        }
        news
    }

    fn picture(&self, answer: &Value) -> Picture {
        let next = at(answer, "/nextReason");
        let targets = answer.get("targets").and_then(Value::as_array);
        let line = |target: &Value| {
            let node = at(target, "/name").to_owned();
            match self.nodes.get(&node) {
                Some(told) => Line {
                    node,
                    phase: told.phase.clone(),
                    since: told.took.is_none().then(|| told.since.elapsed()),
                    reason: told.words(),
                },
                None => Line {
                    node,
                    phase: String::new(),
                    since: Some(self.began.elapsed()),
                    reason: next.to_owned(),
                },
            }
        };
        Picture {
            done: finished(answer),
            total: number(answer, "/counts/total"),
            lines: targets.into_iter().flatten().map(line).collect(),
        }
    }
}

impl Told {
    fn words(&self) -> String {
        match self.took {
            Some(took) if self.reason.is_empty() => format!("after {:.1} s", took.as_secs_f64()),
            _ => self.reason.clone(),
        }
    }

    fn take(&mut self, name: &str, work: &Value, at_ms: u64, news: &mut Vec<Event>) {
        let attempt = number(work, "/attempt");
        let log = work.get("log").and_then(Value::as_array);
        let log = log.map(Vec::as_slice).unwrap_or_default();
        // Waiting for our own write lasts as long as a round trip: nothing to tell.
        let waits = match at(work, "/waitingOn/on") {
            "ourselves" => "",
            _ => at(work, "/waitingFor"),
        };
        // A story that grew too long has lost its second line, so the count may stand still; the phase does not.
        let fresh = log.get(self.entries.min(log.len())..).unwrap_or_default();
        for (index, entry) in fresh.iter().enumerate() {
            let is_last = index + 1 == fresh.len();
            let note = at(entry, "/note");
            let reason = match (note, is_last) {
                ("", true) => waits,
                (note, _) => note,
            };
            news.push(Event::Phase {
                at_ms,
                node: name.to_owned(),
                phase: at(entry, "/word").to_owned(),
                attempt,
                reason: (!reason.is_empty()).then(|| reason.to_owned()),
            });
        }
        self.entries = log.len();
        let phase = at(work, "/phase");
        let is_new = phase != self.phase;
        if is_new {
            self.phase = phase.to_owned();
            self.since = Instant::now();
            self.reason = String::new();
            if matches!(phase, "Done" | "Failed" | "Skipped") {
                self.took = Some(self.first.elapsed());
            }
        }
        if !waits.is_empty() && waits != self.reason {
            self.reason = waits.to_owned();
            if fresh.is_empty() {
                news.push(Event::Waiting {
                    at_ms,
                    node: name.to_owned(),
                    phase: self.phase.clone(),
                    reason: waits.to_owned(),
                });
            }
        }
        if is_new
            && !fresh.is_empty()
            && self.reason.is_empty()
            && let Some(Event::Phase { reason: Some(reason), .. }) = news.last()
        {
            self.reason.clone_from(reason);
        }
    }
}
