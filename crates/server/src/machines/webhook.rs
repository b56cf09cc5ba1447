//! Webhooks: a signed HTTP POST to a service of the user, at most one piece of work per order.
//!
//! Entry point: [`Webhooks::run`]. A service that answers 202 is asked again until it ends; one that cannot be reached
//! or answers 5xx is asked again with the same `Idempotency-Key`, which by the contract (docs/reimage.md) is the same
//! piece of work. The poll URL and the end are kept in a journal, so a restarted controller goes on asking and an end
//! is never asked for again. Absent: redirects, proxies, and any look at what the service did.

mod answer;
mod journal;

use super::brief::Brief;
use super::command::{running, shown};
use super::durable;
use super::output::{HEAD_MAX, OutputKey, OutputSink, TAIL_MAX};
use super::ssh::transient;
use crate::addresses;
use crate::records::Webhook;
use crate::sync::ports::{Fault, HostOrder, HostState, Stage};
use answer::Said;
use evenkeel_engine::ids::JobId;
use evenkeel_node::protocol::OrderId;
use hmac::{Hmac, KeyInit as _, Mac as _};
use journal::{Journal, Kept};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, RequestBuilder, Url, header};
use serde_json::{Value, json};
use sha2::Sha256;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

/// One request: a service that works longer answers 202.
const ASK_LIMIT: Duration = Duration::from_secs(30);
/// A service that is up answers a TCP connect in one round trip; this covers two lost SYNs and a resolver.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// First and longest pause before a service is asked again; `Retry-After` may ask for more.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));
/// `Retry-After` beyond this is not followed: people watch the job.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(5);

/// Header with the HMAC-SHA256 of the body; of the `Idempotency-Key` where there is no body.
const SIGNATURE: &str = "x-evenkeel-signature";
/// Header that names the piece of work.
const KEY: &str = "idempotency-key";

/// Calls webhooks and remembers how they ended.
pub(super) struct Webhooks {
    dir: PathBuf,
    allow_loopback: bool,
}

/// One piece of work for a service.
pub(super) struct Work<'a> {
    pub(super) id: &'a OrderId,
    /// Names it to the service; differs from the order's name where one order has two hooks.
    pub(super) key: String,
    pub(super) hook: &'a Webhook,
    pub(super) limit_s: u32,
    pub(super) body: Zeroizing<Vec<u8>>,
    /// What people see.
    pub(super) step: &'static str,
}

/// How it ended, and the last document that the service sent.
pub(super) struct Ended {
    pub(super) state: HostState,
    pub(super) document: Option<Value>,
}

impl Webhooks {
    pub(super) fn new(dir: PathBuf, allow_loopback: bool) -> Self {
        Self { dir, allow_loopback }
    }

    /// Asks the service until it ends, or until the limit has passed.
    pub(super) async fn run(
        &self,
        work: &Work<'_>,
        output: &dyn OutputSink,
        progress: &mpsc::Sender<HostState>,
    ) -> Result<Ended, Fault> {
        let journal = Journal::new(&self.dir, work.id);
        let broken = |source| {
            let dir = self.dir.display();
            transient(format!("the journal of webhooks {dir} cannot be used"), source)
        };
        let mut kept = journal.begun(now_ms()).await.map_err(broken)?;
        if kept.end.is_none() {
            let service = Service::new(work, self.allow_loopback)?;
            // Nobody may be listening any more; the outcome is still wanted.
            let _heard = progress.send(running(work.step)).await;
            service.follow(&journal, &mut kept, progress).await.map_err(broken)?;
        }
        let Some(end) = kept.end else {
            return Err(Fault::transient("a webhook ended without an end"));
        };
        keep(&OutputKey::beside(work.id), output, end.output.as_bytes()).await;
        let state = match end.failed {
            None => HostState::Succeeded { ended_host_ms: None },
            Some(reason) => HostState::Failed { step: work.step.into(), reason },
        };
        Ok(Ended { state, document: end.document })
    }

    /// Removes the journal of a job that has ended.
    pub(super) async fn forget(&self, job: &JobId) -> io::Result<()> {
        durable::forget(&self.dir, job).await
    }
}

/// Whether the hook can be called at all; found out before a node is cordoned.
pub(super) fn check(hook: &Webhook, allow_loopback: bool) -> Result<(), Fault> {
    client(hook, allow_loopback).map(drop)
}

/// The facts of an order as a service gets them. Secret where it holds a template.
pub(super) fn facts(order: &HostOrder, id: &OrderId, brief: &Brief, with_template: bool) -> Value {
    let target = &order.target;
    let reached = brief.reach.as_ref().and_then(|reach| reach.address());
    let address = reached.or(target.internal_ip.as_deref()).unwrap_or_default();
    let word = |name: &String| name.trim_start_matches("EVENKEEL_").to_ascii_lowercase();
    let more: serde_json::Map<String, Value> = brief
        .facts_env
        .iter()
        .map(|(name, text)| (word(name), Value::from(text.as_str())))
        .collect();
    let mut facts = json!({
        "order": id.to_string(),
        "job": order.job,
        "node": target.node,
        "node_id": target.node_id,
        "attempt": order.attempt,
        "stage": match order.stage { Stage::Reset => "reset", Stage::Post => "post" },
        "epoch": order.epoch,
        "address": address,
        "machine_id": target.machine_id.as_deref(),
        "facts": more,
    });
    if with_template {
        facts["template"] = shown(&brief.template);
    }
    facts
}

/// A service and how it is asked.
struct Service<'a> {
    work: &'a Work<'a>,
    client: Client,
    url: Url,
}

impl<'a> Service<'a> {
    fn new(work: &'a Work<'a>, allow_loopback: bool) -> Result<Self, Fault> {
        let (client, url) = client(work.hook, allow_loopback)?;
        Ok(Self { work, client, url })
    }

    /// Asks until there is an end, which is then in the journal.
    async fn follow(
        &self,
        journal: &Journal,
        kept: &mut Kept,
        progress: &mpsc::Sender<HostState>,
    ) -> io::Result<()> {
        let limit = Duration::from_secs(u64::from(self.work.limit_s));
        let (spent, begun) = (spent(kept.begun_ms), Instant::now());
        let (mut pause, mut told) = (PAUSE.0, String::new());
        loop {
            let said = self.ask(kept.poll.as_deref()).await;
            let mut wait = pause;
            match said {
                Said::Ended(end) => return journal.end(kept, end).await,
                Said::Running { poll, retry_after } => {
                    if poll.is_some() && poll != kept.poll {
                        journal.poll(kept, poll).await?;
                    }
                    told.clear();
                    wait = retry_after.unwrap_or(pause).min(RETRY_AFTER_MAX);
                }
                Said::Trouble { what, retry_after } => {
                    wait = retry_after.unwrap_or(wait).min(RETRY_AFTER_MAX);
                    if told != what {
                        told.clone_from(&what);
                        let step = format!("{} ({what})", self.work.step);
                        let _heard = progress.send(running(step)).await;
                    }
                }
            }
            let left = limit.saturating_sub(spent + begun.elapsed());
            if left.is_zero() {
                let end = answer::late(&self.place(), self.work.limit_s, &told);
                return journal.end(kept, end).await;
            }
            sleep(wait.min(left)).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    async fn ask(&self, poll: Option<&str>) -> Said {
        let place = self.place();
        let polls = poll.is_some();
        let request = match poll {
            // Only what `answer::poll_url` has let through is kept.
            Some(poll) => self.signed(self.client.get(poll), self.work.key.as_bytes()),
            None => {
                let body = self.work.body.as_slice();
                let post = self.client.post(self.url.clone()).body(body.to_vec());
                self.signed(post.header(header::CONTENT_TYPE, "application/json"), body)
            }
        };
        match request.send().await {
            Ok(response) => answer::read(response, &self.url, &place, polls).await,
            Err(error) => answer::trouble(&place, error),
        }
    }

    fn signed(&self, request: RequestBuilder, bytes: &[u8]) -> RequestBuilder {
        request
            .header(KEY, self.work.key.as_str())
            .header(SIGNATURE, format!("sha256={}", signature(&self.work.hook.secret, bytes)))
    }

    /// Scheme, host and port: path and query may hold a token.
    fn place(&self) -> String {
        format!("webhook {}", self.url.origin().ascii_serialization())
    }
}

fn signature(secret: &str, bytes: &[u8]) -> String {
    let mac = <Hmac<Sha256>>::new_from_slice(secret.as_bytes());
    // An HMAC key may have any length.
    let mac = mac.map(|mac| mac.chain_update(bytes).finalize().into_bytes());
    mac.map(hex::encode).unwrap_or_default()
}

fn client(hook: &Webhook, allow_loopback: bool) -> Result<(Client, Url), Fault> {
    let bad = |what: &str| {
        Fault::permanent(format!(
            "the cluster's webhook {what}; set another with `evenkeel cluster set-machines`"
        ))
    };
    let url = Url::parse(&hook.url).map_err(|_| bad("is not a URL"))?;
    let host = url.host_str().unwrap_or_default();
    if let Some(why) =
        addresses::literal(host).and_then(|address| addresses::refused(address, allow_loopback))
    {
        return Err(bad(&format!("at {host} is not called: {why}")));
    }
    // A second installation fails harmlessly: then there is a provider already.
    let _installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut builder = Client::builder()
        .timeout(ASK_LIMIT)
        .connect_timeout(CONNECT_LIMIT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .dns_resolver(Arc::new(Guarded { allow_loopback }))
        .user_agent(concat!("evenkeel/", env!("CARGO_PKG_VERSION")));
    if let Some(pem) = &hook.ca {
        let list = reqwest::Certificate::from_pem_bundle(pem.as_bytes())
            .map_err(|_| bad("has a CA that is not PEM"))?;
        builder = builder.tls_certs_only(list);
    }
    let client = builder.build().map_err(|source| Fault::Permanent {
        what: "no HTTP client can be made for the cluster's webhook".into(),
        source: Some(Box::new(source)),
    })?;
    Ok((client, url))
}

/// Resolves names, and refuses those that lead where nobody is called.
struct Guarded {
    allow_loopback: bool,
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_loopback = self.allow_loopback;
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let refused = found.iter().find_map(|address| {
                let why = addresses::refused(address.ip(), allow_loopback)?;
                Some(format!("{} resolves to {}: {why}", name.as_str(), address.ip()))
            });
            match refused {
                // One bad address spoils the name: its owner chooses which of them we would get.
                Some(why) => Err(io::Error::other(why).into()),
                None => Ok(Box::new(found.into_iter()) as Addrs),
            }
        })
    }
}

/// Wall clock, ms since the epoch: the only clock that a restart does not set back.
pub(super) fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}

/// Time since a moment by the wall clock, within bounds that a clock that was set cannot leave: 0 to 1 h.
pub(super) fn spent(since_ms: i64) -> Duration {
    Duration::from_millis((now_ms() - since_ms).clamp(0, 3_600_000) as u64)
}

/// Keeps what a service printed; losing it never fails an order.
async fn keep(key: &OutputKey, output: &dyn OutputSink, text: &[u8]) {
    let head = text.len().min(HEAD_MAX as usize);
    let from = text.len().saturating_sub(TAIL_MAX as usize).max(head);
    let kept = async {
        output.append(key, 0, &text[..head]).await?;
        output.tail(key, from as u64, &text[from..]).await
    };
    if let Err(error) = kept.await {
        tracing::warn!(order = ?key, %error, "output is not kept");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_rfc_4231() {
        // Test case 2.
        assert_eq!(
            signature("Jefe", b"what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn a_service_on_this_machine_or_at_a_metadata_address_is_refused() {
        let hook = |url: &str| Webhook { url: url.into(), secret: "canary".into(), ca: None };
        for (url, loopback, fits) in [
            ("http://127.0.0.1/canary", false, false),
            ("http://127.0.0.1/canary", true, true),
            ("http://169.254.169.254/canary", true, false),
            ("http://[::ffff:169.254.169.254]/canary", true, false),
            ("https://reinstall.example/canary", false, true),
        ] {
            let checked = check(&hook(url), loopback);
            assert_eq!(checked.is_ok(), fits, "{url}");
            assert!(checked.err().is_none_or(|fault| !fault.to_string().contains("canary")));
        }
    }
}
