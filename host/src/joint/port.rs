//! Ports: a stage's standard streams in this process, as the stage sees them.
//!
//! A stage may look at its streams from several places, one after the other or at once. Every view is of the same port;
//! dropping a view closes nothing. What went wrong at an end is recorded here, whatever the stage makes of it. Each operation first
//! takes a unit of the runtime's cooperative budget, so that no stage holds a thread by moving bytes between ends that are
//! always ready.

use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Bytes, BytesMut};
use stagehost_ring::{Cause, ReadError};
use tokio::{
    sync::Notify,
    task::coop::{poll_proceed, unconstrained},
};

use super::{
    fan_out::{Port, lock},
    half::{SinkHalf, SourceHalf},
    tail::Tail,
};

/// Why an end of a stage failed, recorded by the host whatever the guest makes of it.
#[derive(Clone, Debug)]
pub(crate) enum EndFailure {
    /// The stage before ended badly.
    Aborted(Cause),
    /// The system refused.
    Io(Arc<io::Error>),
    /// More bytes than the stage may move, which are so many.
    Limit(u64),
}

/// How much of an input's beginning is kept, in bytes.
const START: usize = 8;

/// A stage's standard input.
pub(crate) struct InputPort<S>(Arc<Port<InputState<S>>>);

struct InputState<S> {
    source: Option<S>,
    /// Where bytes are gathered for a guest that must not see by how many at a time they come.
    block: Option<Block>,
    /// The most bytes that are taken from the source.
    most: u64,
    taken: u64,
    /// Whether the guest asked last for what is not there.
    waiting: bool,
    ended: bool,
    delivered: u64,
    /// The first bytes, by which formats are known.
    start: Vec<u8>,
    failure: Option<EndFailure>,
    /// Whether the guest is told of an abort, rather than stopped.
    tell_aborts: bool,
}

/// A piece of input of a size that does not depend on who wrote it when: full, unless the input has ended.
#[derive(Default)]
struct Block {
    bytes: Vec<u8>,
    /// Where the bytes begin that were not handed over.
    at: usize,
    is_full: bool,
    ended: bool,
}

impl Block {
    fn is_ready(&self) -> bool {
        self.ended || self.is_full && self.at < self.bytes.len()
    }
}

/// How bytes pass a port.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Passing {
    /// The most bytes.
    pub(crate) most: Option<u64>,
    /// Whether reads and writes are of sizes that are the same on every run: [`PERMIT`] bytes, or what is left.
    pub(crate) exact: bool,
}

impl<S: SourceHalf> InputPort<S> {
    /// An input from a source.
    pub(crate) fn new(source: S, tell_aborts: bool, passing: Passing) -> Self {
        let state = InputState {
            source: Some(source),
            block: passing.exact.then(Block::default),
            most: passing.most.unwrap_or(u64::MAX),
            taken: 0,
            waiting: false,
            ended: false,
            delivered: 0,
            start: Vec::new(),
            failure: None,
            tell_aborts,
        };
        Self(Arc::new(Port::new(state)))
    }

    /// Whether it is a terminal.
    pub(crate) fn is_terminal(&self) -> bool {
        lock(&self.0.state).source.as_ref().is_some_and(S::is_terminal)
    }

    /// Whether the guest waits for input that it has not seen. Whoever asks is woken when some comes, at once if it is there.
    pub(crate) fn is_waited_for(&self, cx: &mut Context<'_>) -> bool {
        if !lock(&self.0.state).waiting {
            return false;
        }
        // A read that was given up leaves no trace: look whether there is something to be had.
        let ready = self.0.poll(cx, |state, cx| match &mut state.source {
            _ if state.block.is_some() => state.poll_block(cx, &self.0.failed).map(|_| ()),
            Some(source) => source.poll_ready(cx),
            None => Poll::Ready(()),
        });
        if ready.is_ready() {
            lock(&self.0.state).waiting = false;
            // By looking we may have taken the wake that was meant for the guest: it is to look, too, before its clock goes on.
            cx.waker().wake_by_ref();
        }
        true
    }

    /// Waits until the input failed. Cancel safe.
    pub(crate) async fn failed(&self) -> EndFailure {
        loop {
            let failure = lock(&self.0.state).failure.clone();
            match failure {
                Some(failure) if !self.is_told(&failure) => return failure,
                _ => self.0.failed.notified().await,
            }
        }
    }

    fn is_told(&self, failure: &EndFailure) -> bool {
        matches!(failure, EndFailure::Aborted(_)) && lock(&self.0.state).tell_aborts
    }

    pub(crate) fn failure(&self) -> Option<EndFailure> {
        lock(&self.0.state).failure.clone()
    }

    /// Bytes handed to the guest.
    pub(crate) fn delivered(&self) -> u64 {
        lock(&self.0.state).delivered
    }

    /// How what was handed to the guest is compressed, if it looks so: a program that makes it plain.
    pub(crate) fn decompressor(&self) -> Option<&'static str> {
        const KNOWN: [(&[u8], &str); 5] = [
            (b"\x1f\x8b", "gzip"),
            (b"\x28\xb5\x2f\xfd", "zstd"),
            (b"\xfd7zXZ\0", "xz"),
            (b"BZh", "bzip2"),
            (b"\x04\x22\x4d\x18", "lz4"),
        ];
        let state = lock(&self.0.state);
        KNOWN.iter().find(|(magic, _)| state.start.starts_with(magic)).map(|(_, program)| *program)
    }

    /// Whether the guest saw the end.
    pub(crate) fn ended(&self) -> bool {
        lock(&self.0.state).ended
    }

    /// Takes the half back; views see an end from now on.
    pub(crate) fn take(&self) -> Option<S> {
        lock(&self.0.state).source.take()
    }

    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let budget = ready!(poll_proceed(cx));
        let read = self.0.poll(cx, |state, cx| state.poll_read(cx, into, &self.0.failed));
        if read.is_ready() {
            budget.made_progress();
        }
        read
    }

    /// Reads what is there without waiting: pending if nothing is. It spends the runtime's cooperative budget but is not refused by it:
    /// to a guest that asks without waiting, nothing means that there is nothing. (A guest that only asks is held by its epochs.)
    pub(crate) fn try_read(&self, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut cx = Context::from_waker(Waker::noop());
        if let Poll::Ready(budget) = poll_proceed(&mut cx) {
            budget.made_progress();
        }
        // What is beneath asks for budget, too.
        let read = unconstrained(poll_fn(|cx| self.0.poll(cx, |state, cx| state.poll_read(cx, into, &self.0.failed))));
        pin!(read).poll(&mut cx)
    }

    /// Waits until a read would not wait.
    pub(crate) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let budget = ready!(poll_proceed(cx));
        let ready = self.0.poll(cx, |state, cx| match (&mut state.source, &state.failure) {
            (_, Some(_)) | (None, _) => Poll::Ready(()),
            // A failure is told by the read that follows.
            _ if state.block.is_some() => state.poll_block(cx, &self.0.failed).map(|_| ()),
            (Some(source), None) => {
                let ready = source.poll_ready(cx);
                state.waiting = ready.is_pending();
                ready
            }
        });
        if ready.is_ready() {
            budget.made_progress();
        }
        ready
    }
}

impl<S: SourceHalf> InputState<S> {
    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8], failed: &Notify) -> Poll<io::Result<usize>> {
        let read = if self.block.is_none() {
            ready!(self.poll_source(cx, into, failed))?
        } else {
            ready!(self.poll_block(cx, failed))?;
            let block = self.block.get_or_insert_default();
            let left = &block.bytes[block.at..];
            let n = left.len().min(into.len());
            into[..n].copy_from_slice(&left[..n]);
            block.at += n;
            n
        };
        if self.start.len() < START {
            self.start.extend_from_slice(&into[..read.min(START - self.start.len())]);
        }
        self.ended |= read == 0 && !into.is_empty();
        self.delivered += read as u64;
        Poll::Ready(Ok(read))
    }

    /// Gathers a block.
    fn poll_block(&mut self, cx: &mut Context<'_>, failed: &Notify) -> Poll<io::Result<()>> {
        let mut block = self.block.take().unwrap_or_default();
        let gathered = loop {
            if block.is_ready() {
                break Poll::Ready(Ok(()));
            }
            if block.is_full {
                (block.at, block.is_full) = (0, false);
                block.bytes.clear();
            }
            let start = block.bytes.len();
            block.bytes.resize(PERMIT, 0);
            let read = self.poll_source(cx, &mut block.bytes[start..], failed);
            let n = if let Poll::Ready(Ok(n)) = read { n } else { 0 };
            block.bytes.truncate(start + n);
            match read {
                Poll::Ready(Ok(n)) => {
                    block.ended = n == 0;
                    block.is_full = block.bytes.len() == PERMIT;
                }
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        self.block = Some(block);
        gathered
    }

    fn poll_source(&mut self, cx: &mut Context<'_>, into: &mut [u8], failed: &Notify) -> Poll<io::Result<usize>> {
        let Some(source) = &mut self.source else { return Poll::Ready(Ok(0)) };
        if self.failure.is_none() {
            let left = usize::try_from(self.most - self.taken).unwrap_or(usize::MAX);
            // Whether there is more than the stage may read is seen by reading it.
            let mut beyond = [0];
            let is_over = left == 0 && !into.is_empty();
            let allowed = into.len().min(left);
            let piece = if is_over { &mut beyond[..] } else { &mut into[..allowed] };
            let read = source.poll_read(cx, piece);
            self.waiting = read.is_pending();
            match ready!(read) {
                Ok(1..) if is_over => {
                    self.failure = Some(EndFailure::Limit(self.most));
                    failed.notify_one();
                }
                Ok(n) => {
                    self.taken += n as u64;
                    return Poll::Ready(Ok(n));
                }
                Err(error) => {
                    self.failure = Some(match error.get_ref().and_then(|inner| inner.downcast_ref::<ReadError>()) {
                        Some(ReadError::Aborted(cause)) => EndFailure::Aborted(cause.clone()),
                        _ => EndFailure::Io(Arc::new(error)),
                    });
                    failed.notify_one();
                }
            }
        }
        match &self.failure {
            Some(EndFailure::Aborted(cause)) if self.tell_aborts => Poll::Ready(Err(io::Error::other(cause.clone()))),
            // An end or an error would let the guest go on as if it had all its input: the stage is stopped instead.
            _ => Poll::Pending,
        }
    }
}

/// A stage's standard output, or standard error.
pub(crate) struct OutputPort<S>(Arc<Port<OutputState<S>>>);

struct OutputState<S> {
    sink: Option<S>,
    /// The most bytes that are taken.
    most: u64,
    /// Whether the guest last wrote what there was no room for.
    waiting: bool,
    /// Whether a write takes all it is given, up to [`PERMIT`] bytes, once what was taken before is with the sink.
    exact: bool,
    /// What was taken at once and is not with the sink yet.
    pending: Bytes,
    written: u64,
    /// The reader is gone.
    broken: bool,
    failure: Option<EndFailure>,
    /// Whether a failure only closes the output: standard error never fails a stage.
    lenient: bool,
    tail: Option<Tail>,
}

/// How much a 0.2 stream may hand over at a time, in bytes.
pub(crate) const PERMIT: usize = 64 << 10;

impl<S: SinkHalf> OutputPort<S> {
    /// An output to a sink.
    pub(crate) fn new(sink: S, passing: Passing) -> Self {
        Self::with(sink, passing, false, None)
    }

    /// An output whose end is kept for the report, and whose failures are nobody's failure.
    pub(crate) fn with_tail(sink: S, passing: Passing) -> Self {
        Self::with(sink, passing, true, Some(Tail::default()))
    }

    fn with(sink: S, passing: Passing, lenient: bool, tail: Option<Tail>) -> Self {
        let state = OutputState {
            sink: Some(sink),
            exact: passing.exact,
            most: passing.most.unwrap_or(u64::MAX),
            waiting: false,
            pending: Bytes::new(),
            written: 0,
            broken: false,
            failure: None,
            lenient,
            tail,
        };
        Self(Arc::new(Port::new(state)))
    }

    /// Waits until the output failed, other than by a reader that is gone. Cancel safe.
    pub(crate) async fn failed(&self) -> EndFailure {
        loop {
            let failure = lock(&self.0.state).failure.clone();
            match failure {
                Some(failure) => return failure,
                None => self.0.failed.notified().await,
            }
        }
    }

    pub(crate) fn failure(&self) -> Option<EndFailure> {
        lock(&self.0.state).failure.clone()
    }

    /// Whether it is a terminal.
    pub(crate) fn is_terminal(&self) -> bool {
        lock(&self.0.state).sink.as_ref().is_some_and(S::is_terminal)
    }

    /// Whether the guest waits for room that is not there.
    pub(crate) fn is_waited_for(&self) -> bool {
        lock(&self.0.state).waiting
    }

    /// Bytes taken from the guest.
    pub(crate) fn written(&self) -> u64 {
        lock(&self.0.state).written
    }

    /// Whether a write was refused because the reader is gone.
    pub(crate) fn is_broken(&self) -> bool {
        lock(&self.0.state).broken
    }

    /// The end of what was written, as text, if it is kept.
    pub(crate) fn tail_text(&self) -> String {
        lock(&self.0.state).tail.as_ref().map(Tail::text).unwrap_or_default()
    }

    /// Takes the half back; views see a reader that is gone from now on.
    pub(crate) fn take(&self) -> Option<S> {
        lock(&self.0.state).sink.take()
    }

    /// Says that nothing will be written for a while.
    pub(crate) fn idle(&self) {
        if let Some(sink) = &mut lock(&self.0.state).sink {
            sink.idle();
        }
    }

    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let budget = ready!(poll_proceed(cx));
        let written = self.0.poll(cx, |state, cx| {
            ready!(state.poll_drain(cx, &self.0.failed))?;
            if !state.exact || bytes.is_empty() {
                return state.poll_write(cx, bytes, &self.0.failed);
            }
            let n = bytes.len().min(PERMIT);
            state.pending = Bytes::copy_from_slice(&bytes[..n]);
            match state.poll_drain(cx, &self.0.failed) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(n)),
            }
        });
        if written.is_ready() {
            budget.made_progress();
        }
        written
    }

    /// Waits until what 0.2 streams handed over is with the sink. A reader that is gone is no error here.
    pub(crate) fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let budget = ready!(poll_proceed(cx));
        let drained = self.0.poll(cx, |state, cx| state.poll_drain(cx, &self.0.failed));
        if drained.is_ready() {
            budget.made_progress();
        }
        drained.map(|_| Ok(()))
    }

    /// How much may be queued now, in bytes; `None`: the reader is gone.
    pub(crate) fn room(&self) -> Option<usize> {
        let state = lock(&self.0.state);
        (!state.broken).then_some(if state.pending.is_empty() { PERMIT } else { 0 })
    }

    /// How much waits to be written, in bytes.
    pub(crate) fn queued(&self) -> usize {
        lock(&self.0.state).pending.len()
    }

    /// Takes bytes at once, for which there was [room](Self::room), and writes what finds room behind them. `false`: the
    /// reader is gone.
    pub(crate) fn queue(&self, bytes: Bytes) -> bool {
        {
            let mut state = lock(&self.0.state);
            if state.broken {
                return false;
            }
            state.pending = match state.pending.is_empty() {
                true => bytes,
                // Another view of this port was given room at the same time.
                false => {
                    let pending = std::mem::take(&mut state.pending);
                    let mut all = pending.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
                    all.extend_from_slice(&bytes);
                    all.freeze()
                }
            };
        }
        let written =
            self.0.poll(&mut Context::from_waker(Waker::noop()), |state, cx| state.poll_drain(cx, &self.0.failed));
        !matches!(written, Poll::Ready(Err(_)))
    }

    /// Waits until everything that was taken is written.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll(cx, |state, cx| {
            ready!(state.poll_drain(cx, &self.0.failed))?;
            match &mut state.sink {
                Some(sink) => sink.poll_flush(cx),
                None => Poll::Ready(Ok(())),
            }
        })
    }
}

impl<S: SinkHalf> OutputState<S> {
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8], failed: &Notify) -> Poll<io::Result<usize>> {
        if self.failure.is_some() {
            // The stage is being stopped; nothing it writes now would be kept.
            return Poll::Pending;
        }
        let Some(sink) = self.sink.as_mut().filter(|_| !self.broken) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let left = usize::try_from(self.most - self.written).unwrap_or(usize::MAX);
        if left == 0 && !bytes.is_empty() {
            self.failure = Some(EndFailure::Limit(self.most));
            failed.notify_one();
            return Poll::Pending;
        }
        let bytes = &bytes[..bytes.len().min(left)];
        let written = sink.poll_write(cx, bytes);
        self.waiting = written.is_pending();
        let n = match ready!(written) {
            Ok(n) => n,
            Err(_) if self.lenient => {
                self.sink = Some(S::NOWHERE);
                bytes.len()
            }
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.broken = true;
                return Poll::Ready(Err(error));
            }
            Err(error) => {
                self.failure = Some(EndFailure::Io(Arc::new(error)));
                failed.notify_one();
                return Poll::Pending;
            }
        };
        self.written += n as u64;
        if let Some(tail) = &mut self.tail {
            tail.push(&bytes[..n]);
        }
        Poll::Ready(Ok(n))
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>, failed: &Notify) -> Poll<io::Result<()>> {
        if self.pending.is_empty() && self.exact {
            self.waiting = false;
        }
        while !self.pending.is_empty() {
            let pending = self.pending.clone();
            match ready!(self.poll_write(cx, &pending, failed)) {
                Ok(n) => drop(self.pending.split_to(n)),
                Err(error) => {
                    self.pending.clear();
                    return Poll::Ready(Err(error));
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S> Clone for InputPort<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S> std::fmt::Debug for InputPort<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InputPort").finish_non_exhaustive()
    }
}

impl<S> Clone for OutputPort<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S> std::fmt::Debug for OutputPort<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutputPort").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
