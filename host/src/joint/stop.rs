//! The wish to stop a run, known to everything in it.

use std::time::Duration;

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

    /// Asks for the stop. The first reason stays, but one from outside takes the place of a stage's failure: what is
    /// still to be done after a failure can be stopped too.
    pub(crate) fn request(&self, reason: StopReason) {
        self.0.send_if_modified(|current| {
            let news = current.is_none() || (*current == Some(StopReason::Failure) && reason != StopReason::Failure);
            if news {
                *current = Some(reason);
            }
            news
        });
    }

    pub(crate) fn reason(&self) -> Option<StopReason> {
        *self.0.borrow()
    }

    pub(crate) fn is_requested(&self) -> bool {
        self.reason().is_some()
    }

    /// Waits until the stop is asked for. Cancel safe.
    pub(crate) async fn requested(&self) {
        // We hold a sender, so the channel cannot close before there is a reason.
        let _ = self.0.subscribe().wait_for(Option::is_some).await;
    }

    /// Waits until the stop is asked for from outside: by a timeout, a signal or the caller. Cancel safe.
    pub(crate) async fn requested_from_outside(&self) {
        let outside = |reason: &Option<StopReason>| !matches!(reason, None | Some(StopReason::Failure));
        let _ = self.0.subscribe().wait_for(outside).await;
    }

    /// Waits for what is left to do after the stages: not for ever, and hardly at all once the run is stopped from
    /// outside. Returns `None` if it was given up.
    pub(crate) async fn patiently<T>(&self, last: impl Future<Output = T>) -> Option<T> {
        const PATIENCE: Duration = Duration::from_secs(2);
        const AFTER_STOP: Duration = Duration::from_millis(100);
        let stopped = async {
            self.requested_from_outside().await;
            tokio::time::sleep(AFTER_STOP).await;
        };
        tokio::select! {
            biased;
            done = last => Some(done),
            () = stopped => None,
            () = tokio::time::sleep(PATIENCE) => None,
        }
    }
}
