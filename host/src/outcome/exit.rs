//! How one stage ended, whether that is a failure, and exit codes.

use std::{fmt, sync::Arc, time::Duration};

use serde::Serialize;
use signal_hook::low_level::signal_name;

use crate::spec::{BrokenPipe, Ignore, OnTrap, Size};

/// How one stage ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum StageExit {
    /// It ended well, with all its input read as far as is known.
    #[default]
    Ok,
    /// It ended well and left input unread.
    FinishedEarly,
    /// It ended with this exit code.
    Exit {
        /// The code, 1 to 255.
        code: u8,
    },
    /// A command died of this signal.
    Signal {
        /// The signal's number.
        signal: i32,
    },
    /// A function returned an error.
    Failed {
        /// The error.
        message: String,
    },
    /// It trapped, or panicked.
    Trap {
        /// What kind of trap.
        trap: TrapKind,
        /// The trap's message, or the panic's text and place.
        message: String,
        /// The guest's call stack, innermost first, at most 32 frames: functions, with source lines where the component
        /// has debug information.
        frames: Vec<String>,
        /// Where the input was.
        at: Option<InputPlace>,
    },
    /// It used more than it was given.
    Limit {
        /// Which limit.
        which: LimitKind,
        /// The limit, in the limit's unit.
        limit: Option<u64>,
        /// What was used when more was asked for.
        used: Option<u64>,
        /// What was asked for.
        asked: Option<u64>,
    },
    /// It ended because its reader was gone.
    BrokenPipe,
    /// The host stopped it.
    Cancelled,
    /// It could not be started.
    StartFailed {
        /// Why.
        message: String,
        /// Whether what was to be started does not exist.
        missing: bool,
        /// The program's file, if it is one.
        path: Option<String>,
    },
    /// The host failed it: an end could not be read or written, or the sandbox broke.
    HostError {
        /// What failed.
        message: String,
        /// The file it failed at.
        path: Option<String>,
    },
}

/// How far a stage was in its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct InputPlace {
    /// The first byte, from 0, of the piece that it was about; or how many bytes it had been handed, if it is not exact.
    pub byte: u64,
    /// That byte's line, from 1; null: not known.
    pub line: Option<u64>,
    /// Whether the stage itself said so. Else it was at this byte at most.
    pub exact: bool,
}

impl fmt::Display for InputPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { byte, line: Some(line), exact: true } => write!(f, "at byte {byte} of its input, line {line}"),
            Self { byte, line: None, exact: true } => write!(f, "at byte {byte} of its input"),
            Self { byte: 0, .. } => f.write_str("before any of its input"),
            Self { byte, .. } => write!(f, "after at most {byte} bytes of its input"),
        }
    }
}

/// What kind of trap ended a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum TrapKind {
    /// `unreachable`: a panic or an abort.
    Unreachable,
    /// A memory access out of bounds.
    MemoryOutOfBounds,
    /// The call stack was used up.
    StackOverflow,
    /// An integer division or conversion without a result.
    IntegerDivision,
    /// An indirect call to nothing, or to a function of another type.
    IndirectCall,
    /// The host refused a call.
    HostCallRefused,
    /// A function of the embedding program panicked.
    Panic,
}

/// A limit of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LimitKind {
    /// `memory`, in bytes.
    Memory,
    /// `cpu_time`, in milliseconds.
    CpuTime,
    /// `wall_time`, in milliseconds.
    WallTime,
    /// `processes`.
    Processes,
    /// `file_size`, in bytes.
    FileSize,
    /// `stall_time`, in milliseconds.
    StallTime,
    /// `fuel`, in instructions.
    Fuel,
    /// `input_bytes`.
    InputBytes,
    /// `output_bytes`.
    OutputBytes,
    /// `stderr_bytes`.
    StderrBytes,
    /// `handles` held at once.
    Handles,
    /// `open_files` held at once.
    OpenFiles,
    /// Core `instances` of one component.
    Instances,
    /// Memories of one component.
    Memories,
    /// Tables of one component.
    Tables,
    /// `compile_time`, in milliseconds.
    CompileTime,
    /// `compile_memory`, in bytes.
    CompileMemory,
}

impl fmt::Display for LimitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::CpuTime => "cpu_time",
            Self::WallTime => "wall_time",
            Self::Processes => "processes",
            Self::FileSize => "file_size",
            Self::StallTime => "stall_time",
            Self::Fuel => "fuel",
            Self::InputBytes => "input_bytes",
            Self::OutputBytes => "output_bytes",
            Self::StderrBytes => "stderr_bytes",
            Self::Handles => "handles",
            Self::OpenFiles => "open_files",
            Self::Instances => "instances",
            Self::Memories => "memories",
            Self::Tables => "tables",
            Self::CompileTime => "compile_time",
            Self::CompileMemory => "compile_memory",
        })
    }
}

impl StageExit {
    /// The exit's `kind`, as the report has it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::FinishedEarly => "finished-early",
            Self::Exit { .. } => "exit",
            Self::Signal { .. } => "signal",
            Self::Failed { .. } => "failed",
            Self::Trap { .. } => "trap",
            Self::Limit { .. } => "limit",
            Self::BrokenPipe => "broken-pipe",
            Self::Cancelled => "cancelled",
            Self::StartFailed { .. } => "start-failed",
            Self::HostError { .. } => "host-error",
        }
    }

    /// The file of the host that it names: a program, or an end of the run.
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::StartFailed { path, .. } | Self::HostError { path, .. } => path.as_deref(),
            _ => None,
        }
    }
}

impl fmt::Display for StageExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("ended well"),
            Self::FinishedEarly => f.write_str("ended well with input left"),
            Self::Exit { code } => write!(f, "exited with code {code}"),
            Self::Signal { signal } => match signal_name(*signal) {
                Some(name) => write!(f, "died of {name}"),
                None => write!(f, "died of signal {signal}"),
            },
            Self::Failed { message } => write!(f, "failed: {message}"),
            Self::Trap { trap: TrapKind::Panic, message, .. } => f.write_str(message),
            Self::Trap { message, .. } => write!(f, "trapped: {message}"),
            Self::Limit { which: LimitKind::Memory, limit: Some(limit), used: Some(used), asked: Some(asked) } => {
                write!(
                    f,
                    "reached its memory limit of {}: {} in use, {} more asked for",
                    Size(*limit),
                    Size(*used),
                    Size(*asked)
                )
            }
            Self::Limit {
                which: which @ (LimitKind::Memory | LimitKind::FileSize | LimitKind::CompileMemory),
                limit: Some(limit),
                used,
                ..
            } => {
                write!(f, "reached its {which} limit of {}", Size(*limit))?;
                used.map_or(Ok(()), |used| write!(f, ": {} in use", Size(used)))
            }
            Self::Limit {
                which: which @ (LimitKind::InputBytes | LimitKind::OutputBytes | LimitKind::StderrBytes),
                limit: Some(limit),
                ..
            } => write!(f, "reached its {which} limit of {}", Size(*limit)),
            Self::Limit {
                which:
                    which @ (LimitKind::Fuel
                    | LimitKind::Handles
                    | LimitKind::OpenFiles
                    | LimitKind::Instances
                    | LimitKind::Memories
                    | LimitKind::Tables),
                limit: Some(limit),
                ..
            } => write!(f, "reached its {which} limit of {limit}"),
            Self::Limit { which: LimitKind::StallTime, limit: Some(limit), .. } => {
                let limit = humantime::format_duration(Duration::from_millis(*limit));
                write!(f, "moved nothing for {limit}, its stall_time limit")
            }
            Self::Limit {
                which: which @ (LimitKind::CpuTime | LimitKind::WallTime | LimitKind::CompileTime),
                limit: Some(limit),
                ..
            } => {
                let limit = humantime::format_duration(Duration::from_millis(*limit));
                write!(f, "reached its {which} limit of {limit}")
            }
            Self::Limit { which: LimitKind::Processes, limit: Some(limit), used: Some(used), .. } => {
                write!(f, "reached its limit of {limit} processes: there were {used}")
            }
            Self::Limit { which, .. } => write!(f, "reached the bound on {which}"),
            Self::BrokenPipe => f.write_str("got a broken pipe"),
            Self::Cancelled => f.write_str("was stopped"),
            Self::StartFailed { message, path: Some(path), .. } => write!(f, "could not be started: {path}: {message}"),
            Self::StartFailed { message, path: None, .. } => write!(f, "could not be started: {message}"),
            Self::HostError { message, path: Some(path) } => write!(f, "failed at {path}: {message}"),
            Self::HostError { message, path: None } => write!(f, "failed: {message}"),
        }
    }
}

/// Decides whether a way to end is no failure.
#[derive(Clone)]
pub(crate) struct Matcher(pub(crate) Arc<dyn Fn(&StageExit) -> bool + Send + Sync>);

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Matcher")
    }
}

/// Which ends of a stage are no failure.
#[derive(Clone, Debug, Default)]
pub struct Tolerance {
    /// Exit codes besides 0: the stage's own and those its component declares.
    pub ok_exit: Vec<u8>,
    /// Ways to end that are ignored.
    pub ignore: Vec<Ignore>,
    /// What a broken pipe means.
    pub broken_pipe: BrokenPipe,
    /// What a trap means for what was written before.
    pub on_trap: OnTrap,
    /// The embedding program's own word.
    pub(crate) matcher: Option<Matcher>,
}

/// What an exit means for the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Good,
    /// A broken pipe: a failure only if nobody had what they wanted.
    BrokenPipe,
    /// Stopped by the host: nobody's fault.
    Cancelled,
    Bad,
}

impl Tolerance {
    /// Under `excuse-any` a failure after the reader left is a broken pipe, whether or not a write was refused.
    pub(crate) fn excuse(&self, exit: StageExit, reader_left: bool) -> StageExit {
        match exit {
            StageExit::Exit { .. }
            | StageExit::Signal { .. }
            | StageExit::Failed { .. }
            | StageExit::Trap { .. }
            | StageExit::Limit { .. }
                if reader_left && self.broken_pipe == BrokenPipe::ExcuseAny =>
            {
                StageExit::BrokenPipe
            }
            exit => exit,
        }
    }

    pub(crate) fn judge(&self, exit: &StageExit) -> Verdict {
        match exit {
            StageExit::Ok | StageExit::FinishedEarly => Verdict::Good,
            StageExit::Exit { code } if self.ok_exit.contains(code) || self.ignore.contains(&Ignore::Exit(*code)) => {
                Verdict::Good
            }
            StageExit::Signal { signal } if self.ignore.contains(&Ignore::Signal(*signal)) => Verdict::Good,
            StageExit::BrokenPipe if self.ignore.contains(&Ignore::BrokenPipe) => Verdict::Good,
            StageExit::Trap { trap, .. } if self.on_trap == OnTrap::Finish && *trap != TrapKind::Panic => Verdict::Good,
            // What the host did, or could not do, is nobody's to ignore.
            StageExit::Cancelled => Verdict::Cancelled,
            StageExit::StartFailed { .. } | StageExit::HostError { .. } => Verdict::Bad,
            exit if self.matcher.as_ref().is_some_and(|Matcher(matches)| matches(exit)) => Verdict::Good,
            StageExit::BrokenPipe => Verdict::BrokenPipe,
            StageExit::Exit { .. }
            | StageExit::Signal { .. }
            | StageExit::Failed { .. }
            | StageExit::Trap { .. }
            | StageExit::Limit { .. } => Verdict::Bad,
        }
    }
}

/// The exit codes of `stagehost run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[non_exhaustive]
pub enum ExitCode {
    /// The run succeeded.
    Success = 0,
    /// Wrong usage, of any verb but `run`.
    Usage = 2,
    /// The pipeline file is bad.
    BadPipeline = 78,
    /// A time limit.
    TimedOut = 124,
    /// The host itself failed; for `run`, wrong usage too.
    Host = 125,
    /// Something was refused: a digest, a file that is no stage.
    Refused = 126,
    /// A stage was not found.
    NotFound = 127,
    /// A stage trapped.
    Trap = 134,
    /// A stage reached its memory limit, or another bound on what it holds.
    Memory = 137,
    /// A stage used up its processor time or its fuel.
    CpuTime = 152,
    /// A stage read or wrote more than it may.
    FileSize = 153,
}

/// Where a run's exit code comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Origin {
    /// The stages: their own exit code, or 0.
    Stage,
    /// A trap of a stage.
    Trap,
    /// A limit of a stage, or of the run.
    Limit,
    /// A signal that the host got.
    Signal,
    /// The host: a bad pipeline file, or a failure of its own.
    Host,
}

/// The exit code a blamed exit gives a run, and where it comes from.
pub(crate) fn code_of(exit: &StageExit) -> (u8, Origin) {
    match exit {
        StageExit::Ok | StageExit::FinishedEarly => (0, Origin::Stage),
        StageExit::Exit { code } => (*code, Origin::Stage),
        StageExit::Signal { signal } => (u8::try_from(128 + signal).unwrap_or(u8::MAX), Origin::Stage),
        StageExit::Failed { .. } => (1, Origin::Stage),
        StageExit::Trap { .. } => (ExitCode::Trap as u8, Origin::Trap),
        StageExit::Limit { which, .. } => {
            let code = match which {
                LimitKind::Memory
                | LimitKind::Handles
                | LimitKind::OpenFiles
                | LimitKind::Instances
                | LimitKind::Memories
                | LimitKind::Tables
                | LimitKind::Processes
                | LimitKind::CompileMemory => ExitCode::Memory,
                LimitKind::CpuTime | LimitKind::Fuel | LimitKind::CompileTime => ExitCode::CpuTime,
                LimitKind::WallTime | LimitKind::StallTime => ExitCode::TimedOut,
                LimitKind::FileSize | LimitKind::InputBytes | LimitKind::OutputBytes | LimitKind::StderrBytes => {
                    ExitCode::FileSize
                }
            };
            (code as u8, Origin::Limit)
        }
        // What a shell shows for SIGPIPE.
        StageExit::BrokenPipe => (141, Origin::Stage),
        StageExit::StartFailed { missing: true, .. } => (ExitCode::NotFound as u8, Origin::Host),
        StageExit::StartFailed { missing: false, .. } => (ExitCode::Refused as u8, Origin::Host),
        StageExit::Cancelled | StageExit::HostError { .. } => (ExitCode::Host as u8, Origin::Host),
    }
}
