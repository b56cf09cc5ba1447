//! The link to a host whose agent asks us: a verb becomes a call in the [`Exchange`].

use super::link::{Ended, Link};
use super::ssh::transient;
use crate::agents::{CallError, Exchange};
use crate::sync::ports::Fault;
use async_trait::async_trait;
use evenkeel_node::protocol::Verb;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// How one machine is reached through its agent.
#[derive(Clone)]
pub struct AgentAccess {
    /// Where its calls wait.
    pub exchange: Exchange,
    /// Id of the agent.
    pub agent: String,
    /// Name of its node, for messages.
    pub node: String,
    /// The controller's public key, if the cluster has one for SSH: no reset takes it away.
    pub public_key: Option<String>,
}

impl fmt::Debug for AgentAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentAccess").field("agent", &self.agent).finish_non_exhaustive()
    }
}

pub(super) struct AgentLink {
    access: AgentAccess,
    peer: String,
}

impl AgentLink {
    /// Nothing is sent before the first verb.
    pub(super) fn new(access: AgentAccess) -> Self {
        let peer = format!("{} (agent)", access.node);
        Self { access, peer }
    }
}

#[async_trait]
impl Link for AgentLink {
    fn peer(&self) -> &str {
        &self.peer
    }

    fn seen_from(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    }

    async fn run(&self, verb: &Verb, stdin: &[u8], limit: Duration) -> Result<Ended, Fault> {
        let peer = &self.peer;
        // What verbs take is JSON, so nothing is lost.
        let stdin = String::from_utf8_lossy(stdin).into_owned();
        match self.access.exchange.call(&self.access.agent, verb.args(), stdin, limit).await {
            Ok(end) => Ok(Ended {
                status: end.status,
                stdout: end.stdout.into_bytes(),
                stderr: end.stderr.into_bytes(),
                cut: false,
            }),
            // Before anything was begun. Later the order goes on there, and its end is read once both fit again.
            Err(CallError::Misfit(misfit)) if *verb == Verb::Probe => {
                Err(Fault::permanent(format!("host {peer}: {misfit}")))
            }
            Err(away @ (CallError::Away(_) | CallError::Misfit(_))) => {
                Err(transient(format!("host {peer} cannot be reached"), away))
            }
            Err(other) => Err(transient(format!("host {peer}: no answer to a call"), other)),
        }
    }

    async fn close(self: Box<Self>) {}
}
