#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;
use tokio::time::{advance, sleep};

const POLL: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(20);

fn ended(boot: &str, stdout: &str) -> CallEnd {
    CallEnd { boot_id: boot.into(), status: 0, stdout: stdout.into(), stderr: String::new() }
}

fn of(boot: &str) -> Poll {
    Poll { boot_id: boot.into(), version: "0.1.0".into(), protocol: PROTOCOL }
}

/// A call in the background.
fn ask(at: &Exchange, agent: &'static str) -> tokio::task::JoinHandle<Result<CallEnd, CallError>> {
    let at = at.clone();
    tokio::spawn(async move { at.call(agent, vec!["probe".into()], "{}".into(), LIMIT).await })
}

fn poll(
    at: &Exchange,
    agent: &'static str,
    boot: &'static str,
) -> tokio::task::JoinHandle<Result<Option<Call>, PollError>> {
    let at = at.clone();
    tokio::spawn(async move { at.poll(agent, &of(boot), POLL).await })
}

/// Lets every other task go on as far as it can.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_goes_to_one_poll_and_has_one_answer() {
    let at = Exchange::default();
    let open = poll(&at, "a", "boot");
    settle().await;
    let asked = ask(&at, "a");
    let call = open.await.unwrap().unwrap().unwrap();
    assert_eq!(
        (call.args, call.stdin.expose(), call.limit_ms),
        (vec!["probe".to_owned()], "{}", 20_000)
    );
    assert!(!at.answer("b", &call.id, ended("boot", "x")), "another agent");
    assert!(!at.answer("a", "another-call", ended("boot", "x")));
    assert!(!at.answer("a", &call.id, ended("another boot", "x")), "another machine");
    assert!(at.answer("a", &call.id, ended("boot", "said")));
    assert!(!at.answer("a", &call.id, ended("boot", "again")), "a replayed answer");
    assert_eq!(asked.await.unwrap().unwrap().stdout, "said");
    // A call that waits already is handed out at once.
    let asked = ask(&at, "a");
    settle().await;
    let call = at.poll("a", &of("boot"), POLL).await.unwrap().unwrap();
    assert!(at.answer("a", &call.id, ended("boot", "")));
    asked.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn every_wait_ends() {
    let at = Exchange::default();
    let begun = Instant::now();
    assert_eq!(at.poll("a", &of("boot"), POLL).await, Ok(None));
    assert_eq!(begun.elapsed(), POLL);
    advance(Duration::from_secs(100)).await;
    let begun = Instant::now();
    let away = ask(&at, "a").await.unwrap();
    assert_eq!(
        (away, begun.elapsed()),
        (Err(CallError::Away(Some(Duration::from_secs(110)))), PICKUP_LIMIT)
    );
    assert_eq!(
        at.poll("a", &of("boot"), POLL).await,
        Ok(None),
        "what nobody waits for is not handed out"
    );
    let asked = ask(&at, "a");
    settle().await;
    let call = at.poll("a", &of("boot"), POLL).await.unwrap().unwrap();
    let begun = Instant::now();
    assert_eq!(
        (asked.await.unwrap(), begun.elapsed()),
        (Err(CallError::Silent), LIMIT + ANSWER_SLACK)
    );
    assert!(!at.answer("a", &call.id, ended("boot", "late")));
    // A caller that is gone takes its call with it.
    let asked = ask(&at, "a");
    settle().await;
    asked.abort();
    settle().await;
    assert_eq!(at.poll("a", &of("boot"), POLL).await, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn revoking_ends_everything_at_once() {
    let at = Exchange::default();
    let first = ask(&at, "a");
    settle().await;
    let call = at.poll("a", &of("boot"), POLL).await.unwrap().unwrap();
    let open = poll(&at, "a", "boot");
    let other = poll(&at, "b", "boot");
    settle().await;
    let begun = Instant::now();
    at.revoke("a");
    assert_eq!(open.await.unwrap(), Err(PollError::Revoked));
    assert_eq!(first.await.unwrap(), Err(CallError::Revoked));
    let waiting = ask(&at, "a");
    settle().await;
    at.revoke("a");
    assert_eq!(waiting.await.unwrap(), Err(CallError::Revoked));
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert!(!at.answer("a", &call.id, ended("boot", "late")));
    assert!(!other.is_finished(), "nobody else is touched");
}

#[tokio::test(start_paused = true)]
async fn one_machine_at_a_time_has_the_place() {
    let at = Exchange::default();
    let open = poll(&at, "a", "one");
    settle().await;
    assert_eq!(at.poll("a", &of("two"), POLL).await, Err(PollError::Taken));
    let asked = ask(&at, "a");
    let call = open.await.unwrap().unwrap().unwrap();
    assert_eq!(at.poll("a", &of("two"), POLL).await, Err(PollError::Taken), "it owes an answer");
    assert!(!at.answer("a", &call.id, ended("two", "stolen")));
    assert!(at.answer("a", &call.id, ended("one", "")));
    asked.await.unwrap().unwrap();
    assert_eq!(at.poll("a", &of("two"), POLL).await, Err(PollError::Taken), "it has just answered");
    sleep(SEAT_KEEP).await;
    assert_eq!(at.poll("a", &of("two"), POLL).await, Ok(None), "it is gone");

    // A connection that breaks frees the place at once; the same machine takes it over at any time.
    let open = poll(&at, "b", "one");
    settle().await;
    open.abort();
    settle().await;
    let open = poll(&at, "b", "two");
    settle().await;
    let newer = poll(&at, "b", "two");
    assert_eq!(open.await.unwrap(), Ok(None), "the older poll of a machine ends");
    let asked = ask(&at, "b");
    let call = newer.await.unwrap().unwrap().unwrap();
    assert!(at.answer("b", &call.id, ended("two", "")));
    asked.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_was_heard_of_an_agent() {
    let at = Exchange::default();
    assert_eq!(at.seen("a"), None);
    let open = poll(&at, "a", "one");
    settle().await;
    advance(Duration::from_secs(5)).await;
    assert_eq!(at.seen("a"), Some(Seen { connected: true, ago: Duration::ZERO, misfit: None }));
    open.await.unwrap().unwrap();
    sleep(Duration::from_secs(7)).await;
    assert_eq!(
        at.seen("a"),
        Some(Seen { connected: false, ago: Duration::from_secs(7), misfit: None })
    );
}

#[tokio::test(start_paused = true)]
async fn an_agent_of_another_protocol_gets_nothing_until_it_fits() {
    let at = Exchange::default();
    let open = poll(&at, "a", "boot");
    settle().await;
    let other = Poll { version: "9.0 \n!".into(), protocol: PROTOCOL + 1, ..of("boot") };
    let misfit = Misfit { version: "9.0!".into(), protocol: PROTOCOL + 1 };
    assert_eq!(at.poll("a", &other, POLL).await, Err(PollError::Misfit(misfit.clone())));
    assert_eq!(open.await.unwrap(), Ok(None), "the process before it is gone");
    let begun = Instant::now();
    assert_eq!(ask(&at, "a").await.unwrap(), Err(CallError::Misfit(misfit.clone())));
    assert_eq!(begun.elapsed(), Duration::ZERO, "nobody waits for it");
    assert_eq!(at.seen("a").unwrap().misfit, Some(misfit));
    let open = poll(&at, "a", "boot");
    settle().await;
    assert_eq!(at.seen("a"), Some(Seen { connected: true, ago: Duration::ZERO, misfit: None }));
    let asked = ask(&at, "a");
    let call = open.await.unwrap().unwrap().unwrap();
    assert!(at.answer("a", &call.id, ended("boot", "")));
    asked.await.unwrap().unwrap();
}
