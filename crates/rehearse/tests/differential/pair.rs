//! The two servers, and the rows: the same call to both, whose answers must agree.

use crate::plain::{ESTIMATED_RETRY, differences, plain};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Longest wait for one answer, and for anything that a controller does on either side.
pub const LIMIT: Duration = Duration::from_secs(30);

pub const MERGE: &str = "application/merge-patch+json";
pub const JSON: &str = "application/json";
pub const JSON_PATCH: &str = "application/json-patch+json";

/// A call.
#[derive(Clone)]
pub struct Req {
    pub method: Method,
    pub path: String,
    pub body: Option<(&'static str, String)>,
    pub token: Option<&'static str>,
}

pub fn get(path: impl Into<String>) -> Req {
    Req { method: Method::GET, path: path.into(), body: None, token: None }
}

pub fn send(method: Method, path: impl Into<String>, kind: &'static str, body: &Value) -> Req {
    Req { method, body: Some((kind, body.to_string())), ..get(path) }
}

pub fn post(path: impl Into<String>, body: &Value) -> Req {
    send(Method::POST, path, JSON, body)
}

pub fn merge(path: impl Into<String>, body: &Value) -> Req {
    send(Method::PATCH, path, MERGE, body)
}

pub fn delete(path: impl Into<String>, body: &Value) -> Req {
    send(Method::DELETE, path, JSON, body)
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub content_type: String,
    pub retry_after: Option<String>,
    pub body: Value,
}

impl Answer {
    fn compared(&self) -> Value {
        let estimated = self.body == ESTIMATED_RETRY;
        json!({
            "code": self.code,
            "content-type": self.content_type,
            "retry-after": self.retry_after.as_ref().map(|s| if estimated { "<any>" } else { s }),
            "body": plain(&self.body),
        })
    }
}

/// One of the servers, as the product's user sees it.
pub struct Side {
    pub name: &'static str,
    pub client: reqwest::Client,
    pub base: String,
    pub token: String,
    /// The body of the last row's answer.
    pub last: Value,
    looked_up: BTreeMap<String, Value>,
}

impl Side {
    pub fn new(name: &'static str, client: reqwest::Client, base: String, token: String) -> Self {
        Self { name, client, base, token, last: Value::Null, looked_up: BTreeMap::new() }
    }

    pub fn open(&self, req: &Req) -> reqwest::RequestBuilder {
        let token = req.token.unwrap_or(&self.token);
        let mut request = self
            .client
            .request(req.method.clone(), format!("{}{}", self.base, req.path))
            .bearer_auth(token);
        if let Some((kind, body)) = &req.body {
            request = request.header("content-type", *kind).body(body.clone());
        }
        request
    }

    pub async fn ask(&self, req: &Req) -> Answer {
        let answer = self.open(req).timeout(LIMIT).send().await;
        let answer =
            answer.unwrap_or_else(|e| panic!("{}: {} {}: {e:?}", self.name, req.method, req.path));
        let header = |name: &str| {
            let value = answer.headers().get(name)?;
            Some(value.to_str().unwrap().to_owned())
        };
        let (content_type, retry_after) =
            (header("content-type").unwrap_or_default(), header("retry-after"));
        let code = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Answer { code, content_type, retry_after, body }
    }

    /// As `ask`, for what has to work.
    pub async fn must(&self, req: &Req) -> Value {
        let answer = self.ask(req).await;
        assert!(answer.code < 300, "{}: {} {}: {answer:?}", self.name, req.method, req.path);
        answer.body
    }

    /// An object of a list that the product may read: `nodes/NAME`, `pods/NAMESPACE/NAME`, `budgets/...`.
    pub async fn find(&self, what: &str) -> Option<Value> {
        let parts: Vec<&str> = what.split('/').collect();
        let list = match parts[0] {
            "nodes" => "/api/v1/nodes".to_owned(),
            "pods" => format!("/api/v1/namespaces/{}/pods", parts[1]),
            "budgets" => format!("/apis/policy/v1/namespaces/{}/poddisruptionbudgets", parts[1]),
            other => panic!("{other}"),
        };
        let name = parts[parts.len() - 1];
        let mut list =
            self.must(&get(format!("{list}?fieldSelector=metadata.name%3D{name}"))).await;
        list["items"].as_array_mut().unwrap().pop()
    }

    fn seen(&self, what: &str) -> &Value {
        self.looked_up.get(what).unwrap_or_else(|| panic!("{what} was not looked up"))
    }

    pub fn uid(&self, what: &str) -> String {
        self.seen(what)["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    pub fn version(&self, what: &str) -> String {
        self.seen(what)["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
    }
}

/// Both, and what was found.
pub struct Pair {
    pub played: Side,
    pub real: Side,
    pub rows: Vec<(String, Vec<String>)>,
}

impl Pair {
    /// Remembers an object of both sides for `uid` and `version`.
    pub async fn look(&mut self, what: &str) {
        for side in [&mut self.played, &mut self.real] {
            let found = side.find(what).await;
            let found = found.unwrap_or_else(|| panic!("{} has no {what}", side.name));
            side.looked_up.insert(what.to_owned(), found);
        }
    }

    /// The same call to both: the real server must answer with this code, and the played one the same.
    pub async fn row(&mut self, name: &str, code: u16, req: impl Fn(&Side) -> Req) {
        let played = self.played.ask(&req(&self.played)).await;
        let real = self.real.ask(&req(&self.real)).await;
        self.answers(name, code, played, real);
    }

    /// Two answers to what was the same call.
    pub fn answers(&mut self, name: &str, code: u16, played: Answer, real: Answer) {
        let mut found = differences(&played.compared(), &real.compared());
        if real.code != code {
            found.push(format!("expected {code} of the real server: {}", real.body));
        }
        self.played.last = played.body;
        self.real.last = real.body;
        self.note(name, found);
    }

    /// Rows that compare something else than one answer.
    pub fn values(&mut self, name: &str, played: &Value, real: &Value) {
        self.note(name, differences(&plain(played), &plain(real)));
    }

    pub fn note(&mut self, name: &str, found: Vec<String>) {
        println!("{} {name}", if found.is_empty() { "same  " } else { "DIFFER" });
        for line in &found {
            println!("       {line}");
        }
        self.rows.push((name.to_owned(), found));
    }

    /// Waits until the same read gives the same on both sides: their controllers need a moment.
    pub async fn settle(&mut self, name: &str, path: &str) {
        let begun = Instant::now();
        loop {
            let played = self.played.ask(&get(path)).await.compared();
            let real = self.real.ask(&get(path)).await.compared();
            let found = differences(&played, &real);
            if found.is_empty() || begun.elapsed() > LIMIT {
                return self.note(name, found);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Reads a watch until so many events have come, or until it ends.
pub struct Stream {
    response: reqwest::Response,
    rest: Vec<u8>,
}

impl Stream {
    pub async fn open(side: &Side, path: &str) -> Self {
        let response = side.open(&get(path)).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 200, "{}: {path}", side.name);
        Self { response, rest: Vec::new() }
    }

    /// The next event; `None` when the watch has ended.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(at) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=at).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let chunk = tokio::time::timeout(LIMIT, self.response.chunk())
                .await
                .expect("waited for an event or the end of a watch");
            self.rest.extend_from_slice(&chunk.unwrap()?);
        }
    }

    pub async fn take(&mut self, count: usize) -> Value {
        let mut events = Vec::new();
        while events.len() < count {
            let Some(event) = self.next().await else {
                break;
            };
            events.push(event);
        }
        events.into()
    }
}
