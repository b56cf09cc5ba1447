//! `pool policy`.

use reqwest::Method;
use serde_json::{Value, json};

use super::show as print;
use crate::args::PoolPolicy;
use crate::client::{Client, Place};
use crate::failure::{CliError, Exit};
use crate::io::Io;
use crate::lookup;
use crate::render;

pub(super) async fn policy(
    args: PoolPolicy,
    client: &Client,
    io: &mut Io<'_>,
) -> Result<Exit, CliError> {
    let cluster = lookup::cluster(client, args.place.cluster.as_deref()).await?;
    let pool = lookup::pool(client, &cluster.uid, &args.pool).await?;
    let place = ["clusters", &cluster.uid, "nodepools", &pool.uid, "policy"];
    let place = Place::Evenkeel(&place);
    let answer = match body(&args) {
        Some(body) => client.send(Method::PUT, place, &[], &body).await?,
        None => client.get(place, &[]).await?,
    };
    print(io, args.show, &answer, || render::policy(&pool.name, &answer))
}

/// What is to be set; `None` if nothing is.
fn body(args: &PoolPolicy) -> Option<Value> {
    let mut body = json!({});
    let daily = args
        .windows
        .iter()
        .map(|w| json!({ "days": w.days, "from": w.from, "to": w.to, "timeZone": args.time_zone }));
    let crons = args.crons.iter().map(|cron| {
        let mut window = json!({ "cron": cron, "timeZone": args.time_zone });
        if let Some(seconds) = args.open_for {
            window["durationSeconds"] = Value::from(seconds);
        }
        window
    });
    let windows: Vec<Value> = daily.chain(crons).collect();
    if !windows.is_empty() || args.always {
        body["windows"] = Value::from(windows);
    }
    if let Some(soak) = args.soak {
        body["soakSeconds"] = Value::from(soak);
    }
    if let Some(strict) = args.strict_capacity {
        body["strictCapacity"] = Value::from(strict);
    }
    let is_empty = body.as_object().is_none_or(serde_json::Map::is_empty);
    (!is_empty).then_some(body)
}
