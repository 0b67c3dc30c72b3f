//! The stages of a run that go on.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::task::JoinSet;

use crate::stage::StageEnd;

/// Stages that go on: tasks of their own, and one that goes on where the run does, which is otherwise idle. A run of one stage is one task.
#[derive(Default)]
pub(super) struct Going {
    tasks: JoinSet<StageEnd>,
    here: Option<Pin<Box<dyn Future<Output = StageEnd> + Send>>>,
}

/// The host failed inside a stage.
pub(super) struct Lost;

impl Going {
    /// Adds a stage.
    pub(super) fn add(&mut self, stage: impl Future<Output = StageEnd> + Send + 'static) {
        self.tasks.spawn(stage);
    }

    /// Adds a stage that is alone.
    pub(super) fn add_last(&mut self, stage: impl Future<Output = StageEnd> + Send + 'static) {
        self.here = Some(Box::pin(stage));
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
        let Some(stage) = &mut self.here else {
            return if self.tasks.is_empty() { Poll::Ready(None) } else { Poll::Pending };
        };
        // As in a task of its own, a panic of the host ends this stage only.
        let ended = match catch_unwind(AssertUnwindSafe(|| stage.as_mut().poll(cx))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(end)) => Ok(end),
            Err(_) => Err(Lost),
        };
        self.here = None;
        Poll::Ready(Some(ended))
    }
}
