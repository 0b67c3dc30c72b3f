//! How much memory a guest may take, and what the host holds for it.

use std::sync::{
    Arc, PoisonError, Weak,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use wasmtime::ResourceLimiter;

use super::meter::{Denied, Usage};
use crate::sandbox::limits::Limits;

/// What one table element costs the host.
const TABLE_ELEMENT: u64 = 16;

/// Bounds memories and tables together, and remembers what was refused.
pub(crate) struct MemoryLimiter {
    limit: Option<u64>,
    instances: usize,
    memories: usize,
    tables: usize,
    used: u64,
    usage: Arc<Usage>,
    /// The growth that was approved last, to be taken back if it fails after all.
    pending: u64,
    /// The last refusal, if nothing was approved since: how many bytes were asked for, and how many were in use.
    pub(crate) denied: Option<Denied>,
    /// What the host made for the guest and has not handed over yet: it counts too.
    lent: Vec<Weak<Vec<u8>>>,
    /// Bytes of what the host made room for while it waits for others.
    waiting: Arc<AtomicU64>,
}

/// Bytes that the host holds for a guest while it waits for others; they count to the guest as long as this lives.
pub(crate) struct Room(Arc<AtomicU64>, u64);

impl Drop for Room {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Relaxed);
    }
}

/// The guest asked for more bytes than it has memory for.
#[derive(Debug, thiserror::Error)]
#[error("what was asked for exceeds memory limits")]
pub(crate) struct NoRoom;

impl MemoryLimiter {
    pub(crate) fn new(limits: &Limits, usage: Arc<Usage>) -> Self {
        let Limits { instances, memories, tables, .. } = *limits;
        Self {
            limit: limits.memory,
            instances,
            memories,
            tables,
            used: 0,
            usage,
            pending: 0,
            denied: None,
            lent: Vec::new(),
            waiting: Arc::default(),
        }
    }

    /// Whether there is room for that many bytes more.
    fn has_room(&mut self, bytes: u64) -> bool {
        self.lent.retain(|lent| lent.strong_count() > 0);
        let lent: u64 = self.lent.iter().filter_map(Weak::upgrade).map(|lent| lent.len() as u64).sum();
        let used = self.used.saturating_add(lent).saturating_add(self.waiting.load(Relaxed));
        match self.limit {
            Some(limit) if used.saturating_add(bytes) > limit => {
                let denied = Denied { limit, used, asked: bytes };
                self.denied = Some(denied);
                *self.usage.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(denied);
                false
            }
            _ => true,
        }
    }

    /// Sees that the host may make that many bytes for the guest.
    pub(crate) fn make_room(&mut self, bytes: u64) -> Result<(), NoRoom> {
        if self.has_room(bytes) { Ok(()) } else { Err(NoRoom) }
    }

    /// Makes room for that many bytes as long as what comes back lives.
    pub(crate) fn hold(&mut self, bytes: u64) -> Result<Room, NoRoom> {
        self.make_room(bytes)?;
        self.waiting.fetch_add(bytes, Relaxed);
        Ok(Room(self.waiting.clone(), bytes))
    }

    /// Counts bytes to the guest as long as somebody holds them.
    pub(crate) fn lend(&mut self, bytes: &Arc<Vec<u8>>) {
        self.lent.push(Arc::downgrade(bytes));
    }

    fn grow(&mut self, bytes: u64) -> bool {
        if !self.has_room(bytes) {
            return false;
        }
        // Whatever was refused before, the guest got over it.
        self.denied = None;
        let wanted = self.used.saturating_add(bytes);
        self.used = wanted;
        self.pending = bytes;
        self.usage.peak_memory.fetch_max(wanted, Relaxed);
        true
    }

    fn take_back(&mut self) {
        self.used -= std::mem::take(&mut self.pending);
    }
}

fn growth(current: usize, desired: usize) -> u64 {
    desired.saturating_sub(current) as u64
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        // Over its own maximum a memory cannot grow anyway; that is not our refusal.
        Ok(maximum.is_none_or(|maximum| desired <= maximum) && self.grow(growth(current, desired)))
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let bytes = growth(current, desired).saturating_mul(TABLE_ELEMENT);
        Ok(maximum.is_none_or(|maximum| desired <= maximum) && self.grow(bytes))
    }

    fn table_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }

    fn instances(&self) -> usize {
        self.instances
    }

    fn memories(&self) -> usize {
        self.memories
    }

    fn tables(&self) -> usize {
        self.tables
    }
}
