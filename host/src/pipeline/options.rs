//! How one run is started.

use std::{path::PathBuf, time::Duration};

use super::control::RunControl;
use crate::{event::Observer, process::WatchedProcess, spec::LimitsSpec};

/// How one run of a plan is started. What it says of stages changes this run and not the plan; a stage is named as
/// [`Plan::summary`](crate::Plan::summary) names it.
///
/// ```
/// use std::time::Duration;
///
/// use stagehost::{RunControl, RunOptions};
///
/// let control = RunControl::default();
/// let options = RunOptions::new().control(&control).label("job 7").timeout(Duration::from_secs(2)).args("grep", ["-i"]);
/// # drop(options);
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
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
    /// What the outcome calls this run, beside the pipeline's name. Default: nothing.
    pub label: Option<String>,
    /// Arguments behind those that the plan has, by the names of their stages: of sandboxed stages and commands.
    pub args: Vec<(String, Vec<String>)>,
    /// Variables of every stage, over the plan's.
    pub env: Vec<(String, String)>,
    /// Limits of the named stage, or of every stage that can have them. The lower of these and the plan's holds.
    pub limits: Vec<(Option<String>, LimitsSpec)>,
    /// How long the run may take. The lower of this and the plan's timeout holds.
    pub timeout: Option<Duration>,
    /// How much of the run's timeout is used up already, such as by planning. Default: nothing.
    pub spent: Duration,
    /// Whose run it is, by any word. Runs take turns by group, and then by run inside a group. Default: a group of its own.
    pub group: Option<String>,
    /// How many turns the run has for each of another in its group. 0 is 1, which is the default.
    pub weight: u32,
}

/// Which stages' lines begin with the stage's name where they print through to the host's standard error; never in files, nor in
/// reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StderrPrefix {
    /// None's.
    #[default]
    None,
    /// Those of sandboxed stages: nobody can take them for the host's words.
    Guests,
    /// All.
    All,
}

impl RunOptions {
    /// As the plan says.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`tee_stderr`](Self::tee_stderr).
    #[must_use]
    pub fn tee_stderr(mut self, tee: bool) -> Self {
        self.tee_stderr = tee;
        self
    }

    /// Sets [`stderr_prefix`](Self::stderr_prefix).
    #[must_use]
    pub fn stderr_prefix(mut self, prefix: StderrPrefix) -> Self {
        self.stderr_prefix = prefix;
        self
    }

    /// Sets [`foreground`](Self::foreground).
    #[must_use]
    pub fn foreground(mut self, foreground: bool) -> Self {
        self.foreground = Some(foreground);
        self
    }

    /// Sets [`coredump`](Self::coredump).
    #[must_use]
    pub fn coredump(mut self, directory: impl Into<PathBuf>) -> Self {
        self.coredump = Some(directory.into());
        self
    }

    /// Sets [`watched`](Self::watched).
    #[must_use]
    pub fn watched(mut self, process: WatchedProcess) -> Self {
        self.watched = Some(process);
        self
    }

    /// Sets [`control`](Self::control).
    #[must_use]
    pub fn control(mut self, control: &RunControl) -> Self {
        self.control = control.clone();
        self
    }

    /// Sets [`on_event`](Self::on_event).
    #[must_use]
    pub fn on_event(mut self, observe: impl Fn(&crate::Event) + Send + Sync + 'static) -> Self {
        self.on_event = Some(Observer(std::sync::Arc::new(observe)));
        self
    }

    /// Sets [`label`](Self::label).
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Adds to [`args`](Self::args).
    #[must_use]
    pub fn args<A: Into<String>>(mut self, stage: impl Into<String>, args: impl IntoIterator<Item = A>) -> Self {
        self.args.push((stage.into(), args.into_iter().map(Into::into).collect()));
        self
    }

    /// Adds to [`env`](Self::env).
    #[must_use]
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// Adds to [`limits`](Self::limits) for every stage.
    #[must_use]
    pub fn limits(mut self, limits: LimitsSpec) -> Self {
        self.limits.push((None, limits));
        self
    }

    /// Adds to [`limits`](Self::limits) for one stage.
    #[must_use]
    pub fn stage_limits(mut self, stage: impl Into<String>, limits: LimitsSpec) -> Self {
        self.limits.push((Some(stage.into()), limits));
        self
    }

    /// Sets [`timeout`](Self::timeout).
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets [`spent`](Self::spent).
    #[must_use]
    pub fn spent(mut self, time: Duration) -> Self {
        self.spent = time;
        self
    }

    /// Sets [`group`](Self::group).
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// Sets [`weight`](Self::weight).
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }
}
