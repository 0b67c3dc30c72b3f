//! A guest's standard streams: views of the ports that its stage owns, in the words of all WASI generations.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wasmtime_wasi::{
    async_trait,
    cli::{IsTerminal, StdinStream, StdoutStream},
    p2::{InputStream, OutputStream, Pollable, StreamError},
};

use crate::joint::{InputPort, OutputPort, PERMIT};

/// The three streams of one stage.
#[derive(Clone, Debug)]
pub(crate) struct Stdio {
    pub(crate) stdin: InputPort,
    pub(crate) stdout: OutputPort,
    pub(crate) stderr: OutputPort,
}

impl Stdio {
    /// Whether the guest waits for input that is not there, or for room. Whoever asks is woken when that changes.
    pub(crate) fn waits(&self, cx: &mut Context<'_>) -> bool {
        self.stdin.is_waited_for(cx) || self.waits_for_room()
    }

    /// Whether something was written that there is no room for yet.
    pub(crate) fn waits_for_room(&self) -> bool {
        let waits = |output: &OutputPort| output.is_waited_for() || output.queued() > 0;
        waits(&self.stdout) || waits(&self.stderr)
    }
}

/// One opening of a stream.
struct View<P>(P);

impl AsyncRead for View<InputPort> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let n = ready!(self.0.poll_read(cx, buffer.initialize_unfilled()))?;
        buffer.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for View<OutputPort> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Called after every write; the half itself is flushed once, when the stage has ended.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A stage that closes its stdout has not finished it.
        Poll::Ready(Ok(()))
    }
}

/// A stream, and whether the guest is told that it is a terminal.
pub(crate) struct Told<P> {
    port: P,
    is_terminal: bool,
    /// What all its 0.2 streams together may still write without asking, in bytes.
    permitted: Arc<AtomicUsize>,
}

impl<P> Told<P> {
    pub(crate) fn new(port: P, is_terminal: bool) -> Self {
        Self { port, is_terminal, permitted: Arc::default() }
    }
}

impl<P> IsTerminal for Told<P> {
    fn is_terminal(&self) -> bool {
        self.is_terminal
    }
}

impl StdinStream for Told<InputPort> {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(View(self.port.clone()))
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(View(self.port.clone()))
    }
}

impl StdoutStream for Told<OutputPort> {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(View(self.port.clone()))
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Permitted { port: self.port.clone(), left: 0, all: self.permitted.clone() })
    }
}

#[async_trait]
impl Pollable for View<InputPort> {
    async fn ready(&mut self) {
        std::future::poll_fn(|cx| self.0.poll_ready(cx)).await;
    }
}

impl InputStream for View<InputPort> {
    fn read(&mut self, size: usize) -> Result<Bytes, StreamError> {
        if size == 0 {
            return Ok(Bytes::new());
        }
        // Never by the guest's `size` alone, which may be anything.
        let mut buffer = vec![0; size.min(PERMIT)];
        match self.0.try_read(&mut buffer) {
            Poll::Pending => Ok(Bytes::new()),
            Poll::Ready(Ok(0)) => Err(StreamError::Closed),
            Poll::Ready(Ok(n)) => {
                buffer.truncate(n);
                Ok(buffer.into())
            }
            Poll::Ready(Err(error)) => Err(StreamError::LastOperationFailed(error.into())),
        }
    }
}

/// A 0.2 output: bytes are written only after `check-write` permitted them, whatever is at the end.
struct Permitted {
    port: OutputPort,
    /// What may still be written without asking, in bytes.
    left: usize,
    /// The same of all streams of this output together.
    all: Arc<AtomicUsize>,
}

impl Permitted {
    /// Permits that many bytes, in place of what was permitted before.
    fn permit(&mut self, bytes: usize) {
        let left = std::mem::replace(&mut self.left, bytes);
        self.all.fetch_add(bytes, Relaxed);
        self.all.fetch_sub(left, Relaxed);
    }
}

impl Drop for Permitted {
    fn drop(&mut self) {
        self.permit(0);
    }
}

#[async_trait]
impl Pollable for Permitted {
    async fn ready(&mut self) {
        // A failure is told by the call that follows.
        let _ = std::future::poll_fn(|cx| self.port.poll_drain(cx)).await;
    }
}

impl OutputStream for Permitted {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        if bytes.len() > self.left {
            return Err(StreamError::trap("more was written than check-write permitted"));
        }
        // One write is taken at a time: the next one asks again.
        if !bytes.is_empty() {
            self.permit(0);
        }
        match self.port.room() {
            None => Err(StreamError::Closed),
            // What was permitted fits.
            Some(_) if bytes.is_empty() || self.port.queue(bytes) => Ok(()),
            Some(_) => Err(StreamError::Closed),
        }
    }

    fn write_zeroes(&mut self, count: usize) -> Result<(), StreamError> {
        // Before they are made: the guest may ask for any number.
        if count > self.left {
            return Err(StreamError::trap("more was written than check-write permitted"));
        }
        self.write(Bytes::from(vec![0; count]))
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        /// What all streams of one output together may be permitted beyond what finds room.
        const TOGETHER: usize = 8 * PERMIT;
        /// What each may be permitted whatever the others may: no more than a handle may cost the host.
        const EACH: usize = 1 << 10;
        let room = self.port.room().ok_or(StreamError::Closed)?;
        self.permit(0);
        let taken = self.port.queued() + self.all.load(Relaxed);
        self.permit(room.min(TOGETHER.saturating_sub(taken).max(EACH)));
        Ok(self.left)
    }
}
