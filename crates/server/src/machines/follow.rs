//! Gives a host its order and follows it to its end; proves the login afterwards.
//!
//! Entry points: [`Follower::run`] and [`prove`]. A connection that breaks ends the call with a transient fault;
//! the next call re-attaches, because the host knows the order by its id.

use super::brief::Reach;
use super::given::Given;
use super::host::{self, Host, NoAnswer};
use super::link;
use super::output::{HEAD_MAX, OutputKey, OutputSink, TAIL_MAX};
use super::push::BinarySource;
use super::ssh::transient;
use crate::sync::ports::{Fault, HostState};
use evenkeel_engine::time::Span;
use evenkeel_node::protocol::{
    Chunk, LoginOrder, Order, OrderId, Progress, Proof, ProveRequest, Refusal, RefusalKind, State,
    Verb,
};
use std::io;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

/// First look after an order was given: short scripts end within this.
const LOOK_FIRST: Duration = Duration::from_millis(100);

/// Looks are never further apart: people watch the steps.
const LOOK_LAST: Duration = Duration::from_secs(1);

/// What a host may need beyond the limits of its steps: KILL ten seconds after TERM for each, and fsyncs.
const SLACK: Duration = Duration::from_mins(2);

/// Follows one order on one host.
pub(super) struct Follower<'a> {
    pub(super) reach: &'a Reach,
    pub(super) binary: &'a BinarySource,
    pub(super) output: &'a dyn OutputSink,
    pub(super) given: &'a Given,
    pub(super) progress: &'a mpsc::Sender<HostState>,
}

impl Follower<'_> {
    /// Makes sure the order was given and waits for its end.
    pub(super) async fn run(&self, order: &Order) -> Result<HostState, Fault> {
        if self.given.holds(&order.id) {
            // Before the host is reached: what it has taken goes on there meanwhile.
            let limit = span(limit(order));
            let _heard = self.progress.send(HostState::Given { limit }).await;
        }
        let host = link::open(self.reach, self.binary).await?;
        let given = match self.give(&host, order).await {
            Ok(progress) => self.follow(&host, order, progress).await,
            Err(no) => Err(no),
        };
        let end = match given {
            Ok(end) => end,
            Err(NoAnswer::Refused(refusal)) if self.has_lost(order, &refusal) => {
                HostState::Failed {
                    step: "journal".into(),
                    reason:
                        "the host's record of this order is gone; what it did is unknown, and it \
                             is not run again"
                            .into(),
                }
            }
            Err(no) => return Err(host::fault(host.peer(), no)),
        };
        host.close().await;
        Ok(end)
    }

    fn has_lost(&self, order: &Order, refusal: &Refusal) -> bool {
        refusal.kind == RefusalKind::UnknownOrder && self.given.holds(&order.id)
    }

    async fn give(&self, host: &Host, order: &Order) -> Result<Progress, NoAnswer> {
        let status = Verb::Status { order: order.id.clone() };
        if self.given.holds(&order.id) {
            let known: Progress = host.try_verb(status, b"").await?;
            if known.state != State::Accepted {
                return Ok(known);
            }
        }
        self.accept(host, order).await
    }

    /// Gives the order. A host that has it answers how far it is, and begins or goes on where it stands still.
    async fn accept(&self, host: &Host, order: &Order) -> Result<Progress, NoAnswer> {
        // An order is plain data: it always serializes.
        let json = Zeroizing::new(serde_json::to_vec(order).unwrap_or_default());
        let progress = host.try_verb(Verb::Accept, &json).await?;
        self.given.note(&order.id).await;
        Ok(progress)
    }

    async fn follow(
        &self,
        host: &Host,
        order: &Order,
        mut progress: Progress,
    ) -> Result<HostState, NoAnswer> {
        let limit = limit(order);
        let begun = Instant::now();
        let key = OutputKey::of(&order.id);
        let mut sink = Keeper::begin(self.output, key).await;
        let mut told: Option<Option<String>> = None;
        let mut pause = LOOK_FIRST;
        loop {
            let mut changed = sink.next < progress.output_len.min(HEAD_MAX);
            if !progress.state.is_final() && told.as_ref() != Some(&progress.step) {
                told = Some(progress.step.clone());
                changed = true;
                // Nobody may be listening any more; the outcome is still wanted.
                let state = HostState::Running { step: progress.step.clone(), limit: span(limit) };
                let _heard = self.progress.send(state).await;
            }
            if sink.next < progress.output_len.min(HEAD_MAX) {
                progress = sink.pull(host, &order.id).await?;
                if sink.next < progress.output_len.min(HEAD_MAX) {
                    continue;
                }
            }
            if progress.state.is_final() {
                sink.end(host, &order.id, progress.output_len).await?;
                return Ok(end_of(progress));
            }
            if begun.elapsed() > limit {
                return Err(NoAnswer::Fault(Fault::transient(format!(
                    "host {}: the order {} still runs {} s after it was looked at first, longer than \
                     all its limits; the outcome is unknown",
                    host.peer(),
                    order.id,
                    limit.as_secs()
                ))));
            }
            pause = if changed { LOOK_FIRST } else { (pause * 2).min(LOOK_LAST) };
            sleep(pause).await;
            progress = match progress.state {
                // Its runner never began, or a reboot ended it where the recipe lets it go on.
                State::Accepted => self.accept(host, order).await?,
                _ => host.try_verb(Verb::Status { order: order.id.clone() }, b"").await?,
            };
        }
    }
}

/// The time within which an order is over by its own limits.
fn limit(order: &Order) -> Duration {
    let steps: u64 = order.steps.iter().filter_map(|step| step.time_limit_s()).sum();
    Duration::from_secs(steps) + SLACK
}

fn span(time: Duration) -> Span {
    Span::secs(time.as_secs())
}

fn end_of(progress: Progress) -> HostState {
    match progress.state {
        State::Succeeded => {
            HostState::Succeeded { ended_host_ms: progress.ended_ms.map(|ms| ms as i64) }
        }
        State::Failed { step, reason } => HostState::Failed { step, reason },
        State::Interrupted { step, reason } => HostState::Failed {
            step: if step.is_empty() { "start".into() } else { step },
            reason: format!("interrupted: {reason}"),
        },
        State::Accepted | State::Running => {
            HostState::Running { step: progress.step, limit: Span(0) }
        }
    }
}

/// Moves output from the host to the sink. A sink that fails costs output, never the order.
struct Keeper<'a> {
    sink: &'a dyn OutputSink,
    key: OutputKey,
    next: u64,
    broken: bool,
}

impl<'a> Keeper<'a> {
    async fn begin(sink: &'a dyn OutputSink, key: OutputKey) -> Self {
        let mut keeper = Self { sink, key, next: 0, broken: false };
        match keeper.sink.stored(&keeper.key).await {
            Ok(stored) => keeper.next = stored,
            Err(error) => keeper.give_up(&error),
        }
        keeper
    }

    fn give_up(&mut self, error: &io::Error) {
        tracing::warn!(order = ?self.key, %error, "output is not kept");
        self.broken = true;
        // Beyond the head nothing is asked for.
        self.next = HEAD_MAX;
    }

    async fn pull(&mut self, host: &Host, id: &OrderId) -> Result<Progress, NoAnswer> {
        let (chunk, bytes) = read(host, id, self.next).await?;
        match self.sink.append(&self.key, chunk.offset, &bytes).await {
            // A host that gives nothing although it has more must not keep us asking.
            Ok(()) if chunk.next > self.next => self.next = chunk.next,
            Ok(()) => self.next = HEAD_MAX,
            Err(error) => self.give_up(&error),
        }
        Ok(chunk.progress)
    }

    /// The tail, empty where the head is all: it says that nothing follows.
    async fn end(&mut self, host: &Host, id: &OrderId, total: u64) -> Result<(), NoAnswer> {
        if self.broken {
            return Ok(());
        }
        let from = total.saturating_sub(TAIL_MAX).max(HEAD_MAX.min(total));
        let (mut next, mut tail) = (from, Vec::new());
        while next < total {
            let (chunk, bytes) = read(host, id, next).await?;
            if chunk.next <= next {
                break;
            }
            tail.extend_from_slice(&bytes);
            next = chunk.next;
        }
        if let Err(error) = self.sink.tail(&self.key, from, &tail).await {
            self.give_up(&error);
        }
        Ok(())
    }
}

async fn read(host: &Host, id: &OrderId, offset: u64) -> Result<(Chunk, Vec<u8>), NoAnswer> {
    let chunk: Chunk = host.try_verb(Verb::Read { order: id.clone(), offset }, b"").await?;
    match chunk.bytes() {
        Some(bytes) => Ok((chunk, bytes)),
        None => Err(NoAnswer::Fault(Fault::transient(format!(
            "host {}: the output of a script did not arrive as base64",
            host.peer()
        )))),
    }
}

/// Proves the login. Over SSH by a new connection with the controller's own key as well; an agent can only look.
/// `None`: proved.
pub(super) async fn prove(
    reach: &Reach,
    binary: &BinarySource,
    login: &LoginOrder,
) -> Result<Option<HostState>, Fault> {
    let failed = |reason: String| Some(HostState::Failed { step: "login-proof".into(), reason });
    let host = match link::open(reach, binary).await {
        Ok(host) => host,
        Err(Fault::Permanent { what, .. }) => return Ok(failed(what)),
        Err(other) => return Err(other),
    };
    let request = ProveRequest { login: login.clone(), addr: host.seen_from() };
    let json =
        Zeroizing::new(serde_json::to_vec(&request).map_err(|source| {
            transient("the proof of a login cannot be asked for".into(), source)
        })?);
    let proof: Proof = host.verb(Verb::Prove, &json).await?;
    let failure = proof
        .first_failure()
        .map(|check| format!("{}: {}", check.name, check.detail))
        .or_else(|| proof.checks.is_empty().then(|| "the host checked nothing".to_owned()));
    host.close().await;
    Ok(failure.and_then(failed))
}
