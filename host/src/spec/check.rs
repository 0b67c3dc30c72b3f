//! What the types of a pipeline file cannot say: names, kinds, and which keys go together.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use super::{
    Bound, FileSink, LimitsSpec, MAX_STAGES, PipelineSpec, Place, Size, Span, SpecError, StageSpec, StdoutSpec,
};

impl PipelineSpec {
    /// The stages' names: their own, else the file's, made unique by a number.
    pub fn stage_names(&self) -> Vec<String> {
        let mut taken: BTreeSet<String> = self.stages.iter().filter_map(|stage| stage.name.clone()).collect();
        let name = |stage: &StageSpec| {
            if let Some(name) = &stage.name {
                return name.clone();
            }
            let stem = stage.default_name();
            let numbered = (2_u32..).map(|number| format!("{stem}-{number}"));
            let name = std::iter::once(stem.clone()).chain(numbered).find(|name| !taken.contains(name)).unwrap_or(stem);
            taken.insert(name.clone());
            name
        };
        self.stages.iter().map(name).collect()
    }

    /// Checks what the types cannot say.
    ///
    /// # Errors
    ///
    /// The first thing wrong with it.
    pub fn check(&self) -> Result<(), SpecError> {
        let root = Place::root();
        if self.version != 1 {
            return Err(SpecError::new(root.key("version"), format!("version {} is not known", self.version))
                .hint("this program reads version 1"));
        }
        if self.stages.len() > MAX_STAGES {
            return Err(SpecError::new(root.key("stages"), format!("there are more than {MAX_STAGES} stages")));
        }
        check_env(self.env.as_ref(), &root)?;
        check_buffer(self.buffer, &root)?;
        let mut names = BTreeSet::new();
        for (index, stage) in self.stages.iter().enumerate() {
            let place = root.key("stages").index(index);
            stage.check(&place)?;
            if let Some(name) = &stage.name
                && !names.insert(name)
            {
                return Err(SpecError::new(place.key("name"), format!("another stage is named {name:?}"))
                    .hint("names of stages are unique"));
            }
        }
        if let Some(StdoutSpec::File(FileSink { append: Some(true), atomic: Some(true), .. })) = &self.stdout {
            return Err(SpecError::new(
                root.key("stdout").key("atomic"),
                "a file that is appended to cannot be atomic",
            )
            .hint("leave out one of \"append\" and \"atomic\""));
        }
        Ok(())
    }
}

impl StageSpec {
    /// What the stage is called if nobody names it: its file, program or function.
    fn default_name(&self) -> String {
        let name = |path: &Path, whole: bool| {
            let name = if whole { path.file_name() } else { path.file_stem() };
            name.map_or_else(|| "stage".into(), |name| name.to_string_lossy().into_owned())
        };
        match (&self.wasm, &self.command, &self.pipeline) {
            (Some(wasm), ..) => name(Path::new(wasm.strip_prefix("builtin:").unwrap_or(wasm)), false),
            (_, Some(command), _) => name(Path::new(command.first().map_or("", String::as_str)), true),
            (.., Some(pipeline)) => name(Path::new(pipeline), false),
            (None, None, None) => "function".into(),
        }
    }

    fn check(&self, place: &Place) -> Result<(), SpecError> {
        self.check_kind(place)?;
        if self.name.as_deref().is_some_and(|name| name.contains(|c: char| c == '/' || c.is_control())) {
            return Err(SpecError::new(place.key("name"), "a name has no `/` and no control character")
                .hint("stages of a nested pipeline are named `pipeline/stage`"));
        }
        if self.name.as_deref().is_some_and(str::is_empty) {
            return Err(SpecError::new(place.key("name"), "the name is empty"));
        }
        if let Some(digest) = &self.sha256
            && (digest.len() != 64 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()))
        {
            return Err(SpecError::new(place.key("sha256"), "a SHA-256 digest is 64 hexadecimal digits")
                .hint("`sha256sum FILE` prints it"));
        }
        check_env(self.env.as_ref(), place)?;
        check_buffer(self.buffer, place)
    }

    /// Checks that the stage is of one kind, and that its other keys mean something for that kind.
    fn check_kind(&self, place: &Place) -> Result<(), SpecError> {
        let kinds: Vec<_> = [
            self.wasm.as_ref().map(|_| "wasm"),
            self.command.as_ref().map(|_| "command"),
            self.pipeline.as_ref().map(|_| "pipeline"),
            self.function.map(|_| "function"),
        ]
        .into_iter()
        .flatten()
        .collect();
        let kind = match kinds[..] {
            [kind] => kind,
            [] => {
                return Err(SpecError::new(place, "the stage says nothing to run")
                    .hint(r#"add "wasm": "builtin:cat" or the path of a component, or "command": ["sort"]"#));
            }
            [first, second, ..] => {
                return Err(SpecError::new(place.key(second), format!("the stage has a {first:?} too"))
                    .hint("a stage is exactly one of \"wasm\", \"command\" and \"pipeline\""));
            }
        };
        let empty = |key: &str, what: &str| Err(SpecError::new(place.key(key), format!("the {what} is empty")));
        if self.wasm.as_deref() == Some("") {
            return empty("wasm", "path");
        }
        if self.pipeline.as_deref() == Some("") {
            return empty("pipeline", "path");
        }
        match self.command.as_deref() {
            Some([]) => {
                return Err(SpecError::new(place.key("command"), "the command is empty")
                    .hint(r#"a command is a program and its arguments: ["sort", "-u"]"#));
            }
            Some([program, ..]) if program.is_empty() => return empty("command", "program's name"),
            _ => {}
        }
        let only = |present: bool, key: &str, kinds: &[&str], hint: &str| {
            if !present || kinds.contains(&kind) {
                return Ok(());
            }
            Err(SpecError::new(place.key(key), format!("a {kind} stage has no {key:?}")).hint(hint))
        };
        let inside = "say it in that pipeline's own file";
        only(self.args.is_some(), "args", &["wasm"], "a command's arguments stand in \"command\": [\"sort\", \"-u\"]")?;
        only(self.sha256.is_some(), "sha256", &["wasm"], "only a component's digest is checked")?;
        only(self.dir.is_some(), "dir", &["command"], "only commands run in a directory")?;
        only(self.eof.is_some(), "eof", &["command"], "the output of other stages ends with the stage")?;
        only(self.leftovers.is_some(), "leftovers", &["command"], "only commands leave processes behind")?;
        let leaf = ["wasm", "command", "function"];
        only(self.requires.is_some(), "requires", &leaf, inside)?;
        only(self.buffer.is_some(), "buffer", &leaf, inside)?;
        only(self.stderr.is_some(), "stderr", &leaf, inside)?;
        only(self.ok_exit.is_some(), "ok_exit", &leaf, inside)?;
        only(self.ignore.is_some(), "ignore", &leaf, inside)?;
        only(self.broken_pipe.is_some(), "broken_pipe", &leaf, inside)?;
        for key in self.limits.iter().flat_map(LimitsSpec::keys_of_commands) {
            let limits = place.key("limits");
            if kind == "wasm" || kind == "function" {
                return Err(SpecError::new(limits.key(key), format!("this limit cannot be held for a {kind} stage"))
                    .hint("it is for commands; as a default of the whole pipeline it holds for its commands"));
            }
        }
        if kind == "function" && self.limits.as_ref().is_some_and(|limits| limits.memory.is_some()) {
            return Err(SpecError::new(place.key("limits").key("memory"), "a function's memory is the program's own"));
        }
        Ok(())
    }
}

impl LimitsSpec {
    /// The names of the limits.
    const NAMES: [&str; 6] = ["memory", "cpu_time", "wall_time", "processes", "open_files", "file_size"];

    /// One limit by its name and a value as a file has it in quotes.
    ///
    /// # Errors
    ///
    /// A message for people.
    pub fn of(name: &str, value: &str) -> Result<Self, String> {
        fn bound<T>(value: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<Bound<T>>, String> {
            Ok(Some(if value == "none" { Bound::None } else { Bound::At(parse(value)?) }))
        }
        let size = |value: &str| value.parse::<Size>();
        let time = |value: &str| super::parse_duration(value).map(Span);
        let number = |value: &str| value.parse::<u64>().map_err(|_| format!("{value:?} is no number"));
        let mut limits = Self::default();
        match name {
            "memory" => limits.memory = bound(value, size)?,
            "cpu_time" => limits.cpu_time = bound(value, time)?,
            "wall_time" => limits.wall_time = bound(value, time)?,
            "processes" => limits.processes = bound(value, number)?,
            "open_files" => limits.open_files = bound(value, number)?,
            "file_size" => limits.file_size = bound(value, size)?,
            _ => return Err(format!("there is no limit {name:?}; there are: {}", Self::NAMES.join(", "))),
        }
        Ok(limits)
    }

    /// The limits set here that only commands have.
    pub(crate) fn keys_of_commands(&self) -> impl Iterator<Item = &'static str> {
        [
            self.cpu_time.map(|_| "cpu_time"),
            self.processes.map(|_| "processes"),
            self.open_files.map(|_| "open_files"),
            self.file_size.map(|_| "file_size"),
        ]
        .into_iter()
        .flatten()
    }
}

fn check_env(env: Option<&BTreeMap<String, Option<String>>>, place: &Place) -> Result<(), SpecError> {
    for key in env.into_iter().flat_map(BTreeMap::keys) {
        if key.is_empty() || key.contains('=') {
            return Err(SpecError::new(place.key("env").key(key), "a variable's name is not empty and has no `=`"));
        }
    }
    Ok(())
}

fn check_buffer(buffer: Option<Size>, place: &Place) -> Result<(), SpecError> {
    match buffer {
        Some(Size(0)) => Err(SpecError::new(place.key("buffer"), "a ring or pipe has at least one byte")
            .hint("leave it out for the default")),
        Some(Size(bytes)) if bytes > 64 << 20 => {
            Err(SpecError::new(place.key("buffer"), "a ring has at most 64 MiB").hint("the default is 256KiB"))
        }
        _ => Ok(()),
    }
}
