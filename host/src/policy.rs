//! What pipelines may ask for at all: the word of whoever runs the host, over every file's.

mod build;
mod refusal;
mod roots;

use std::{
    ffi::OsStr,
    fs,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use crate::{
    joint::{Base, Named, Root, WholeFile},
    spec::{
        self, Access, Bound, LimitsSpec, NetGrant, Place, Sandboxing, Size, Span, SpecError, TooMuch, to_path, to_text,
    },
};

pub(crate) use refusal::Refusal;
pub(crate) use roots::Route;
use roots::{End, Roots};

/// What pipelines may ask for. A field that is not there allows everything; one that is there allows what it names and no
/// more. Planning refuses the rest and names the field. A limit that a pipeline does not set is the policy's, if that is lower than
/// the default.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", schemars(title = "stagehost policy"))]
#[non_exhaustive]
pub struct Policy {
    /// Where the schema of this file is; not read.
    #[serde(rename = "$schema")]
    pub schema: Option<String>,
    /// Kinds of stages.
    pub stages: Option<Vec<StageKind>>,
    /// Directories that components, nested pipelines, and programs that are not found by their bare names on the host's own PATH
    /// may come from. Stock stages may be used always. A program may run other programs, unless it has a sandbox.
    pub plugins: Option<Vec<String>>,
    /// Directories that files at the ends, and logs, may be in.
    pub files: Option<Vec<String>>,
    /// Directories that may be granted, and what for; a command's own directory (`dir`) is below one of them, too.
    pub dirs: Option<Vec<DirRoot>>,
    /// Variables of the host's environment that may be granted, and that commands inherit besides the usual ones (PATH, HOME,
    /// USER, LOGNAME, SHELL, TERM, TMPDIR, TZ, LANG, LC_*).
    pub env: Option<Vec<String>>,
    /// Addresses that may be granted to sandboxed stages. Commands are then granted none: the kernel holds their ports and not
    /// their hosts.
    pub net: Option<Vec<NetGrant>>,
    /// The least sandbox that every command must have.
    pub sandbox: Option<Sandboxing>,
    /// Whether every component and program must be named with its digest, stock stages excepted.
    pub sha256: Option<bool>,
    /// Whether each plan reads and looks at every component anew, whatever is [known](crate::KnownFiles) of its file.
    pub recheck: Option<bool>,
    /// The most of each limit of a stage.
    pub limits: Option<LimitsSpec>,
    /// The most time a run may take. Its `kill_after` and `linger` may then be no more than the defaults, and nothing is kept
    /// after it.
    pub timeout: Option<Span>,
    /// The most memory that a pipeline's stages, rings and pipes may hold together, in bytes. Compiled code counts when there is any: where
    /// the plan does not leave enough for it, its stage fails to start.
    pub total_memory: Option<Size>,
    /// The most stages of a pipeline.
    pub max_stages: Option<u64>,
    /// The most runs at once; for the program that embeds the library to give to its host.
    pub max_runs: Option<u32>,
    /// The directory that relative paths in it are relative to.
    #[serde(skip)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    pub base: PathBuf,
    #[serde(skip)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    held: Roots,
}

/// What whoever runs a pipeline names.
enum Operators {
    /// What guests cannot lead elsewhere, by its real path if it is there.
    Elsewhere(Option<PathBuf>),
    /// What is below a directory that guests may write to.
    Below(Named),
}

fn bytes_of(file: &fs::File, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A kind of stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum StageKind {
    /// A sandboxed component.
    Wasm,
    /// An ordinary program.
    Command,
    /// A nested pipeline.
    Pipeline,
    /// A function of the embedding program.
    Function,
}

/// A directory below which directories may be granted.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DirRoot {
    /// The directory.
    pub path: String,
    /// The most that may be granted. Default: read.
    #[serde(default)]
    pub access: Access,
}

impl StageKind {
    fn word(self) -> &'static str {
        match self {
            Self::Wasm => "wasm",
            Self::Command => "command",
            Self::Pipeline => "pipeline",
            Self::Function => "function",
        }
    }
}

impl Policy {
    /// Allows everything: for whoever runs only pipelines of their own.
    pub fn allow_all() -> Self {
        Self {
            schema: None,
            stages: None,
            plugins: None,
            files: None,
            dirs: None,
            env: None,
            net: None,
            sandbox: None,
            sha256: None,
            recheck: None,
            limits: None,
            timeout: None,
            total_memory: None,
            max_stages: None,
            max_runs: None,
            base: PathBuf::new(),
            held: Roots::default(),
        }
    }

    /// Allows sandboxed stages alone, with no right to anything but their streams: for strangers' pipelines. Ends may be
    /// given by the program; no file may be named.
    pub fn wasm_only() -> Self {
        Self {
            stages: Some(vec![StageKind::Wasm]),
            plugins: Some(Vec::new()),
            files: Some(Vec::new()),
            dirs: Some(Vec::new()),
            env: Some(Vec::new()),
            net: Some(Vec::new()),
            ..Self::allow_all()
        }
    }

    /// Reads a policy file. Relative paths in it are relative to `base`.
    ///
    /// # Errors
    ///
    /// The first thing wrong with it.
    pub fn parse(text: &[u8], base: impl Into<PathBuf>) -> Result<Self, SpecError> {
        let policy: Self = spec::read_json(text)?;
        if let Some(limits) = &policy.limits {
            limits.check(&Place::root().key("limits"))?;
        }
        Ok(Self { base: base.into(), ..policy })
    }

    /// The JSON Schema of a policy file.
    #[cfg(feature = "schema")]
    pub fn json_schema() -> serde_json::Value {
        schemars::schema_for!(Self).to_value()
    }

    pub(crate) fn check_kind(&self, kind: &str, place: &Place) -> Result<(), Refusal> {
        match &self.stages {
            Some(kinds) if kinds.iter().all(|allowed| allowed.word() != kind) => {
                Err(Refusal::by(place, "stages", format!("this is a {kind} stage")))
            }
            _ => Ok(()),
        }
    }

    /// These roots, as far as they are there and nobody can lead them elsewhere.
    fn roots<'a>(&self, roots: impl Iterator<Item = &'a str>) -> impl Iterator<Item = Root> {
        let writable = self.writable();
        roots.filter_map(move |root| self.held.find(&self.base.join(to_path(root)), &writable))
    }

    /// The real paths of what may be granted for writing.
    fn writable(&self) -> Vec<PathBuf> {
        let roots = self.dirs.iter().flatten().filter(|root| root.access == Access::Write);
        roots.filter_map(|root| Route::to(&self.base.join(to_path(&root.path))).end.real()).collect()
    }

    /// Sees that nothing which it allows to be written decides what else it allows.
    ///
    /// # Errors
    ///
    /// A directory that it names below one which may be granted for writing, and what to do.
    pub(crate) fn check_roots(&self) -> Result<(), Refusal> {
        let fields = [("plugins", &self.plugins), ("files", &self.files)];
        let named = fields.into_iter().flat_map(|(field, roots)| {
            roots.iter().flatten().enumerate().map(move |(index, root)| (format!("{field}[{index}]"), root))
        });
        let dirs = self.dirs.iter().flatten().enumerate().map(|(index, dir)| (format!("dirs[{index}]"), &dir.path));
        let writable = self.writable();
        for (field, root) in named.chain(dirs) {
            let way = Route::to(&self.base.join(to_path(root)));
            // Be there something by now or not.
            if let Some(writable) = roots::misled(&way.around, &writable) {
                let message = format!(
                    "(its `{field}`) is found by way of what its `dirs` lets guests write to: they could put a link in its place"
                );
                let hint =
                    format!("guests may write to {}: name that itself, or a directory elsewhere", to_text(writable));
                return Err(Refusal {
                    place: "the policy".into(),
                    message,
                    hint: Some(hint),
                    path: Some(root.clone()),
                });
            }
        }
        Ok(())
    }

    /// Whether a directory has to be below some that it names.
    fn names_directories(&self) -> bool {
        self.plugins.is_some() || self.files.is_some() || self.dirs.is_some()
    }

    /// What whoever runs a pipeline names: where it is, as far as guests cannot change that, or what is below a directory that they may
    /// write to.
    ///
    /// # Errors
    ///
    /// What leads out of that directory: whether there is something would be told.
    fn operators(&self, path: &Path) -> Result<Operators, Refusal> {
        let writes = self.dirs.iter().flatten().filter(|root| root.access == Access::Write);
        let refused = |path: &Path, message: &str, hint: String| {
            Err(Refusal {
                place: "the policy".into(),
                message: message.into(),
                hint: Some(hint),
                path: Some(to_text(path)),
            })
        };
        let unknown = |path: &Path| {
            let message = "may be found by way of what its `dirs` lets guests write to: that cannot be told here";
            let hint = "is this process's own directory gone, or does it lead over more than 40 links? give the path that is meant";
            refused(path, message, hint.into())
        };
        for root in writes.clone() {
            let root = self.base.join(to_path(&root.path));
            if matches!(Route::to(&root).end, End::Unknown) {
                return unknown(&root);
            }
        }
        match Route::outside(path, &self.writable()).end {
            End::There(real) => Ok(Operators::Elsewhere(Some(real))),
            End::Nowhere => Ok(Operators::Elsewhere(None)),
            End::Unknown if writes.clone().next().is_none() => Ok(Operators::Elsewhere(None)),
            End::Unknown => unknown(path),
            End::Left { at, rest } => {
                let roots = self.roots(writes.map(|root| root.path.as_str()));
                match Base::new(&at, Some(at.clone())).below(&at.join(rest), roots) {
                    Some(named) => Ok(Operators::Below(named)),
                    None => {
                        let message = "is found by way of what its `dirs` lets guests write to, and leads out of there, or nowhere";
                        let at = to_text(&at);
                        refused(path, message, format!("they may put links into {at}: give the path that is meant"))
                    }
                }
            }
        }
    }

    /// The directory that a pipeline's paths are relative to, as whoever runs it names it.
    ///
    /// # Errors
    ///
    /// As [`operators`](Self::operators).
    pub(crate) fn base_of(&self, path: &Path) -> Result<Base, Refusal> {
        if !self.names_directories() {
            return Ok(Base::new(path, None));
        }
        Ok(match self.operators(path)? {
            Operators::Elsewhere(real) => Base::new(path, real),
            Operators::Below(at) => Base::found(path, at),
        })
    }

    /// Reads what whoever runs pipelines names, such as a pipeline's file: so many bytes, and a byte more if it has more. It may be a pipe;
    /// but where it is below a directory that the policy lets guests write to, it has to be a regular file there, whatever they swap
    /// meanwhile. Blocks.
    ///
    /// # Errors
    ///
    /// What the system says, or that it leads out of such a directory.
    pub fn read(&self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        match self.found(path)? {
            Some(named) => named.open_regular(),
            None => fs::File::open(path),
        }
        .and_then(|file| bytes_of(&file, most))
    }

    /// The same of what has to be a regular file wherever it is: nobody is waited for.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read), or that it is something else.
    pub fn read_regular(&self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        let named = self.found(path)?.unwrap_or_else(|| Named::anywhere(path));
        named.open_regular().and_then(|file| bytes_of(&file, most))
    }

    /// Makes sure that a file can be written that whoever runs pipelines names, such as a report: see [`WholeFile::create`]. Where it is
    /// below a directory that the policy lets guests write to, it is there that it appears, whatever they swap meanwhile.
    ///
    /// # Errors
    ///
    /// As there, or that it leads out of such a directory.
    pub fn whole_file(&self, path: &Path) -> io::Result<WholeFile> {
        match self.found(path)? {
            Some(named) => WholeFile::at(&named),
            None => WholeFile::create(path),
        }
    }

    /// Whether what a path leads to stands where guests may write, or they could lead it elsewhere.
    pub fn is_guests(&self, path: &Path) -> bool {
        match self.operators(path) {
            Ok(Operators::Elsewhere(Some(real))) => self.writable().iter().any(|writable| real.starts_with(writable)),
            Ok(Operators::Elsewhere(None)) => false,
            Ok(Operators::Below(_)) | Err(_) => true,
        }
    }

    /// Whether two paths that whoever runs pipelines names lead to one file that is there. Nothing is looked at outside of directories
    /// that the policy lets guests write to by way of names in them.
    pub fn is_same_file(&self, path: &Path, other: &Path) -> bool {
        let opened = |path: &Path| match self.found(path) {
            Ok(Some(named)) => named.metadata().ok(),
            Ok(None) => fs::metadata(path).ok(),
            Err(_) => None,
        };
        let identity = |path: &Path| opened(path).map(|found| (found.dev(), found.ino()));
        identity(path).is_some_and(|found| identity(other) == Some(found))
    }

    /// The real path of a file of an operator's, if it is there.
    pub(crate) fn real_path(&self, path: &Path) -> Option<PathBuf> {
        match self.operators(path) {
            Ok(Operators::Elsewhere(_)) => fs::canonicalize(path).ok(),
            Ok(Operators::Below(named)) => Some(named.path().to_owned()),
            Err(_) => None,
        }
    }

    /// Where a file of an operator's is, if guests could lead its name elsewhere.
    fn found(&self, path: &Path) -> io::Result<Option<Named>> {
        if self.dirs.iter().flatten().all(|root| root.access == Access::Read) {
            return Ok(None);
        }
        match self.operators(path) {
            Ok(Operators::Elsewhere(_)) => Ok(None),
            Ok(Operators::Below(named)) => Ok(Some(named)),
            Err(refusal) => Err(io::Error::other(refusal.message)),
        }
    }

    /// The same for one that planning found; `path` is as it is written.
    pub(crate) fn base_at(&self, path: impl Into<PathBuf>, at: Named) -> Base {
        if self.names_directories() { Base::found(path, at) } else { Base::new(path, None) }
    }

    /// A plugin, as it may be read. `base` is what a relative path was joined to.
    pub(crate) fn check_plugin(&self, path: &Path, base: &Base, place: &Place) -> Result<Named, Refusal> {
        let Some(roots) = &self.plugins else { return Ok(Named::anywhere(path)) };
        base.below(path, self.roots(roots.iter().map(String::as_str)))
            .ok_or_else(|| Refusal::by(place, "plugins", "is not below an allowed directory".into()).about(path))
    }

    /// Whether a directory, by its real path, is below those that programs may come from. Nothing is looked at there.
    pub(crate) fn has_plugins(&self, directory: &Path) -> bool {
        let Some(roots) = &self.plugins else { return true };
        self.roots(roots.iter().map(String::as_str)).any(|root| root.has(directory))
    }

    /// Whether programs may be run at all. Whoever may run none learns nothing of those that the host has.
    pub(crate) fn has_commands(&self) -> bool {
        self.stages.as_ref().is_none_or(|kinds| kinds.contains(&StageKind::Command))
    }

    /// An end, as it may be opened. `base` is what a relative path was joined to.
    pub(crate) fn check_file(&self, path: &Path, base: &Base, place: &Place) -> Result<Named, Refusal> {
        let Some(roots) = &self.files else { return Ok(Named::anywhere(path)) };
        base.below(path, self.roots(roots.iter().map(String::as_str)))
            .ok_or_else(|| Refusal::by(place, "files", "is not below an allowed directory".into()).about(path))
    }

    /// A directory, as it may be opened. `base` is what a relative path was joined to.
    pub(crate) fn check_dir(&self, path: &Path, base: &Base, access: Access, place: &Place) -> Result<Named, Refusal> {
        let Some(roots) = &self.dirs else { return Ok(Named::anywhere(path)) };
        let allowed = roots.iter().filter(|root| access == Access::Read || root.access == Access::Write);
        base.below(path, self.roots(allowed.map(|root| root.path.as_str())))
            .ok_or_else(|| Refusal::by(place, "dirs", format!("may not be granted for {access}")).about(path))
    }

    /// Whether commands inherit a variable.
    pub(crate) fn inherits(&self, name: &OsStr) -> bool {
        const USUAL: [&str; 9] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "TMPDIR", "TZ", "LANG"];
        let Some(names) = &self.env else { return true };
        name.to_str().is_some_and(|name| {
            USUAL.contains(&name) || name.starts_with("LC_") || names.iter().any(|allowed| allowed == name)
        })
    }

    /// Whether what follows a stop may take so long.
    pub(crate) fn check_patience(&self, said: Duration, usual: Duration, field: &str) -> Result<(), Refusal> {
        if self.timeout.is_none() || said <= usual {
            return Ok(());
        }
        let message = format!("{field} is more than {}", humantime::format_duration(usual));
        Err(Refusal::by(&Place::root().key(field), "timeout", message))
    }

    /// A descriptor of the host's own is nobody's to name.
    pub(crate) fn check_descriptor(&self, place: &Place) -> Result<(), Refusal> {
        if self.files.is_none() {
            return Ok(());
        }
        Err(Refusal::by(place, "files", "a descriptor of the host is no file below an allowed directory".into()))
    }

    pub(crate) fn check_env(&self, name: &str, place: &Place) -> Result<(), Refusal> {
        match &self.env {
            Some(names) if names.iter().all(|allowed| allowed != name) => {
                Err(Refusal::by(place, "env", format!("the variable {name} may not be granted")))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn check_net(&self, address: &NetGrant, place: &Place) -> Result<(), Refusal> {
        match &self.net {
            Some(allowed) if !allowed.iter().any(|allowed| allowed.covers(address)) => {
                Err(Refusal::by(place, "net", format!("the address {address} may not be granted")))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn check_sandbox(&self, sandbox: Option<Sandboxing>, place: &Place) -> Result<(), Refusal> {
        let strength = |sandbox| match sandbox {
            None => 0,
            Some(Sandboxing::BestEffort) => 1,
            Some(Sandboxing::Strict) => 2,
        };
        if strength(sandbox) >= strength(self.sandbox) {
            return Ok(());
        }
        Err(Refusal::by(&place.key("sandbox"), "sandbox", "the command has no such sandbox".into()))
    }

    pub(crate) fn check_digest(&self, has_digest: bool, place: &Place) -> Result<(), Refusal> {
        if has_digest || self.sha256 != Some(true) {
            return Ok(());
        }
        Err(Refusal::by(&place.key("sha256"), "sha256", "no digest is named".into()))
    }

    /// The limits of a stage under the policy.
    pub(crate) fn limit(
        &self,
        said: LimitsSpec,
        defaults: &LimitsSpec,
        kind: &str,
        place: &Place,
    ) -> Result<LimitsSpec, Refusal> {
        let Some(most) = &self.limits else { return Ok(said) };
        said.rounded().within(most, defaults, kind).map_err(|TooMuch { key, said, most }| {
            let place = place.key("limits").key(key);
            let message = format!("{key} is {said}, and the policy's `limits.{key}` allows {most}");
            let hint = "it may be a flag's, the pipeline's or the stage's own word".to_owned();
            Refusal { place: place.into(), message, hint: Some(hint), path: None }
        })
    }

    /// The run's timeout under the policy.
    pub(crate) fn timeout_of(&self, said: Option<Bound<Span>>, place: &Place) -> Result<Option<Span>, Refusal> {
        match (said, self.timeout) {
            (said, None) => Ok(said.and_then(Bound::value)),
            (None, Some(most)) => Ok(Some(most)),
            (Some(Bound::At(said)), Some(most)) if said <= most => Ok(Some(said)),
            (Some(_), Some(_)) => Err(Refusal::by(&place.key("timeout"), "timeout", "the timeout is too long".into())),
        }
    }

    pub(crate) fn check_stages(&self, count: usize) -> Result<(), Refusal> {
        match self.max_stages {
            Some(most) if count as u64 > most => {
                let place = Place::root().key("stages");
                Err(Refusal::by(&place, "max_stages", format!("there are {count} stages")))
            }
            _ => Ok(()),
        }
    }

    /// What a plan leaves of the memory that is allowed, if any limit is set.
    pub(crate) fn check_total_memory(&self, worst_case: Option<u64>) -> Result<Option<u64>, Refusal> {
        let Some(most) = self.total_memory else { return Ok(None) };
        match worst_case {
            Some(bytes) if bytes <= most.0 => Ok(Some(most.0 - bytes)),
            Some(bytes) => {
                let message = format!("the stages may hold {} together", Size(bytes));
                Err(Refusal::by(&Place::root().key("stages"), "total_memory", message))
            }
            None => {
                let message = "a stage has no memory limit".to_owned();
                Err(Refusal::by(&Place::root().key("stages"), "total_memory", message))
            }
        }
    }
}
