//! How a ring is made.

use crate::Capacity;

/// What a reader sees after the writer aborted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnAbort {
    /// The bytes that were written before the abort can still be read, then comes the error. The default.
    #[default]
    DrainThenFail,
    /// The next read fails, whatever is still in the ring.
    FailNow,
}

/// How a ring is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// How many bytes the ring holds at most. Default 256 KiB.
    pub capacity: Capacity,
    /// What an abort does to bytes that were not read yet. Default: they can still be read.
    pub on_abort: OnAbort,
}
