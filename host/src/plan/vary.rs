//! What one run says of a plan's stages: more arguments and variables, and lower limits.

use std::{ffi::OsString, sync::Arc, time::Duration};

use super::{
    planned::{Planned, PlannedStage},
    work::Work,
};
use crate::spec::{Bound, LimitsSpec, Place, Size, Span, to_os};

/// What a run says of the stages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variation<'a> {
    pub(crate) args: &'a [(String, Vec<String>)],
    pub(crate) env: &'a [(String, String)],
    pub(crate) limits: &'a [(Option<String>, LimitsSpec)],
}

impl Planned {
    /// The stages as a run wants them.
    ///
    /// # Errors
    ///
    /// What cannot be said of them, and of which.
    pub(crate) fn varied(&self, varied: Variation<'_>) -> Result<Vec<Arc<PlannedStage>>, String> {
        let mut stages = self.stages.clone();
        let Variation { args, env, limits } = varied;
        if args.is_empty() && env.is_empty() && limits.is_empty() {
            return Ok(stages);
        }
        let named = args.iter().map(|(name, _)| name).chain(limits.iter().filter_map(|(name, _)| name.as_ref()));
        if let Some(unknown) = named.into_iter().find(|name| stages.iter().all(|stage| stage.name != **name)) {
            return Err(format!("the run says something of stage `{unknown}`, and no stage is called so"));
        }
        for (_, limits) in limits {
            limits.check(&Place::root().key("limits")).map_err(|error| error.to_string())?;
        }
        for stage in &mut stages {
            let stage = Arc::make_mut(stage);
            let called = stage.name.clone();
            for (_, more) in args.iter().filter(|(name, _)| *name == called) {
                stage.add_arguments(more)?;
            }
            stage.set_variables(env)?;
            for (named, limits) in limits.iter().filter(|(name, _)| name.as_ref().is_none_or(|name| *name == called)) {
                if let (Some(_), Some((key, _))) = (named, limits.misplaced(stage.kind())) {
                    let (name, kind) = (&stage.name, stage.kind());
                    return Err(format!("the limit {key} cannot be held for stage `{name}`, a {kind} stage"));
                }
                stage.lower(limits);
            }
        }
        Ok(stages)
    }
}

/// What a sandboxed stage can be told.
fn told(name: &str, text: &str) -> Result<String, String> {
    let refused =
        || format!("stage `{name}` cannot be told {text:?}: a sandboxed stage can be told only what is UTF-8");
    to_os(text).to_str().filter(|text| !text.contains('\0')).map(str::to_owned).ok_or_else(refused)
}

/// What a program can be told.
fn given(name: &str, text: &str) -> Result<OsString, String> {
    if text.contains('\0') {
        return Err(format!("stage `{name}` cannot be given {text:?}: no program can be given a NUL"));
    }
    Ok(to_os(text).into_owned())
}

impl PlannedStage {
    fn add_arguments(&mut self, more: &[String]) -> Result<(), String> {
        let name = &self.name;
        for argument in more {
            match &mut self.work {
                Work::Wasm(wasm) => wasm.args.push(told(name, argument)?),
                Work::Command(command) => Arc::make_mut(command).arguments.push(given(name, argument)?),
                Work::Function(_) => return Err(format!("stage `{name}` is a function, which has no arguments")),
            }
        }
        Ok(())
    }

    fn set_variables(&mut self, variables: &[(String, String)]) -> Result<(), String> {
        let name = &self.name;
        for (key, value) in variables {
            if key.is_empty() || key.contains('=') {
                return Err(format!("no variable can be called {key:?}"));
            }
            match &mut self.work {
                Work::Wasm(wasm) => {
                    let (key, value) = (told(name, key)?, told(name, value)?);
                    wasm.env.retain(|(known, _)| *known != key);
                    wasm.env.push((key, value));
                }
                Work::Command(command) => {
                    let (os_key, os_value) = (given(name, key)?, given(name, value)?);
                    let command = Arc::make_mut(command);
                    Arc::make_mut(&mut command.environment).set(&os_key, &os_value);
                    command.variables.insert(key.clone(), value.clone());
                }
                Work::Function(_) => {}
            }
        }
        Ok(())
    }

    /// Lowers its limits to these, where they are lower.
    fn lower(&mut self, limits: &LimitsSpec) {
        fn lower<T: Ord + Copy>(limit: &mut Option<T>, most: Option<T>) {
            *limit = limit.iter().copied().chain(most).min();
        }
        let size = |bound: Option<Bound<Size>>| bound.and_then(Bound::value).map(|Size(bytes)| bytes);
        let time = |bound: Option<Bound<Span>>| bound.and_then(Bound::value).map(|Span(time)| time);
        let count = |bound: Option<Bound<u64>>| bound.and_then(Bound::value);
        let lower_count = |limit: &mut usize, most: Option<u64>| {
            let most = most.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
            *limit = (*limit).min(most);
        };
        lower::<Duration>(&mut self.wall_time, time(limits.wall_time));
        match &mut self.work {
            Work::Wasm(wasm) => {
                let held = &mut wasm.limits;
                lower(&mut held.memory, size(limits.memory));
                lower_count(&mut held.stack, size(limits.stack).map(u64::next_power_of_two));
                lower(&mut held.cpu_time, time(limits.cpu_time));
                lower(&mut held.stall_time, time(limits.stall_time));
                lower(&mut held.fuel, count(limits.fuel));
                lower(&mut held.input_bytes, size(limits.input_bytes));
                lower(&mut held.output_bytes, size(limits.output_bytes));
                lower(&mut held.stderr_bytes, size(limits.stderr_bytes));
                lower_count(&mut held.handles, count(limits.handles));
                lower_count(&mut held.open_files, count(limits.open_files));
                lower_count(&mut held.instances, count(limits.instances));
                lower(&mut held.compile_time, time(limits.compile_time));
                lower(&mut held.compile_memory, size(limits.compile_memory));
            }
            Work::Command(command) => {
                let held = &mut Arc::make_mut(command).limits;
                lower(&mut held.memory, size(limits.memory));
                lower(&mut held.cpu_time, time(limits.cpu_time));
                lower(&mut held.processes, count(limits.processes));
                lower(&mut held.rlimits.file_size, size(limits.file_size));
                if let Some(most) = count(limits.open_files) {
                    let (soft, hard) = held.rlimits.open_files.unwrap_or((most, most));
                    held.rlimits.open_files = Some((soft.min(most), hard.min(most)));
                }
            }
            Work::Function(_) => {}
        }
    }
}
