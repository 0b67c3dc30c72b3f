//! The stages of a run that go on.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::{Stream, stream::FuturesUnordered};
use tokio::task::JoinSet;

use crate::stage::StageEnd;

/// Stages that go on. Guests, and commands whose processes are looked at often, are tasks of their own: they use processors. What only
/// waits for a process or a thread goes on where the run does, which is otherwise idle, and so does a guest that is alone: a run of one
/// stage is one task.
#[derive(Default)]
pub(super) struct Going {
    tasks: JoinSet<StageEnd>,
    here: FuturesUnordered<Caught>,
}

/// The host failed inside a stage.
pub(super) struct Lost;

impl Going {
    /// Adds a stage that takes its turns beside the run.
    pub(super) fn add(&mut self, stage: impl Future<Output = StageEnd> + Send + 'static) {
        // Boxed: a task this large would be moved several times.
        self.tasks.spawn(Box::pin(stage));
    }

    /// Adds a stage that goes on where the run does.
    pub(super) fn add_here(&mut self, stage: impl Future<Output = StageEnd> + Send + 'static) {
        self.here.push(Caught(Box::pin(stage)));
    }

    /// Waits until the next one ends; `None`: all have. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Result<StageEnd, Lost>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<StageEnd, Lost>>> {
        // First those that do not take this thread's time.
        if let Poll::Ready(Some(joined)) = self.tasks.poll_join_next(cx) {
            return Poll::Ready(Some(joined.map_err(|_| Lost)));
        }
        match Pin::new(&mut self.here).poll_next(cx) {
            Poll::Ready(None) if !self.tasks.is_empty() => Poll::Pending,
            polled => polled,
        }
    }
}

/// A stage of which, as of a task, a panic of the host ends nothing else.
struct Caught(Pin<Box<dyn Future<Output = StageEnd> + Send>>);

impl Future for Caught {
    type Output = Result<StageEnd, Lost>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(cx))) {
            Ok(polled) => polled.map(Ok),
            Err(_) => Poll::Ready(Err(Lost)),
        }
    }
}
