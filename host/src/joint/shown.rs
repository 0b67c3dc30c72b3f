//! Text of guests on its way to a terminal: what a terminal would take for a command is shown instead.

use std::{
    io,
    task::{Context, Poll, ready},
};

use super::{half::SinkHalf, port::OutputPort};
use crate::shown;

/// How much is made safe at a time, in bytes.
const PIECE: usize = 4096;

/// A terminal that many write to, as a guest may write to it.
#[derive(Debug)]
pub(crate) struct Shown<S> {
    terminal: OutputPort<S>,
    /// The beginning of a character whose rest is still to come: three bytes at most.
    begun: Vec<u8>,
    /// What is safe and not written yet, from `written` on.
    safe: Vec<u8>,
    written: usize,
}

impl<S: SinkHalf> Shown<S> {
    pub(crate) fn new(terminal: OutputPort<S>) -> Self {
        Self { terminal, begun: Vec::new(), safe: Vec::new(), written: 0 }
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(cx))?;
        let piece = &bytes[..bytes.len().min(PIECE)];
        self.begun.extend_from_slice(piece);
        self.begun = make_safe(&self.begun, &mut self.safe);
        // What does not fit now is written before the next piece is taken.
        if let Poll::Ready(Err(error)) = self.poll_drain(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(piece.len()))
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let begun = std::mem::take(&mut self.begun);
        self.safe.extend(String::from_utf8_lossy(&begun).bytes());
        ready!(self.poll_drain(cx))?;
        self.terminal.poll_flush(cx)
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.safe.len() {
            self.written += ready!(self.terminal.poll_write(cx, &self.safe[self.written..]))?;
        }
        self.safe.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

/// Appends `bytes` to `safe` as they are shown, with line ends. Returns the beginning of a character
/// that ends `bytes`.
fn make_safe(bytes: &[u8], safe: &mut Vec<u8>) -> Vec<u8> {
    let mut rest = bytes;
    loop {
        let (good, bad) = match std::str::from_utf8(rest) {
            Ok(text) => (text, None),
            Err(error) => {
                let (good, bad) = rest.split_at(error.valid_up_to());
                // It was found to be valid up to there.
                (std::str::from_utf8(good).unwrap_or_default(), Some((bad, error.error_len())))
            }
        };
        let mut shown = String::with_capacity(good.len());
        for c in good.chars() {
            if c == '\n' { shown.push(c) } else { shown::push(c, &mut shown) }
        }
        safe.extend_from_slice(shown.as_bytes());
        match bad {
            None => return Vec::new(),
            Some((bad, None)) => return bad.to_vec(),
            Some((bad, Some(length))) => {
                safe.extend_from_slice("\u{fffd}".as_bytes());
                rest = &bad[length..];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::make_safe;

    #[test]
    fn what_moves_a_terminal_is_shown_however_it_is_cut() {
        let text = "plain\tüñ\n\u{1b}]0;title\u{7}\u{9b}31m\r\u{7f}€ end".as_bytes();
        for step in 1..=text.len() {
            let (mut safe, mut begun) = (Vec::new(), Vec::new());
            for piece in text.chunks(step) {
                begun.extend_from_slice(piece);
                begun = make_safe(&begun, &mut safe);
            }
            assert!(begun.is_empty());
            let safe = String::from_utf8(safe).unwrap();
            assert_eq!(safe, "plain\tüñ\n\\u{1b}]0;title\\u{7}\\u{9b}31m\\r\\u{7f}€ end", "{step}");
        }
        let mut safe = Vec::new();
        assert_eq!(make_safe(b"\x9b1m\xff\xe2\x82", &mut safe), b"\xe2\x82");
        assert_eq!(String::from_utf8(safe).unwrap(), "\u{fffd}1m\u{fffd}");
    }
}
