//! `pool list`, `show`, `create` and `update`.

use reqwest::Method;
use serde_json::Value;

use super::{read_object, show as print};
use crate::args::{PoolCreate, PoolList, PoolShow, PoolUpdate};
use crate::client::{Client, Place};
use crate::failure::{CliError, Exit};
use crate::io::Io;
use crate::lookup;
use crate::render;

pub(super) async fn list(
    args: PoolList,
    client: &Client,
    io: &mut Io<'_>,
) -> Result<Exit, CliError> {
    let cluster = lookup::cluster(client, args.place.cluster.as_deref()).await?;
    let (list, items) = lookup::pools(client, &cluster.uid).await?;
    print(io, args.show, &list, || render::pools(&items))
}

pub(super) async fn show(
    args: PoolShow,
    client: &Client,
    io: &mut Io<'_>,
) -> Result<Exit, CliError> {
    let cluster = lookup::cluster(client, args.place.cluster.as_deref()).await?;
    let pool = lookup::pool(client, &cluster.uid, &args.pool).await?;
    print(io, args.show, &pool.value, || render::pool(&pool))
}

pub(super) async fn create(
    args: PoolCreate,
    client: &Client,
    io: &mut Io<'_>,
) -> Result<Exit, CliError> {
    let body = read_object(io, &args.file)?;
    let cluster = lookup::cluster(client, args.place.cluster.as_deref()).await?;
    let place = Place::Cce(&["clusters", &cluster.uid, "nodepools"]);
    let answer = client.send(Method::POST, place, &[], &body).await?;
    let (name, uid) =
        (lookup::text(&answer, "/metadata/name"), lookup::text(&answer, "/metadata/uid"));
    io.say(&format!("node pool {name} created"));
    print(io, args.show, &answer, || format!("{uid}\n"))
}

pub(super) async fn update(
    args: PoolUpdate,
    client: &Client,
    io: &mut Io<'_>,
) -> Result<Exit, CliError> {
    let mut body = read_object(io, &args.file)?;
    if keep_count(&mut body) {
        io.say("the file has no spec.initialNodeCount, which would mean 0: sent with ignoreInitialNodeCount");
    }
    let cluster = lookup::cluster(client, args.place.cluster.as_deref()).await?;
    let pool = lookup::pool(client, &cluster.uid, &args.pool).await?;
    let place = Place::Cce(&["clusters", &cluster.uid, "nodepools", &pool.uid]);
    let answer = client.send(Method::PUT, place, &[], &body).await?;
    io.say(&format!(
        "node pool {} changed; `evenkeel sync {}` brings it to its nodes",
        pool.name, pool.name
    ));
    print(io, args.show, &answer, || format!("{}\n", pool.uid))
}

/// The API reads an absent count as 0 and the real service deletes nodes then. Nobody means that by leaving it out.
fn keep_count(body: &mut Value) -> bool {
    let Some(spec) = body.get_mut("spec").and_then(Value::as_object_mut) else {
        return false;
    };
    let has = |key: &str| {
        spec.iter().any(|(name, value)| name.eq_ignore_ascii_case(key) && !value.is_null())
    };
    if has("initialNodeCount") || has("ignoreInitialNodeCount") {
        return false;
    }
    spec.insert("ignoreInitialNodeCount".to_owned(), Value::Bool(true));
    true
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_count_that_is_left_out_is_kept() {
        let cases = [
            (json!({ "spec": {} }), true),
            (json!({ "spec": { "initialNodeCount": null } }), true),
            (json!({ "spec": { "initialNodeCount": 0 } }), false),
            (json!({ "spec": { "ignoreinitialnodecount": false } }), false),
            (json!({ "metadata": {} }), false),
        ];
        for (mut body, wanted) in cases {
            let before = body.clone();
            assert_eq!(keep_count(&mut body), wanted, "{before}");
            assert_eq!(body.pointer("/spec/ignoreInitialNodeCount") == Some(&json!(true)), wanted);
        }
    }
}
