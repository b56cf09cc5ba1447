//! What SQLite's file must survive: kills, cuts, flipped bytes, full disks, a second process.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]
#![expect(clippy::print_stdout, reason = "figures for a reader, and the child's acknowledgements")]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use evenkeel_server::store::sqlite::{SqliteOptions, SqliteStore};
use evenkeel_server::store::{Page, Store, StoreError, Txn};
use tempfile::TempDir;

/// Tells a run of this program that it is the child, and where the store is.
const CHILD: &str = "EVENKEEL_TEST_STORE";
/// Callers that write at once in the child.
const WRITERS: usize = 4;
/// Bytes of a value, as a node's record has them.
const VALUE: usize = 2048;

fn open(path: &Path) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(path, SqliteOptions::default())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Transaction number `n` of a writer: two keys that belong together.
fn numbered(writer: usize, n: u64) -> Txn {
    let value = Bytes::from(vec![n as u8; VALUE]);
    Txn::new()
        .when_absent(format!("w{writer}/a/{n:06}"))
        .put(format!("w{writer}/a/{n:06}"), value.clone())
        .put(format!("w{writer}/b/{n:06}"), value)
}

/// How many transactions of a writer are there. They must be 1..=n, each whole and unchanged.
async fn count(store: &SqliteStore, writer: usize) -> Result<u64, StoreError> {
    let mut counts = Vec::new();
    for part in ["a", "b"] {
        let listing = store.list(&format!("w{writer}/{part}/"), Page::all()).await?;
        for (index, kv) in listing.items.iter().enumerate() {
            let n = index as u64 + 1;
            assert_eq!(kv.key, format!("w{writer}/{part}/{n:06}"), "not a prefix");
            assert!(kv.value.len() == VALUE && kv.value.iter().all(|byte| *byte == n as u8));
        }
        counts.push(listing.items.len() as u64);
    }
    assert_eq!(counts[0], counts[1], "half a transaction");
    Ok(counts[0])
}

/// Small, seeded and the same everywhere (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

// ---- killed ----

/// Not a test by itself: the process that gets killed. Acknowledges what is durable.
#[test]
fn child_commits_until_it_is_killed() {
    let Some(path) = std::env::var_os(CHILD) else {
        return;
    };
    let path = PathBuf::from(path);
    runtime().block_on(async {
        let store = match open(&path) {
            Ok(store) => Arc::new(store),
            Err(error) => {
                println!("refused: {error}");
                return;
            }
        };
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let store = Arc::clone(&store);
            let first = count(&store, writer).await.unwrap() + 1;
            writers.spawn(async move {
                for n in first.. {
                    match store.txn(numbered(writer, n)).await {
                        Ok(result) => assert!(result.succeeded),
                        Err(error) => {
                            println!("\nfailed {} {error}", error.may_have_applied());
                            return;
                        }
                    }
                    // In one write, so that a kill cannot cut a number short and leave a line.
                    let line = format!("\nack {writer} {n}\n");
                    std::io::stdout().write_all(line.as_bytes()).unwrap();
                }
            });
        }
        while writers.join_next().await.is_some() {}
    });
}

fn child(path: &Path, shell: Option<&str>) -> Command {
    let program = std::env::current_exe().unwrap();
    let args = ["--exact", "child_commits_until_it_is_killed", "--nocapture"];
    let mut command = match shell {
        None => Command::new(program),
        Some(script) => {
            let mut command = Command::new("sh");
            command.arg("-c").arg(format!("{script}; exec \"$@\"")).arg("sh").arg(program);
            command
        }
    };
    command.args(args).env(CHILD, path).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

fn note(line: &str, acked: &mut [u64; WRITERS]) -> bool {
    let words: Vec<_> = line.split_whitespace().collect();
    let ["ack", writer, n] = words[..] else {
        return false;
    };
    acked[writer.parse::<usize>().unwrap()] = n.parse().unwrap();
    true
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("store.db");
    let mut dice = Dice(1);
    let mut acked = [0; WRITERS];
    for round in 0..6 {
        let mut process = child(&path, None).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut left = 1 + dice.below(300);
        while left > 0 {
            let line = lines.next().expect("the child goes on until it is killed").unwrap();
            left -= usize::from(note(&line, &mut acked));
        }
        process.kill().unwrap();
        process.wait().unwrap();
        for line in lines.map_while(Result::ok) {
            note(&line, &mut acked);
        }
        let store = open(&path).unwrap();
        runtime().block_on(async {
            for (writer, acked) in acked.iter().enumerate() {
                let found = count(&store, writer).await.unwrap();
                // One more may have been durable and not yet acknowledged.
                assert!(
                    found == *acked || found == acked + 1,
                    "round {round}, writer {writer}: {acked} acknowledged, {found} found"
                );
            }
        });
        store.close();
    }
    println!("acknowledged and found over 6 kills: {acked:?}");
}

#[test]
fn a_file_that_cannot_grow_fails_loudly_and_keeps_what_was_acknowledged() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("store.db");
    // Files end at 1 MiB: writes beyond fail with an error of the system in the midst of a commit.
    let script = "trap '' XFSZ; ulimit -f 2048";
    let output = child(&path, Some(script)).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let mut acked = [0; WRITERS];
    for line in text.lines() {
        note(line, &mut acked);
    }
    let failed = text.lines().filter(|line| line.starts_with("failed ")).count();
    assert_eq!(failed, WRITERS, "every writer is told: {text}");
    assert!(acked.iter().all(|n| *n > 5), "{acked:?}");
    let store = open(&path).unwrap();
    runtime().block_on(async {
        for (writer, acked) in acked.iter().enumerate() {
            let found = count(&store, writer).await.unwrap();
            assert!(found == *acked || found == acked + 1, "{acked} acknowledged, {found} found");
        }
    });
}

#[test]
fn a_second_opener_is_refused_and_told_who_has_it() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("store.db");
    let store = open(&path).unwrap();
    let error = open(&path).err().unwrap();
    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    let output = child(&path, None).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("refused: ") && text.contains("another process uses it"), "{text}");
    store.close();
    open(&path).unwrap().close();
}

// ---- damaged ----

const WRITTEN: u64 = 40;

/// A store with [`WRITTEN`] transactions, all still in the write-ahead log, copied as a crash
/// would leave it; and the same after an orderly close.
fn sample(dir: &TempDir) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let path = dir.path().join("sample.db");
    let store = open(&path).unwrap();
    runtime().block_on(async {
        for n in 1..=WRITTEN {
            store.txn(numbered(0, n)).await.unwrap();
        }
    });
    let wal = dir.path().join("sample.db-wal");
    let (early, log) = (fs::read(&path).unwrap(), fs::read(wal).unwrap());
    store.close();
    (early, log, fs::read(&path).unwrap())
}

/// Opens a store made of these bytes. `Some(n)`: opened, with the first n transactions, as
/// seen by every way to read. `None`: refused loudly.
fn found(database: &[u8], log: Option<&[u8]>) -> Option<u64> {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("store.db");
    fs::write(&path, database).unwrap();
    if let Some(log) = log {
        fs::write(dir.path().join("store.db-wal"), log).unwrap();
    }
    let store = match open(&path) {
        Ok(store) => store,
        Err(error) => {
            assert!(
                matches!(
                    error,
                    StoreError::Corrupt { .. }
                        | StoreError::Refused { .. }
                        | StoreError::Permanent { .. }
                        | StoreError::Transient { .. }
                ),
                "{error:?}"
            );
            return None;
        }
    };
    runtime().block_on(async {
        let n = count(&store, 0).await.ok()?;
        assert_eq!(store.revision().await.ok()?, n);
        for k in 1..=n {
            assert!(store.get(&format!("w0/a/{k:06}"), None).await.ok()?.is_some());
        }
        // What opens must also work.
        store.txn(numbered(0, n + 1)).await.ok()?;
        Some(n)
    })
}

#[test]
fn a_log_cut_anywhere_opens_as_a_prefix() {
    let dir = TempDir::new().unwrap();
    let (database, log, _) = sample(&dir);
    assert_eq!(found(&database, Some(&log)), Some(WRITTEN));
    let mut dice = Dice(2);
    let mut cuts: Vec<_> = (0..60).map(|_| dice.below(log.len())).collect();
    cuts.extend([0, 1, 31, 32, 33, log.len() - 1]);
    cuts.sort_unstable();
    let mut last = 0;
    for cut in cuts {
        let n = found(&database, Some(&log[..cut])).expect("a cut alone is an unfinished write");
        assert!(n >= last && n < WRITTEN, "cut at {cut}: {n} after {last}");
        last = n;
    }
    assert!(last > WRITTEN / 2, "the cuts reach into the log");
}

#[test]
fn a_flipped_byte_in_the_log_loses_nothing_silently() {
    let dir = TempDir::new().unwrap();
    let (database, log, _) = sample(&dir);
    let mut dice = Dice(3);
    let (mut refused, mut opened) = (0, 0);
    let mut places: Vec<_> = (0..80).map(|_| dice.below(log.len())).collect();
    places.extend(0..32);
    places.extend([log.len() - 1, log.len() - 5000]);
    for at in places {
        let mut bad = log.clone();
        bad[at] ^= 1 << dice.below(8);
        match found(&database, Some(&bad)) {
            None => refused += 1,
            // Damage to the very last transactions looks like an unfinished write.
            Some(n) => {
                assert!(n + 2 >= WRITTEN, "byte {at} flipped: opened with {n} of {WRITTEN}");
                opened += 1;
            }
        }
    }
    println!("flipped bytes in the log: {refused} refused, {opened} opened");
    assert!(refused > 50 && opened > 0);
}

#[test]
fn a_flipped_byte_in_the_database_loses_nothing_silently() {
    let dir = TempDir::new().unwrap();
    let (_, _, database) = sample(&dir);
    assert_eq!(found(&database, None), Some(WRITTEN));
    let mut dice = Dice(4);
    let (mut refused, mut opened) = (0, 0);
    let mut places: Vec<_> = (0..200).map(|_| dice.below(database.len())).collect();
    places.extend(0..100);
    for at in places {
        let mut bad = database.clone();
        bad[at] ^= 1 << dice.below(8);
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| found(&bad, None)));
        match outcome.unwrap_or_else(|_| panic!("byte {at} flipped: opened with something else")) {
            None => refused += 1,
            Some(n) => {
                assert_eq!(n, WRITTEN, "byte {at} flipped: opened with {n}");
                opened += 1;
            }
        }
    }
    println!("flipped bytes in the database: {refused} refused, {opened} opened whole");
    assert!(refused > 100);
}

#[test]
fn a_database_that_is_gone_or_empty_is_not_taken_for_a_new_one() {
    let dir = TempDir::new().unwrap();
    let (database, log, _) = sample(&dir);
    assert_eq!(found(&[], Some(&log)), None);
    assert_eq!(found(&[], None), None);
    assert_eq!(found(&database[..4096], Some(&[])), None);
    let path = dir.path().join("gone.db");
    fs::write(dir.path().join("gone.db-wal"), &log).unwrap();
    assert!(matches!(open(&path), Err(StoreError::Corrupt { .. })));
    let foreign = dir.path().join("foreign.db");
    fs::write(&foreign, "not a database, though it is long enough to be looked at").unwrap();
    assert!(matches!(open(&foreign), Err(StoreError::Corrupt { .. })));
}

// ---- full ----

#[test]
fn a_full_disk_says_so_stores_no_half_and_recovers() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("store.db");
    let options = SqliteOptions { max_pages: Some(100), ..Default::default() };
    let store = SqliteStore::open(&path, options).unwrap();
    let stored = runtime().block_on(async {
        let mut n = 1;
        let error = loop {
            assert!(n < 1000, "100 pages never get full");
            match store.txn(numbered(0, n)).await {
                Ok(_) => n += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, StoreError::Full), "{error:?}");
        assert!(error.is_transient() && !error.may_have_applied());
        // In company too: each is answered by itself, and what is there stays readable.
        let (one, two) = tokio::join!(store.txn(numbered(0, n)), store.txn(numbered(1, 1)));
        assert!(matches!((one, two), (Err(StoreError::Full), Err(StoreError::Full))));
        assert_eq!(store.revision().await.unwrap(), n - 1);
        assert_eq!(count(&store, 0).await.unwrap(), n - 1);
        n - 1
    });
    assert!(stored > 10, "{stored}");
    store.close();
    let store = open(&path).unwrap();
    runtime().block_on(async {
        assert_eq!(count(&store, 0).await.unwrap(), stored);
        store.txn(numbered(0, stored + 1)).await.unwrap();
        assert_eq!(count(&store, 0).await.unwrap(), stored + 1);
    });
}

// ---- kept elsewhere ----

#[test]
fn a_backup_of_a_store_in_use_restores_to_the_same() {
    let dir = TempDir::new().unwrap();
    let (path, copy) = (dir.path().join("store.db"), dir.path().join("copy.db"));
    let store = open(&path).unwrap();
    runtime().block_on(async {
        for n in 1..=20 {
            store.txn(numbered(0, n)).await.unwrap();
        }
        store.lease_grant(Duration::from_mins(1)).await.unwrap();
        store.compact(5).await.unwrap();
        store.backup(&copy).await.unwrap();
        store.txn(numbered(0, 21)).await.unwrap();
        let again = store.backup(&copy).await.unwrap_err();
        assert!(matches!(again, StoreError::Refused { .. }), "{again}");
    });
    let taken = SqliteStore::restore(&copy, &path, 0).unwrap_err();
    assert!(matches!(taken, StoreError::Refused { .. }), "{taken}");
    store.close();
    let new = dir.path().join("new.db");
    SqliteStore::restore(&copy, &new, 0).unwrap();
    let store = open(&new).unwrap();
    runtime().block_on(async {
        assert_eq!(count(&store, 0).await.unwrap(), 20);
        let old = store.get("w0/a/000001", Some(4)).await.unwrap_err();
        assert!(matches!(old, StoreError::Compacted { compact_revision: 5, .. }), "{old}");
        assert_eq!(store.lease_grant(Duration::from_secs(1)).await.unwrap().0, 2);
    });
    let mut bad = fs::read(&copy).unwrap();
    let middle = bad.len() / 2;
    bad[middle..middle + 64].fill(0xee);
    fs::write(&copy, bad).unwrap();
    let other = dir.path().join("other.db");
    assert!(SqliteStore::restore(&copy, &other, 0).is_err() && !other.exists());
}

/// Revisions are what fences compare: none of a time after the backup may come back.
#[test]
fn a_restored_store_goes_on_above_every_revision_it_may_have_reached() {
    let dir = TempDir::new().unwrap();
    let file = |name: &str| dir.path().join(name);
    let store = open(&file("store.db")).unwrap();
    let last = runtime().block_on(async {
        store.txn(numbered(0, 1)).await.unwrap();
        store.backup(&file("copy.db")).await.unwrap();
        store.txn(numbered(0, 2)).await.unwrap().revision
    });
    store.close();
    // An ordinary floor, one below the end of the log, and a restore of a restored store.
    SqliteStore::restore(&file("copy.db"), &file("low.db"), 0).unwrap();
    SqliteStore::restore(&file("copy.db"), &file("high.db"), 1_700_000_000_000_000).unwrap();
    for (name, floor) in [("low.db", 1), ("high.db", 1_700_000_000_000_000)] {
        let store = open(&file(name)).unwrap();
        let (next, copy) = runtime().block_on(async {
            let seen = store.list("w0/", Page::all()).await.unwrap();
            assert_eq!(count(&store, 0).await.unwrap(), 1, "{name}: {seen:?}");
            let next = store.txn(numbered(0, 2)).await.unwrap().revision;
            let copy = file(&format!("{name}.again"));
            store.backup(&copy).await.unwrap();
            (next, copy)
        });
        assert!(next > floor, "{name}: {next}");
        store.close();
        let again = file(&format!("{name}.restored"));
        SqliteStore::restore(&copy, &again, floor + 1_000).unwrap();
        let store = open(&again).unwrap();
        let later = runtime().block_on(store.txn(numbered(0, 3))).unwrap().revision;
        assert!(later > next && later > floor + 1_000, "{name}: {later}");
        store.close();
    }
    assert!(last < 1_700_000_000_000_000);
}

#[test]
fn leases_outlive_a_restart_with_their_full_time_and_then_end() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("store.db");
    let store = open(&path).unwrap();
    let runtime = runtime();
    runtime.block_on(async {
        let lease = store.lease_grant(Duration::from_secs(1)).await.unwrap();
        store.txn(Txn::new().put_leased("leader", "me", lease)).await.unwrap();
    });
    store.close();
    let store = open(&path).unwrap();
    runtime.block_on(async {
        assert!(store.get("leader", None).await.unwrap().is_some());
        let mut watch = store.watch("leader", 2).await.unwrap();
        let limit = Duration::from_secs(20);
        let ended = tokio::time::timeout(limit, watch.next()).await.expect("the lease ends");
        assert_eq!(ended.unwrap().events[0].key(), "leader");
        assert!(store.get("leader", None).await.unwrap().is_none());
    });
}

// ---- measured ----

#[test]
fn commits_per_second() {
    let seconds = 2.0;
    for writers in [1, 8] {
        let dir = TempDir::new().unwrap();
        let store = Arc::new(open(&dir.path().join("store.db")).unwrap());
        let runtime = runtime();
        let began = Instant::now();
        let total: u64 = runtime.block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            for writer in 0..writers {
                let store = Arc::clone(&store);
                tasks.spawn(async move {
                    let mut n = 0;
                    while began.elapsed().as_secs_f64() < seconds {
                        n += 1;
                        let key = format!("w{writer}/{n}");
                        store.txn(Txn::new().put(key, vec![1; VALUE])).await.unwrap();
                    }
                    n
                });
            }
            tasks.join_all().await.into_iter().sum()
        });
        let rate = total as f64 / began.elapsed().as_secs_f64();
        println!("{writers} writer(s): {rate:.0} commits/s of {VALUE} bytes");
        // Slow disks sync in some 20 ms; below that something waits for more than the disk.
        assert!(rate > 20.0, "{writers} writer(s): {rate:.0} commits/s");
    }
}

#[test]
fn rows_that_contradict_each_other_are_noticed() {
    let dir = TempDir::new().unwrap();
    let (_, _, database) = sample(&dir);
    let path = dir.path().join("tampered.db");
    for sql in [
        "DELETE FROM current WHERE key = 'w0/a/000007'",
        "UPDATE current SET id = (SELECT id FROM current WHERE key = 'w0/a/000001') \
         WHERE key = 'w0/a/000007'",
        "DELETE FROM log WHERE revision = 7",
        "UPDATE log SET version = 2 WHERE revision = 7",
        "UPDATE compaction SET revision = 20",
        "DELETE FROM compaction",
        "DROP INDEX log_revision",
        "PRAGMA user_version = 2",
        "PRAGMA application_id = 1",
    ] {
        fs::write(&path, &database).unwrap();
        let conn = rusqlite::Connection::open(&path).unwrap();
        conn.execute_batch(sql).unwrap();
        conn.close().unwrap();
        let error = open(&path).err().unwrap_or_else(|| panic!("opened after: {sql}"));
        let named = matches!(error, StoreError::Corrupt { .. } | StoreError::Refused { .. });
        assert!(named, "{sql}: {error:?}");
    }
}
