//! Ends that a run gives back.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Something that was lent to a run as an end. Nothing that the run does closes it.
#[derive(Debug)]
pub struct Lent<T>(Option<T>, Arc<Mutex<Option<T>>>);

/// Where what was lent comes back to.
#[derive(Debug)]
pub struct Returned<T>(Arc<Mutex<Option<T>>>);

/// Lends a reader or writer to a run: the run uses it, and gives it back without closing it.
pub fn lend<T>(thing: T) -> (Lent<T>, Returned<T>) {
    let back = Arc::default();
    (Lent(Some(thing), Arc::clone(&back)), Returned(back))
}

impl<T> Returned<T> {
    /// Takes it back; `None` while the run has it, and once it was taken.
    pub fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<T> Drop for Lent<T> {
    fn drop(&mut self) {
        *self.1.lock().unwrap_or_else(PoisonError::into_inner) = self.0.take();
    }
}

fn given_back() -> io::Error {
    io::Error::other("it was given back")
}

impl<T: AsyncRead + Unpin> AsyncRead for Lent<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Some(reader) => Pin::new(reader).poll_read(cx, buffer),
            None => Poll::Ready(Err(given_back())),
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Lent<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Some(writer) => Pin::new(writer).poll_write(cx, bytes),
            None => Poll::Ready(Err(given_back())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Some(writer) => Pin::new(writer).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Flushes; what was lent is not closed.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}
