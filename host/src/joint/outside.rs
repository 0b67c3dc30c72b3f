//! Ends that a program which embeds the library gives us: any asynchronous reader or writer.

use std::{
    io,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A reader of the embedder's.
pub(crate) struct OutsideSource {
    /// The mutex is never locked: it lets a reader that cannot be shared stand where it is not shared anyway.
    reader: Mutex<Pin<Box<dyn AsyncRead + Send>>>,
    /// What an attempt to find out whether there is anything came to.
    failed: Option<io::Error>,
    /// What was read to find out whether there is anything.
    ahead: Vec<u8>,
    taken: usize,
}

/// A writer of the embedder's.
pub(crate) struct OutsideSink(Mutex<Pin<Box<dyn AsyncWrite + Send>>>);

/// How much is read ahead of a stage that only asks whether there is anything, in bytes.
const AHEAD: usize = 16 << 10;

fn inside<T: ?Sized>(thing: &mut Mutex<Pin<Box<T>>>) -> Pin<&mut T> {
    thing.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut()
}

impl OutsideSource {
    pub(crate) fn new(reader: Pin<Box<dyn AsyncRead + Send>>) -> Self {
        Self { reader: Mutex::new(reader), failed: None, ahead: Vec::new(), taken: 0 }
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let ahead = &self.ahead[self.taken..];
        if !ahead.is_empty() {
            let n = ahead.len().min(into.len());
            into[..n].copy_from_slice(&ahead[..n]);
            self.taken += n;
            return Poll::Ready(Ok(n));
        }
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        let mut buffer = ReadBuf::new(into);
        ready!(inside(&mut self.reader).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.taken == self.ahead.len() && self.failed.is_none() {
            self.ahead.resize(AHEAD, 0);
            let mut buffer = ReadBuf::new(&mut self.ahead);
            let read = inside(&mut self.reader).poll_read(cx, &mut buffer);
            let n = buffer.filled().len();
            self.ahead.truncate(n);
            self.taken = 0;
            // An end comes again at the read that follows.
            return read.map(|read| self.failed = read.err());
        }
        Poll::Ready(())
    }
}

impl OutsideSink {
    pub(crate) fn new(writer: Pin<Box<dyn AsyncWrite + Send>>) -> Self {
        Self(Mutex::new(writer))
    }

    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match ready!(inside(&mut self.0).poll_write(cx, bytes)) {
            Ok(0) if !bytes.is_empty() => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => Poll::Ready(written),
        }
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        inside(&mut self.0).poll_flush(cx)
    }

    pub(crate) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        inside(&mut self.0).poll_shutdown(cx)
    }
}

impl std::fmt::Debug for OutsideSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutsideSource").field("ahead", &self.ahead.len()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for OutsideSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OutsideSink")
    }
}
