//! An ordinary program as a stage.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::{
    fs::{Mode, OFlags},
    process::Signal,
};
use tokio::sync::watch;

use super::{
    copying::{Drained, Fed, Log, Task, drain, feed},
    gauge::{Gauges, Phase},
    inside::StageEnd,
    wasm::over_time,
    watch::{WATCHED, Watch, over},
};
use crate::{
    event::{Event, Events},
    joint::{
        Buffers, DescriptorSink, DescriptorSource, KeptEnds, Named, Sink, Source, Stop, StopReason, has_no_reader,
    },
    outcome::{LimitKind, StageExit, Verdict},
    plan::{CommandWork, PlannedStage},
    process::{
        AtPath, Cgroup, CgroupParent, Grouping, GuardLink, Launch, Leader, Member, Rlimits, Spawner, Status, Tally,
        cpu_of, usage, writes_to,
    },
    sandbox::Dumps,
    spec::{Eof, to_text},
};

/// What every command of a run needs.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    pub(crate) spawner: Arc<Spawner>,
    pub(crate) guard: Option<GuardLink>,
    pub(crate) cgroups: Option<CgroupParent>,
    pub(crate) buffers: Buffers,
    /// Whether each command leads a process group of its own, rather than staying in the terminal's.
    pub(crate) own_groups: bool,
    /// Whether this process adopts orphans.
    pub(crate) adopts_orphans: bool,
    /// The limits on open files that the host itself was started with.
    pub(crate) open_files: Option<(u64, u64)>,
    pub(crate) kill_after: Duration,
    pub(crate) linger: Duration,
    pub(crate) events: Events,
    /// Where core dumps of sandboxed stages go.
    pub(crate) dumps: Option<Dumps>,
}

/// A program's standard input.
#[derive(Debug)]
pub(crate) struct ChildInput {
    pub(crate) file: OwnedFd,
    /// What it is fed from, through the pipe whose write end this is, and what the host keeps of that pipe.
    pub(crate) feed: Option<(Source, OwnedFd, Arc<KeptEnds>)>,
}

/// A program's standard output.
#[derive(Debug)]
pub(crate) struct ChildOutput {
    pub(crate) file: OwnedFd,
    /// Where it is taken to, from the pipe whose read end this is.
    pub(crate) drain: Option<(OwnedFd, Sink)>,
    /// The pipe it writes.
    pub(crate) kept: Option<Arc<KeptEnds>>,
    /// The output at the pipeline's end, to see whether its reader has left.
    pub(crate) end: Option<OwnedFd>,
}

/// A program's standard error.
#[derive(Debug)]
pub(crate) struct ChildStderr {
    pub(crate) file: OwnedFd,
    /// Where it is passed on to, from the pipe whose read end this is.
    pub(crate) log: Option<(OwnedFd, Sink)>,
}

/// A command with its ends, ready to start.
#[derive(Debug)]
pub(crate) struct CommandStage {
    pub(crate) index: usize,
    pub(crate) planned: Arc<PlannedStage>,
    pub(crate) stdin: ChildInput,
    pub(crate) stdout: ChildOutput,
    pub(crate) stderr: ChildStderr,
    pub(crate) input_name: Option<String>,
    pub(crate) output_name: Option<String>,
    pub(crate) around: Surroundings,
    /// What can be seen of it, and of the other stages of its run.
    pub(crate) gauges: Gauges,
}

/// A command that runs.
#[derive(Debug)]
pub(crate) struct RunningCommand {
    index: usize,
    planned: Arc<PlannedStage>,
    leader: Arc<Leader>,
    cgroup: Option<Cgroup>,
    feed: Option<Task<Fed>>,
    /// Whether what it is fed has to be read to its end, whatever it reads of it.
    feeds_whole: bool,
    /// What the host keeps of the pipe that it is fed through.
    fed_through: Option<Arc<KeptEnds>>,
    drain: Option<Task<Drained>>,
    gone: watch::Sender<bool>,
    log: Option<Log>,
    kept: Option<Arc<KeptEnds>>,
    end: Option<OwnedFd>,
    input_name: Option<String>,
    output_name: Option<String>,
    around: Surroundings,
    gauges: Gauges,
    measured: Arc<Mutex<Measured>>,
    started: Instant,
}

/// What was seen of a running command.
#[derive(Debug, Default)]
struct Measured {
    peak_memory: Option<u64>,
    /// Everything that was below the leader when it was last looked at.
    members: Vec<Member>,
    /// Since when no process of it has its output open.
    closed_since: Option<Instant>,
    warned: bool,
    /// What processes of it used that are gone.
    tally: Tally,
}

impl CommandStage {
    /// Starts the program.
    ///
    /// # Errors
    ///
    /// Why it could not be started.
    pub(crate) async fn start(self, work: &CommandWork) -> Result<RunningCommand, StageExit> {
        let Self { index, planned, stdin, stdout, stderr, input_name, output_name, around, gauges } = self;
        let refused = |error: &io::Error| StageExit::StartFailed {
            message: error.to_string(),
            missing: false,
            path: Some(to_text(&work.program)),
        };
        let failed = |error: io::Error| match error.kind() {
            // The plan has seen the program: what is missing is what its first line names, or it has just gone.
            io::ErrorKind::NotFound => StageExit::StartFailed {
                message: format!("{error} (or its interpreter)"),
                missing: true,
                path: Some(to_text(&work.program)),
            },
            io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput => refused(&error),
            // No room for a process or a descriptor, a directory that has gone: the program itself is not to blame.
            _ => match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
                Some(rustix::io::Errno::NOEXEC) => refused(&error),
                _ => {
                    let at = error.get_ref().and_then(|error| error.downcast_ref::<AtPath>());
                    let path = at.map_or(&work.program, |at| &at.path);
                    StageExit::HostError { message: format!("cannot be started: {error}"), path: Some(to_text(path)) }
                }
            },
        };
        let (cgroup, procs) = match &around.cgroups {
            Some(parent) => parent
                .group(work.limits.memory, work.limits.processes)
                .map(|(group, procs)| (Some(group), Some(procs)))
                .map_err(failed)?,
            None => (None, None),
        };
        let grouping = match (&work.wall, around.own_groups) {
            (Some(_), _) => Grouping::Session,
            (None, true) => Grouping::Group,
            (None, false) => Grouping::Shared,
        };
        let (directory_at, program_at) = open_below(work).await?;
        let launch = Launch {
            program: work.program.clone(),
            arguments: work.arguments.clone(),
            environment: work.environment.clone(),
            directory: work.directory.clone(),
            directory_at,
            program_at,
            stdin: stdin.file,
            stdout: stdout.file,
            stderr: stderr.file,
            grouping,
            rlimits: Rlimits {
                open_files: work.limits.rlimits.open_files.or(around.open_files),
                ..work.limits.rlimits
            },
            guard: around.guard.clone(),
            cgroup: procs,
            wall: work.wall.as_ref().map(|(wall, _)| wall.build()).transpose().map_err(failed)?,
        };
        let started = Instant::now();
        gauges[index].enter(Phase::Starting);
        let leader = around.spawner.start(launch).await.map_err(failed)?;
        gauges[index].watch_command(&leader);
        gauges[index].enter(Phase::Running);
        if let (Eof::Early, Some(kept)) = (work.eof, &stdout.kept) {
            kept.let_go_early();
        }
        around.events.send(|| Event::Started {
            stage: planned.name.clone(),
            pid: u32::try_from(leader.pid().as_raw_nonzero().get()).ok(),
        });
        let (feed, fed_through) = match stdin.feed {
            Some((source, file, kept)) => {
                let sink = DescriptorSink::owned(file).map_err(failed)?;
                let whole = source.must_be_whole();
                (Some((feed(source, sink, &around.buffers), whole)), Some(kept))
            }
            None => (None, None),
        };
        let (feed, feeds_whole) = feed.map_or((None, false), |(feed, whole)| (Some(feed), whole));
        let (gone, seen_gone) = watch::channel(false);
        let drain = match stdout.drain {
            Some((file, sink)) => {
                let source = DescriptorSource::owned(file).map_err(failed)?;
                Some(drain(source, sink, seen_gone, around.linger, &around.buffers))
            }
            None => None,
        };
        let log = match stderr.log {
            Some((file, sink)) => Some(Log::start(file, sink, &around.buffers).map_err(failed)?),
            None => None,
        };
        Ok(RunningCommand {
            index,
            planned,
            leader,
            cgroup,
            feed,
            feeds_whole,
            fed_through,
            drain,
            gone,
            log,
            kept: stdout.kept,
            end: stdout.end,
            input_name,
            output_name,
            around,
            gauges,
            measured: Arc::default(),
            started,
        })
    }
}

/// Opens the directory and the program of a command, where they have to be below directories.
async fn open_below(work: &CommandWork) -> Result<(Option<OwnedFd>, Option<OwnedFd>), StageExit> {
    let (directory, program) = (work.directory_at.clone(), work.program_at.clone());
    if directory.is_none() && program.is_none() {
        return Ok((None, None));
    }
    let failed = |(named, error): (Named, io::Error)| StageExit::HostError {
        message: format!("cannot be started: {error}"),
        path: Some(to_text(named.path())),
    };
    // Their file system may not answer.
    let opening = tokio::task::spawn_blocking(move || {
        let directory = directory
            .map(|named| named.open(OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).map_err(|error| (named, error)));
        let program = program.map(|named| {
            let readable = named.open(OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty());
            readable.or_else(|_| named.open(OFlags::PATH, Mode::empty())).map_err(|error| (named, error))
        });
        Ok((directory.transpose()?, program.transpose()?))
    });
    let lost = |_| StageExit::HostError { message: "the host failed while it opened them".into(), path: None };
    opening.await.map_err(lost)?.map_err(failed)
}

impl RunningCommand {
    pub(crate) fn leader(&self) -> &Arc<Leader> {
        &self.leader
    }

    /// Waits for the program and returns how it ended. Its leader is a zombie then, until the run reaps it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future kills the program.
    pub(crate) async fn run(mut self, work: &CommandWork, stop: Stop) -> StageEnd {
        let mut input_bytes = None;
        let mut source = None;
        let mut out_of_time = std::pin::pin!(over_time(self.planned.wall_time));
        let stopped = loop {
            let mut feed = self.feed.take();
            tokio::select! {
                biased;
                () = self.leader.ended() => {
                    self.feed = feed;
                    break None;
                }
                () = stop.requested() => {
                    self.feed = feed;
                    break self.stop(&stop).await;
                }
                fed = async { feed.as_mut().expect("guarded below").ended().await }, if feed.is_some() => match fed {
                    Ok(Fed { bytes, source: left, failed: None }) => {
                        (input_bytes, source) = (Some(bytes), Some(left));
                        // Its input is whole: now it may see the end.
                        self.fed_through = None;
                    }
                    Ok(Fed { bytes, failed: Some((error, sink)), .. }) => {
                        input_bytes = Some(bytes);
                        // Its input must not look complete: it is gone before the pipe closes.
                        self.kill().await;
                        drop(sink);
                        break Some(StageExit::HostError { message: error.to_string(), path: self.input_name.clone() });
                    }
                    Err(error) => {
                        self.kill().await;
                        break Some(StageExit::HostError { message: error.to_string(), path: None });
                    }
                },
                exit = self.over_limits(work) => {
                    self.feed = feed;
                    self.kill().await;
                    break Some(exit);
                }
                exit = &mut out_of_time => {
                    self.feed = feed;
                    self.kill().await;
                    break Some(exit);
                }
            }
        };
        let lifetime = self.started.elapsed();
        let broken = self.reader_is_gone();
        let cgroup = self.cgroup.take();
        let mut exit = stopped.unwrap_or_else(|| self.exit(work, broken, cgroup.as_ref()));
        let is_good = self.planned.tolerance.judge(&exit) != Verdict::Bad;
        let waits = self.feeds_whole && is_good && !stop.is_from_outside();
        if let Some(feed) = self.feed.as_mut().filter(|feed| waits || feed.is_finished()) {
            let fed = tokio::select! {
                biased;
                fed = feed.ended() => fed.map(|fed| fed.failed.map(|(error, _)| error)),
                () = stop.requested_from_outside() => Ok(None),
            };
            // It may have failed in the same moment as the program ended well.
            if let Some(error) = fed.unwrap_or_else(Some) {
                exit = StageExit::HostError { message: error.to_string(), path: self.input_name.clone() };
            }
        }
        let tally = std::mem::take(&mut self.measured().tally);
        let hidden = tally.hidden();
        let cpu = cgroup.as_ref().and_then(Cgroup::cpu);
        let cpu = cpu.or_else(|| Some(cpu_of(self.leader.pid())?.saturating_add(hidden)));
        // Whoever was killed left nothing behind.
        let watch = (work.limits.are_watched() && self.leader.status().is_ok_and(|status| status.is_some()))
            .then(|| Watch::start(self.leader.clone(), work.limits, tally));
        let peak_memory = cgroup.as_ref().and_then(Cgroup::peak).or(self.measured().peak_memory);
        self.gone.send_replace(true);
        let mut end = StageEnd {
            index: self.index,
            exit,
            broken,
            cpu,
            peak_memory,
            lifetime: Some(lifetime),
            leader: Some(self.leader.clone()),
            cgroup,
            log: self.log.take(),
            watch,
            source,
            input_bytes,
            notes: work.wall.iter().flat_map(|(_, missing)| missing.iter().cloned()).collect(),
            ..StageEnd::default()
        };
        (self.feed, self.fed_through, self.kept) = (None, None, None);
        self.finish_draining(&mut end, &stop).await;
        end
    }

    fn measured(&self) -> std::sync::MutexGuard<'_, Measured> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reader_is_gone(&self) -> bool {
        match (&self.kept, &self.end) {
            (Some(kept), _) => kept.reader_is_gone(),
            (None, Some(end)) => has_no_reader(end),
            (None, None) => false,
        }
    }

    /// How the program ended by itself.
    fn exit(&self, work: &CommandWork, reader_is_gone: bool, cgroup: Option<&Cgroup>) -> StageExit {
        const BROKEN_PIPE: u8 = 128 + 13;
        let limit = |which, limit| StageExit::Limit { which, limit, used: None, asked: None };
        match self.leader.status() {
            Ok(Some(Status::Exited(0))) => StageExit::Ok,
            Ok(Some(Status::Exited(BROKEN_PIPE))) if reader_is_gone => StageExit::BrokenPipe,
            Ok(Some(Status::Exited(code))) => StageExit::Exit { code },
            Ok(Some(Status::Signaled(signal))) if signal == Signal::PIPE.as_raw() && reader_is_gone => {
                StageExit::BrokenPipe
            }
            Ok(Some(Status::Signaled(signal)))
                if signal == Signal::XFSZ.as_raw() && work.limits.rlimits.file_size.is_some() =>
            {
                limit(LimitKind::FileSize, work.limits.rlimits.file_size)
            }
            Ok(Some(Status::Signaled(signal)))
                if signal == Signal::KILL.as_raw() && cgroup.is_some_and(Cgroup::was_out_of_memory) =>
            {
                limit(LimitKind::Memory, work.limits.memory)
            }
            Ok(Some(Status::Signaled(signal))) => StageExit::Signal { signal },
            Ok(None) => StageExit::HostError { message: "its end was not seen".into(), path: None },
            Err(error) => StageExit::HostError {
                message: format!(
                    "its exit status is not known: {error} (somebody else waits for this program's children)"
                ),
                path: None,
            },
        }
    }

    /// Ends the program because the run is stopped. `None`: it had ended already, by itself.
    async fn stop(&self, stop: &Stop) -> Option<StageExit> {
        if !matches!(self.leader.status(), Ok(None)) {
            return None;
        }
        let signal = match stop.reason() {
            Some(StopReason::Signal(number)) => Signal::from_named_raw(number).unwrap_or(Signal::TERM),
            _ => Signal::TERM,
        };
        if self.leader.group().is_none() {
            // Once the leader is gone, nothing says what was below it.
            let usage = usage(&self.leader.kin(), false);
            self.measured().members = usage.members;
        }
        // In the terminal's group it got a key's signal when we did.
        if self.leader.group().is_some() || !stop.came_from_terminal() {
            self.leader.ask(signal);
        }
        let mut ended = self.ends_within(self.around.kill_after, stop).await;
        if !ended && signal != Signal::TERM {
            // Many programs that ignore the keyboard tidy up when they are asked to end.
            self.leader.ask(Signal::TERM);
            ended = self.ends_within(self.around.kill_after.min(Duration::from_millis(500)), stop).await;
        }
        if !ended {
            self.kill().await;
        }
        Some(StageExit::Cancelled)
    }

    async fn ends_within(&self, time: Duration, stop: &Stop) -> bool {
        tokio::select! {
            biased;
            () = self.leader.ended() => true,
            () = stop.hurried() => false,
            () = tokio::time::sleep(time) => false,
        }
    }

    async fn kill(&self) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill();
        }
        for member in self.measured().members.drain(..) {
            // What was below it and may have left its group.
            member.signal(Signal::KILL);
        }
        self.leader.kill();
        // One that is stuck in a system call of a dead device is not waited for.
        const STUCK: Duration = Duration::from_secs(10);
        let _ = tokio::time::timeout(STUCK, self.leader.ended()).await;
    }

    /// Looks at what the command uses, again and again, until that is too much. Cancel safe.
    async fn over_limits(&self, work: &CommandWork) -> StageExit {
        const FIRST: Duration = Duration::from_millis(20);
        const RARELY: Duration = Duration::from_secs(1);
        let watched = work.limits.are_watched();
        let mut interval = if watched { WATCHED } else { FIRST };
        loop {
            tokio::time::sleep(interval).await;
            if !watched {
                interval = (interval * 2).min(RARELY);
            }
            let usage = usage(&self.leader.kin(), watched);
            let mut measured = self.measured();
            if usage.resident > 0 {
                measured.peak_memory = measured.peak_memory.max(Some(usage.resident));
                self.gauges[self.index].note_memory(usage.resident);
            }
            measured.members.clone_from(&usage.members);
            let cpu = measured.tally.add(&usage);
            if let Some(exit) = over(&work.limits, &usage, cpu) {
                return exit;
            }
            self.look_at_output(work, &mut measured);
        }
    }

    /// Warns if the command has closed its output and runs on: its reader waits for an end that only its exit brings.
    fn look_at_output(&self, work: &CommandWork, measured: &mut Measured) {
        const PATIENCE: Duration = Duration::from_secs(5);
        let Some(kept) = self.kept.as_ref().filter(|_| work.eof == Eof::Exit && !measured.warned) else { return };
        if measured.members.is_empty() || writes_to(&measured.members, kept.inode) != Some(false) {
            measured.closed_since = None;
            return;
        }
        if measured.closed_since.get_or_insert_with(Instant::now).elapsed() >= PATIENCE {
            measured.warned = true;
            let name = &self.planned.name;
            self.around.events.send(|| Event::Warning {
                stage: name.clone(),
                message: format!(
                    "stage `{name}` closed its output but still runs; its reader waits: \"eof\": \"early\" lets it go on"
                ),
            });
        }
    }

    /// Takes what the program wrote to where it goes.
    async fn finish_draining(&mut self, end: &mut StageEnd, stop: &Stop) {
        let Some(mut drain) = self.drain.take() else { return };
        let drained = tokio::select! {
            biased;
            drained = drain.ended() => drained,
            () = stop.requested_from_outside() => return,
        };
        match drained {
            Ok(Drained { bytes, sink, failure, held_open }) => {
                end.output_bytes = Some(bytes);
                if held_open {
                    end.notes.push("a process that it left behind still held its standard output open".into());
                }
                match failure {
                    Some(error) if error.kind() == io::ErrorKind::BrokenPipe => end.broken = true,
                    Some(error) => {
                        let path = self.output_name.clone();
                        end.exit = StageExit::HostError { message: error.to_string(), path };
                    }
                    None => {}
                }
                end.sink = Some(sink);
            }
            Err(error) => end.exit = StageExit::HostError { message: error.to_string(), path: None },
        }
    }
}
