//! How stages and runs end: exits, blame and exit codes.

use std::fmt;

use serde::Serialize;
use stagehost_ring::Counters;

use crate::spec::{BrokenPipe, Ignore, Size};

/// How one stage ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum StageExit {
    /// It ended well, with all its input read.
    Ok,
    /// It ended well and left input unread.
    FinishedEarly,
    /// It ended with this exit code.
    Exit {
        /// The code, 1 to 255.
        code: u8,
    },
    /// It trapped.
    Trap {
        /// What kind of trap.
        trap: TrapKind,
        /// The trap's message, or the panic's text and place.
        message: String,
        /// The guest's call stack, innermost first, at most 32 frames.
        frames: Vec<String>,
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
    },
    /// The host failed it: an end could not be read or written, or the sandbox broke.
    HostError {
        /// What failed.
        message: String,
        /// The file it failed at.
        path: Option<String>,
    },
}

/// What kind of trap ended a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
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
}

/// A limit of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitKind {
    /// `memory`, in bytes.
    Memory,
    /// Handles held at once.
    Handles,
    /// Core instances, memories or tables of one component.
    Instances,
}

impl fmt::Display for LimitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Handles => "handles",
            Self::Instances => "instances",
        })
    }
}

impl fmt::Display for StageExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("ended well"),
            Self::FinishedEarly => f.write_str("ended well with input left"),
            Self::Exit { code } => write!(f, "exited with code {code}"),
            Self::Trap { message, .. } => write!(f, "trapped: {message}"),
            Self::Limit { which: LimitKind::Memory, limit: Some(limit), used: Some(used), asked } => write!(
                f,
                "reached its memory limit of {}: {} in use, {} more asked for",
                Size(*limit),
                Size(*used),
                Size(asked.unwrap_or(0))
            ),
            Self::Limit { which, .. } => write!(f, "reached the bound on {which}"),
            Self::BrokenPipe => f.write_str("got a broken pipe"),
            Self::Cancelled => f.write_str("was stopped"),
            Self::StartFailed { message } => write!(f, "could not be started: {message}"),
            Self::HostError { message, path: Some(path) } => write!(f, "failed at {path}: {message}"),
            Self::HostError { message, path: None } => write!(f, "failed: {message}"),
        }
    }
}

/// Which ends of a stage are no failure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tolerance {
    /// Exit codes besides 0: the stage's own and those its component declares.
    pub ok_exit: Vec<u8>,
    /// Ways to end that are ignored.
    pub ignore: Vec<Ignore>,
    /// What a broken pipe means.
    pub broken_pipe: BrokenPipe,
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
            StageExit::Exit { .. } | StageExit::Trap { .. } | StageExit::Limit { .. }
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
            StageExit::BrokenPipe if self.ignore.contains(&Ignore::BrokenPipe) => Verdict::Good,
            StageExit::BrokenPipe => Verdict::BrokenPipe,
            StageExit::Cancelled => Verdict::Cancelled,
            StageExit::Exit { .. }
            | StageExit::Trap { .. }
            | StageExit::Limit { .. }
            | StageExit::StartFailed { .. }
            | StageExit::HostError { .. } => Verdict::Bad,
        }
    }
}

/// Finds the stage to blame: its index, or `None` if the stages did well.
///
/// From the last stage to the first, with a mark "its reader had what it wanted", which stands from the start if
/// standard output's own reader left (`satisfied`): an exit that is good sets the mark; a broken pipe is excused while the
/// mark stands (under its own `"broken_pipe": "error"` only if its reader ended early), and otherwise counts only if nothing counts
/// yet; any other failure clears the mark and replaces what counted. So a real failure beats a broken pipe, and among
/// real failures the earliest stage wins.
pub(crate) fn blame(stages: &[(StageExit, Tolerance)], satisfied: bool) -> Option<usize> {
    let mut mark = satisfied;
    // Whether the mark stands because a reader said that it had enough, which excuses even under `error`.
    let mut had_enough = satisfied;
    let mut counted = None;
    for (index, (exit, tolerance)) in stages.iter().enumerate().rev() {
        match tolerance.judge(exit) {
            Verdict::Good => {
                mark = true;
                had_enough = *exit == StageExit::FinishedEarly;
            }
            Verdict::Cancelled => {}
            Verdict::BrokenPipe if mark && (had_enough || tolerance.broken_pipe != BrokenPipe::Error) => {}
            Verdict::BrokenPipe => counted = counted.or(Some(index)),
            Verdict::Bad => {
                mark = false;
                counted = Some(index);
            }
        }
    }
    counted
}

/// The exit codes of `stagehost run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
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
}

/// Where a run's exit code comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
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

/// How a whole run ended.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The version of this report's format: 1.
    pub version: u32,
    /// The pipeline's name.
    pub name: Option<String>,
    /// Whether the run succeeded: the output is whole, and in its place.
    pub success: bool,
    /// The exit code of `stagehost run`.
    pub exit_code: u8,
    /// Where the exit code comes from.
    pub origin: Origin,
    /// What to say about it; empty for a plain success.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The index of the stage to blame.
    pub blamed: Option<usize>,
    /// Whether the run's timeout ended it.
    pub timed_out: bool,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether whoever read the inherited standard output left before the end.
    pub stdout_closed: bool,
    /// How long the run took, in milliseconds.
    pub duration_ms: u64,
    /// The stages, first to last.
    pub stages: Vec<StageReport>,
    /// The rings between the stages.
    pub rings: Vec<RingReport>,
}

/// How one stage ended, and what it used.
#[derive(Clone, Debug, Serialize)]
pub struct StageReport {
    /// The stage's name.
    pub name: String,
    /// What it runs.
    pub wasm: String,
    /// How it ended.
    pub exit: StageExit,
    /// Whether that was no failure.
    pub accepted: bool,
    /// Bytes handed to it.
    pub input_bytes: u64,
    /// Bytes taken from it.
    pub output_bytes: u64,
    /// The most memory it held at once, in bytes; null if it was stopped or never started, and so not measured.
    pub peak_memory_bytes: Option<u64>,
    /// How long it lived, in milliseconds; null if it was stopped or never started, and so not measured.
    pub duration_ms: Option<u64>,
    /// What it printed on standard error: the first and the last 32 KiB.
    pub stderr: String,
}

/// What one ring did.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RingReport {
    /// Its capacity in bytes.
    pub capacity: u64,
    /// Bytes that went through.
    pub bytes: u64,
    /// How often the writing stage waited for room, and for how long in all.
    pub writer_waits: u64,
    /// Milliseconds the writing stage waited.
    pub writer_wait_ms: u64,
    /// How often the reading stage waited for bytes.
    pub reader_waits: u64,
    /// Milliseconds the reading stage waited.
    pub reader_wait_ms: u64,
    /// The most bytes it held at once.
    pub high_water_bytes: u64,
}

impl RingReport {
    pub(crate) fn new(capacity: usize, counters: Counters) -> Self {
        let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            capacity: capacity as u64,
            bytes: counters.bytes,
            writer_waits: counters.writer_waits,
            writer_wait_ms: ms(counters.writer_wait_time),
            reader_waits: counters.reader_waits,
            reader_wait_ms: ms(counters.reader_wait_time),
            high_water_bytes: counters.high_water_bytes,
        }
    }
}

impl Outcome {
    /// The outcome of a run that never started.
    pub fn not_started(name: Option<String>, exit_code: ExitCode, message: String, hint: Option<String>) -> Self {
        Self {
            version: 1,
            name,
            success: false,
            exit_code: exit_code as u8,
            origin: Origin::Host,
            message,
            hint,
            blamed: None,
            timed_out: false,
            signal: None,
            stdout_closed: false,
            duration_ms: 0,
            stages: Vec::new(),
            rings: Vec::new(),
        }
    }
}

/// The exit code a blamed exit gives a run, and where it comes from.
pub(crate) fn code_of(exit: &StageExit) -> (u8, Origin) {
    match exit {
        StageExit::Ok | StageExit::FinishedEarly => (0, Origin::Stage),
        StageExit::Exit { code } => (*code, Origin::Stage),
        StageExit::Trap { .. } => (ExitCode::Trap as u8, Origin::Trap),
        StageExit::Limit { .. } => (ExitCode::Memory as u8, Origin::Limit),
        // What a shell shows for SIGPIPE.
        StageExit::BrokenPipe => (141, Origin::Stage),
        StageExit::StartFailed { .. } => (ExitCode::Refused as u8, Origin::Host),
        StageExit::Cancelled | StageExit::HostError { .. } => (ExitCode::Host as u8, Origin::Host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: StageExit = StageExit::Ok;
    const PIPE: StageExit = StageExit::BrokenPipe;
    const STOPPED: StageExit = StageExit::Cancelled;
    const FAIL: StageExit = StageExit::Exit { code: 1 };

    fn check(exits: &[StageExit], expected: Option<usize>) {
        check_with(exits, BrokenPipe::Excuse, false, expected);
    }

    fn check_with(exits: &[StageExit], broken_pipe: BrokenPipe, satisfied: bool, expected: Option<usize>) {
        let tolerance = Tolerance { broken_pipe, ..Tolerance::default() };
        let stages: Vec<_> = exits.iter().map(|exit| (exit.clone(), tolerance.clone())).collect();
        assert_eq!(blame(&stages, satisfied), expected, "{exits:?}");
    }

    #[test]
    fn all_well_blames_nobody() {
        check(&[], None);
        check(&[OK, OK, OK], None);
    }

    #[test]
    fn a_broken_pipe_is_excused_when_the_reader_had_what_it_wanted() {
        check(&[PIPE, PIPE, OK], None);
        check(&[PIPE, OK], None);
        check(&[PIPE, StageExit::FinishedEarly], None);
    }

    #[test]
    fn a_real_failure_beats_a_broken_pipe() {
        check(&[PIPE, FAIL], Some(1));
        check(&[FAIL, PIPE], Some(0));
        check(&[PIPE, FAIL, OK], Some(1));
    }

    #[test]
    fn the_earliest_real_failure_wins() {
        check(&[FAIL, FAIL, OK], Some(0));
        check(&[OK, FAIL, FAIL], Some(1));
    }

    #[test]
    fn a_broken_pipe_alone_counts_without_a_satisfied_reader() {
        check(&[PIPE], Some(0));
        check(&[OK, PIPE, PIPE], Some(2));
        check_with(&[PIPE, PIPE], BrokenPipe::Excuse, true, None);
    }

    #[test]
    fn stopped_stages_are_never_to_blame() {
        check(&[STOPPED, FAIL, STOPPED], Some(1));
        check(&[STOPPED], None);
    }

    #[test]
    fn under_error_a_good_reader_excuses_nothing() {
        check_with(&[PIPE, OK], BrokenPipe::Error, false, Some(0));
        check_with(&[PIPE, StageExit::FinishedEarly], BrokenPipe::Error, false, None);
    }

    #[test]
    fn a_failure_after_the_reader_left_is_excused_only_when_asked() {
        let excused = |broken_pipe, reader_left| {
            Tolerance { broken_pipe, ..Tolerance::default() }.excuse(FAIL, reader_left) == StageExit::BrokenPipe
        };
        assert!(excused(BrokenPipe::ExcuseAny, true));
        assert!(!excused(BrokenPipe::ExcuseAny, false));
        assert!(!excused(BrokenPipe::Excuse, true));
        assert!(!excused(BrokenPipe::Error, true));
    }

    #[test]
    fn accepted_codes_are_good() {
        let tolerance = Tolerance { ok_exit: vec![1], ignore: vec![Ignore::Exit(7)], ..Tolerance::default() };
        assert_eq!(tolerance.judge(&FAIL), Verdict::Good);
        assert_eq!(tolerance.judge(&StageExit::Exit { code: 7 }), Verdict::Good);
        assert_eq!(tolerance.judge(&StageExit::Exit { code: 2 }), Verdict::Bad);
    }
}
