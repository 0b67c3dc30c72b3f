//! What planning has found so far, and what it may take.

use std::{
    collections::HashMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{
    error::{ErrorCode, PlanError, PlanErrorKind},
    known::Found,
    options::PlanOptions,
    planned::{Group, PlannedStage},
};
use crate::{
    function::Function,
    spec::{Place, Span},
};

/// What planning has found so far.
pub(super) struct Planner<'a> {
    pub(super) options: &'a PlanOptions,
    pub(super) began: Instant,
    /// The run's, of which planning is a part.
    pub(super) timeout: Option<Duration>,
    /// What nested files, and the variables and arguments that stages are given, take in memory, in bytes.
    pub(super) given: usize,
    /// And what each command is given of the host's own environment.
    pub(super) inherited: usize,
    /// Whether the pipeline was written in shorthand.
    pub(super) is_shorthand: bool,
    pub(super) functions: Vec<Function>,
    /// Component files, each read once.
    pub(super) files: HashMap<PathBuf, Found>,
    pub(super) stages: Vec<PlannedStage>,
    pub(super) groups: Vec<Group>,
}

/// The most memory that nested files, and the variables and arguments that all stages together are given, may take, in bytes.
const MOST_GIVEN: usize = 64 << 20;

/// What a variable or an argument of so many bytes takes, from above: it is kept for people and for its stage.
pub(super) fn kept(bytes: usize) -> usize {
    const ENTRY: usize = 256;
    bytes.saturating_mul(2).saturating_add(ENTRY)
}

impl Planner<'_> {
    /// Counts what a stage is given or a file holds, and looks whether there is still time: whatever a file is made of, planning it
    /// ends.
    pub(super) fn spend(&mut self, bytes: usize, place: &Place) -> Result<(), PlanError> {
        self.given = self.given.saturating_add(bytes);
        if self.given > MOST_GIVEN {
            let message = format!(
                "nested files, and the variables and arguments of all stages, take more than {} MiB",
                MOST_GIVEN >> 20
            );
            return Err(PlanError::new(PlanErrorKind::Pipeline, place, message).code(ErrorCode::TooLarge));
        }
        self.check_time(place)
    }

    /// Whether there is still time.
    pub(super) fn check_time(&self, place: &Place) -> Result<(), PlanError> {
        match self.timeout {
            Some(timeout) if self.began.elapsed() > timeout => {
                let message = format!("the timeout of {} was over before the run could begin", Span(timeout));
                Err(PlanError::new(PlanErrorKind::Timeout, place, message))
            }
            _ => Ok(()),
        }
    }
}
