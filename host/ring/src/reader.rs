//! The consuming half.

use std::{
    fmt,
    task::{Context, Poll},
    time::Instant,
};

use crate::{
    Cause, Monitor, OnAbort, OutOfBounds, ReadError,
    counters::add,
    shared::{ABORTED, OPEN, Shared},
    sync::{
        Arc,
        Ordering::{Acquire, Relaxed, Release, SeqCst},
        fence,
    },
    writer::elapsed_ns,
};

/// The half that empties the ring. There is one, and it is not `Clone`: two readers are impossible by type.
///
/// Dropping it tells the writer: broken pipe.
pub struct Reader {
    shared: Arc<Shared>,
    /// Bytes ever consumed; the reader's own copy of `shared.head`.
    head: usize,
    /// A past value of `shared.tail`: there are at least as many bytes as it says.
    tail_seen: usize,
    left: bool,
    waiting_since: Option<Instant>,
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, head: 0, tail_seen: 0, left: false, waiting_since: None }
    }

    /// The ring's capacity in bytes.
    pub fn capacity(&self) -> usize {
        self.shared.capacity
    }

    /// A handle that reads this ring's counters.
    pub fn monitor(&self) -> Monitor {
        Monitor(self.shared.clone())
    }

    /// How many bytes are there to read right now.
    pub fn len(&mut self) -> usize {
        // Acquire pairs with the Release of `Writer::publish`: the bytes are visible with the index.
        self.tail_seen = self.shared.tail.load(Acquire);
        self.len_seen()
    }

    /// Whether there is nothing to read right now; says nothing about the end.
    pub fn is_empty(&mut self) -> bool {
        self.len() == 0
    }

    /// Lends the filled bytes: two slices, the second one empty unless they wrap. They stay in the ring until they are
    /// [consumed](Reader::consume).
    #[cfg(not(loom))]
    pub fn peek(&mut self) -> (&[u8], &[u8]) {
        let len = self.len();
        // SAFETY: we are the reader and the `len` bytes from `head` are filled, by the Acquire load in `len`; the slices
        // borrow `self`, so they end before any consume.
        unsafe { self.shared.filled_slices(self.head, len) }
    }

    /// Gives the first `n` filled bytes back to the writer, and wakes it when at least half of the ring is free.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`] when more is consumed than was seen by the last [`peek`](Reader::peek), [`len`](Reader::len) or
    /// fill; nothing is consumed.
    pub fn consume(&mut self, n: usize) -> Result<(), OutOfBounds> {
        let available = self.len_seen();
        if n > available {
            return Err(OutOfBounds { asked: n, available });
        }
        self.take(n);
        Ok(())
    }

    /// Waits until at least `min` bytes are there (1 if `min` is 0), or the stream ends. Returns how many are there: fewer
    /// than `min` only at a clean end. Asking for more than is there does not consume what is.
    ///
    /// # Errors
    ///
    /// [`ReadError::Aborted`] when the writer ended without finishing before `min` bytes came (at once, under
    /// [`OnAbort::FailNow`]); the bytes that came can still be peeked. [`ReadError::FrameTooLarge`] when `min` is over
    /// the capacity.
    ///
    /// # Cancel safety
    ///
    /// Dropping the waiting future loses nothing and leaves both halves usable.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, min: usize) -> Poll<Result<usize, ReadError>> {
        let min = min.max(1);
        if min > self.shared.capacity {
            return Poll::Ready(Err(ReadError::FrameTooLarge { min, capacity: self.shared.capacity }));
        }
        let mut answer = self.look(min);
        if answer.is_none() {
            self.shared.need.store(min, Relaxed);
            self.shared.reader_bed.lie_down(cx.waker());
            answer = self.look(min);
            if answer.is_some() {
                self.shared.reader_bed.get_up();
            }
        }
        if let Some(answer) = answer {
            if let Some(since) = self.waiting_since.take() {
                add(&self.shared.cells.reader_wait_ns, elapsed_ns(since));
            }
            return Poll::Ready(answer.map(|_| self.len()));
        }
        if self.waiting_since.is_none() {
            self.waiting_since = Some(Instant::now());
            add(&self.shared.cells.reader_waits, 1);
        }
        // The reader asks for more than is there: a writer that waits for half of the ring must go on now.
        if self.shared.writer_bed.is_occupied() {
            self.shared.writer_bed.wake();
        }
        if self.len_seen() == 0 {
            self.shared.release_if_drained();
        }
        Poll::Pending
    }

    /// Copies what is there into `into` and consumes it, without waiting. `None` means: nothing yet. `Some(0)` means: a
    /// clean end (or an empty `into`).
    ///
    /// # Errors
    ///
    /// [`ReadError::Aborted`] when the writer ended without finishing and nothing is left to drain.
    #[inline]
    pub fn read(&mut self, into: &mut [u8]) -> Result<Option<usize>, ReadError> {
        if into.is_empty() {
            return Ok(Some(0));
        }
        match self.look(1) {
            None => Ok(None),
            Some(Err(error)) => Err(error),
            Some(Ok(mut len)) => {
                if len < into.len() {
                    len = self.len();
                }
                let n = len.min(into.len());
                // SAFETY: we are the reader, and `look` or `len` saw at least `n` filled bytes from `head`.
                unsafe { self.shared.copy_out(self.head, &mut into[..n]) };
                self.take(n);
                Ok(Some(n))
            }
        }
    }

    /// Copies at least one byte into `into`, waiting if there is none. 0 means a clean end (or an empty `into`).
    ///
    /// # Errors
    ///
    /// [`ReadError::Aborted`] when the writer ended without finishing and nothing is left to drain.
    ///
    /// # Cancel safety
    ///
    /// Either bytes were handed over, or they are still in the ring: dropping the waiting future loses nothing.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<Result<usize, ReadError>> {
        loop {
            match self.read(into) {
                Ok(Some(n)) => {
                    if let Some(since) = self.waiting_since.take() {
                        add(&self.shared.cells.reader_wait_ns, elapsed_ns(since));
                    }
                    return Poll::Ready(Ok(n));
                }
                Err(error) => return Poll::Ready(Err(error)),
                Ok(None) => match self.poll_fill(cx, 1) {
                    Poll::Ready(_) => {}
                    Poll::Pending => return Poll::Pending,
                },
            }
        }
    }

    /// Leaves and says why: every further write fails with `cause`.
    pub fn fail(mut self, cause: Cause) {
        // The reader leaves once, so the cell is empty.
        let _ = self.shared.fail_cause.set(cause);
        self.leave();
    }

    /// Looks for `min` bytes or an ending.
    #[inline]
    fn look(&mut self, min: usize) -> Option<Result<usize, ReadError>> {
        if self.shared.on_abort == OnAbort::DrainThenFail && (self.len_seen() >= min || self.len() >= min) {
            return Some(Ok(self.len_seen()));
        }
        // The ending first, then `tail`: after an ending, what `tail` says is all there will ever be. Acquire pairs with
        // the Release in `Writer::end`.
        let ending = self.shared.ending.load(Acquire);
        let len = self.len();
        if ending == ABORTED && (len < min || self.shared.on_abort == OnAbort::FailNow) {
            let cause = self.shared.abort_cause.get().cloned();
            return Some(Err(ReadError::Aborted(cause.unwrap_or_else(Cause::writer_dropped))));
        }
        (len >= min || ending != OPEN).then_some(Ok(len))
    }

    fn len_seen(&self) -> usize {
        self.tail_seen.wrapping_sub(self.head)
    }

    #[inline]
    fn take(&mut self, n: usize) {
        self.head = self.head.wrapping_add(n);
        // Release pairs with the writer's Acquire: we are done with these bytes.
        self.shared.head.store(self.head, Release);
        let half = self.shared.capacity / 2;
        if self.len_seen() <= self.shared.capacity - half {
            // Pairs with the fence in `Bed::lie_down`.
            fence(SeqCst);
            if self.shared.writer_bed.is_occupied() && self.len() <= self.shared.capacity - half {
                self.shared.writer_bed.wake();
            }
        }
    }

    fn leave(&mut self) {
        self.left = true;
        // Release pairs with the writer's Acquire: the cause is visible with the flag.
        self.shared.reader_gone.store(true, Release);
        fence(SeqCst);
        self.shared.writer_bed.wake();
        self.shared.release_if_drained();
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if !self.left {
            self.leave();
        }
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("capacity", &self.capacity())
            .field("consumed", &self.head)
            .finish_non_exhaustive()
    }
}
