//! The store fails: 5xx, and either nothing was accepted or one whole job was.

use crate::support::*;
use serde_json::json;

#[tokio::test]
async fn a_store_that_refuses_means_nothing_was_accepted() {
    for fault in [Fault::Full, Fault::Transient] {
        let world = World::new().await;
        world.store.set(fault);
        let pools = format!("{}/nodepools", base());
        let pool =
            json!({ "metadata": { "name": "x" }, "spec": { "nodeTemplate": { "os": "a" } } })
                .to_string();
        let answers = [
            world.upgrade(POOL, &minimal(POOL)).await,
            world.call("POST", &pools, &pool).await,
            world.call("PUT", &format!("{pools}/{POOL}"), "{\"spec\":{}}").await,
        ];
        world.store.set(Fault::None);
        for answer in answers {
            assert_eq!(
                (answer.status.as_u16(), answer.code()),
                (500, "CCE.01500001"),
                "{fault:?}: {}",
                answer.text
            );
            assert!(answer.message().contains("nothing was accepted"), "{}", answer.message());
        }
        assert_eq!(world.jobs().await, 0, "{fault:?}");
        assert_eq!(
            world.upgrade(POOL, &minimal(POOL)).await.status.as_u16(),
            200,
            "and then it works"
        );
    }
}

#[tokio::test]
async fn a_lost_answer_is_looked_up() {
    let world = World::new().await;
    world.store.set(Fault::LostAnswer);
    let answer = world.upgrade(POOL, &minimal(POOL)).await;
    world.store.set(Fault::None);
    assert_eq!(
        answer.status.as_u16(),
        200,
        "the job is there, so it was accepted: {}",
        answer.text
    );
    let again = world.upgrade(POOL, &minimal(POOL)).await;
    assert_eq!(again.json["jobid"], answer.json["jobid"]);
}

#[tokio::test]
async fn a_lost_request_is_said_to_be_in_doubt() {
    let world = World::new().await;
    world.store.set(Fault::LostRequest);
    let answer = world.upgrade(POOL, &minimal(POOL)).await;
    world.store.set(Fault::None);
    assert_eq!((answer.status.as_u16(), answer.code()), (500, "CCE.01500001"));
    assert!(answer.message().contains("the outcome is unknown"), "{}", answer.message());
    assert_eq!(world.jobs().await, 0);
}
