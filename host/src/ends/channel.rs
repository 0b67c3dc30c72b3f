//! Ends that are channels of pieces.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
};

/// The largest piece that comes out, in bytes.
const PIECE: usize = 64 << 10;

/// Sends a run its input, piece by piece.
///
/// Dropping it before [`finish`](Self::finish) fails the run, as any input does that breaks off.
#[derive(Debug)]
pub struct ChannelSender {
    sender: mpsc::Sender<Bytes>,
    finished: Arc<AtomicBool>,
}

/// The run wants no more input, or is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the run takes no more input")]
pub struct NotTaken;

/// What a run reads.
pub(super) struct Pieces {
    receiver: mpsc::Receiver<Bytes>,
    finished: Arc<AtomicBool>,
    piece: Bytes,
}

/// The output of a run, piece by piece. Whether it is all of it says the run's outcome, and nothing here.
#[derive(Debug)]
pub struct Chunks(mpsc::Receiver<Bytes>);

/// What a run writes.
pub(super) struct Filling {
    sender: Option<mpsc::Sender<Bytes>>,
    /// Waiting for room.
    reserving: Option<Reserving>,
}

type Reserving = Pin<Box<dyn Future<Output = Result<mpsc::OwnedPermit<Bytes>, mpsc::error::SendError<()>>> + Send>>;

pub(super) fn input(pieces: usize) -> (ChannelSender, Pieces) {
    let (sender, receiver) = mpsc::channel(pieces.max(1));
    let finished = Arc::<AtomicBool>::default();
    (ChannelSender { sender, finished: finished.clone() }, Pieces { receiver, finished, piece: Bytes::new() })
}

pub(super) fn output(pieces: usize) -> (Filling, Chunks) {
    let (sender, receiver) = mpsc::channel(pieces.max(1));
    (Filling { sender: Some(sender), reserving: None }, Chunks(receiver))
}

impl ChannelSender {
    /// Sends a piece, and waits while the channel is full. Cancel safe: what was not sent when this is dropped is not sent.
    ///
    /// # Errors
    ///
    /// When the run takes no more input: it is over, or its first stage has what it wants.
    pub async fn send(&self, piece: impl Into<Bytes>) -> Result<(), NotTaken> {
        self.sender.send(piece.into()).await.map_err(|_| NotTaken)
    }

    /// The same, blocking this thread.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn send_blocking(&self, piece: impl Into<Bytes>) -> Result<(), NotTaken> {
        crate::wait::block_on(self.send(piece))
    }

    /// Ends the input cleanly.
    pub fn finish(self) {
        self.finished.store(true, Ordering::Release);
    }
}

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.piece.is_empty() {
            match ready!(self.receiver.poll_recv(cx)) {
                Some(piece) => self.piece = piece,
                None if self.finished.load(Ordering::Acquire) => return Poll::Ready(Ok(())),
                None => {
                    let message = "the input was dropped before it was finished";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, message)));
                }
            }
        }
        let n = self.piece.len().min(buffer.remaining());
        buffer.put_slice(&self.piece.split_to(n));
        Poll::Ready(Ok(()))
    }
}

impl Chunks {
    /// Waits for the next piece, which has at least a byte and at most 64 KiB; `None`: none follow. Cancel safe.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.0.recv().await
    }

    /// The same, blocking this thread.
    pub fn next_blocking(&mut self) -> Option<Bytes> {
        crate::wait::block_on(self.0.recv())
    }
}

impl AsyncWrite for Filling {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let Some(sender) = &self.sender else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
        let sender = sender.clone();
        let reserving = self.reserving.get_or_insert_with(|| Box::pin(sender.reserve_owned()));
        let reserved = ready!(reserving.as_mut().poll(cx));
        self.reserving = None;
        let Ok(permit) = reserved else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
        let piece = &bytes[..bytes.len().min(PIECE)];
        permit.send(Bytes::copy_from_slice(piece));
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        (self.reserving, self.sender) = (None, None);
        Poll::Ready(Ok(()))
    }
}
