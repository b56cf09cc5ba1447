//! What the demo tells: data first, so that the JSON lines and the plain lines say the same.
//!
//! Entry points: [`Event`], [`Event::plain`].

use std::collections::BTreeMap;

use serde::Serialize;

/// `status` of a good end; CCE's word.
pub const SUCCESS: &str = "Success";
/// `status` of every other end.
pub const FAILED: &str = "Failed";

/// One line of output.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// The played cluster stands.
    Start(Start),
    /// A call of the preparation was answered.
    Step {
        /// In words.
        what: String,
    },
    /// The job is accepted.
    Accepted {
        /// Its id.
        job: String,
    },
    /// A node entered a phase.
    Phase {
        /// Milliseconds since the job was accepted.
        at_ms: u64,
        /// The node.
        node: String,
        /// The phase.
        phase: String,
        /// 1 for the first reset, 0 before it.
        attempt: u64,
        /// Why, or what is waited for.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A node stays in its phase, and what it waits for has changed.
    Waiting {
        /// Milliseconds since the job was accepted.
        at_ms: u64,
        /// The node.
        node: String,
        /// The phase.
        phase: String,
        /// What is waited for.
        reason: String,
    },
    /// How many nodes are at their end.
    Progress {
        /// Milliseconds since the job was accepted.
        at_ms: u64,
        /// Nodes at their end.
        done: u64,
        /// All nodes.
        total: u64,
    },
    /// The end.
    Result(Report),
    /// The server serves until it is stopped.
    Ready(Ready),
}

/// The played cluster.
#[derive(Debug, Serialize)]
pub struct Start {
    pub seed: u64,
    pub nodes: Vec<String>,
    pub max_unavailable: u16,
    /// Milliseconds of the cluster in one of ours.
    pub time_scale: f64,
    /// Kind and replicas by name.
    pub workloads: BTreeMap<String, String>,
    /// What each budget asks for.
    pub budgets: BTreeMap<String, String>,
    /// Namespace and name, sorted.
    pub pods: Vec<String>,
}

/// Where to go and as whom.
#[derive(Debug, Serialize)]
pub struct Ready {
    pub endpoint: String,
    pub region: String,
    pub ak: String,
    pub sk: String,
    pub project_id: String,
    pub cluster_id: String,
    pub nodepool_id: String,
}

/// How it went.
#[derive(Debug, Serialize)]
pub struct Report {
    pub status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// From the request to the end of the job.
    pub duration_ms: u64,
    /// From the start of the program.
    pub total_ms: u64,
    pub time_scale: f64,
    pub nodes: u32,
    pub nodes_ok: u64,
    pub max_unavailable: u16,
    #[serde(flatten)]
    pub seen: Seen,
}

/// What the world saw, from outside.
#[derive(Debug, Default, Serialize)]
pub struct Seen {
    /// Most nodes that were cordoned or not Ready at the same time.
    pub max_out: usize,
    /// Accepted evictions: each is one move of one pod.
    pub evictions: usize,
    /// Evictions that a budget refused.
    pub evictions_refused: usize,
    /// Evictions of a pod that was already going.
    pub evictions_repeated: usize,
    /// Deletions of pods without the eviction API, by the controller.
    pub pods_deleted: usize,
    /// Pods and moves by workload.
    pub workloads: BTreeMap<String, Moves>,
    /// Accepted evictions for each pod that can move.
    pub moves_per_pod: f64,
    /// Scripts that ran on hosts.
    pub scripts_run: usize,
    /// Scripts that one reset of each node needs.
    pub scripts_due: usize,
    /// Of those, how many ran more than once in one attempt.
    pub scripts_repeated: usize,
    /// Nodes that are cordoned or not Ready at the end.
    pub left_out: Vec<String>,
}

/// How often the pods of a workload were moved.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Moves {
    pub pods: u32,
    pub moves: u32,
}

fn seconds(ms: u64) -> String {
    format!("{:.1} s", ms as f64 / 1000.0)
}

fn stamp(at_ms: u64) -> String {
    format!("{:>6.1}s ", at_ms as f64 / 1000.0)
}

impl Event {
    /// The same for people: one line, or a few for the first and the last word.
    pub fn plain(&self) -> String {
        match self {
            Event::Start(start) => start.plain(),
            Event::Step { what } => format!("  {what}"),
            Event::Accepted { job } => format!("job {job} accepted"),
            Event::Phase { at_ms, node, phase, reason, .. } => {
                let why = reason.as_ref().map(|reason| format!("  {reason}"));
                format!("{} {node}  {phase}{}", stamp(*at_ms), why.unwrap_or_default())
            }
            Event::Waiting { at_ms, node, phase, reason } => {
                format!("{} {node}  {phase}  {reason}", stamp(*at_ms))
            }
            Event::Progress { at_ms, done, total } => {
                format!("{} {done} of {total} nodes done", stamp(*at_ms))
            }
            Event::Result(report) => report.plain(),
            Event::Ready(ready) => ready.plain(),
        }
    }
}

impl Start {
    fn plain(&self) -> String {
        let (nodes, pods) = (self.nodes.len(), self.pods.len());
        let mut text = format!("A played cluster of {nodes} nodes with {pods} pods:\n");
        for (name, what) in &self.workloads {
            let budget = self.budgets.get(name);
            let budget = budget.map(|limit| format!("  budget: {limit}"));
            let row = format!("  {name:<12} {what:<18}{}", budget.unwrap_or_default());
            text.push_str(row.trim_end());
            text.push('\n');
        }
        text.push_str(&format!(
            "Its pool gets a new configuration; at most {} may be out of service at once.\n\
             Server, actor, Kubernetes client and SSH client are the real ones.\n\
             The cluster's time runs {} times as fast as yours.",
            self.max_unavailable, self.time_scale,
        ));
        text
    }
}

impl Report {
    fn plain(&self) -> String {
        let seen = &self.seen;
        let reason = self.reason.as_ref().map(|reason| format!(": {reason}"));
        let per_workload: Vec<String> = seen
            .workloads
            .iter()
            .map(|(name, of)| format!("{name} {} ({} pods)", of.moves, of.pods))
            .collect();
        let once = match seen.scripts_repeated {
            0 => "none of them twice".to_owned(),
            n => format!("{n} of them twice"),
        };
        let cluster_ms = (self.duration_ms as f64 * self.time_scale) as u64;
        let rows = [
            (
                "took",
                format!(
                    "{} ({} on the cluster's clock); {} with start and preparation",
                    seconds(self.duration_ms),
                    seconds(cluster_ms),
                    seconds(self.total_ms)
                ),
            ),
            ("nodes", format!("{} of {} synchronized", self.nodes_ok, self.nodes)),
            ("out at once", format!("{} at most, {} allowed", seen.max_out, self.max_unavailable)),
            (
                "pods moved",
                format!(
                    "{} by eviction, {} by deletion; {:.2} moves per pod",
                    seen.evictions, seen.pods_deleted, seen.moves_per_pod
                ),
            ),
            ("moves", per_workload.join(", ")),
            (
                "evictions",
                format!(
                    "{} accepted, {} refused by budgets, {} repeated",
                    seen.evictions, seen.evictions_refused, seen.evictions_repeated
                ),
            ),
            ("scripts", format!("{} of {} ran, {once}", seen.scripts_run, seen.scripts_due)),
        ];
        let mut text = format!("{}{}\n", self.status, reason.unwrap_or_default());
        for (name, what) in rows {
            text.push_str(&format!("  {name:<12} {what}\n"));
        }
        text.push_str("  (counted by the played cluster and its hosts, not by the server)");
        text
    }
}

impl Ready {
    fn plain(&self) -> String {
        format!(
            "A node pool API on this machine, until ctrl-c. Nothing has been synchronized yet.\n\n  \
             endpoint   {}\n  region     {}\n  project    {}\n  AK         {}\n  SK         {}\n  \
             cluster    {}\n  pool       {}\n\n\
             With the client of this program:\n\n  \
             export EVENKEEL_ENDPOINT={0} EVENKEEL_PROJECT_ID={2}\n  \
             export EVENKEEL_AK={3} EVENKEEL_SK={4}\n  \
             evenkeel pool list\n  \
             evenkeel sync {6} --max-unavailable 2 --wait",
            self.endpoint,
            self.region,
            self.project_id,
            self.ak,
            self.sk,
            self.cluster_id,
            self.nodepool_id,
        )
    }
}
