//! Where calls wait for the agents that carry them out. In memory only: what a call did is in the host's journal.
//!
//! Entry point: [`Exchange`]. The machines put calls in ([`Exchange::call`]), the HTTP API hands them out
//! ([`Exchange::poll`]) and takes the answers ([`Exchange::answer`]). Every call goes to one poll and has one answer.
//! Absent on purpose: who may poll (the HTTP API knows), retries, and anything that a call means.

use evenkeel_node::protocol::PROTOCOL;
use evenkeel_node::protocol::agent::{Call, CallEnd, Poll};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

/// A call that no agent fetches: one that lives asks again within milliseconds, and within a second or two after a
/// connection that broke.
const PICKUP_LIMIT: Duration = Duration::from_secs(10);

/// What an answer may take on its way beyond the limit of its call.
const ANSWER_SLACK: Duration = Duration::from_secs(5);

/// How long a machine that has just asked or answered keeps its place without asking again.
const SEAT_KEEP: Duration = Duration::from_secs(15);

/// Where calls wait. Clones share it.
#[derive(Clone, Default)]
pub struct Exchange {
    desks: Arc<Mutex<BTreeMap<String, Desk>>>,
}

/// One agent's part of it.
#[derive(Default)]
struct Desk {
    waiting: VecDeque<Waiting>,
    out: BTreeMap<String, Out>,
    seat: Option<Seat>,
    seen: Option<Instant>,
    misfit: Option<Misfit>,
    polls: u64,
    bell: Arc<Notify>,
}

struct Waiting {
    call: Call,
    picked: oneshot::Sender<()>,
    reply: oneshot::Sender<CallEnd>,
}

struct Out {
    boot_id: String,
    until: Instant,
    reply: oneshot::Sender<CallEnd>,
}

/// The machine that calls are handed to.
struct Seat {
    boot_id: String,
    /// The poll that is open; the latest one counts.
    open: Option<u64>,
    since: Instant,
}

/// An agent that speaks another protocol than this server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "evenkeel-node {version} there speaks protocol {protocol}, this server ({}) protocol {PROTOCOL}; put this \
     server's evenkeel-node on that host and restart its agent (`systemctl restart evenkeel-agent`)",
    env!("CARGO_PKG_VERSION")
)]
pub struct Misfit {
    /// Version of its binary.
    pub version: String,
    /// Its protocol.
    pub protocol: u32,
}

/// Longest version of an agent that is shown to people.
const VERSION_SHOWN: usize = 40;

impl Misfit {
    fn of(poll: &Poll) -> Option<Self> {
        let plain = |c: &char| c.is_ascii_graphic();
        let version = poll.version.chars().filter(plain).take(VERSION_SHOWN).collect();
        (poll.protocol != PROTOCOL).then_some(Self { version, protocol: poll.protocol })
    }
}

/// Why a poll brings nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PollError {
    /// The agent was revoked while it asked.
    #[error("the agent is revoked")]
    Revoked,
    /// Another machine asks with the same credential.
    #[error("another machine with this credential is at work")]
    Taken,
    /// Its calls would be misunderstood.
    #[error(transparent)]
    Misfit(Misfit),
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Nobody fetched it: it has no effect.
    #[error("its agent {}", away(.0.as_ref()))]
    Away(Option<Duration>),
    /// It was fetched; what became of it is unknown.
    #[error("its agent did not answer in time; the outcome is unknown")]
    Silent,
    /// The agent was revoked.
    #[error("its agent was revoked")]
    Revoked,
    /// It speaks another protocol: it was not given the call.
    #[error(transparent)]
    Misfit(Misfit),
}

fn away(since: Option<&Duration>) -> String {
    match since {
        Some(since) => format!("was last heard of {} s ago", since.as_secs()),
        None => "was not heard of since this server started".to_owned(),
    }
}

/// When an agent was heard of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// A poll is open.
    pub connected: bool,
    /// Since then nothing was heard.
    pub ago: Duration,
    /// It asks, and gets nothing.
    pub misfit: Option<Misfit>,
}

impl Exchange {
    fn desks(&self) -> MutexGuard<'_, BTreeMap<String, Desk>> {
        self.desks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a call carried out by an agent and waits for its end.
    pub async fn call(
        &self,
        agent: &str,
        args: Vec<String>,
        stdin: String,
        limit: Duration,
    ) -> Result<CallEnd, CallError> {
        let id = uuid::Uuid::new_v4().to_string();
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let (picked, was_picked) = oneshot::channel();
        let (reply, end) = oneshot::channel();
        let call = Call { id: id.clone(), args, stdin: stdin.into(), limit_ms };
        let _withdrawn = Withdraw { exchange: self, agent, id: &id };
        {
            let mut desks = self.desks();
            let desk = desks.entry(agent.to_owned()).or_default();
            if let Some(misfit) = &desk.misfit {
                return Err(CallError::Misfit(misfit.clone()));
            }
            desk.waiting.push_back(Waiting { call, picked, reply });
            desk.bell.notify_waiters();
        }
        match timeout(PICKUP_LIMIT, was_picked).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(CallError::Revoked),
            Err(_) => return Err(CallError::Away(self.seen(agent).map(|seen| seen.ago))),
        }
        match timeout(limit + ANSWER_SLACK, end).await {
            Ok(Ok(end)) => Ok(end),
            Ok(Err(_)) => Err(CallError::Revoked),
            Err(_) => Err(CallError::Silent),
        }
    }

    /// Waits for a call to this agent; `None` if there was none within `wait`.
    ///
    /// One machine has the place at a time. A poll that is dropped, because its connection broke, gives it up.
    pub async fn poll(
        &self,
        agent: &str,
        poll: &Poll,
        wait: Duration,
    ) -> Result<Option<Call>, PollError> {
        let (until, boot_id) = (Instant::now() + wait, poll.boot_id.as_str());
        let (serial, bell) = self.sit(agent, poll)?;
        let mut seated = Seated { exchange: self, agent, serial, over: false };
        loop {
            let ring = bell.notified();
            tokio::pin!(ring);
            // From here on no bell is missed.
            ring.as_mut().enable();
            match self.take(agent, serial, boot_id) {
                Ok(None) if Instant::now() < until => {
                    // Rung or late: the next look tells.
                    let _rung = timeout_at(until, ring).await;
                }
                Ok(call) => {
                    seated.over = true;
                    return Ok(call);
                }
                Err(Gone::Revoked) => return Err(PollError::Revoked),
                Err(Gone::Replaced) => return Ok(None),
            }
        }
    }

    fn sit(&self, agent: &str, poll: &Poll) -> Result<(u64, Arc<Notify>), PollError> {
        let (now, boot_id) = (Instant::now(), poll.boot_id.as_str());
        let mut desks = self.desks();
        let desk = desks.entry(agent.to_owned()).or_default();
        desk.out.retain(|_, out| out.until > now);
        if let Some(seat) = &desk.seat
            && seat.boot_id != boot_id
            && (seat.open.is_some() || !desk.out.is_empty() || now < seat.since + SEAT_KEEP)
        {
            return Err(PollError::Taken);
        }
        desk.polls += 1;
        desk.seen = Some(now);
        desk.misfit = Misfit::of(poll);
        if let Some(misfit) = &desk.misfit {
            // A poll of the one before it is open no more either: its process is gone.
            desk.seat = None;
            desk.bell.notify_waiters();
            return Err(PollError::Misfit(misfit.clone()));
        }
        let (serial, boot_id) = (desk.polls, boot_id.to_owned());
        desk.seat = Some(Seat { boot_id, open: Some(serial), since: now });
        // An older poll of the same machine belongs to a process or a connection that is gone.
        desk.bell.notify_waiters();
        Ok((serial, Arc::clone(&desk.bell)))
    }

    fn take(&self, agent: &str, serial: u64, boot_id: &str) -> Result<Option<Call>, Gone> {
        let mut desks = self.desks();
        let desk = desks.get_mut(agent).ok_or(Gone::Revoked)?;
        if desk.seat.as_ref().and_then(|seat| seat.open) != Some(serial) {
            return Err(Gone::Replaced);
        }
        while let Some(Waiting { call, picked, reply }) = desk.waiting.pop_front() {
            // Who gave up waiting must not be acted for.
            if picked.send(()).is_ok() {
                let limit = Duration::from_millis(call.limit_ms) + ANSWER_SLACK;
                let out = Out { boot_id: boot_id.to_owned(), until: Instant::now() + limit, reply };
                desk.out.insert(call.id.clone(), out);
                return Ok(Some(call));
            }
        }
        Ok(None)
    }

    /// Takes the answer to a call; false if this agent on this machine owes none under that id.
    pub fn answer(&self, agent: &str, id: &str, end: CallEnd) -> bool {
        let mut desks = self.desks();
        let Some(desk) = desks.get_mut(agent) else { return false };
        if desk.out.get(id).is_none_or(|out| out.boot_id != end.boot_id) {
            return false;
        }
        let now = Instant::now();
        desk.seen = Some(now);
        if let Some(seat) = &mut desk.seat {
            seat.since = now;
        }
        desk.out.remove(id).is_some_and(|out| out.reply.send(end).is_ok())
    }

    /// Ends every poll and every call of an agent at once. The caller has made sure that it is let in no more.
    pub fn revoke(&self, agent: &str) {
        if let Some(desk) = self.desks().remove(agent) {
            desk.bell.notify_waiters();
        }
    }

    /// When an agent was heard of since this process started.
    pub fn seen(&self, agent: &str) -> Option<Seen> {
        let desks = self.desks();
        let desk = desks.get(agent)?;
        let connected = desk.seat.as_ref().is_some_and(|seat| seat.open.is_some());
        let ago = desk.seen?.elapsed();
        let ago = if connected { Duration::ZERO } else { ago };
        Some(Seen { connected, ago, misfit: desk.misfit.clone() })
    }
}

/// Why a poll has no place any more.
enum Gone {
    Revoked,
    Replaced,
}

/// Gives the place up when a poll ends; at once for others if its connection broke.
struct Seated<'a> {
    exchange: &'a Exchange,
    agent: &'a str,
    serial: u64,
    over: bool,
}

impl Drop for Seated<'_> {
    fn drop(&mut self) {
        let mut desks = self.exchange.desks();
        let Some(desk) = desks.get_mut(self.agent) else { return };
        let now = Instant::now();
        let Some(seat) = desk.seat.as_mut().filter(|seat| seat.open == Some(self.serial)) else {
            return;
        };
        desk.seen = Some(now);
        seat.open = None;
        seat.since = now;
        if !self.over && desk.out.is_empty() {
            desk.seat = None;
        }
    }
}

/// Takes a call back that nobody waits for any more.
struct Withdraw<'a> {
    exchange: &'a Exchange,
    agent: &'a str,
    id: &'a str,
}

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        if let Some(desk) = self.exchange.desks().get_mut(self.agent) {
            desk.waiting.retain(|waiting| waiting.call.id != self.id);
            desk.out.remove(self.id);
        }
    }
}

#[cfg(test)]
mod tests;
