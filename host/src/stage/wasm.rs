//! A sandboxed stage.

use std::{
    future::poll_fn,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{InProcess, StageEnd, settle};
use crate::{
    joint::{Countdown, OutputPort, Sink, Stop},
    outcome::{LimitKind, StageExit},
    plan::WasmWork,
    sandbox::{GuestSpec, Sandbox, Stdio, run_guest},
};

/// A stage with its halves, ready to run.
#[derive(Debug)]
pub(crate) struct WasmStage {
    pub(crate) inside: InProcess,
    pub(crate) spec: GuestSpec,
    pub(crate) code: Code,
    pub(crate) wall_time: Option<Duration>,
    pub(crate) stderr: Sink,
}

/// What a guest is compiled from.
#[derive(Clone, Debug)]
pub(crate) struct Code {
    bytes: bytes::Bytes,
    digest: [u8; 32],
    shape: crate::sandbox::Shape,
}

impl Code {
    pub(crate) fn of(work: &WasmWork) -> Self {
        Self { bytes: work.bytes.clone(), digest: work.digest, shape: work.inspection.shape }
    }
}

impl WasmStage {
    /// Compiles the stage if need be, runs it, and returns how it ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the guest and drops both halves, which aborts a ring.
    pub(crate) async fn run(self, sandbox: Arc<Sandbox>, stop: Stop) -> StageEnd {
        let Self { inside, spec, code, wall_time, stderr } = self;
        let (stdin, stdout) = inside.ports();
        let stdio = Stdio { stdin, stdout, stderr: OutputPort::with_tail(stderr) };
        let loading = sandbox.load(code.digest, code.shape, code.bytes);
        let loaded = tokio::select! {
            biased;
            _ = stop.requested() => Err(StageExit::Cancelled),
            loaded = loading => loaded.map_err(|message| StageExit::StartFailed { message, missing: false }),
        };
        let started = Instant::now();
        let mut peak_memory = None;
        let exit = match loaded {
            Err(exit) => exit,
            Ok(loaded) => {
                let running = run_guest(sandbox, loaded, spec, stdio.clone(), stop.clone());
                let ended = tokio::select! {
                    biased;
                    _ = stop.requested() => Err(StageExit::Cancelled),
                    failure = stdio.stdin.failed() => Err(inside.input_failed(&failure)),
                    failure = stdio.stdout.failed() => Err(inside.output_failed(&failure)),
                    exit = over_time(wall_time) => Err(exit),
                    end = running => Ok(end),
                };
                match ended {
                    Err(exit) => exit,
                    Ok(end) => {
                        peak_memory = Some(end.peak_memory);
                        match settle(end.exit, &inside, &stdio.stdin, &stdio.stdout) {
                            StageExit::Ok if !stdio.stdin.ended() => StageExit::FinishedEarly,
                            exit => exit,
                        }
                    }
                }
            }
        };
        // What was printed is handed on before the report; a reader of stderr that does not read holds nothing up.
        stop.patiently(poll_fn(|cx| stdio.stderr.poll_flush(cx))).await;
        let end = StageEnd {
            peak_memory,
            lifetime: peak_memory.map(|_| started.elapsed()),
            stderr: stdio.stderr.tail_text(),
            ..StageEnd::default()
        };
        inside.end(exit, &stdio.stdin, &stdio.stdout, end)
    }
}

/// Waits until a stage has had its time.
pub(super) async fn over_time(wall_time: Option<Duration>) -> StageExit {
    let Some(limit) = wall_time else { return std::future::pending().await };
    Countdown::wait(limit).await;
    let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    StageExit::Limit { which: LimitKind::WallTime, limit: Some(limit), used: Some(limit), asked: None }
}
