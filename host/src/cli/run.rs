//! `stagehost run`.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};
use stagehost::{ExitCode, Host, HostOptions, Outcome, RunControl, RunOptions};

use super::{Failure, args::RunArgs, load, render, signals};

pub(crate) fn run(args: RunArgs) -> Result<u8, Failure> {
    let mut report = Report::open(&args)?;
    let outcome = match start(&args) {
        Ok(outcome) => outcome,
        Err(failure) => {
            let mut message = failure.error.to_string();
            for cause in failure.error.chain().skip(1) {
                message.push_str(&format!(": {cause}"));
            }
            let mut outcome = Outcome::not_started(None, ExitCode::Host, message, failure.hint.clone());
            outcome.exit_code = failure.code;
            report.write(&outcome)?;
            return Err(failure);
        }
    };
    if !args.quiet {
        render::outcome(&outcome);
    }
    if args.verbose {
        render::details(&outcome);
    }
    report.write(&outcome)?;
    if let Some(signal) = outcome.signal {
        signals::die_of(signal);
    }
    Ok(outcome.exit_code)
}

fn start(args: &RunArgs) -> Result<Outcome, Failure> {
    let planned = load::plan(&args.pipeline)?;
    let control = RunControl::default();
    let signals = signals::Signals::watch(&control)
        .context("signals cannot be watched")
        .map_err(|error| Failure::new(ExitCode::Host, error))?;
    let options = HostOptions { cache: cache_directory(), threads: None };
    let host = Host::new(&options).map_err(|error| Failure::new(ExitCode::Host, error))?;
    if let Some(warning) = host.warning()
        && args.verbose
    {
        render::warning(warning);
    }
    let outcome = host.run(planned.plan, &RunOptions { tee_stderr: true, control });
    drop(host);
    drop(signals);
    Ok(outcome)
}

/// Where compiled code is kept: `STAGEHOST_CACHE_DIR`, else a directory in the user's cache. Empty: nowhere.
#[expect(clippy::disallowed_methods, reason = "the command line reads the environment")]
fn cache_directory() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    if let Some(own) = variable("STAGEHOST_CACHE_DIR") {
        return (own != Path::new("")).then(|| std::path::absolute(&own).unwrap_or(own));
    }
    let users = variable("XDG_CACHE_HOME").filter(|directory| directory.is_absolute());
    let home = || variable("HOME").filter(|home| home.is_absolute()).map(|home| home.join(".cache"));
    users.or_else(home).map(|directory| directory.join("stagehost"))
}

/// Where the report goes. It is opened before anything runs, so that a wrong path fails early.
struct Report(Option<(fs::File, String)>);

impl Report {
    fn open(args: &RunArgs) -> Result<Self, Failure> {
        let (path, name) = match (&args.report, args.report_fd) {
            (Some(path), _) => (path.clone(), path.display().to_string()),
            (None, Some(number)) => (PathBuf::from(format!("/proc/self/fd/{number}")), format!("descriptor {number}")),
            (None, None) => return Ok(Self(None)),
        };
        // A descriptor's file keeps what it has.
        let file =
            if args.report.is_some() { fs::File::create(path) } else { fs::OpenOptions::new().append(true).open(path) };
        let file =
            file.with_context(|| format!("the report {name}")).map_err(|error| Failure::new(ExitCode::Host, error))?;
        Ok(Self(Some((file, name))))
    }

    fn write(&mut self, outcome: &Outcome) -> Result<(), Failure> {
        let Some((file, name)) = &mut self.0 else { return Ok(()) };
        let mut json = serde_json::to_string_pretty(outcome)
            .map_err(|error| Failure::new(ExitCode::Host, anyhow!("the report cannot be made: {error}")))?;
        json.push('\n');
        let written = file.write_all(json.as_bytes()).with_context(|| format!("the report {name}"));
        written.map_err(|error| Failure::new(ExitCode::Host, error))
    }
}
