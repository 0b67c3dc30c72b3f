//! `stagehost run`.

use std::{
    fs,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use stagehost::{
    Ends, Event, ExitCode, Guard, Host, HostOptions, Outcome, Plan, PlanError, RunControl, RunOptions, StderrPrefix,
    WatchedProcess, WholeFile,
};

use crate::{
    args::{COMPILE, Prefix, RunArgs},
    failure::Failure,
    load, render, signals, started,
};

/// Runs a pipeline. The guard was started before anything else.
pub(crate) fn run(args: RunArgs, guard: Option<io::Result<Guard>>) -> Result<u8, Failure> {
    let quiet = args.quiet;
    run_and_report(&args, guard.transpose()).map_err(|failure| Failure { silent: failure.silent || quiet, ..failure })
}

fn run_and_report(args: &RunArgs, guard: io::Result<Option<Guard>>) -> Result<u8, Failure> {
    let report = Report::open(args)?;
    let (guard, unguarded) = match guard {
        Ok(guard) => (guard, None),
        Err(error) => (None, Some(error)),
    };
    let (outcome, dies_of) = match start(args, guard.clone(), unguarded) {
        Ok(ended) => ended,
        Err(failure) => {
            let mut message = failure.error.to_string();
            for cause in failure.error.chain().skip(1) {
                message.push_str(&format!(": {cause}"));
            }
            let mut outcome = Outcome::not_started(None, ExitCode::Host, message, failure.hint.clone());
            outcome.exit_code = failure.code;
            if let Some(error) = failure.error.downcast_ref::<PlanError>() {
                outcome.code = error.code.word();
                outcome.path.clone_from(&error.path);
            }
            report.write_or_say(&outcome);
            return Err(failure);
        }
    };
    if !args.quiet {
        render::notes(&outcome.stages, args.verbose);
        render::outcome(&outcome);
    }
    if args.verbose {
        render::details(&outcome);
    }
    let reported = report.write_or_say(&outcome);
    if let Some(guard) = guard {
        guard.end();
    }
    if let Some(signal) = dies_of {
        signals::die_of(signal);
    }
    // What the run itself has to say comes first.
    Ok(if outcome.exit_code == 0 && !reported { ExitCode::Host as u8 } else { outcome.exit_code })
}

fn start(
    args: &RunArgs,
    guard: Option<Guard>,
    unguarded: Option<io::Error>,
) -> Result<(Outcome, Option<i32>), Failure> {
    // From the beginning: it may end while this plans.
    let watched = match args.die_with_parent {
        true => Some(
            WatchedProcess::parent()
                .context("--die-with-parent: the process that started this one cannot be watched")
                .map_err(|error| Failure::new(ExitCode::Host, error))?,
        ),
        false => None,
    };
    let plan = load::plan(&args.pipeline)?;
    refuse_closed(&plan)?;
    if !plan.has_commands() {
        guard.iter().for_each(Guard::dismiss);
    }
    let policy = load::policy(&args.pipeline)?;
    for (flag, directory) in [("--coredump", &args.coredump), ("--cgroup", &args.cgroup)] {
        if let Some(directory) = directory.as_ref().filter(|directory| policy.is_guests(directory)) {
            let error = anyhow!("{flag} {}: the policy's `dirs` lets guests write there", directory.display());
            return Err(Failure::new(ExitCode::Host, error));
        }
    }
    if let Some(directory) = args.coredump.as_ref().filter(|directory| !directory.is_dir()) {
        let error = anyhow!("--coredump {}: there is no such directory", directory.display());
        return Err(Failure::new(ExitCode::Host, error));
    }
    let host = |error: anyhow::Error| Failure::new(ExitCode::Host, error);
    let open_files = raise_open_files();
    let foreground = plan.has_commands() && stagehost::in_foreground();
    let control = RunControl::default();
    let passes_on = plan.has_commands() && !foreground;
    let signals = signals::Signals::watch(&control, passes_on).context("signals cannot be watched").map_err(host)?;
    let only_commands = plan.summary().stages.iter().all(|stage| stage.kind == "command");
    let mut options = HostOptions::new().compiler([own_program().into_os_string(), COMPILE.into()]);
    let (cache, usual) = cache_directories();
    options.kept_apart = cache.iter().chain(&usual).cloned().collect();
    options.cache = cache.filter(|cache| {
        let is_guests = policy.is_guests(cache);
        if is_guests && !args.quiet {
            let cache = cache.display();
            render::warning(&format!(
                "the code cache {cache} is not used: the policy's `dirs` lets guests write there"
            ));
        }
        !is_guests
    });
    options.open_files = Some(open_files);
    // What programs do needs no threads of ours.
    options.threads = only_commands.then_some(0);
    if plan.has_commands() {
        options.guard.clone_from(&guard);
        options.adopts_orphans = true;
        options.cgroup = args.cgroup.clone().or_else(delegated_cgroup);
    }
    let host = Host::new(&options).map_err(|error| Failure::new(ExitCode::Host, error))?;
    drop(options);
    if let Some(error) = unguarded
        && plan.has_commands()
        && args.verbose
    {
        render::warning(&format!("there is no guard; should this process be killed, commands may see an end: {error}"));
    }
    let quiet = args.quiet;
    let sent_away = guard.clone();
    let warn = move |event: &Event| match event {
        Event::Warning { message, .. } if !quiet => render::warning(message),
        // It goes while the rest is said.
        Event::Ended => sent_away.iter().for_each(Guard::dismiss),
        _ => {}
    };
    let stderr_prefix = match args.stderr_prefix {
        Prefix::Always => StderrPrefix::All,
        Prefix::Auto if args.verbose || io::stderr().is_terminal() => StderrPrefix::Guests,
        Prefix::Auto | Prefix::Never => StderrPrefix::None,
    };
    // Planning is a part of the run's time.
    let options = RunOptions::new().tee_stderr(true).foreground(foreground).spent(plan.took()).on_event(warn);
    let mut options = options.control(&control).stderr_prefix(stderr_prefix);
    options.coredump.clone_from(&args.coredump);
    options.watched = watched;
    if !plan.has_commands() {
        // It has gone meanwhile, and is not to be a zombie until the run is over.
        guard.iter().for_each(Guard::end);
    }
    let outcome = host.run(&plan, Ends::new(), &options);
    // They are watched until the end: what is printed may have to wait for a reader.
    let dies_of = signals.run_is_over(outcome.signal);
    if let Some(warning) = host.warning()
        && args.verbose
    {
        render::warning(warning);
    }
    // The run is over and nothing of it is left but idle threads, which end with the process, and sooner so.
    std::mem::forget(host);
    Ok((outcome, dies_of))
}

/// Refuses to read or write a standard stream that is closed: it would look as if it were empty, or as if all had been written.
fn refuse_closed(plan: &Plan) -> Result<(), Failure> {
    let (reads, writes) = plan.inherits();
    let closed = match () {
        () if reads && started::was_closed(0) => {
            ("standard input", "give the input with --stdin FILE, or --stdin null")
        }
        () if writes && started::was_closed(1) => ("standard output", "give the output a place with --stdout FILE"),
        () => return Ok(()),
    };
    let (name, hint) = closed;
    Err(Failure::new(ExitCode::Host, anyhow!("{name} is closed")).hint(Some(hint.into())))
}

/// This program's own file: whatever was put in its place since it was started, or where that cannot be had, what it was started as.
fn own_program() -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    let own = Path::new("/proc/self/exe");
    if own.exists() {
        return own.to_owned();
    }
    let started_as = Path::new(std::ffi::OsStr::from_bytes(rustix::param::linux_execfn().to_bytes()));
    std::path::absolute(started_as).unwrap_or_else(|_| started_as.to_owned())
}

/// Lets this process open as many files as it may, and returns the limits it was started with, which are the commands'.
fn raise_open_files() -> (u64, u64) {
    let limit = getrlimit(Resource::Nofile);
    // As it was, if the system refuses.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX))
}

/// This process's own cgroup, if the system has delegated it: systemd says so by an attribute of the directory.
fn delegated_cgroup() -> Option<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    // Nobody delegates the root.
    let path = own.lines().find_map(|line| line.strip_prefix("0::/")).filter(|path| !path.is_empty())?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mount = mounts.lines().find(|line| line.starts_with("cgroup2 ")).and_then(|line| line.split(' ').nth(1))?;
    let directory = Path::new(mount).join(path);
    let delegated = |name| {
        let mut value = [0; 2];
        matches!(rustix::fs::getxattr(&directory, name, &mut value), Ok(1..)) && value[0] == b'1'
    };
    (delegated("user.delegate") || delegated("trusted.delegate")).then(|| directory.clone())
}

/// Where compiled code is kept (`STAGEHOST_CACHE_DIR`, else a directory in the user's cache; empty: nowhere), and where it usually is.
#[expect(clippy::disallowed_methods, reason = "the command line reads the environment")]
fn cache_directories() -> (Option<PathBuf>, Option<PathBuf>) {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let users = variable("XDG_CACHE_HOME").filter(|directory| directory.is_absolute());
    let home = || variable("HOME").filter(|home| home.is_absolute()).map(|home| home.join(".cache"));
    let usual = users.or_else(home).map(|directory| directory.join("stagehost"));
    match variable("STAGEHOST_CACHE_DIR") {
        None => (usual.clone(), usual),
        Some(own) if own == Path::new("") => (None, usual),
        Some(own) => (Some(std::path::absolute(&own).unwrap_or(own)), usual),
    }
}

/// Where the report goes. It is opened before anything runs, so that a wrong path fails early.
struct Report(Option<(Place, String)>);

enum Place {
    File(WholeFile),
    Descriptor(fs::File),
}

impl Report {
    fn open(args: &RunArgs) -> Result<Self, Failure> {
        let failed = |error: anyhow::Error| Failure::new(ExitCode::Host, error);
        if let Some(number) = args.report_fd {
            let name = format!("descriptor {number}");
            let file = stagehost::inherited_descriptor(number).with_context(|| format!("the report {name}"));
            return Ok(Self(Some((Place::Descriptor(file.map_err(failed)?.into()), name))));
        }
        let Some(path) = &args.report else { return Ok(Self(None)) };
        let (name, policy) = (path.display().to_string(), load::policy(&args.pipeline)?);
        // First: whether there is anything by that name is not to be told where guests could have led it elsewhere.
        let file = policy.whole_file(path).with_context(|| format!("the report {name}")).map_err(failed)?;
        if args.pipeline.what.pipeline.as_ref().is_some_and(|pipeline| policy.is_same_file(pipeline, path)) {
            return Err(failed(anyhow!("the report {name} is the pipeline file, which it would overwrite")));
        }
        let whole = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        for end in [&args.pipeline.stdin, &args.pipeline.stdout].into_iter().flatten() {
            // What is written in place may be both.
            if file.replaces() && (policy.is_same_file(end, path) || whole(end) == whole(path)) {
                return Err(failed(anyhow!("the report {name} is the input or the output, which it would replace")));
            }
        }
        Ok(Self(Some((Place::File(file), name))))
    }

    /// Writes the report; a failure is told and does not hide the run's own end.
    fn write_or_say(self, outcome: &Outcome) -> bool {
        let Some((place, name)) = self.0 else { return true };
        let json = serde_json::to_string_pretty(outcome).map_err(io::Error::other);
        let written = json.and_then(|json| match place {
            Place::File(file) => file.write(format!("{json}\n").as_bytes()),
            Place::Descriptor(mut file) => file.write_all(format!("{json}\n").as_bytes()),
        });
        match written {
            Ok(()) => true,
            Err(error) => {
                let error = anyhow::Error::from(error).context(format!("the report {name} cannot be written"));
                render::failure(&Failure::new(ExitCode::Host, error));
                false
            }
        }
    }
}
