//! Compiled code is kept apart from what stages may write to: whoever writes it writes this process's code.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::{
    joint::Named,
    outcome::{ExitCode, Outcome},
    plan::{ErrorCode, Outlet, Planned, Work},
    policy::Route,
    process,
    spec::{Access, to_text},
};

/// Refuses a run of which a sandboxed stage could change what is kept in a code cache, or lead its path elsewhere, or of which an output
/// is there: whether this run uses it or not, others will. Programs without a sandbox may do whatever this process may.
pub(super) fn refusal(caches: &[PathBuf], plan: &Planned) -> Option<Outcome> {
    let granted = || {
        plan.stages.iter().flat_map(|stage| {
            let place = move |index: usize| format!("{}.grants.dirs[{index}].host", stage.place);
            written(&stage.work).map(move |(index, dir)| (place(index), dir))
        })
    };
    let output = match &plan.stdout {
        Outlet::Place(output) => output.file(),
        Outlet::Null | Outlet::Program => None,
    };
    let files = || {
        let logs =
            plan.stages.iter().filter_map(|stage| Some((format!("{}.stderr", stage.place), stage.log.as_ref()?)));
        logs.chain(output.map(|file| ("stdout".to_owned(), file)))
    };
    if caches.is_empty() || granted().next().is_none() && files().next().is_none() {
        return None;
    }
    let caches: Vec<_> = caches.iter().map(|path| Cache::at(path)).collect();
    let changed = granted()
        .find(|(_, dir)| caches.iter().any(|cache| cache.is_led_through(dir)))
        .map(|(place, dir)| (place, dir.path()));
    let (place, path) = changed.or_else(|| {
        files()
            .find(|(_, file)| caches.iter().any(|cache| cache.has_file(file)))
            .map(|(place, file)| (place, file.path()))
    })?;
    let message = format!("{place}: whoever writes there could change the compiled code that is kept for later runs");
    let hint =
        "name a directory that does not hold the code cache: STAGEHOST_CACHE_DIR and XDG_CACHE_HOME say where it is";
    let outcome = Outcome::not_started(plan.name.clone(), ExitCode::Refused, message, Some(hint.into()));
    Some(Outcome { code: ErrorCode::NotGrantable.word(), path: Some(to_text(path)), ..outcome })
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

/// A directory of compiled code, and how its path leads there.
struct Cache {
    /// The real paths of the directories in which names of the path stand, and of itself.
    around: Vec<PathBuf>,
    /// Their devices and inodes: one may be mounted elsewhere, too.
    identities: Vec<(u64, u64)>,
    /// Its real path, if it is there.
    real: Option<PathBuf>,
}

impl Cache {
    fn at(path: &Path) -> Self {
        let Route { end, mut around } = Route::to(path);
        // Wherever it is that cannot be told, the system finds it all the same.
        let real = end.real().or_else(|| fs::canonicalize(path).ok());
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

    /// Whether a real path is one of something in it.
    fn has(&self, path: &Path) -> bool {
        self.real.as_ref().is_some_and(|real| path.starts_with(real))
    }

    /// Whether a file is in it, or would be.
    fn has_file(&self, file: &Named) -> bool {
        let path = file.path();
        // What was judged is not looked at by its name again.
        if file.is_resolved() {
            return self.has(path);
        }
        let around = path.parent().filter(|around| *around != Path::new("")).unwrap_or(Path::new("."));
        fs::canonicalize(path).or_else(|_| fs::canonicalize(around)).is_ok_and(|there| self.has(&there))
    }
}
