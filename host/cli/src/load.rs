//! From arguments to a plan: reads the pipeline, applies the flags, plans.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};
use stagehost::{
    ErrorCode, ExitCode, LOCK_FILE, Lock, Overrides, Plan, PlanError, PlanOptions, Policy,
    spec::{self, Bound, Declared, FileSink, PipelineSpec, Span, SpecError, StdinSpec, StdoutSpec, to_text},
};

use crate::{args::PipelineArgs, failure::Failure};

/// Reads, changes and plans the pipeline that the arguments name.
pub(crate) fn plan(args: &PipelineArgs) -> Result<Plan, Failure> {
    let policy = policy(args)?;
    let source = source(args, &policy)?;
    let mut spec = source.read()?;
    source.keep_from_the_stages(args, &spec)?;
    apply(&mut spec, args)?;
    // What flags say has to hold as what files say does.
    spec.check().map_err(|error| bad(error, "with its flags the pipeline"))?;
    let file = args.what.pipeline.clone().filter(|path| path != Path::new("-"));
    let (environment, overrides) = (std::env::vars_os(), overrides(args));
    let mut options = PlanOptions::at(source.base, policy).environment(environment).overrides(overrides);
    options.file = file;
    let plan = Plan::new(&spec, &options).map_err(refused)?;
    if args.locked {
        check_lock(&plan, &lock_directory(args), &options.policy)?;
    }
    Ok(plan)
}

/// A plan that cannot be.
pub(crate) fn refused(error: PlanError) -> Failure {
    let (code, hint) = (error.exit_code(), error.hint.clone());
    Failure::new(code, error).hint(hint)
}

/// Something that is wrong with a pipeline.
#[derive(Debug)]
pub(crate) struct Wrong {
    pub(crate) place: String,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    pub(crate) exit_code: u8,
    /// For programs: what is wrong, and the path of the message.
    pub(crate) code: Option<ErrorCode>,
    pub(crate) path: Option<String>,
}

impl Wrong {
    pub(crate) fn failure(&self) -> Failure {
        let error = if self.place.is_empty() {
            anyhow!("{}", self.message)
        } else {
            anyhow!("{}: {}", self.place, self.message)
        };
        Failure { code: self.exit_code, ..Failure::new(ExitCode::Host, error).hint(self.hint.clone()) }
    }

    fn of_spec(error: SpecError) -> Self {
        let (code, exit_code) = (Some(error.code()), ExitCode::BadPipeline as u8);
        let SpecError { place, message, hint } = error;
        Self { place, message, hint, exit_code, code, path: None }
    }

    fn of_plan(error: PlanError) -> Self {
        let (message, exit_code, code) = (error.text(), error.exit_code() as u8, Some(error.code));
        Self { place: error.place, message, hint: error.hint, exit_code, code, path: error.path }
    }

    fn of_failure(failure: &Failure) -> Self {
        let mut message = failure.error.to_string();
        for cause in failure.error.chain().skip(1) {
            message.push_str(&format!(": {cause}"));
        }
        let (hint, exit_code) = (failure.hint.clone(), failure.code);
        Self { place: String::new(), message, hint, exit_code, code: None, path: None }
    }
}

/// Looks at all of a pipeline, and gives the number of its stages, if it can be read, with all that is wrong with it.
///
/// # Errors
///
/// What keeps it from being looked at: a file that cannot be read, a policy that is none.
pub(crate) fn check(args: &PipelineArgs) -> Result<(Option<usize>, Vec<Wrong>), Failure> {
    let policy = policy(args)?;
    let source = source(args, &policy)?;
    let mut wrong = Vec::new();
    let (mut spec, problems) = match &source.text {
        Text::File(text) => {
            let mut problems = spec::problems(text);
            wrong.extend(std::mem::take(&mut problems.errors).into_iter().map(Wrong::of_spec));
            match problems.spec.take() {
                Some(spec) => (spec, Some(problems)),
                None => return Ok((None, wrong)),
            }
        }
        // Whatever is wrong with one is told as `run` tells it.
        Text::Shorthand(_) => (source.read()?, None),
    };
    let in_file = |place: String| problems.as_ref().map_or(place.clone(), |problems| problems.place_in_file(&place));
    source.keep_from_the_stages(args, &spec)?;
    let is_whole = wrong.is_empty();
    apply(&mut spec, args)?;
    if let Err(error) = spec.check() {
        wrong.push(Wrong::of_spec(SpecError { place: in_file(error.place.clone()), ..error }));
        return Ok((Some(spec.stages.len()), wrong));
    }
    let file = args.what.pipeline.clone().filter(|path| path != Path::new("-"));
    // Where names were wrong, flags may seem to name nobody.
    let overrides = if is_whole { overrides(args) } else { Overrides::default() };
    let environment = std::env::vars_os();
    let mut options = PlanOptions::at(source.base, policy).environment(environment).overrides(overrides);
    options.file = file;
    let stages = spec.stages.len();
    let (plan, refused) = Plan::with_all_errors(&spec, &options);
    let of_plan = |error: PlanError| {
        let wrong = Wrong::of_plan(error);
        Wrong { place: in_file(wrong.place.clone()), ..wrong }
    };
    wrong.extend(refused.into_iter().map(of_plan));
    if let Some(plan) = plan {
        if args.locked
            && let Err(failure) = check_lock(&plan, &lock_directory(args), &options.policy)
        {
            wrong.push(Wrong::of_failure(&failure));
        }
        wrong.extend(plan.validate().err().map(of_plan));
    }
    Ok((Some(stages), wrong))
}

/// Where the lock of a pipeline lies: beside its file.
pub(crate) fn lock_directory(args: &PipelineArgs) -> PathBuf {
    let file = args.what.pipeline.as_deref().filter(|path| *path != Path::new("-"));
    let around = file.and_then(Path::parent).filter(|parent| *parent != Path::new(""));
    around.map_or_else(|| PathBuf::from("."), Path::to_owned)
}

/// Reads a lock, if there is one.
pub(crate) fn read_lock(path: &Path, policy: &Policy) -> Result<Option<Lock>, Failure> {
    let shown = path.display();
    let text = match policy.read_regular(path, spec::MAX_FILE_BYTES as u64) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(host(anyhow::Error::from(error).context(format!("the lock {shown}")))),
    };
    let lock = Lock::parse(&text);
    lock.map(Some).map_err(|error| host(anyhow!("{error}").context(format!("{shown} is no good lock"))))
}

fn check_lock(plan: &Plan, directory: &Path, policy: &Policy) -> Result<(), Failure> {
    let path = directory.join(LOCK_FILE);
    let Some(lock) = read_lock(&path, policy)? else {
        let error = anyhow!("there is no lock {}", path.display());
        return Err(Failure::new(ExitCode::Refused, error).hint(Some("`stagehost lock` writes it".into())));
    };
    match lock.difference(&Lock::of(plan, directory)) {
        None => Ok(()),
        Some(difference) => {
            let error = anyhow!("the components are not those of {}:\n{}", path.display(), difference.trim_end());
            let hint = "look at what changed; `stagehost lock` accepts it";
            Err(Failure::new(ExitCode::Refused, error).hint(Some(hint.into())))
        }
    }
}

/// The policy that the arguments name; by default everything is allowed to whoever types it.
pub(crate) fn policy(args: &PipelineArgs) -> Result<Policy, Failure> {
    let Some(path) = &args.policy else { return Ok(Policy::allow_all()) };
    if let Some(read) = args.policy_read.get() {
        return Ok(read.clone());
    }
    let shown = path.display();
    let opened = fs::File::open(path).and_then(|file| Ok((file.metadata()?.is_file(), read_bounded(file)?)));
    let (is_file, file) = opened.with_context(|| format!("the policy {shown}")).map_err(host)?;
    let base = path.parent().unwrap_or(Path::new(""));
    let policy = Policy::parse(&file, base).map_err(|error| {
        let hint = error.hint.clone();
        host(anyhow!("{error}").context(format!("{shown} is no good policy"))).hint(hint)
    })?;
    if is_file && policy.is_guests(path) {
        let error =
            anyhow!("the policy {shown}: its `dirs` lets guests write where it stands, so they could change it");
        return Err(host(error).hint(Some(
            "keep it outside of the directories that it lets guests write to, or leave `dirs` out".into(),
        )));
    }
    // Once: it may be a pipe.
    Ok(args.policy_read.get_or_init(|| policy).clone())
}

fn bad(error: SpecError, source: &str) -> Failure {
    let hint = error.hint.clone();
    let error = anyhow!("{error}").context(format!("{source} is no good pipeline"));
    Failure::new(ExitCode::BadPipeline, error).hint(hint)
}

/// A pipeline that was read and is not understood yet.
struct PipelineText {
    text: Text,
    /// What it is called in errors.
    name: String,
    is_stdin: bool,
    /// The directory that its paths are relative to.
    base: PathBuf,
}

enum Text {
    Shorthand(String),
    File(Vec<u8>),
}

impl PipelineText {
    fn read(&self) -> Result<PipelineSpec, Failure> {
        let spec = match &self.text {
            Text::Shorthand(text) => spec::shorthand(text),
            Text::File(text) => spec::parse(text),
        };
        spec.map_err(|error| bad(error, &self.name))
    }

    /// Refuses to feed the stages with what the pipeline itself was read from.
    fn keep_from_the_stages(&self, args: &PipelineArgs, spec: &PipelineSpec) -> Result<(), Failure> {
        let feeds = match &args.stdin {
            Some(stdin) => stdin == Path::new("-"),
            None => reads_standard_input(spec.stdin.as_ref()),
        };
        if !self.is_stdin || !feeds {
            return Ok(());
        }
        let error = anyhow!("the pipeline comes from standard input, and so would the first stage's input");
        let hint = "give the input with --stdin FILE, or --stdin null";
        Err(Failure::new(ExitCode::Host, error).hint(Some(hint.into())))
    }
}

/// Reads what the arguments name, once: it may be a pipe.
fn source(args: &PipelineArgs, policy: &Policy) -> Result<PipelineText, Failure> {
    // Not `.`: paths are to read as they were written.
    let here = PathBuf::new;
    if let Some(text) = &args.what.command {
        let base = args.cwd.clone().unwrap_or_else(here);
        return Ok(PipelineText {
            text: Text::Shorthand(to_text(text)),
            name: "the shorthand".into(),
            is_stdin: false,
            base,
        });
    }
    let path = args.what.pipeline.clone().unwrap_or_default();
    let is_stdin = path == Path::new("-");
    let (text, name, around) = if is_stdin {
        let text = read_bounded(io::stdin()).context("the pipeline on standard input").map_err(host)?;
        (text, "standard input".to_owned(), here())
    } else {
        let shown = path.display();
        let text = policy.read(&path, spec::MAX_FILE_BYTES as u64);
        if text.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::IsADirectory) {
            let error = anyhow!("the pipeline file {shown} is a directory");
            return Err(Failure::new(ExitCode::BadPipeline, error));
        }
        let text = text.with_context(|| format!("the pipeline file {shown}"));
        let parent = path.parent().filter(|parent| *parent != Path::new("")).map_or_else(here, Path::to_owned);
        (text.map_err(|error| Failure::new(ExitCode::BadPipeline, error))?, shown.to_string(), parent)
    };
    Ok(PipelineText { text: Text::File(text), name, is_stdin, base: args.cwd.clone().unwrap_or(around) })
}

fn reads_standard_input(stdin: Option<&StdinSpec>) -> bool {
    match stdin {
        None | Some(StdinSpec::Inherit) => true,
        Some(StdinSpec::Declared(from, _)) => reads_standard_input(Some(from)),
        Some(StdinSpec::Null | StdinSpec::File(_) | StdinSpec::Text(_)) => false,
    }
}

fn host(error: anyhow::Error) -> Failure {
    Failure::new(ExitCode::Host, error)
}

/// Reads at most one byte more than a pipeline file may have, which the parser then refuses.
fn read_bounded(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    reader.take(spec::MAX_FILE_BYTES as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}

/// A path of the caller's, whatever directory the pipeline's own paths are relative to.
fn callers(path: &Path) -> Result<String, Failure> {
    /// The longest path that the system takes (Linux: `PATH_MAX`, and a byte that ends it).
    const LONGEST: usize = 4095;
    let absolute = std::path::absolute(path).context("a path in the arguments").map_err(host)?;
    if absolute.as_os_str().len() <= LONGEST || path.is_absolute() {
        return Ok(to_text(absolute));
    }
    // This directory is deeper than any path is long. It has a short name, though.
    Ok(to_text(Path::new("/proc/self/cwd").join(path)))
}

fn apply(spec: &mut PipelineSpec, args: &PipelineArgs) -> Result<(), Failure> {
    if let Some(stdin) = &args.stdin {
        spec.stdin = Some(match stdin.to_str() {
            Some("null") => StdinSpec::Null,
            Some("-") => StdinSpec::Inherit,
            _ => StdinSpec::File(callers(stdin)?),
        });
    }
    if args.stdin_bytes.is_some() || args.stdin_sha256.is_some() {
        // What the file says of an input holds for that input alone.
        let from = match spec.stdin.take() {
            Some(StdinSpec::Declared(from, _)) => *from,
            from => from.unwrap_or_default(),
        };
        let declared = Declared { bytes: args.stdin_bytes.map(|size| size.0), sha256: args.stdin_sha256.clone() };
        spec.stdin = Some(StdinSpec::Declared(Box::new(from), declared));
    }
    if let Some(stdout) = &args.stdout {
        let file = || callers(stdout).map(|file| StdoutSpec::File(FileSink { file, append: None, atomic: None }));
        spec.stdout = Some(match stdout.to_str() {
            Some("null") => StdoutSpec::Null,
            Some("-") => StdoutSpec::Inherit,
            _ => file()?,
        });
    }
    if let Some(timeout) = args.timeout {
        spec.timeout = Some(match timeout.0 {
            Bound::None => Bound::None,
            Bound::At(duration) => Bound::At(Span(duration)),
        });
    }
    Ok(())
}

/// What the flags say of stages, whatever files say.
fn overrides(args: &PipelineArgs) -> Overrides {
    let mut overrides = Overrides::default();
    overrides.env.clone_from(&args.env);
    overrides.limits = args.limit.iter().map(|limit| (limit.stage.clone(), limit.limits.clone())).collect();
    overrides.ok_exit.clone_from(&args.ok_exit);
    overrides.deterministic = args.deterministic;
    overrides
}
