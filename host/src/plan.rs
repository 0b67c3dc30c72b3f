//! From a [`PipelineSpec`] to a [`Plan`]: names, requirements, joints, and a look at everything the run will need.
//!
//! Nothing is opened for the run, compiled or started here; component files and nested pipelines are read, because what
//! they are decides whether the plan holds.

mod command;
mod ends;
mod error;
mod joints;
mod layers;
mod nest;
mod summary;
mod wasm;

use std::{
    collections::HashMap,
    ffi::OsString,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

pub(crate) use command::{CommandLimits, CommandWork};
pub(crate) use ends::{Input, Outlet};
use ends::{plan_stdin, plan_stdout};
pub use error::{ErrorCode, PlanError, PlanErrorKind};
pub use joints::JointKind;
pub(crate) use joints::PlannedJoint;
pub use layers::Overrides;
use layers::{Layers, refuse_unknown_names};
pub(crate) use nest::{Group, Node};
pub use summary::{JointSummary, LimitsSummary, PlanSummary, StageSummary};
pub(crate) use wasm::WasmWork;
pub use wasm::read_component;

use crate::{
    function::Function,
    joint::{Named, Output, OutsideSink, OutsideSource},
    outcome::{Matcher, Tolerance},
    policy::Policy,
    sandbox::{CodeBudget, Limits},
    spec::{
        Bound, LimitsSpec, OkExit, OnFailure, PipelineSpec, Place, Requirement, RequiresSpec, Span, StageSpec,
        StderrSpec, StdinSpec, StdoutSpec, Upstream, to_path, to_text,
    },
};

/// What a plan is made against.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// The directory that relative paths in the pipeline are relative to. Default: the process's own.
    pub base: PathBuf,
    /// The pipeline's file, if it has one: a nested pipeline must not name it again.
    pub file: Option<PathBuf>,
    /// The environment that commands inherit, such as `std::env::vars_os()`. Default: an empty one. A sandboxed stage
    /// sees none of it.
    pub environment: Vec<(OsString, OsString)>,
    /// What is said over everything in the file. Default: nothing.
    pub overrides: Overrides,
    /// What pipelines may ask for. There is no default: whoever runs pipelines says whose they are.
    pub policy: Policy,
}

impl PlanOptions {
    /// Options with paths relative to `base`, for pipelines that may ask for what `policy` allows.
    pub fn at(base: impl Into<PathBuf>, policy: Policy) -> Self {
        let (environment, overrides) = (Vec::new(), Overrides::default());
        Self { base: base.into(), file: None, environment, overrides, policy }
    }
}

/// A pipeline after negotiation and before anything is opened, compiled or started.
#[derive(Debug)]
pub struct Plan {
    pub(crate) name: Option<String>,
    /// The stages, first to last; those of nested pipelines stand among them.
    pub(crate) stages: Vec<PlannedStage>,
    /// The stages as the file nests them.
    pub(crate) nodes: Vec<Node>,
    /// The nested pipelines, in the order of their beginnings.
    pub(crate) groups: Vec<Group>,
    /// The joints, each behind the stage of its index.
    pub(crate) joints: Vec<PlannedJoint>,
    pub(crate) stdin: Input,
    pub(crate) stdout: Outlet,
    /// The output as messages name it.
    pub(crate) stdout_name: String,
    pub(crate) timeout: Option<Duration>,
    pub(crate) on_failure: OnFailure,
    pub(crate) kill_after: Duration,
    pub(crate) linger: Duration,
    pub(crate) upstream: Upstream,
    /// Whether every sandboxed stage gives the same results on every run.
    pub(crate) deterministic: bool,
    /// What the variables and arguments of its stages take in memory, in bytes, from above.
    pub(crate) given: u64,
    /// What its components may come to when they are compiled.
    pub(crate) code_budget: Arc<CodeBudget>,
    /// How long it took to make: a part of the run's time.
    pub(crate) took: Duration,
}

/// A stage that can run.
#[derive(Debug)]
pub(crate) struct PlannedStage {
    pub(crate) name: String,
    /// Where it stands in the file, such as `stages[2]`.
    pub(crate) place: String,
    pub(crate) work: Work,
    pub(crate) tolerance: Tolerance,
    pub(crate) wall_time: Option<Duration>,
    pub(crate) stderr: Option<StderrSpec>,
    /// The file it prints to, if `stderr` names one.
    pub(crate) log: Option<Named>,
    /// What it needs its stdin and its stdout to be.
    pub(crate) requires: (Requirement, Requirement),
    /// The capacity that its file asks for in the joint it writes, in bytes.
    buffer: Option<u64>,
}

/// What a stage runs.
#[derive(Debug)]
pub(crate) enum Work {
    Wasm(Box<WasmWork>),
    Command(Box<CommandWork>),
    /// Taken when it is run, which happens once.
    Function(Mutex<Option<Function>>),
}

impl PlannedStage {
    pub(crate) fn is_command(&self) -> bool {
        matches!(self.work, Work::Command(_))
    }

    /// What it runs, for reports.
    pub(crate) fn source(&self) -> String {
        match &self.work {
            Work::Wasm(wasm) => wasm.source.clone(),
            Work::Command(command) => command.program.display().to_string(),
            Work::Function(_) => "a function".into(),
        }
    }

    pub(crate) fn kind(&self) -> &'static str {
        match &self.work {
            Work::Wasm(_) => "wasm",
            Work::Command(_) => "command",
            Work::Function(_) => "function",
        }
    }
}

/// How long a stage may take to end after it was asked to, by default.
const KILL_AFTER: Duration = Duration::from_secs(2);
/// Longer than anybody waits, and short enough to be added to any time: a hundred years.
const MOST_PATIENT: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// How long leftovers may go on, by default.
const LINGER: Duration = Duration::from_secs(2);

impl Plan {
    /// Makes a plan.
    ///
    /// # Errors
    ///
    /// The first thing that would keep the run from starting.
    pub fn new(spec: &PipelineSpec, options: &PlanOptions) -> Result<Self, PlanError> {
        Self::assemble(spec, options, Parts::default())
    }

    /// Makes a plan, and goes on where something is wrong with a stage: for telling all that is wrong, not the first of it. There is a plan
    /// only if nothing is.
    pub fn with_all_errors(spec: &PipelineSpec, options: &PlanOptions) -> (Option<Self>, Vec<PlanError>) {
        const MOST: usize = 50;
        let names = spec.stage_names();
        let mut spec = spec.clone();
        let mut errors: Vec<PlanError> = Vec::new();
        loop {
            let error = match Self::new(&spec, options) {
                Ok(plan) => return (errors.is_empty().then_some(plan), errors),
                Err(error) => error,
            };
            let index = error.place.strip_prefix("stages[").and_then(|rest| rest.split_once(']'));
            let index = index.and_then(|(index, _)| index.parse::<usize>().ok());
            let is_known = errors.contains(&error);
            let of_stdin = error.place.starts_with("stdin");
            if !is_known {
                errors.push(error);
            }
            // What is wrong is put aside; one that is wrong again is beyond that.
            match index.and_then(|index| spec.stages.get_mut(index).zip(names.get(index))) {
                _ if is_known || errors.len() >= MOST => return (None, errors),
                Some((stage, name)) => {
                    *stage = StageSpec {
                        wasm: Some("builtin:cat".into()),
                        name: Some(name.clone()),
                        ..StageSpec::default()
                    };
                }
                None if of_stdin => spec.stdin = Some(StdinSpec::Null),
                None => return (None, errors),
            }
        }
    }

    /// Makes a plan with functions and ends that no file can name.
    pub(crate) fn assemble(spec: &PipelineSpec, options: &PlanOptions, parts: Parts) -> Result<Self, PlanError> {
        let began = Instant::now();
        let Parts { functions, matchers, stdin, stdout } = parts;
        let root = Place::root();
        let said = spec.timeout.and_then(Bound::value);
        let mut planner = Planner {
            options,
            began,
            timeout: said.into_iter().chain(options.policy.timeout).map(|span| span.0).min(),
            given: 0,
            inherited: {
                let given = options.environment.iter().filter(|(key, _)| options.policy.inherits(key));
                given.map(|(key, value)| kept(key.len() + value.len())).sum()
            },
            functions,
            is_shorthand: spec.is_shorthand,
            files: HashMap::new(),
            stages: Vec::new(),
            groups: Vec::new(),
        };
        options.policy.check_roots()?;
        let nodes = planner.pipeline(spec, &Layers::root(spec, options), "", &root, &mut Vec::new())?;
        for (node, matcher) in nodes.iter().zip(matchers) {
            match (node, matcher) {
                (Node::Stage(index), matcher) => planner.stages[*index].tolerance.matcher = matcher,
                (Node::Group(..), None) => {}
                (Node::Group(index, _), Some(_)) => {
                    let message = "what a nested pipeline's end means is for that pipeline to say";
                    return Err(PlanError::new(PlanErrorKind::Pipeline, &planner.groups[*index].place, message));
                }
            }
        }
        let Planner { mut stages, groups, given, .. } = planner;
        let policy = &options.policy;
        policy.check_stages(stages.len())?;
        let timeout = policy.timeout(spec.timeout, &root)?.map(|span| span.0);
        refuse_unknown_names(&options.overrides, &stages)?;
        let stdin = match stdin {
            Some(outside) => Input::Outside(outside),
            None => plan_stdin(spec.stdin.as_ref(), &options.base, policy, &root.key("stdin"))?,
        };
        let (stdout, stdout_name) = match (stdout, spec.stdout.as_ref().unwrap_or(&StdoutSpec::Inherit)) {
            (Some(outside), _) => (Outlet::Outside(outside), "the program's writer".to_owned()),
            (None, StdoutSpec::Inherit) => (Outlet::Place(Output::Inherit), "standard output".to_owned()),
            (None, StdoutSpec::Null) => (Outlet::Null, "nothing".to_owned()),
            (None, StdoutSpec::File(file)) => {
                let output = plan_stdout(file, &options.base, policy, &root.key("stdout"))?;
                (Outlet::Place(output), to_text(options.base.join(to_path(&file.file))))
            }
        };
        let connected = (!matches!(stdin, Input::Null), !matches!(stdout, Outlet::Null));
        let joints = joints::negotiate(&mut stages, &groups, connected)?;
        let (stdin, stdout, stdout_name) =
            nest::ends_from_within(&groups, stages.len(), policy, stdin, stdout, stdout_name)?;
        if let Outlet::Place(Output::Descriptor(_)) = &stdout {
            policy.check_descriptor(&root.key("stdout").key("file"))?;
        }
        let kill_after = spec.kill_after.map_or(KILL_AFTER, |span| span.0.min(MOST_PATIENT));
        let linger = spec.linger.map_or(LINGER, |span| span.0.min(MOST_PATIENT));
        policy.check_patience(kill_after, KILL_AFTER, "kill_after")?;
        policy.check_patience(linger, LINGER, "linger")?;
        let mut plan = Self {
            name: spec.name.clone(),
            stages,
            nodes,
            groups,
            joints,
            stdin,
            stdout,
            stdout_name,
            timeout,
            on_failure: spec.on_failure.unwrap_or_default(),
            kill_after,
            linger,
            upstream: spec.upstream.unwrap_or_default(),
            deterministic: options.overrides.deterministic,
            given: given as u64,
            code_budget: Arc::default(),
            took: began.elapsed(),
        };
        let left = policy.check_total_memory(plan.summary().worst_case_memory_bytes)?;
        plan.code_budget = Arc::new(CodeBudget::new(left));
        Ok(plan)
    }

    /// Checks every component as its compiler would, which takes about a second for each 100 MB: what a run refuses when it compiles,
    /// this refuses without compiling.
    ///
    /// # Errors
    ///
    /// The first component that is no valid WebAssembly, or made with a proposal that is off here.
    pub fn validate(&self) -> Result<(), PlanError> {
        for stage in &self.stages {
            if let Work::Wasm(wasm) = &stage.work {
                wasm.validate(&stage.place)?;
            }
        }
        Ok(())
    }

    /// Whether its last stage wants no output connected.
    pub(crate) fn forbids_output(&self) -> bool {
        self.stages.last().is_some_and(|last| last.requires.1 == Requirement::Forbid)
    }

    /// Gives it another output.
    pub(crate) fn take_output(&mut self, sink: OutsideSink) {
        self.stdout = Outlet::Outside(sink);
        self.stdout_name = "the program's writer".into();
    }

    /// Whether it reads the host's own standard input, and whether it writes to the host's own standard output.
    pub fn inherits(&self) -> (bool, bool) {
        (self.stdin.is_inherited(), matches!(self.stdout, Outlet::Place(Output::Inherit)))
    }

    /// Whether it starts ordinary programs.
    pub fn has_commands(&self) -> bool {
        self.stages.iter().any(PlannedStage::is_command)
    }

    /// How many descriptors a run of it needs at once, at most.
    pub(crate) fn descriptors(&self) -> u32 {
        let of_stage = |stage: &PlannedStage| {
            let log = u32::from(stage.log.is_some());
            log + match &stage.work {
                // A leader's pidfd; its stderr's two ends, of which one is open for a moment; a cgroup's.
                Work::Command(_) => 4,
                Work::Wasm(wasm) => 1 + wasm.open_files(),
                Work::Function(_) => 1,
            }
        };
        let of_joint = |joint: &PlannedJoint| if joint.kind == JointKind::Pipe { 3 } else { 0 };
        let stages: u32 = self.stages.iter().map(of_stage).sum();
        // Both ends, an atomic output's directory, a copy of each for whom it is handed to.
        stages + self.joints.iter().map(of_joint).sum::<u32>() + 6
    }
}

/// What no file can name.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) functions: Vec<Option<Function>>,
    /// What decides which ends of a stage are no failure, by the stage's index.
    pub(crate) matchers: Vec<Option<Matcher>>,
    pub(crate) stdin: Option<OutsideSource>,
    pub(crate) stdout: Option<OutsideSink>,
}

pub(crate) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What planning has found so far.
struct Planner<'a> {
    options: &'a PlanOptions,
    began: Instant,
    /// The run's, of which planning is a part.
    timeout: Option<Duration>,
    /// What nested files, and the variables and arguments that stages are given, take in memory, in bytes.
    given: usize,
    /// And what each command is given of the host's own environment.
    inherited: usize,
    /// Whether the pipeline was written in shorthand.
    is_shorthand: bool,
    functions: Vec<Option<Function>>,
    /// Component files, each read once.
    files: HashMap<PathBuf, wasm::Found>,
    stages: Vec<PlannedStage>,
    groups: Vec<Group>,
}

/// The most memory that nested files, and the variables and arguments that all stages together are given, may take, in bytes.
const MOST_GIVEN: usize = 64 << 20;

/// What the lists of a stage take, its grants and which ends of it are no failure.
fn listed(stage: &StageSpec) -> usize {
    let grants = stage.grants.iter();
    let names = grants.clone().flat_map(|grants| grants.env.iter().flatten()).map(|name| kept(name.len()));
    let dirs = grants.clone().flat_map(|grants| grants.dirs.iter().flatten());
    let dirs = dirs.map(|dir| kept(dir.host.len() + dir.guest.as_ref().map_or(0, String::len)));
    let addresses = grants.map(|grants| grants.net.as_ref().map_or(0, Vec::len)).sum::<usize>();
    let codes = match &stage.ok_exit {
        Some(OkExit::Codes(codes)) => codes.len(),
        _ => 0,
    };
    let others = addresses + codes + stage.ignore.as_ref().map_or(0, Vec::len);
    names.chain(dirs).fold(others.saturating_mul(kept(0)), usize::saturating_add)
}

/// What a variable or an argument of so many bytes takes, from above: it is kept for people and for its stage.
fn kept(bytes: usize) -> usize {
    const ENTRY: usize = 256;
    bytes.saturating_mul(2).saturating_add(ENTRY)
}

impl Planner<'_> {
    /// Counts what a stage is given or a file holds, and looks whether there is still time: whatever a file is made of, planning it
    /// ends.
    fn spend(&mut self, bytes: usize, place: &Place) -> Result<(), PlanError> {
        self.given = self.given.saturating_add(bytes);
        if self.given > MOST_GIVEN {
            let message = format!(
                "nested files, and the variables and arguments of all stages, take more than {} MiB",
                MOST_GIVEN >> 20
            );
            return Err(PlanError::new(PlanErrorKind::Pipeline, place, message).code(ErrorCode::TooLarge));
        }
        match self.timeout {
            Some(timeout) if self.began.elapsed() > timeout => {
                let message = format!("the timeout of {} was over before the run could begin", Span(timeout));
                Err(PlanError::new(PlanErrorKind::Timeout, place, message))
            }
            _ => Ok(()),
        }
    }

    /// Plans one stage that is no nested pipeline.
    fn stage(
        &mut self,
        stage: &StageSpec,
        layers: &Layers<'_>,
        name: String,
        place: &Place,
    ) -> Result<PlannedStage, PlanError> {
        let mut layers = layers.with(stage);
        let variables = layers.env().map(|(key, value)| kept(key.len() + value.map_or(0, str::len)));
        let arguments = stage.args.iter().chain(&stage.command).flatten().map(|argument| kept(argument.len()));
        let lists = listed(stage);
        let inherited = if stage.command.is_some() { self.inherited } else { 0 };
        self.spend(variables.chain(arguments).chain([lists]).fold(inherited, usize::saturating_add), place)?;
        let number = (self.stages.len() + 1).to_string();
        let is_meant = |named: &str| named == name || named == number;
        for (named, limits) in layers.overrides.limits.iter().filter(|(named, _)| named.is_none()).chain(
            // What is said of one stage goes over what is said of all.
            layers.overrides.limits.iter().filter(|(named, _)| named.as_deref().is_some_and(is_meant)),
        ) {
            if let (Some(_), Some((key, _))) = (named, limits.misplaced(stage.kind())) {
                let message = format!("the limit {key} cannot be held for stage `{name}`, a {} stage", stage.kind());
                return Err(PlanError::new(PlanErrorKind::End, "the flags", message));
            }
            layers.stage_limits.insert(0, limits);
        }
        let policy = &self.options.policy;
        policy.check_kind(stage.kind(), place)?;
        if self.options.overrides.deterministic && stage.wasm.is_none() {
            let message = format!("a {} stage is not the same on every run", stage.kind());
            return Err(PlanError::new(PlanErrorKind::Refused, place, message)
                .hint("a run with --deterministic has sandboxed stages only"));
        }
        let said = LimitsSpec::first_of(layers.stage_limits.iter().chain(&layers.file_limits).copied());
        let defaults = if stage.wasm.is_some() { Limits::default().spec() } else { LimitsSpec::default() };
        let within = policy.limit(said, &defaults, stage.kind(), place)?;
        layers.stage_limits.insert(0, &within);
        let layers = &layers;
        let work = match (&stage.wasm, &stage.command, stage.function) {
            (Some(wasm), ..) => Work::Wasm(Box::new(self.wasm(stage, wasm, &name, place, layers)?)),
            (_, Some(command), _) => {
                Work::Command(Box::new(command::plan(stage, command, self.options, place, layers, self.is_shorthand)?))
            }
            (.., index) => {
                let function = index.and_then(|index| self.functions.get_mut(index)).and_then(Option::take);
                Work::Function(Mutex::new(function))
            }
        };
        // A stranger's word on what is no failure counts if the file's author takes it.
        let mut ok_exit = match &work {
            Work::Wasm(wasm) if wasm.path.is_none() || stage.ok_exit == Some(OkExit::Declared) => {
                wasm.inspection.section.ok_exit.clone()
            }
            Work::Wasm(_) | Work::Command(_) | Work::Function(_) => Vec::new(),
        };
        if let Some(OkExit::Codes(codes)) = &stage.ok_exit {
            ok_exit.extend(codes);
        }
        ok_exit.extend(layers.overrides.ok_exit.iter().filter(|(named, _)| is_meant(named)).map(|(_, code)| *code));
        ok_exit.sort_unstable();
        ok_exit.dedup();
        let log = match &stage.stderr {
            Some(StderrSpec::File(path)) => {
                let (path, place) = (layers.base.join(to_path(path)), place.key("stderr"));
                let named = policy.check_file(&path, &place.key("file"))?;
                plan_log(&named, &path, &place)?;
                Some(named)
            }
            _ => None,
        };
        let (default, asked) = match &work {
            Work::Command(_) => (Requirement::PreferFile, RequiresSpec::default()),
            Work::Wasm(wasm) => (Requirement::Any, wasm.inspection.section.requires),
            Work::Function(_) => (Requirement::Any, RequiresSpec::default()),
        };
        let requires = stage.requires.unwrap_or_default();
        let requires = RequiresSpec { stdin: requires.stdin.or(asked.stdin), stdout: requires.stdout.or(asked.stdout) };
        Ok(PlannedStage {
            name,
            place: place.to_string(),
            work,
            tolerance: Tolerance {
                ok_exit,
                ignore: stage.ignore.clone().unwrap_or_default(),
                broken_pipe: stage.broken_pipe.unwrap_or_default(),
                on_trap: stage.on_trap.unwrap_or_default(),
                matcher: None,
            },
            wall_time: layers.limit(|limits| limits.wall_time).and_then(Bound::value).map(|span| span.0),
            stderr: stage.stderr.clone(),
            log,
            requires: (requires.stdin.unwrap_or(default), requires.stdout.unwrap_or(default)),
            buffer: stage.buffer.map(|size| size.0).or(layers.buffer),
        })
    }
}

/// Looks whether a file can be appended to, without making it.
fn plan_log(named: &Named, path: &Path, place: &Place) -> Result<(), PlanError> {
    let around = path.parent().filter(|around| *around != Path::new("")).unwrap_or(Path::new("."));
    let refused = |code: ErrorCode, why: &str, what: &Path| {
        Err(PlanError::new(PlanErrorKind::End, place.key("file"), why).code(code).about(what))
    };
    match named.metadata() {
        Ok(metadata) if metadata.is_dir() => return refused(ErrorCode::IsADirectory, "is a directory", path),
        Ok(_) if named.is_writable() => return Ok(()),
        Ok(_) => return refused(ErrorCode::Inaccessible, "is not writable", path),
        // It will be made.
        Err(_) => {}
    }
    let Some((directory, _)) = named.parent() else { return refused(ErrorCode::IsADirectory, "names no file", path) };
    match directory.metadata() {
        Ok(metadata) if metadata.is_dir() && directory.is_writable() => Ok(()),
        Ok(metadata) if metadata.is_dir() => refused(ErrorCode::Inaccessible, "is not writable", around),
        Ok(_) => refused(ErrorCode::NotADirectory, "is no directory", around),
        Err(error) => Err(PlanError::system(PlanErrorKind::End, place.key("file"), around, &error)),
    }
}
