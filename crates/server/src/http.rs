//! The HTTP API: handlers record what is wanted and answer; they never call Kubernetes or a machine.
//!
//! Entry points: [`router`] and [`ROUTES`], the one table of everything that is served. Every route but those marked
//! [`Access::Public`] stands behind one outer layer (`gate`) that lets nobody through by default.
//! Absent on purpose: listening, TLS, and decisions about nodes.

mod agent;
mod audit;
mod auth;
mod clusters;
mod convert;
pub mod error;
mod ext;
mod gate;
mod health;
mod iam;
mod jobs;
mod load;
mod nodepools;
mod nodes;
pub mod ports;
mod query;
mod replay;
pub mod revision;
pub mod vault;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodFilter, MethodRouter, on};
use evenkeel_api::ErrorCode;
use evenkeel_engine::sync::Policy;

use crate::agents::Exchange;
use crate::secrets::KeyFile;
use crate::store::Store;
use crate::sync::board::Board;
use error::ApiError;
use ports::{OutputSource, Passwords, Previews, Registrar, Scanner};

/// Milliseconds since the epoch.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// What the handlers work with. The composition root fills it.
#[derive(Clone)]
pub struct ApiState {
    /// Where everything is recorded.
    pub store: Arc<dyn Store>,
    /// Seals and opens secrets.
    pub secrets: Arc<KeyFile>,
    /// What the actors publish.
    pub board: Board,
    /// The wall clock.
    pub clock: Clock,
    /// Looks at clusters that are to be registered.
    pub registrar: Arc<dyn Registrar>,
    /// Says what a synchronization would do.
    pub previews: Arc<dyn Previews>,
    /// Looks at the host keys of machines that are to be registered.
    pub scanner: Arc<dyn Scanner>,
    /// What scripts printed.
    pub outputs: Arc<dyn OutputSource>,
    /// Hashes node passwords.
    pub passwords: Arc<dyn Passwords>,
    /// Where calls wait for agents.
    pub agents: Exchange,
    /// Settings.
    pub config: Arc<ApiConfig>,
}

/// Settings of the API.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// SDKs look their project up by the name of their region.
    pub region_name: String,
    /// Largest `maxUnavailable` taken; the API page says 20.
    pub max_unavailable_cap: u16,
    /// Largest body in bytes. 256 KiB holds 5,000 node ids and both scripts; it is hashed before it is read.
    pub body_limit: usize,
    /// How long a body may take to arrive. The slowest official client allows 60 s for a connection.
    pub body_timeout: Duration,
    /// Life of a token; IAM's is 24 h.
    pub token_ttl: Duration,
    /// Time limits of newly registered clusters.
    pub policy: Policy,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            region_name: "evenkeel".to_owned(),
            max_unavailable_cap: 20,
            body_limit: 256 * 1024,
            body_timeout: Duration::from_mins(1),
            token_ttl: Duration::from_hours(24),
            policy: Policy::default(),
        }
    }
}

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody: it tells nothing, or carries its own password.
    Public,
    /// Whoever proves an identity.
    Principal,
    /// The agent of one node, for that node alone.
    Agent,
}

/// One thing that is served.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Method.
    pub method: &'static str,
    /// Path with `{name}` for what varies.
    pub path: &'static str,
    /// Who may call.
    pub access: Access,
    operation: Operation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Health,
    CreateToken,
    ShowToken,
    ListProjects,
    ListAuthProjects,
    ListAuthDomains,
    ListUsers,
    ListClusters,
    ShowCluster,
    CreatePool,
    ListPools,
    ShowPool,
    UpdatePool,
    ShowConfiguration,
    DetailConfiguration,
    UpdateConfiguration,
    UpgradePool,
    MigrateNodes,
    ListNodes,
    ShowNode,
    ShowJob,
    RegisterCluster,
    SetMachines,
    ScanMachines,
    ImportKeypair,
    ListKeypairs,
    PreviewUpgrade,
    DescribeJob,
    ShowPolicy,
    SetPolicy,
    PauseJob,
    ResumeJob,
    CancelJob,
    RetryNodes,
    SkipNodes,
    ForceNode,
    ReadOutput,
    CreateAgentToken,
    ListAgents,
    RevokeAgent,
    EnrolAgent,
    NextAgentCall,
    EndAgentCall,
}

macro_rules! routes {
    ($($method:literal $path:literal $access:ident $operation:ident;)*) => {
        /// Everything that is served.
        pub const ROUTES: &[Route] = &[$(Route {
            method: $method,
            path: $path,
            access: Access::$access,
            operation: Operation::$operation,
        },)*];
    };
}

routes! {
    "GET" "/healthz" Public Health;
    "POST" "/v3/auth/tokens" Public CreateToken;
    "GET" "/v3/auth/tokens" Principal ShowToken;
    "GET" "/v3/projects" Principal ListProjects;
    "GET" "/v3/auth/projects" Principal ListAuthProjects;
    "GET" "/v3/auth/domains" Principal ListAuthDomains;
    "GET" "/v3/users" Principal ListUsers;
    "GET" "/api/v3/projects/{project}/clusters" Principal ListClusters;
    "GET" "/api/v3/projects/{project}/clusters/{cluster}" Principal ShowCluster;
    "POST" "/api/v3/projects/{project}/clusters/{cluster}/nodepools" Principal CreatePool;
    "GET" "/api/v3/projects/{project}/clusters/{cluster}/nodepools" Principal ListPools;
    "GET" "/api/v3/projects/{project}/clusters/{cluster}/nodepools/{pool}" Principal ShowPool;
    "PUT" "/api/v3/projects/{project}/clusters/{cluster}/nodepools/{pool}" Principal UpdatePool;
    "GET" "/api/v3/projects/{project}/clusters/{cluster}/nodepools/{pool}/configuration" Principal ShowConfiguration;
    "GET" "/api/v3/projects/{project}/clusters/{cluster}/nodepools/{pool}/configuration/detail" Principal DetailConfiguration;
    "PUT" "/api/v3/projects/{project}/clusters/{cluster}/nodepools/{pool}/configuration" Principal UpdateConfiguration;
    "POST" "/api/v3/projects/{project}/clusters/{cluster}/nodepools/{pool}/operation/upgrade" Principal UpgradePool;
    "PUT" "/api/v3/projects/{project}/clusters/{cluster}/nodepools/{pool}/nodes/migrate" Principal MigrateNodes;
    "GET" "/api/v3/projects/{project}/clusters/{cluster}/nodes" Principal ListNodes;
    "GET" "/api/v3/projects/{project}/clusters/{cluster}/nodes/{node}" Principal ShowNode;
    "GET" "/api/v3/projects/{project}/jobs/{job}" Principal ShowJob;
    "POST" "/evenkeel/v1/projects/{project}/clusters" Principal RegisterCluster;
    "PUT" "/evenkeel/v1/projects/{project}/clusters/{cluster}/machines" Principal SetMachines;
    "POST" "/evenkeel/v1/projects/{project}/clusters/{cluster}/machines/scan" Principal ScanMachines;
    "POST" "/evenkeel/v1/projects/{project}/keypairs" Principal ImportKeypair;
    "GET" "/evenkeel/v1/projects/{project}/keypairs" Principal ListKeypairs;
    "POST" "/evenkeel/v1/projects/{project}/clusters/{cluster}/nodepools/{pool}/operation/upgrade/preview" Principal PreviewUpgrade;
    "GET" "/evenkeel/v1/projects/{project}/jobs/{job}" Principal DescribeJob;
    "GET" "/evenkeel/v1/projects/{project}/clusters/{cluster}/nodepools/{pool}/policy" Principal ShowPolicy;
    "PUT" "/evenkeel/v1/projects/{project}/clusters/{cluster}/nodepools/{pool}/policy" Principal SetPolicy;
    "POST" "/evenkeel/v1/projects/{project}/jobs/{job}/pause" Principal PauseJob;
    "POST" "/evenkeel/v1/projects/{project}/jobs/{job}/resume" Principal ResumeJob;
    "POST" "/evenkeel/v1/projects/{project}/jobs/{job}/cancel" Principal CancelJob;
    "POST" "/evenkeel/v1/projects/{project}/jobs/{job}/retry" Principal RetryNodes;
    "POST" "/evenkeel/v1/projects/{project}/jobs/{job}/skip" Principal SkipNodes;
    "POST" "/evenkeel/v1/projects/{project}/jobs/{job}/nodes/{node}/force" Principal ForceNode;
    "GET" "/evenkeel/v1/projects/{project}/jobs/{job}/nodes/{node}/output" Principal ReadOutput;
    "GET" "/evenkeel/v1/projects/{project}/clusters/{cluster}/agents" Principal ListAgents;
    "POST" "/evenkeel/v1/projects/{project}/clusters/{cluster}/agents/{node}/token" Principal CreateAgentToken;
    "DELETE" "/evenkeel/v1/projects/{project}/clusters/{cluster}/agents/{node}" Principal RevokeAgent;
    "POST" "/evenkeel/v1/agent/enrol" Public EnrolAgent;
    "GET" "/evenkeel/v1/agent/calls" Agent NextAgentCall;
    "POST" "/evenkeel/v1/agent/calls/{call}" Agent EndAgentCall;
}

impl Operation {
    fn handler(self, method: MethodFilter) -> MethodRouter<ApiState> {
        match self {
            Self::Health => on(method, health::health),
            Self::CreateToken => on(method, iam::tokens::create),
            Self::ShowToken => on(method, iam::tokens::show),
            Self::ListProjects => on(method, iam::projects::list),
            Self::ListAuthProjects => on(method, iam::projects::list_own),
            Self::ListAuthDomains => on(method, iam::domains::list),
            Self::ListUsers => on(method, iam::users::list),
            Self::ListClusters => on(method, clusters::list::list),
            Self::ShowCluster => on(method, clusters::show::show),
            Self::CreatePool => on(method, nodepools::create::create),
            Self::ListPools => on(method, nodepools::list::list),
            Self::ShowPool => on(method, nodepools::show::show),
            Self::UpdatePool => on(method, nodepools::update::update),
            Self::ShowConfiguration => on(method, nodepools::configuration::show::show),
            Self::DetailConfiguration => on(method, nodepools::configuration::detail::detail),
            Self::UpdateConfiguration => on(method, nodepools::configuration::update::update),
            Self::UpgradePool => on(method, nodepools::upgrade::upgrade),
            Self::MigrateNodes => on(method, nodepools::migrate::migrate),
            Self::ListNodes => on(method, nodes::list::list),
            Self::ShowNode => on(method, nodes::show::show),
            Self::ShowJob => on(method, jobs::show::show),
            Self::RegisterCluster => on(method, ext::clusters::register),
            Self::SetMachines => on(method, ext::machines::set),
            Self::ScanMachines => on(method, ext::scan::scan),
            Self::ImportKeypair => on(method, ext::keypairs::import),
            Self::ListKeypairs => on(method, ext::keypairs::list),
            Self::PreviewUpgrade => on(method, nodepools::preview::preview),
            Self::DescribeJob => on(method, ext::jobs::describe),
            Self::ShowPolicy => on(method, ext::pace::show),
            Self::SetPolicy => on(method, ext::pace::set),
            Self::PauseJob => on(method, ext::control::pause),
            Self::ResumeJob => on(method, ext::control::resume),
            Self::CancelJob => on(method, ext::control::cancel),
            Self::RetryNodes => on(method, ext::control::retry),
            Self::SkipNodes => on(method, ext::control::skip),
            Self::ForceNode => on(method, ext::control::force),
            Self::ReadOutput => on(method, ext::output::read),
            Self::CreateAgentToken => on(method, ext::agents::token),
            Self::ListAgents => on(method, ext::agents::list),
            Self::RevokeAgent => on(method, ext::agents::revoke),
            Self::EnrolAgent => on(method, agent::enrol),
            Self::NextAgentCall => on(method, agent::next),
            Self::EndAgentCall => on(method, agent::answer),
        }
    }
}

impl Route {
    /// Whether a path is one of this route.
    fn fits(&self, path: &str) -> bool {
        let (mut wanted, mut found) = (self.path.split('/'), path.split('/'));
        loop {
            match (wanted.next(), found.next()) {
                (None, None) => return true,
                (Some(wanted), Some(found)) if wanted == found || wanted.starts_with('{') => {}
                _ => return false,
            }
        }
    }
}

/// The whole API behind its gate.
pub fn router(state: ApiState) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let method = match route.method {
            "POST" => MethodFilter::POST,
            "PUT" => MethodFilter::PUT,
            "DELETE" => MethodFilter::DELETE,
            _ => MethodFilter::GET,
        };
        router = router.route(route.path, route.operation.handler(method));
    }
    let gate = gate::Gate { state: state.clone(), inflight: replay::Inflight::default() };
    router
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .layer(from_fn_with_state(gate, gate::gate))
        .with_state(state)
}

async fn unknown(method: axum::http::Method, uri: axum::http::Uri) -> ApiError {
    let path: String = uri.path().chars().take(200).collect();
    ApiError::refused(ErrorCode::ApiNotFound, format!("{method} {path}"))
}
