//! Ends that block: they are read and written on threads that may wait.

use std::{
    io::{self, Read, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::JoinHandle,
};

/// How much is read or written at a time, in bytes.
const PIECE: usize = 64 << 10;

/// Somebody who does one thing at a time on a thread, and what came of the last one.
enum Turn<T: Send + 'static> {
    Idle(T),
    Busy(JoinHandle<T>),
    /// It panicked, or its thread was lost.
    Lost,
}

impl<T: Send + 'static> Turn<T> {
    /// Waits until it is idle.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&mut T>> {
        if let Self::Busy(busy) = self {
            *self = match ready!(Pin::new(busy).poll(cx)) {
                Ok(idle) => Self::Idle(idle),
                Err(_) => Self::Lost,
            };
        }
        match self {
            Self::Idle(idle) => Poll::Ready(Ok(idle)),
            Self::Busy(_) => Poll::Pending,
            Self::Lost => Poll::Ready(Err(io::Error::other("it panicked"))),
        }
    }

    /// Does something on a thread, if it is idle.
    fn start(&mut self, work: impl FnOnce(&mut T) + Send + 'static) {
        *self = match std::mem::replace(self, Self::Lost) {
            Self::Idle(mut idle) => Self::Busy(tokio::task::spawn_blocking(move || {
                work(&mut idle);
                idle
            })),
            other => other,
        };
    }
}

struct Reader {
    reader: Box<dyn Read + Send>,
    piece: Vec<u8>,
    taken: usize,
    /// What the last read came to.
    read: Option<io::Result<usize>>,
}

/// A reader that blocks.
pub(super) struct Reading(Turn<Reader>);

impl Reading {
    pub(super) fn new(reader: Box<dyn Read + Send>) -> Self {
        Self(Turn::Idle(Reader { reader, piece: Vec::new(), taken: 0, read: None }))
    }
}

impl AsyncRead for Reading {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let reader = ready!(self.0.poll_idle(cx))?;
            let left = &reader.piece[reader.taken..];
            if !left.is_empty() {
                let n = left.len().min(buffer.remaining());
                buffer.put_slice(&left[..n]);
                reader.taken += n;
                return Poll::Ready(Ok(()));
            }
            match reader.read.take() {
                Some(Ok(0)) => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(error)),
                _ => self.0.start(|reader| {
                    reader.piece.resize(PIECE, 0);
                    let read = loop {
                        match reader.reader.read(&mut reader.piece) {
                            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                            // What claims to have read more than there is room for has not.
                            read => break read.map(|n| n.min(PIECE)),
                        }
                    };
                    reader.piece.truncate(*read.as_ref().unwrap_or(&0));
                    reader.taken = 0;
                    reader.read = Some(read);
                }),
            }
        }
    }
}

struct Writer {
    writer: Box<dyn Write + Send>,
    piece: Vec<u8>,
    failure: Option<io::Error>,
}

/// A writer that blocks.
pub(super) struct Writing {
    turn: Turn<Writer>,
    /// Whether everything was written and flushed.
    flushed: bool,
}

impl Writing {
    pub(super) fn new(writer: Box<dyn Write + Send>) -> Self {
        Self { turn: Turn::Idle(Writer { writer, piece: Vec::new(), failure: None }), flushed: true }
    }
}

impl AsyncWrite for Writing {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let writer = ready!(self.turn.poll_idle(cx))?;
        if let Some(error) = writer.failure.take() {
            return Poll::Ready(Err(error));
        }
        let piece = &bytes[..bytes.len().min(PIECE)];
        writer.piece.clear();
        writer.piece.extend_from_slice(piece);
        self.flushed = false;
        self.turn.start(|writer| {
            let written = writer.writer.write_all(&writer.piece);
            writer.failure = written.err();
        });
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let writer = ready!(self.turn.poll_idle(cx))?;
            if let Some(error) = writer.failure.take() {
                return Poll::Ready(Err(error));
            }
            if std::mem::replace(&mut self.flushed, true) {
                return Poll::Ready(Ok(()));
            }
            self.turn.start(|writer| writer.failure = writer.writer.flush().err());
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}
