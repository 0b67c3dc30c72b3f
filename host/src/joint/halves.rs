//! The halves of joints that are handed to stages.

use std::{
    io,
    sync::Arc,
    task::{Context, Poll, ready},
};

use stagehost_ring::{ReadError, Reader, Writer, copy};

use super::{
    declared::Declared,
    descriptor::{DescriptorSink, DescriptorSource},
    file::{FileSink, FileSource},
    half::{SinkHalf, SourceHalf},
    outside::{OutsideSink, OutsideSource},
    pipe::Fate,
    port,
    prefixed::Prefixed,
    shown::Shown,
};

/// A stage's standard input.
pub(crate) type InputPort = port::InputPort<Source>;
/// A stage's standard output, or standard error.
pub(crate) type OutputPort = port::OutputPort<Sink>;
/// What can be seen of them from outside.
pub(crate) type WatchedInput = port::WatchedInput<Source>;
pub(crate) type WatchedOutput = port::WatchedOutput<Sink>;

/// What a stage reads.
#[derive(Debug)]
pub(crate) enum Source {
    Ring(Reader),
    /// A regular file, read at a position of our own.
    File(FileSource),
    /// A pipe, terminal, socket or device.
    Descriptor(DescriptorSource),
    /// A pipe between two stages, and how the stream in it ended.
    Pipe(DescriptorSource, Arc<Fate>),
    /// What a program that embeds the library gave us.
    Outside(OutsideSource),
    /// Any of these, of which somebody has said how it must end.
    Declared(Box<Declared<Self>>),
    Text {
        text: bytes::Bytes,
    },
    Null,
}

/// What a stage writes.
#[derive(Debug)]
pub(crate) enum Sink {
    Ring(Writer),
    /// A file or anything else whose writes may block: written by a thread.
    File(FileSink),
    /// A pipe, written without blocking.
    Descriptor(DescriptorSink),
    /// What a program that embeds the library gave us.
    Outside(OutsideSink),
    /// One sink that several stages share, such as the host's standard error.
    Shared(port::OutputPort<Self>),
    /// A terminal that others write to as well, with what would command it shown.
    Shown(Shown<Self>),
    /// Any of these, with a name before each line.
    Prefixed(Box<Prefixed<Self>>),
    Null,
}

impl OutputPort {
    /// Tells the reader of a ring that this was all, before the run hears of it. Nothing can be written then.
    pub(crate) fn finish_ring(&self) {
        // What its reader has left is for the run to judge.
        let taken = self.take_if(|sink| matches!(sink, Sink::Ring(writer) if !writer.is_broken()));
        if let Some(Sink::Ring(writer)) = taken {
            writer.finish();
        }
    }
}

impl Source {
    /// Whether it has to be read to its end, whoever has enough before.
    pub(crate) fn must_be_whole(&self) -> bool {
        matches!(self, Self::Declared(declared) if declared.must_be_whole())
    }

    /// Reads to the end what has to be read: see [`Declared::finish`]. Cancel safe.
    pub(crate) async fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Declared(declared) => declared.finish().await,
            _ => Ok(()),
        }
    }

    /// Reads at least one byte into `into`; 0 is the clean end.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Ring(reader) => reader.poll_read(cx, into).map_err(io::Error::from),
            Self::File(file) => file.poll_read(cx, into),
            Self::Descriptor(descriptor) => descriptor.poll_read(cx, into),
            Self::Pipe(descriptor, fate) => match ready!(descriptor.poll_read(cx, into)) {
                Ok(0) if !into.is_empty() => Poll::Ready(match fate.aborted() {
                    Some(cause) => Err(ReadError::Aborted(cause).into()),
                    None => Ok(0),
                }),
                read => Poll::Ready(read),
            },
            Self::Outside(outside) => outside.poll_read(cx, into),
            Self::Declared(declared) => declared.poll_read(cx, into),
            Self::Text { text } => {
                let n = text.len().min(into.len());
                copy(&mut into[..n], &text.split_to(n));
                Poll::Ready(Ok(n))
            }
            Self::Null => Poll::Ready(Ok(0)),
        }
    }

    /// Whether it is a terminal.
    pub(crate) fn is_terminal(&self) -> bool {
        match self {
            Self::Descriptor(descriptor) => descriptor.is_terminal(),
            Self::Declared(declared) => declared.source.is_terminal(),
            Self::Ring(_) | Self::File(_) | Self::Pipe(..) | Self::Outside(_) | Self::Text { .. } | Self::Null => false,
        }
    }

    /// In a regular file: where the first byte stands that was not handed over.
    pub(crate) fn position(&self) -> Option<u64> {
        match self {
            Self::File(file) => Some(file.position()),
            Self::Declared(declared) => declared.source.position(),
            Self::Ring(_)
            | Self::Descriptor(_)
            | Self::Pipe(..)
            | Self::Outside(_)
            | Self::Text { .. }
            | Self::Null => None,
        }
    }

    /// Waits until a read would not wait, without taking anything from whoever shares the source.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Ring(reader) => reader.poll_fill(cx, 1).map(|_| ()),
            Self::File(file) => file.poll_ready(cx),
            Self::Descriptor(descriptor) | Self::Pipe(descriptor, _) => descriptor.poll_ready(cx),
            Self::Outside(outside) => outside.poll_ready(cx),
            Self::Declared(declared) => declared.source.poll_ready(cx),
            Self::Text { .. } | Self::Null => Poll::Ready(()),
        }
    }
}

impl Sink {
    /// Takes at least one byte of `bytes`.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Ring(writer) => writer.poll_write(cx, bytes).map_err(io::Error::from),
            Self::File(file) => file.poll_write(cx, bytes),
            Self::Descriptor(descriptor) => descriptor.poll_write(cx, bytes),
            Self::Outside(outside) => outside.poll_write(cx, bytes),
            Self::Shared(port) => port.poll_write(cx, bytes),
            Self::Shown(shown) => shown.poll_write(cx, bytes),
            Self::Prefixed(prefixed) => prefixed.poll_write(cx, bytes),
            Self::Null => Poll::Ready(Ok(bytes.len())),
        }
    }

    /// Whether it is a terminal.
    pub(crate) fn is_terminal(&self) -> bool {
        match self {
            Self::File(file) => file.is_terminal(),
            // What a guest prints there is shown, not sent: it commands no terminal.
            Self::Shared(_) | Self::Shown(_) | Self::Prefixed(_) => false,
            Self::Ring(_) | Self::Descriptor(_) | Self::Outside(_) | Self::Null => false,
        }
    }

    /// Waits until everything that was taken is written.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::File(file) => file.poll_flush(cx),
            Self::Ring(writer) => Poll::Ready(writer.flush().map_err(io::Error::from)),
            Self::Descriptor(_) | Self::Null => Poll::Ready(Ok(())),
            Self::Outside(outside) => outside.poll_flush(cx),
            Self::Shared(port) => port.poll_flush(cx),
            Self::Shown(shown) => shown.poll_flush(cx),
            Self::Prefixed(prefixed) => prefixed.poll_flush(cx),
        }
    }

    /// Closes it: everything is written, and whoever gave it to us is told that nothing will follow.
    pub(crate) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Outside(outside) => outside.poll_close(cx),
            other => other.poll_flush(cx),
        }
    }

    /// Says that nothing will be written for a while.
    pub(crate) fn idle(&mut self) {
        if let Self::Ring(writer) = self {
            writer.idle();
        }
    }
}

impl SourceHalf for Source {
    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        Self::poll_read(self, cx, into)
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Self::poll_ready(self, cx)
    }

    fn is_terminal(&self) -> bool {
        Self::is_terminal(self)
    }
}

impl SinkHalf for Sink {
    const NOWHERE: Self = Self::Null;

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Self::poll_write(self, cx, bytes)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Self::poll_flush(self, cx)
    }

    fn is_terminal(&self) -> bool {
        Self::is_terminal(self)
    }

    fn idle(&mut self) {
        Self::idle(self);
    }
}
