//! Code that was loaded ahead of the runs that will need it.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedSemaphorePermit;

use super::{
    code::{file::ComponentFile, inspect::Inspection},
    component::Loaded,
    engine::Sandbox,
    kind::{EngineKind, SLOT_MEMORY},
    limits::Limits,
    turns::RunTurns,
};
use crate::outcome::StageExit;

/// Code that is loaded already, for each sandbox that was asked to. Clones share it; it lives as long as the last of them.
#[derive(Clone, Default)]
pub(crate) struct Ready(Arc<Mutex<Vec<Entry>>>);

struct Entry {
    sandbox: Weak<Sandbox>,
    kind: EngineKind,
    usual: Loaded,
    /// The same for guests in slots, where it fits.
    in_slots: Option<Loaded>,
}

/// Code that is loaded, and the slot for the guest that is made of it if there is one.
#[derive(Debug)]
pub(crate) struct ReadyCode {
    pub(crate) loaded: Loaded,
    pub(crate) slot: Option<OwnedSemaphorePermit>,
}

impl Ready {
    /// Code for a guest of these limits, in a slot if it fits and one is free.
    pub(crate) fn get(&self, sandbox: &Arc<Sandbox>, kind: EngineKind, limits: &Limits) -> Option<ReadyCode> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_meant = |entry: &&Entry| entry.kind == kind && entry.sandbox.as_ptr() == Arc::as_ptr(sandbox);
        let found = entries.iter().find(is_meant)?;
        // A memory that may be larger than a slot is not to end there.
        let fits = limits.memory.is_some_and(|most| most <= SLOT_MEMORY);
        let slotted = found.in_slots.as_ref().filter(|_| fits).and_then(|loaded| Some((loaded, sandbox.slot()?)));
        Some(match slotted {
            Some((loaded, slot)) => ReadyCode { loaded: loaded.clone(), slot: Some(slot) },
            None => ReadyCode { loaded: found.usual.clone(), slot: None },
        })
    }

    /// Loads code.
    ///
    /// # Errors
    ///
    /// How that would end a stage.
    pub(crate) async fn prepare(
        &self,
        sandbox: &Arc<Sandbox>,
        kind: EngineKind,
        code: &ComponentFile,
        inspection: &Inspection,
        limits: &Limits,
        turns: &RunTurns,
    ) -> Result<(), StageExit> {
        if self.get(sandbox, kind, limits).is_some() {
            return Ok(());
        }
        let usual = sandbox.load(kind, code, limits, turns).await?;
        let slotted = kind.with_slots().filter(|_| inspection.fits_slots);
        let in_slots = match slotted {
            // What does not fit is refused here, and what there is no address space for: both go without.
            Some(kind) => sandbox.load_again(kind, code, &usual).await,
            None => None,
        };
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What belongs to sandboxes that are gone goes.
        entries.retain(|entry| entry.sandbox.strong_count() > 0);
        if entries.iter().any(|entry| entry.kind == kind && entry.sandbox.as_ptr() == Arc::as_ptr(sandbox)) {
            // Somebody was faster.
            return Ok(());
        }
        entries.push(Entry { sandbox: Arc::downgrade(sandbox), kind, usual, in_slots });
        Ok(())
    }
}

impl std::fmt::Debug for Ready {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ready")
    }
}
