//! What the ring's tests share: wakers that count, and rings of the smallest capacity.

#![allow(clippy::unwrap_used, reason = "a test's helpers are part of the test")]
#![allow(dead_code, reason = "each test file uses its own part")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use stagehost_ring::{Capacity, OnAbort, Options, Pool, ReadError, Reader, WriteError, Writer, ring};

pub(crate) const CAP: usize = 4096;

/// Counts how often it was woken.
#[derive(Default)]
pub(crate) struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// One side's task: a waker and how often it was called.
pub(crate) struct Task {
    count: Arc<Count>,
    waker: Waker,
}

impl Task {
    pub(crate) fn new() -> Self {
        let count = Arc::new(Count::default());
        Self { waker: Waker::from(count.clone()), count }
    }

    pub(crate) fn wakes(&self) -> usize {
        self.count.0.load(Ordering::SeqCst)
    }

    pub(crate) fn cx(&self) -> Context<'_> {
        Context::from_waker(&self.waker)
    }
}

/// A ring of 4 KiB with a task for each side.
pub(crate) struct Fixture {
    pub(crate) pool: Pool,
    pub(crate) w: Writer,
    pub(crate) r: Reader,
    pub(crate) wt: Task,
    pub(crate) rt: Task,
}

pub(crate) fn small() -> Fixture {
    with(OnAbort::DrainThenFail)
}

pub(crate) fn with(on_abort: OnAbort) -> Fixture {
    let pool = Pool::new(64 << 10);
    let (w, r) = ring(&pool, Options { capacity: Capacity::new(CAP).unwrap(), on_abort });
    Fixture { pool, w, r, wt: Task::new(), rt: Task::new() }
}

impl Fixture {
    pub(crate) fn poll_write(&mut self, bytes: &[u8]) -> Poll<Result<usize, WriteError>> {
        self.w.poll_write(&mut self.wt.cx(), bytes)
    }

    pub(crate) fn poll_room(&mut self) -> Poll<Result<(), WriteError>> {
        self.w.poll_room(&mut self.wt.cx())
    }

    pub(crate) fn poll_fill(&mut self, min: usize) -> Poll<Result<usize, ReadError>> {
        self.r.poll_fill(&mut self.rt.cx(), min)
    }

    /// Fills the ring and parks the writer.
    pub(crate) fn fill_and_park(&mut self) {
        assert_eq!(self.w.write(&[b'x'; CAP]).unwrap(), CAP);
        assert!(self.poll_room().is_pending());
    }

    pub(crate) fn peeked(&mut self) -> Vec<u8> {
        let (a, b) = self.r.peek();
        [a, b].concat()
    }

    pub(crate) fn consume(&mut self, n: usize) {
        self.r.len();
        self.r.consume(n).unwrap();
    }
}

pub(crate) fn read_all(r: &mut Reader) -> Vec<u8> {
    let mut out = Vec::new();
    let mut piece = [0; 1000];
    while let Ok(Some(n @ 1..)) = r.read(&mut piece) {
        out.extend_from_slice(&piece[..n]);
    }
    out
}
