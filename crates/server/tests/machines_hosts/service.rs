//! A webhook service of the test: it answers what it is told to, keeps what it was asked, and checks every signature.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use sha2::Sha256;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

pub const SECRET: &str = "canary-secret-of-the-webhook";

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: Method,
    pub path: String,
    pub key: String,
    pub body: Value,
}

/// Status, Location, body.
pub type Scripted = (u16, Option<&'static str>, String);

type Make = Box<dyn Fn(&Asked) -> Scripted + Send + Sync>;

struct Inner {
    asked: Mutex<Vec<Asked>>,
    answers: Mutex<VecDeque<Make>>,
}

pub struct Service {
    inner: Arc<Inner>,
    pub url: String,
}

impl Service {
    pub async fn start() -> Self {
        let inner = Arc::new(Inner { asked: Mutex::default(), answers: Mutex::default() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook?token=canary-token", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(Arc::clone(&inner));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { inner, url }
    }

    /// The next answer; the last one is given again for ever.
    pub fn then(&self, make: impl Fn(&Asked) -> Scripted + Send + Sync + 'static) -> &Self {
        self.inner.answers.lock().unwrap().push_back(Box::new(make));
        self
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.inner.asked.lock().unwrap().clone()
    }
}

async fn answer(
    State(inner): State<Arc<Inner>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let text = |name: &str| headers.get(name).unwrap().to_str().unwrap().to_owned();
    let key = text("idempotency-key");
    let signed: &[u8] = if method == Method::GET { key.as_bytes() } else { &body };
    let mac = <Hmac<Sha256>>::new_from_slice(SECRET.as_bytes()).unwrap().chain_update(signed);
    let wanted = format!("sha256={}", hex::encode(mac.finalize().into_bytes()));
    if text("x-evenkeel-signature") != wanted {
        return (StatusCode::UNAUTHORIZED, "bad signature").into_response();
    }
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let asked = Asked { method, path: uri.path().to_owned(), key, body };
    inner.asked.lock().unwrap().push(asked.clone());
    let scripted = {
        let mut answers = inner.answers.lock().unwrap();
        let made = answers.front().unwrap()(&asked);
        if answers.len() > 1 {
            answers.pop_front();
        }
        made
    };
    let (status, location, body) = scripted;
    let mut response = (StatusCode::from_u16(status).unwrap(), body).into_response();
    if let Some(location) = location {
        response.headers_mut().insert("location", location.parse().unwrap());
    }
    response
}
