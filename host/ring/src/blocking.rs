//! The halves as `std::io::Read`, `BufRead` and `Write`, for threads that may block.

use std::{
    future::poll_fn,
    io,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use crate::{Reader, Writer};

/// A [`Reader`] whose reads block the thread until bytes come or the stream ends.
#[derive(Debug)]
pub struct BlockingReader(pub Reader);

/// A [`Writer`] whose writes block the thread until there is room. Drop is an abort; [`finish`](BlockingWriter::finish)
/// ends the stream.
#[derive(Debug)]
pub struct BlockingWriter(pub Writer);

impl BlockingWriter {
    /// Ends the stream cleanly.
    pub fn finish(self) {
        self.0.finish();
    }
}

impl io::Read for BlockingReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Ok(block_on(poll_fn(|cx| self.0.poll_read(cx, into)))?)
    }
}

/// `fill_buf` lends the ring's own bytes, up to the wrap.
impl io::BufRead for BlockingReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        block_on(poll_fn(|cx| self.0.poll_fill(cx, 1)))?;
        Ok(self.0.peek().0)
    }

    fn consume(&mut self, n: usize) {
        // `BufRead` leaves more than was lent unspecified; we consume what there is.
        if let Err(refused) = self.0.consume(n) {
            let _ = self.0.consume(refused.available);
        }
    }
}

impl io::Write for BlockingWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(block_on(poll_fn(|cx| self.0.poll_write(cx, bytes)))?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(self.0.flush()?)
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future to its end on this thread, parking the thread while the future waits.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    // One poll with a waker that does nothing keeps the ready path free of allocation.
    if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        return value;
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
            return value;
        }
        thread::park();
    }
}
