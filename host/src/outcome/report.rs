//! The outcome of a run, as the report has it.

use serde::Serialize;
use stagehost_ring::Counters;

use super::{ExitCode, InputPlace, Origin, StageExit};
use crate::joint::JointKind;

/// How a whole run ended.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Outcome {
    /// The version of this report's format: 1.
    pub version: u32,
    /// The pipeline's name.
    pub name: Option<String>,
    /// What the run was called by the program that started it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Whether the run succeeded: the output is whole, and in its place.
    pub success: bool,
    /// The exit code of `stagehost run`.
    pub exit_code: u8,
    /// Where the exit code comes from.
    pub origin: Origin,
    /// What ended the run, for programs: `ok`, the `kind` of the blamed stage's exit (`limit`, `start-failed`, …), `timed-out`,
    /// `signal`, `cancelled`, `end-failed` for an input or output, or the [`ErrorCode`](crate::ErrorCode) of a plan that could not
    /// be made or of a run that was not let in (`busy`, `over-memory`, `shutting-down`).
    pub code: String,
    /// What to say about it; empty for a plain success.
    pub message: String,
    /// The file of the host that the message names.
    pub path: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// The name of the stage to blame; one of a nested pipeline has that one's name before it.
    pub blamed: Option<String>,
    /// Whether sandboxed stages ran so that the same input gives the same output on every run.
    pub deterministic: bool,
    /// Whether the run's timeout ended it.
    pub timed_out: bool,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether whoever read the inherited standard output left before the end.
    pub stdout_closed: bool,
    /// How long the run took, in milliseconds.
    pub duration_ms: u64,
    /// The stages, first to last, nested as the file nests them.
    pub stages: Vec<StageReport>,
    /// The joints between the stages, first to last.
    pub joints: Vec<JointReport>,
}

/// How one stage ended, and what it used.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct StageReport {
    /// The stage's name. A stage of a nested pipeline has that one's name before it.
    pub name: String,
    /// `wasm`, `command`, `function` or `pipeline`.
    pub kind: &'static str,
    /// What it runs: a component, a program's path, a pipeline's file.
    pub runs: String,
    /// How it ended. A nested pipeline ends as the stage of it that is to blame, or as its last one.
    pub exit: StageExit,
    /// Whether that was no failure.
    pub accepted: bool,
    /// Bytes handed to it; null: not known, as for what a command reads by itself.
    pub input_bytes: Option<u64>,
    /// Bytes taken from it; null: not known.
    pub output_bytes: Option<u64>,
    /// The most memory it held at once, in bytes, for a command its whole process tree; null: not measured, because it
    /// was stopped, never started, or ended before anybody looked.
    pub peak_memory_bytes: Option<u64>,
    /// The processor time of a wasm stage, or of a command and what it waited for, in milliseconds; null: not measured.
    pub cpu_ms: Option<u64>,
    /// The instructions of a wasm stage that came to an end of its own, as wasmtime counts them; null: not counted.
    pub fuel: Option<u64>,
    /// Where a wasm stage was when it reached a limit while it ran: its call stack, as a trap has it.
    pub frames: Vec<String>,
    /// Where the input of a wasm stage was when it reached a limit. A trap has its own.
    pub at: Option<InputPlace>,
    /// How long it lived, in milliseconds; null: not measured.
    pub duration_ms: Option<u64>,
    /// What it printed on standard error: the first and the last 32 KiB.
    pub stderr: String,
    /// What else is to be said of it, such as of processes that it left behind.
    pub notes: Vec<String>,
    /// What matters if it failed, such as memory that it was refused, or to who looks closer.
    pub remarks: Vec<String>,
    /// The stages of a nested pipeline.
    pub stages: Vec<Self>,
}

/// What one joint did.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct JointReport {
    /// The stage that wrote it.
    pub from: String,
    /// The stage that read it.
    pub to: String,
    /// A ring or a pipe.
    pub kind: JointKind,
    /// Its capacity in bytes; null: it was never made.
    pub capacity: Option<u64>,
    /// Bytes that went through; null: not known, as between two commands.
    pub bytes: Option<u64>,
    /// What more is known of a ring.
    pub ring: Option<RingReport>,
}

/// What one ring did.
#[derive(Clone, Copy, Debug, Serialize)]
#[non_exhaustive]
pub struct RingReport {
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
    pub(crate) fn new(counters: Counters) -> Self {
        let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
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
            label: None,
            success: false,
            exit_code: exit_code as u8,
            origin: Origin::Host,
            code: "failed".into(),
            message,
            path: None,
            hint,
            blamed: None,
            deterministic: false,
            timed_out: false,
            signal: None,
            stdout_closed: false,
            duration_ms: 0,
            stages: Vec::new(),
            joints: Vec::new(),
        }
    }

    /// The message without the path in it, for those who are not to see the host's paths. The hint may have some too.
    pub fn message_without_path(&self) -> String {
        match &self.path {
            Some(path) => self.message.replace(path.as_str(), "a file of the host"),
            None => self.message.clone(),
        }
    }

    /// The report of the stage of that name, in nested pipelines too.
    pub fn stage(&self, name: &str) -> Option<&StageReport> {
        fn find<'a>(stages: &'a [StageReport], name: &str) -> Option<&'a StageReport> {
            stages.iter().find_map(|stage| if stage.name == name { Some(stage) } else { find(&stage.stages, name) })
        }
        find(&self.stages, name)
    }
}
