//! What a run may hold of compiled code, which nobody knows before it is compiled.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use super::{code::file::ComponentFile, component::Loaded, kind::EngineKind};
use crate::{digest::Digest, outcome::StageExit, spec::Size};

/// How many bytes of code a run may hold, in all. It has no limit of its own by default: a policy's `total_memory` gives it what the
/// plan has left of that.
#[derive(Debug, Default)]
pub(crate) struct CodeBudget {
    left: Option<Mutex<Left>>,
}

#[derive(Debug)]
struct Left {
    bytes: u64,
    /// The code that is held, which was paid for.
    held: HashSet<(Digest, EngineKind)>,
}

impl CodeBudget {
    pub(crate) fn new(bytes: Option<u64>) -> Self {
        Self { left: bytes.map(|bytes| Mutex::new(Left { bytes, held: HashSet::new() })) }
    }

    /// Takes what code needs, once for all stages that have the same. Stock stages cost nothing: every run has the same ones.
    ///
    /// # Errors
    ///
    /// How that ends the stage: there is not so much left.
    pub(crate) fn charge(&self, code: &ComponentFile, kind: EngineKind, loaded: &Loaded) -> Result<(), StageExit> {
        let Some(left) = self.left.as_ref().filter(|_| !code.is_ours) else { return Ok(()) };
        let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
        // Code for slots is the same code.
        let kind = kind.without_slots();
        if left.held.contains(&(code.digest, kind)) {
            return Ok(());
        }
        let bytes = loaded.code_bytes();
        let Some(rest) = left.bytes.checked_sub(bytes) else {
            let (bytes, rest) = (Size(bytes), Size(left.bytes));
            let message =
                format!("its compiled code takes {bytes}, and the policy's `total_memory` leaves {rest} for that");
            return Err(StageExit::StartFailed { message, missing: false, path: None });
        };
        left.bytes = rest;
        left.held.insert((code.digest, kind));
        Ok(())
    }
}
