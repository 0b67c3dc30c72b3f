//! A run that goes on.

use std::{
    pin::Pin,
    sync::{Arc, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::sync::oneshot;

use super::{
    control::{ProcessHandle, RunControl},
    host::Host,
    judge::millis,
    shared::RunState,
    snapshot::RunSnapshot,
};
use crate::{
    event::EventStream,
    joint::StopReason,
    outcome::{ExitCode, Outcome},
};

/// A run that goes on: to be waited for, by a thread or as a future. Dropping it, or the future, stops the run.
#[derive(Debug)]
pub struct Running {
    pub(super) host: Host,
    pub(super) state: Arc<RunState>,
    pub(super) first_events: Option<EventStream>,
    pub(super) ended: Option<oneshot::Receiver<Outcome>>,
}

impl Running {
    /// Waits for its end, blocking this thread. A thread of a runtime may call it, too, and then does nothing else until then. If that
    /// runtime is the one that the host was [given](crate::HostOptions::runtime) and has one thread, it would wait for itself: the run is
    /// cancelled, and its outcome says so.
    pub fn wait(mut self) -> Outcome {
        let Some(ended) = self.ended.take() else { return self.outcome(None) };
        let Some(ended) = self.host.wait_for(ended) else {
            self.state.kill();
            let message =
                "the host failed inside the run, or the thread that waits for it would have to run it: await it";
            return Outcome::not_started(None, ExitCode::Host, message.into(), None);
        };
        self.outcome(Some(ended))
    }

    /// Waits for its end: the same as awaiting it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the run.
    pub async fn ended(self) -> Outcome {
        self.await
    }

    pub(super) fn outcome(&self, ended: Option<Outcome>) -> Outcome {
        let lost = || Outcome::not_started(None, ExitCode::Host, "the host failed inside the run".into(), None);
        Outcome { duration_ms: millis(self.state.started.elapsed()), ..ended.unwrap_or_else(lost) }
    }

    /// Stops the run.
    pub fn cancel(&self) {
        self.state.stop.request(StopReason::Caller);
    }

    /// What stops the run from elsewhere, with all that were started with the same control.
    pub fn control(&self) -> RunControl {
        self.state.control.clone()
    }

    /// What happens in the run. The first stream has everything from the beginning, later ones what is still to come.
    pub fn events(&mut self) -> EventStream {
        self.host.drive();
        self.first_events.take().unwrap_or_else(|| self.state.events.stream())
    }

    /// What can be seen of the run now. It asks no stage and waits for none: a display may ask a hundred times a second.
    pub fn snapshot(&self) -> RunSnapshot {
        self.state.snapshot()
    }

    /// The process of a command, by the name of its stage; `None` before it is started, or if it is no command.
    pub fn process(&self, stage: &str) -> Option<ProcessHandle> {
        let commands = self.state.commands.0.lock().unwrap_or_else(PoisonError::into_inner);
        let leader = commands.get(stage)?;
        Some(ProcessHandle(Arc::downgrade(leader), leader.pid().as_raw_nonzero().get().unsigned_abs()))
    }

    /// The host it runs on.
    pub fn host(&self) -> &Host {
        &self.host
    }
}

impl Future for Running {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        self.host.drive();
        let ended = match &mut self.ended {
            Some(ended) => ready!(Pin::new(ended).poll(cx)).ok(),
            None => None,
        };
        self.ended = None;
        Poll::Ready(self.outcome(ended))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended.is_some() {
            self.state.kill();
        }
    }
}
