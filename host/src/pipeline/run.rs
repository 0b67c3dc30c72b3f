//! One run, from its plan to its outcome.

use std::{
    future::poll_fn,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use rustix::fs::{SeekFrom, seek};

use super::{
    control::Attached,
    copy::copy,
    ends::{self, FirstInput, LastOutput, Logs},
    judge::{end_failed, fail_end, judge, stopped_from_outside},
    options::RunOptions,
    shared::{EndError, RunState, Shared},
    supervise::Stages,
};
use crate::{
    event::Event,
    joint::{self, AtomicFile, Countdown, Sink, Source, Stop, StopReason},
    outcome::{ExitCode, Outcome, StageExit, Tolerance, Verdict},
    plan::{Outlet, Plan},
    process,
    sandbox::{Dumps, RunTurns},
    stage::{StageEnd, Surroundings},
};

/// What one run needs.
pub(super) struct Run {
    pub(super) shared: Arc<Shared>,
    pub(super) options: RunOptions,
    pub(super) state: Arc<RunState>,
    pub(super) attached: Attached,
    pub(super) turns: RunTurns,
}

impl Run {
    pub(super) async fn run(self, plan: Plan) -> Outcome {
        let stop = self.attached.stop.clone();
        let limits = plan.groups.iter().enumerate().map(|(index, group)| (Some(index), group.timeout));
        // Planning is a part of it.
        let timeout = plan.timeout.map(|timeout| timeout.saturating_sub(plan.took));
        let alarms: Vec<_> = std::iter::once((None, timeout))
            .chain(limits)
            .filter_map(|(group, timeout)| timeout.map(|timeout| (group, timeout)))
            .map(|(group, timeout)| {
                let stop = stop.clone();
                Alarm(tokio::spawn(async move {
                    Countdown::wait_for_run(timeout, &stop).await;
                    stop.request(StopReason::Timeout(group));
                }))
            })
            .collect();
        let told = Arc::new(AtomicBool::new(false));
        let tell = {
            let (stop, events) = (stop.clone(), self.state.events.clone());
            move || {
                let cause = match stop.reason() {
                    // The supervisor tells of these.
                    None | Some(StopReason::Failure | StopReason::Satisfied) => return,
                    Some(StopReason::Timeout(_)) => "a timeout".to_owned(),
                    Some(StopReason::Signal(signal)) => format!("signal {signal}"),
                    Some(StopReason::Caller) => "the caller".to_owned(),
                };
                if !told.swap(true, Relaxed) {
                    events.send(Event::Stopped { cause, stage: None });
                }
            }
        };
        let watching = self.options.watched.clone().map(|watched| {
            let stop = stop.clone();
            Alarm(tokio::spawn(async move {
                watched.ended().await;
                stop.request(StopReason::Signal(libc::SIGTERM));
            }))
        });
        let telling = {
            let (stop, tell) = (stop.clone(), tell.clone());
            Alarm(tokio::spawn(async move {
                stop.requested_from_outside().await;
                tell();
            }))
        };
        let outcome = self.admitted(plan, &stop).await;
        drop((alarms, watching, telling));
        tell();
        outcome
    }

    /// Waits until there is room for the run: many runs at once take turns.
    async fn admitted(self, mut plan: Plan, stop: &Stop) -> Outcome {
        let shared = self.shared.clone();
        if let Some(message) = shared.admission.refusal(&plan) {
            return Outcome::not_started(plan.name, ExitCode::Host, message, None);
        }
        let permit = tokio::select! {
            biased;
            () = stop.requested_from_outside() => None,
            permit = shared.admission.admit(&plan) => Some(permit),
        };
        let outcome = match &permit {
            Some(_) => self.run_within(plan, stop).await,
            None => {
                let stopped = EndError { name: "the run".into(), error: io::ErrorKind::Interrupted.into() };
                let stages: Vec<_> = std::mem::take(&mut plan.stages).into_iter().map(Arc::new).collect();
                end_failed(&plan, &stages, &stopped, stop)
            }
        };
        drop(permit);
        outcome
    }

    fn surroundings(&self, plan: &Plan) -> Surroundings {
        let foreground = || plan.has_commands() && process::in_foreground();
        Surroundings {
            spawner: self.shared.spawner.clone(),
            guard: self.shared.guard.as_ref().and_then(process::Guard::link),
            cgroups: self.shared.cgroups.clone(),
            buffers: self.shared.buffers.clone(),
            own_groups: !self.options.foreground.unwrap_or_else(foreground),
            open_files: self.shared.open_files,
            kill_after: plan.kill_after,
            linger: plan.linger,
            adopts_orphans: self.shared.adopts_orphans,
            events: self.state.events.clone(),
            dumps: self.options.coredump.as_deref().map(Dumps::at),
        }
    }

    async fn run_within(self, mut plan: Plan, stop: &Stop) -> Outcome {
        let around = self.surroundings(&plan);
        let stages: Vec<_> = std::mem::take(&mut plan.stages).into_iter().map(Arc::new).collect();
        let input_name = plan.stdin.to_string();
        let (first, last) = (stages.first().map(|stage| &**stage), stages.last().map(|stage| &**stage));
        let stdin = match ends::input(&mut plan, first, &self.shared, stop).await {
            Ok(stdin) => stdin,
            Err(failed) => return end_failed(&plan, &stages, &failed, stop),
        };
        let stdout = match ends::output(&mut plan, last, &self.shared, stop).await {
            Ok(stdout) => stdout,
            Err(failed) => return end_failed(&plan, &stages, &failed, stop),
        };
        if let Err(error) = keep_apart(stdin.identity, stdout.identity, &plan) {
            let failed = EndError { name: plan.stdout_name.clone(), error };
            return end_failed(&plan, &stages, &failed, stop);
        }
        let mut logs = Logs::new(self.options.tee_stderr, self.options.stderr_prefix);
        let (rewind, whole, atomic) = (stdin.rewind, stdin.whole, stdout.atomic);
        let first_name = input_name.clone();
        let (mut reports, joints, mut source, sink) = match (stdin.half, stdout.half) {
            (FirstInput::Inside(source), LastOutput::Inside(sink)) if stages.is_empty() => {
                let names = (input_name.as_str(), plan.stdout_name.as_str());
                let (report, source, sink) = copy(source, sink, names, &self.shared.buffers, stop).await;
                (vec![report], Vec::new(), source, sink)
            }
            (stdin, stdout) => {
                let mut stderr = Vec::with_capacity(stages.len());
                for planned in &stages {
                    match logs.open(planned, stop).await {
                        Ok(log) => stderr.push(log),
                        Err(failed) => return end_failed(&plan, &stages, &failed, stop),
                    }
                }
                let running = Stages {
                    shared: &self.shared,
                    plan: &plan,
                    stages: &stages,
                    around: &around,
                    commands: &self.attached.commands,
                    turns: &self.turns,
                    input_name,
                    stop,
                };
                let ended = running.run(stdin, stdout, stderr).await;
                logs.flush(stop).await;
                ended
            }
        };
        let usual = Tolerance::default();
        let tolerances = stages.iter().map(|stage| &stage.tolerance).chain([&usual]);
        let has_failed =
            reports.iter().zip(tolerances).any(|(ended, tolerance)| tolerance.judge(&ended.exit) == Verdict::Bad);
        if let (Some(source), Some(first)) = (&mut source, reports.first_mut())
            && !has_failed
        {
            let finished = tokio::select! {
                biased;
                () = stop.requested_from_outside() => Ok(()),
                finished = source.finish() => finished,
            };
            if let Err(error) = finished {
                first.exit = StageExit::HostError { message: error.to_string(), path: Some(first_name.clone()) };
            }
        }
        if let (Some(position), Some(rewind)) = (source.as_ref().and_then(Source::position), &rewind) {
            // Whoever shares the offset goes on at the first byte that no stage got. A failure changes nothing for us.
            let _ = seek(rewind, SeekFrom::Start(position));
        }
        drop(source);
        if let (Some((file, size)), Some(first)) = (whole, reports.first_mut())
            && stages.first().is_some_and(|stage| stage.tolerance.judge(&first.exit) == Verdict::Good)
            && let Err(error) = joint::check_whole(&file, size)
        {
            // A program read it to what it took for its end.
            first.exit = StageExit::HostError { message: error.to_string(), path: Some(first_name) };
        }
        let mut stdout_closed = close(sink, &mut reports, &plan, stop).await;
        stdout_closed |= reports.last().is_some_and(|last| last.broken);
        self.look_at_watched(stop);
        let mut outcome = judge(&plan, &stages, reports, joints, stop, stdout_closed);
        if let Some(atomic) = atomic
            && outcome.success
        {
            publish(atomic, &mut outcome, &plan, stop, || self.look_at_watched(stop)).await;
        }
        outcome
    }

    /// What ended with the watched process looks as if it had ended well: whoever commits looks first.
    fn look_at_watched(&self, stop: &Stop) {
        if self.options.watched.as_ref().is_some_and(process::WatchedProcess::is_gone) {
            stop.request(StopReason::Signal(libc::SIGTERM));
        }
    }
}

/// Refuses to overwrite the input with the output, and cuts what an output in place had before.
fn keep_apart(stdin: joint::Identity, stdout: joint::Identity, plan: &Plan) -> io::Result<()> {
    if stdin.is_some() && stdin == stdout {
        return Err(io::Error::other("the output is the input, which would be overwritten while it is read"));
    }
    match &plan.stdout {
        Outlet::Place(output) => joint::truncate(stdout, output),
        Outlet::Null | Outlet::Outside(_) => Ok(()),
    }
}

/// Writes what is left, and closes the output. Returns whether its reader had left.
async fn close(sink: Option<Sink>, reports: &mut [StageEnd], plan: &Plan, stop: &Stop) -> bool {
    let Some(mut sink) = sink else { return false };
    let closed = tokio::select! {
        biased;
        closed = poll_fn(|cx| sink.poll_close(cx)) => closed,
        // What was written before a stage failed is handed on all the same.
        () = stop.requested_from_outside() => Ok(()),
    };
    match closed {
        Ok(()) => false,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => true,
        Err(error) => {
            if let Some(last) = reports.last_mut() {
                let path = Some(plan.stdout_name.clone());
                last.exit = StageExit::HostError { message: error.to_string(), path };
            }
            false
        }
    }
}

/// Puts an atomic output in its place.
async fn publish(atomic: AtomicFile, outcome: &mut Outcome, plan: &Plan, stop: &Stop, look: impl FnOnce()) {
    let persisting = tokio::task::spawn_blocking(move || atomic.persist());
    let persisted = tokio::select! {
        biased;
        // Until the rename nothing has happened that anybody can see.
        () = stop.requested_from_outside() => None,
        persisted = persisting => Some(persisted.map_err(io::Error::other).and_then(|persisted| persisted)),
    };
    look();
    let persisted = if stop.is_from_outside() { None } else { persisted };
    let published = match persisted {
        None => {
            outcome.success = false;
            stopped_from_outside(outcome, plan, stop);
            Ok(())
        }
        Some(persisted) => persisted.and_then(AtomicFile::publish),
    };
    if let Err(error) = published {
        fail_end(outcome, &EndError { name: plan.stdout_name.clone(), error });
    }
}

/// A task that is ended with its owner.
struct Alarm(tokio::task::JoinHandle<()>);

impl Drop for Alarm {
    fn drop(&mut self) {
        self.0.abort();
    }
}
