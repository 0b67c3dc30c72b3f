//! Pipelines made by a program: stages of all kinds, and ends from whatever the program has.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    ends::{Ends, Stdin, Stdout},
    function::{self, AsyncInput, AsyncOutput, Body, Function},
    outcome::{Matcher, Outcome, StageExit},
    pipeline::{Collecting, Host, RunOptions, Running},
    plan::{Parts, Plan, PlanError, PlanErrorKind, PlanOptions},
    policy::Policy,
    spec::{
        Bound, BrokenPipe, Eof, FileSink, GrantsSpec, Ignore, Leftovers, LimitsSpec, OkExit, OnFailure, OnTrap,
        PipelineSpec, Requirement, RequiresSpec, Sandboxing, Size, Span, SpecError, StageSpec, StderrSpec, StdinSpec,
        StdoutSpec, Upstream,
    },
};

/// A pipeline that is ready to run once; its [plan](Self::plan) runs any number of times.
///
/// ```
/// use stagehost::{Host, HostOptions, Pipeline, Policy, Stage};
///
/// let host = Host::new(&HostOptions::default())?;
/// let pipeline = Pipeline::builder(Policy::allow_all())
///     .environment(std::env::vars_os())
///     .stdin_bytes("pear\nfig\napple\n")
///     .stage(Stage::command(["sort"]))
///     .stage(Stage::wasm("builtin:head").args(["-n", "1"]))
///     .build()?;
/// let (outcome, output) = pipeline.output(&host, 1 << 20).wait();
/// assert!(outcome.success, "{}", outcome.message);
/// assert_eq!(output, b"apple\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Pipeline {
    plan: Plan,
    ends: Ends,
    options: RunOptions,
}

/// Makes a [`Pipeline`].
#[derive(Debug)]
pub struct PipelineBuilder {
    spec: PipelineSpec,
    plan: PlanOptions,
    run: RunOptions,
    ends: Ends,
    functions: Vec<Function>,
    /// What decides which ends of a stage are no failure, by the stage's index.
    matchers: Vec<Option<Matcher>>,
}

/// A stage of a [`PipelineBuilder`].
#[derive(Debug)]
pub struct Stage {
    spec: StageSpec,
    function: Option<Function>,
    ignore: Option<Matcher>,
}

/// Why a pipeline could not be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// It cannot be as it was described.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Something that it needs is not there.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

impl Pipeline {
    /// Begins a pipeline that may ask for what `policy` allows. Its ends are the process's own standard streams unless
    /// something else is said.
    pub fn builder(policy: Policy) -> PipelineBuilder {
        PipelineBuilder {
            spec: PipelineSpec { version: 1, ..PipelineSpec::default() },
            plan: PlanOptions::at("", policy),
            run: RunOptions::default(),
            ends: Ends::new(),
            functions: Vec::new(),
            matchers: Vec::new(),
        }
    }

    /// The plan, to be run any number of times with [`Host::start`]. Readers, writers and bytes that the builder was given are for one run
    /// and are not in it: each run of the plan is [given](Ends) its own.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The same.
    pub fn into_plan(self) -> Plan {
        self.plan
    }

    /// Runs it to its end and blocks this thread until then, as [`Running::wait`] does.
    pub fn run(self, host: &Host) -> Outcome {
        host.run(&self.plan, self.ends, &self.options)
    }

    /// Starts it. Never blocks.
    pub fn start(self, host: &Host) -> Running {
        host.start(&self.plan, self.ends, &self.options)
    }

    /// Starts it and keeps what the last stage writes, whatever the builder said of stdout. More than `most` bytes are refused, which
    /// fails the run. Never blocks: what it gives is to be awaited, or [waited for](Collecting::wait).
    pub fn output(self, host: &Host, most: usize) -> Collecting {
        host.output(&self.plan, self.ends, &self.options, most)
    }
}

impl PipelineBuilder {
    /// Adds a stage behind those that are there.
    #[must_use]
    pub fn stage(mut self, stage: Stage) -> Self {
        let Stage { mut spec, function, ignore } = stage;
        if let Some(function) = function {
            spec.function = Some(self.functions.len());
            self.functions.push(function);
        }
        self.matchers.push(ignore);
        self.spec.stages.push(spec);
        self
    }

    /// Names the pipeline, for reports.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.spec.name = Some(name.into());
        self
    }

    /// The directory that relative paths are relative to. Default: the process's own.
    #[must_use]
    pub fn base(mut self, base: impl Into<PathBuf>) -> Self {
        self.plan.base = base.into();
        self
    }

    /// The environment that commands inherit. Default: an empty one.
    #[must_use]
    pub fn environment(mut self, variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        self.plan.environment = variables.into_iter().collect();
        self
    }

    /// Sets a variable for every stage.
    #[must_use]
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.spec.env.get_or_insert_default().insert(key.into(), Some(value.into()));
        self
    }

    /// Removes a variable for every stage.
    #[must_use]
    pub fn env_remove(mut self, key: impl Into<String>) -> Self {
        self.spec.env.get_or_insert_default().insert(key.into(), None);
        self
    }

    /// Limits for every stage that sets none of its own.
    #[must_use]
    pub fn limits(mut self, limits: LimitsSpec) -> Self {
        self.spec.limits = Some(limits);
        self
    }

    /// How long the run may take. Default: as long as it likes.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.spec.timeout = Some(Bound::At(Span(timeout)));
        self
    }

    /// What the first failure does to the other stages.
    #[must_use]
    pub fn on_failure(mut self, on_failure: OnFailure) -> Self {
        self.spec.on_failure = Some(on_failure);
        self
    }

    /// How long a stage may take to end after it was asked to. Default: 2 s.
    #[must_use]
    pub fn kill_after(mut self, time: Duration) -> Self {
        self.spec.kill_after = Some(Span(time));
        self
    }

    /// How long what commands leave behind may go on. Default: 2 s.
    #[must_use]
    pub fn linger(mut self, time: Duration) -> Self {
        self.spec.linger = Some(Span(time));
        self
    }

    /// What becomes of the stages before the last one when that has ended well.
    #[must_use]
    pub fn upstream(mut self, upstream: Upstream) -> Self {
        self.spec.upstream = Some(upstream);
        self
    }

    /// The capacity of rings and pipes in bytes.
    #[must_use]
    pub fn buffer(mut self, bytes: u64) -> Self {
        self.spec.buffer = Some(Size(bytes));
        self
    }

    /// Reads this file.
    #[must_use]
    pub fn stdin_file(mut self, path: impl Into<String>) -> Self {
        self.spec.stdin = Some(StdinSpec::File(path.into()));
        self
    }

    /// Reads nothing.
    #[must_use]
    pub fn stdin_null(mut self) -> Self {
        self.spec.stdin = Some(StdinSpec::Null);
        self
    }

    /// Reads these bytes.
    #[must_use]
    pub fn stdin_bytes(mut self, bytes: impl Into<Bytes>) -> Self {
        self.ends.stdin = Some(Stdin::bytes(bytes));
        self
    }

    /// Reads from this reader, which is dropped when the run needs it no longer. To have it back, [`lend`](crate::lend()) it.
    #[must_use]
    pub fn stdin_reader(mut self, reader: impl AsyncRead + Send + 'static) -> Self {
        self.ends.stdin = Some(Stdin::reader(reader));
        self
    }

    /// Writes to this file, which appears whole when the run succeeded, and not at all when it did not.
    #[must_use]
    pub fn stdout_file(mut self, path: impl Into<String>) -> Self {
        let file = path.into();
        self.spec.stdout = Some(StdoutSpec::File(FileSink { file, append: None, atomic: None }));
        self
    }

    /// Writes to nowhere.
    #[must_use]
    pub fn stdout_null(mut self) -> Self {
        self.spec.stdout = Some(StdoutSpec::Null);
        self
    }

    /// Writes to this writer, which is shut down and dropped when the last stage has ended. To have it back,
    /// [`lend`](crate::lend()) it.
    #[must_use]
    pub fn stdout_writer(mut self, writer: impl AsyncWrite + Send + 'static) -> Self {
        self.ends.stdout = Some(Stdout::writer(writer));
        self
    }

    /// Whether stages that say nothing of their stderr print through to the process's own.
    #[must_use]
    pub fn tee_stderr(mut self, tee: bool) -> Self {
        self.run.tee_stderr = tee;
        self
    }

    /// Plans the pipeline.
    ///
    /// # Errors
    ///
    /// The first thing that would keep it from starting.
    pub fn build(self) -> Result<Pipeline, BuildError> {
        let Self { spec, plan, run, ends, functions, matchers } = self;
        spec.check()?;
        let (stdin, stdout) = (ends.stdin.is_some(), ends.stdout.is_some());
        if stdin && spec.stdin.is_some() || stdout && spec.stdout.is_some() {
            let two = PlanError::new(PlanErrorKind::Pipeline, "the builder", "an end was given twice");
            return Err(two.into());
        }
        let parts = Parts { functions, matchers, stdin, stdout };
        Ok(Pipeline { plan: Plan::assemble(&spec, &plan, parts)?, ends, options: run })
    }
}

impl Stage {
    fn of(spec: StageSpec) -> Self {
        Self { spec, function: None, ignore: None }
    }

    /// A sandboxed stage: the path of a component or preview1 module, or `builtin:NAME`.
    pub fn wasm(wasm: impl Into<String>) -> Self {
        Self::of(StageSpec { wasm: Some(wasm.into()), ..StageSpec::default() })
    }

    /// An ordinary program and its arguments.
    pub fn command<W: Into<String>>(words: impl IntoIterator<Item = W>) -> Self {
        let command = words.into_iter().map(Into::into).collect();
        Self::of(StageSpec { command: Some(command), ..StageSpec::default() })
    }

    /// A pipeline file used as a stage.
    pub fn pipeline(path: impl Into<String>) -> Self {
        Self::of(StageSpec { pipeline: Some(path.into()), ..StageSpec::default() })
    }

    /// A function that blocks, on a thread that does nothing else meanwhile; afterwards the host keeps that for other functions for a
    /// while. Every run of the plan calls it, several at once too.
    pub fn blocking(
        name: impl Into<String>,
        body: impl Fn(&mut function::Input, &mut function::Output) -> function::Result + Send + Sync + 'static,
    ) -> Self {
        Self::function(name.into(), Function::blocking(body))
    }

    /// A function that blocks and can be called once: so is the pipeline.
    pub fn blocking_once(
        name: impl Into<String>,
        body: impl FnOnce(&mut function::Input, &mut function::Output) -> function::Result + Send + 'static,
    ) -> Self {
        Self::function(name.into(), Function::once(Body::Blocking(Box::new(body))))
    }

    /// An asynchronous function. It runs on the host's runtime and must not block it. Every run of the plan calls it.
    pub fn asynchronous<F: Future<Output = function::Result> + Send + 'static>(
        name: impl Into<String>,
        body: impl Fn(AsyncInput, AsyncOutput) -> F + Send + Sync + 'static,
    ) -> Self {
        let body = move |input, output| -> function::Ending { Box::pin(body(input, output)) };
        Self::function(name.into(), Function::asynchronous(body))
    }

    /// An asynchronous function that can be called once: so is the pipeline.
    pub fn asynchronous_once<F: Future<Output = function::Result> + Send + 'static>(
        name: impl Into<String>,
        body: impl FnOnce(AsyncInput, AsyncOutput) -> F + Send + 'static,
    ) -> Self {
        let body = Body::Async(Box::new(|input, output| Box::pin(body(input, output))));
        Self::function(name.into(), Function::once(body))
    }

    fn function(name: String, function: Function) -> Self {
        let function = Some(function);
        // The index among the builder's functions is known when the stage is added.
        Self { spec: StageSpec { name: Some(name), ..StageSpec::default() }, function, ignore: None }
    }

    /// Names it. Names are unique; the default is the file's or the program's.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.spec.name = Some(name.into());
        self
    }

    /// A sandboxed stage's arguments.
    #[must_use]
    pub fn args<A: Into<String>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.spec.args.get_or_insert_default().extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.spec.env.get_or_insert_with(BTreeMap::new).insert(key.into(), Some(value.into()));
        self
    }

    /// Removes a variable.
    #[must_use]
    pub fn env_remove(mut self, key: impl Into<String>) -> Self {
        self.spec.env.get_or_insert_with(BTreeMap::new).insert(key.into(), None);
        self
    }

    /// The directory a command runs in.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<String>) -> Self {
        self.spec.dir = Some(dir.into());
        self
    }

    /// Its limits, over the pipeline's.
    #[must_use]
    pub fn limits(mut self, limits: LimitsSpec) -> Self {
        self.spec.limits = Some(limits);
        self
    }

    /// The rights that a sandboxed stage has, or that a command's sandbox leaves it.
    #[must_use]
    pub fn grants(mut self, grants: GrantsSpec) -> Self {
        self.spec.grants = Some(grants);
        self
    }

    /// The wall around a command.
    #[must_use]
    pub fn sandbox(mut self, sandbox: Sandboxing) -> Self {
        self.spec.sandbox = Some(sandbox);
        self
    }

    /// The digest, SHA-256 in hexadecimal, that the component or program must have.
    #[must_use]
    pub fn sha256(mut self, digest: impl Into<String>) -> Self {
        self.spec.sha256 = Some(digest.into());
        self
    }

    /// What a trap of a sandboxed stage means for its output.
    #[must_use]
    pub fn on_trap(mut self, on_trap: OnTrap) -> Self {
        self.spec.on_trap = Some(on_trap);
        self
    }

    /// What it needs its ends to be.
    #[must_use]
    pub fn requires(mut self, stdin: Requirement, stdout: Requirement) -> Self {
        self.spec.requires = Some(RequiresSpec { stdin: Some(stdin), stdout: Some(stdout) });
        self
    }

    /// Where it prints.
    #[must_use]
    pub fn stderr(mut self, stderr: StderrSpec) -> Self {
        self.spec.stderr = Some(stderr);
        self
    }

    /// The capacity of the joint that it writes, in bytes.
    #[must_use]
    pub fn buffer(mut self, bytes: u64) -> Self {
        self.spec.buffer = Some(Size(bytes));
        self
    }

    /// Exit codes that are no failure.
    #[must_use]
    pub fn ok_exit(mut self, codes: impl IntoIterator<Item = u8>) -> Self {
        let mut all: Vec<u8> = codes.into_iter().collect();
        if let Some(OkExit::Codes(said)) = self.spec.ok_exit.take() {
            all.splice(0..0, said);
        }
        self.spec.ok_exit = Some(OkExit::Codes(all));
        self
    }

    /// A way to end that is no failure.
    #[must_use]
    pub fn ignore(mut self, ignore: Ignore) -> Self {
        self.spec.ignore.get_or_insert_default().push(ignore);
        self
    }

    /// Decides which ends are no failure. What the host did, or could not do, is not asked about. Not for a nested pipeline.
    #[must_use]
    pub fn ignore_if(mut self, matches: impl Fn(&StageExit) -> bool + Send + Sync + 'static) -> Self {
        self.ignore = Some(Matcher(Arc::new(matches)));
        self
    }

    /// What a broken pipe on its output means.
    #[must_use]
    pub fn broken_pipe(mut self, broken_pipe: BrokenPipe) -> Self {
        self.spec.broken_pipe = Some(broken_pipe);
        self
    }

    /// When the reader of a command's output sees its end.
    #[must_use]
    pub fn eof(mut self, eof: Eof) -> Self {
        self.spec.eof = Some(eof);
        self
    }

    /// What becomes of the processes that a command leaves behind.
    #[must_use]
    pub fn leftovers(mut self, leftovers: Leftovers) -> Self {
        self.spec.leftovers = Some(leftovers);
        self
    }
}
