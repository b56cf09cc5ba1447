//! `sync`: the API's `operation/upgrade`, and following its job.

use evenkeel_api::upgrade::{UpgradeRequest, UpgradeSpec};
use reqwest::Method;
use serde_json::{Value, json};

use super::{read_object, show as print};
use crate::args::{Format, SyncArgs, SyncScope};
use crate::client::{Client, Place};
use crate::failure::{CliError, Exit};
use crate::follow::{self, Limits};
use crate::io::Io;
use crate::lookup::{self, Item};

pub(super) async fn sync(
    args: SyncArgs,
    client: &Client,
    io: &mut Io<'_>,
) -> Result<Exit, CliError> {
    let template = match &args.scope.template {
        Some(path) => Some(read_object(io, path)?),
        None => None,
    };
    let cluster = lookup::cluster(client, args.scope.place.cluster.as_deref()).await?;
    let pool = lookup::pool(client, &cluster.uid, &args.scope.pool).await?;
    let body =
        request(&args.scope, args.max_unavailable, template, client, &cluster, &pool).await?;
    let place =
        Place::Cce(&["clusters", &cluster.uid, "nodepools", &pool.uid, "operation", "upgrade"]);
    let answer = client.send(Method::POST, place, &[], &body).await?;
    let job = lookup::text(&answer, "/jobid");
    if job.is_empty() {
        // Older regions of the service accept without naming a job.
        let what = format!(
            "the sync of {} was accepted, but the server named no job to follow",
            pool.name
        );
        if !args.wait {
            io.say(&what);
            return Ok(Exit::Done);
        }
        return Err(CliError::Ended {
            what,
            hint: Some(format!("watch `evenkeel pool show {}`", pool.name)),
        });
    }
    if !args.wait {
        io.say(&format!("accepted; watch it with `evenkeel get job {job} --watch`"));
        return print(io, args.show, &json!({ "jobid": job }), || format!("{job}\n"));
    }
    io.say(&format!("job {job} accepted; to stop watching does not stop it"));
    if args.show.output == Format::Text {
        io.data(&format!("{job}\n"))?;
    }
    let (model, answer) =
        follow::to_the_end(client, io, &job, Limits::seconds(args.timeout)).await?;
    if args.show.output == Format::Json {
        io.data(&format!("{answer:#}\n"))?;
    }
    Ok(follow::exit(&model))
}

/// The body of the call. The nodes are read only where some are named.
pub(super) async fn request(
    args: &SyncScope,
    max_unavailable: u16,
    template: Option<Value>,
    client: &Client,
    cluster: &Item,
    pool: &Item,
) -> Result<Value, CliError> {
    let (mut node_ids, mut skipped_nodes) = (None, Vec::new());
    if !args.nodes.is_empty() || !args.skip.is_empty() {
        let all = lookup::nodes(client, &cluster.uid).await?;
        let ids = |wanted: &[String]| -> Result<Vec<String>, CliError> {
            Ok(lookup::pick_all(&all, "node", wanted)?.into_iter().map(|node| node.uid).collect())
        };
        node_ids = if args.nodes.is_empty() { None } else { Some(ids(&args.nodes)?) };
        skipped_nodes = ids(&args.skip)?;
    }
    let request = UpgradeRequest::new(UpgradeSpec {
        node_pool_id: pool.uid.clone(),
        max_unavailable,
        node_ids,
        skipped_nodes,
        retry_times: args.retry_times,
        force: args.force.then_some(true),
        node_template: template,
    });
    serde_json::to_value(&request).map_err(|error| CliError::local("no request can be made", error))
}
