//! Planning a command: its program, directory, environment and limits.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::process::{Resource, getrlimit};
use sha2::{Digest, Sha256};

use super::{
    error::{ErrorCode, PlanError, PlanErrorKind},
    layers::Layers,
    planner::Planner,
    work::{CommandLimits, CommandWork},
};
use crate::{
    digest::hex,
    joint::Named,
    process::{Planned, Rlimits, WallSpec, WalledDir},
    spec::{Access, Bound, Leftovers, Place, Sandboxing, StageSpec, to_os, to_path},
    stock,
};

/// Where a bare name is looked for when the stage has no PATH.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// The longest path that the system takes, with the byte that ends it (Linux: `PATH_MAX`).
const LONGEST_PATH: usize = 4096;

pub(super) fn plan(
    planner: &Planner<'_>,
    stage: &StageSpec,
    command: &[String],
    place: &Place,
    layers: &Layers<'_>,
) -> Result<CommandWork, PlanError> {
    let (options, is_shorthand) = (planner.options, planner.is_shorthand);
    let policy = &options.policy;
    let directory = match &stage.dir {
        Some(dir) => layers.base.join(to_path(dir)),
        None => layers.dir.clone().unwrap_or_else(|| layers.base.path().to_owned()),
    };
    let here = directory.as_os_str().is_empty() || directory == Path::new(".");
    // Before anything is looked at: under a policy no answer tells what is outside.
    let is_said = stage.dir.is_some() || layers.dir.is_some();
    // What has no word on it stands where its pipeline does: the outermost one where its operator says, a nested one where it was found.
    let must_be_judged = is_said || layers.is_nested && layers.base.at().is_none();
    let judged = match !here && must_be_judged {
        true => Some(policy.check_dir(&directory, layers.base, Access::Read, &place.key("dir"))?),
        false => None,
    };
    let directory = if here { None } else { Some(absolute(&directory).unwrap_or(directory)) };
    // What its program's path is relative to. The directory of a nested pipeline is where that was found.
    let shown = directory.clone().unwrap_or_default();
    let around = match judged {
        Some(judged) if judged.is_resolved() => policy.base_at(judged.path().to_owned(), judged),
        Some(judged) => policy.base_at(shown, judged),
        None => layers.base.written(layers.base.at().map_or(shown, |at| at.path().to_owned())),
    };
    let directory_at = around.at().cloned();
    if let Some(directory) = &directory {
        let place = place.key("dir");
        match directory_at.clone().unwrap_or_else(|| Named::anywhere(directory)).metadata() {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => {
                let refused = PlanError::new(PlanErrorKind::End, place, "is no directory");
                return Err(refused.code(ErrorCode::NotADirectory).about(directory));
            }
            Err(error) => return Err(PlanError::system(PlanErrorKind::End, place, directory, &error)),
        }
    }
    let inherited = options.environment.iter().filter(|(key, _)| options.policy.inherits(key));
    let mut environment: BTreeMap<OsString, OsString> = inherited.cloned().collect();
    if let Some(directory) = &directory {
        // As a shell that went there would.
        environment.insert("PWD".into(), directory.clone().into());
    }
    for (key, value) in layers.env() {
        match value {
            Some(value) => environment.insert(to_os(key).into_owned(), to_os(value).into_owned()),
            None => environment.remove(&*to_os(key)),
        };
    }
    let name = command.first().map_or("", String::as_str);
    let path = environment.get(OsStr::new("PATH")).map(OsString::as_os_str);
    let operators = || options.environment.iter().find(|(key, _)| key == "PATH").map(|(_, path)| path.as_os_str());
    // A bare name is the operator's program, if it is found where the operator's own PATH says: nothing else is looked at anywhere.
    let judge = |candidate: &Path, element: Option<&OsStr>| {
        planner.check_time(place)?;
        let is_operators = |element: &OsStr| elements(operators()).any(|own| own == element);
        if policy.plugins.is_none()
            || element.is_some_and(|element| element.as_bytes().starts_with(b"/") && is_operators(element))
        {
            return Ok(Named::anywhere(candidate));
        }
        Ok(policy.check_plugin(candidate, &around, &place.key("command"))?)
    };
    let found = resolve(name, around.path(), path, &judge)?
        .map_err(|missing| missing.error(name, path, &place.key("command"), is_shorthand))?;
    let of_operators = |found: &Path| {
        let first = resolve(name, Path::new("/"), operators(), &anywhere);
        matches!(first, Ok(Ok(first)) if first.path() == found)
    };
    let named = match policy.plugins.is_some() && !found.is_resolved() && !of_operators(found.path()) {
        true => policy.check_plugin(found.path(), &around, &place.key("command"))?,
        false => found,
    };
    // It is started in its directory.
    let program = absolute(named.path()).unwrap_or_else(|| match directory.is_some() && named.path().is_relative() {
        true => Path::new(&format!("/proc/{}/cwd", std::process::id())).join(named.path()),
        false => named.path().to_owned(),
    });
    if policy.timeout.is_some() && stage.leftovers == Some(Leftovers::Keep) {
        let message = "what is kept would outlive the run; the policy's `timeout` does not allow it";
        return Err(
            PlanError::new(PlanErrorKind::Refused, place.key("leftovers"), message).code(ErrorCode::DeniedByPolicy)
        );
    }
    policy.check_sandbox(stage.sandbox, place)?;
    policy.check_digest(stage.sha256.is_some(), place)?;
    let mut dirs = Vec::new();
    for (index, dir) in stage.grants.iter().flat_map(|grants| grants.dirs.iter().flatten()).enumerate() {
        let place = place.key("grants").key("dirs").index(index).key("host");
        let host = layers.base.join(to_path(&dir.host));
        planner.check_time(&place)?;
        // First: under a policy no answer tells what is outside.
        let named = policy.check_dir(&host, layers.base, dir.access, &place)?;
        let planned =
            Planned::now(named).map_err(|error| PlanError::system(PlanErrorKind::Refused, &place, &host, &error))?;
        // To see what the kernel has of others is for whoever runs it to grant; to change it is for nobody.
        let is_whole = planned.path() == Path::new("/") && policy.dirs.is_none();
        if planned.is_the_systems() && !is_whole && (dir.access == Access::Write || policy.dirs.is_some()) {
            return Err(PlanError::of_the_systems(&place, &host));
        }
        // What may be run is a matter of its own.
        let runs = policy.has_plugins(planned.path());
        dirs.push(WalledDir { dir: planned, access: dir.access, runs });
    }
    for (index, address) in stage.grants.iter().flat_map(|grants| grants.net.iter().flatten()).enumerate() {
        let place = place.key("grants").key("net").index(index);
        policy.check_net(address, &place)?;
        if policy.net.is_some() {
            let message = "a command's sandbox holds ports and not hosts; the policy's `net` does not allow it";
            return Err(PlanError::new(PlanErrorKind::Refused, place, message).code(ErrorCode::DeniedByPolicy));
        }
    }
    let named = if named.is_resolved() { named } else { Named::anywhere(&program) };
    let wall = wall(stage, &named, dirs, place)?;
    let digest = match &stage.sha256 {
        Some(expected) => Some(planner.check_digest(&named, expected, &place.key("sha256"))?),
        None => None,
    };
    Ok(CommandWork {
        program,
        arguments: command.iter().map(|word| to_os(word).into_owned()).collect(),
        environment: Arc::new(environment.into_iter().collect()),
        variables: layers.variables(),
        directory,
        directory_at,
        program_at: Some(named).filter(Named::is_resolved),
        limits: limits(stage, layers, place)?,
        eof: stage.eof.unwrap_or_default(),
        leftovers: stage.leftovers.unwrap_or_default(),
        wall,
        digest,
    })
}

/// The absolute path, unless no path of the system's is that long: this directory may be deeper than that.
fn absolute(path: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(path).ok()?;
    (absolute.as_os_str().len() < LONGEST_PATH).then_some(absolute)
}

/// The wall around a command, if it has one.
fn wall(
    stage: &StageSpec,
    program: &Named,
    dirs: Vec<WalledDir>,
    place: &Place,
) -> Result<Option<(WallSpec, Vec<String>)>, PlanError> {
    let Some(sandbox) = stage.sandbox else { return Ok(None) };
    let grants = stage.grants.clone().unwrap_or_default();
    let wall = WallSpec {
        best_effort: sandbox == Sandboxing::BestEffort,
        program: Planned::now(program.clone()).ok(),
        dirs,
        ports: grants.net.iter().flatten().filter_map(|address| address.port).collect(),
    };
    let missing = wall.missing();
    if !wall.best_effort && !missing.is_empty() {
        return Err(PlanError::new(PlanErrorKind::Refused, place.key("sandbox"), missing.join("; "))
            .code(ErrorCode::Unsupported)
            .hint("\"best-effort\" does without, and the report says so"));
    }
    Ok(Some((wall, missing)))
}

impl Planner<'_> {
    /// Checks a program's digest, a piece at a time. Whoever may change the file between this and its start is trusted with it.
    fn check_digest(&self, program: &Named, expected: &str, place: &Place) -> Result<[u8; 32], PlanError> {
        const PIECE: usize = 1 << 20;
        let refused = |error: &io::Error| PlanError::system(PlanErrorKind::Refused, place, program.path(), error);
        let mut file = program.open_regular().map_err(|error| refused(&error))?;
        let (mut hasher, mut piece) = (Sha256::new(), vec![0; PIECE]);
        loop {
            self.check_time(place)?;
            match file.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => hasher.update(&piece[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(refused(&error)),
            }
        }
        let digest: [u8; 32] = hasher.finalize().into();
        if !expected.eq_ignore_ascii_case(&hex(&digest)) {
            let message = format!("has the digest {}", hex(&digest));
            return Err(PlanError::new(PlanErrorKind::Refused, place, message)
                .code(ErrorCode::DigestMismatch)
                .about(program.path())
                .hint("it is not the program this pipeline was written for; if it should be, change the digest"));
        }
        Ok(digest)
    }
}

fn limits(stage: &StageSpec, layers: &Layers<'_>, place: &Place) -> Result<CommandLimits, PlanError> {
    let open_files = layers.limit(|limits| limits.open_files).and_then(Bound::value).map(|files| {
        // Nobody may raise what the host itself must keep to.
        // Nor has one in a sandbox more than half of that.
        let shares = if stage.sandbox.is_some() { 2 } else { 1 };
        let files = getrlimit(Resource::Nofile).maximum.map_or(files, |maximum| files.min(maximum / shares));
        (files, files)
    });
    let file_size = layers.limit(|limits| limits.file_size).and_then(Bound::value).map(|size| size.0);
    let file_size = file_size.map(|size| getrlimit(Resource::Fsize).maximum.map_or(size, |maximum| size.min(maximum)));
    let mut limits = CommandLimits {
        memory: layers.limit(|limits| limits.memory).and_then(Bound::value).map(|size| size.0),
        cpu_time: layers.limit(|limits| limits.cpu_time).and_then(Bound::value).map(|span| span.0),
        processes: layers.limit(|limits| limits.processes).and_then(Bound::value),
        rlimits: Rlimits { open_files, file_size, ..Rlimits::default() },
    };
    if limits.are_watched() && !Path::new("/proc/self/stat").exists() {
        let own = stage.limits.clone().unwrap_or_default();
        let key = [("memory", own.memory.is_some()), ("cpu_time", own.cpu_time.is_some())]
            .into_iter()
            .chain([("processes", own.processes.is_some())])
            .find(|(_, set)| *set);
        let by_flags = layers
            .overrides
            .limits
            .iter()
            .any(|(_, said)| said.memory.is_some() || said.cpu_time.is_some() || said.processes.is_some());
        if key.is_some() || by_flags {
            let place = key.map_or_else(|| "the flags".to_owned(), |(key, _)| place.key("limits").key(key).into());
            let message = "this limit of a command cannot be held on this machine: /proc is not mounted";
            return Err(PlanError::new(PlanErrorKind::Refused, place, message));
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
    WebAssembly(PathBuf),
}

impl Missing {
    fn error(self, name: &str, path: Option<&OsStr>, place: &Place, is_shorthand: bool) -> PlanError {
        match self {
            Self::NotFound => {
                let start = if is_shorthand { ":" } else { "builtin:" };
                let stock = stock::find(name).map(|stage| format!("the stock stage is {start}{}", stage.name));
                let searched = shortened(&path.map_or(DEFAULT_PATH.into(), OsStr::to_string_lossy));
                let looked = if name.contains('/') {
                    "it is relative to the stage's `dir`".to_owned()
                } else {
                    format!("looked for it in {searched}")
                };
                let hint = stock.map_or(looked.clone(), |stock| format!("{looked}; {stock}"));
                PlanError::new(PlanErrorKind::NotFound, place, format!("there is no program \"{name}\"")).hint(hint)
            }
            Self::NotExecutable(path, why) => {
                PlanError::new(PlanErrorKind::Refused, place, why).code(ErrorCode::NotExecutable).about(path)
            }
            Self::WebAssembly(path) => {
                let why = "is WebAssembly, which runs in a sandbox and not as a program";
                let hint = match is_shorthand {
                    true => "give its name the ending .wasm, or write it in a file as \"wasm\"",
                    false => "write it as \"wasm\", not as \"command\"",
                };
                PlanError::new(PlanErrorKind::Refused, place, why).code(ErrorCode::NotExecutable).about(path).hint(hint)
            }
            Self::Unreadable(path, error) => PlanError::system(PlanErrorKind::Refused, place, path, &error),
        }
    }
}

/// A PATH that fits into a line.
fn shortened(path: &str) -> String {
    const SHOWN: usize = 80;
    if path.len() <= SHOWN {
        return path.to_owned();
    }
    let end = path.char_indices().take_while(|(at, _)| *at < SHOWN).filter(|(_, c)| *c == ':').last();
    let shown = end.map_or("", |(at, _)| &path[..at]);
    let more = path[shown.len()..].matches(':').count() + usize::from(shown.is_empty());
    format!("{shown} and {more} more directories of PATH")
}

/// Whether there is a program of that name on a PATH.
pub(super) fn is_program(name: &str, path: Option<&OsStr>) -> bool {
    !name.contains('/') && matches!(resolve(name, Path::new("/"), path, &anywhere), Ok(Ok(_)))
}

/// Says of a program that may be, and of the element of PATH that it is in, how it may be looked at.
type Judge<'a> = dyn Fn(&Path, Option<&OsStr>) -> Result<Named, PlanError> + 'a;

fn anywhere(candidate: &Path, _: Option<&OsStr>) -> Result<Named, PlanError> {
    Ok(Named::anywhere(candidate))
}

/// The directories of a PATH.
fn elements(path: Option<&OsStr>) -> impl Iterator<Item = &OsStr> {
    path.unwrap_or(OsStr::new(DEFAULT_PATH)).as_bytes().split(|byte| *byte == b':').map(OsStr::from_bytes)
}

/// Finds a program as a shell does: a name with a slash is a path from `around`, any other is looked for on PATH.
///
/// # Errors
///
/// What may not be looked at.
fn resolve(
    name: &str,
    around: &Path,
    path: Option<&OsStr>,
    judge: &Judge<'_>,
) -> Result<Result<Named, Missing>, PlanError> {
    if name.contains('/') {
        let program = around.join(to_path(name));
        let named = judge(&program, None)?;
        return Ok(executable(&named, program).map(|()| named));
    }
    let (mut refused, mut not_judged) = (None, None);
    for element in elements(path) {
        let program = around.join(element).join(to_path(name));
        let named = match judge(&program, Some(element)) {
            Ok(named) => named,
            Err(late) if late.kind == PlanErrorKind::Timeout => return Err(late),
            // What may not be looked at is passed by.
            Err(not) => {
                not_judged.get_or_insert(not);
                continue;
            }
        };
        match executable(&named, program) {
            Ok(()) => return Ok(Ok(named)),
            Err(Missing::NotFound) => {}
            // A later directory may have one that can be run.
            Err(other) => refused = refused.or(Some(other)),
        }
    }
    not_judged.map_or_else(|| Ok(Err(refused.unwrap_or(Missing::NotFound))), Err)
}

/// Whether a file is WebAssembly by its first bytes. One that cannot be read is looked at when it is started.
fn is_webassembly(program: &Named) -> bool {
    let mut magic = [0; 4];
    program.open_regular().and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"\0asm"
}

/// Whether a file can be run; `program` is its name for people.
fn executable(named: &Named, program: PathBuf) -> Result<(), Missing> {
    let metadata = match named.metadata() {
        Ok(metadata) => metadata,
        Err(error) => {
            return Err(match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Missing::NotFound,
                _ => Missing::Unreadable(program, error),
            });
        }
    };
    if metadata.is_dir() {
        return Err(Missing::NotExecutable(program, "is a directory, not a program"));
    }
    if !named.is_executable() {
        return Err(Missing::NotExecutable(program, "is not executable"));
    }
    if metadata.is_file() && is_webassembly(named) {
        return Err(Missing::WebAssembly(program));
    }
    Ok(())
}
