//! The composition root: the only place that names concrete types.
//!
//! Entry points: [`start`] (also for rehearsals and tests) and [`serve`].

mod book;
mod bootstrap;
mod fleet;
mod foresight;
mod listen;
mod ports;

pub use bootstrap::Bootstrap;

use crate::agents::Exchange;
use crate::config::{Config, ConfigError};
use crate::http::{self, ApiConfig, ApiState};
use crate::kube;
use crate::machines::{BinarySource, FileOutput, Fleet, HookOptions};
use crate::secrets::{KeyFile, SecretError};
use crate::store::sqlite::{SqliteOptions, SqliteStore};
use crate::store::{Store, StoreError};
use crate::sync::board::Board;
use crate::sync::clock::{WallClock, system_wall_clock};
use crate::sync::points::Points;
use crate::sync::ports::Machines;
use evenkeel_engine::ids::Uid;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration.
    #[error("the configuration cannot be used")]
    Config(#[source] ConfigError),
    /// A directory or socket.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The store.
    #[error("the store cannot be used")]
    Store(#[source] StoreError),
    /// The key file.
    #[error("the key file cannot be used")]
    Secrets(#[source] SecretError),
    /// The first credential.
    #[error("the first credential could not be made")]
    Bootstrap(#[source] bootstrap::BootstrapError),
    /// TLS.
    #[error("the TLS certificate or key cannot be used")]
    Tls(#[source] std::io::Error),
}

/// A running server. Dropping it stops it.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    /// The first credential, if this start made it.
    pub bootstrap: Option<Bootstrap>,
    /// The store.
    pub store: Arc<dyn Store>,
    /// Where calls wait for agents.
    pub agents: Exchange,
    tasks: Vec<JoinHandle<()>>,
}

impl Running {
    /// Waits until the listener ends.
    pub async fn wait(mut self) {
        if let Some(listener) = self.tasks.pop() {
            // An aborted task ends the wait as well as one that returned.
            let _ = listener.await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Starts everything: store, secrets, actors, API. Returns once the API answers.
pub async fn start(config: Config, points: Points) -> Result<Running, StartError> {
    config.check().map_err(StartError::Config)?;
    // With two providers compiled in and none chosen, builders would panic; a second choice is the same one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (store, secrets) = open(&config).await?;
    let wall: WallClock = system_wall_clock();
    let bootstrap = bootstrap::ensure(&*store, &secrets, &config.region)
        .await
        .map_err(StartError::Bootstrap)?;
    let board = Board::default();
    let output = Arc::new(FileOutput::new(&config.data_dir));
    let kube_options = kube::Options {
        allow_loopback: config.clusters.allow_loopback,
        allow_insecure_tls: config.clusters.allow_insecure_tls,
        ..kube::Options::default()
    };
    let agents = Exchange::default();
    let book = Arc::new(book::StoreBook {
        store: store.clone(),
        agents: agents.clone(),
        secrets: secrets.clone(),
        options: kube_options.clone(),
    });
    let binary = BinarySource::file(config.node_binary.as_deref());
    let hooks = HookOptions { allow_loopback: config.webhooks.allow_loopback };
    let machines: Arc<dyn Machines> =
        Arc::new(Fleet::new(book, output.clone(), binary, &config.data_dir, hooks));
    let clusters = fleet::Clusters {
        store: store.clone(),
        secrets: secrets.clone(),
        machines,
        board: board.clone(),
        wall: wall.clone(),
        options: kube_options.clone(),
        points,
        own_pod: config.pod_uid.as_deref().map(Uid::new),
        retention: config.retention(),
    };
    let state = ApiState {
        store: store.clone(),
        secrets,
        previews: Arc::new(foresight::Foresight { board: board.clone() }),
        board,
        clock: wall,
        registrar: Arc::new(ports::KubeRegistrar { options: kube_options }),
        scanner: Arc::new(ports::SshScanner),
        outputs: Arc::new(ports::FileOutputs { sink: output }),
        passwords: Arc::new(ports::ShaCrypt),
        agents: agents.clone(),
        config: Arc::new(api_config(&config)),
    };
    let (address, listener) = listen::listen(&config, http::router(state)).await?;
    let tasks = vec![tokio::spawn(clusters.run()), listener];
    Ok(Running { address, bootstrap, store, agents, tasks })
}

/// Data directory, key file, database. A missing key file is made only where there is no database yet.
async fn open(config: &Config) -> Result<(Arc<dyn Store>, Arc<KeyFile>), StartError> {
    std::fs::create_dir_all(&config.data_dir).map_err(|source| StartError::Io {
        what: format!("the data directory {} cannot be made", config.data_dir.display()),
        source,
    })?;
    let database = config.data_dir.join("evenkeel.db");
    let first = !database.exists();
    let secrets =
        KeyFile::open(&config.key_file, &config.data_dir, first).map_err(StartError::Secrets)?;
    let secrets = Arc::new(secrets);
    let path = database.clone();
    let opened =
        tokio::task::spawn_blocking(move || SqliteStore::open(&path, SqliteOptions::default()));
    let store = match opened.await {
        Ok(store) => store.map_err(StartError::Store)?,
        Err(_) => return Err(StartError::Store(StoreError::Closed)),
    };
    Ok((Arc::new(store), secrets))
}

fn api_config(config: &Config) -> ApiConfig {
    ApiConfig {
        region_name: config.region.clone(),
        max_unavailable_cap: config.max_unavailable_cap,
        policy: config.policy.resolve(),
        ..ApiConfig::default()
    }
}

/// Runs a server until SIGTERM or ctrl-c. Prints the first credential once, to stdout.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    let tls = config.tls.is_some();
    let running = start(config, crash_points()).await?;
    if let Some(bootstrap) = &running.bootstrap {
        bootstrap.print(running.address, tls);
    }
    tracing::info!(address = %running.address, "serving");
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        () = running.wait() => anyhow::bail!("the listener ended"),
        _ = term.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    tracing::info!("stopping; what is in hand goes on where it stands at the next start");
    Ok(())
}

/// Copies the database of a server that does not run.
pub async fn backup(data_dir: PathBuf, to: PathBuf) -> anyhow::Result<()> {
    let store = tokio::task::spawn_blocking(move || {
        SqliteStore::open(&data_dir.join("evenkeel.db"), SqliteOptions::default())
    })
    .await??;
    store.backup(&to).await?;
    Ok(())
}

/// Puts a backup where there is no database yet.
///
/// Its revisions, which are the epochs that hosts compare, go on at the wall clock in microseconds: above every
/// revision that the backed up store or an earlier restore of it has reached since.
pub async fn restore(from: PathBuf, data_dir: PathBuf) -> anyhow::Result<()> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let floor = u64::try_from(since.as_micros())?;
    tokio::task::spawn_blocking(move || {
        std::fs::create_dir_all(&data_dir)?;
        SqliteStore::restore(&from, &data_dir.join("evenkeel.db"), floor)?;
        Ok(())
    })
    .await?
}

/// `CRASH_AT=<verb>:<before|after>:<k>` kills a test build at the k-th pass of a point.
#[cfg(feature = "crash-points")]
fn crash_points() -> Points {
    use std::sync::atomic::{AtomicU64, Ordering};
    let Ok(wanted) = std::env::var("CRASH_AT") else {
        return Points::default();
    };
    let Some((point, count)) = wanted.rsplit_once(':') else {
        return Points::default();
    };
    let (point, count) = (point.to_owned(), count.parse().unwrap_or(1));
    let passed = AtomicU64::new(0);
    Points::hooked(Arc::new(move |here| {
        if here == point && passed.fetch_add(1, Ordering::SeqCst) + 1 == count {
            std::process::abort();
        }
        false
    }))
}

#[cfg(not(feature = "crash-points"))]
fn crash_points() -> Points {
    Points::default()
}
