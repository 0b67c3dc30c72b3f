//! A sandboxed stage.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    joint::{Sink, Source, Stop},
    outcome::StageExit,
    plan::PlannedStage,
    sandbox::{EndFailure, GuestSpec, InputPort, OutputPort, Sandbox, Stdio, run_guest},
};

/// A stage with its halves, ready to run.
#[derive(Debug)]
pub(crate) struct WasmStage {
    pub(crate) index: usize,
    pub(crate) planned: Arc<PlannedStage>,
    pub(crate) source: Source,
    pub(crate) sink: Sink,
    pub(crate) stderr: Sink,
    /// Whether the guest is told when its input was aborted, rather than stopped.
    pub(crate) tell_aborts: bool,
    /// What the first stage's input and the last stage's output are called.
    pub(crate) input_name: Option<String>,
    pub(crate) output_name: Option<String>,
}

/// A stage that has ended. Its halves are still open: what becomes of them depends on the exit.
#[derive(Debug)]
pub(crate) struct StageEnd {
    pub(crate) index: usize,
    pub(crate) exit: StageExit,
    pub(crate) source: Option<Source>,
    pub(crate) sink: Option<Sink>,
    /// Whether a write of it was refused because its reader was gone.
    pub(crate) broken: bool,
    pub(crate) input_bytes: u64,
    pub(crate) output_bytes: u64,
    pub(crate) peak_memory: Option<u64>,
    pub(crate) lifetime: Option<Duration>,
    pub(crate) stderr: String,
}

impl WasmStage {
    /// Compiles the stage if need be, runs it, and returns how it ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the guest and drops both halves, which aborts a ring.
    pub(crate) async fn run(self, sandbox: Arc<Sandbox>, stop: Stop) -> StageEnd {
        let planned = self.planned.clone();
        let stdio = Stdio {
            stdin: InputPort::new(self.source, self.tell_aborts),
            stdout: OutputPort::new(self.sink),
            stderr: OutputPort::with_tail(self.stderr),
        };
        let loading = sandbox.load(planned.digest, planned.inspection.shape, planned.bytes.clone());
        let loaded = tokio::select! {
            biased;
            _ = stop.requested() => Err(StageExit::Cancelled),
            loaded = loading => loaded.map_err(|message| StageExit::StartFailed { message }),
        };
        let started = Instant::now();
        let mut peak_memory = None;
        let exit = match loaded {
            Err(exit) => exit,
            Ok(loaded) => {
                let spec = GuestSpec { args: planned.args.clone(), env: planned.env.clone(), limits: planned.limits };
                let running = run_guest(sandbox, loaded, spec, stdio.clone(), stop.clone());
                let ended = tokio::select! {
                    biased;
                    _ = stop.requested() => Err(StageExit::Cancelled),
                    failure = stdio.stdin.failed() => Err(exit_of(&failure, self.input_name.as_deref())),
                    failure = stdio.stdout.failed() => Err(exit_of(&failure, self.output_name.as_deref())),
                    end = running => Ok(end),
                };
                match ended {
                    Err(exit) => exit,
                    Ok(end) => {
                        peak_memory = Some(end.peak_memory);
                        settle(end.exit, &stdio, self.input_name.as_deref(), self.output_name.as_deref())
                    }
                }
            }
        };
        // What was printed is handed on before the report; a reader of stderr that does not read holds nothing up.
        stop.patiently(std::future::poll_fn(|cx| stdio.stderr.poll_flush(cx))).await;
        StageEnd {
            index: self.index,
            exit,
            input_bytes: stdio.stdin.delivered(),
            output_bytes: stdio.stdout.written(),
            peak_memory,
            lifetime: peak_memory.map(|_| started.elapsed()),
            broken: stdio.stdout.is_broken(),
            stderr: stdio.stderr.tail_text(),
            source: stdio.stdin.take(),
            sink: stdio.stdout.take(),
        }
    }
}

/// What the guest's own end means, knowing what happened at its ends: the host's record decides, not the guest's exit.
fn settle(exit: StageExit, stdio: &Stdio, input_name: Option<&str>, output_name: Option<&str>) -> StageExit {
    if let Some(failure) = stdio.stdin.failure() {
        return exit_of(&failure, input_name);
    }
    if let Some(failure) = stdio.stdout.failure() {
        return exit_of(&failure, output_name);
    }
    match exit {
        // wasm knows no SIGPIPE: a refused write is how a guest learns that its reader left, and giving up is how it dies of it.
        StageExit::Exit { .. } | StageExit::Trap { .. } if stdio.stdout.is_broken() => StageExit::BrokenPipe,
        StageExit::Ok if !stdio.stdin.ended() => StageExit::FinishedEarly,
        exit => exit,
    }
}

fn exit_of(failure: &EndFailure, name: Option<&str>) -> StageExit {
    match failure {
        // Whoever aborted it is to blame, not this stage.
        EndFailure::Aborted(_) => StageExit::Cancelled,
        EndFailure::Io(error) => StageExit::HostError { message: error.to_string(), path: name.map(str::to_owned) },
    }
}
