//! A stage's standard output or standard error, as the stage sees it.

use std::{
    io,
    sync::{Arc, Weak},
    task::{Context, Poll, Waker, ready},
};

use bytes::{Bytes, BytesMut};
use tokio::{sync::Notify, task::coop::poll_proceed};

use super::{
    passing::{EndFailure, Moved, PERMIT, Passing},
    waits::Waits,
};
use crate::joint::{
    fan_out::{Port, lock},
    half::SinkHalf,
    tail::Tail,
};

/// A stage's standard output, or standard error.
pub(crate) struct OutputPort<S>(Arc<Port<OutputState<S>>>);

struct OutputState<S> {
    sink: Option<S>,
    /// The most bytes that are taken.
    most: u64,
    /// Whether the guest last wrote what there was no room for.
    waits: Waits,
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
            waits: Waits::default(),
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
        lock(&self.0.state).waits.are_on()
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

    /// The same, if it is of some kind.
    pub(crate) fn take_if(&self, is_so: impl FnOnce(&S) -> bool) -> Option<S> {
        lock(&self.0.state).sink.take_if(|sink| is_so(sink))
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
        self.waits.set(written.is_pending());
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
            self.waits.set(false);
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

/// What can be seen of an output from outside, as long as it is there.
pub(crate) struct WatchedOutput<S>(Weak<Port<OutputState<S>>>);

impl<S> OutputPort<S> {
    pub(crate) fn watched(&self) -> WatchedOutput<S> {
        WatchedOutput(Arc::downgrade(&self.0))
    }

    pub(crate) fn moved(&self) -> Moved {
        let state = lock(&self.0.state);
        state.waits.moved(state.written)
    }
}

impl<S> WatchedOutput<S> {
    /// `None`: it is not there any more.
    pub(crate) fn moved(&self) -> Option<Moved> {
        self.0.upgrade().map(|port| OutputPort(port).moved())
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
