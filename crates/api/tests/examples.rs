//! The examples that the README names are valid requests.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use evenkeel_api::nodepool::NodePool;

#[test]
fn the_example_pool_is_accepted() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/pool.json");
    let body = std::fs::read(path).unwrap();
    let (pool, login) = NodePool::parse_create(&body).unwrap();
    assert_eq!(pool.metadata.name, "workers");
    assert!(login.is_some());
}
