//! What a plan is made against.

use std::{ffi::OsString, path::PathBuf};

use super::known::KnownFiles;
use crate::{policy::Policy, spec::LimitsSpec};

/// What a plan is made against.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PlanOptions {
    /// The directory that relative paths in the pipeline are relative to. Default: the process's own.
    pub base: PathBuf,
    /// The pipeline's file, if it has one: a nested pipeline must not name it again.
    pub file: Option<PathBuf>,
    /// The environment that commands inherit, such as `std::env::vars_os()`. Default: an empty one. A sandboxed stage
    /// sees none of it.
    pub environment: Vec<(OsString, OsString)>,
    /// What is said over everything in the file. Default: nothing.
    pub overrides: Overrides,
    /// What pipelines may ask for. There is no default: whoever runs pipelines says whose they are.
    pub policy: Policy,
    /// What earlier plans found in component files, to be used and added to. Default: every file is read and looked at.
    pub known: Option<KnownFiles>,
}

impl PlanOptions {
    /// Options with paths relative to `base`, for pipelines that may ask for what `policy` allows.
    pub fn at(base: impl Into<PathBuf>, policy: Policy) -> Self {
        let (environment, overrides) = (Vec::new(), Overrides::default());
        Self { base: base.into(), file: None, environment, overrides, policy, known: None }
    }

    /// Sets [`file`](Self::file).
    #[must_use]
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// Sets [`environment`](Self::environment).
    #[must_use]
    pub fn environment(mut self, variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        self.environment = variables.into_iter().collect();
        self
    }

    /// Sets [`known`](Self::known) to these or a clone of them.
    #[must_use]
    pub fn known_files(mut self, known: &KnownFiles) -> Self {
        self.known = Some(known.clone());
        self
    }

    /// Sets [`overrides`](Self::overrides).
    #[must_use]
    pub fn overrides(mut self, overrides: Overrides) -> Self {
        self.overrides = overrides;
        self
    }
}

/// What holds whatever a pipeline's file says, and the files nested in it: what flags of a command line say. A stage is named by its
/// name, as `stagehost plan` shows it, or by its number from 1.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Overrides {
    /// Variables of every stage.
    pub env: Vec<(String, String)>,
    /// Limits of the named stage, or of every stage.
    pub limits: Vec<(Option<String>, LimitsSpec)>,
    /// Exit codes of the named stage that are no failure.
    pub ok_exit: Vec<(String, u8)>,
    /// Whether sandboxed stages run so that the same input gives the same output on every run: instructions are counted instead of
    /// time, results of floating-point operations have one form, and the clock and random numbers that are not granted
    /// otherwise are fixed.
    pub deterministic: bool,
}
