//! The arguments of every client command. Nothing here does anything.
//!
//! Entry point: [`Command`].
//! Absent on purpose: options for AK, SK and passwords; arguments of a process can be read by others.

mod agent;
mod job;
mod policy;

pub use agent::{AgentCommand, AgentList, AgentOne};
pub use job::JobCommand;
pub use policy::PoolPolicy;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// A command of the client.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Store the server and an access key for later commands; the secret key is read from standard input
    Login(LoginArgs),
    /// Register clusters and say how their machines are reached
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Public keys that node logins name
    #[command(subcommand)]
    Keypair(KeypairCommand),
    /// Node pools and their configuration
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Nodes and the pools they are in
    #[command(subcommand)]
    Node(NodeCommand),
    /// Say what a sync would do, and what stands in its way; nothing is changed
    Plan(PlanArgs),
    /// Agents on machines that the server cannot reach over SSH
    #[command(subcommand)]
    Agent(AgentCommand),
    /// Bring the nodes of a pool to the configuration of the pool
    Sync(SyncArgs),
    /// Steer a running job
    #[command(subcommand)]
    Job(JobCommand),
    /// Jobs, and what their scripts printed
    #[command(subcommand)]
    Get(GetCommand),
}

/// How data is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Text,
    /// The server's answer
    Json,
}

/// Shared by all commands that print data.
#[derive(Clone, Copy, Debug, Args)]
pub struct Show {
    /// How data is written to standard output
    #[arg(long, short, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

/// Which cluster.
#[derive(Clone, Debug, Args)]
pub struct In {
    /// Cluster, by name or id; without it EVENKEEL_CLUSTER, or the only one there is
    #[arg(long, value_name = "NAME|ID")]
    pub cluster: Option<String>,
}

/// `login`.
#[derive(Debug, Args)]
pub struct LoginArgs {
    /// Root of the server, such as https://evenkeel.example:8443
    #[arg(long, value_name = "URL")]
    pub endpoint: String,
    /// Access key id; the secret key is asked for, or read from the first line of standard input
    #[arg(long, value_name = "AK")]
    pub ak: String,
    /// Project id; looked up at the server if left out
    #[arg(long, value_name = "ID")]
    pub project_id: Option<String>,
    /// PEM file with CA certificates to trust besides the system's
    #[arg(long, value_name = "FILE")]
    pub ca_cert: Option<PathBuf>,
}

/// `cluster ...`.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Register a cluster; its worker nodes appear in DefaultPool
    Add(ClusterAdd),
    /// List clusters
    List(Show),
    /// Show one cluster
    Show(ClusterShow),
    /// Set how machines are reached, and what a reset of them is; what is left out stays
    SetMachines(Box<SetMachines>),
}

/// `cluster add`.
#[derive(Debug, Args)]
pub struct ClusterAdd {
    /// Name: a-z, 0-9 and -
    pub name: String,
    /// Kubeconfig; only the chosen context is sent, files that it names are put inline
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// Context; its current-context if left out
    #[arg(long)]
    pub context: Option<String>,
    #[command(flatten)]
    pub show: Show,
}

/// `cluster show`.
#[derive(Debug, Args)]
pub struct ClusterShow {
    /// Name or id
    #[arg(value_name = "NAME|ID")]
    pub cluster: String,
    #[command(flatten)]
    pub show: Show,
}

/// Where a node's machine answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Address {
    /// The node's InternalIP
    InternalIp,
    /// The node's name, resolved by the server
    Name,
}

/// What a reset is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RecipeKind {
    /// Your own teardown and install scripts, run on the machine over SSH
    Script,
    /// `kubeadm reset` and `kubeadm join` with a fresh token per node (needs deploy/rbac-kubeadm.yaml)
    Kubeadm,
    /// A program on the server, or a webhook, called once per node and attempt
    Command,
    /// Nothing is reset: nodes are drained and put back
    None,
}

/// `cluster set-machines`.
#[derive(Debug, Args)]
pub struct SetMachines {
    /// Cluster, by name or id
    #[arg(value_name = "NAME|ID")]
    pub cluster: String,
    /// Login user [default: root]
    #[arg(long, help_heading = SSH)]
    pub user: Option<String>,
    /// Port [default: 22]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..), help_heading = SSH)]
    pub port: Option<u16>,
    /// OpenSSH private key without a passphrase; the server keeps it sealed
    #[arg(long, value_name = "FILE", help_heading = SSH)]
    pub key: Option<PathBuf>,
    /// Run commands through `sudo -n`
    #[arg(long, help_heading = SSH)]
    pub sudo: bool,
    /// Where a node's machine answers [default: internal-ip]
    #[arg(long, value_enum, help_heading = SSH)]
    pub address: Option<Address>,
    /// Another address for one node; repeat it for more
    #[arg(long = "host", value_name = "NODE=HOST[:PORT]", value_parser = pair, help_heading = SSH)]
    pub hosts: Vec<(String, String)>,
    /// The host key of one node, as an OpenSSH public key line; repeat it for more
    #[arg(long = "host-key", value_name = "NODE=LINE", value_parser = pair, help_heading = SSH)]
    pub host_keys: Vec<(String, String)>,
    /// Take the host keys of all nodes from an OpenSSH known_hosts file, by address or name
    #[arg(long, value_name = "FILE", help_heading = SSH)]
    pub known_hosts: Option<PathBuf>,
    /// Show the host keys that the machines of the other nodes show to the server, and pin those that you confirm
    #[arg(long, help_heading = SSH)]
    pub scan: bool,
    /// With --scan: pin keys with this SHA-256 fingerprint without asking, and no others; repeat it for more
    #[arg(long = "accept-fingerprint", value_name = "SHA256:...", requires = "scan", help_heading = SSH)]
    pub accept_fingerprints: Vec<String>,
    /// CA that signs host keys, as an OpenSSH public key line: vouches for nodes without a host key; repeat it for more
    #[arg(long = "host-ca", value_name = "LINE", help_heading = SSH)]
    pub host_cas: Vec<String>,
    /// What a reset is
    #[arg(long, value_enum, help_heading = RECIPE)]
    pub recipe: Option<RecipeKind>,
    /// Script that takes Kubernetes off the machine (recipe script)
    #[arg(long, value_name = "FILE", help_heading = RECIPE)]
    pub teardown: Option<PathBuf>,
    /// Script that puts it back and joins the cluster (recipe script)
    #[arg(long, value_name = "FILE", help_heading = RECIPE)]
    pub install: Option<PathBuf>,
    /// Command that has to exist on the machine; repeat it for more (recipe script)
    #[arg(long = "needs", value_name = "COMMAND", help_heading = RECIPE)]
    pub needs: Vec<String>,
    /// Both scripts may be run again when their machine was rebooted in the middle (recipe script)
    #[arg(long, help_heading = RECIPE)]
    pub resume: bool,
    /// HOST:PORT at which machines reach the API server (recipe kubeadm) [default: as in the kubeconfig]
    #[arg(long, value_name = "HOST:PORT", help_heading = RECIPE)]
    pub join_endpoint: Option<String>,
    /// Socket of the container runtime (recipe kubeadm)
    #[arg(long, value_name = "URL", help_heading = RECIPE)]
    pub cri_socket: Option<String>,
    /// Preflight error that kubeadm is to ignore; repeat it for more (recipe kubeadm)
    #[arg(long, value_name = "CHECK", help_heading = RECIPE)]
    pub ignore_preflight: Vec<String>,
    /// Directory that is emptied in the teardown; repeat it for more (recipe kubeadm)
    #[arg(long = "data-dir", value_name = "DIR", help_heading = RECIPE)]
    pub data_dirs: Vec<String>,
    /// Seconds that each script, or the program, may take; the server's default is 1800
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=86_400), help_heading = RECIPE)]
    pub limit: Option<u32>,
    /// Reinstall the machine after its teardown, by the program after -- or by --webhook (recipes script, kubeadm)
    #[arg(long, help_heading = HOOK)]
    pub reimage: bool,
    /// URL that is called in place of a program; see docs/reimage.md
    #[arg(long, value_name = "URL", help_heading = HOOK)]
    pub webhook: Option<String>,
    /// File with the secret by which calls are signed; - is standard input
    #[arg(long, value_name = "FILE", requires = "webhook", help_heading = HOOK)]
    pub webhook_secret: Option<PathBuf>,
    /// PEM file with the only CA that the webhook may be certified by [default: the server's system]
    #[arg(long, value_name = "FILE", requires = "webhook", help_heading = HOOK)]
    pub webhook_ca: Option<PathBuf>,
    /// Seconds until the hook has announced the machine's new host key; the server's default is 3600
    #[arg(long, value_name = "S", requires = "reimage", value_parser = clap::value_parser!(u32).range(1..=86_400), help_heading = HOOK)]
    pub reimage_limit: Option<u32>,
    /// Seconds from then until the machine answers with it; the server's default is 1800
    #[arg(long, value_name = "S", requires = "reimage", value_parser = clap::value_parser!(u32).range(1..=86_400), help_heading = HOOK)]
    pub return_limit: Option<u32>,
    /// Reinstall without taking Kubernetes off the machine first
    #[arg(long, requires = "reimage", help_heading = HOOK)]
    pub no_teardown: bool,
    #[command(flatten)]
    pub show: Show,
    /// Program on the server and fixed arguments (recipe command, --reimage)
    #[arg(last = true, value_name = "ARGV")]
    pub argv: Vec<String>,
}

const HOOK: &str = "Programs and webhooks";
const SSH: &str = "SSH access (set as a whole; the key may be left out later)";
const RECIPE: &str = "Recipe";

/// `keypair ...`.
#[derive(Debug, Subcommand)]
pub enum KeypairCommand {
    /// Import the public keys of a .pub file under a name
    Import(KeypairImport),
    /// List key pairs
    List(Show),
}

/// `keypair import`.
#[derive(Debug, Args)]
pub struct KeypairImport {
    /// Name, as `login.sshKey` of a node pool says it
    pub name: String,
    /// Public key file
    pub file: PathBuf,
    #[command(flatten)]
    pub show: Show,
}

/// `pool ...`.
#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    /// List node pools, DefaultPool among them
    List(PoolList),
    /// Show one node pool
    Show(PoolShow),
    /// Create a node pool from a JSON body as CCE takes it
    Create(PoolCreate),
    /// Change a node pool by a JSON body as CCE takes it
    Update(PoolUpdate),
    /// Show or set when nodes of a pool may be taken: maintenance windows and soak time
    Policy(PoolPolicy),
}

/// `pool list`.
#[derive(Debug, Args)]
pub struct PoolList {
    #[command(flatten)]
    pub place: In,
    #[command(flatten)]
    pub show: Show,
}

/// `pool show`.
#[derive(Debug, Args)]
pub struct PoolShow {
    /// Node pool, by name or id
    #[arg(value_name = "NAME|ID")]
    pub pool: String,
    #[command(flatten)]
    pub place: In,
    #[command(flatten)]
    pub show: Show,
}

/// `pool create`.
#[derive(Debug, Args)]
pub struct PoolCreate {
    /// JSON file; - is standard input
    #[arg(long, value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub place: In,
    #[command(flatten)]
    pub show: Show,
}

/// `pool update`.
#[derive(Debug, Args)]
pub struct PoolUpdate {
    /// Node pool, by name or id
    #[arg(value_name = "NAME|ID")]
    pub pool: String,
    /// JSON file; - is standard input
    #[arg(long, value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub place: In,
    #[command(flatten)]
    pub show: Show,
}

/// `node ...`.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// List nodes
    List(NodeListArgs),
    /// Move nodes into a pool; no machine is touched
    Migrate(NodeMigrate),
}

/// `node list`.
#[derive(Debug, Args)]
pub struct NodeListArgs {
    /// Only nodes of this pool, by name or id
    #[arg(long, value_name = "NAME|ID")]
    pub pool: Option<String>,
    #[command(flatten)]
    pub place: In,
    #[command(flatten)]
    pub show: Show,
}

/// `node migrate`.
#[derive(Debug, Args)]
pub struct NodeMigrate {
    /// Pool to move to, by name or id
    #[arg(long, value_name = "NAME|ID")]
    pub pool: String,
    /// Nodes, by name or id
    #[arg(required = true, value_name = "NODE")]
    pub nodes: Vec<String>,
    /// The nodes carry the pool's configuration already: record it, so that they need no reset
    #[arg(long)]
    pub as_current: bool,
    #[command(flatten)]
    pub place: In,
}

/// What `sync` and `plan` are about.
#[derive(Debug, Args)]
pub struct SyncScope {
    /// Node pool, by name or id
    #[arg(value_name = "NAME|ID")]
    pub pool: String,
    /// Only this node, by name or id; repeat it for more. Without it: every node that is not up to date
    #[arg(long = "node", value_name = "NODE")]
    pub nodes: Vec<String>,
    /// Leave this node alone, by name or id; repeat it for more
    #[arg(long = "skip", value_name = "NODE")]
    pub skip: Vec<String>,
    /// How often a node is tried again
    #[arg(long, value_name = "N")]
    pub retry_times: Option<u8>,
    /// Once the drain has taken too long, delete the pods that block it (with their own grace)
    #[arg(long)]
    pub force: bool,
    /// JSON file with `nodeTemplate`; needed for DefaultPool, which has none; - is standard input
    #[arg(long, value_name = "FILE")]
    pub template: Option<PathBuf>,
    #[command(flatten)]
    pub place: In,
}

/// `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub scope: SyncScope,
    /// Most nodes that may be out of service at a time [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub max_unavailable: Option<u16>,
    /// The server's answer instead of a page
    #[arg(long)]
    pub json: bool,
}

/// `sync`.
#[derive(Debug, Args)]
pub struct SyncArgs {
    #[command(flatten)]
    pub scope: SyncScope,
    /// Most nodes that may be out of service at a time, for whatever reason
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub max_unavailable: u16,
    /// Follow the job to its end; exit status 0 only for Success
    #[arg(long)]
    pub wait: bool,
    /// With --wait: give up watching after this many seconds; the job goes on
    #[arg(long, value_name = "S", requires = "wait", value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: Option<u64>,
    #[command(flatten)]
    pub show: Show,
}

/// `get ...`.
#[derive(Debug, Subcommand)]
pub enum GetCommand {
    /// Show a job: phases per node, reasons, counts, ignored fields
    Job(GetJob),
    /// What the scripts of an attempt on a node printed
    Output(GetOutput),
}

/// `get job`.
#[derive(Debug, Args)]
pub struct GetJob {
    /// Job, or sub-job of a node
    #[arg(value_name = "ID")]
    pub job: String,
    /// Follow it to its end first; exit status 0 only for Success
    #[arg(long)]
    pub watch: bool,
    /// With --watch: give up after this many seconds
    #[arg(long, value_name = "S", requires = "watch", value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: Option<u64>,
    /// Also the steps of each node, with times (Evenkeel servers only)
    #[arg(long)]
    pub log: bool,
    /// Also why each node waits and which rule chose it, who pressed what, and what the job cost its workloads
    /// (Evenkeel servers only)
    #[arg(long)]
    pub why: bool,
    #[command(flatten)]
    pub show: Show,
}

/// Which part of an attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum StageArg {
    /// Teardown, login, pre-install and install
    #[default]
    Reset,
    /// Post-install
    Post,
}

/// `get output`.
#[derive(Debug, Args)]
pub struct GetOutput {
    /// Job
    #[arg(value_name = "JOB")]
    pub job: String,
    /// Node, by name or id
    #[arg(value_name = "NODE")]
    pub node: String,
    /// Attempt, 1 for the first; the last one if left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub attempt: Option<u32>,
    /// Which part
    #[arg(long, value_enum, default_value_t)]
    pub stage: StageArg,
    #[command(flatten)]
    pub show: Show,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((node, value)) if !node.trim().is_empty() && !value.trim().is_empty() => {
            Ok((node.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err("it is not NODE=VALUE".to_owned()),
    }
}
