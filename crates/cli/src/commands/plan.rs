//! `plan`: what a sync would do, on a page.

use evenkeel_api::preview::Preview;
use reqwest::Method;

use super::sync::request;
use super::{read_object, show as print};
use crate::args::{Format, PlanArgs, Show};
use crate::client::{Client, Place};
use crate::failure::{CliError, Exit};
use crate::io::Io;
use crate::{lookup, page};

/// Shown where the caller names none: one node at a time is what everything allows.
const MAX_UNAVAILABLE: u16 = 1;

pub(super) async fn plan(
    args: PlanArgs,
    client: &Client,
    io: &mut Io<'_>,
) -> Result<Exit, CliError> {
    let scope = &args.scope;
    let template = match &scope.template {
        Some(path) => Some(read_object(io, path)?),
        None => None,
    };
    let cluster = lookup::cluster(client, scope.place.cluster.as_deref()).await?;
    let pool = lookup::pool(client, &cluster.uid, &scope.pool).await?;
    let max_unavailable = args.max_unavailable.unwrap_or(MAX_UNAVAILABLE);
    let body = request(scope, max_unavailable, template, client, &cluster, &pool).await?;
    let parts =
        ["clusters", &*cluster.uid, "nodepools", &pool.uid, "operation", "upgrade", "preview"];
    let answer = client.send(Method::POST, Place::Evenkeel(&parts), &[], &body).await?;
    let preview: Preview = serde_json::from_value(answer.clone())
        .map_err(|error| CliError::local("the server's answer is no preview", error))?;
    let output = if args.json { Format::Json } else { Format::Text };
    print(io, Show { output }, &answer, || page::plan(&preview))
}
