//! A stage's standard input, as the stage sees it.

use std::{
    future::poll_fn,
    io,
    pin::pin,
    sync::{Arc, Weak},
    task::{Context, Poll, Waker, ready},
};

use stagehost_ring::{ReadError, copy};
use tokio::{
    sync::Notify,
    task::coop::{poll_proceed, unconstrained},
};

use super::{
    passing::{EndFailure, Moved, PERMIT, Passing},
    waits::Waits,
};
use crate::joint::{
    fan_out::{Port, lock},
    half::SourceHalf,
};

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
    waits: Waits,
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

impl<S: SourceHalf> InputPort<S> {
    /// An input from a source.
    pub(crate) fn new(source: S, tell_aborts: bool, passing: Passing) -> Self {
        let state = InputState {
            source: Some(source),
            block: passing.exact.then(Block::default),
            most: passing.most.unwrap_or(u64::MAX),
            taken: 0,
            waits: Waits::default(),
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
        if !lock(&self.0.state).waits.are_on() {
            return false;
        }
        // A read that was given up leaves no trace: look whether there is something to be had.
        let ready = self.0.poll(cx, |state, cx| match &mut state.source {
            _ if state.block.is_some() => state.poll_block(cx, &self.0.failed).map(|_| ()),
            Some(source) => source.poll_ready(cx),
            None => Poll::Ready(()),
        });
        if ready.is_ready() {
            lock(&self.0.state).waits.set(false);
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
                state.waits.set(ready.is_pending());
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
            copy(&mut into[..n], &left[..n]);
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
            self.waits.set(read.is_pending());
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

/// What can be seen of an input from outside, as long as it is there.
pub(crate) struct WatchedInput<S>(Weak<Port<InputState<S>>>);

impl<S> InputPort<S> {
    pub(crate) fn watched(&self) -> WatchedInput<S> {
        WatchedInput(Arc::downgrade(&self.0))
    }

    pub(crate) fn moved(&self) -> Moved {
        let state = lock(&self.0.state);
        state.waits.moved(state.delivered)
    }
}

impl<S> WatchedInput<S> {
    /// `None`: it is not there any more.
    pub(crate) fn moved(&self) -> Option<Moved> {
        self.0.upgrade().map(|port| InputPort(port).moved())
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
