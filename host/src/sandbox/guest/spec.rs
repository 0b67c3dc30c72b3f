//! What a guest is started with.

use std::time::Duration;

use super::rights::Rights;
use crate::sandbox::{dumps::Dumps, kind::EngineKind, limits::Limits};

/// How a guest is started.
#[derive(Clone, Debug)]
pub(crate) struct GuestSpec {
    /// The stage's name.
    pub(crate) name: String,
    /// Its arguments, the program's name first.
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) limits: Limits,
    pub(crate) rights: Rights,
    /// Where a core dump goes when it traps.
    pub(crate) dumps: Option<Dumps>,
    /// Whether every result must be the same on every run.
    pub(crate) deterministic: bool,
    /// How long what it started may go on when its `run` has returned.
    pub(crate) linger: Duration,
    /// Whether it is told which of its streams are a terminal.
    pub(crate) sees_terminals: bool,
}

impl GuestSpec {
    /// The engine it needs.
    pub(crate) fn engine(&self) -> EngineKind {
        EngineKind::of(&self.limits, self.deterministic, self.dumps.is_some())
    }
}
