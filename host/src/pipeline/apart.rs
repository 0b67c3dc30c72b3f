//! Compiled code is kept apart from what stages may write to: whoever writes it writes this process's code.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::{
    outcome::{ExitCode, Outcome},
    plan::{ErrorCode, Outlet, Planned, Work},
    policy::Route,
    process,
    spec::{Access, to_text},
};

/// Refuses a run of which a sandboxed stage could change what is kept in a code cache, or lead its path elsewhere, or of which an output
/// is there: whether this run uses it or not, others will. Programs without a sandbox may do whatever this process may.
pub(super) fn refusal(caches: &[PathBuf], plan: &Planned) -> Option<Outcome> {
    let granted =
        || plan.stages.iter().flat_map(|stage| written(&stage.work).map(move |(index, dir)| (stage, index, dir)));
    let logs =
        || plan.stages.iter().filter_map(|stage| Some((format!("{}.stderr", stage.place), stage.log.as_ref()?.path())));
    let output = match &plan.stdout {
        Outlet::Place(output) => output.path(),
        Outlet::Null | Outlet::Program => None,
    };
    let files = || logs().chain(output.map(|path| ("stdout".to_owned(), path)));
    if caches.is_empty() || granted().next().is_none() && files().next().is_none() {
        return None;
    }
    let ways: Vec<_> = caches.iter().map(|cache| Way::to(cache)).collect();
    let of_stage = granted()
        .find(|(_, _, dir)| ways.iter().any(|way| way.is_led_through(dir)))
        .map(|(stage, index, dir)| (format!("{}.grants.dirs[{index}].host", stage.place), dir.path().to_owned()));
    let (place, path) = of_stage.or_else(|| {
        files().find(|(_, path)| ways.iter().any(|way| way.has(path))).map(|(place, path)| (place, path.to_owned()))
    })?;
    let message = format!("{place}: whoever writes there could change the compiled code that is kept for later runs");
    let hint =
        "name a directory that does not hold the code cache: STAGEHOST_CACHE_DIR and XDG_CACHE_HOME say where it is";
    let outcome = Outcome::not_started(plan.name.clone(), ExitCode::Refused, message, Some(hint.into()));
    Some(Outcome { code: ErrorCode::NotGrantable.word(), path: Some(to_text(&path)), ..outcome })
}

/// The directories that work in a sandbox may write to, with their numbers among its grants.
fn written(work: &Work) -> impl Iterator<Item = (usize, &process::Planned)> {
    let (guests, walled) = match work {
        Work::Wasm(wasm) => (&wasm.rights.dirs[..], &[][..]),
        Work::Command(command) => (&[][..], command.wall.as_ref().map_or(&[][..], |(wall, _)| &wall.dirs[..])),
        Work::Function(_) => (&[][..], &[][..]),
    };
    let guests = guests.iter().map(|dir| (&dir.host, dir.access)).enumerate();
    let walled = walled.iter().map(|dir| (&dir.dir, dir.access)).enumerate();
    guests.chain(walled).filter(|(_, (_, access))| *access == Access::Write).map(|(index, (dir, _))| (index, dir))
}

/// How the path of the cache leads there.
struct Way {
    /// The real paths of the directories in which its names stand, and of itself.
    around: Vec<PathBuf>,
    /// Their devices and inodes: one may be mounted elsewhere, too.
    identities: Vec<(u64, u64)>,
    /// Its real path, if it is there.
    real: Option<PathBuf>,
}

impl Way {
    fn to(cache: &Path) -> Self {
        let Route { end, mut around } = Route::to(cache);
        let real = end.real();
        around.extend(real.clone());
        let identity = |path: &PathBuf| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
        Self { identities: around.iter().filter_map(identity).collect(), around, real }
    }

    /// Whether who may write to a directory could change what is in the cache.
    fn is_led_through(&self, dir: &process::Planned) -> bool {
        self.has(dir.path())
            || self.identities.contains(&dir.identity())
            || self.around.iter().any(|around| around.starts_with(dir.path()))
    }

    /// Whether a path is one of something in it.
    fn has(&self, path: &Path) -> bool {
        let Some(real) = &self.real else { return false };
        let around = path.parent().filter(|around| *around != Path::new("")).unwrap_or(Path::new("."));
        let there = fs::canonicalize(path).or_else(|_| fs::canonicalize(around));
        there.is_ok_and(|there| there.starts_with(real))
    }
}
