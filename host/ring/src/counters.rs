//! What a ring did, for the report.

use std::time::Duration;

use crate::sync::{AtomicU64, Ordering::Relaxed};

/// A reading of a ring's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes that the writer committed.
    pub bytes: u64,
    /// How often the writer found no room and had to wait.
    pub writer_waits: u64,
    /// How long the writer waited for room, in all.
    pub writer_wait_time: Duration,
    /// How often the reader found too little and had to wait.
    pub reader_waits: u64,
    /// How long the reader waited for bytes, in all.
    pub reader_wait_time: Duration,
    /// The most bytes that were ever in the ring at once.
    pub high_water_bytes: u64,
}

/// The cells behind [`Counters`]. Each has one writing half, so that adding is a load and a store.
#[derive(Default)]
pub(crate) struct Cells {
    pub(crate) bytes: AtomicU64,
    pub(crate) writer_waits: AtomicU64,
    pub(crate) writer_wait_ns: AtomicU64,
    pub(crate) reader_waits: AtomicU64,
    pub(crate) reader_wait_ns: AtomicU64,
    pub(crate) high_water: AtomicU64,
}

impl Cells {
    /// As they stand: while the ring works, a moment's reading.
    pub(crate) fn read(&self) -> Counters {
        Counters {
            bytes: self.bytes.load(Relaxed),
            writer_waits: self.writer_waits.load(Relaxed),
            writer_wait_time: Duration::from_nanos(self.writer_wait_ns.load(Relaxed)),
            reader_waits: self.reader_waits.load(Relaxed),
            reader_wait_time: Duration::from_nanos(self.reader_wait_ns.load(Relaxed)),
            high_water_bytes: self.high_water.load(Relaxed),
        }
    }
}

/// Adds to a cell that only the caller's half writes. Synchronizes with nothing.
pub(crate) fn add(cell: &AtomicU64, n: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(n), Relaxed);
}
