//! List and watch of nodes, pods and budgets, each on its own connection: paged list, then a stream with
//! bookmarks that is resumed at the last resourceVersion, and a new list only where resuming would hide a
//! change (410, an unreadable event, a version the server does not know). Entry point: [`start`].
//!
//! The framing is our own: a line that was cut in two must lead to a new list, not be skipped.

use super::intern::Interner;
use super::slim::{Budget, Kind, Node, Page, Pod, Slim};
use super::wire::{Answer, Call, Wire, built};
use super::{Trouble, WatchLimits};
use crate::sync::ports::{Fault, Seen};
use ::kube::api::{ListParams, Request, WatchEvent, WatchParams};
use ::kube::client::Body;
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::BodyExt as _;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// Objects per page, as kubectl and kube-runtime ask for.
const PAGE: u32 = 500;
/// Batches that may wait for the actor; a full channel slows the watches down, it loses nothing.
const CAPACITY: usize = 64;
/// Events that are taken from a connection at once, so that a burst is one batch.
const BATCH: usize = 256;
/// Longest event, in bytes. etcd refuses objects above 1.5 MiB; JSON is somewhat longer than what it stores.
const MAX_LINE: usize = 16 * 1024 * 1024;
/// Refusals in a row, each answered by the server, after which a new list is tried instead.
const REFUSALS: u32 = 5;
/// A stream that lived this long ended by itself: the next one is opened without a pause.
const SETTLED: Duration = Duration::from_secs(5);
/// Beyond `timeoutSeconds` the server is given this long to end the stream.
const MARGIN: Duration = Duration::from_secs(30);

/// Starts the three watches. Refused at once if a right or the credential is missing.
pub(super) async fn start(
    wire: &Wire,
    interner: &Arc<Interner>,
    limits: WatchLimits,
    trouble: &Arc<Trouble>,
) -> Result<mpsc::Receiver<Vec<Seen>>, Fault> {
    may_list::<Node>(wire).await?;
    may_list::<Pod>(wire).await?;
    may_list::<Budget>(wire).await?;
    let (tx, rx) = mpsc::channel(CAPACITY);
    let view = Arc::new(View {
        tx: tx.clone(),
        state: Mutex::new(ViewState { up: [false; 3], live: false }),
        trouble: trouble.clone(),
    });
    let follower = |slot| Follower {
        wire: wire.clone(),
        interner: interner.clone(),
        limits,
        tx: tx.clone(),
        view: view.clone(),
        slot,
    };
    tokio::spawn(follower(0).run::<Node>());
    tokio::spawn(follower(1).run::<Pod>());
    tokio::spawn(follower(2).run::<Budget>());
    Ok(rx)
}

/// Lists one object, to say at once what no retry will mend.
async fn may_list<K: Slim>(wire: &Wire) -> Result<(), Fault> {
    let call = Call { verb: "list", resource: K::RESOURCE, name: "" };
    let request = built(&call, Request::new(K::PATH).list(&ListParams::default().limit(1)))?;
    match wire.send(&call, request).await.and_then(|a| a.done(&call)) {
        Err(fault @ Fault::Permanent { .. }) => Err(fault),
        _ => Ok(()),
    }
}

/// Lists a kind completely, page by page, from the API server and not from a cache. Returns the version at which
/// a watch continues.
pub(super) async fn list<K: Kind>(
    wire: &Wire,
    interner: &Interner,
    fields: Option<&str>,
) -> Result<(Vec<K::Fact>, String), Fault> {
    let call = Call { verb: "list", resource: K::RESOURCE, name: "" };
    let mut facts = Vec::new();
    let mut token: Option<String> = None;
    let mut paged = true;
    loop {
        let params = ListParams {
            field_selector: fields.map(str::to_owned),
            limit: paged.then_some(PAGE),
            continue_token: token.clone(),
            ..ListParams::default()
        };
        let request = built(&call, Request::new(K::PATH).list(&params))?;
        let answer = wire.send(&call, request).await?;
        if answer.status == StatusCode::GONE && token.is_some() {
            // The pages' snapshot was compacted away while we read: once more, in one piece.
            (token, paged) = (None, false);
            facts.clear();
            continue;
        }
        let page: Page<K> = answer.decode(&call)?;
        facts.extend(page.items.unwrap_or_default().into_iter().filter_map(|k| k.fact(interner)));
        token = page.metadata.token.filter(|t| !t.is_empty());
        if token.is_none() {
            return Ok((facts, page.metadata.resource_version));
        }
    }
}

/// Whether all three kinds are followed; says so to the actor when it changes.
struct View {
    tx: mpsc::Sender<Vec<Seen>>,
    state: Mutex<ViewState>,
    trouble: Arc<Trouble>,
}

struct ViewState {
    up: [bool; 3],
    live: bool,
}

impl View {
    async fn set(&self, slot: usize, up: bool) {
        let mut state = self.state.lock().await;
        state.up[slot] = up;
        let live = state.up.iter().all(|up| *up);
        if live != state.live {
            state.live = live;
            if live {
                self.trouble.set(None);
            }
            // Sent under the lock: two changes must not overtake each other. A dropped receiver ends us anyway.
            drop(self.tx.send(vec![Seen::Live(live)]).await);
        }
    }
}

/// Follows one kind.
struct Follower {
    wire: Wire,
    interner: Arc<Interner>,
    limits: WatchLimits,
    tx: mpsc::Sender<Vec<Seen>>,
    view: Arc<View>,
    slot: usize,
}

/// How a stream ended.
enum End {
    /// It may be resumed where it was.
    Resume(String),
    /// A new list is needed.
    Relist(String),
}

/// Why a stream was not opened.
enum NotOpened {
    Fault(Fault),
    Refused(Fault),
    Expired(String),
}

impl Follower {
    async fn run<K: Slim>(self) {
        let tx = self.tx.clone();
        tokio::select! {
            () = tx.closed() => (),
            () = self.follow::<K>() => (),
        }
    }

    async fn follow<K: Slim>(&self) {
        let mut pause = Pause::new(self.limits);
        loop {
            match list::<K>(&self.wire, &self.interner, K::FIELDS).await {
                Ok((facts, version)) => {
                    if self.tx.send(vec![Seen::Relisted(K::listed(facts))]).await.is_err() {
                        return;
                    }
                    let since = Instant::now();
                    let why = self.stream::<K>(version).await;
                    self.view.set(self.slot, false).await;
                    self.trouble::<K>(&why);
                    if since.elapsed() >= SETTLED {
                        pause.reset();
                    }
                }
                Err(fault) => {
                    self.view.set(self.slot, false).await;
                    self.trouble::<K>(&with_causes(&fault));
                }
            }
            sleep(pause.next()).await;
        }
    }

    /// Watches from a version on, resuming as long as that hides nothing. Returns why a new list is needed.
    async fn stream<K: Slim>(&self, mut version: String) -> String {
        let mut pause = Pause::new(self.limits);
        let mut wait = Duration::ZERO;
        let mut broken: Option<Instant> = None;
        let mut refusals = 0;
        loop {
            let attempt = async {
                sleep(wait).await;
                self.open::<K>(&version).await
            };
            match self.within_grace(broken, attempt).await {
                Ok(body) => {
                    let since = Instant::now();
                    refusals = 0;
                    self.view.set(self.slot, true).await;
                    match self.drain::<K>(body, &mut version).await {
                        End::Relist(why) => return why,
                        End::Resume(why) => {
                            tracing::debug!(kind = K::RESOURCE, why, "watch resumes");
                        }
                    }
                    broken = Some(Instant::now());
                    wait = if since.elapsed() >= SETTLED {
                        pause.reset();
                        Duration::ZERO
                    } else {
                        pause.next()
                    };
                }
                Err(NotOpened::Expired(why)) => return why,
                Err(NotOpened::Refused(fault)) => {
                    refusals += 1;
                    if refusals >= REFUSALS {
                        return with_causes(&fault);
                    }
                    self.trouble::<K>(&with_causes(&fault));
                    broken = broken.or_else(|| Some(Instant::now()));
                    wait = pause.next();
                }
                Err(NotOpened::Fault(fault)) => {
                    self.trouble::<K>(&with_causes(&fault));
                    broken = broken.or_else(|| Some(Instant::now()));
                    wait = pause.next();
                }
            }
        }
    }

    /// Waits for an attempt; if the stream has by then been broken for longer than the grace, the view is lost.
    async fn within_grace<T>(
        &self,
        broken: Option<Instant>,
        attempt: impl Future<Output = T>,
    ) -> T {
        let Some(since) = broken else {
            return attempt.await;
        };
        tokio::pin!(attempt);
        tokio::select! {
            biased;
            done = &mut attempt => done,
            () = sleep_until(since + self.limits.grace) => {
                self.view.set(self.slot, false).await;
                attempt.await
            }
        }
    }

    async fn open<K: Slim>(&self, version: &str) -> Result<Body, NotOpened> {
        let call = Call { verb: "watch", resource: K::RESOURCE, name: "" };
        let mut params = WatchParams::default().timeout(self.limits.server_s);
        params.field_selector = K::FIELDS.map(str::to_owned);
        let request = built(&call, Request::new(K::PATH).watch(&params, version))
            .map_err(NotOpened::Fault)?;
        let response = self.wire.open(&call, request).await.map_err(NotOpened::Fault)?;
        if response.status().is_success() {
            return Ok(response.into_body());
        }
        let answer: Answer = self.wire.finish(&call, response).await.map_err(NotOpened::Fault)?;
        let fault = answer.fault(&call);
        Err(match answer.status.as_u16() {
            401 | 403 | 429 => NotOpened::Fault(fault),
            // 410: compacted away. Other 4xx: the server cannot make anything of this version.
            400..=499 => NotOpened::Expired(with_causes(&fault)),
            // For example 504 "Too large resource version", after etcd was restored from a backup.
            _ => NotOpened::Refused(fault),
        })
    }

    /// Passes on what a stream brings until it ends.
    async fn drain<K: Slim>(&self, body: Body, version: &mut String) -> End {
        let mut lines = Lines { body, rest: BytesMut::new(), searched: 0 };
        let last = Instant::now() + Duration::from_secs(self.limits.server_s.into()) + MARGIN;
        loop {
            let until = last.min(Instant::now() + self.limits.idle);
            let batch = match timeout_at(until, lines.batch()).await {
                Err(_) => return End::Resume("the stream fell silent".to_owned()),
                Ok(Err(end)) => return end,
                Ok(Ok(batch)) => batch,
            };
            let mut seen = Vec::with_capacity(batch.len());
            let mut next = None;
            let end = self.read::<K>(&batch, &mut seen, &mut next);
            if !seen.is_empty() && self.tx.send(seen).await.is_err() {
                return End::Resume("nobody listens".to_owned());
            }
            // Only now: what was not passed on must come again.
            if let Some(next) = next {
                *version = next;
            }
            if let Some(end) = end {
                return end;
            }
        }
    }

    fn read<K: Slim>(
        &self,
        batch: &[Bytes],
        seen: &mut Vec<Seen>,
        version: &mut Option<String>,
    ) -> Option<End> {
        for line in batch {
            match serde_json::from_slice::<WatchEvent<Wrap<K>>>(line) {
                Ok(WatchEvent::Added(k) | WatchEvent::Modified(k)) => {
                    *version = Some(k.0.version().to_owned());
                    seen.extend(k.0.fact(&self.interner).map(K::seen));
                }
                Ok(WatchEvent::Deleted(k)) => {
                    *version = Some(k.0.version().to_owned());
                    seen.push(k.0.gone());
                }
                Ok(WatchEvent::Bookmark(b)) => *version = Some(b.metadata.resource_version),
                Ok(WatchEvent::Error(status)) => {
                    let why = format!("watch {}: {} {}", K::RESOURCE, status.code, status.message);
                    return Some(if matches!(status.code, 429 | 500..) {
                        End::Resume(why)
                    } else {
                        End::Relist(why)
                    });
                }
                // Skipping it would hide a change for good.
                Err(e) => {
                    return Some(End::Relist(format!(
                        "watch {}: unreadable event: {e}",
                        K::RESOURCE
                    )));
                }
            }
        }
        None
    }

    /// Keeps the reason for people and logs it once.
    fn trouble<K: Slim>(&self, why: &str) {
        if self.view.trouble.set(Some(why.to_owned())) {
            tracing::warn!(
                kind = K::RESOURCE,
                server = self.wire.server(),
                why,
                "watch is in trouble"
            );
        }
    }
}

/// `WatchEvent` asks for `Deserialize` only; the wrapper keeps the slim types free of the wire's envelope.
#[derive(serde::Deserialize)]
#[serde(transparent, bound = "K: Slim")]
struct Wrap<K: Slim>(K);

/// Cuts a stream into lines.
struct Lines {
    body: Body,
    rest: BytesMut,
    searched: usize,
}

impl Lines {
    /// The next complete lines, at least one. Loses nothing when dropped while it waits.
    async fn batch(&mut self) -> Result<Vec<Bytes>, End> {
        loop {
            let mut lines = Vec::new();
            while lines.len() < BATCH
                && let Some(at) = self.rest[self.searched..].iter().position(|b| *b == b'\n')
            {
                let line = self.rest.split_to(self.searched + at + 1).freeze();
                self.searched = 0;
                if line.len() > 1 {
                    lines.push(line);
                }
            }
            if !lines.is_empty() {
                return Ok(lines);
            }
            self.searched = self.rest.len();
            if self.rest.len() > MAX_LINE {
                return Err(End::Relist("an event is longer than any object can be".to_owned()));
            }
            match self.body.frame().await {
                None => return Err(End::Resume("the stream ended".to_owned())),
                Some(Err(e)) => return Err(End::Resume(format!("the stream broke off: {e}"))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.rest.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

/// Pauses between attempts: doubling, without chance (three streams per cluster do not make a herd).
struct Pause {
    limits: WatchLimits,
    next: Duration,
}

impl Pause {
    fn new(limits: WatchLimits) -> Self {
        Self { limits, next: limits.backoff }
    }

    fn next(&mut self) -> Duration {
        let now = self.next;
        self.next = (now * 2).min(self.limits.backoff_cap);
        now
    }

    fn reset(&mut self) {
        self.next = self.limits.backoff;
    }
}

/// A fault and its causes in one line, for people.
fn with_causes(fault: &Fault) -> String {
    let mut text = fault.to_string();
    let mut cause = std::error::Error::source(fault);
    while let Some(e) = cause {
        let words = e.to_string();
        // kube repeats its causes in its own words.
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = e.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn pauses_double_up_to_their_cap_and_start_again() {
        let mut pause = Pause::new(WatchLimits::default());
        let ms: Vec<_> = (0..7).map(|_| pause.next().as_millis()).collect();
        assert_eq!(ms, [200, 400, 800, 1600, 3200, 5000, 5000]);
        pause.reset();
        assert_eq!(pause.next().as_millis(), 200);
    }

    #[tokio::test]
    async fn lines_are_cut_wherever_the_chunks_end() {
        let body = Body::from(b"one\ntw".to_vec());
        let mut lines = Lines { body, rest: BytesMut::new(), searched: 0 };
        let first = lines.batch().await.ok().unwrap();
        assert_eq!(first, [&b"one\n"[..]]);
        lines.body = Body::from(b"o\n\nthree\nfo".to_vec());
        let second = lines.batch().await.ok().unwrap();
        assert_eq!(second, [&b"two\n"[..], b"three\n"]);
        assert!(
            matches!(lines.batch().await, Err(End::Resume(_))),
            "an unfinished tail comes again"
        );
    }
}
