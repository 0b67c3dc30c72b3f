//! Whose word counts: files, the files around them, stages, and flags.

use std::{collections::BTreeMap, path::PathBuf};

use super::options::{Overrides, PlanOptions};
use crate::{
    joint::Base,
    spec::{LimitsSpec, PipelineSpec, StageSpec, to_path},
};

/// What holds for a stage besides its own words: those of its pipeline, and of the pipelines around that.
#[derive(Clone, Debug)]
pub(super) struct Layers<'a> {
    pub(super) base: &'a Base,
    /// Whether its pipeline stands in another one.
    pub(super) is_nested: bool,
    /// The directory of commands, and where it is said.
    pub(super) dir: Option<PathBuf>,
    /// What files say, outermost first, and what stages say: a stage's own word goes over that of the file it names.
    file_env: Vec<&'a BTreeMap<String, Option<String>>>,
    stage_env: Vec<&'a BTreeMap<String, Option<String>>>,
    /// The same of limits, innermost first.
    pub(super) file_limits: Vec<&'a LimitsSpec>,
    pub(super) stage_limits: Vec<&'a LimitsSpec>,
    /// What goes over all of that.
    pub(super) overrides: &'a Overrides,
    pub(super) buffer: Option<u64>,
}

impl<'a> Layers<'a> {
    pub(super) fn root(spec: &'a PipelineSpec, options: &'a PlanOptions, base: &'a Base) -> Self {
        let mut layers = Self {
            base,
            is_nested: false,
            dir: None,
            file_env: Vec::new(),
            stage_env: Vec::new(),
            file_limits: Vec::new(),
            stage_limits: Vec::new(),
            overrides: &options.overrides,
            buffer: None,
        };
        layers.enter(spec, base);
        layers
    }

    /// Goes into a pipeline.
    pub(super) fn enter(&mut self, spec: &'a PipelineSpec, base: &'a Base) {
        self.base = base;
        self.dir = spec.dir.as_ref().map(|dir| base.join(to_path(dir)));
        self.file_env.extend(&spec.env);
        self.file_limits.splice(0..0, &spec.limits);
        self.buffer = spec.buffer.map(|size| size.0).or(self.buffer);
    }

    /// Goes into a stage.
    pub(super) fn with(&self, stage: &'a StageSpec) -> Self {
        let mut layers = self.clone();
        layers.stage_env.extend(&stage.env);
        layers.stage_limits.splice(0..0, &stage.limits);
        layers
    }

    /// The word on a limit that counts.
    pub(super) fn limit<T>(&self, pick: impl Fn(&LimitsSpec) -> Option<T>) -> Option<T> {
        self.stage_limits.iter().chain(&self.file_limits).find_map(|limits| pick(limits))
    }

    /// What is said of variables, from what is said first to what goes over it.
    pub(super) fn env(&self) -> impl Iterator<Item = (&'a str, Option<&'a str>)> {
        let files = self.file_env.iter().chain(&self.stage_env).copied().flatten();
        let files = files.map(|(key, value)| (key.as_str(), value.as_deref()));
        files.chain(self.overrides.env.iter().map(|(key, value)| (key.as_str(), Some(value.as_str()))))
    }

    /// The variables that the pipeline gives.
    pub(super) fn variables(&self) -> BTreeMap<String, String> {
        let mut variables = BTreeMap::new();
        for (key, value) in self.env() {
            match value {
                Some(value) => variables.insert(key.to_owned(), value.to_owned()),
                None => variables.remove(key),
            };
        }
        variables
    }
}
