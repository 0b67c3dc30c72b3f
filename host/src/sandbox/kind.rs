//! Kinds of engines: what wasmtime fixes for each, and the threads that guests run on.

use std::{cell::Cell, num::NonZeroUsize, time::Duration};

use rustix::process::{Resource, getrlimit};
use wasmtime::{Collector, Config, Engine, WasmBacktraceDetails};

use super::limits::{HOST_STACK, Limits, MAX_FRAMES};

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
        Self { counting, stack: limits.stack, dumps, small: is_space_short() }
    }
}

/// Whether this process may have so little address space (`ulimit -v`) that memories cannot reserve 4 GiB each.
pub(super) fn is_space_short() -> bool {
    const ENOUGH: u64 = 64 << 30;
    getrlimit(Resource::As).current.is_some_and(|limit| limit < ENOUGH)
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
    if kind.counting == Counting::Fuel {
        config.cranelift_nan_canonicalization(true).relaxed_simd_deterministic(true);
    }
    config
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
