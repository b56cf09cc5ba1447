//! The command lines for SSH, run by a real shell.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use evenkeel_node::protocol::*;

/// The command as it is, with the state directory moved: a test may not write to the real one.
fn run(remote: &Remote, state: &str, stdin: &[u8]) -> (Option<i32>, Result<Have, AnswerError>) {
    let command = remote.to_command(false).replace(STATE_DIR, state);
    let mut child = Command::new("/bin/sh")
        .args(["-c", &command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(stdin);
    let output = child.wait_with_output().unwrap();
    (output.status.code(), parse_answer(&output.stdout))
}

#[test]
fn a_binary_is_uploaded_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let state = format!("{}/state", dir.path().display());
    let binary: Vec<u8> = (0..300_000_u32).map(|n| (n % 253) as u8).collect();
    let hash = Sha256Hex::of(&binary);
    let have = Remote::Have { hash: hash.clone() };
    let upload = Remote::Upload { hash: hash.clone() };
    let is_there = || run(&have, &state, b"").1.unwrap().have;
    assert!(!is_there());

    let (status, answer) = run(&upload, &state, &binary[..1000]);
    assert_eq!(status, Some(EXIT_REFUSED));
    let Err(AnswerError::Refused(refusal)) = answer else { panic!("{answer:?}") };
    assert_eq!(refusal.kind, RefusalKind::Upload);
    assert_eq!(fs::read_dir(format!("{state}/bin")).unwrap().count(), 0, "nothing left behind");

    assert!(run(&upload, &state, &binary).1.unwrap().have);
    assert!(is_there());
    let path = format!("{state}/bin/evenkeel-node-{hash}");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::read(&path).unwrap(), binary);
    assert!(run(&upload, &state, &binary).1.unwrap().have, "again is no error");

    fs::write(&path, &binary[..77]).unwrap();
    assert!(!is_there(), "a damaged binary is none");
}

#[test]
fn an_unwritable_place_is_a_refusal_with_its_name() {
    let upload = Remote::Upload { hash: Sha256Hex::of(b"x") };
    let (status, answer) = run(&upload, "/proc/evenkeel", b"x");
    assert_eq!(status, Some(EXIT_REFUSED));
    let Err(AnswerError::Refused(refusal)) = answer else { panic!("{answer:?}") };
    assert!(refusal.message.contains("/proc/evenkeel/bin"), "{refusal}");
}
