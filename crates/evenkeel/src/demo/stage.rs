//! Sets the stage: the played cluster and its hosts, the real server, and a signed client of it.
//!
//! Entry point: [`Stage::set`].

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context as _;
use evenkeel_cli::{Client, Settings};
use evenkeel_rehearse::{Rehearsal, RehearseOptions};
use evenkeel_server::app::{self, Running};
use evenkeel_server::config::{Clusters, Config, PolicyConfig};
use evenkeel_sim::Scenario;

/// Milliseconds of the cluster in one of ours. At 6, six nodes with two at once take about half a minute, and the
/// real parts (SQLite, HTTP, SSH handshakes) still take the smaller share of it.
pub const TIME_SCALE: f64 = 6.0;

/// SDKs look their project up by the name of their region.
pub const REGION: &str = "demo-1";

/// A played host stores what is pushed and compares its hash. It cannot run programs, so these bytes stand for the
/// host binary.
const PUSHED: &[u8] = b"This text stands for evenkeel-node: a played host runs no programs.\n";

/// Where to go and as whom.
pub struct Access {
    pub endpoint: String,
    pub ak: String,
    pub sk: String,
    pub project: String,
}

/// Everything that runs. Dropping it stops the server first.
pub struct Stage {
    pub client: Client,
    pub access: Access,
    _server: Running,
    pub rehearsal: Rehearsal,
}

impl Stage {
    /// Starts all of it, with its files in `directory`.
    pub async fn set(
        nodes: u32,
        seed: u64,
        listen: SocketAddr,
        directory: &Path,
    ) -> anyhow::Result<Self> {
        let config = config(listen, directory);
        config.check()?;
        std::fs::write(directory.join("pushed"), PUSHED)
            .with_context(|| format!("{} cannot be written to", directory.display()))?;
        let scenario = Scenario { seed, ..Scenario::demo(nodes) };
        let options = RehearseOptions { time_scale: TIME_SCALE, ..RehearseOptions::default() };
        let rehearsal = Rehearsal::start(scenario, options)
            .await
            .context("the played cluster cannot be started")?;
        let server = app::start(config, evenkeel_server::sync::points::Points::default())
            .await
            .context("the server cannot be started")?;
        let first = server.bootstrap.clone().context("a new data directory gave no credential")?;
        let access = Access {
            endpoint: format!("http://{}", server.address),
            ak: first.ak,
            sk: first.sk,
            project: first.project_id,
        };
        let settings = Settings::new(&access.endpoint, &access.ak, &access.sk, &access.project)?;
        Ok(Self { client: Client::new(settings)?, access, _server: server, rehearsal })
    }
}

fn config(listen: SocketAddr, directory: &Path) -> Config {
    Config {
        listen,
        data_dir: directory.join("data"),
        key_file: directory.join("seal.key"),
        region: REGION.to_owned(),
        node_binary: Some(directory.join("pushed")),
        clusters: Clusters { allow_loopback: true, ..Clusters::default() },
        policy: policy(),
        ..Config::default()
    }
}

/// The default pauses, shortened as the cluster's time is. Limits on what really happens here (SSH, HTTP) stay.
fn policy() -> PolicyConfig {
    let default = PolicyConfig::default().resolve();
    let scaled = |seconds: u64| Some((seconds as f64 / TIME_SCALE).round().max(1.0) as u64);
    PolicyConfig {
        settle_s: scaled(default.settle.as_secs()),
        requeue_pause_s: scaled(default.requeue_pause.as_secs()),
        retry_pause_s: scaled(default.retry_pause.as_secs()),
        yield_after_s: scaled(default.yield_after.as_secs()),
        sick_after_s: scaled(default.sick_after.as_secs()),
        ..PolicyConfig::default()
    }
}
