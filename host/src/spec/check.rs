//! What the types of a pipeline file cannot say: names, kinds, and which keys go together.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use super::{FileSink, MAX_STAGES, OkExit, PipelineSpec, Place, Size, SpecError, StageSpec, StdoutSpec};

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
        if let Some(limits) = &self.limits {
            limits.check(&root.key("limits"))?;
        }
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

    /// What the stage says it is.
    fn kinds(&self) -> impl Iterator<Item = &'static str> {
        [
            self.wasm.as_ref().map(|_| "wasm"),
            self.command.as_ref().map(|_| "command"),
            self.pipeline.as_ref().map(|_| "pipeline"),
            self.function.map(|_| "function"),
        ]
        .into_iter()
        .flatten()
    }

    /// What kind of stage it is; it was checked to be of one.
    pub(crate) fn kind(&self) -> &'static str {
        self.kinds().next().unwrap_or("function")
    }

    /// Checks that the stage is of one kind, and that its other keys mean something for that kind.
    fn check_kind(&self, place: &Place) -> Result<(), SpecError> {
        let kinds: Vec<_> = self.kinds().collect();
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
        only(
            self.argv0.is_some(),
            "argv0",
            &["wasm"],
            "a command's program stands in \"command\": [\"sort\", \"-u\"]",
        )?;
        only(self.terminal.is_some(), "terminal", &["wasm"], "other stages have the host's own streams")?;
        only(
            self.sha256.is_some(),
            "sha256",
            &["wasm", "command"],
            "a nested file's stages have digests of their own",
        )?;
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
        only(self.grants.is_some(), "grants", &["wasm", "command"], inside)?;
        only(self.sandbox.is_some(), "sandbox", &["command"], "every wasm stage is sandboxed")?;
        let declared = self.ok_exit == Some(OkExit::Declared);
        only(declared, "ok_exit", &["wasm"], "only components declare exit codes: list them")?;
        only(self.on_trap.is_some(), "on_trap", &["wasm"], "only wasm stages trap")?;
        if let Some(limits) = &self.limits {
            let place = place.key("limits");
            if let Some((key, kinds)) = limits.misplaced(kind) {
                let kinds = kinds.iter().filter(|kind| **kind != "pipeline").copied().collect::<Vec<_>>().join(" and ");
                return Err(SpecError::new(place.key(key), format!("this limit cannot be held for a {kind} stage"))
                    .hint(format!("{kinds} stages have it; as a default of the whole pipeline it holds for those")));
            }
            limits.check(&place)?;
        }
        if let Some(grants) = &self.grants {
            if kind == "command" && self.sandbox.is_none() {
                return Err(SpecError::new(place.key("grants"), "a command without a sandbox has every right anyway")
                    .hint("\"sandbox\": \"strict\" holds it to its grants"));
            }
            grants.check(kind, &place.key("grants"))?;
        }
        Ok(())
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
