//! `job ...`: the buttons of a running job.

use clap::{Args, Subcommand};

use super::Show;

/// `job ...`.
#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// Take no new node; what is in hand goes on
    Pause(JobArgs),
    /// Go on
    Resume(JobArgs),
    /// End it: what has not begun its reset is given back, the rest is carried through
    Cancel(JobArgs),
    /// Try failed nodes again; without a node: all that have failed
    Retry(JobNodes),
    /// Leave nodes alone; a failed one frees its slot and stays cordoned
    Skip(JobSkip),
    /// Stop waiting for the budgets of one node: pods that cannot be evicted are deleted, with their own grace
    Force(JobForce),
}

/// `job pause`, `resume` and `cancel`.
#[derive(Debug, Args)]
pub struct JobArgs {
    /// Job
    #[arg(value_name = "JOB")]
    pub job: String,
    #[command(flatten)]
    pub show: Show,
}

/// `job retry`.
#[derive(Debug, Args)]
pub struct JobNodes {
    /// Job
    #[arg(value_name = "JOB")]
    pub job: String,
    /// Nodes, by name or id
    #[arg(value_name = "NODE")]
    pub nodes: Vec<String>,
    #[command(flatten)]
    pub show: Show,
}

/// `job skip`.
#[derive(Debug, Args)]
pub struct JobSkip {
    /// Job
    #[arg(value_name = "JOB")]
    pub job: String,
    /// Nodes, by name or id
    #[arg(required = true, value_name = "NODE")]
    pub nodes: Vec<String>,
    #[command(flatten)]
    pub show: Show,
}

/// `job force`.
#[derive(Debug, Args)]
pub struct JobForce {
    /// Job
    #[arg(value_name = "JOB")]
    pub job: String,
    /// Node, by name or id
    #[arg(value_name = "NODE")]
    pub node: String,
    #[command(flatten)]
    pub show: Show,
}
