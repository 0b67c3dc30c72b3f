//! Where in its input a stage is: what a panic's report says.
//!
//! The position is that of the last piece that was handed to the stage: its first byte, counted from 0, and that byte's
//! line, counted from 1. Newlines are counted when a piece is done with; lines that are handed out as lines count themselves.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The last piece's first byte and line; line 0 is not known. A stage has one input and one thread.
static BYTE: AtomicU64 = AtomicU64::new(0);
static LINE: AtomicU64 = AtomicU64::new(1);

/// The place of a buffer in the input.
#[derive(Debug)]
pub(crate) struct Position {
    /// The place of the buffer's first byte.
    base: u64,
    /// Newlines before `counted`, which is a place in the buffer.
    newlines: u64,
    counted: usize,
    /// Whether newlines are counted still.
    counting: bool,
}

impl Position {
    pub(crate) fn new() -> Self {
        Self { base: 0, newlines: 0, counted: 0, counting: true }
    }

    /// Gives up counting, for a stage that only passes its input on.
    pub(crate) fn stop_counting(&mut self) {
        self.counting = false;
    }

    /// Counts up to a place in the buffer.
    fn count(&mut self, buffer: &[u8], upto: usize) {
        if self.counting && self.counted < upto {
            self.newlines += memchr::memchr_iter(b'\n', &buffer[self.counted..upto]).count() as u64;
        }
        self.counted = self.counted.max(upto);
    }

    /// Says that the piece from `start` on is handed to the stage.
    pub(crate) fn hand(&mut self, buffer: &[u8], start: usize) {
        self.count(buffer, start);
        BYTE.store(self.base + start as u64, Relaxed);
        LINE.store(if self.counting { self.newlines + 1 } else { 0 }, Relaxed);
    }

    /// Says that a whole line was handed out, which ends before `end`, with a newline or without.
    pub(crate) fn line(&mut self, end: usize, has_newline: bool) {
        self.newlines += u64::from(has_newline);
        self.counted = end;
    }

    /// Says that the first `bytes` of the buffer are about to go.
    pub(crate) fn forget(&mut self, buffer: &[u8], bytes: usize) {
        self.count(buffer, bytes);
        self.base += bytes as u64;
        self.counted -= bytes;
    }
}

/// A line for people and for the host, which looks for it at the end of what a stage printed.
#[cfg(any(target_family = "wasm", test))]
pub(crate) fn note() -> String {
    let byte = BYTE.load(Relaxed);
    match LINE.load(Relaxed) {
        0 => format!("note: the input was at byte {byte}\n"),
        line => format!("note: the input was at byte {byte}, line {line}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Input, Read};

    /// One test at a time: the position is the process's.
    #[test]
    fn pieces_know_where_they_begin() {
        let at = || (BYTE.load(Relaxed), LINE.load(Relaxed));
        let mut input = Input::from_reader(&b"one\ntwo\nthree"[..]);
        for expected in [(0, 1), (4, 2), (8, 3)] {
            input.next_line().unwrap();
            assert_eq!(at(), expected);
        }
        // Bytes and lines in turn.
        let mut input = Input::from_reader(&b"one\ntwo\nthree\nfour\n"[..]);
        input.read_exact(&mut [0; 6]).unwrap();
        assert_eq!(at(), (0, 1));
        input.next_line().unwrap();
        assert_eq!(at(), (6, 2));
        input.next_line().unwrap();
        assert_eq!(at(), (8, 3));
        input.next_chunk().unwrap();
        assert_eq!(at(), (14, 4));
        // Pieces over several fillings of the buffer, and a line that is longer than it.
        let text = [vec![b'x'; 100_000], b"\n".to_vec(), b"y\n".repeat(50_000), b"last\n".to_vec()].concat();
        let mut input = Input::from_reader(std::io::Cursor::new(text.clone()));
        while let Some(line) = input.next_line().unwrap() {
            if line == b"last\n" {
                break;
            }
        }
        assert_eq!(at(), (200_001, 50_002));
        // Many lines at once, whatever the buffer holds of them.
        let mut input = Input::from_reader(std::io::Cursor::new([&text[..], b"no end"].concat()));
        let (mut bytes, mut lines) = (0, 1);
        while let Some(piece) = input.next_lines().unwrap() {
            assert_eq!(at(), (bytes, lines));
            bytes += piece.len() as u64;
            lines += memchr::memchr_iter(b'\n', piece).count() as u64;
            assert!(piece.ends_with(b"\n") || bytes == text.len() as u64 + 6);
        }
        assert_eq!((bytes, lines), (text.len() as u64 + 6, 50_003));
        let mut input = Input::from_reader(std::io::Cursor::new(text));
        while input.next_chunk().unwrap().is_some() {}
        let (byte, line) = at();
        assert!(byte > 130_000 && line > 10_000, "{byte} {line}");
        assert!(note().contains("at byte"));
    }
}
