//! What ports and what stands before an end need of a half. The halves themselves are made of these, too.

use std::{
    io,
    task::{Context, Poll},
};

/// What is read.
pub(crate) trait SourceHalf {
    /// Reads at least one byte into `into`; 0 is the clean end.
    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Waits until a read would not wait, without taking anything from whoever shares the source.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Whether it is a terminal.
    fn is_terminal(&self) -> bool;
}

/// What is written.
pub(crate) trait SinkHalf {
    /// One that takes everything.
    const NOWHERE: Self;

    /// Takes at least one byte of `bytes`.
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;

    /// Waits until everything that was taken is written.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Whether it is a terminal.
    fn is_terminal(&self) -> bool;

    /// Says that nothing will be written for a while.
    fn idle(&mut self);
}
