//! Watches: a stream of JSON lines from a resourceVersion on, with bookmarks, 410 and cut connections.

use super::answer::{refuse, status};
use super::read::{items, node_fields, pod_fields};
use super::select::{Fields, Filter, Query, number};
use super::{Api, Kind, Target, render};
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use evenkeel_sim::World;
use evenkeel_sim::status::Refusal;
use evenkeel_sim::world::{Change, Event, Op};
use http::{HeaderValue, header};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// kube-apiserver sends a bookmark about once a minute; world time, so that a quick rehearsal sees some.
const BOOKMARK_MS: u64 = 60_000;
/// `--min-request-timeout`: a watch without `timeoutSeconds` lives at least half an hour.
const DEFAULT_TIMEOUT: Duration = Duration::from_mins(30);

/// How long before its end a watch says where it stands; a shorter one does not.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);

struct Watch {
    api: Arc<Api>,
    kind: Kind,
    filter: Filter,
    rv: u64,
    opened_ms: u64,
    next_bookmark_ms: Option<u64>,
    deadline: Instant,
    last_bookmark: Option<Instant>,
    tick: tokio::sync::watch::Receiver<u64>,
    first: Vec<u8>,
    over: bool,
}

fn line(out: &mut Vec<u8>, word: &str, object: &Value) {
    out.extend(json!({"type": word, "object": object}).to_string().bytes());
    out.push(b'\n');
}

impl Api {
    /// Opens a watch.
    pub(super) fn watch(self: &Arc<Self>, target: &Target, query: &Query) -> Response {
        let filter = match Filter::read(query, target.namespace.as_deref(), target.kind.fields()) {
            Ok(filter) => filter,
            Err(refusal) => return refuse(&refusal),
        };
        let from = query.get("resourceVersion").unwrap_or("0");
        let (from, lifetime) = match (number(from), query.number("timeoutSeconds")) {
            (Ok(from), Ok(seconds)) => (from, seconds),
            (Err(why), _) => {
                let message = format!("resourceVersion: Invalid value: {from:?}: {why}");
                return refuse(&Refusal::unparsed(message));
            }
            (_, Err(refusal)) => return refuse(&refusal),
        };
        let world = self.world();
        let mut first = Vec::new();
        let mut rv = from;
        if from == 0 || query.is("sendInitialEvents") {
            rv = world.resource_version();
            for item in items(&world, target.kind, &filter) {
                line(
                    &mut first,
                    "ADDED",
                    &render::typed(target.kind.api_version(), target.kind.kind(), item),
                );
            }
            if query.is("allowWatchBookmarks") {
                let mut mark = bookmark(target.kind, rv);
                mark["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
                line(&mut first, "BOOKMARK", &mark);
            }
        }
        let opened_ms = world.now();
        drop(world);
        let lifetime = match lifetime {
            0 => DEFAULT_TIMEOUT,
            seconds => Duration::from_secs(seconds),
        };
        let watch = Watch {
            api: self.clone(),
            kind: target.kind,
            filter,
            rv,
            opened_ms,
            next_bookmark_ms: query.is("allowWatchBookmarks").then_some(opened_ms + BOOKMARK_MS),
            deadline: Instant::now() + lifetime,
            last_bookmark: lifetime
                .checked_sub(LAST_BOOKMARK)
                .filter(|wait| query.is("allowWatchBookmarks") && !wait.is_zero())
                .map(|wait| Instant::now() + wait),
            tick: self.tick.clone(),
            first,
            over: false,
        };
        let stream = futures::stream::unfold(watch, |mut watch| async move {
            let next = watch.next().await?;
            Some((next, watch))
        });
        let mut response = Response::new(Body::from_stream(stream));
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

impl Watch {
    /// The next piece of the stream; `None` ends it well, an error cuts it.
    async fn next(&mut self) -> Option<Result<Bytes, std::io::Error>> {
        if self.over {
            return None;
        }
        if !self.first.is_empty() {
            return Some(Ok(std::mem::take(&mut self.first).into()));
        }
        loop {
            let out = {
                let api = self.api.clone();
                let world = api.world();
                if world.watch_dropped(self.opened_ms) {
                    self.over = true;
                    return Some(Err(std::io::ErrorKind::ConnectionReset.into()));
                }
                self.collect(&world)
            };
            if !out.is_empty() {
                return Some(Ok(out.into()));
            }
            let due = self.last_bookmark.unwrap_or(self.deadline);
            match tokio::time::timeout_at(due, self.tick.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return None,
                Err(_) if self.last_bookmark.take().is_some() => {
                    let mut out = Vec::new();
                    line(&mut out, "BOOKMARK", &bookmark(self.kind, self.rv));
                    return Some(Ok(out.into()));
                }
                Err(_) => return None,
            }
        }
    }

    fn collect(&mut self, world: &World) -> Vec<u8> {
        let mut out = Vec::new();
        match world.events_since(self.rv) {
            Err(gone) => {
                let message = format!("too old resource version: {} ({})", self.rv, gone.oldest);
                line(&mut out, "ERROR", &status(&Refusal::expired(message)));
                self.over = true;
            }
            Ok(events) => {
                for event in &events {
                    self.write(world, event, &mut out);
                    self.rv = event.rv;
                }
                self.rv = self.rv.max(world.visible_version());
            }
        }
        if let Some(due) = self.next_bookmark_ms
            && world.now() >= due
            && !self.over
        {
            line(&mut out, "BOOKMARK", &bookmark(self.kind, self.rv));
            self.next_bookmark_ms = Some(world.now() + BOOKMARK_MS);
        }
        out
    }

    fn write(&self, world: &World, event: &Event, out: &mut Vec<u8>) {
        let (was, is, item) = match (&event.change, self.kind) {
            (Change::Node(node), Kind::Nodes) => {
                let holds = self.filter.holds(&node_fields(node));
                (holds, holds, render::node(world, node))
            }
            (Change::Pod(pod, before), Kind::Pods) => {
                let was = before.as_ref().is_some_and(|pod| self.filter.holds(&pod_fields(pod)));
                (was, self.filter.holds(&pod_fields(pod)), render::pod(world, pod))
            }
            (Change::Budget(budget), Kind::Budgets) => {
                let none = evenkeel_sim::objects::Map::new();
                let holds = self.filter.holds(&Fields::of_key(&budget.key, &none));
                (holds, holds, render::budget(world, budget))
            }
            _ => return,
        };
        let word = match (event.op, was, is) {
            (Op::Deleted, true, _) | (_, true, false) => "DELETED",
            (Op::Added, _, true) | (Op::Modified, false, true) => "ADDED",
            (Op::Modified, true, true) => "MODIFIED",
            _ => return,
        };
        line(out, word, &render::typed(self.kind.api_version(), self.kind.kind(), item));
    }
}

fn bookmark(kind: Kind, rv: u64) -> Value {
    let mut item = match kind {
        Kind::Nodes => render::no_node(),
        Kind::Pods => json!({"spec": {"containers": null}, "status": {}}),
        Kind::Budgets => json!({"spec": {}, "status": {
            "disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0,
        }}),
        Kind::Leases | Kind::Claims | Kind::Volumes => json!({"spec": {}}),
    };
    item["metadata"] = json!({"resourceVersion": rv.to_string()});
    render::typed(kind.api_version(), kind.kind(), item)
}
