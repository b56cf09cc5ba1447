//! One way to run `evenkeel-node` on one host: over SSH, or through the agent that runs there.
//!
//! Entry points: [`Link`] and [`open`]. Everything above (order, journal, output, proof) is the same for both.

use super::agent::AgentLink;
use super::brief::Reach;
use super::host::Host;
use super::push::{self, BinarySource};
use crate::sync::ports::Fault;
use async_trait::async_trait;
use evenkeel_node::protocol::Verb;
use std::net::IpAddr;
use std::time::Duration;

/// How a command on a host ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit status.
    pub status: u32,
    /// At most 1 MiB.
    pub stdout: Vec<u8>,
    /// At most 1 MiB.
    pub stderr: Vec<u8>,
    /// Something was left out of either.
    pub cut: bool,
}

/// An open way to one host.
#[async_trait]
pub(super) trait Link: Send + Sync {
    /// The host, for messages.
    fn peer(&self) -> &str;

    /// Our own address as the host sees it; unspecified if it does not see one.
    fn seen_from(&self) -> IpAddr;

    /// Runs the verb with `stdin` and waits for its exit status. Without one, or without an end within `limit`, the
    /// fault is transient: whether the verb had an effect is unknown.
    async fn run(&self, verb: &Verb, stdin: &[u8], limit: Duration) -> Result<Ended, Fault>;

    /// Says goodbye. Dropping the link does as well, less politely.
    async fn close(self: Box<Self>);
}

/// Opens the way to a host.
pub(super) async fn open(reach: &Reach, binary: &BinarySource) -> Result<Host, Fault> {
    Ok(match reach {
        Reach::Ssh(access) => {
            Host::new(Box::new(push::ensure(access, &binary.get().await?).await?))
        }
        Reach::Agent(access) => Host::new(Box::new(AgentLink::new(access.clone()))),
    })
}
