//! The played API server against a real one: the same calls, and status and body must agree.
//!
//! Run by `cargo xtask test --only cluster`, or `cargo test -p evenkeel-rehearse --test differential --
//! --nocapture`. The real cluster is `cargo xtask testbed up --kwok`; `EVENKEEL_XTASK` names a built xtask.
//! What the two may differ in stands in one table, in `plain`.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![expect(clippy::print_stdout, reason = "the rows are the report")]

mod bed;
mod evictions;
mod pair;
mod plain;
mod reads;
mod setup;
mod watches;
mod writes;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_played_api_server_answers_as_the_real_one() {
    let begun = std::time::Instant::now();
    let mut both = setup::Both::start().await;
    reads::run(&mut both).await;
    writes::run(&mut both).await;
    watches::run(&mut both).await;
    evictions::run(&mut both).await;
    watches::node_deleted(&mut both).await;
    let rows = both.pair.rows.len();
    let differ: Vec<_> = both.pair.rows.iter().filter(|(_, found)| !found.is_empty()).collect();
    println!("{rows} rows, {} differ, {:.1} s", differ.len(), begun.elapsed().as_secs_f64());
    assert!(differ.is_empty(), "{differ:#?}");
}
