//! What happens in a run, as it happens.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use tokio::sync::broadcast;

use crate::outcome::{LimitKind, StageExit};

/// A function that is called with events.
#[derive(Clone)]
pub struct Observer(pub Arc<dyn Fn(&Event) + Send + Sync>);

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Observer")
    }
}

/// Something that happened in a run.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A stage was started.
    Started {
        /// The stage's name.
        stage: String,
        /// The process id of a command.
        pid: Option<u32>,
    },
    /// A stage reached a limit and is ended.
    Limit {
        /// The stage's name.
        stage: String,
        /// The limit.
        which: LimitKind,
        /// Its value, in the limit's unit.
        limit: Option<u64>,
        /// What was used.
        used: Option<u64>,
    },
    /// A stage has ended.
    Exited {
        /// The stage's name.
        stage: String,
        /// How.
        exit: StageExit,
    },
    /// The run is being stopped.
    Stopped {
        /// Why.
        cause: String,
        /// The stage that it is stopped because of, if it is one.
        stage: Option<String>,
    },
    /// The run is over: nothing follows.
    Ended,
    /// Something that people should know.
    Warning {
        /// The stage's name.
        stage: String,
        /// What.
        message: String,
    },
}

/// Where events are sent to. Clones send to the same streams.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    /// `None`: nobody can ask for a stream.
    sender: Option<broadcast::Sender<Event>>,
    observer: Option<Observer>,
    /// Whether the run is over.
    over: Arc<AtomicBool>,
}

/// A stream of events. It keeps the last ones, at least 16 and at least eight for each stage, which is more than a run
/// normally has; who reads slower than that misses the oldest.
#[derive(Debug)]
pub struct EventStream {
    receiver: broadcast::Receiver<Event>,
    missed: u64,
    /// Whether nothing follows.
    over: bool,
}

impl Events {
    /// Makes streams for a run of this many stages.
    pub(crate) fn with_streams(observer: Option<Observer>, stages: usize) -> (Self, EventStream) {
        const EACH: usize = 8;
        const LEAST: usize = 16;
        let (sender, receiver) = broadcast::channel(LEAST.max(stages.saturating_mul(EACH)));
        let over = Arc::default();
        (Self { sender: Some(sender), observer, over }, EventStream { receiver, missed: 0, over: false })
    }

    /// Events of a run that nobody can ask for a stream.
    pub(crate) fn observed(observer: Option<Observer>) -> Self {
        Self { sender: None, observer, over: Arc::default() }
    }

    /// Sends an event to whoever listens. Never waits.
    pub(crate) fn send(&self, event: impl FnOnce() -> Event) {
        if self.sender.is_none() && self.observer.is_none() {
            return;
        }
        let event = event();
        if let Some(Observer(observe)) = &self.observer {
            // An observer's panic is its own; the run goes on.
            let _ = catch_unwind(AssertUnwindSafe(|| observe(&event)));
        }
        if let Some(sender) = &self.sender {
            // Nobody may listen.
            let _ = sender.send(event);
        }
    }

    /// A stream of what is still to come; of nothing, if there are no streams.
    pub(crate) fn stream(&self) -> EventStream {
        let receiver = self.sender.as_ref().map_or_else(|| broadcast::channel(1).1, broadcast::Sender::subscribe);
        // Asked after the stream was made: what ends a run in between is in it.
        EventStream { receiver, missed: 0, over: self.over.load(SeqCst) }
    }
}

/// Says that a run is over when dropped, whatever became of it.
pub(crate) struct Over(pub(crate) Events);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.over.store(true, SeqCst);
        self.0.send(|| Event::Ended);
    }
}

impl EventStream {
    /// Waits for the next event; `None` once the run is over. Cancel safe.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if self.over {
                return None;
            }
            match self.receiver.recv().await {
                Ok(event) => {
                    self.over = event == Event::Ended;
                    return Some(event);
                }
                Err(broadcast::error::RecvError::Lagged(missed)) => self.missed += missed,
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// The same, blocking this thread.
    pub fn next_blocking(&mut self) -> Option<Event> {
        crate::wait::block_on(self.next())
    }

    /// How many events were missed so far.
    pub fn missed(&self) -> u64 {
        self.missed
    }
}
