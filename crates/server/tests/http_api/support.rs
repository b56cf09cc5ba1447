//! A server with two projects, a cluster of six nodes and a pool, and a client that signs.

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use bytes::Bytes;
use evenkeel_api::sign::{self, RequestParts};
use evenkeel_engine::facts::{NodeSeen, Readiness};
use evenkeel_engine::ids::{ClusterId, NodeId, NodeName, PoolId, TemplateRevision};
use evenkeel_engine::place::Resources;
use evenkeel_engine::preview::{self, Ask};
use evenkeel_engine::sync::Policy;
use evenkeel_engine::time::Time;
use evenkeel_server::agents::Exchange;
use evenkeel_server::http::ports::{
    Foreseen, OutputChunk, OutputQuery, OutputSource, PasswordError, Passwords, PreviewError,
    Previews, RegisterError, Registered, Registrar, Scanned, Scanner,
};
use evenkeel_server::http::{self, ApiConfig, ApiState, vault};
use evenkeel_server::machines::password;
use evenkeel_server::records::{
    self, AccessKeyRecord, ClusterRecord, KeypairRecord, NodeRecord, ProjectRecord, Recipe,
    UserRecord, keys,
};
use evenkeel_server::secrets::KeyFile;
use evenkeel_server::store::memory::MemoryStore;
use evenkeel_server::store::{
    KeyValue, LeaseId, Listing, Page, Revision, Store, StoreError, Txn, TxnResult, Watch,
};
use evenkeel_server::sync::board::{Board, Snapshot};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;
use tower::ServiceExt;

pub const PROJECT: &str = "0123456789abcdef0123456789abcdef";
pub const OTHER_PROJECT: &str = "fedcba9876543210fedcba9876543210";
pub const CLUSTER: &str = "11111111-2222-3333-4444-555555555555";
pub const OTHER_CLUSTER: &str = "99999999-2222-3333-4444-555555555555";
pub const POOL: &str = "cccccccc-cccc-cccc-cccc-cccccccccccc";
pub const OTHER_POOL: &str = "dddddddd-cccc-cccc-cccc-cccccccccccc";
pub const NODE_A: &str = "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa";
pub const NODE_B: &str = "bbbbbbbb-bbbb-bbbb-bbbb-bbbbbbbbbbbb";
pub const NODE_ELSEWHERE: &str = "eeeeeeee-0000-4000-8000-000000000001";
pub const NODE_LOOSE: &str = "eeeeeeee-0000-4000-8000-000000000002";
pub const NODE_CONTROL: &str = "eeeeeeee-0000-4000-8000-000000000003";
pub const NODE_FOREIGN: &str = "eeeeeeee-0000-4000-8000-000000000004";
pub const AK: &str = "AKEXAMPLE0000000000A";
pub const AK_SAME_PROJECT: &str = "AKEXAMPLE0000000000C";
pub const AK_OTHER: &str = "AKEXAMPLE0000000000X";
pub const SK: &str = "SKexample0000000000000000000000000000000B";
pub const USER_PASSWORD: &str = "Canary-User-Password-1";
pub const PUBLIC_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ test";
/// 2026-11-23T17:25:13Z, when the recorded requests were made.
pub const START_MS: i64 = 1_795_454_713_000;

/// Text that must appear nowhere but behind a seal.
pub const CANARY_SCRIPT: &str = "echo canary-script-7f3a";
pub const CANARY_PASSWORD: &str = "Canary-Pw-7f3a";

struct FakeRegistrar;

#[async_trait]
impl Registrar for FakeRegistrar {
    async fn check(&self, kubeconfig: &str) -> Result<Registered, RegisterError> {
        match kubeconfig {
            "unreachable" => {
                Err(RegisterError::Unreachable("https://127.0.0.1:1 does not answer".into()))
            }
            "exec" => Err(RegisterError::Kubeconfig(
                "users[0].user.exec runs a program; give a token".into(),
            )),
            "weak" => Err(RegisterError::Rights(
                "the credential may not evict pods; apply the role".into(),
            )),
            text => Ok(Registered {
                version: "v1.34.1".into(),
                server: "https://127.0.0.1:6443".into(),
                kubeconfig: text.into(),
            }),
        }
    }
}

/// Previews of a cluster of which nothing but the nodes' names is seen.
struct FakePreviews;

#[async_trait]
impl Previews for FakePreviews {
    async fn preview(&self, _: &ClusterId, ask: Ask) -> Result<Foreseen, PreviewError> {
        if ask.spec.max_unavailable == 19 {
            return Err(PreviewError::NotSeen("the API server's watches are down".into()));
        }
        let (index, volumes, learned) = Default::default();
        let view =
            preview::View { index: &index, volumes: &volumes, learned: &learned, now: Time(0) };
        Ok(Foreseen {
            preview: preview::preview(&view, &ask),
            trials: Vec::new(),
            unknown: Vec::new(),
            zones: BTreeMap::new(),
        })
    }
}

struct FakeScanner;

#[async_trait]
impl Scanner for FakeScanner {
    async fn scan(&self, place: &str, port: u16) -> Result<Scanned, String> {
        if place.starts_with("gone") {
            return Err("host gone:22 cannot be reached".into());
        }
        Ok(Scanned {
            address: format!("{place}:{port}"),
            host_key: PUBLIC_KEY.into(),
            fingerprint: "SHA256:shown".into(),
        })
    }
}

struct FakeOutputs;

#[async_trait]
impl OutputSource for FakeOutputs {
    async fn read(&self, query: &OutputQuery) -> std::io::Result<Option<OutputChunk>> {
        if query.attempt > 1 {
            return Ok(None);
        }
        let data = b"hello from the host".to_vec();
        let from = usize::try_from(query.offset).unwrap().min(data.len());
        Ok(Some(OutputChunk {
            next_offset: data.len() as u64,
            data: data[from..].to_vec(),
            complete: true,
        }))
    }
}

struct RealPasswords;

impl Passwords for RealPasswords {
    fn hash(&self, clear: &str) -> Result<String, PasswordError> {
        let hash = password::hash(&SecretString::from(clear))
            .map_err(|error| PasswordError(error.to_string()))?;
        Ok(hash.expose_secret().to_owned())
    }

    fn matches(&self, clear: &str, hash: &str) -> bool {
        password::verify(&SecretString::from(clear), &SecretString::from(hash))
    }
}

/// What the store does with the next transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    None = 0,
    Full = 1,
    Transient = 2,
    /// Applied, and the answer lost.
    LostAnswer = 3,
    /// Not applied, and nobody knows.
    LostRequest = 4,
}

/// The memory store, with faults.
pub struct TestStore {
    inner: MemoryStore,
    fault: AtomicU8,
    dice: AtomicU64,
}

impl TestStore {
    /// Gives way a few times, by a fixed sequence, so that calls at the same time interleave.
    async fn pause(&self) {
        // Knuth's MMIX constants.
        let step = |x: u64| {
            Some(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407))
        };
        let drawn = self.dice.fetch_update(Ordering::SeqCst, Ordering::SeqCst, step).unwrap();
        for _ in 0..(drawn >> 60) % 5 {
            tokio::task::yield_now().await;
        }
    }

    /// Starts another sequence.
    pub fn seed(&self, seed: u64) {
        self.dice.store(seed, Ordering::SeqCst);
    }

    pub fn set(&self, fault: Fault) {
        self.fault.store(fault as u8, Ordering::SeqCst);
    }
}

fn transient(in_doubt: bool) -> StoreError {
    let source = Box::new(std::io::Error::other("injected"));
    StoreError::Transient { during: "a test", in_doubt, source }
}

#[async_trait]
impl Store for TestStore {
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<Option<KeyValue>, StoreError> {
        self.pause().await;
        self.inner.get(key, at).await
    }
    async fn list(&self, prefix: &str, page: Page) -> Result<Listing, StoreError> {
        self.pause().await;
        self.inner.list(prefix, page).await
    }
    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        self.pause().await;
        match self.fault.load(Ordering::SeqCst) {
            1 => Err(StoreError::Full),
            2 => Err(transient(false)),
            3 => {
                self.inner.txn(txn).await?;
                Err(transient(true))
            }
            4 => Err(transient(true)),
            _ => self.inner.txn(txn).await,
        }
    }
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        self.inner.watch(prefix, from).await
    }
    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.inner.lease_grant(ttl).await
    }
    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.lease_keep_alive(lease).await
    }
    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.lease_revoke(lease).await
    }
    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.compact(revision).await
    }
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.inner.revision().await
    }
}

pub struct World {
    pub store: Arc<TestStore>,
    pub board: Board,
    pub keys: Arc<KeyFile>,
    pub agents: Exchange,
    pub router: Router,
    pub clock: Arc<AtomicI64>,
    _dir: tempfile::TempDir,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
    pub json: Value,
}

impl Answer {
    pub fn code(&self) -> &str {
        self.json["error_code"].as_str().unwrap_or("")
    }

    pub fn message(&self) -> &str {
        self.json["error_msg"].as_str().unwrap_or("")
    }

    /// The answer without what differs from call to call.
    pub fn stable(&self, ids: &[&str]) -> (StatusCode, String) {
        let mut body = self.json.clone();
        if let Some(fields) = body.as_object_mut() {
            fields.remove("request_id");
        }
        let mut text = body.to_string();
        for id in ids {
            text = text.replace(id, "<id>");
        }
        (self.status, text)
    }
}

/// A request to be signed.
#[derive(Clone)]
pub struct Call<'a> {
    pub method: &'a str,
    pub target: String,
    pub body: String,
    pub headers: Vec<(&'a str, String)>,
    pub ak: &'a str,
    pub sk: &'a str,
}

impl World {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let keys = KeyFile::open(&dir.path().join("key"), &dir.path().join("data"), true).unwrap();
        let store = Arc::new(TestStore {
            inner: MemoryStore::new(),
            fault: AtomicU8::new(0),
            dice: AtomicU64::new(1),
        });
        let clock = Arc::new(AtomicI64::new(START_MS));
        let reading = clock.clone();
        let (board, keys) = (Board::default(), Arc::new(keys));
        let agents = Exchange::default();
        let state = ApiState {
            store: store.clone(),
            secrets: keys.clone(),
            board: board.clone(),
            clock: Arc::new(move || reading.load(Ordering::SeqCst)),
            registrar: Arc::new(FakeRegistrar),
            previews: Arc::new(FakePreviews),
            scanner: Arc::new(FakeScanner),
            outputs: Arc::new(FakeOutputs),
            passwords: Arc::new(RealPasswords),
            agents: agents.clone(),
            config: Arc::new(ApiConfig {
                region_name: "cn-north-4".into(),
                ..ApiConfig::default()
            }),
        };
        let world =
            Self { store, board, keys, agents, router: http::router(state), clock, _dir: dir };
        world.fill().await;
        world
    }

    pub async fn put(&self, key: String, record: &impl serde::Serialize) {
        self.store.txn(Txn::new().put(key, records::encode(record))).await.unwrap();
    }

    async fn fill(&self) {
        for (id, name) in [(PROJECT, "main"), (OTHER_PROJECT, "other")] {
            let project = ProjectRecord {
                id: id.into(),
                name: name.into(),
                domain_id: format!("domain-of-{name}"),
                domain_name: format!("{name}-domain"),
            };
            self.put(keys::project(id), &project).await;
        }
        for (ak, project) in [(AK, PROJECT), (AK_SAME_PROJECT, PROJECT), (AK_OTHER, OTHER_PROJECT)]
        {
            let secret = self.keys.seal(&vault::access_key(project, ak), SK.as_bytes()).unwrap();
            let record = AccessKeyRecord {
                ak: ak.into(),
                secret,
                project: project.into(),
                user: "admin".into(),
                enabled: true,
            };
            self.put(keys::access_key(ak), &record).await;
        }
        self.put(keys::user("admin"), &user()).await;
        for (project, cluster) in [(PROJECT, CLUSTER), (OTHER_PROJECT, OTHER_CLUSTER)] {
            let id = ClusterId::new(cluster);
            let record = ClusterRecord {
                kubeconfig: self
                    .keys
                    .seal(&vault::kubeconfig(project, &id), b"canary-kubeconfig")
                    .unwrap(),
                id,
                name: "lab".into(),
                version: "v1.34.1".into(),
                server: "https://127.0.0.1:6443".into(),
                machines: None,
                recipe: Some(Recipe::None),
                policy: Policy::default(),
                created_ms: START_MS,
            };
            self.put(keys::cluster(project, &record.id), &record).await;
        }
        let pair = KeypairRecord { name: "kp".into(), public_keys: vec![PUBLIC_KEY.into()] };
        self.put(keys::keypair(PROJECT, "kp"), &pair).await;
        self.pool(POOL, "pool-0").await;
        self.pool(OTHER_POOL, "pool-x").await;
        for (id, name, pool) in [
            (NODE_A, "node-a", POOL),
            (NODE_B, "node-b", POOL),
            (NODE_ELSEWHERE, "node-c", OTHER_POOL),
            (NODE_LOOSE, "node-d", "DefaultPool"),
            (NODE_CONTROL, "node-e", "DefaultPool"),
        ] {
            self.node(PROJECT, CLUSTER, id, name, pool).await;
        }
        self.node(OTHER_PROJECT, OTHER_CLUSTER, NODE_FOREIGN, "node-z", "DefaultPool").await;
        let nodes = ["node-a", "node-b", "node-c", "node-d", "node-e"].map(|name| {
            let seen = seen(name, name == "node-e", name != "node-b");
            (NodeName::new(name), Arc::new(seen))
        });
        let snapshot = Snapshot {
            live: true,
            nodes: Arc::new(nodes.into()),
            now: Time(1_000_000),
            wall_ms: START_MS,
            ..Snapshot::default()
        };
        self.board.publish(&ClusterId::new(CLUSTER), snapshot);
    }

    /// A pool with a known id: made through the API, then stored under that id.
    async fn pool(&self, id: &str, name: &str) {
        let spec = json!({ "type": "vm", "initialNodeCount": 2, "nodeTemplate": { "os": "EulerOS 2.9", "az": "z1" } });
        let record = records::PoolRecord {
            id: PoolId::new(id),
            name: name.into(),
            spec,
            template: records::Template::default(),
            configuration: evenkeel_api::configuration::Settings::new(),
            revision: TemplateRevision::new("rev-1"),
            proven: None,
            created_ms: START_MS,
            updated_ms: START_MS,
        };
        let cluster = ClusterId::new(CLUSTER);
        self.put(keys::pool_name(PROJECT, &cluster, name), &record.id).await;
        self.put(keys::pool(PROJECT, &cluster, &record.id), &record).await;
    }

    pub async fn node(&self, project: &str, cluster: &str, id: &str, name: &str, pool: &str) {
        let record = NodeRecord {
            id: NodeId::new(id),
            name: name.into(),
            pool: PoolId::new(pool),
            machine_id: Some(format!("machine-{name}")),
            system_uuid: None,
            internal_ip: None,
            provider_id: None,
            applied: None,
            image: None,
            carries: Default::default(),
            created_ms: START_MS,
            updated_ms: START_MS,
        };
        self.put(keys::node(project, &ClusterId::new(cluster), &record.id), &record).await;
    }

    /// Changes the cluster's record.
    pub async fn cluster(&self, change: impl FnOnce(&mut ClusterRecord)) {
        let key = keys::cluster(PROJECT, &ClusterId::new(CLUSTER));
        let mut record: ClusterRecord = self.record(&key).await.unwrap();
        change(&mut record);
        self.put(key, &record).await;
    }

    pub async fn record<T: serde::de::DeserializeOwned>(&self, key: &str) -> Option<T> {
        let kv = self.store.get(key, None).await.unwrap()?;
        Some(records::decode(key, &kv.value).unwrap())
    }

    /// Ends the synchronization of a pool as the actor would.
    pub async fn release(&self, pool: &str) {
        let key = keys::active(PROJECT, &ClusterId::new(CLUSTER), &PoolId::new(pool));
        self.store.txn(Txn::new().delete(key)).await.unwrap();
    }

    /// Number of keys under a prefix.
    pub async fn count(&self, prefix: &str) -> usize {
        self.store.list(prefix, Page::all()).await.unwrap().items.len()
    }

    /// Everything that a refused acceptance must leave alone.
    pub async fn jobs(&self) -> usize {
        let cluster = ClusterId::new(CLUSTER);
        self.count(&keys::jobs(PROJECT, &cluster)).await
            + self.count(&keys::actives(PROJECT, &cluster)).await
            + self.count(&keys::job_indexes(PROJECT, "")).await
    }

    /// All keys and values.
    pub async fn dump(&self) -> Vec<(String, Bytes)> {
        let all = self.store.list("", Page::all()).await.unwrap();
        all.items.into_iter().map(|kv| (kv.key, kv.value)).collect()
    }

    /// Signs with a fresh second, so that no two calls share a signature by chance.
    pub async fn call(&self, method: &str, target: &str, body: &str) -> Answer {
        self.clock.fetch_add(1000, Ordering::SeqCst);
        self.send(&self.sign(&call(method, target, body))).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", &format!("/api/v3/projects/{PROJECT}{path}"), "").await
    }

    /// `POST operation/upgrade` on a pool.
    pub async fn upgrade(&self, pool: &str, body: &Value) -> Answer {
        self.call("POST", &upgrade_path(pool), &body.to_string()).await
    }

    /// The signed request.
    pub fn sign(&self, call: &Call<'_>) -> Signed {
        let date = sign::date_header(self.clock.load(Ordering::SeqCst).div_euclid(1000));
        let mut headers: Vec<(String, String)> =
            vec![("host".into(), "127.0.0.1:8080".into()), ("x-sdk-date".into(), date)];
        headers
            .extend(call.headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let (path, query) = call.target.split_once('?').unwrap_or((&call.target, ""));
        let parts = RequestParts {
            method: call.method,
            raw_path: path,
            raw_query: query,
            headers: &headers,
            body: call.body.as_bytes(),
        };
        let authorization = sign::sign(&parts, call.ak, call.sk.as_bytes()).unwrap();
        headers.push(("authorization".into(), authorization));
        Signed {
            method: call.method.into(),
            target: call.target.clone(),
            headers,
            body: call.body.clone(),
        }
    }

    pub async fn send(&self, signed: &Signed) -> Answer {
        let mut request = Request::builder().method(signed.method.as_str()).uri(&signed.target);
        for (name, value) in &signed.headers {
            request = request.header(name, value);
        }
        let request = request.body(Body::from(signed.body.clone())).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        assert_eq!(parts.headers["content-type"], "application/json", "{text}");
        assert!(parts.headers.contains_key("x-request-id"));
        let json: Value =
            serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text:?}"));
        if !parts.status.is_success() {
            assert_eq!(json["error_code"], json["errorCode"]);
            assert_eq!(json["error_msg"], json["errorMessage"]);
            assert_eq!(json["request_id"], parts.headers["x-request-id"].to_str().unwrap());
            assert!(json["error_code"].is_string() && json.get("message").is_none(), "{text}");
        }
        Answer { status: parts.status, headers: parts.headers, text, json }
    }
}

/// A request as it goes over the wire.
#[derive(Clone)]
pub struct Signed {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Signed {
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(header, _)| header != name);
        self
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

pub fn call<'a>(method: &'a str, target: &str, body: &str) -> Call<'a> {
    let headers = if body.is_empty() {
        vec![]
    } else {
        vec![("content-type", "application/json".to_owned())]
    };
    Call { method, target: target.into(), body: body.into(), headers, ak: AK, sk: SK }
}

pub fn base() -> String {
    format!("/api/v3/projects/{PROJECT}/clusters/{CLUSTER}")
}

pub fn upgrade_path(pool: &str) -> String {
    format!("{}/nodepools/{pool}/operation/upgrade", base())
}

/// The smallest request for a pool.
pub fn minimal(pool: &str) -> Value {
    json!({ "spec": { "nodePoolID": pool, "maxUnavailable": 1 } })
}

fn user() -> UserRecord {
    use argon2::{Algorithm, Argon2, Params, PasswordHasher, Version};
    // The smallest parameters: these tests are about who gets in, not about the cost.
    let argon =
        Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, None).unwrap());
    let hash = argon.hash_password(USER_PASSWORD.as_bytes()).unwrap().to_string();
    UserRecord {
        id: "user-1".into(),
        name: "admin".into(),
        password_hash: hash,
        project: PROJECT.into(),
    }
}

fn seen(name: &str, control_plane: bool, ready: bool) -> NodeSeen {
    NodeSeen {
        name: NodeName::new(name),
        uid: name.into(),
        resource_version: "1".into(),
        unschedulable: false,
        ready: if ready { Readiness::Ready } else { Readiness::NotReady },
        mark: None,
        hold: false,
        zone: Some("z1".into()),
        control_plane,
        machine_id: None,
        system_uuid: None,
        provider_id: None,
        internal_ip: Some("127.0.0.9".into()),
        kubelet_version: None,
        labels: Arc::new(BTreeMap::new()),
        taints: Arc::default(),
        allocatable: Resources::default(),
        met: Arc::default(),
    }
}
