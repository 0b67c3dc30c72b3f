//! Stopping runs from outside, and reaching their commands.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use rustix::process::Signal;

use crate::{
    joint::{Stop, StopReason},
    process::Leader,
};

/// Stops runs from outside: those that were started with it or with a clone of it. What was asked for once holds for the
/// runs that are started later too.
#[derive(Clone, Debug, Default)]
pub struct RunControl(Arc<Mutex<Control>>);

#[derive(Debug, Default)]
struct Control {
    asked: Option<Asked>,
    hurried: bool,
    next: u64,
    /// The runs that go on, by number.
    runs: BTreeMap<u64, (Stop, Commands)>,
}

/// What was asked for from outside.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Cancel,
    Signal(i32),
    Terminal(i32),
}

impl Asked {
    fn of(self, stop: &Stop) {
        match self {
            Self::Cancel => _ = stop.request(StopReason::Caller),
            Self::Signal(signal) => _ = stop.request(StopReason::Signal(signal)),
            Self::Terminal(signal) => stop.request_from_terminal(signal),
        }
    }
}

/// A run's place at its control; given up when dropped.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) stop: Stop,
    pub(crate) commands: Commands,
    control: RunControl,
    number: u64,
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.control.control().runs.remove(&self.number);
        self.commands.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// The commands of a run, by the names of their stages.
#[derive(Clone, Debug, Default)]
pub(crate) struct Commands(pub(super) Arc<Mutex<BTreeMap<String, Arc<Leader>>>>);

impl Commands {
    pub(crate) fn add(&self, stage: &str, leader: &Arc<Leader>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(stage.to_owned(), leader.clone());
    }

    /// The leaders of them all.
    pub(crate) fn all(&self) -> Vec<Arc<Leader>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

impl RunControl {
    /// Stops the run: every stage ends, atomic outputs are discarded.
    pub fn cancel(&self) {
        self.ask(Asked::Cancel);
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, asked: Asked) {
        let mut control = self.control();
        control.asked.get_or_insert(asked);
        control.runs.values().for_each(|(stop, _)| asked.of(stop));
    }

    pub(super) fn attach(&self) -> Attached {
        let (stop, commands) = (Stop::default(), Commands::default());
        let mut control = self.control();
        if let Some(asked) = control.asked {
            asked.of(&stop);
        }
        if control.hurried {
            stop.hurry();
        }
        let number = control.next;
        control.next += 1;
        control.runs.insert(number, (stop.clone(), commands.clone()));
        Attached { stop, commands, control: self.clone(), number }
    }

    /// Stops the run because the program got a signal, which the stages are sent and the outcome names.
    pub fn stop_by_signal(&self, signal: i32) {
        self.ask(Asked::Signal(signal));
    }

    /// The same for a signal that a key of the terminal sent to every process in front of it: commands that are there too
    /// are not sent it twice.
    pub fn stop_by_terminal(&self, signal: i32) {
        self.ask(Asked::Terminal(signal));
    }

    /// Kills what still runs, rather than waiting for it to end.
    pub fn kill(&self) {
        self.ask(Asked::Cancel);
        let mut control = self.control();
        control.hurried = true;
        control.runs.values().for_each(|(stop, _)| stop.hurry());
    }

    /// Sends a signal to every command that leads a process group of its own: to suspend and resume them with this program.
    pub fn signal_commands(&self, signal: i32) {
        let Some(signal) = Signal::from_named_raw(signal) else { return };
        let commands: Vec<_> = self.control().runs.values().map(|(_, commands)| commands.clone()).collect();
        for leader in commands.iter().flat_map(Commands::all).filter(|leader| leader.group().is_some()) {
            leader.signal(signal);
        }
    }
}

/// The process of a command that runs.
#[derive(Clone, Debug)]
pub struct ProcessHandle(pub(super) Weak<Leader>, pub(super) u32);

impl ProcessHandle {
    /// Its process id. Once the run is over, the id may be anybody's.
    pub fn id(&self) -> u32 {
        self.1
    }

    /// Sends a signal to the command and what it started; to nobody once the run is over.
    pub fn signal(&self, signal: i32) {
        if let (Some(leader), Some(signal)) = (self.0.upgrade(), Signal::from_named_raw(signal)) {
            leader.signal(signal);
        }
    }
}
