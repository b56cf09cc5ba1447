//! `evenkeel serve`: arguments over the configuration file, logs, then the server.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use evenkeel_server::config::Config;
use evenkeel_server::{app, telemetry};

/// What may be said on the command line; it wins over the file.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Configuration (TOML); without one, every setting has its default
    #[arg(long, env = "EVENKEEL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address and port to listen on
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Database, outputs, journals
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The key that seals secrets; outside the data directory
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// UID of the pod that the server runs in, from the downward API: its node is taken last
    #[arg(long, env = "EVENKEEL_POD_UID", value_name = "UID")]
    pod_uid: Option<String>,
    /// What is logged, as in RUST_LOG
    #[arg(long, env = "RUST_LOG", value_name = "FILTER")]
    log_filter: Option<String>,
}

impl ServeArgs {
    fn resolve(&self) -> anyhow::Result<Config> {
        let mut config = Config::load(self.config.as_deref())?;
        if let Some(listen) = self.listen {
            config.listen = listen;
        }
        if let Some(data_dir) = &self.data_dir {
            config.data_dir.clone_from(data_dir);
        }
        if let Some(key_file) = &self.key_file {
            config.key_file.clone_from(key_file);
        }
        if self.pod_uid.is_some() {
            config.pod_uid.clone_from(&self.pod_uid);
        }
        config.check()?;
        Ok(config)
    }
}

/// Runs until it is told to stop.
pub fn serve(args: ServeArgs) -> anyhow::Result<()> {
    let config = args.resolve()?;
    telemetry::start(config.log, args.log_filter.as_deref());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(app::serve(config))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: ServeArgs,
    }

    #[test]
    fn arguments_win_over_the_file_and_the_result_is_checked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("evenkeel.toml");
        std::fs::write(&path, "listen = \"127.0.0.1:9\"\ndata_dir = \"from-file\"\n").unwrap();
        let resolve = |more: &[&str]| {
            let mut args = vec!["serve", "--config", path.to_str().unwrap()];
            args.extend(more);
            Cli::try_parse_from(args).unwrap().args.resolve()
        };
        let config = resolve(&["--data-dir", "from-argument", "--pod-uid", "u1"]).unwrap();
        assert_eq!(config.pod_uid.as_deref(), Some("u1"));
        assert_eq!(config.listen.to_string(), "127.0.0.1:9");
        assert_eq!(config.data_dir, PathBuf::from("from-argument"));
        assert!(resolve(&["--listen", "0.0.0.0:9"]).unwrap_err().to_string().contains("[tls]"));
        std::fs::write(&path, "lisen = 1").unwrap();
        assert!(resolve(&[]).unwrap_err().is::<evenkeel_server::config::ConfigError>());
    }
}
