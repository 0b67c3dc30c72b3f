//! Loading what a plan needs ahead of its runs.

use std::{
    collections::HashSet,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::sync::oneshot;

use super::{host::Host, shared::Shared};
use crate::{
    outcome::StageExit,
    plan::{Plan, Work},
    sandbox::{EngineKind, RunTurns},
};

/// How far preparing a plan has come.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// How many components are ready.
    pub done: usize,
    /// How many there are.
    pub of: usize,
    /// The stage whose component became ready last.
    pub stage: String,
}

/// What of a plan could not be made ready.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stage `{stage}` {exit}")]
#[non_exhaustive]
pub struct PrepareError {
    /// The stage whose component cannot be loaded.
    pub stage: String,
    /// How a run would end there.
    pub exit: StageExit,
}

/// A plan that is being prepared: to be waited for, by a thread or as a future. Dropping it, or the future, gives it up.
#[derive(Debug)]
pub struct Preparing {
    pub(super) host: Host,
    pub(super) ended: oneshot::Receiver<Result<(), PrepareError>>,
}

impl Preparing {
    /// Waits until it is prepared, blocking this thread as [`Running::wait`](crate::Running::wait) does.
    ///
    /// # Errors
    ///
    /// The first component that cannot be loaded.
    pub fn wait(self) -> Result<(), PrepareError> {
        let Self { host, ended } = self;
        host.wait_for(ended).unwrap_or_else(|| Err(given_up()))
    }
}

impl Future for Preparing {
    type Output = Result<(), PrepareError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.host.drive();
        Poll::Ready(ready!(Pin::new(&mut self.ended).poll(cx)).unwrap_or_else(|_| Err(given_up())))
    }
}

fn given_up() -> PrepareError {
    PrepareError { stage: String::new(), exit: StageExit::Cancelled }
}

/// Loads every component of a plan, each once.
pub(super) async fn prepare(
    shared: &Arc<Shared>,
    plan: &Plan,
    turns: &RunTurns,
    mut tell: impl FnMut(&Progress),
) -> Result<(), PrepareError> {
    let failed = |stage: &str, exit| PrepareError { stage: stage.to_owned(), exit };
    let mut known = HashSet::new();
    let stages = plan.0.stages.iter().filter_map(|stage| match &stage.work {
        Work::Wasm(work) => Some((stage, work, EngineKind::of(&work.limits, plan.0.deterministic, false))),
        Work::Command(_) | Work::Function(_) => None,
    });
    let all: Vec<_> = stages.collect();
    let of = all.iter().filter(|(_, work, kind)| known.insert((work.digest, *kind))).count();
    known.clear();
    for (stage, work, kind) in all {
        let sandbox =
            shared.sandbox().map_err(|message| failed(&stage.name, StageExit::HostError { message, path: None }))?;
        let prepared = work.ready.prepare(&sandbox, kind, &work.code(), &work.inspection, &work.limits, turns).await;
        prepared.map_err(|exit| failed(&stage.name, exit))?;
        if known.insert((work.digest, kind)) {
            tell(&Progress { done: known.len(), of, stage: stage.name.clone() });
        }
    }
    Ok(())
}
