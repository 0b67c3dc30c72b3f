//! One run, from its plan to its outcome.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Poll,
    time::Duration,
};

use rustix::fs::{SeekFrom, seek};

use super::{
    admission::Refused,
    apart,
    control::Attached,
    copy::copy,
    ends::{self, Logs, Names, RunEnds},
    judge::{end_failed, fail_end, judge, stopped_from_outside},
    options::RunOptions,
    shared::{EndError, RunState, Shared},
    supervise::Stages,
    wiring::Wiring,
};
use crate::{
    ends::Ends,
    event::Event,
    joint::{self, AtomicFile, Countdown, Sink, Source, Stop, StopReason},
    outcome::{ExitCode, Outcome, StageExit, Tolerance, Verdict},
    plan::{ErrorCode, Outlet, Planned, PlannedStage, Variation},
    process::{self, Spawner},
    sandbox::{CodeBudget, Dumps, RunTurns},
    stage::{StageEnd, Surroundings},
};

/// What one run needs.
pub(super) struct Run {
    pub(super) shared: Arc<Shared>,
    pub(super) options: RunOptions,
    pub(super) state: Arc<RunState>,
    pub(super) attached: Attached,
    pub(super) turns: RunTurns,
    /// Whether the host took no more runs when it was started.
    pub(super) is_late: bool,
    /// What starts its programs.
    pub(super) spawner: Arc<Spawner>,
}

impl Run {
    pub(super) async fn run(self, plan: &Planned, ends: Ends) -> Outcome {
        let stop = self.attached.stop.clone();
        let limits = plan.groups.iter().enumerate().map(|(index, group)| (Some(index), group.timeout));
        // What was used up before the run is a part of it.
        let own = self.timeout(plan).map(|timeout| timeout.saturating_sub(self.options.spent));
        let all = std::iter::once((None, own)).chain(limits);
        let alarms =
            all.filter_map(|(group, timeout)| timeout.map(|timeout| (group, timeout))).map(|(group, timeout)| {
                let stop = &stop;
                let alarm: Alarm<'_> = Box::pin(async move {
                    Countdown::wait_for_run(timeout, stop).await;
                    stop.request(StopReason::Timeout(group));
                });
                alarm
            });
        let watching = self.options.watched.clone().map(|watched| {
            let stop = &stop;
            let alarm: Alarm<'_> = Box::pin(async move {
                watched.ended().await;
                stop.request(StopReason::Signal(libc::SIGTERM));
            });
            alarm
        });
        let mut alarms: Vec<_> = alarms.chain(watching).collect();
        let ringing = poll_fn(|cx| {
            alarms.retain_mut(|alarm| alarm.as_mut().poll(cx).is_pending());
            Poll::<()>::Pending
        });
        let mut is_told = false;
        let mut tell = || {
            let cause = match stop.reason() {
                // The supervisor tells of these.
                None | Some(StopReason::Failure | StopReason::Satisfied) => return,
                Some(StopReason::Timeout(_)) => "a timeout".to_owned(),
                Some(StopReason::Signal(signal)) => format!("signal {signal}"),
                Some(StopReason::Caller) => "the caller".to_owned(),
            };
            if !std::mem::replace(&mut is_told, true) {
                self.state.events.send(|| Event::Stopped { cause, stage: None });
            }
        };
        let mut outcome = {
            let mut going = pin!(self.admitted(plan, ends, &stop));
            let mut ringing = pin!(ringing);
            let mut stopped = pin!(stop.requested_from_outside());
            let mut has_told = false;
            poll_fn(|cx| {
                // Before the stages: their turns may be long.
                let _ = ringing.as_mut().poll(cx);
                if !has_told && stopped.as_mut().poll(cx).is_ready() {
                    has_told = true;
                    tell();
                }
                going.as_mut().poll(cx)
            })
            .await
        };
        tell();
        outcome.label.clone_from(&self.options.label);
        outcome
    }

    /// How long the run may take.
    fn timeout(&self, plan: &Planned) -> Option<Duration> {
        plan.timeout.into_iter().chain(self.options.timeout).min()
    }

    /// Waits until there is room for the run: many runs at once take turns.
    async fn admitted(&self, plan: &Planned, ends: Ends, stop: &Stop) -> Outcome {
        let refused = |message| {
            let outcome = Outcome::not_started(plan.name.clone(), ExitCode::BadPipeline, message, None);
            Outcome { code: ErrorCode::InvalidPipeline.word(), ..outcome }
        };
        let (reads, writes) = ends.connected();
        if let Some(message) = plan.refusal_of_ends(reads, writes) {
            return refused(message);
        }
        let RunOptions { args, env, limits, .. } = &self.options;
        let stages = match plan.varied(Variation { args, env, limits }) {
            Ok(stages) => stages,
            Err(message) => return refused(message),
        };
        if let Some(refused) = apart::refusal(&self.shared.kept_apart, plan) {
            return refused;
        }
        let refused = |Refused { code, message }: Refused| {
            let outcome = Outcome::not_started(plan.name.clone(), ExitCode::Host, message, None);
            Outcome { code: code.word(), ..outcome }
        };
        if self.is_late {
            let message = "the host is being drained and takes no more runs".into();
            return refused(Refused { code: ErrorCode::ShuttingDown, message });
        }
        if let Some(never) = self.shared.admission.refusal(plan) {
            return refused(never);
        }
        let admitted = tokio::select! {
            biased;
            () = stop.requested_from_outside() => None,
            admitted = self.shared.admission.admit(plan) => Some(admitted),
        };
        match admitted {
            Some(Ok(_room)) => {
                self.state.has_begun.store(true, Relaxed);
                self.run_within(plan, &stages, ends, stop).await
            }
            Some(Err(busy)) => refused(busy),
            None => {
                let stopped = EndError { name: "the run".into(), error: io::ErrorKind::Interrupted.into() };
                end_failed(plan, &stages, &stopped, stop)
            }
        }
    }

    fn surroundings(&self, plan: &Planned) -> Surroundings {
        let foreground = || plan.has_commands() && process::in_foreground();
        Surroundings {
            spawner: self.spawner.clone(),
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

    async fn run_within(&self, plan: &Planned, stages: &[Arc<PlannedStage>], ends: Ends, stop: &Stop) -> Outcome {
        let around = self.surroundings(plan);
        let mut ends = match RunEnds::new(ends, plan) {
            Ok(ends) => ends,
            Err(failed) => return end_failed(plan, stages, &failed, stop),
        };
        let mut wirings: Vec<_> = stages.iter().map(|stage| Wiring::of(stage)).collect();
        let stdin = match ends::input(&mut ends, wirings.first_mut(), &self.shared, stop).await {
            Ok(stdin) => stdin,
            Err(failed) => return end_failed(plan, stages, &failed, stop),
        };
        let stdout = match ends::output(&mut ends, wirings.last_mut(), &self.shared, stop).await {
            Ok(stdout) => stdout,
            Err(failed) => return end_failed(plan, stages, &failed, stop),
        };
        let RunEnds { outlet, names, .. } = ends;
        if let Err(error) = keep_apart(stdin.identity, stdout.identity, &outlet) {
            let failed = EndError { name: names.output, error };
            return end_failed(plan, stages, &failed, stop);
        }
        let mut logs = Logs::new(self.options.tee_stderr, self.options.stderr_prefix);
        let (rewind, whole, atomic) = (stdin.rewind, stdin.whole, stdout.atomic);
        let (mut reports, joints, mut source, sink) = match (stdin.half, stdout.half) {
            // Nobody is between them.
            (Some(source), Some(sink)) => {
                let names = (names.input.as_str(), names.output.as_str());
                let (report, source, sink) = copy(source, sink, names, &self.shared.buffers, stop).await;
                (vec![report], Vec::new(), source, sink)
            }
            _ => {
                for (planned, wiring) in stages.iter().zip(&mut wirings) {
                    if let Err(failed) = logs.open(planned, wiring, stop).await {
                        return end_failed(plan, stages, &failed, stop);
                    }
                }
                let code = Arc::new(CodeBudget::new(plan.code_bytes));
                let running = Stages {
                    shared: &self.shared,
                    plan,
                    stages,
                    around: &around,
                    commands: &self.attached.commands,
                    turns: &self.turns,
                    names: &names,
                    code: &code,
                    gauges: &self.state.gauges,
                    stop,
                };
                let ended = running.run(wirings).await;
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
                first.exit = StageExit::HostError { message: error.to_string(), path: Some(names.input.clone()) };
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
            first.exit = StageExit::HostError { message: error.to_string(), path: Some(names.input.clone()) };
        }
        let mut stdout_closed = close(sink, &mut reports, &names, stop).await;
        stdout_closed |= reports.last().is_some_and(|last| last.broken);
        self.look_at_watched(stop);
        let mut outcome = judge(plan, stages, reports, joints, self.timeout(plan), stop, stdout_closed);
        if let Some(atomic) = atomic
            && outcome.success
        {
            let timeout = self.timeout(plan);
            let look = || self.look_at_watched(stop);
            publish(atomic, &mut outcome, (plan, timeout), &names, stop, look).await;
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
fn keep_apart(stdin: joint::Identity, stdout: joint::Identity, outlet: &Outlet) -> io::Result<()> {
    if stdin.is_some() && stdin == stdout {
        return Err(io::Error::other("the output is the input, which would be overwritten while it is read"));
    }
    match outlet {
        Outlet::Place(output) => joint::truncate(stdout, output),
        Outlet::Null | Outlet::Program => Ok(()),
    }
}

/// Writes what is left, and closes the output. Returns whether its reader had left.
async fn close(sink: Option<Sink>, reports: &mut [StageEnd], names: &Names, stop: &Stop) -> bool {
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
                let path = Some(names.output.clone());
                last.exit = StageExit::HostError { message: error.to_string(), path };
            }
            false
        }
    }
}

/// Puts an atomic output in its place.
async fn publish(
    atomic: AtomicFile,
    outcome: &mut Outcome,
    (plan, timeout): (&Planned, Option<Duration>),
    names: &Names,
    stop: &Stop,
    look: impl FnOnce(),
) {
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
            stopped_from_outside(outcome, plan, timeout, stop);
            Ok(())
        }
        Some(persisted) => persisted.and_then(AtomicFile::publish),
    };
    if let Err(error) = published {
        fail_end(outcome, &EndError { name: names.output.clone(), error });
    }
}

/// What happens to a run at some time.
type Alarm<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
