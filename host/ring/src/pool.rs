//! Storage for rings: recycled buffers, up to a high-water mark.
//!
//! The pool's lock is taken when a ring changes between idle and busy, never per chunk.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::sync::Storage;

/// Recycles the storage of rings. Clones share one pool.
///
/// Buffers given back are kept for the next ring of that capacity as long as all kept buffers together stay under the
/// high-water mark; the rest goes back to the allocator. Recycled buffers are not wiped: a ring only ever shows the
/// reader bytes that its own writer committed.
#[derive(Clone)]
pub struct Pool(Arc<Mutex<State>>);

struct State {
    kept: HashMap<usize, Vec<Storage>>,
    kept_bytes: usize,
    lent_bytes: usize,
    high_water_bytes: usize,
}

impl Pool {
    /// Makes a pool that keeps at most `high_water_bytes` of unused buffers.
    pub fn new(high_water_bytes: usize) -> Self {
        Self(Arc::new(Mutex::new(State { kept: HashMap::new(), kept_bytes: 0, lent_bytes: 0, high_water_bytes })))
    }

    /// How many bytes of storage rings hold right now.
    pub fn lent_bytes(&self) -> usize {
        self.state().lent_bytes
    }

    /// How many bytes of unused storage the pool keeps right now.
    pub fn kept_bytes(&self) -> usize {
        self.state().kept_bytes
    }

    pub(crate) fn lend(&self, capacity: usize) -> Storage {
        let mut state = self.state();
        state.lent_bytes += capacity;
        match state.kept.get_mut(&capacity).and_then(Vec::pop) {
            Some(storage) => {
                state.kept_bytes -= capacity;
                storage
            }
            None => {
                drop(state);
                Storage::zeroed(capacity)
            }
        }
    }

    pub(crate) fn take_back(&self, storage: Storage) {
        let capacity = storage.len();
        let mut state = self.state();
        state.lent_bytes -= capacity;
        if state.kept_bytes + capacity <= state.high_water_bytes {
            state.kept_bytes += capacity;
            state.kept.entry(capacity).or_default().push(storage);
        } else {
            drop(state);
            drop(storage);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic cannot leave the counters half-changed: nothing between them can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Pool {
    /// A pool that keeps at most 8 MiB: 32 rings of the default capacity.
    fn default() -> Self {
        Self::new(8 << 20)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Pool")
            .field("lent_bytes", &state.lent_bytes)
            .field("kept_bytes", &state.kept_bytes)
            .field("high_water_bytes", &state.high_water_bytes)
            .finish()
    }
}
