//! An input of which it is known how it must end.
//!
//! A pipe whose writer was killed looks as one whose writer had finished. Where somebody has said how many bytes there are, or what
//! their digest is, an end that comes too early is an error, and nothing that depends on it is committed.

use std::{
    future::poll_fn,
    io,
    task::{Context, Poll, ready},
};

use sha2::{Digest, Sha256};

use super::half::SourceHalf;

/// What was said of an input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    /// How many bytes there are.
    pub(crate) bytes: Option<u64>,
    /// Their SHA-256 digest.
    pub(crate) sha256: Option<[u8; 32]>,
}

/// A source that is held to what was said of it.
#[derive(Debug)]
pub(crate) struct Declared<S> {
    pub(crate) source: S,
    expected: Expected,
    taken: u64,
    hasher: Option<Sha256>,
    has_ended: bool,
}

impl<S: SourceHalf> Declared<S> {
    pub(crate) fn new(source: S, expected: Expected) -> Self {
        Self { source, expected, taken: 0, hasher: expected.sha256.map(|_| Sha256::new()), has_ended: false }
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let n = ready!(self.source.poll_read(cx, into))?;
        let refuse = |message: String| Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, message)));
        self.taken += n as u64;
        if n == 0 && !into.is_empty() {
            self.has_ended = true;
            if let Some(bytes) = self.expected.bytes.filter(|bytes| *bytes != self.taken) {
                return refuse(format!("the input ended after {} of the {bytes} bytes that were declared", self.taken));
            }
            if let (Some(hasher), Some(declared)) = (&self.hasher, self.expected.sha256) {
                let found = hasher.clone().finalize();
                if found[..] != declared[..] {
                    let found: String = found.iter().map(|byte| format!("{byte:02x}")).collect();
                    return refuse(format!("the input has the SHA-256 digest {found}, and another was declared"));
                }
            }
        }
        if let Some(bytes) = self.expected.bytes.filter(|bytes| self.taken > *bytes) {
            return refuse(format!("the input has more than the {bytes} bytes that were declared"));
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&into[..n]);
        }
        Poll::Ready(Ok(n))
    }

    /// Whether it has to be read to its end, whoever has enough before: a digest is of all of it.
    pub(crate) fn must_be_whole(&self) -> bool {
        self.hasher.is_some() && !self.has_ended
    }

    /// Reads to the end what nobody read, if it has to be.
    ///
    /// # Errors
    ///
    /// What the input is instead, or that it cannot be read.
    ///
    /// # Cancel safety
    ///
    /// What was read is counted; the next call goes on.
    pub(crate) async fn finish(&mut self) -> io::Result<()> {
        if !self.must_be_whole() {
            return Ok(());
        }
        let mut scratch = vec![0; 64 << 10];
        while self.must_be_whole() {
            poll_fn(|cx| self.poll_read(cx, &mut scratch)).await?;
        }
        Ok(())
    }
}
