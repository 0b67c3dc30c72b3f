//! What can be seen of a stage while it goes on, without asking it.

use std::{
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{
    joint::{InputPort, Moved, OutputPort, WatchedInput, WatchedOutput},
    process::{Leader, cpu_so_far},
    sandbox::Usage,
};

/// How far a stage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    Waiting,
    Starting,
    Running,
    Ended,
}

/// What is read off a stage.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reading {
    /// `None`: not known.
    pub(crate) input: Option<Moved>,
    pub(crate) output: Option<Moved>,
    pub(crate) memory: Option<u64>,
    pub(crate) cpu: Option<Duration>,
}

/// What can be seen of one stage. It keeps nothing of the stage's alive.
#[derive(Default)]
pub(crate) struct Gauge {
    phase: AtomicU8,
    ends: OnceLock<(WatchedInput, WatchedOutput)>,
    uses: OnceLock<Uses>,
    /// The most memory that a command was seen to use, in bytes; 0: it was not looked at.
    memory: AtomicU64,
    last: OnceLock<Reading>,
}

/// Where it is seen what a stage uses.
enum Uses {
    Guest(Weak<Usage>),
    Command(Weak<Leader>),
}

impl Gauge {
    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Waiting,
            1 => Phase::Starting,
            2 => Phase::Running,
            _ => Phase::Ended,
        }
    }

    /// Says how far it is. It never goes back.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Relaxed);
    }

    /// Watches the ends of a stage in this process.
    pub(super) fn watch_ends(&self, input: &InputPort, output: &OutputPort) {
        let _ = self.ends.set((input.watched(), output.watched()));
    }

    /// Watches what a guest uses.
    pub(super) fn watch_guest(&self, usage: &Arc<Usage>) {
        let _ = self.uses.set(Uses::Guest(Arc::downgrade(usage)));
    }

    /// Watches what a command uses.
    pub(super) fn watch_command(&self, leader: &Arc<Leader>) {
        let _ = self.uses.set(Uses::Command(Arc::downgrade(leader)));
    }

    /// Says how much memory a command was seen to use.
    pub(super) fn note_memory(&self, bytes: u64) {
        self.memory.fetch_max(bytes, Relaxed);
    }

    /// Keeps what is to be seen for good: the stage has ended. The first word stands.
    pub(crate) fn end(&self, last: Reading) {
        let _ = self.last.set(last);
        self.enter(Phase::Ended);
    }

    pub(crate) fn read(&self) -> Reading {
        if let Some(last) = self.last.get() {
            return *last;
        }
        let ends = self.ends.get();
        let (memory, cpu) = match self.uses.get() {
            None => (None, None),
            Some(Uses::Guest(usage)) => usage.upgrade().map(|usage| (usage.peak_memory(), usage.cpu())).unzip(),
            Some(Uses::Command(leader)) => {
                let memory = Some(self.memory.load(Relaxed)).filter(|bytes| *bytes > 0);
                // Not reaped before the stage's end: its id is its own.
                (memory, leader.upgrade().and_then(|leader| cpu_so_far(leader.pid())))
            }
        };
        Reading {
            input: ends.and_then(|(input, _)| input.moved()),
            output: ends.and_then(|(_, output)| output.moved()),
            memory,
            cpu,
        }
    }
}

impl std::fmt::Debug for Gauge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gauge").field("phase", &self.phase()).finish_non_exhaustive()
    }
}

/// The gauges of a run's stages.
pub(crate) type Gauges = Arc<[Gauge]>;
