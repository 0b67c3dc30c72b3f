//! `stagehost lock`.

use std::io::{self, Write};

use anyhow::Context;
use stagehost::{ExitCode, LOCK_FILE, Lock};

use crate::{args::PipelineArgs, failure::Failure, load, render::Lines};

pub(crate) fn lock(args: &PipelineArgs) -> Result<u8, Failure> {
    let plan = load::plan(args)?;
    let directory = load::lock_directory(args);
    let path = directory.join(LOCK_FILE);
    let now = Lock::of(&plan, &directory);
    let policy = load::policy(args)?;
    let mut lock = load::read_lock(&path, &policy)?.unwrap_or_default();
    let added: Vec<_> = lock.added(&now).iter().map(|(path, sha256)| (path.to_string(), sha256.to_string())).collect();
    let difference = lock.changes(&now);
    lock.update(now);
    // Whole or not at all: another run may read it meanwhile.
    let written = policy.whole_file(&path).and_then(|file| file.write(lock.text().as_bytes()));
    let written = written.with_context(|| format!("the lock {}", path.display()));
    written.map_err(|error| Failure::new(ExitCode::Host, error))?;
    let mut text = Lines::default();
    for (path, sha256) in added {
        text.add(format_args!("added {path} (sha256 {sha256}…)"));
    }
    text.0.push_str(&difference.unwrap_or_default());
    if text.0.is_empty() {
        text.add("nothing has changed");
    }
    write!(io::stdout(), "{}", text.0)?;
    Ok(0)
}
