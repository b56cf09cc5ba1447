//! The program: one binary for the server and its client.
//!
//! Absent on purpose: anything but arguments. The server is in its crate, the client in another.

mod demo;
mod serve;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use evenkeel_cli::{Exit, Io};

/// Keep the nodes of Kubernetes node pools on the configuration that the pool declares
#[derive(Debug, Parser)]
#[command(name = "evenkeel", version, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show a synchronization on a played cluster; nothing to install
    Demo(demo::DemoArgs),
    /// Run the server
    Serve(serve::ServeArgs),
    /// Copy the database of a server that does not run; the key file is not in the copy
    Backup {
        /// Data directory of the server
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// New file
        to: PathBuf,
    },
    /// Put a backup where there is no database yet
    Restore {
        /// Backup
        from: PathBuf,
        /// Data directory of the server
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
    },
    #[command(flatten)]
    Client(evenkeel_cli::Command),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Demo(args) => return demo::demo(&args),
        Command::Serve(args) => serve::serve(args),
        Command::Backup { data_dir, to } => {
            let copied = to.clone();
            runtime()
                .and_then(|runtime| runtime.block_on(evenkeel_server::app::backup(data_dir, to)))
                .inspect(|()| {
                    say(&format!(
                        "{} written; keep the key file elsewhere, it opens the secrets",
                        copied.display()
                    ));
                })
        }
        Command::Restore { from, data_dir } => runtime()
            .and_then(|runtime| runtime.block_on(evenkeel_server::app::restore(from, data_dir))),
        Command::Client(command) => return client(command),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

/// Calls of the client need one thread; its exit status is part of what it promises.
fn client(command: evenkeel_cli::Command) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let exit = runtime.block_on(evenkeel_cli::run(command, &mut Io::process()));
            ExitCode::from(exit as u8)
        }
        Err(error) => report(&error.into()),
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// Says what went wrong, with its causes. Settings that cannot be used end like wrong arguments.
fn report(error: &anyhow::Error) -> ExitCode {
    say(&format!("error: {error}"));
    for cause in error.chain().skip(1) {
        say(&format!("  caused by: {cause}"));
    }
    let is_usage = error.is::<evenkeel_server::config::ConfigError>();
    ExitCode::from(if is_usage { Exit::Usage } else { Exit::Failed } as u8)
}

fn say(line: &str) {
    // Nobody may be listening; that is no failure.
    let _said = writeln!(std::io::stderr(), "{line}");
}
