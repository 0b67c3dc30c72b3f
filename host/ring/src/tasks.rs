//! The halves as tokio's `AsyncRead` and `AsyncWrite`.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{Reader, Writer};

/// Reads drain the ring; a clean end is `Ok` with nothing filled, an abort an error of kind `ConnectionAborted`.
impl AsyncRead for Reader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Self::poll_read(self.get_mut(), cx, buffer.initialize_unfilled());
        read.map(|read| {
            buffer.advance(read?);
            Ok(())
        })
    }
}

/// Writes fill the ring and wake the reader; a reader that is gone is an error of kind `BrokenPipe`. `poll_shutdown`
/// flushes and does not finish: only [`Writer::finish`] ends the stream cleanly.
impl AsyncWrite for Writer {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Self::poll_write(self.get_mut(), cx, bytes).map_err(io::Error::from)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.get_mut().flush().map_err(io::Error::from))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}
