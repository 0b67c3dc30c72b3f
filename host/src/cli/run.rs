//! `stagehost run`.

use std::{
    fs,
    io::Write,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};
use stagehost::{ExitCode, Host, HostOptions, Outcome, RunControl, RunOptions};

use super::{Failure, args::RunArgs, load, render, signals};

pub(crate) fn run(args: RunArgs) -> Result<u8, Failure> {
    let quiet = args.quiet;
    run_and_report(&args).map_err(|failure| Failure { silent: failure.silent || quiet, ..failure })
}

fn run_and_report(args: &RunArgs) -> Result<u8, Failure> {
    let mut report = Report::open(args)?;
    // Watched until the end: what is printed below may have to wait for a reader.
    let (outcome, _signals) = match start(args) {
        Ok(started) => started,
        Err(failure) => {
            let mut message = failure.error.to_string();
            for cause in failure.error.chain().skip(1) {
                message.push_str(&format!(": {cause}"));
            }
            let mut outcome = Outcome::not_started(None, ExitCode::Host, message, failure.hint.clone());
            outcome.exit_code = failure.code;
            report.write_or_warn(&outcome);
            return Err(failure);
        }
    };
    if !args.quiet {
        render::outcome(&outcome);
    }
    if args.verbose {
        render::details(&outcome);
    }
    let reported = report.write_or_warn(&outcome);
    if let Some(signal) = outcome.signal {
        signals::die_of(signal);
    }
    // What the run itself has to say comes first.
    Ok(if outcome.exit_code == 0 && !reported { ExitCode::Host as u8 } else { outcome.exit_code })
}

fn start(args: &RunArgs) -> Result<(Outcome, signals::Signals), Failure> {
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
    signals.run_is_over(outcome.signal);
    drop(host);
    Ok((outcome, signals))
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
        let same = |a: &Path, b: &Path| {
            let id = |path| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
            id(a).is_some() && id(a) == id(b)
        };
        if args.report.is_some() && args.pipeline.what.pipeline.as_ref().is_some_and(|pipeline| same(pipeline, &path)) {
            let error = anyhow!("the report {name} is the pipeline file, which it would overwrite");
            return Err(Failure::new(ExitCode::Host, error));
        }
        let file = match args.report_fd {
            Some(number) => stagehost::inherited_descriptor(number).map(fs::File::from),
            None => fs::File::create(path),
        };
        let file =
            file.with_context(|| format!("the report {name}")).map_err(|error| Failure::new(ExitCode::Host, error))?;
        Ok(Self(Some((file, name))))
    }

    /// Writes the report; a failure is told and does not hide the run's own end.
    fn write_or_warn(&mut self, outcome: &Outcome) -> bool {
        let Some((file, name)) = &mut self.0 else { return true };
        let json = serde_json::to_string_pretty(outcome).map_err(std::io::Error::other);
        let written = json.and_then(|json| file.write_all(format!("{json}\n").as_bytes()));
        match written {
            Ok(()) => true,
            Err(error) => {
                render::warning(&format!("the report {name} cannot be written: {error}"));
                false
            }
        }
    }
}
