//! Ports: a stage's standard streams in this process, as the stage sees them.
//!
//! A stage may look at its streams from several places, one after the other or at once. Every view is of the same port;
//! dropping a view closes nothing. What went wrong at an end is recorded here, whatever the stage makes of it. Each operation first
//! takes a unit of the runtime's cooperative budget, so that no stage holds a thread by moving bytes between ends that are
//! always ready.

mod input;
mod output;
mod passing;
mod waits;

pub(crate) use input::{InputPort, WatchedInput};
pub(crate) use output::{OutputPort, WatchedOutput};
pub(crate) use passing::{EndFailure, Moved, PERMIT, Passing};

#[cfg(test)]
mod tests;
