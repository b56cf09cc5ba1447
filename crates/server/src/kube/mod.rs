//! The managed cluster's API server, spoken to through kube-rs: the port [`Cluster`] in production.
//!
//! Entry points: [`Api::connect`] and [`Api::check`]. Deliberately absent: retries of writes (the actor decides
//! again from the next observation), caches of objects (the actor owns the indexes), and any policy.

pub mod config;
pub mod register;

mod act;
mod connect;
mod intern;
mod join;
mod slim;
mod volumes;
mod watch;
mod wire;

use crate::records::Dress;
use crate::sync::ports::{Cluster, EvictAnswer, Fault, LiveNode, PodRef, Seen};
use async_trait::async_trait;
use config::{Access, ConfigError};
use evenkeel_engine::facts::{Mark, NodeSeen};
use evenkeel_engine::ids::NodeName;
use evenkeel_engine::preview::concern::Volumes;
use intern::Interner;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use wire::Wire;

/// How an API server may be reached.
#[derive(Clone, Debug)]
pub struct Options {
    /// Context of the kubeconfig; absent: its `current-context`.
    pub context: Option<String>,
    /// Whether the API server may be on this machine (rehearsals, tests, single-machine installations).
    pub allow_loopback: bool,
    /// Whether `insecure-skip-tls-verify` is obeyed instead of refused.
    pub allow_insecure_tls: bool,
    /// Limit of a TCP connect.
    pub connect_timeout: Duration,
    /// Limit of one request with its answer; watches have their own limits.
    pub request_timeout: Duration,
    /// Limits of watches.
    pub watch: WatchLimits,
}

/// How long a watch may take over what.
#[derive(Clone, Copy, Debug)]
pub struct WatchLimits {
    /// `timeoutSeconds`: the server ends the stream after this, and we resume.
    pub server_s: u32,
    /// Nothing at all came for this long: the connection is given up and resumed.
    pub idle: Duration,
    /// A stream may be broken this long before the view counts as lost.
    pub grace: Duration,
    /// First pause between attempts; doubles.
    pub backoff: Duration,
    /// Longest pause between attempts.
    pub backoff_cap: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            context: None,
            allow_loopback: false,
            allow_insecure_tls: false,
            // A TCP handshake that takes longer than this is a dead path, also across continents.
            connect_timeout: Duration::from_secs(5),
            // The API server itself gives up a request after 60 s; one of ours that takes 15 s is in trouble.
            request_timeout: Duration::from_secs(15),
            watch: WatchLimits::default(),
        }
    }
}

impl Default for WatchLimits {
    fn default() -> Self {
        Self {
            // As kube-runtime: below the 5 minutes at which common load balancers cut.
            server_s: 290,
            // The watch cache sends a bookmark about once a minute; two and a half of them missing is a stall.
            idle: Duration::from_secs(150),
            // Shorter interruptions are ordinary (an API server restarts, a load balancer moves).
            grace: Duration::from_secs(5),
            backoff: Duration::from_millis(200),
            backoff_cap: Duration::from_secs(5),
        }
    }
}

/// A connection to one cluster.
pub struct Api {
    wire: Wire,
    interner: Arc<Interner>,
    limits: WatchLimits,
    trouble: Arc<Trouble>,
    ca_data: Option<String>,
}

impl Api {
    /// Checks the kubeconfig and builds the client. Sends nothing. Needs a Tokio runtime.
    pub async fn connect(kubeconfig: &str, options: &Options) -> Result<Self, ConfigError> {
        let access = Access::parse(kubeconfig, options)?;
        let client = connect::client(&access, options)?;
        Ok(Self {
            wire: Wire::new(client, access.server().to_owned(), options.request_timeout),
            interner: Arc::new(Interner::default()),
            limits: options.watch,
            trouble: Arc::new(Trouble::default()),
            ca_data: access.ca_data().map(str::to_owned),
        })
    }

    /// Asks for the version and for each right of the shipped ClusterRole.
    pub async fn check(&self) -> Result<register::Registered, Fault> {
        register::check(&self.wire).await
    }

    /// The API server's address, as the kubeconfig gives it.
    pub fn server(&self) -> &str {
        self.wire.server()
    }

    /// Why the view is not live at present, for people.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.get()
    }
}

/// The last thing that went wrong with a watch.
#[derive(Default)]
pub(crate) struct Trouble(Mutex<Option<String>>);

impl Trouble {
    fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets it; whether it is new.
    fn set(&self, what: Option<String>) -> bool {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = *slot != what;
        *slot = what;
        new
    }
}

#[async_trait]
impl Cluster for Api {
    async fn watch(&self) -> Result<mpsc::Receiver<Vec<Seen>>, Fault> {
        watch::start(&self.wire, &self.interner, self.limits, &self.trouble).await
    }

    async fn claim(&self, node: &NodeSeen, mark: &Mark) -> Result<(), Fault> {
        act::claim(&self.wire, node, mark).await
    }

    async fn set_unschedulable(&self, node: &NodeSeen, value: bool) -> Result<(), Fault> {
        act::set_unschedulable(&self.wire, node, value).await
    }

    async fn release(
        &self,
        node: &NodeSeen,
        uncordon: bool,
        dress: Option<&Dress>,
    ) -> Result<(), Fault> {
        act::release(&self.wire, node, uncordon, dress).await
    }

    async fn steer(&self, node: &NodeSeen, away: bool) -> Result<(), Fault> {
        act::steer(&self.wire, node, away).await
    }

    async fn evict(&self, pod: &PodRef) -> Result<EvictAnswer, Fault> {
        act::evict(&self.wire, pod).await
    }

    async fn try_evict(&self, pod: &PodRef) -> Result<EvictAnswer, Fault> {
        act::try_evict(&self.wire, pod).await
    }

    async fn volumes(&self) -> Result<Volumes, Fault> {
        volumes::volumes(&self.wire).await
    }

    async fn delete(&self, pod: &PodRef) -> Result<(), Fault> {
        act::delete(&self.wire, pod).await
    }

    async fn confirm(&self, node: &NodeName) -> Result<LiveNode, Fault> {
        act::confirm(&self.wire, &self.interner, node).await
    }

    async fn heartbeat(&self, node: &NodeName) -> Result<Option<i64>, Fault> {
        act::heartbeat(&self.wire, node).await
    }

    async fn event(
        &self,
        node: &NodeSeen,
        reason: &str,
        message: &str,
        warning: bool,
    ) -> Result<(), Fault> {
        act::event(&self.wire, node, reason, message, warning).await
    }
}
