//! Follows a job to its end, a line on standard error for each change.
//!
//! Entry points: [`Limits`], [`to_the_end`], [`read`].
//! A server that is away for a moment is waited for: the job does not depend on this program.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use evenkeel_api::job::{Job, JobPhase};
use serde_json::Value;

use crate::client::{Client, Place};
use crate::failure::{CliError, Exit};
use crate::io::Io;
use crate::render;
use crate::text::plain;

/// First pause between two looks. Short, because a job over no nodes ends at once.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Longest pause between two looks: below what a person minds, far below the service's 70 reads a second.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long a server may be away before watching is given up: a restart of the server takes seconds.
const AWAY_LIMIT: Duration = Duration::from_mins(5);

/// When to give up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Over all; none means until the job ends, which the server sees to.
    pub(crate) total: Option<Duration>,
    /// Without an answer.
    pub(crate) away: Duration,
}

impl Limits {
    pub(crate) fn seconds(total: Option<u64>) -> Self {
        Self { total: total.map(Duration::from_secs), away: AWAY_LIMIT }
    }
}

/// The job, and the answer that it was read from.
pub(crate) async fn read(client: &Client, job: &str) -> Result<(Job, Value), CliError> {
    let answer = client.get(Place::Cce(&["jobs", job]), &[]).await?;
    let model = serde_json::from_value(answer.clone());
    let model =
        model.map_err(|error| client.foreign(format!("the job cannot be read ({error})")))?;
    Ok((model, answer))
}

/// Looks until the job has ended.
pub(crate) async fn to_the_end(
    client: &Client,
    io: &mut Io<'_>,
    job: &str,
    limits: Limits,
) -> Result<(Job, Value), CliError> {
    let began = Instant::now();
    let mut answered = began;
    let mut pause = FIRST_PAUSE;
    let mut seen = Seen::default();
    loop {
        match read(client, job).await {
            Ok((model, answer)) => {
                answered = Instant::now();
                let news = seen.news(&model);
                if !news.is_empty() {
                    pause = FIRST_PAUSE;
                }
                for line in news {
                    io.say(&line);
                }
                if model.status.phase.is_final() {
                    return Ok((model, answer));
                }
            }
            Err(error) if error.is_transient() && answered.elapsed() < limits.away => {
                if seen.is_away.replace(true) != Some(true) {
                    io.say(&format!("{}; trying again", plain(&error.to_string())));
                }
            }
            Err(error) => return Err(error),
        }
        let left = limits.total.map(|total| total.saturating_sub(began.elapsed()));
        if left.is_some_and(|left| left.is_zero()) {
            let seconds = began.elapsed().as_secs();
            let error = CliError::Ended {
                what: format!("job {job} has not ended after {seconds} s"),
                hint: None,
            };
            return Err(error
                .with_hint(format!("it goes on; watch it with `evenkeel get job {job} --watch`")));
        }
        tokio::time::sleep(left.map_or(pause, |left| pause.min(left))).await;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

/// The exit status of an ended job.
pub(crate) fn exit(job: &Job) -> Exit {
    if job.status.phase == JobPhase::Success { Exit::Done } else { Exit::Failed }
}

/// What was last said.
#[derive(Default)]
struct Seen {
    nodes: BTreeMap<String, String>,
    counts: String,
    phase: Option<JobPhase>,
    is_away: Option<bool>,
}

impl Seen {
    fn news(&mut self, job: &Job) -> Vec<String> {
        let mut lines = Vec::new();
        if self.is_away.replace(false) == Some(true) {
            lines.push("the server answers again".to_owned());
        }
        for sub in &job.spec.sub_jobs {
            let step = render::param(sub, "step");
            let step = if step.is_empty() { String::new() } else { format!(" ({step})") };
            let reason = match sub.status.reason.as_str() {
                "" => String::new(),
                reason => format!(": {reason}"),
            };
            let line = plain(&format!("{}{step}{reason}", render::node_phase(sub)));
            let name = if sub.spec.resource_name.is_empty() {
                &sub.spec.resource_id
            } else {
                &sub.spec.resource_name
            };
            if self.nodes.get(name) != Some(&line) {
                lines.push(format!("{}  {line}", plain(name)));
                self.nodes.insert(name.clone(), line);
            }
        }
        let counts = render::counts(job);
        let is_new_phase = self.phase.replace(job.status.phase) != Some(job.status.phase);
        if job.status.phase.is_final() {
            let counts = if counts.is_empty() { String::new() } else { format!(" ({counts})") };
            let reason = match job.status.reason.as_str() {
                "" => String::new(),
                reason => format!(": {}", plain(reason)),
            };
            lines.push(format!(
                "job {} {}{counts}{reason}",
                job.metadata.uid,
                render::phase(job.status.phase)
            ));
        } else if is_new_phase || counts != self.counts {
            let tail = if counts.is_empty() { String::new() } else { format!(": {counts}") };
            lines.push(format!(
                "job {} {}{tail}",
                job.metadata.uid,
                render::phase(job.status.phase)
            ));
        }
        self.counts = render::counts(job);
        lines
    }
}
