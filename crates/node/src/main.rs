//! `evenkeel-node`: one JSON document on stdout per command; exit status 0, or 3 with
//! `{"error":{"kind","message"}}` when the host refuses, or 2 for a command line it does not know. `agent` runs until it
//! is stopped and speaks to its service manager.
//!
//! `EVENKEEL_NODE_STATE` and `EVENKEEL_NODE_ROOT` move the state directory and the host's files;
//! both are for tests.

use std::io::{self, Write as _};
use std::process::ExitCode;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use evenkeel_node::host::Host;
use evenkeel_node::protocol::{EXIT_REFUSED, OrderId, Refusal, Verb};
use evenkeel_node::store::Store;
use evenkeel_node::{agent, runner, verbs};

const USAGE: &str = "usage: evenkeel-node probe [<REQUEST] | accept <ORDER | status ID | \
    read ID OFFSET | plan <ORDER | prove <REQUEST | gc | agent | agent enrol URL CA_FILE <TOKEN | \
    agent unit";

fn main() -> ExitCode {
    // Orders hold secrets: no core file of this process. Scripts are not touched by it.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let args: Vec<String> = std::env::args().skip(1).collect();
    let host = Host::from_env();
    if let [word, state, id] = &args[..]
        && word == "run-order"
        && let Ok(id) = id.parse::<OrderId>()
    {
        return match runner::run_order(&Store::new(state), &host, &id) {
            Ok(()) => ExitCode::SUCCESS,
            Err(refusal) => refused(&refusal),
        };
    }
    if let [word, rest @ ..] = &args[..]
        && word == "agent"
        && let Some(status) = agent(&host, rest)
    {
        return status;
    }
    let Some(verb) = Verb::parse(&args) else {
        let _ = writeln!(io::stderr(), "{USAGE}");
        return ExitCode::from(2);
    };
    match verbs::answer(&Store::from_env(), &host, &verb, &mut io::stdin().lock()) {
        Ok(answer) => say(&answer, ExitCode::SUCCESS),
        Err(refusal) => refused(&refusal),
    }
}

/// The agent's own commands, for people and service managers: text, not JSON. `None`: not one of them.
fn agent(host: &Host, args: &[String]) -> Option<ExitCode> {
    let store = Store::from_env();
    let ended = match args {
        [] => agent::run(&store, host).map(|never| match never {}),
        [word, url, ca] if word == "enrol" => {
            agent::enrol(&store, host, url, ca.into(), &mut io::stdin().lock()).map(|identity| {
                format!(
                    "enrolled as node {} of cluster {}\nnext: run `evenkeel-node agent`, as the unit of \
                     `evenkeel-node agent unit` does\n",
                    identity.node, identity.cluster
                )
            })
        }
        [word] if word == "unit" => agent::unit(),
        _ => return None,
    };
    Some(match ended {
        Ok(text) if io::stdout().lock().write_all(text.as_bytes()).is_ok() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {}", verbs::chain(&error));
            ExitCode::FAILURE
        }
    })
}

fn refused(refusal: &Refusal) -> ExitCode {
    say(&serde_json::json!({ "error": refusal }), ExitCode::from(EXIT_REFUSED as u8))
}

/// An answer that cannot be written is no answer.
fn say(answer: &serde_json::Value, status: ExitCode) -> ExitCode {
    match writeln!(io::stdout().lock(), "{answer}") {
        Ok(()) => status,
        Err(_) => ExitCode::FAILURE,
    }
}
