//! The command line's words.

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
    time::Duration,
};

use clap::{
    Args, Parser, Subcommand,
    builder::{OsStringValueParser, TypedValueParser},
};
use stagehost::spec::{Bound, LimitsSpec, Size, parse_duration, to_text};

/// What this program calls itself with to compile a component. Not for people.
pub(crate) const COMPILE: &str = "compile-worker";

/// Runs pipelines of sandboxed WebAssembly stages and ordinary programs.
#[derive(Debug, Parser)]
#[command(name = "stagehost", version, max_term_width = 100, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// The same for `run` alone. Describing the other verbs too takes a noticeable part of a short run.
#[derive(Debug, Parser)]
#[command(name = "stagehost", version, max_term_width = 100)]
pub(crate) struct RunOnly {
    #[command(subcommand)]
    pub(crate) verb: RunVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RunVerb {
    /// Run a pipeline.
    #[command(after_help = RUN_HELP)]
    Run(RunArgs),
}

const AFTER_HELP: &str = "\
Examples:
  stagehost run examples/top-words.json < README.md
  stagehost run -c ':grep -i error | sort | uniq -c' --stdin app.log
  stagehost plan pipeline.json
  stagehost inspect builtin:grep";

const RUN_HELP: &str = "\
Examples:
  stagehost run pipeline.json < in.txt > out.txt
  stagehost run pipeline.json --stdin in.txt --stdout out.txt   (out.txt appears whole or not at all)
  stagehost run -c ':words | :lower | :count --top 10' < book.txt
  generate-pipeline | stagehost run - --stdin in.txt

Exit codes:
  0    success                            134  a stage trapped
  78   bad pipeline file                  137  a stage reached its memory limit, or held too much
  124  timeout, wall_time, stall_time     152  a stage used up its cpu_time or fuel
  125  the host's own failure, or usage   153  a stage read or wrote more than it may
  126  refused: digest, lock, policy,     128+n  died of signal n
       grant, not a stage or program      else the exit code of the stage to blame
  127  a stage was not found";

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run a pipeline.
    #[command(after_help = RUN_HELP)]
    Run(RunArgs),
    /// Check a pipeline file without running anything, and say all that is wrong with it.
    #[command(after_help = "Examples:\n  stagehost check pipeline.json\n  stagehost check pipeline.json --json")]
    Check(CheckArgs),
    /// Show what would run: stages, programs, digests, limits, joints, worst-case memory.
    #[command(after_help = "Examples:\n  stagehost plan pipeline.json\n  stagehost plan -c ':words | :count' --json")]
    Plan(PlanArgs),
    /// Show what a .wasm file is: how it runs, its imports and exports, what it says of itself.
    #[command(after_help = "Examples:\n  stagehost inspect plugin.wasm\n  stagehost inspect builtin:grep --json")]
    Inspect(InspectArgs),
    /// Write stagehost.lock beside a pipeline: what its components are, import and ask for.
    #[command(after_help = "Example:\n  stagehost lock pipeline.json && stagehost run pipeline.json --locked")]
    Lock(PipelineArgs),
    /// List the stock stages.
    Stages,
    /// Print the JSON Schema of the pipeline file, or of a policy.
    Schema {
        /// Whose schema.
        #[arg(default_value = "pipeline", value_parser = ["pipeline", "policy"])]
        of: String,
    },
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false, id = "what")]
pub(crate) struct What {
    /// The pipeline file; `-` reads it from standard input.
    pub(crate) pipeline: Option<PathBuf>,
    /// The pipeline in shorthand: stages separated by `|`; `:name` is a stock stage, `path.wasm` a component, anything else
    /// a command.
    #[arg(short = 'c', value_name = "STAGES")]
    pub(crate) command: Option<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct PipelineArgs {
    #[command(flatten)]
    pub(crate) what: What,
    /// What the first stage reads: a file, `null`, or `-` for standard input. Default: what the pipeline says, else standard input.
    #[arg(long, value_name = "FILE|null|-")]
    pub(crate) stdin: Option<PathBuf>,
    /// How many bytes the input has: one that ends sooner, or goes on, is an error. (A pipe cannot say that its writer was killed.)
    #[arg(long, value_name = "N")]
    pub(crate) stdin_bytes: Option<Size>,
    /// The SHA-256 digest of the input: another one is an error.
    #[arg(long, value_name = "HEX", value_parser = sha256)]
    pub(crate) stdin_sha256: Option<String>,
    /// What takes the output: a file, which appears whole or not at all, `null`, or `-` for standard output.
    #[arg(long, value_name = "FILE|null|-")]
    pub(crate) stdout: Option<PathBuf>,
    /// The directory that paths in the pipeline are relative to, and that commands run in. Default: the pipeline file's.
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<PathBuf>,
    /// How long the run may take: 250ms, 30s, 1m30s, or none.
    #[arg(long, value_name = "DURATION", value_parser = timeout)]
    pub(crate) timeout: Option<Timeout>,
    /// An environment variable for every stage.
    #[arg(long, value_name = "KEY=VALUE", value_parser = OsStringValueParser::new().try_map(|text| key_value(&text)))]
    pub(crate) env: Vec<(String, String)>,
    /// A limit, of every stage or of the named one, such as memory=64MiB or sort.cpu_time=10s.
    #[arg(long, value_name = "[STAGE.]LIMIT=VALUE", value_parser = OsStringValueParser::new().try_map(|text| limit(&to_text(text))))]
    pub(crate) limit: Vec<LimitArg>,
    /// An exit code of a stage that is no failure.
    #[arg(long, value_name = "STAGE=CODE", value_parser = OsStringValueParser::new().try_map(|text| ok_exit(&to_text(text))))]
    pub(crate) ok_exit: Vec<(String, u8)>,
    /// A file that says what pipelines may ask for; what they ask for beyond it is refused.
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    /// That file, once it was read.
    #[arg(skip)]
    pub(crate) policy_read: std::cell::OnceCell<stagehost::Policy>,
    /// Refuse components that are not those of the stagehost.lock beside the pipeline: their digests, imports and the rights they
    /// ask for. What the pipeline file itself says is not locked.
    #[arg(long)]
    pub(crate) locked: bool,
    /// The same input gives the same output on every run: sandboxed stages count instructions instead of time, and see a frozen
    /// clock and seeded random numbers unless the file grants others.
    #[arg(long)]
    pub(crate) deterministic: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
    /// Stop when the process that started this one ends, and commit nothing after that.
    #[arg(long)]
    pub(crate) die_with_parent: bool,
    /// Write the outcome as JSON to this file, whole or not at all.
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Write the outcome as JSON to this descriptor.
    #[arg(long, value_name = "FD", conflicts_with = "report")]
    pub(crate) report_fd: Option<u32>,
    /// Write a wasm core dump of each sandboxed stage that traps, or runs out of memory, cpu_time or fuel, into this directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) coredump: Option<PathBuf>,
    /// A delegated cgroup v2 directory in which commands get cgroups of their own. Default: this process's own, if the
    /// system has delegated it.
    #[arg(long, value_name = "DIR")]
    pub(crate) cgroup: Option<PathBuf>,
    /// Whether the lines that stages print begin with their stage's name. auto: those of sandboxed stages, on a terminal and with -v.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Prefix::Auto)]
    pub(crate) stderr_prefix: Prefix,
    /// Print nothing but what stages print.
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Say how every stage ended, and what the rings did.
    #[arg(short, long, conflicts_with = "quiet")]
    pub(crate) verbose: bool,
}

/// When stages' names stand before their lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Prefix {
    Always,
    Never,
    Auto,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
    /// As JSON, for tools.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
    /// Everything, not only what differs from the defaults.
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// As JSON, for tools.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// A .wasm file, or builtin:NAME.
    pub(crate) wasm: OsString,
    /// As JSON, for tools.
    #[arg(long)]
    pub(crate) json: bool,
}

/// A timeout on the command line: a type of its own, because clap gives `Option` a meaning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeout(pub(crate) Bound<Duration>);

/// A limit on the command line.
#[derive(Clone, Debug)]
pub(crate) struct LimitArg {
    pub(crate) stage: Option<String>,
    /// The one limit, with all others left alone.
    pub(crate) limits: LimitsSpec,
}

fn plain(message: String) -> String {
    // In the file a hint is shown on its own line.
    message.replace('\u{1f}', "; ")
}

fn sha256(text: &str) -> Result<String, String> {
    let is_digest = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_digest.then(|| text.to_owned()).ok_or_else(|| "a SHA-256 digest is 64 hexadecimal digits".into())
}

fn timeout(text: &str) -> Result<Timeout, String> {
    if text == "none" {
        return Ok(Timeout(Bound::None));
    }
    parse_duration(text).map(|duration| Timeout(Bound::At(duration))).map_err(plain)
}

fn key_value(text: &OsStr) -> Result<(String, String), String> {
    match to_text(text).split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".into()),
    }
}

fn limit(text: &str) -> Result<LimitArg, String> {
    let (name, value) = text.split_once('=').ok_or("write LIMIT=VALUE or STAGE.LIMIT=VALUE, such as memory=64MiB")?;
    let (stage, limit) = match name.rsplit_once('.') {
        Some((stage, limit)) => (Some(stage.to_owned()), limit),
        None => (None, name),
    };
    let limits = LimitsSpec::of(limit, value).map_err(plain)?;
    Ok(LimitArg { stage, limits })
}

fn ok_exit(text: &str) -> Result<(String, u8), String> {
    let (stage, code) = text.rsplit_once('=').ok_or("write STAGE=CODE")?;
    let code = code.parse().map_err(|_| format!("{code:?} is no exit code from 0 to 255"))?;
    Ok((stage.to_owned(), code))
}
