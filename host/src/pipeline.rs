//! From a [`Plan`] to an [`Outcome`]: opens the ends, makes the joints, starts the stages, supervises and stops them.

mod judge;

use std::{
    future::poll_fn,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use judge::{end_failed, fail_end, judge, stopped_from_outside};
use rustix::fs::{SeekFrom, seek};
use stagehost_ring::{Cause, Monitor, Options, Pool, ring};
use tokio::{runtime::Runtime, task::JoinSet};

use crate::{
    joint::{self, AtomicFile, Sink, Source, StdinEnd, StdoutEnd, Stop, StopReason},
    outcome::{ExitCode, Outcome, StageExit, Verdict},
    plan::{Input, Plan, PlannedStage},
    sandbox::{OutputPort, Sandbox},
    spec::{OnFailure, StderrSpec},
    stage::{StageEnd, WasmStage},
};

/// Runs pipelines: an engine, a code cache, a pool of ring storage and a small runtime.
///
/// Cheap to share; make one for a program. Dropping it stops what it runs and ends its threads.
#[derive(Debug)]
pub struct Host {
    runtime: Option<Runtime>,
    sandbox: Arc<Sandbox>,
    pool: Pool,
    warning: Option<String>,
}

/// How a [`Host`] is made.
#[derive(Clone, Debug, Default)]
pub struct HostOptions {
    /// The directory for compiled code. Default: none, every start compiles.
    pub cache: Option<PathBuf>,
    /// The threads that stages run on. Default: as many as the machine has processors.
    pub threads: Option<usize>,
}

/// A host could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct HostError(String);

/// How one run is started.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Whether stages whose `stderr` says nothing print through to the host's standard error. Default: only the report
    /// has what they print.
    pub tee_stderr: bool,
    /// Stops the run from outside.
    pub control: RunControl,
}

/// Stops a run from outside. Clones control the same run.
#[derive(Clone, Debug)]
pub struct RunControl(Stop);

impl Default for RunControl {
    fn default() -> Self {
        Self(Stop::new())
    }
}

impl RunControl {
    /// Stops the run: every stage ends, atomic outputs are discarded.
    pub fn cancel(&self) {
        self.0.request(StopReason::Caller);
    }

    /// Stops the run because the program got a signal, which the outcome then names.
    pub fn stop_by_signal(&self, signal: i32) {
        self.0.request(StopReason::Signal(signal));
    }
}

impl Host {
    /// Makes a host.
    ///
    /// # Errors
    ///
    /// When the sandbox or the runtime cannot be set up: no memory, no threads.
    pub fn new(options: &HostOptions) -> Result<Self, HostError> {
        let processors = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(options.threads.unwrap_or_else(processors).max(1))
            .thread_name("stagehost")
            .max_blocking_threads(64)
            .enable_all()
            .build()
            .map_err(|error| HostError(format!("the runtime cannot be set up: {error}")))?;
        let (sandbox, warning) =
            Sandbox::new(options.cache.as_deref()).map_err(|error| HostError(error.to_string()))?;
        Ok(Self { runtime: Some(runtime), sandbox: Arc::new(sandbox), pool: Pool::default(), warning })
    }

    /// Why the code cache is not used, if one was asked for.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Runs a plan to its end and blocks until then.
    pub fn run(&self, plan: Plan, options: &RunOptions) -> Outcome {
        let Some(runtime) = &self.runtime else { unreachable!("the runtime is taken only by drop") };
        let started = Instant::now();
        let run = Run { sandbox: self.sandbox.clone(), pool: self.pool.clone(), options: options.clone() };
        let mut outcome = runtime.block_on(async {
            // On a worker, so that it shares a thread with the stages it waits for.
            match runtime.spawn(run.run(plan)).await {
                Ok(outcome) => outcome,
                Err(error) => Outcome::not_started(None, ExitCode::Host, format!("the host failed: {error}"), None),
            }
        });
        outcome.duration_ms = millis(started.elapsed());
        outcome
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Threads end at once, but for one that is stuck in a system call of a device; nobody waits long for that.
            runtime.shutdown_timeout(Duration::from_millis(500));
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// One run.
struct Run {
    sandbox: Arc<Sandbox>,
    pool: Pool,
    options: RunOptions,
}

/// The ends, opened.
struct Ends {
    stdin: StdinEnd,
    stdout: StdoutEnd,
}

/// What the stages are given at the pipeline's ends: its input, its output, and where each prints.
struct Halves {
    stdin: Source,
    stdout: Sink,
    logs: Vec<Sink>,
}

/// An end that could not be opened or written.
struct EndError {
    name: String,
    error: io::Error,
}

impl Run {
    async fn run(self, plan: Plan) -> Outcome {
        let stop = self.options.control.0.clone();
        let deadline = plan.timeout.map(|timeout| {
            let stop = stop.clone();
            Alarm(tokio::spawn(async move {
                tokio::time::sleep(timeout).await;
                stop.request(StopReason::Timeout);
            }))
        });
        let outcome = self.run_within(plan, &stop).await;
        drop(deadline);
        outcome
    }

    async fn run_within(self, mut plan: Plan, stop: &Stop) -> Outcome {
        let stages: Vec<_> = std::mem::take(&mut plan.stages).into_iter().map(Arc::new).collect();
        let ends = match open(&plan, &stages, stop).await {
            Ok(ends) => ends,
            Err(failed) => return end_failed(&plan, &failed, stop),
        };
        let mut stderr = Stderr { tee: self.options.tee_stderr, port: None };
        let mut logs = Vec::with_capacity(stages.len());
        for planned in &stages {
            match stderr.open(planned, stop).await {
                Ok(log) => logs.push(log),
                Err(failed) => return end_failed(&plan, &failed, stop),
            }
        }
        let Ends { stdin, stdout } = ends;
        let rewind = stdin.rewind;
        let atomic = stdout.atomic;
        let (mut reports, rings, source, sink) = if stages.is_empty() {
            let (report, source, sink) = copy(stdin.source, stdout.sink, &plan, stop).await;
            (vec![report], Vec::new(), source, sink)
        } else {
            let halves = Halves { stdin: stdin.source, stdout: stdout.sink, logs };
            let ended = self.run_stages(&plan, &stages, halves, stop).await;
            stderr.flush(stop).await;
            ended
        };
        if let (Some(Source::File(file)), Some(rewind)) = (&source, &rewind) {
            // Whoever shares the offset goes on at the first byte that no stage got. A failure changes nothing for us.
            let _ = seek(rewind, SeekFrom::Start(file.position()));
        }
        let mut stdout_closed = false;
        if let Some(mut sink) = sink {
            let flushed = tokio::select! {
                biased;
                flushed = poll_fn(|cx| sink.poll_flush(cx)) => flushed,
                // What was written before a stage failed is handed on all the same.
                () = stop.requested_from_outside() => Ok(()),
            };
            match flushed {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => stdout_closed = true,
                Err(error) => {
                    if let Some(last) = reports.last_mut() {
                        let path = Some(plan.stdout_name.clone());
                        last.end.exit = StageExit::HostError { message: error.to_string(), path };
                    }
                }
                Ok(()) => {}
            }
        }
        stdout_closed |= reports.last().is_some_and(|last| last.broken);
        let mut outcome = judge(&plan, &stages, reports, rings, stop, stdout_closed);
        if let Some(atomic) = atomic
            && outcome.success
        {
            let persisting = tokio::task::spawn_blocking(move || atomic.persist());
            let persisted = tokio::select! {
                biased;
                // Until the rename nothing has happened that anybody can see.
                () = stop.requested_from_outside() => None,
                persisted = persisting => Some(persisted.map_err(io::Error::other).and_then(|persisted| persisted)),
            };
            let published = match persisted {
                None => {
                    outcome.success = false;
                    stopped_from_outside(&mut outcome, &plan, stop);
                    Ok(())
                }
                Some(persisted) => persisted.and_then(AtomicFile::publish),
            };
            if let Err(error) = published {
                fail_end(&mut outcome, &EndError { name: plan.stdout_name.clone(), error });
            }
        }
        outcome
    }

    /// Runs the stages and returns how they ended, with what is left of the ends.
    async fn run_stages(
        &self,
        plan: &Plan,
        stages: &[Arc<PlannedStage>],
        halves: Halves,
        stop: &Stop,
    ) -> (Vec<Ended>, Vec<(usize, Monitor)>, Option<Source>, Option<Sink>) {
        let mut running = JoinSet::new();
        let mut rings = Vec::new();
        let Halves { stdin: mut source, stdout, logs } = halves;
        let mut stdout = Some(stdout);
        let last = stages.len() - 1;
        let mut ended: Vec<Option<Ended>> = stages.iter().map(|_| None).collect();
        for ((index, planned), stderr) in stages.iter().enumerate().zip(logs) {
            let (sink, next) = if index < last {
                let (writer, reader) = ring(&self.pool, Options { capacity: planned.ring, ..Options::default() });
                rings.push((planned.ring.bytes(), writer.monitor()));
                (Sink::Ring(writer), Source::Ring(reader))
            } else {
                (stdout.take().unwrap_or(Sink::Null), Source::Null)
            };
            let stage = WasmStage {
                index,
                planned: planned.clone(),
                source: std::mem::replace(&mut source, next),
                sink,
                stderr,
                tell_aborts: plan.on_failure == OnFailure::Drain,
                input_name: (index == 0).then(|| plan.stdin.to_string()),
                output_name: (index == last).then(|| plan.stdout_name.clone()),
            };
            running.spawn(stage.run(self.sandbox.clone(), stop.clone()));
        }
        let (mut left_source, mut left_sink) = (None, None);
        while let Some(joined) = running.join_next().await {
            // A panic of the host inside a stage ends that stage only; its halves were dropped, which aborted its ring.
            let Ok(mut end) = joined else {
                if plan.on_failure == OnFailure::Cancel {
                    stop.request(StopReason::Failure);
                }
                continue;
            };
            let (index, source, sink) = (end.index, end.source.take(), end.sink.take());
            let reader_left = matches!(&sink, Some(Sink::Ring(writer)) if writer.is_broken()) || end.broken;
            end.exit = stages[index].tolerance.excuse(end.exit, reader_left);
            let verdict = stages[index].tolerance.judge(&end.exit);
            if index == 0 {
                left_source = source;
            } else {
                drop(source);
            }
            let broken = match sink {
                Some(Sink::Ring(writer)) => {
                    match verdict {
                        // A broken pipe's reader is gone; nothing can look complete to it.
                        Verdict::Good | Verdict::BrokenPipe => writer.finish(),
                        Verdict::Cancelled | Verdict::Bad => {
                            writer.abort(Cause::new(format!("stage `{}` {}", stages[index].name, end.exit)));
                        }
                    }
                    reader_left
                }
                other => {
                    left_sink = other;
                    end.broken
                }
            };
            if verdict == Verdict::Bad && plan.on_failure == OnFailure::Cancel {
                stop.request(StopReason::Failure);
            }
            ended[index] = Some(Ended { end, broken });
        }
        let ended =
            ended.into_iter().enumerate().map(|(index, ended)| ended.unwrap_or_else(|| Ended::lost(index))).collect();
        (ended, rings, left_source, left_sink)
    }
}

/// A task that is ended with its owner.
struct Alarm(tokio::task::JoinHandle<()>);

impl Drop for Alarm {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A stage that has ended.
struct Ended {
    end: StageEnd,
    /// Whether its reader left.
    broken: bool,
}

impl Ended {
    /// A stage whose task panicked: a fault of the host.
    fn lost(index: usize) -> Self {
        Self::host(index, StageExit::HostError { message: "the host failed inside the stage".into(), path: None }, 0, 0)
    }

    fn host(index: usize, exit: StageExit, input_bytes: u64, output_bytes: u64) -> Self {
        let end = StageEnd {
            index,
            exit,
            source: None,
            sink: None,
            broken: false,
            input_bytes,
            output_bytes,
            peak_memory: None,
            lifetime: None,
            stderr: String::new(),
        };
        Self { end, broken: false }
    }
}

/// Where stages print. All stages that print through share one sink.
struct Stderr {
    tee: bool,
    port: Option<OutputPort>,
}

impl Stderr {
    async fn open(&mut self, planned: &PlannedStage, stop: &Stop) -> Result<Sink, EndError> {
        match &planned.stderr {
            None if self.tee => Ok(self.shared()),
            Some(StderrSpec::Tee | StderrSpec::Inherit) => Ok(self.shared()),
            None | Some(StderrSpec::Capture | StderrSpec::Null) => Ok(Sink::Null),
            Some(StderrSpec::File(_)) => {
                let path = planned.log.as_deref().unwrap_or(Path::new(""));
                let opened = joint::open_log(path, stop).await;
                opened.map_err(|error| EndError { name: path.display().to_string(), error })
            }
        }
    }

    /// Hands on what was printed. A reader that does not read holds the end of the run up for no longer than this.
    async fn flush(&self, stop: &Stop) {
        if let Some(port) = &self.port {
            stop.patiently(poll_fn(|cx| port.poll_flush(cx))).await;
        }
    }

    fn shared(&mut self) -> Sink {
        let port = self.port.get_or_insert_with(|| OutputPort::with_tail(joint::open_stderr().unwrap_or(Sink::Null)));
        Sink::Shared(port.clone())
    }
}

async fn open(plan: &Plan, stages: &[Arc<PlannedStage>], stop: &Stop) -> Result<Ends, EndError> {
    let line_at_a_time = stages.first().is_some_and(|stage| stage.inspection.section.line_at_a_time);
    let at_stdin = |error| EndError { name: plan.stdin.to_string(), error };
    let plain = |source| StdinEnd::plain(source);
    let stdin = match &plan.stdin {
        Input::Inherit => joint::open_stdin(None, line_at_a_time).map_err(at_stdin)?,
        Input::File(path) => joint::open_stdin(Some(path), false).map_err(at_stdin)?,
        Input::Text(text) => plain(Source::Text { text: text.clone() }),
        Input::Null => plain(Source::Null),
    };
    let at_stdout = |error| EndError { name: plan.stdout_name.clone(), error };
    let stdout = if plan.stdout_null {
        StdoutEnd::plain(Sink::Null)
    } else {
        joint::open_stdout(&plan.stdout, stop).await.map_err(at_stdout)?
    };
    if joint::same_file(&stdin, &stdout) {
        return Err(at_stdout(io::Error::other(
            "the output is the input, which would be overwritten while it is read",
        )));
    }
    joint::truncate(&stdout, &plan.stdout).map_err(at_stdout)?;
    Ok(Ends { stdin, stdout })
}

/// A pipeline without stages: copies stdin to stdout.
async fn copy(mut source: Source, mut sink: Sink, plan: &Plan, stop: &Stop) -> (Ended, Option<Source>, Option<Sink>) {
    let (mut read_bytes, mut written_bytes) = (0, 0);
    let mut broken = false;
    let copying = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let n = poll_fn(|cx| source.poll_read(cx, &mut buffer))
                .await
                .map_err(|error| (plan.stdin.to_string(), error))?;
            read_bytes += n as u64;
            let mut left = &buffer[..n];
            while !left.is_empty() {
                let written = poll_fn(|cx| sink.poll_write(cx, left)).await;
                let written = written.map_err(|error| (plan.stdout_name.clone(), error))?;
                written_bytes += written as u64;
                left = &left[written..];
            }
            if n == 0 {
                return Ok::<(), (String, io::Error)>(());
            }
            // Ends that are always ready must not hold the thread.
            tokio::task::consume_budget().await;
        }
    };
    let exit = tokio::select! {
        biased;
        _ = stop.requested() => StageExit::Cancelled,
        copied = copying => match copied {
            Ok(()) => StageExit::Ok,
            Err((_, error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                broken = true;
                StageExit::BrokenPipe
            }
            Err((name, error)) => StageExit::HostError { message: error.to_string(), path: Some(name) },
        },
    };
    let ended = Ended { broken, ..Ended::host(0, exit, read_bytes, written_bytes) };
    (ended, Some(source), Some(sink))
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run").finish_non_exhaustive()
    }
}
