//! A ring's counters from outside.

use std::fmt;

use crate::{Counters, shared::Shared, sync::Arc};

/// Reads a ring's counters while it works and after its halves are gone. Holds no storage.
#[derive(Clone)]
pub struct Monitor(pub(crate) Arc<Shared>);

impl Monitor {
    /// The counters as they stand. While the ring works, a moment's reading.
    pub fn counters(&self) -> Counters {
        self.0.cells.read()
    }
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counters().fmt(f)
    }
}
