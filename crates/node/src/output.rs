//! Output of one script, bounded: the head goes to the file as it comes, the tail when the script
//! has ended, with a line between them that says how much is missing.

use std::collections::VecDeque;
use std::io::Write;

/// Bytes of one script that are kept: 1 MiB, half from each end.
pub const OUTPUT_BYTES_MAX: usize = 1024 * 1024;
const HALF: usize = OUTPUT_BYTES_MAX / 2;

/// Takes what a script writes.
#[derive(Debug)]
pub struct Capped<W> {
    sink: W,
    head: usize,
    tail: VecDeque<u8>,
    dropped: u64,
    lost: bool,
}

impl<W: Write> Capped<W> {
    /// Nothing taken yet.
    pub fn new(sink: W) -> Self {
        Self { sink, head: 0, tail: VecDeque::new(), dropped: 0, lost: false }
    }

    /// Never fails: a full disk costs output, not the script.
    pub fn take(&mut self, bytes: &[u8]) {
        let (head, rest) = bytes.split_at(bytes.len().min(HALF - self.head));
        self.head += head.len();
        self.put(head);
        self.tail.extend(rest);
        let over = self.tail.len().saturating_sub(HALF);
        self.tail.drain(..over);
        self.dropped += over as u64;
    }

    /// Writes the tail.
    pub fn finish(mut self) {
        if self.dropped > 0 {
            let marker = format!("\n[evenkeel: {} bytes of output dropped here]\n", self.dropped);
            self.put(marker.as_bytes());
        }
        let (front, back) = {
            let (front, back) = self.tail.as_slices();
            (front.to_vec(), back.to_vec())
        };
        self.put(&front);
        self.put(&back);
    }

    fn put(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        // After a failed write the rest would be glued to the wrong place.
        self.lost = self.lost || self.sink.write_all(bytes).is_err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(chunks: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut capped = Capped::new(&mut out);
        for chunk in chunks {
            capped.take(chunk);
        }
        capped.finish();
        out
    }

    #[test]
    fn up_to_the_limit_nothing_is_lost() {
        let all: Vec<u8> = (0..OUTPUT_BYTES_MAX).map(|n| (n % 251) as u8).collect();
        let chunks: Vec<&[u8]> = all.chunks(7777).collect();
        assert_eq!(through(&chunks), all);
        assert_eq!(through(&[]), b"");
    }

    #[test]
    fn beyond_it_both_ends_are_kept() {
        let all: Vec<u8> = (0..OUTPUT_BYTES_MAX + 10).map(|n| (n % 251) as u8).collect();
        let out = through(&[&all]);
        assert!(out.starts_with(&all[..HALF]));
        assert!(out.ends_with(&all[all.len() - HALF..]));
        assert!(String::from_utf8_lossy(&out).contains("[evenkeel: 10 bytes of output dropped"));
    }
}
