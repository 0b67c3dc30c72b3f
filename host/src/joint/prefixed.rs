//! Standard error that is told apart: each line with the name of who printed it.

use std::{
    io,
    task::{Context, Poll, ready},
};

use super::half::SinkHalf;
use crate::shown;

/// The most of a line that is held back until it ends, in bytes.
const MOST_HELD: usize = 4096;

/// A sink whose lines begin with a name. A line is handed on when it ends, so that lines of several stages do not run into each other.
#[derive(Debug)]
pub(crate) struct Prefixed<S> {
    sink: S,
    prefix: Vec<u8>,
    /// A line that has not ended, with its prefix.
    line: Vec<u8>,
    /// What is ready and not written yet, from `written` on.
    ready: Vec<u8>,
    written: usize,
}

impl<S: SinkHalf> Prefixed<S> {
    pub(crate) fn new(sink: S, name: &str) -> Self {
        // A name is the file's author's.
        Self {
            sink,
            prefix: format!("{}: ", shown::line(name)).into_bytes(),
            line: Vec::new(),
            ready: Vec::new(),
            written: 0,
        }
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(cx))?;
        let piece = &bytes[..bytes.len().min(MOST_HELD)];
        for line in piece.split_inclusive(|byte| *byte == b'\n') {
            if self.line.is_empty() {
                self.line.extend_from_slice(&self.prefix);
            }
            self.line.extend_from_slice(line);
            if line.ends_with(b"\n") {
                self.ready.append(&mut self.line);
            } else if self.line.len() > MOST_HELD {
                self.end_line();
            }
        }
        // What does not fit now is written before the next piece is taken.
        if let Poll::Ready(Err(error)) = self.poll_drain(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(piece.len()))
    }

    /// Ends a partial line: whatever is printed next begins a line of its own.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.line.is_empty() {
            self.end_line();
        }
        ready!(self.poll_drain(cx))?;
        self.sink.poll_flush(cx)
    }

    fn end_line(&mut self) {
        self.line.push(b'\n');
        self.ready.append(&mut self.line);
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.ready.len() {
            self.written += ready!(self.sink.poll_write(cx, &self.ready[self.written..]))?;
        }
        self.ready.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}
