//! Planning a command: its program, directory, environment and limits.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::{
    fs::{Access, AtFlags, CWD, accessat},
    process::{Resource, getrlimit},
};

use super::{Layers, PlanError, PlanErrorKind, PlanOptions};
use crate::{
    process::Rlimits,
    spec::{Bound, Eof, Leftovers, Place, StageSpec},
    stock,
};

/// Where a bare name is looked for when the stage has no PATH.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A command that can run.
#[derive(Debug)]
pub(crate) struct CommandWork {
    /// The program's file.
    pub(crate) program: PathBuf,
    /// Its arguments, its name as it was written first.
    pub(crate) arguments: Vec<OsString>,
    /// Its whole environment.
    pub(crate) environment: Arc<Vec<(OsString, OsString)>>,
    /// The variables that the pipeline gives it.
    pub(crate) variables: BTreeMap<String, String>,
    /// The directory it runs in; `None`: the host's own.
    pub(crate) directory: Option<PathBuf>,
    pub(crate) limits: CommandLimits,
    pub(crate) eof: Eof,
    pub(crate) leftovers: Leftovers,
}

/// What a command and everything it starts may use. `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CommandLimits {
    /// Resident memory of the whole tree, in bytes.
    pub(crate) memory: Option<u64>,
    /// Processor time of the whole tree.
    pub(crate) cpu_time: Option<Duration>,
    /// Processes of the whole tree.
    pub(crate) processes: Option<u64>,
    /// What the kernel holds for each process.
    pub(crate) rlimits: Rlimits,
}

impl CommandLimits {
    /// Whether something has to be looked at while it runs.
    pub(crate) fn are_watched(&self) -> bool {
        self.memory.is_some() || self.cpu_time.is_some() || self.processes.is_some()
    }
}

pub(super) fn plan(
    stage: &StageSpec,
    command: &[String],
    options: &PlanOptions,
    place: &Place,
    layers: &Layers<'_>,
) -> Result<CommandWork, PlanError> {
    let directory = match &stage.dir {
        Some(dir) => layers.base.join(dir),
        None => layers.dir.clone().unwrap_or_else(|| layers.base.to_owned()),
    };
    let here = directory.as_os_str().is_empty() || directory == Path::new(".");
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let directory = if here { None } else { Some(absolute(&directory)) };
    if let Some(directory) = &directory {
        let refused = |why: String| PlanError::new(PlanErrorKind::End, place.key("dir"), why);
        match fs::metadata(directory) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(refused(format!("{} is no directory", directory.display()))),
            Err(error) => return Err(refused(format!("{}: {error}", directory.display()))),
        }
    }
    let mut environment: BTreeMap<OsString, OsString> = options.environment.iter().cloned().collect();
    if let Some(directory) = &directory {
        // As a shell that went there would.
        environment.insert("PWD".into(), directory.clone().into());
    }
    for (key, value) in layers.env() {
        match value {
            Some(value) => environment.insert(key.into(), value.into()),
            None => environment.remove(OsStr::new(key)),
        };
    }
    let name = command.first().map_or("", String::as_str);
    let around = directory.as_deref().unwrap_or(Path::new(""));
    let path = environment.get(OsStr::new("PATH")).map(OsString::as_os_str);
    let program = resolve(name, around, path).map_err(|missing| missing.error(name, path, &place.key("command")))?;
    Ok(CommandWork {
        program: absolute(&program),
        arguments: command.iter().map(OsString::from).collect(),
        environment: Arc::new(environment.into_iter().collect()),
        variables: layers.variables(),
        directory,
        limits: limits(stage, layers, place)?,
        eof: stage.eof.unwrap_or_default(),
        leftovers: stage.leftovers.unwrap_or_default(),
    })
}

fn limits(stage: &StageSpec, layers: &Layers<'_>, place: &Place) -> Result<CommandLimits, PlanError> {
    let open_files = layers.limit(|limits| limits.open_files).and_then(Bound::value).map(|files| {
        // Nobody may raise what the host itself must keep to.
        let files = getrlimit(Resource::Nofile).maximum.map_or(files, |maximum| files.min(maximum));
        (files, files)
    });
    let file_size = layers.limit(|limits| limits.file_size).and_then(Bound::value).map(|size| size.0);
    let file_size = file_size.map(|size| getrlimit(Resource::Fsize).maximum.map_or(size, |maximum| size.min(maximum)));
    let mut limits = CommandLimits {
        memory: layers.limit(|limits| limits.memory).and_then(Bound::value).map(|size| size.0),
        cpu_time: layers.limit(|limits| limits.cpu_time).and_then(Bound::value).map(|span| span.0),
        processes: layers.limit(|limits| limits.processes).and_then(Bound::value),
        rlimits: Rlimits { open_files, file_size },
    };
    if limits.are_watched() && !Path::new("/proc/self/stat").exists() {
        let own = stage.limits.clone().unwrap_or_default();
        let key = [("memory", own.memory.is_some()), ("cpu_time", own.cpu_time.is_some())]
            .into_iter()
            .chain([("processes", own.processes.is_some())])
            .find(|(_, set)| *set);
        if let Some((key, _)) = key {
            let message = "this limit of a command cannot be held on this machine: there is no /proc";
            return Err(PlanError::new(PlanErrorKind::Refused, place.key("limits").key(key), message));
        }
        limits = CommandLimits { memory: None, cpu_time: None, processes: None, ..limits };
    }
    Ok(limits)
}

/// Why there is no program.
enum Missing {
    NotFound,
    NotExecutable(PathBuf, &'static str),
    Unreadable(PathBuf, io::Error),
}

impl Missing {
    fn error(self, name: &str, path: Option<&OsStr>, place: &Place) -> PlanError {
        match self {
            Self::NotFound => {
                let stock = stock::find(name).map(|stage| format!("the stock stage is \"builtin:{}\"", stage.name));
                let searched = path.map_or(DEFAULT_PATH.into(), OsStr::to_string_lossy);
                let looked = if name.contains('/') {
                    "it is relative to the stage's `dir`".to_owned()
                } else {
                    format!("looked for it in {searched}")
                };
                let hint = stock.map_or(looked.clone(), |stock| format!("{looked}; {stock}"));
                PlanError::new(PlanErrorKind::NotFound, place, format!("there is no program {name:?}")).hint(hint)
            }
            Self::NotExecutable(path, why) => {
                PlanError::new(PlanErrorKind::Refused, place, format!("{} {why}", path.display()))
            }
            Self::Unreadable(path, error) => {
                PlanError::new(PlanErrorKind::Refused, place, format!("{}: {error}", path.display()))
            }
        }
    }
}

/// Finds a program as a shell does: a name with a slash is a path from `around`, any other is looked for on PATH.
fn resolve(name: &str, around: &Path, path: Option<&OsStr>) -> Result<PathBuf, Missing> {
    if name.contains('/') {
        let program = around.join(name);
        return match executable(&program) {
            Ok(()) => Ok(program),
            Err(missing) => Err(missing),
        };
    }
    let mut refused = None;
    for element in path.unwrap_or(OsStr::new(DEFAULT_PATH)).as_bytes().split(|byte| *byte == b':') {
        let program = around.join(OsStr::from_bytes(element)).join(name);
        match executable(&program) {
            Ok(()) => return Ok(program),
            Err(Missing::NotFound) => {}
            // A later directory may have one that can be run.
            Err(other) => refused = refused.or(Some(other)),
        }
    }
    Err(refused.unwrap_or(Missing::NotFound))
}

fn executable(program: &Path) -> Result<(), Missing> {
    let metadata = fs::metadata(program).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Missing::NotFound,
        _ => Missing::Unreadable(program.to_owned(), error),
    })?;
    let refused = |why| Err(Missing::NotExecutable(program.to_owned(), why));
    if metadata.is_dir() {
        return refused("is a directory, not a program");
    }
    if accessat(CWD, program, Access::EXEC_OK, AtFlags::EACCESS).is_err() {
        return refused("is not executable");
    }
    Ok(())
}
