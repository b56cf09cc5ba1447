//! Reads the write-ahead log before SQLite does, to notice damage that SQLite would pass over.
//!
//! SQLite replays the log up to its first bad frame and takes the rest for an unfinished write.
//! After a power loss that is right. But only the last transaction can be unfinished, as each is
//! synced before the next begins: two or more complete ones behind the bad frame were promised to
//! somebody, and a store without them must not open silently.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::fault::corrupt;
use crate::store::StoreError;

// Sizes, magic and layout: "WAL-Mode File Format" in SQLite's documentation.
const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
const MAGIC: u32 = 0x377f_0682;

/// Fails if the log has lost transactions that were promised.
pub(super) fn check(path: &Path) -> Result<(), StoreError> {
    match fs::read(path) {
        Ok(bytes) => check_bytes(&bytes),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StoreError::Permanent {
            during: "reading the write-ahead log",
            in_doubt: false,
            source: Box::new(error),
        }),
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_be_bytes(word)
}

fn checksum(bytes: &[u8], big_endian: bool, (mut a, mut b): (u32, u32)) -> (u32, u32) {
    for pair in bytes.chunks_exact(8) {
        let (x, y) = (word(pair, 0), word(pair, 4));
        let (x, y) = if big_endian { (x, y) } else { (x.swap_bytes(), y.swap_bytes()) };
        a = a.wrapping_add(x).wrapping_add(b);
        b = b.wrapping_add(y).wrapping_add(a);
    }
    (a, b)
}

fn check_bytes(wal: &[u8]) -> Result<(), StoreError> {
    if wal.len() <= HEADER {
        return Ok(());
    }
    let magic = word(wal, 0);
    let big_endian = magic & 1 == 1;
    let mut sum = checksum(&wal[..24], big_endian, (0, 0));
    // The header is synced before the first frame follows it.
    if magic & !1 != MAGIC || sum != (word(wal, 24), word(wal, 28)) {
        return Err(corrupt("the header of the write-ahead log is broken".to_owned()));
    }
    let salts = &wal[16..24];
    let page = word(wal, 8) as usize;
    let mut intact = true;
    let mut complete_behind = 0;
    for frame in wal[HEADER..].chunks_exact(FRAME_HEADER + page) {
        let ours = frame[8..16] == *salts;
        if intact {
            let next = checksum(&frame[..8], big_endian, sum);
            let next = checksum(&frame[FRAME_HEADER..], big_endian, next);
            intact = ours && next == (word(frame, 16), word(frame, 20));
            sum = next;
        }
        let ends_transaction = word(frame, 4) != 0;
        if !intact && ours && ends_transaction {
            complete_behind += 1;
        }
    }
    if complete_behind > 1 {
        return Err(corrupt(format!(
            "the write-ahead log has a bad frame with {complete_behind} transactions behind it"
        )));
    }
    Ok(())
}
