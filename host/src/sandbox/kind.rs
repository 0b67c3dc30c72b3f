//! Kinds of engines: what wasmtime fixes for each, and the threads that guests run on.

use std::{
    cell::Cell,
    num::NonZeroUsize,
    sync::{Arc, LazyLock},
    time::Duration,
};

use rustix::process::{Resource, getrlimit};
use wasmtime::{
    Collector, Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails,
};

use super::{
    code::inspect::SLOT_TABLE_ELEMENTS,
    limits::{HOST_STACK, Limits, MAX_FRAMES},
    stacks::{Creator, Stacks},
};

/// How long an epoch is: how long a guest may run without looking whether it should stop or let others run.
pub(super) const EPOCH: Duration = Duration::from_millis(5);

/// How a guest's code is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EngineKind {
    pub(crate) counting: Counting,
    /// The stack of a guest, in bytes: a power of two.
    pub(crate) stack: usize,
    /// Whether a trap keeps the guest's memory for a core dump.
    pub(crate) dumps: bool,
    /// Whether what its guests need is kept ready in slots.
    pub(crate) pooled: bool,
    /// Whether address space is short: memories then reserve what they use, and their bounds are checked by instructions.
    pub(crate) small: bool,
}

/// What interrupts a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Counting {
    /// Epochs.
    Epochs,
    /// Epochs, and instructions are counted too.
    EpochsAndFuel,
    /// Epochs, which change no result, and instructions; every result is the same on every machine.
    Fuel,
}

impl EngineKind {
    /// The engine that a guest of these limits needs.
    pub(crate) fn of(limits: &Limits, deterministic: bool, dumps: bool) -> Self {
        let counting = match (deterministic, limits.fuel) {
            (true, _) => Counting::Fuel,
            (false, Some(_)) => Counting::EpochsAndFuel,
            (false, None) => Counting::Epochs,
        };
        Self { counting, stack: limits.stack, dumps, pooled: false, small: is_space_short() }
    }

    /// The engine of the same kind with slots, if there is one: for the usual stack, and where there is address space for it.
    pub(super) fn with_slots(self) -> Option<Self> {
        let fits = self.stack == Limits::default().stack && !self.dumps && !self.small;
        fits.then_some(Self { pooled: true, ..self })
    }

    /// The same kind without slots.
    pub(super) fn without_slots(self) -> Self {
        Self { pooled: false, ..self }
    }
}

/// Whether this process may have so little address space (`ulimit -v`) that memories cannot reserve 4 GiB each: as it was when it was
/// first asked for.
pub(super) fn is_space_short() -> bool {
    const ENOUGH: u64 = 64 << 30;
    static IS_SHORT: LazyLock<bool> =
        LazyLock::new(|| getrlimit(Resource::As).current.is_some_and(|limit| limit < ENOUGH));
    *IS_SHORT
}

/// What an engine of that kind is like.
pub(super) fn config(kind: EngineKind) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        // An image of a memory is the host's; a guest's own start writes what is not dense.
        .memory_guaranteed_dense_image_size(1 << 20)
        .consume_fuel(kind.counting != Counting::Epochs)
        // What languages' garbage lives in. The other collectors keep cycles, or everything.
        .collector(Collector::Copying)
        .max_wasm_stack(kind.stack)
        .async_stack_size(kind.stack + HOST_STACK)
        .coredump_on_trap(kind.dumps)
        .wasm_backtrace_max_frames(NonZeroUsize::new(MAX_FRAMES))
        // Symbolication by DWARF is slow and unbounded; names come from the name section.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable);
    if kind.small {
        config
            .memory_reservation(0)
            .memory_reservation_for_growth(1 << 20)
            .memory_guard_size(0)
            .guard_before_linear_memory(false);
    }
    if !kind.pooled && !kind.small {
        config.with_host_stack(Arc::new(Creator(Stacks::new(kind.stack + HOST_STACK))));
    }
    if kind.pooled {
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(slots()));
    }
    if kind.counting == Counting::Fuel {
        config.cranelift_nan_canonicalization(true).relaxed_simd_deterministic(true);
    }
    config
}

/// How many guests have a slot at once, of all engines together.
pub(super) const SLOTS: u32 = 512;
/// Core instances, tables and stacks of a guest in a slot. One that is plain has a stack, and another while it is called.
const SLOT_INSTANCES: u32 = 8;
const SLOT_TABLES: u32 = 4;
const SLOT_STACKS: u32 = 4;
/// The most memory that a guest in a slot may have, in bytes: what its slot reserves.
pub(super) const SLOT_MEMORY: u64 = 4 << 30;

/// What guests need, kept ready: a slot has room for the instances, memory, tables and stacks of one. It is used again as it is, once
/// what the last guest wrote is gone. Bounds what stays resident in slots that nobody uses.
fn slots() -> PoolingAllocationConfig {
    /// Slots that stay as they are when they are free, with what stays of each, in bytes.
    const WARM: u32 = 64;
    const KEPT_MEMORY: usize = 256 << 10;
    const KEPT_TABLE: usize = 64 << 10;
    const KEPT_STACK: usize = 32 << 10;
    /// A slot is given up a moment before it is free.
    const SPARE: u32 = 64;
    const ALL: u32 = SLOTS + SPARE;
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(ALL)
        .total_core_instances(ALL * SLOT_INSTANCES)
        .max_core_instances_per_component(SLOT_INSTANCES)
        .total_memories(ALL)
        .max_memories_per_component(1)
        .max_memories_per_module(1)
        .max_memory_size(usize::try_from(SLOT_MEMORY).unwrap_or(usize::MAX))
        .total_tables(ALL * SLOT_TABLES)
        .max_tables_per_component(SLOT_TABLES)
        .max_tables_per_module(SLOT_TABLES)
        .table_elements(SLOT_TABLE_ELEMENTS)
        .total_stacks(ALL * SLOT_STACKS)
        .total_gc_heaps(0)
        .max_unused_warm_slots(WARM)
        .linear_memory_keep_resident(KEPT_MEMORY)
        .table_keep_resident(KEPT_TABLE)
        .async_stack_keep_resident(KEPT_STACK)
        // It would keep a descriptor for as long as the process lives.
        .pagemap_scan(Enabled::No);
    pool
}

/// Sees, where address space is short, that this thread has what it needs to run guests: the engine panics where it does not.
///
/// # Errors
///
/// There is no room for it.
pub(super) fn prepare_thread() -> std::io::Result<()> {
    /// More than the engine takes: a stack for signals.
    const ROOM: usize = 1 << 20;
    thread_local! {
        static IS_PREPARED: Cell<bool> = const { Cell::new(false) };
    }
    if IS_PREPARED.get() {
        return Ok(());
    }
    if is_space_short() {
        let mut room: Vec<u8> = Vec::new();
        room.try_reserve(ROOM).map_err(|_| std::io::Error::from(rustix::io::Errno::NOMEM))?;
        drop(room);
        Engine::tls_eager_initialize();
    }
    IS_PREPARED.set(true);
    Ok(())
}
