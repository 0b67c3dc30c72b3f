//! Runs whose output is kept in memory.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::io::AsyncWrite;

use super::running::Running;
use crate::{
    ends::{Ends, Stdout},
    outcome::Outcome,
};

/// A run whose output is kept: its outcome and its output are to be waited for, by a thread or as a future. Dropping it, or the future,
/// stops the run.
#[derive(Debug)]
pub struct Collecting {
    pub(super) running: Running,
    pub(super) bytes: Arc<Mutex<Vec<u8>>>,
}

/// Output kept in memory, up to a bound.
struct Kept {
    bytes: Arc<Mutex<Vec<u8>>>,
    most: usize,
}

/// Ends whose output is kept.
pub(super) fn into_memory(ends: Ends, most: usize) -> (Ends, Arc<Mutex<Vec<u8>>>) {
    let bytes = Arc::<Mutex<Vec<u8>>>::default();
    (ends.stdout(Stdout::writer(Kept { bytes: bytes.clone(), most })), bytes)
}

impl Collecting {
    /// Waits for its end, blocking this thread, as [`Running::wait`] does. What a run wrote that did not succeed is there, too.
    pub fn wait(self) -> (Outcome, Vec<u8>) {
        let Self { running, bytes } = self;
        let outcome = running.wait();
        (outcome, take(&bytes))
    }

    /// The run.
    pub fn running(&mut self) -> &mut Running {
        &mut self.running
    }
}

impl Future for Collecting {
    type Output = (Outcome, Vec<u8>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(Pin::new(&mut self.running).poll(cx));
        Poll::Ready((outcome, take(&self.bytes)))
    }
}

fn take(bytes: &Mutex<Vec<u8>>) -> Vec<u8> {
    std::mem::take(&mut *bytes.lock().unwrap_or_else(PoisonError::into_inner))
}

impl AsyncWrite for Kept {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut kept = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let n = bytes.len().min(self.most.saturating_sub(kept.len()));
        if n == 0 && !bytes.is_empty() {
            let message = format!("there is more output than the {} bytes that were asked for", self.most);
            return Poll::Ready(Err(io::Error::other(message)));
        }
        kept.extend_from_slice(&bytes[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
