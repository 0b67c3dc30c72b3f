//! Planning one stage: what every kind of stage has.

use std::path::Path;

use super::{
    command,
    error::{ErrorCode, PlanError, PlanErrorKind},
    layers::Layers,
    planned::PlannedStage,
    planner::{Planner, kept},
    work::Work,
};
use crate::{
    joint::Named,
    outcome::Tolerance,
    sandbox::Limits,
    spec::{Bound, LimitsSpec, OkExit, Place, Requirement, RequiresSpec, StageSpec, StderrSpec, to_path},
};

/// What the lists of a stage take, its grants and which ends of it are no failure.
fn listed(stage: &StageSpec) -> usize {
    let grants = stage.grants.iter();
    let names = grants.clone().flat_map(|grants| grants.env.iter().flatten()).map(|name| kept(name.len()));
    let dirs = grants.clone().flat_map(|grants| grants.dirs.iter().flatten());
    let dirs = dirs.map(|dir| kept(dir.host.len() + dir.guest.as_ref().map_or(0, String::len)));
    let addresses = grants.map(|grants| grants.net.as_ref().map_or(0, Vec::len)).sum::<usize>();
    let codes = match &stage.ok_exit {
        Some(OkExit::Codes(codes)) => codes.len(),
        _ => 0,
    };
    let others = addresses + codes + stage.ignore.as_ref().map_or(0, Vec::len);
    names.chain(dirs).fold(others.saturating_mul(kept(0)), usize::saturating_add)
}

impl Planner<'_> {
    /// Plans one stage that is no nested pipeline.
    pub(super) fn stage(
        &mut self,
        stage: &StageSpec,
        layers: &Layers<'_>,
        name: String,
        place: &Place,
    ) -> Result<PlannedStage, PlanError> {
        let mut layers = layers.with(stage);
        let variables = layers.env().map(|(key, value)| kept(key.len() + value.map_or(0, str::len)));
        let arguments = stage.args.iter().chain(&stage.command).flatten().map(|argument| kept(argument.len()));
        let lists = listed(stage);
        let inherited = if stage.command.is_some() { self.inherited } else { 0 };
        self.spend(variables.chain(arguments).chain([lists]).fold(inherited, usize::saturating_add), place)?;
        let number = (self.stages.len() + 1).to_string();
        let is_meant = |named: &str| named == name || named == number;
        for (named, limits) in layers.overrides.limits.iter().filter(|(named, _)| named.is_none()).chain(
            // What is said of one stage goes over what is said of all.
            layers.overrides.limits.iter().filter(|(named, _)| named.as_deref().is_some_and(is_meant)),
        ) {
            if let (Some(_), Some((key, _))) = (named, limits.misplaced(stage.kind())) {
                let message = format!("the limit {key} cannot be held for stage `{name}`, a {} stage", stage.kind());
                return Err(PlanError::new(PlanErrorKind::End, "the flags", message));
            }
            layers.stage_limits.insert(0, limits);
        }
        let policy = &self.options.policy;
        policy.check_kind(stage.kind(), place)?;
        if self.options.overrides.deterministic && stage.wasm.is_none() {
            let message = format!("a {} stage is not the same on every run", stage.kind());
            return Err(PlanError::new(PlanErrorKind::Refused, place, message)
                .hint("a run with --deterministic has sandboxed stages only"));
        }
        let said = LimitsSpec::first_of(layers.stage_limits.iter().chain(&layers.file_limits).copied());
        let defaults = if stage.wasm.is_some() { Limits::default().spec() } else { LimitsSpec::default() };
        let within = policy.limit(said, &defaults, stage.kind(), place)?;
        layers.stage_limits.insert(0, &within);
        let layers = &layers;
        let work = match (&stage.wasm, &stage.command, stage.function) {
            (Some(wasm), ..) => Work::Wasm(Box::new(self.wasm(stage, wasm, &name, place, layers)?)),
            (_, Some(command), _) => Work::Command(command::plan(self, stage, command, place, layers)?.into()),
            (.., index) => {
                let function = index.and_then(|index| self.functions.get(index)).cloned();
                Work::Function(function.ok_or_else(|| {
                    PlanError::new(PlanErrorKind::Pipeline, place, "a stage runs a component, a program or a function")
                })?)
            }
        };
        // A stranger's word on what is no failure counts if the file's author takes it.
        let mut ok_exit = match &work {
            Work::Wasm(wasm) if wasm.path.is_none() || stage.ok_exit == Some(OkExit::Declared) => {
                wasm.inspection.section.ok_exit.clone()
            }
            Work::Wasm(_) | Work::Command(_) | Work::Function(_) => Vec::new(),
        };
        if let Some(OkExit::Codes(codes)) = &stage.ok_exit {
            ok_exit.extend(codes);
        }
        ok_exit.extend(layers.overrides.ok_exit.iter().filter(|(named, _)| is_meant(named)).map(|(_, code)| *code));
        ok_exit.sort_unstable();
        ok_exit.dedup();
        let log = match &stage.stderr {
            Some(StderrSpec::File(path)) => {
                let (path, place) = (layers.base.join(to_path(path)), place.key("stderr"));
                let named = policy.check_file(&path, layers.base, &place.key("file"))?;
                plan_log(&named, &path, &place)?;
                Some(named)
            }
            _ => None,
        };
        let (default, asked) = match &work {
            Work::Command(_) => (Requirement::PreferFile, RequiresSpec::default()),
            Work::Wasm(wasm) => (Requirement::Any, wasm.inspection.section.requires),
            Work::Function(_) => (Requirement::Any, RequiresSpec::default()),
        };
        let requires = stage.requires.unwrap_or_default();
        let requires = RequiresSpec { stdin: requires.stdin.or(asked.stdin), stdout: requires.stdout.or(asked.stdout) };
        Ok(PlannedStage {
            name,
            place: place.to_string(),
            work,
            tolerance: Tolerance {
                ok_exit,
                ignore: stage.ignore.clone().unwrap_or_default(),
                broken_pipe: stage.broken_pipe.unwrap_or_default(),
                on_trap: stage.on_trap.unwrap_or_default(),
                matcher: None,
            },
            wall_time: layers.limit(|limits| limits.wall_time).and_then(Bound::value).map(|span| span.0),
            stderr: stage.stderr.clone(),
            log,
            requires: (requires.stdin.unwrap_or(default), requires.stdout.unwrap_or(default)),
            buffer: stage.buffer.map(|size| size.0).or(layers.buffer),
        })
    }
}

/// Looks whether a file can be appended to, without making it.
fn plan_log(named: &Named, path: &Path, place: &Place) -> Result<(), PlanError> {
    let around = path.parent().filter(|around| *around != Path::new("")).unwrap_or(Path::new("."));
    let refused = |code: ErrorCode, why: &str, what: &Path| {
        Err(PlanError::new(PlanErrorKind::End, place.key("file"), why).code(code).about(what))
    };
    match named.metadata() {
        Ok(metadata) if metadata.is_dir() => return refused(ErrorCode::IsADirectory, "is a directory", path),
        Ok(_) if named.is_writable() => return Ok(()),
        Ok(_) => return refused(ErrorCode::Inaccessible, "is not writable", path),
        // It will be made.
        Err(_) => {}
    }
    let Some((directory, _)) = named.parent() else { return refused(ErrorCode::IsADirectory, "names no file", path) };
    match directory.metadata() {
        Ok(metadata) if metadata.is_dir() && directory.is_writable() => Ok(()),
        Ok(metadata) if metadata.is_dir() => refused(ErrorCode::Inaccessible, "is not writable", around),
        Ok(_) => refused(ErrorCode::NotADirectory, "is no directory", around),
        Err(error) => Err(PlanError::system(PlanErrorKind::End, place.key("file"), around, &error)),
    }
}
