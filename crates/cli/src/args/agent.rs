//! The arguments of `agent ...`.

use clap::{Args, Subcommand};

use super::{In, Show};

/// `agent ...`.
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Make a one-time token that binds an agent to a node
    Enrol(AgentOne),
    /// List the nodes that have an agent
    List(AgentList),
    /// Take a node's agent its rights, at once
    Revoke(AgentOne),
}

/// `agent enrol` and `agent revoke`.
#[derive(Debug, Args)]
pub struct AgentOne {
    /// Node, by name or id
    #[arg(value_name = "NODE")]
    pub node: String,
    #[command(flatten)]
    pub place: In,
    #[command(flatten)]
    pub show: Show,
}

/// `agent list`.
#[derive(Debug, Args)]
pub struct AgentList {
    #[command(flatten)]
    pub place: In,
    #[command(flatten)]
    pub show: Show,
}
