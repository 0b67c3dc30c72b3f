//! How one run is started.

use std::path::PathBuf;

use super::control::RunControl;
use crate::{event::Observer, process::WatchedProcess};

/// How one run is started.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Whether stages whose `stderr` says nothing print through to the host's standard error. Default: only the report
    /// has what they print.
    pub tee_stderr: bool,
    /// Whose printed lines get the name of their stage. Default: nobody's.
    pub stderr_prefix: StderrPrefix,
    /// Whether commands stay in this process's group, so that the terminal in front of which it runs is theirs too.
    /// Default: if this process is in the foreground group of its terminal.
    pub foreground: Option<bool>,
    /// The directory that core dumps of sandboxed stages go to. Default: none are made.
    pub coredump: Option<PathBuf>,
    /// A process whose death stops the run, and after which it commits nothing. Default: none.
    pub watched: Option<WatchedProcess>,
    /// Stops the run from outside.
    pub control: RunControl,
    /// Called with every event as it happens, on a thread of the host: it must not block. Default: nothing.
    pub on_event: Option<Observer>,
}

/// Which stages' lines begin with the stage's name where they print through to the host's standard error; never in files, nor in
/// reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StderrPrefix {
    /// None's.
    #[default]
    None,
    /// Those of sandboxed stages: nobody can take them for the host's words.
    Guests,
    /// All.
    All,
}
