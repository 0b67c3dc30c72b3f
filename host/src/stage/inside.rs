//! What stages have in common: what those in this process are given, and how any of them has ended.

use std::{sync::Arc, time::Duration};

use super::{
    copying::Log,
    gauge::{Gauge, Gauges, Reading},
    watch::Watch,
};
use crate::{
    joint::{EndFailure, InputPort, Moved, OutputPort, Passing, Sink, Source},
    outcome::{InputPlace, LimitKind, StageExit, TrapKind},
    process::{Cgroup, Leader},
};

/// A stage that has ended. Its halves are still open: what becomes of them depends on the exit.
#[derive(Debug, Default)]
pub(crate) struct StageEnd {
    pub(crate) index: usize,
    pub(crate) exit: StageExit,
    pub(crate) source: Option<Source>,
    pub(crate) sink: Option<Sink>,
    /// Whether a write of it was refused because its reader was gone, or would have been.
    pub(crate) broken: bool,
    /// `None`: not known.
    pub(crate) input_bytes: Option<u64>,
    pub(crate) output_bytes: Option<u64>,
    pub(crate) peak_memory: Option<u64>,
    pub(crate) cpu: Option<Duration>,
    /// Instructions, if they were counted.
    pub(crate) fuel: Option<u64>,
    /// Where it was when it reached a limit, and where its input was.
    pub(crate) frames: Vec<String>,
    pub(crate) at: Option<InputPlace>,
    pub(crate) lifetime: Option<Duration>,
    pub(crate) stderr: String,
    /// What else is to be said of it.
    pub(crate) notes: Vec<String>,
    /// What matters only if it failed.
    pub(crate) remarks: Vec<String>,
    /// What would probably help, should it be to blame.
    pub(crate) hint: Option<String>,
    /// A command's leader, not reaped yet.
    pub(crate) leader: Option<Arc<Leader>>,
    pub(crate) cgroup: Option<Cgroup>,
    /// A command's standard error, which may still be open.
    pub(crate) log: Option<Log>,
    /// What holds its limits over what it left behind.
    pub(crate) watch: Option<Watch>,
}

impl StageEnd {
    /// Of a stage that the host knows no more of.
    pub(crate) fn of_host(index: usize, exit: StageExit) -> Self {
        Self { index, exit, ..Self::default() }
    }

    /// What is to be seen of it for good.
    pub(crate) fn reading(&self) -> Reading {
        let moved = |bytes: Option<u64>| bytes.map(|bytes| Moved { bytes, ..Moved::default() });
        Reading {
            input: moved(self.input_bytes),
            output: moved(self.output_bytes),
            memory: self.peak_memory,
            cpu: self.cpu,
        }
    }
}

/// What a stage in this process is given.
#[derive(Debug)]
pub(crate) struct InProcess {
    pub(crate) index: usize,
    pub(crate) source: std::sync::Mutex<Option<Source>>,
    pub(crate) sink: std::sync::Mutex<Option<Sink>>,
    /// Whether it is told when its input was aborted, rather than stopped.
    pub(crate) tell_aborts: bool,
    /// What the first stage's input and the last stage's output are called.
    pub(crate) input_name: Option<String>,
    pub(crate) output_name: Option<String>,
    /// What can be seen of it, and of the other stages of its run.
    pub(crate) gauges: Gauges,
}

impl InProcess {
    /// What can be seen of it.
    pub(super) fn gauge(&self) -> &Gauge {
        &self.gauges[self.index]
    }

    /// Its streams. The halves are in them from now on.
    pub(super) fn ports(&self, input: Passing, output: Passing) -> (InputPort, OutputPort) {
        let source = self.source.lock().ok().and_then(|mut source| source.take());
        let sink = self.sink.lock().ok().and_then(|mut sink| sink.take());
        let input = InputPort::new(source.unwrap_or(Source::Null), self.tell_aborts, input);
        let output = OutputPort::new(sink.unwrap_or(Sink::Null), output);
        self.gauge().watch_ends(&input, &output);
        (input, output)
    }

    pub(super) fn input_failed(&self, failure: &EndFailure) -> StageExit {
        exit_of(failure, LimitKind::InputBytes, self.input_name.as_deref())
    }

    pub(super) fn output_failed(&self, failure: &EndFailure) -> StageExit {
        exit_of(failure, LimitKind::OutputBytes, self.output_name.as_deref())
    }

    /// Takes the halves back.
    pub(super) fn end(&self, exit: StageExit, input: &InputPort, output: &OutputPort, end: StageEnd) -> StageEnd {
        let (read, written) = (input.moved(), output.moved());
        self.gauge().end(Reading {
            input: Some(Moved { waits: false, ..read }),
            output: Some(Moved { waits: false, ..written }),
            memory: end.peak_memory,
            cpu: end.cpu,
        });
        StageEnd {
            index: self.index,
            exit,
            input_bytes: Some(read.bytes),
            output_bytes: Some(written.bytes),
            broken: output.is_broken(),
            source: input.take(),
            sink: output.take(),
            ..end
        }
    }
}

/// What the stage's own end means, knowing what happened at its ends: the host's record decides, not the stage's word.
pub(super) fn settle(exit: StageExit, inside: &InProcess, input: &InputPort, output: &OutputPort) -> StageExit {
    if let Some(failure) = input.failure() {
        return inside.input_failed(&failure);
    }
    if let Some(failure) = output.failure() {
        return inside.output_failed(&failure);
    }
    match exit {
        // wasm knows no SIGPIPE: a refused write is how a guest learns that its reader left, and giving up is how it dies of it.
        StageExit::Exit { .. } if output.is_broken() => StageExit::BrokenPipe,
        StageExit::Trap { trap, .. } if output.is_broken() && trap != TrapKind::Panic => StageExit::BrokenPipe,
        // Some other pipe of the function's broke: that is a failure like any other.
        StageExit::BrokenPipe if !output.is_broken() => StageExit::Failed { message: "broken pipe".into() },
        exit => exit,
    }
}

pub(super) fn exit_of(failure: &EndFailure, which: LimitKind, name: Option<&str>) -> StageExit {
    match failure {
        EndFailure::Limit(limit) => StageExit::Limit { which, limit: Some(*limit), used: Some(*limit), asked: None },
        // Whoever aborted it is to blame, not this stage.
        EndFailure::Aborted(_) => StageExit::Cancelled,
        EndFailure::Io(error) => StageExit::HostError { message: error.to_string(), path: name.map(str::to_owned) },
    }
}
