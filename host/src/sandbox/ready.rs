//! Code that was loaded ahead of the runs that will need it.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::{component::Loaded, engine::Sandbox, kind::EngineKind};

/// Code that is loaded already, for each sandbox that was asked to. Clones share it; it lives as long as the last of them.
#[derive(Clone, Default)]
pub(crate) struct Ready(Arc<Mutex<Vec<Entry>>>);

struct Entry {
    sandbox: Weak<Sandbox>,
    kind: EngineKind,
    loaded: Loaded,
}

impl Ready {
    pub(crate) fn get(&self, sandbox: &Arc<Sandbox>, kind: EngineKind) -> Option<Loaded> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = entries.iter().find(|entry| entry.kind == kind && entry.sandbox.as_ptr() == Arc::as_ptr(sandbox));
        found.map(|entry| entry.loaded.clone())
    }

    pub(crate) fn set(&self, sandbox: &Arc<Sandbox>, kind: EngineKind, loaded: Loaded) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What belongs to sandboxes that are gone goes.
        entries.retain(|entry| entry.sandbox.strong_count() > 0);
        if !entries.iter().any(|entry| entry.kind == kind && entry.sandbox.as_ptr() == Arc::as_ptr(sandbox)) {
            entries.push(Entry { sandbox: Arc::downgrade(sandbox), kind, loaded });
        }
    }
}

impl std::fmt::Debug for Ready {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ready")
    }
}
