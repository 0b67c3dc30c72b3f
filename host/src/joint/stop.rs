//! The wish to stop a run, known to everything in it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::watch;

/// Why a run is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// A stage failed, and the pipeline cancels on failure.
    Failure,
    /// The last stage ended well, and the pipeline stops what is still before it. No failure.
    Satisfied,
    /// The timeout of the run, or of the nested pipeline of that number.
    Timeout(Option<usize>),
    /// The host got this signal.
    Signal(i32),
    /// The caller asked for it, or dropped the run.
    Caller,
}

/// A switch that can be turned once. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    asked: watch::Sender<Asked>,
    /// Whether a key of the terminal is what stopped the run.
    terminal: AtomicBool,
    compiling: Compiling,
}

/// What was asked for.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    reason: Option<StopReason>,
    /// Whether to kill rather than to ask.
    hurry: bool,
}

/// What is compiled for a run.
#[derive(Debug, Default)]
struct Compiling {
    now: AtomicUsize,
    /// How often something was begun.
    begun: AtomicUsize,
}

/// Something that is compiled, as long as this lives: the run's timeout stands still.
#[derive(Debug)]
pub(crate) struct Compilation(Stop);

impl Drop for Compilation {
    fn drop(&mut self) {
        self.0.0.compiling.now.fetch_sub(1, Relaxed);
    }
}

impl StopReason {
    /// Whether it came from outside the stages.
    fn is_from_outside(self) -> bool {
        match self {
            Self::Failure | Self::Satisfied => false,
            Self::Timeout(_) | Self::Signal(_) | Self::Caller => true,
        }
    }
}

impl Default for Inner {
    fn default() -> Self {
        let asked = watch::Sender::new(Asked::default());
        Self { asked, terminal: AtomicBool::default(), compiling: Compiling::default() }
    }
}

impl Stop {
    /// Asks for the stop. The first reason stays, but a failure takes the place of being satisfied, and a reason from
    /// outside takes the place of both: what is still to be done after a failure can be stopped too.
    /// Returns whether nobody had asked before.
    pub(crate) fn request(&self, reason: StopReason) -> bool {
        let mut first = false;
        self.0.asked.send_if_modified(|Asked { reason: current, .. }| {
            first = current.is_none();
            let news = match *current {
                None => true,
                Some(StopReason::Satisfied) => reason != StopReason::Satisfied,
                Some(StopReason::Failure) => reason.is_from_outside(),
                Some(StopReason::Timeout(_) | StopReason::Signal(_) | StopReason::Caller) => false,
            };
            if news {
                *current = Some(reason);
            }
            news
        });
        first
    }

    /// Asks for the stop because of a key of the terminal, which every process in front of it was told of.
    pub(crate) fn request_from_terminal(&self, signal: i32) {
        self.0.terminal.store(true, Relaxed);
        self.request(StopReason::Signal(signal));
    }

    /// Whether a key of the terminal is what stopped the run.
    pub(crate) fn came_from_terminal(&self) -> bool {
        self.0.terminal.load(Relaxed)
    }

    /// Says that something is compiled from now on.
    pub(crate) fn compiling(&self) -> Compilation {
        self.0.compiling.now.fetch_add(1, Relaxed);
        self.0.compiling.begun.fetch_add(1, Relaxed);
        Compilation(self.clone())
    }

    /// Asks for the stop to be made short: whatever still runs is killed.
    pub(crate) fn hurry(&self) {
        self.0.asked.send_modify(|asked| asked.hurry = true);
    }

    /// Waits until the stop is to be made short. Cancel safe.
    pub(crate) async fn hurried(&self) {
        self.until(|asked| asked.hurry).await;
    }

    pub(crate) fn reason(&self) -> Option<StopReason> {
        self.0.asked.borrow().reason
    }

    /// Whether the run was stopped by a timeout, a signal or the caller.
    pub(crate) fn is_from_outside(&self) -> bool {
        self.reason().is_some_and(StopReason::is_from_outside)
    }

    pub(crate) fn is_requested(&self) -> bool {
        self.reason().is_some()
    }

    /// Waits until the stop is asked for. Cancel safe.
    pub(crate) async fn requested(&self) {
        self.until(|asked| asked.reason.is_some()).await;
    }

    async fn until(&self, is_so: impl Fn(&Asked) -> bool) {
        // We hold the sender, so the channel cannot close before it is.
        let _ = self.0.asked.subscribe().wait_for(is_so).await;
    }

    /// Waits until the stop is asked for from outside: by a timeout, a signal or the caller. Cancel safe.
    pub(crate) async fn requested_from_outside(&self) {
        self.until(|asked| asked.reason.is_some_and(StopReason::is_from_outside)).await;
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

/// A time limit that stands still while the host is stopped (`SIGSTOP`, Ctrl-Z).
#[derive(Debug)]
pub(crate) struct Countdown;

impl Countdown {
    /// Waits this long. Cancel safe.
    pub(crate) async fn wait(left: Duration) {
        Self::wait_while_it_counts(left, || true).await;
    }

    /// Waits until a run has had this long beside what is compiled for it, which has a limit of its own. Cancel safe.
    pub(crate) async fn wait_for_run(left: Duration, stop: &Stop) {
        let Compiling { now, begun } = &stop.0.compiling;
        let mut seen = begun.load(Relaxed);
        // A slice in which something was compiled does not count, nor one in which that began or ended.
        let mut was_compiling = now.load(Relaxed) > 0;
        Self::wait_while_it_counts(left, || {
            let (is_compiling, all) = (now.load(Relaxed) > 0, begun.load(Relaxed));
            let counts = !is_compiling && !was_compiling && all == seen;
            (was_compiling, seen) = (is_compiling, all);
            counts
        })
        .await;
    }

    async fn wait_while_it_counts(mut left: Duration, mut counts: impl FnMut() -> bool) {
        // A slice that took much longer than it should have is a time in which this process did not run.
        const SLICE: Duration = Duration::from_millis(250);
        const LATE: Duration = Duration::from_millis(500);
        while !left.is_zero() {
            let slice = left.min(SLICE);
            let started = tokio::time::Instant::now();
            tokio::time::sleep(slice).await;
            if counts() {
                left = left.saturating_sub(started.elapsed().min(slice + LATE));
            }
        }
    }
}
