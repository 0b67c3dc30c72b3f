//! A plan: everything that was settled, and nothing opened.

use std::{ops::Range, sync::Arc, time::Duration};

use super::{
    ends::{Input, Outlet},
    error::PlanError,
    work::Work,
};
use crate::{
    joint::{Base, JointKind, Named, Output},
    outcome::Tolerance,
    spec::{OnFailure, Requirement, StderrSpec, StdinSpec, StdoutSpec, Upstream},
};

/// A pipeline after negotiation and before anything is opened, compiled or started.
///
/// It is a value: clones share it, any number of runs may be made of it, at once and one after the other, and no run changes it.
#[derive(Clone, Debug)]
pub struct Plan(pub(crate) Arc<Planned>);

/// What a [`Plan`] is made of.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) name: Option<String>,
    /// The stages, first to last; those of nested pipelines stand among them.
    pub(crate) stages: Vec<Arc<PlannedStage>>,
    /// The stages as the file nests them.
    pub(crate) nodes: Vec<Node>,
    /// The nested pipelines, in the order of their beginnings.
    pub(crate) groups: Vec<Group>,
    /// The joints, each behind the stage of its index.
    pub(crate) joints: Vec<PlannedJoint>,
    pub(crate) stdin: Input,
    pub(crate) stdout: Outlet,
    /// The output as messages name it.
    pub(crate) stdout_name: String,
    pub(crate) timeout: Option<Duration>,
    pub(crate) on_failure: OnFailure,
    pub(crate) kill_after: Duration,
    pub(crate) linger: Duration,
    pub(crate) upstream: Upstream,
    /// Whether every sandboxed stage gives the same results on every run.
    pub(crate) deterministic: bool,
    /// What the variables and arguments of its stages take in memory, in bytes, from above.
    pub(crate) given: u64,
    /// What its components may come to when they are compiled, in bytes; `None`: anything.
    pub(crate) code_bytes: Option<u64>,
    /// How long it took to make.
    pub(crate) took: Duration,
}

/// A stage that can run.
#[derive(Clone, Debug)]
pub(crate) struct PlannedStage {
    pub(crate) name: String,
    /// Where it stands in the file, such as `stages[2]`.
    pub(crate) place: String,
    pub(crate) work: Work,
    pub(crate) tolerance: Tolerance,
    pub(crate) wall_time: Option<Duration>,
    pub(crate) stderr: Option<StderrSpec>,
    /// The file it prints to, if `stderr` names one.
    pub(crate) log: Option<Named>,
    /// What it needs its stdin and its stdout to be.
    pub(crate) requires: (Requirement, Requirement),
    /// The capacity that its file asks for in the joint it writes, in bytes.
    pub(super) buffer: Option<u64>,
}

impl PlannedStage {
    pub(crate) fn is_command(&self) -> bool {
        matches!(self.work, Work::Command(_))
    }

    /// What it runs, for reports.
    pub(crate) fn source(&self) -> String {
        match &self.work {
            Work::Wasm(wasm) => wasm.source.clone(),
            Work::Command(command) => command.program.display().to_string(),
            Work::Function(_) => "a function".into(),
        }
    }

    pub(crate) fn kind(&self) -> &'static str {
        match &self.work {
            Work::Wasm(_) => "wasm",
            Work::Command(_) => "command",
            Work::Function(_) => "function",
        }
    }
}

/// How long a stage may take to end after it was asked to, by default.
pub(super) const KILL_AFTER: Duration = Duration::from_secs(2);
/// Longer than anybody waits, and short enough to be added to any time: a hundred years.
pub(super) const MOST_PATIENT: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// How long leftovers may go on, by default.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// A joint that was chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlannedJoint {
    pub(crate) kind: JointKind,
    /// The capacity it is to have, in bytes.
    pub(crate) capacity: u64,
}

/// A stage as the file nests it.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    /// A stage, by its index among all.
    Stage(usize),
    /// A nested pipeline, by its index among all, and what stands in it.
    Group(usize, Vec<Self>),
}

/// A nested pipeline.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: String,
    /// The file as it was named.
    pub(crate) source: String,
    pub(crate) place: String,
    /// Its stages, by their indexes among all.
    pub(crate) stages: Range<usize>,
    pub(crate) timeout: Option<Duration>,
    /// The input and output that its file names, if it names any.
    pub(super) stdin: Option<StdinSpec>,
    pub(super) stdout: Option<StdoutSpec>,
    pub(super) base: Base,
}

impl Plan {
    /// Checks every component as its compiler would, which takes about a second for each 100 MB: what a run refuses when it compiles,
    /// this refuses without compiling.
    ///
    /// # Errors
    ///
    /// The first component that is no valid WebAssembly, or made with a proposal that is off here.
    pub fn validate(&self) -> Result<(), PlanError> {
        for stage in &self.0.stages {
            if let Work::Wasm(wasm) = &stage.work {
                wasm.validate(&stage.place)?;
            }
        }
        Ok(())
    }

    /// Whether it reads the host's own standard input, and whether it writes to the host's own standard output.
    pub fn inherits(&self) -> (bool, bool) {
        (self.0.stdin.is_inherited(), matches!(self.0.stdout, Outlet::Place(Output::Inherit)))
    }

    /// Whether it starts ordinary programs.
    pub fn has_commands(&self) -> bool {
        self.0.has_commands()
    }

    /// How long it took to make: [`RunOptions::spent`](crate::RunOptions::spent) of a run whose timeout is to hold for both.
    pub fn took(&self) -> Duration {
        self.0.took
    }
}

impl Planned {
    /// Why these ends cannot be connected to it, whatever it says of its own: a stage there forbids it.
    pub(crate) fn refusal_of_ends(&self, stdin: bool, stdout: bool) -> Option<String> {
        let named = |stage: Option<&Arc<PlannedStage>>| stage.map(|stage| stage.name.clone()).unwrap_or_default();
        let (first, last) = (self.stages.first(), self.stages.last());
        let inner = |group: &Group, side: &str| {
            Some(format!("{} names its own {side}, and one was given to the run", group.source))
        };
        if stdin {
            if first.is_some_and(|first| first.requires.0 == Requirement::Forbid) {
                return Some(format!(
                    "stage `{}` forbids a connected stdin, and one was given to the run",
                    named(first)
                ));
            }
            if let Some(group) = self.groups.iter().find(|group| group.stdin.is_some()) {
                return inner(group, "stdin");
            }
        }
        if stdout {
            if last.is_some_and(|last| last.requires.1 == Requirement::Forbid) {
                return Some(format!(
                    "stage `{}` forbids a connected stdout, and one was given to the run",
                    named(last)
                ));
            }
            if let Some(group) = self.groups.iter().find(|group| group.stdout.is_some()) {
                return inner(group, "stdout");
            }
        }
        None
    }

    /// Whether it starts ordinary programs.
    pub(crate) fn has_commands(&self) -> bool {
        self.stages.iter().any(|stage| stage.is_command())
    }

    /// Whether all its stages are programs.
    pub(crate) fn has_only_commands(&self) -> bool {
        !self.stages.is_empty() && self.stages.iter().all(|stage| stage.is_command())
    }

    /// How many descriptors a run of it needs at once, at most.
    pub(crate) fn descriptors(&self) -> u32 {
        let of_stage = |stage: &PlannedStage| {
            let log = u32::from(stage.log.is_some());
            log + match &stage.work {
                // A leader's pidfd; its stderr's two ends, of which one is open for a moment; a cgroup's.
                Work::Command(_) => 4,
                Work::Wasm(wasm) => 1 + wasm.open_files(),
                Work::Function(_) => 1,
            }
        };
        let of_joint = |joint: &PlannedJoint| if joint.kind == JointKind::Pipe { 3 } else { 0 };
        let stages: u32 = self.stages.iter().map(|stage| of_stage(stage)).sum();
        // Both ends, an atomic output's directory, a copy of each for whom it is handed to.
        stages + self.joints.iter().map(of_joint).sum::<u32>() + 6
    }
}
