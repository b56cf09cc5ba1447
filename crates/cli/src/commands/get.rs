//! `get job` and `get output`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::show as print;
use crate::args::{Format, GetJob, GetOutput, StageArg};
use crate::client::{Client, Place};
use crate::failure::{CliError, Exit};
use crate::follow::{self, Limits};
use crate::io::Io;
use crate::lookup::text;
use crate::render::{self, why};
use crate::text::plain_lines;

/// Most pieces of an output that are read; the server keeps far less of a script's words.
const PIECES: usize = 100_000;

pub(super) async fn job(args: GetJob, client: &Client, io: &mut Io<'_>) -> Result<Exit, CliError> {
    let (model, mut answer) = if args.watch {
        follow::to_the_end(client, io, &args.job, Limits::seconds(args.timeout)).await?
    } else {
        follow::read(client, &args.job).await?
    };
    let mut more = String::new();
    if args.log || args.why {
        let described = client.get(Place::Evenkeel(&["jobs", &args.job]), &[]).await?;
        if args.why {
            more.push_str(&why::job(&described));
        }
        if args.log {
            more.push_str(&render::job_log(&described));
        }
        answer = json!({ "job": answer, "detail": described });
    }
    print(io, args.show, &answer, || render::job(&model) + &more)?;
    Ok(if args.watch { follow::exit(&model) } else { Exit::Done })
}

pub(super) async fn output(
    args: GetOutput,
    client: &Client,
    io: &mut Io<'_>,
) -> Result<Exit, CliError> {
    let stage = match args.stage {
        StageArg::Reset => "reset",
        StageArg::Post => "post",
    };
    let mut attempt = args.attempt.map(|attempt| attempt.to_string());
    let mut offset = 0;
    for _ in 0..PIECES {
        let at = offset.to_string();
        let mut query = vec![("stage", stage), ("offset", at.as_str())];
        if let Some(attempt) = &attempt {
            query.push(("attempt", attempt));
        }
        let place = Place::Evenkeel(&["jobs", &args.job, "nodes", &args.node, "output"]);
        let answer = client.get(place, &query).await?;
        let data = STANDARD.decode(text(&answer, "/data"));
        let data = data.map_err(|_| client.foreign("a piece of output is not base64"))?;
        match args.show.output {
            Format::Json => io.data(&format!("{answer}\n"))?,
            Format::Text => write_output(io, &data)?,
        }
        let next = answer.get("nextOffset").and_then(Value::as_u64);
        let next = next.ok_or_else(|| client.foreign("a piece of output has no `nextOffset`"))?;
        if answer.get("complete") == Some(&Value::Bool(true)) {
            return Ok(Exit::Done);
        }
        if next <= offset {
            io.say("the output goes on: the step is still running");
            return Ok(Exit::Done);
        }
        // A later attempt may begin while this one is read: stay with it.
        attempt =
            attempt.or_else(|| Some(text(&answer, "/attempt")).filter(|text| !text.is_empty()));
        offset = next;
    }
    Err(client.foreign("the output does not end"))
}

/// A script's words as they are; on a terminal without what would steer it.
fn write_output(io: &mut Io<'_>, data: &[u8]) -> Result<(), CliError> {
    if io.stdout_is_terminal {
        io.data(&plain_lines(&String::from_utf8_lossy(data)))
    } else {
        io.bytes(data)
    }
}
