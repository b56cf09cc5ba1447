//! `job pause`, `resume`, `cancel`, `retry`, `skip` and `force`.

use reqwest::Method;
use serde_json::{Value, json};

use super::show as print;
use crate::args::{JobCommand, Show};
use crate::client::{Client, Place};
use crate::failure::{CliError, Exit};
use crate::io::Io;
use crate::render::why;

/// One button: the deed in the path, the nodes in the body or in the path.
struct Button {
    deed: &'static str,
    job: String,
    nodes: Vec<String>,
    show: Show,
}

impl Button {
    fn new(deed: &'static str, job: String, nodes: Vec<String>, show: Show) -> Self {
        Self { deed, job, nodes, show }
    }
}

pub(super) async fn press(
    command: JobCommand,
    client: &Client,
    io: &mut Io<'_>,
) -> Result<Exit, CliError> {
    let button = match command {
        JobCommand::Pause(args) => Button::new("pause", args.job, Vec::new(), args.show),
        JobCommand::Resume(args) => Button::new("resume", args.job, Vec::new(), args.show),
        JobCommand::Cancel(args) => Button::new("cancel", args.job, Vec::new(), args.show),
        JobCommand::Retry(args) => Button::new("retry", args.job, args.nodes, args.show),
        JobCommand::Skip(args) => Button::new("skip", args.job, args.nodes, args.show),
        JobCommand::Force(args) => Button::new("force", args.job, vec![args.node], args.show),
    };
    let body = match button.deed {
        "retry" | "skip" if !button.nodes.is_empty() => json!({ "nodes": button.nodes }),
        _ => json!({}),
    };
    let path = match (button.deed, button.nodes.first()) {
        ("force", Some(node)) => vec!["jobs", &button.job, "nodes", node, button.deed],
        _ => vec!["jobs", &button.job, button.deed],
    };
    let answer = client.send(Method::POST, Place::Evenkeel(&path), &[], &body).await?;
    if answer.get("changed") == Some(&Value::Bool(false)) {
        io.say("nothing has changed: it was so already");
    }
    print(io, button.show, &answer, || why::control(&answer))
}
