//! A scripted API server on loopback: it answers each request as the test says, down to cutting the connection.

use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `GET /api/v1/nodes`; watches are `WATCH /api/v1/nodes`. Without the query.
    pub what: String,
    /// The query, undecoded.
    pub query: String,
    /// Header names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: String,
}

impl Asked {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// What happens to a request.
pub enum Reply {
    /// A whole answer.
    Whole { code: u16, headers: Vec<(&'static str, String)>, body: String },
    /// 200 and a chunked stream.
    Stream(Vec<Piece>),
    /// The connection is closed without a word.
    Drop,
    /// Nothing comes until the client gives up.
    Silence,
}

/// A part of a stream.
pub enum Piece {
    /// Bytes as they are.
    Text(String),
    /// A pause.
    Wait(Duration),
    /// The stream stays open and silent.
    Hold,
    /// The connection breaks in the middle. Without it the stream ends well.
    Cut,
}

pub fn ok(body: Value) -> Reply {
    Reply::Whole { code: 200, headers: vec![], body: body.to_string() }
}

pub fn status(code: u16, message: &str) -> Reply {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code});
    Reply::Whole { code, headers: vec![], body: body.to_string() }
}

/// The server's answer about an object that is not there.
pub fn missing(kind: &str, name: &str) -> Reply {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404,
        "message": format!("{kind} \"{name}\" not found"), "reason": "NotFound",
        "details": {"name": name, "kind": kind}});
    Reply::Whole { code: 404, headers: vec![], body: body.to_string() }
}

/// A list at a version.
pub fn list(version: &str, items: &[Value]) -> Reply {
    ok(json!({"metadata": {"resourceVersion": version}, "items": items}))
}

/// A watch event as its line.
pub fn event(kind: &str, object: Value) -> Piece {
    Piece::Text(format!("{}\n", json!({"type": kind, "object": object})))
}

#[derive(Default)]
struct Script {
    replies: BTreeMap<String, VecDeque<Reply>>,
    asked: Vec<Asked>,
}

/// The server. Unscripted lists are empty at version 1, unscripted watches stay open and silent, everything else
/// is 500.
#[derive(Clone)]
pub struct Server {
    script: Arc<Mutex<Script>>,
    pub address: String,
}

impl Server {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let server = Self { script: Arc::default(), address };
        let shared = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = shared.clone();
                tokio::spawn(async move { server.serve(stream).await });
            }
        });
        server
    }

    /// Appends replies for `METHOD /path`.
    pub fn on(&self, what: &str, replies: Vec<Reply>) -> &Self {
        self.script.lock().unwrap().replies.entry(what.to_owned()).or_default().extend(replies);
        self
    }

    /// All requests of this kind so far.
    pub fn asked(&self, what: &str) -> Vec<Asked> {
        self.script.lock().unwrap().asked.iter().filter(|a| a.what == what).cloned().collect()
    }

    async fn serve(&self, stream: TcpStream) -> Option<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let asked = read_request(&mut stream).await?;
            let reply = {
                let mut script = self.script.lock().unwrap();
                script.asked.push(asked.clone());
                script.replies.get_mut(&asked.what).and_then(VecDeque::pop_front)
            };
            let reply = reply.unwrap_or_else(|| match asked.what.split_once(' ') {
                Some(("WATCH", _)) => Reply::Stream(vec![Piece::Hold]),
                Some((
                    "GET",
                    "/api/v1/nodes" | "/api/v1/pods" | "/apis/policy/v1/poddisruptionbudgets",
                )) => list("1", &[]),
                _ => status(500, "unscripted"),
            });
            answer(&mut stream, reply).await?;
        }
    }
}

async fn read_request(stream: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut line = String::new();
    if stream.read_line(&mut line).await.ok()? == 0 {
        return None;
    }
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.to_owned()),
            None => break,
        };
    }
    let length = headers.get("content-length").map_or(0, |l: &String| l.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let method = if query.contains("watch=true") { "WATCH" } else { &method };
    Some(Asked {
        what: format!("{method} {path}"),
        query: query.to_owned(),
        headers,
        body: String::from_utf8(body).unwrap(),
    })
}

async fn answer(stream: &mut BufReader<TcpStream>, reply: Reply) -> Option<()> {
    match reply {
        Reply::Drop => None,
        Reply::Silence => {
            // Ends when the client closes the connection.
            let mut byte = [0];
            drop(stream.read(&mut byte).await);
            None
        }
        Reply::Whole { code, headers, body } => {
            let mut head = format!("HTTP/1.1 {code} X\r\nContent-Length: {}\r\n", body.len());
            for (name, value) in headers {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            stream.write_all(format!("{head}\r\n{body}").as_bytes()).await.ok()
        }
        Reply::Stream(pieces) => {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                .await
                .ok()?;
            for piece in pieces {
                match piece {
                    Piece::Text(text) => {
                        let chunk = format!("{:x}\r\n{text}\r\n", text.len());
                        stream.write_all(chunk.as_bytes()).await.ok()?;
                    }
                    Piece::Wait(pause) => tokio::time::sleep(pause).await,
                    Piece::Hold => {
                        let mut byte = [0];
                        drop(stream.read(&mut byte).await);
                        return None;
                    }
                    Piece::Cut => return None,
                }
            }
            stream.write_all(b"0\r\n\r\n").await.ok()
        }
    }
}
