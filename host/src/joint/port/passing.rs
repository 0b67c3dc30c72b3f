//! How bytes pass a port, what has, and why no more do.

use std::{io, sync::Arc, time::Duration};

use stagehost_ring::Cause;

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

/// How bytes pass a port.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Passing {
    /// The most bytes.
    pub(crate) most: Option<u64>,
    /// Whether reads and writes are of sizes that are the same on every run: [`PERMIT`] bytes, or what is left.
    pub(crate) exact: bool,
}

/// How much a 0.2 stream may hand over at a time, in bytes.
pub(crate) const PERMIT: usize = 64 << 10;

/// What has moved through an end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moved {
    pub(crate) bytes: u64,
    /// How long the stage has waited there in all.
    pub(crate) waited: Duration,
    /// Whether it waits now.
    pub(crate) waits: bool,
}
