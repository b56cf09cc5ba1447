//! What each command does.
//!
//! Entry point: [`dispatch`].

mod agent;
mod cluster;
mod get;
mod job;
mod keypair;
mod login;
mod machines;
mod node;
mod plan;
mod policy;
mod pool;
mod sync;

use std::io::Read;
use std::path::Path;

use serde_json::Value;

use crate::args::{
    AgentCommand, ClusterCommand, Command, Format, GetCommand, KeypairCommand, NodeCommand,
    PoolCommand, Show,
};
use crate::client::Client;
use crate::failure::{CliError, Exit};
use crate::io::Io;
use crate::settings;

/// Largest JSON file that is read; the server takes 256 KiB.
const FILE_LIMIT: u64 = 1024 * 1024;

/// Resolves the settings once, then runs the command.
pub(crate) async fn dispatch(command: Command, io: &mut Io<'_>) -> Result<Exit, CliError> {
    let command = match command {
        Command::Login(args) => return login::login(args, io).await,
        other => other,
    };
    let client = Client::new(settings::resolve(io)?)?;
    let client = &client;
    match command {
        Command::Login(_) => Ok(Exit::Usage),
        Command::Cluster(ClusterCommand::Add(args)) => cluster::add(args, client, io).await,
        Command::Cluster(ClusterCommand::List(show)) => cluster::list(show, client, io).await,
        Command::Cluster(ClusterCommand::Show(args)) => cluster::show(args, client, io).await,
        Command::Cluster(ClusterCommand::SetMachines(args)) => {
            machines::set(*args, client, io).await
        }
        Command::Keypair(KeypairCommand::Import(args)) => keypair::import(args, client, io).await,
        Command::Keypair(KeypairCommand::List(show)) => keypair::list(show, client, io).await,
        Command::Pool(PoolCommand::List(args)) => pool::list(args, client, io).await,
        Command::Pool(PoolCommand::Show(args)) => pool::show(args, client, io).await,
        Command::Pool(PoolCommand::Create(args)) => pool::create(args, client, io).await,
        Command::Pool(PoolCommand::Policy(args)) => policy::policy(args, client, io).await,
        Command::Pool(PoolCommand::Update(args)) => pool::update(args, client, io).await,
        Command::Node(NodeCommand::List(args)) => node::list(args, client, io).await,
        Command::Node(NodeCommand::Migrate(args)) => node::migrate(args, client, io).await,
        Command::Plan(args) => plan::plan(args, client, io).await,
        Command::Agent(AgentCommand::Enrol(args)) => agent::enrol(args, client, io).await,
        Command::Agent(AgentCommand::List(args)) => agent::list(args, client, io).await,
        Command::Agent(AgentCommand::Revoke(args)) => agent::revoke(args, client, io).await,
        Command::Sync(args) => sync::sync(args, client, io).await,
        Command::Job(command) => job::press(command, client, io).await,
        Command::Get(GetCommand::Job(args)) => get::job(args, client, io).await,
        Command::Get(GetCommand::Output(args)) => get::output(args, client, io).await,
    }
}

/// Writes data in the form that was asked for.
fn show(
    io: &mut Io<'_>,
    show: Show,
    answer: &Value,
    text: impl FnOnce() -> String,
) -> Result<Exit, CliError> {
    match show.output {
        Format::Json => io.data(&format!("{answer:#}\n"))?,
        Format::Text => io.data(&text())?,
    }
    Ok(Exit::Done)
}

/// A text file, or standard input for `-`.
fn read_text(io: &mut Io<'_>, path: &Path) -> Result<String, CliError> {
    let failed = |error| CliError::local(format!("{} cannot be read", path.display()), error);
    let mut text = String::new();
    if path == Path::new("-") {
        (&mut io.stdin).take(FILE_LIMIT + 1).read_to_string(&mut text).map_err(failed)?;
    } else {
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(FILE_LIMIT + 1).read_to_string(&mut text).map_err(failed)?;
    }
    if text.len() as u64 > FILE_LIMIT {
        return Err(CliError::usage(format!(
            "{} is larger than {FILE_LIMIT} bytes",
            path.display()
        )));
    }
    Ok(text)
}

/// A JSON object. The parser names line and column, never the value: it may be a password.
fn read_object(io: &mut Io<'_>, path: &Path) -> Result<Value, CliError> {
    let text = read_text(io, path)?;
    match serde_json::from_str::<Value>(&text) {
        Ok(value) if value.is_object() => Ok(value),
        Ok(_) => Err(CliError::usage(format!("{} is not a JSON object", path.display()))),
        Err(error) => {
            let place = format!("line {}, column {}", error.line(), error.column());
            Err(CliError::usage(format!("{} is not valid JSON: {place}", path.display())))
        }
    }
}
