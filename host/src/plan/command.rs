//! Planning a command: its program, directory, environment and limits.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs,
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{Access as Right, AtFlags, CWD, accessat},
    process::{Resource, getrlimit},
};

use super::{
    error::{ErrorCode, PlanError, PlanErrorKind},
    layers::Layers,
    options::PlanOptions,
    work::{CommandLimits, CommandWork},
};
use crate::{
    digest::hex,
    process::{Planned, Rlimits, WallSpec, WalledDir},
    sandbox::Sandbox,
    spec::{Access, Bound, Leftovers, Place, Sandboxing, StageSpec, to_os, to_path},
    stock,
};

/// Where a bare name is looked for when the stage has no PATH.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// The longest path that the system takes, with the byte that ends it (Linux: `PATH_MAX`).
const LONGEST_PATH: usize = 4096;

pub(super) fn plan(
    stage: &StageSpec,
    command: &[String],
    options: &PlanOptions,
    place: &Place,
    layers: &Layers<'_>,
    is_shorthand: bool,
) -> Result<CommandWork, PlanError> {
    let policy = &options.policy;
    let directory = match &stage.dir {
        Some(dir) => layers.base.join(to_path(dir)),
        None => layers.dir.clone().unwrap_or_else(|| layers.base.to_owned()),
    };
    let here = directory.as_os_str().is_empty() || directory == Path::new(".");
    let directory = if here { None } else { Some(absolute(&directory).unwrap_or(directory)) };
    // Before anything is looked at: under a policy no answer tells what is outside.
    if let Some(directory) = directory.as_ref().filter(|_| stage.dir.is_some() || layers.dir.is_some()) {
        policy.check_dir(directory, Access::Read, &place.key("dir"))?;
    }
    if let Some(directory) = &directory {
        let place = place.key("dir");
        match fs::metadata(directory) {
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
    let around = directory.as_deref().unwrap_or(Path::new(""));
    let path = environment.get(OsStr::new("PATH")).map(OsString::as_os_str);
    let operators = || options.environment.iter().find(|(key, _)| key == "PATH").map(|(_, path)| path.as_os_str());
    if policy.plugins.is_some() {
        let named = Some(to_path(name).into_owned()).filter(|_| name.contains('/'));
        let searched = elements(path).filter(|element| !elements(operators()).any(|own| own == *element));
        for looked_at in named.into_iter().chain(searched.filter(|_| !name.contains('/')).map(PathBuf::from)) {
            policy.check_plugin(&around.join(looked_at), &place.key("command"))?;
        }
    }
    let program = resolve(name, around, path)
        .map_err(|missing| missing.error(name, path, &place.key("command"), is_shorthand))?;
    // It is started in its directory.
    let mut program = absolute(&program).unwrap_or_else(|| match directory.is_some() && program.is_relative() {
        true => Path::new(&format!("/proc/{}/cwd", std::process::id())).join(&program),
        false => program,
    });
    // A bare name is the operator's program, if it is found where the operator's own PATH says.
    let is_operators = || resolve(name, Path::new("/"), operators()).ok().as_ref() == Some(&program);
    if policy.plugins.is_some() && (name.contains('/') || !is_operators()) {
        // By its real path from here on: a link on the way to it may lead elsewhere the next moment.
        policy.check_plugin(&program, &place.key("command"))?.path().clone_into(&mut program);
    }
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
        // First: under a policy no answer tells what is outside.
        policy.check_dir(&host, dir.access, &place)?;
        let planned =
            Planned::now(&host).map_err(|error| PlanError::system(PlanErrorKind::Refused, &place, &host, &error))?;
        policy.check_dir(planned.path(), dir.access, &place)?;
        // What may be run is a matter of its own.
        let runs = policy.check_plugin(planned.path(), &place).is_ok();
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
    let wall = wall(stage, &program, dirs, place)?;
    let digest = match &stage.sha256 {
        Some(expected) => Some(check_digest(&program, expected, &place.key("sha256"))?),
        None => None,
    };
    Ok(CommandWork {
        program,
        arguments: command.iter().map(|word| to_os(word).into_owned()).collect(),
        environment: Arc::new(environment.into_iter().collect()),
        variables: layers.variables(),
        directory,
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
    program: &Path,
    dirs: Vec<WalledDir>,
    place: &Place,
) -> Result<Option<(WallSpec, Vec<String>)>, PlanError> {
    let Some(sandbox) = stage.sandbox else { return Ok(None) };
    let grants = stage.grants.clone().unwrap_or_default();
    let wall = WallSpec {
        best_effort: sandbox == Sandboxing::BestEffort,
        program: Planned::now(program).ok(),
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

/// Checks a program's digest. Whoever may change the file between this and its start is trusted with it.
fn check_digest(program: &Path, expected: &str, place: &Place) -> Result<[u8; 32], PlanError> {
    let bytes = fs::read(program).map_err(|error| PlanError::system(PlanErrorKind::Refused, place, program, &error))?;
    let digest = Sandbox::digest(&bytes);
    if !expected.eq_ignore_ascii_case(&hex(&digest)) {
        let message = format!("has the digest {}", hex(&digest));
        return Err(PlanError::new(PlanErrorKind::Refused, place, message)
            .code(ErrorCode::DigestMismatch)
            .about(program)
            .hint("it is not the program this pipeline was written for; if it should be, change the digest"));
    }
    Ok(digest)
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
    !name.contains('/') && resolve(name, Path::new("/"), path).is_ok()
}

/// The directories of a PATH.
fn elements(path: Option<&OsStr>) -> impl Iterator<Item = &OsStr> {
    path.unwrap_or(OsStr::new(DEFAULT_PATH)).as_bytes().split(|byte| *byte == b':').map(OsStr::from_bytes)
}

/// Finds a program as a shell does: a name with a slash is a path from `around`, any other is looked for on PATH.
fn resolve(name: &str, around: &Path, path: Option<&OsStr>) -> Result<PathBuf, Missing> {
    if name.contains('/') {
        let program = around.join(to_path(name));
        return match executable(&program) {
            Ok(()) => Ok(program),
            Err(missing) => Err(missing),
        };
    }
    let mut refused = None;
    for element in elements(path) {
        let program = around.join(element).join(to_path(name));
        match executable(&program) {
            Ok(()) => return Ok(program),
            Err(Missing::NotFound) => {}
            // A later directory may have one that can be run.
            Err(other) => refused = refused.or(Some(other)),
        }
    }
    Err(refused.unwrap_or(Missing::NotFound))
}

/// Whether a file is WebAssembly by its first bytes. One that cannot be read is looked at when it is started.
fn is_webassembly(program: &Path) -> bool {
    let mut magic = [0; 4];
    fs::File::open(program).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"\0asm"
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
    if accessat(CWD, program, Right::EXEC_OK, AtFlags::EACCESS).is_err() {
        return refused("is not executable");
    }
    if metadata.is_file() && is_webassembly(program) {
        return Err(Missing::WebAssembly(program.to_owned()));
    }
    Ok(())
}
