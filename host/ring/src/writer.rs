//! The producing half.

use std::{
    fmt,
    task::{Context, Poll},
    time::Instant,
};

use crate::{
    Cause, Monitor, OutOfBounds, WriteError,
    counters::add,
    shared::{ABORTED, FINISHED, Shared},
    sync::{
        Arc,
        Ordering::{Acquire, Relaxed, Release, SeqCst},
        fence,
    },
};

/// The half that fills the ring. There is one, and it is not `Clone`: two writers are impossible by type.
///
/// Dropping it without [`finish`](Writer::finish) is an abort, so that an unwinding producer never looks like a
/// complete one.
pub struct Writer {
    shared: Arc<Shared>,
    /// Bytes ever committed; the writer's own copy of `shared.tail`.
    tail: usize,
    /// A past value of `shared.head`: there is at least as much room as it says.
    head_seen: usize,
    /// Whether the writer holds the claim on the storage.
    claimed: bool,
    high_water: usize,
    ended: bool,
    waiting_since: Option<Instant>,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, tail: 0, head_seen: 0, claimed: false, high_water: 0, ended: false, waiting_since: None }
    }

    /// The ring's capacity in bytes.
    pub fn capacity(&self) -> usize {
        self.shared.capacity
    }

    /// A handle that reads this ring's counters.
    pub fn monitor(&self) -> Monitor {
        Monitor(self.shared.clone())
    }

    /// Whether the reader is gone, so that every further write will fail.
    pub fn is_broken(&self) -> bool {
        // Acquire pairs with the Release in `Reader::leave`: the cause is visible.
        self.shared.reader_gone.load(Acquire)
    }

    /// How many bytes can be written right now without waiting.
    pub fn room(&mut self) -> usize {
        // Acquire pairs with the Release of `Reader::consume`: the reader is done with these bytes.
        self.head_seen = self.shared.head.load(Acquire);
        self.room_seen()
    }

    /// Lends the free bytes, up to the wrap; empty when the ring is full. What is written there is published by
    /// [`commit`](Writer::commit); what is not committed is given up.
    ///
    /// # Errors
    ///
    /// [`WriteError`] when the reader is gone.
    #[cfg(not(loom))]
    pub fn grant(&mut self) -> Result<&mut [u8], WriteError> {
        self.check_reader()?;
        if self.room_seen() < self.shared.capacity - (self.tail & (self.shared.capacity - 1)) {
            self.room();
        }
        let room = self.room_seen();
        if room == 0 {
            return Ok(&mut []);
        }
        self.claim();
        // SAFETY: we are the writer, hold the claim, and the `room` bytes from `tail` are free; the slice borrows `self`
        // mutably, so it ends before any commit.
        Ok(unsafe { self.shared.free_slice(self.tail, room) })
    }

    /// Publishes the first `n` bytes of what was granted. The reader sees them when it looks; it is not woken before
    /// [`flush`](Writer::flush). So a producer of small pieces commits many times and flushes once.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`] when more than the free bytes (or anything before a grant) is committed; nothing is published.
    pub fn commit(&mut self, n: usize) -> Result<(), OutOfBounds> {
        let available = if self.claimed { self.room_seen() } else { 0 };
        if n > available {
            return Err(OutOfBounds { asked: n, available });
        }
        self.publish(n);
        Ok(())
    }

    /// Wakes the reader if it waits for what is there now.
    ///
    /// # Errors
    ///
    /// [`WriteError`] when the reader is gone: nobody will read what was committed.
    pub fn flush(&mut self) -> Result<(), WriteError> {
        self.wake_reader();
        self.check_reader()
    }

    /// Copies as much of `bytes` as there is room for, publishes it and wakes a waiting reader. Returns how much that
    /// was; 0 means full (or nothing to write).
    ///
    /// # Errors
    ///
    /// [`WriteError`] when the reader is gone.
    #[inline]
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, WriteError> {
        self.check_reader()?;
        if self.room_seen() < bytes.len() {
            self.room();
        }
        let n = bytes.len().min(self.room_seen());
        if n == 0 {
            return Ok(0);
        }
        self.claim();
        // SAFETY: we are the writer, hold the claim, and at least `n` bytes from `tail` are free.
        unsafe { self.shared.copy_in(self.tail, &bytes[..n]) };
        self.publish(n);
        self.wake_reader();
        Ok(n)
    }

    /// Waits until there is room for at least one byte.
    ///
    /// # Errors
    ///
    /// [`WriteError`] when the reader is gone, before or while waiting.
    ///
    /// # Cancel safety
    ///
    /// Dropping the waiting future loses nothing and leaves both halves usable.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        let mut ready = self.is_broken() || self.room_seen() > 0 || self.room() > 0;
        if !ready {
            self.shared.writer_bed.lie_down(cx.waker());
            ready = self.is_broken() || self.room() > 0;
            if ready {
                self.shared.writer_bed.get_up();
            }
        }
        if ready {
            if let Some(since) = self.waiting_since.take() {
                add(&self.shared.cells.writer_wait_ns, elapsed_ns(since));
            }
            return Poll::Ready(self.check_reader());
        }
        if self.waiting_since.is_none() {
            self.waiting_since = Some(Instant::now());
            add(&self.shared.cells.writer_waits, 1);
        }
        // A full ring is more than any reader can wait for, unless it parked before it saw the last commit.
        self.wake_reader();
        Poll::Pending
    }

    /// Copies at least one byte of `bytes`, waiting for room if there is none. An empty `bytes` is ready at once.
    ///
    /// # Errors
    ///
    /// [`WriteError`] when the reader is gone.
    ///
    /// # Cancel safety
    ///
    /// Either bytes were taken and counted, or none were: dropping the waiting future loses nothing.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, WriteError>> {
        loop {
            match self.write(bytes) {
                Ok(0) if !bytes.is_empty() => match self.poll_room(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return Poll::Pending,
                },
                written => return Poll::Ready(written),
            }
        }
    }

    /// Says that nothing will be written for a while: wakes the reader, and lets the ring give its storage back to the
    /// pool once it is drained. The next write takes storage again.
    pub fn idle(&mut self) {
        self.wake_reader();
        self.drop_claim();
    }

    /// Ends the stream cleanly: the reader drains what is left, then sees the end.
    pub fn finish(mut self) {
        self.end(FINISHED);
    }

    /// Ends the stream as failed: the reader sees `cause` as an error, never an end. Bytes that were committed can
    /// still be read first, unless the ring was made with [`OnAbort::FailNow`](crate::OnAbort::FailNow).
    pub fn abort(mut self, cause: Cause) {
        self.end_aborted(cause);
    }

    fn end_aborted(&mut self, cause: Cause) {
        // The writer ends once, so the cell is empty.
        let _ = self.shared.abort_cause.set(cause);
        self.end(ABORTED);
    }

    fn end(&mut self, ending: u8) {
        self.ended = true;
        // Release pairs with the reader's Acquire: the last bytes and the cause are visible with the ending.
        self.shared.ending.store(ending, Release);
        fence(SeqCst);
        self.shared.reader_bed.wake();
        self.drop_claim();
    }

    fn claim(&mut self) {
        if !self.claimed {
            self.shared.claim();
            self.claimed = true;
        }
    }

    fn drop_claim(&mut self) {
        if self.claimed {
            self.claimed = false;
            self.shared.unclaim();
        }
    }

    fn room_seen(&self) -> usize {
        self.shared.capacity - self.tail.wrapping_sub(self.head_seen)
    }

    fn publish(&mut self, n: usize) {
        self.tail = self.tail.wrapping_add(n);
        // Release pairs with the reader's Acquire: the bytes are visible with the index.
        self.shared.tail.store(self.tail, Release);
        add(&self.shared.cells.bytes, n as u64);
        if self.tail.wrapping_sub(self.head_seen) > self.high_water {
            self.head_seen = self.shared.head.load(Acquire);
            let filled = self.tail.wrapping_sub(self.head_seen);
            if filled > self.high_water {
                self.high_water = filled;
                self.shared.cells.high_water.store(filled as u64, Relaxed);
            }
        }
    }

    #[inline]
    fn wake_reader(&mut self) {
        // Pairs with the fence in `Bed::lie_down`.
        fence(SeqCst);
        if self.shared.reader_bed.is_occupied() {
            // The reader parked, so its `head` and `need` stand still until it is woken.
            self.head_seen = self.shared.head.load(Acquire);
            if self.tail.wrapping_sub(self.head_seen) >= self.shared.need.load(Relaxed) {
                self.shared.reader_bed.wake();
            }
        }
    }

    fn check_reader(&self) -> Result<(), WriteError> {
        if !self.is_broken() {
            return Ok(());
        }
        Err(match self.shared.fail_cause.get() {
            Some(cause) => WriteError::ReaderFailed(cause.clone()),
            None => WriteError::BrokenPipe,
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.ended {
            self.end_aborted(Cause::writer_dropped());
        }
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("capacity", &self.capacity())
            .field("committed", &self.tail)
            .finish_non_exhaustive()
    }
}

pub(crate) fn elapsed_ns(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
