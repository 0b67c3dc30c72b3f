//! From a [`PipelineSpec`] to a [`Plan`]: names, requirements, joints, and a look at everything the run will need.
//!
//! Nothing is opened for the run, compiled or started here; component files are read, because what they are decides
//! whether the plan holds.

use std::{
    collections::{BTreeMap, HashMap},
    fmt, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use serde::Serialize;
use stagehost_ring::Capacity;

use crate::{
    joint::Output,
    outcome::{ExitCode, Tolerance},
    sandbox::{DEFAULT_MEMORY, FIXED_ALLOWANCE, Inspection, Limits, Sandbox, inspect},
    spec::{
        Bound, FileSink, LimitsSpec, OnFailure, PipelineSpec, Place, Requirement, StageSpec, StderrSpec, StdinSpec,
        StdoutSpec, nearest,
    },
    stock,
};

/// The largest component file that is loaded, in bytes.
const MAX_COMPONENT_BYTES: u64 = 64 << 20;

/// What a plan cannot be made of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct PlanError {
    /// The place in the pipeline file.
    pub place: String,
    /// What is wrong there.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// What kind of trouble it is.
    pub kind: PlanErrorKind,
}

/// What kind of trouble a [`PlanError`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanErrorKind {
    /// The pipeline cannot be as it is written.
    Pipeline,
    /// A stage does not exist.
    NotFound,
    /// A stage is refused: its digest, or what its file is.
    Refused,
    /// An end cannot be used.
    End,
}

impl PlanError {
    fn new(kind: PlanErrorKind, place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place: place.into(), message: message.into(), hint: None, kind }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The exit code it gives `stagehost run`.
    pub fn exit_code(&self) -> ExitCode {
        match self.kind {
            PlanErrorKind::Pipeline => ExitCode::BadPipeline,
            PlanErrorKind::NotFound => ExitCode::NotFound,
            PlanErrorKind::Refused => ExitCode::Refused,
            PlanErrorKind::End => ExitCode::Host,
        }
    }
}

/// A pipeline after negotiation and before anything is opened, compiled or started.
#[derive(Debug)]
pub struct Plan {
    pub(crate) name: Option<String>,
    pub(crate) stages: Vec<PlannedStage>,
    pub(crate) stdin: Input,
    pub(crate) stdout: Output,
    /// Whether the output goes nowhere.
    pub(crate) stdout_null: bool,
    /// The output as messages name it.
    pub(crate) stdout_name: String,
    pub(crate) timeout: Option<Duration>,
    pub(crate) on_failure: OnFailure,
}

/// What the first stage will read.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    Inherit,
    Null,
    File(PathBuf),
    Text(Bytes),
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inherit => f.write_str("standard input"),
            Self::Null => f.write_str("nothing"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Text(text) => write!(f, "a text of {} bytes", text.len()),
        }
    }
}

/// A stage that can run.
#[derive(Debug)]
pub(crate) struct PlannedStage {
    pub(crate) name: String,
    pub(crate) source: String,
    pub(crate) bytes: Bytes,
    pub(crate) digest: [u8; 32],
    pub(crate) inspection: Inspection,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) limits: Limits,
    pub(crate) tolerance: Tolerance,
    pub(crate) stderr: Option<StderrSpec>,
    /// The file it prints to, if `stderr` names one.
    pub(crate) log: Option<PathBuf>,
    /// The capacity of the ring it writes, if a stage follows.
    pub(crate) ring: Capacity,
}

impl Plan {
    /// Makes a plan. Relative paths in `spec` are relative to `base`.
    ///
    /// # Errors
    ///
    /// The first thing that would keep the run from starting.
    pub fn new(spec: &PipelineSpec, base: &Path) -> Result<Self, PlanError> {
        let root = Place::root();
        let mut files = HashMap::new();
        let names = spec.stage_names();
        let mut stages = Vec::with_capacity(spec.stages.len());
        for (index, stage) in spec.stages.iter().enumerate() {
            stages.push(plan_stage(spec, stage, &root.key("stages").index(index), base, &mut files, &names[index])?);
        }
        check_requirements(spec)?;
        let stdin = plan_stdin(spec.stdin.as_ref(), base, &root.key("stdin"))?;
        let place = root.key("stdout");
        let (stdout, stdout_name) = match spec.stdout.as_ref().unwrap_or(&StdoutSpec::Inherit) {
            StdoutSpec::Inherit => (Output::Inherit, "standard output".to_owned()),
            StdoutSpec::Null => (Output::Inherit, "nothing".to_owned()),
            StdoutSpec::File(file) => (plan_stdout(file, base, &place)?, base.join(&file.file).display().to_string()),
        };
        Ok(Self {
            name: spec.name.clone(),
            stages,
            stdin,
            stdout,
            stdout_null: spec.stdout == Some(StdoutSpec::Null),
            stdout_name,
            timeout: spec.timeout.and_then(Bound::value).map(|span| span.0),
            on_failure: spec.on_failure.unwrap_or_default(),
        })
    }

    /// The plan for tools and people.
    pub fn summary(&self) -> PlanSummary {
        let last = self.stages.len().saturating_sub(1);
        let stages: Vec<_> = self.stages.iter().enumerate().map(|(index, stage)| stage.summary(index < last)).collect();
        let worst = |memory: Option<u64>| memory.map(|memory| memory.saturating_add(FIXED_ALLOWANCE));
        let worst_case =
            stages.iter().map(|stage| worst(stage.memory_bytes).map(|memory| memory + stage.ring_bytes.unwrap_or(0)));
        PlanSummary {
            name: self.name.clone(),
            stdin: self.stdin.to_string(),
            stdout: self.stdout_name.clone(),
            timeout_ms: self.timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
            worst_case_memory_bytes: worst_case.sum(),
            host_allowance_bytes: FIXED_ALLOWANCE,
            stages,
        }
    }
}

/// A [`Plan`] as `stagehost plan` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct PlanSummary {
    /// The pipeline's name.
    pub name: Option<String>,
    /// What the first stage reads.
    pub stdin: String,
    /// What takes the last stage's output.
    pub stdout: String,
    /// The run's timeout in milliseconds; null: none.
    pub timeout_ms: Option<u64>,
    /// What all stages and rings may hold together at most, in bytes; null: a stage has no limit.
    pub worst_case_memory_bytes: Option<u64>,
    /// What the host may hold for each stage besides its own memory, in bytes.
    pub host_allowance_bytes: u64,
    /// The stages, first to last.
    pub stages: Vec<StageSummary>,
}

/// A planned stage as `stagehost plan` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct StageSummary {
    /// The stage's name.
    pub name: String,
    /// What it runs.
    pub wasm: String,
    /// The digest of what it runs, SHA-256 in hexadecimal.
    pub sha256: String,
    /// How it is run.
    pub shape: crate::sandbox::Shape,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    /// Its memory limit in bytes; null: none.
    pub memory_bytes: Option<u64>,
    /// Exit codes that are no failure, besides 0.
    pub ok_exit: Vec<u8>,
    /// The capacity of the ring to the next stage, in bytes; null for the last.
    pub ring_bytes: Option<u64>,
}

impl PlannedStage {
    fn summary(&self, followed: bool) -> StageSummary {
        StageSummary {
            name: self.name.clone(),
            wasm: self.source.clone(),
            sha256: hex(&self.digest),
            shape: self.inspection.shape,
            args: self.args.clone(),
            env: self.env.iter().cloned().collect(),
            memory_bytes: self.limits.memory,
            ok_exit: self.tolerance.ok_exit.clone(),
            ring_bytes: followed.then_some(self.ring.bytes() as u64),
        }
    }
}

pub(crate) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A `.wasm` file that was read and looked at.
type Found = (Bytes, [u8; 32], Inspection);

fn plan_stage(
    spec: &PipelineSpec,
    stage: &StageSpec,
    place: &Place,
    base: &Path,
    files: &mut HashMap<String, Found>,
    name: &str,
) -> Result<PlannedStage, PlanError> {
    let wasm = stage.wasm.clone().unwrap_or_default();
    let (bytes, digest, inspection) = match files.get(&wasm) {
        Some(found) => found.clone(),
        None => {
            let found = find(&wasm, &place.key("wasm"), base)?;
            files.insert(wasm.clone(), found.clone());
            found
        }
    };
    if let Some(expected) = &stage.sha256
        && !expected.eq_ignore_ascii_case(&hex(&digest))
    {
        let message = format!("{wasm} has the digest {}", hex(&digest));
        return Err(PlanError::new(PlanErrorKind::Refused, place.key("sha256"), message)
            .hint("it is not the file this pipeline was written for; if it should be, change the digest"));
    }
    let mut args = vec![name.to_owned()];
    args.extend(stage.args.iter().flatten().cloned());
    let mut env = BTreeMap::new();
    for (key, value) in [&spec.env, &stage.env].into_iter().flatten().flatten() {
        match value {
            Some(value) => env.insert(key.clone(), value.clone()),
            None => env.remove(key),
        };
    }
    let mut ok_exit = inspection.section.ok_exit.clone();
    ok_exit.extend(stage.ok_exit.iter().flatten());
    ok_exit.sort_unstable();
    ok_exit.dedup();
    let buffer = stage.buffer.or(spec.buffer);
    Ok(PlannedStage {
        name: name.to_owned(),
        source: wasm,
        bytes,
        digest,
        inspection,
        args,
        env: env.into_iter().collect(),
        limits: limits(stage.limits.as_ref(), spec.limits.as_ref()),
        tolerance: Tolerance {
            ok_exit,
            ignore: stage.ignore.clone().unwrap_or_default(),
            broken_pipe: stage.broken_pipe.unwrap_or_default(),
        },
        stderr: stage.stderr.clone(),
        log: match &stage.stderr {
            Some(StderrSpec::File(path)) => Some(base.join(path)),
            _ => None,
        },
        ring: buffer
            .map_or(Capacity::default(), |size| Capacity::at_least(usize::try_from(size.0).unwrap_or(usize::MAX))),
    })
}

fn limits(stage: Option<&LimitsSpec>, pipeline: Option<&LimitsSpec>) -> Limits {
    let memory = [stage, pipeline].into_iter().flatten().find_map(|limits| limits.memory);
    Limits {
        memory: match memory {
            None => Some(DEFAULT_MEMORY),
            Some(Bound::None) => None,
            Some(Bound::At(size)) => Some(size.0),
        },
    }
}

fn find(wasm: &str, place: &Place, base: &Path) -> Result<Found, PlanError> {
    let bytes = match wasm.strip_prefix("builtin:") {
        Some(name) => Bytes::from_static(find_stock(name, place)?.wasm),
        None => read_stage(wasm, &base.join(wasm), place)?.into(),
    };
    let inspection = inspect(&bytes).map_err(|refused| PlanError {
        hint: refused.hint,
        ..PlanError::new(PlanErrorKind::Refused, place, format!("{wasm}: {}", refused.message))
    })?;
    let digest = Sandbox::digest(&bytes);
    Ok((bytes, digest, inspection))
}

fn find_stock(name: &str, place: &Place) -> Result<&'static stock::StockStage, PlanError> {
    stock::find(name).ok_or_else(|| {
        let known = || stock::STOCK.iter().map(|stage| stage.name);
        let list = known().collect::<Vec<_>>().join(", ");
        let guess = nearest(name, known()).map(|name| format!("did you mean builtin:{name}? ")).unwrap_or_default();
        PlanError::new(PlanErrorKind::NotFound, place, format!("there is no stock stage {name:?}"))
            .hint(format!("{guess}there are: {list}"))
    })
}

fn read_stage(wasm: &str, path: &Path, place: &Place) -> Result<Vec<u8>, PlanError> {
    read_component(path).map_err(|error| {
        if error.kind() != io::ErrorKind::NotFound {
            return PlanError::new(PlanErrorKind::Refused, place, format!("{wasm} cannot be read: {error}"));
        }
        let stock = stock::find(wasm).map(|stage| format!("the stock stage is \"builtin:{}\"", stage.name));
        PlanError::new(PlanErrorKind::NotFound, place, format!("{wasm} does not exist"))
            .hint(stock.unwrap_or_else(|| format!("looked for {}", path.display())))
    })
}

/// Reads a component's file: a regular file of bounded size.
///
/// # Errors
///
/// What the system says, or what the file is instead.
pub fn read_component(path: &Path) -> io::Result<Vec<u8>> {
    let metadata = fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    if metadata.len() > MAX_COMPONENT_BYTES {
        let message = format!("it has {} bytes, and at most {MAX_COMPONENT_BYTES} are loaded", metadata.len());
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    fs::read(path)
}

/// Applies the matrix of requirements: two sandboxed stages always get a ring; `forbid` beside a stage is a conflict.
fn check_requirements(spec: &PipelineSpec) -> Result<(), PlanError> {
    let last = spec.stages.len().saturating_sub(1);
    for (index, stage) in spec.stages.iter().enumerate() {
        let Some(requires) = &stage.requires else { continue };
        let place = Place::root().key("stages").index(index).key("requires");
        let first_is_fed = spec.stdin != Some(StdinSpec::Null);
        if requires.stdin == Some(Requirement::Forbid) && (index > 0 || first_is_fed) {
            let hint = if index > 0 {
                "put the stage first, with \"stdin\": \"null\""
            } else {
                "give the pipeline \"stdin\": \"null\""
            };
            let message = "the stage forbids a connected stdin, and one is connected";
            return Err(PlanError::new(PlanErrorKind::Pipeline, place.key("stdin"), message).hint(hint));
        }
        let last_is_taken = spec.stdout != Some(StdoutSpec::Null);
        if requires.stdout == Some(Requirement::Forbid) && (index < last || last_is_taken) {
            let hint = if index < last {
                "put the stage last, with \"stdout\": \"null\""
            } else {
                "give the pipeline \"stdout\": \"null\""
            };
            let message = "the stage forbids a connected stdout, and one is connected";
            return Err(PlanError::new(PlanErrorKind::Pipeline, place.key("stdout"), message).hint(hint));
        }
    }
    Ok(())
}

fn plan_stdin(stdin: Option<&StdinSpec>, base: &Path, place: &Place) -> Result<Input, PlanError> {
    match stdin.unwrap_or(&StdinSpec::Inherit) {
        StdinSpec::Inherit => Ok(Input::Inherit),
        StdinSpec::Null => Ok(Input::Null),
        StdinSpec::Text(text) => Ok(Input::Text(Bytes::copy_from_slice(text.as_bytes()))),
        StdinSpec::File(file) => {
            let path = base.join(file);
            let refused = |message: String| PlanError::new(PlanErrorKind::End, place.key("file"), message);
            // A preflight opens nothing but regular files: opening a FIFO would wait, a device may act.
            let metadata = fs::metadata(&path).map_err(|error| refused(format!("{}: {error}", path.display())))?;
            if metadata.is_dir() {
                return Err(refused(format!("{} is a directory", path.display())));
            }
            if metadata.is_file() {
                fs::File::open(&path).map_err(|error| refused(format!("{}: {error}", path.display())))?;
            }
            Ok(Input::File(path))
        }
    }
}

fn plan_stdout(file: &FileSink, base: &Path, place: &Place) -> Result<Output, PlanError> {
    let path = base.join(&file.file);
    Output::of(&path, file.append == Some(true), file.atomic).map_err(|why| {
        PlanError::new(PlanErrorKind::End, place.key("file"), format!("{}: {why}", path.display()))
            .hint("\"atomic\": false writes in place, which may leave half a file when the run fails")
    })
}
