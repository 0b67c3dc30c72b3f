//! The pipeline file's shape. One set of types serves reading, validation and the JSON Schema.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Bound, GrantsSpec, LimitsSpec, Size, Span};

/// A pipeline file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", schemars(title = "stagehost pipeline"))]
pub struct PipelineSpec {
    /// Where the schema of this file is; not read.
    #[serde(rename = "$schema")]
    pub schema: Option<String>,
    /// The version of the file's format: 1.
    pub version: u64,
    /// The pipeline's name, for reports.
    pub name: Option<String>,
    /// What the pipeline is for, for people.
    pub description: Option<String>,
    /// The stages, first to last. Without any, stdin is copied to stdout.
    pub stages: Vec<StageSpec>,
    /// What the first stage reads. Default: the host's own standard input.
    pub stdin: Option<StdinSpec>,
    /// What takes the last stage's output. Default: the host's own standard output.
    pub stdout: Option<StdoutSpec>,
    /// Environment variables for every stage; null removes one.
    pub env: Option<BTreeMap<String, Option<String>>>,
    /// The directory that commands run in, relative to this file. Default: this file's own.
    pub dir: Option<String>,
    /// Limits for every stage that sets none of its own.
    pub limits: Option<LimitsSpec>,
    /// How long the whole run may take. Default: as long as it likes.
    pub timeout: Option<Bound<Span>>,
    /// What the first failure does to the other stages. Default: cancel.
    pub on_failure: Option<OnFailure>,
    /// How long a stage may take to end after it was asked to; then it is killed. Default: 2s.
    pub kill_after: Option<Span>,
    /// How long what commands leave behind may go on after the last stage ended. Default: 2s.
    pub linger: Option<Span>,
    /// What becomes of the stages before the last one when that has ended well. Default: they run on.
    pub upstream: Option<Upstream>,
    /// The capacity of every ring, rounded up to a power of two from 4 KiB to 64 MiB (default 256 KiB), and of every pipe
    /// (default 1 MiB, or what the system allows).
    pub buffer: Option<Size>,
    /// Whether it was written in shorthand: messages name stock stages as that does.
    #[serde(skip)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    pub(crate) is_shorthand: bool,
}

/// One stage: exactly one of `wasm`, `command` and `pipeline`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct StageSpec {
    /// A component or preview1 module: a path, or `builtin:NAME` for a stock stage.
    pub wasm: Option<String>,
    /// An ordinary program and its arguments. A program with a slash is relative to the stage's `dir`, any other is looked
    /// for on the stage's own PATH.
    pub command: Option<Vec<String>>,
    /// Another pipeline file, whose stages stand here; its ends become the joints.
    pub pipeline: Option<String>,
    /// A function of the program that embeds the library, by its index there; not in files.
    #[serde(skip)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    pub(crate) function: Option<usize>,
    /// The SHA-256 digest, in hexadecimal, that the `.wasm` file or the program's file must have.
    pub sha256: Option<String>,
    /// The stage's name; unique. Default: the file's name.
    pub name: Option<String>,
    /// The stage's arguments, without a program name. A command's stand in `command`.
    pub args: Option<Vec<String>>,
    /// What a wasm stage sees as its program's name. Default: the file's name; of a stock stage its own.
    pub argv0: Option<String>,
    /// Whether a wasm stage is told which of its streams are a terminal, if they are. Default: it is told that none is.
    pub terminal: Option<bool>,
    /// The directory that a command runs in, relative to this file. Default: the pipeline's `dir`.
    pub dir: Option<String>,
    /// Environment variables, over the pipeline's; null removes one.
    pub env: Option<BTreeMap<String, Option<String>>>,
    /// The stage's limits, over the pipeline's.
    pub limits: Option<LimitsSpec>,
    /// The stage's rights. A wasm stage has no others; a command is held to them by its `sandbox`.
    pub grants: Option<GrantsSpec>,
    /// A wall around a command: no new privileges, only the directories and TCP ports of its `grants` besides the system's
    /// own programs and libraries, no plainly dangerous system calls. Default: none.
    pub sandbox: Option<Sandboxing>,
    /// What the stage needs its ends to be.
    pub requires: Option<RequiresSpec>,
    /// The capacity of the ring or pipe that this stage writes.
    pub buffer: Option<Size>,
    /// Where the stage's standard error goes. Default: `"tee"` on the command line, `"capture"` in the library.
    pub stderr: Option<StderrSpec>,
    /// Exit codes that are no failure, besides 0: a list, or `"declared"` for those that the component declares. Default: none; of a stock
    /// stage those that it declares.
    pub ok_exit: Option<OkExit>,
    /// Ways to end that are no failure: `"exit:N"`, `"signal:NAME"`, `"broken-pipe"`.
    pub ignore: Option<Vec<Ignore>>,
    /// What a broken pipe on the stage's output means. Default: excuse.
    pub broken_pipe: Option<BrokenPipe>,
    /// What a trap of a wasm stage means for its output. Default: fail.
    pub on_trap: Option<OnTrap>,
    /// When the reader of a command's output sees its end. Default: when the command's exit is known to be good.
    pub eof: Option<Eof>,
    /// What becomes of the processes that a command leaves behind. Default: kill.
    pub leftovers: Option<Leftovers>,
}

/// Exit codes that are no failure, besides 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OkExit {
    /// Those that the component declares in its section.
    Declared,
    /// These. A stock stage's own go with them.
    Codes(Vec<u8>),
}

/// What a trap of a stage means for its output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum OnTrap {
    /// It is a failure.
    #[default]
    Fail,
    /// What was written stands as a clean end; the report still says trap.
    Finish,
}

/// The wall that the kernel builds around a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Sandboxing {
    /// All of it, or the plan is refused.
    Strict,
    /// As much of it as this kernel has; the report says what is missing.
    BestEffort,
}

/// What a stage needs its ends to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RequiresSpec {
    /// What stdin must be.
    pub stdin: Option<Requirement>,
    /// What stdout must be.
    pub stdout: Option<Requirement>,
}

/// What a stage says of its stdin or stdout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Requirement {
    /// Anything will do: a ring beside another stage that takes anything, else a pipe.
    #[default]
    Any,
    /// A descriptor of the system is wanted, and at an end a file: what commands say.
    PreferFile,
    /// Nothing may be connected here.
    Forbid,
}

/// What the first failure does to the other stages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// They are stopped at once.
    #[default]
    Cancel,
    /// They go on with what there is; the run fails all the same.
    Drain,
}

/// What becomes of the stages before the last one when that has ended well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Upstream {
    /// They run on, until they notice that their reader is gone.
    #[default]
    Run,
    /// They are stopped, which is no failure.
    Stop,
}

/// When the reader of a command's output sees its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Eof {
    /// When the command's exit is known to be good.
    #[default]
    Exit,
    /// As in a shell: as soon as all its writers have closed it, whatever becomes of the command.
    Early,
}

/// What becomes of the processes that a command leaves behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Leftovers {
    /// They are killed once they have lingered long enough.
    #[default]
    Kill,
    /// They are left alone.
    Keep,
}

/// What a broken pipe on a stage's output means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum BrokenPipe {
    /// No failure, if the stage ended because of it and its reader had what it wanted.
    #[default]
    Excuse,
    /// No failure, whatever the stage does after its reader left.
    ExcuseAny,
    /// A failure.
    Error,
}

/// A way to end that is no failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignore {
    /// `"exit:N"`: this exit code.
    Exit(u8),
    /// `"signal:NAME"`: death of this signal.
    Signal(i32),
    /// `"broken-pipe"`: a broken pipe.
    BrokenPipe,
}

/// What the first stage reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StdinSpec {
    /// The host's own standard input.
    #[default]
    Inherit,
    /// Nothing.
    Null,
    /// A file.
    File(String),
    /// This text.
    Text(String),
    /// Any of these, and how it must end.
    Declared(Box<Self>, Declared),
}

/// What is known of an input: one that ends otherwise is an error, and nothing that depends on it is committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// How many bytes there are.
    pub bytes: Option<u64>,
    /// Their SHA-256 digest, as 64 hexadecimal digits.
    pub sha256: Option<String>,
}

/// What takes the last stage's output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StdoutSpec {
    /// The host's own standard output.
    #[default]
    Inherit,
    /// Nothing keeps it.
    Null,
    /// A file.
    File(FileSink),
}

/// A file that takes output.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct FileSink {
    /// The file's path.
    pub file: String,
    /// Whether to write behind what the file has. Default: false.
    pub append: Option<bool>,
    /// Whether the file appears only when the run succeeded, and whole. Default: true, unless `append`.
    pub atomic: Option<bool>,
}

/// Where a stage's standard error goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StderrSpec {
    /// To the host's standard error, and a bounded tail to the report.
    Tee,
    /// A bounded tail to the report.
    Capture,
    /// To the host's standard error.
    Inherit,
    /// Nowhere.
    Null,
    /// To a file, which is appended to.
    File(String),
}
