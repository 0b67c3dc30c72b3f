//! The wish to stop a run, known to everything in it.

use tokio::sync::watch;

/// Why a run is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// A stage failed, and the pipeline cancels on failure.
    Failure,
    /// The run's timeout.
    Timeout,
    /// The host got this signal.
    Signal(i32),
    /// The caller asked for it, or dropped the run.
    Caller,
}

/// A switch that can be turned once. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Stop(watch::Sender<Option<StopReason>>);

impl Stop {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// Asks for the stop. The first reason stays.
    pub(crate) fn request(&self, reason: StopReason) {
        self.0.send_if_modified(|current| {
            let first = current.is_none();
            current.get_or_insert(reason);
            first
        });
    }

    pub(crate) fn reason(&self) -> Option<StopReason> {
        *self.0.borrow()
    }

    pub(crate) fn is_requested(&self) -> bool {
        self.reason().is_some()
    }

    /// Waits until the stop is asked for. Cancel safe.
    pub(crate) async fn requested(&self) -> StopReason {
        let mut receiver = self.0.subscribe();
        // We hold a sender, so the channel cannot close before there is a reason.
        let reason = receiver.wait_for(Option::is_some).await.ok().and_then(|reason| *reason);
        reason.unwrap_or(StopReason::Caller)
    }
}
