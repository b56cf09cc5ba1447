//! The client: commands that speak to Evenkeel, or to Huawei Cloud CCE where the call is CCE's own.
//!
//! Entry points: [`Command`] (the arguments) and [`run`] (does it and gives the exit status); [`Client`] for programs
//! that make signed calls themselves.
//! A command is parsed, its settings are resolved once, and then it runs; after that nobody looks at flags or
//! variables again. Data goes to standard output, everything else to standard error.
//!
//! Absent on purpose: secrets on the command line (other users of a machine can read it), decisions about nodes, and
//! any other way to the server than its HTTP API.

mod args;
mod client;
mod commands;
mod credentials;
mod failure;
mod follow;
mod host_keys;
mod io;
mod kubeconfig;
mod lookup;
mod page;
mod render;
mod settings;
mod text;

pub use args::Command;
pub use client::{Client, Place};
pub use failure::{CliError, Exit};
pub use io::Io;
pub use reqwest::Method;
pub use settings::Settings;

/// Does what a command says and reports a failure on standard error.
pub async fn run(command: Command, io: &mut Io<'_>) -> Exit {
    match commands::dispatch(command, io).await {
        Ok(exit) => exit,
        Err(error) => {
            failure::report(&error, io);
            error.exit()
        }
    }
}
