//! Engines, their epoch ticker: what all runs of a host share.
//!
//! What wasmtime fixes per engine (stack size, fuel, determinism) comes from a stage's limits, so there is a table of engines. It is
//! small: stacks are powers of two.

use std::{
    cell::Cell,
    collections::HashMap,
    num::NonZeroUsize,
    path::Path,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use rustix::process::{Resource, getrlimit};
use wasmtime::{Collector, Config, Engine, WasmBacktraceDetails, component::Linker};

use super::{
    artifact::Artifacts,
    clock,
    compile::Compilers,
    component::{Digest, Entry},
    files,
    kept::{self, Kept},
    limits::HOST_STACK,
    listing, lists, net, paths, preview1,
    store::Guest,
    streams,
    trap::MAX_FRAMES,
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
    /// Whether address space is short: memories then reserve what they use, and their bounds are checked by instructions.
    pub(crate) small: bool,
}

/// Whether this process may have so little address space (`ulimit -v`) that memories cannot reserve 4 GiB each.
pub(super) fn is_space_short() -> bool {
    const ENOUGH: u64 = 64 << 30;
    getrlimit(Resource::As).current.is_some_and(|limit| limit < ENOUGH)
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

/// Engines with everything that hangs on them. Dropping it ends its thread.
pub(crate) struct Sandbox {
    machines: Mutex<HashMap<EngineKind, Arc<Machine>>>,
    pub(super) artifacts: Option<Artifacts>,
    /// What compiles strangers' code; `None`: this process.
    pub(super) compilers: Option<Compilers>,
    ticker: Ticker,
}

/// One engine.
pub(super) struct Machine {
    pub(super) engine: Engine,
    pub(super) components: Linker<Guest>,
    pub(super) modules: wasmtime::Linker<Guest>,
    /// With how many bytes are kept of each besides its code.
    compiled: Mutex<Kept<(Entry, usize)>>,
}

/// Why the sandbox could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("the sandbox cannot be set up: {0}")]
pub(crate) struct SandboxError(String);

impl Sandbox {
    /// Makes one. `cache` is the directory for compiled code; one that cannot be trusted or made is not used, and the
    /// second value says why.
    pub(crate) fn new(
        cache: Option<&Path>,
        compilers: Option<Compilers>,
    ) -> Result<(Self, Option<String>), SandboxError> {
        let mut unused = None;
        let artifacts = cache.and_then(|directory| match Artifacts::open(directory) {
            Ok(artifacts) => Some(artifacts),
            Err(why) => {
                unused = Some(format!("the code cache {} is not used: {why}", directory.display()));
                None
            }
        });
        let ticker = Ticker::start().map_err(|error| SandboxError(error.to_string()))?;
        Ok((Self { machines: Mutex::default(), artifacts, compilers, ticker }, unused))
    }

    /// Whether `compile_time` holds: what strangers' code is compiled by is a process.
    pub(crate) fn bounds_compiling(&self) -> bool {
        self.compilers.is_some()
    }

    /// The engine of that kind, made when it is first asked for.
    pub(super) fn machine(&self, kind: EngineKind) -> Result<Arc<Machine>, SandboxError> {
        let mut machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(machine) = machines.get(&kind) {
            return Ok(machine.clone());
        }
        let machine = Machine::new(kind).map_err(|error| SandboxError(format!("{error:#}")))?;
        self.ticker.tick(machine.engine.clone());
        Ok(machines.entry(kind).insert_entry(Arc::new(machine)).get().clone())
    }
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

impl Machine {
    fn new(kind: EngineKind) -> wasmtime::Result<Self> {
        let engine = Engine::new(&config(kind))?;
        let mut components = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut components)?;
        wasmtime_wasi::p3::add_to_linker(&mut components)?;
        components.allow_shadowing(true);
        clock::add_to_linker(&mut components)?;
        net::add_to_linker(&mut components)?;
        files::add_to_linker(&mut components)?;
        paths::add_to_linker(&mut components)?;
        lists::add_to_linker(&mut components)?;
        listing::add_to_linker(&mut components)?;
        streams::add_to_linker(&mut components)?;
        let mut modules = wasmtime::Linker::new(&engine);
        preview1::add_to_linker(&mut modules)?;
        Ok(Self { engine, components, modules, compiled: Mutex::default() })
    }

    /// The place of a compiled component.
    pub(super) fn cell(&self, digest: Digest) -> Arc<kept::Cell<(Entry, usize)>> {
        let size = |(entry, kept): &(Entry, usize)| entry.code_bytes().saturating_add(*kept);
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner).cell(digest, size)
    }
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandbox").field("ticking", &self.ticker.thread.is_some()).finish_non_exhaustive()
    }
}

/// Advances the engines' epochs until it is dropped.
struct Ticker {
    engines: Arc<(Mutex<Ticked>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Ticked {
    engines: Vec<Engine>,
    stopped: bool,
}

impl Ticker {
    fn start() -> std::io::Result<Self> {
        let engines = Arc::new((Mutex::new(Ticked::default()), Condvar::new()));
        let seen = engines.clone();
        let thread = std::thread::Builder::new().name("stagehost-epoch".into()).spawn(move || {
            let (ticked, changed) = &*seen;
            let mut guard = ticked.lock().unwrap_or_else(PoisonError::into_inner);
            while !guard.stopped {
                guard = changed.wait_timeout(guard, EPOCH).unwrap_or_else(PoisonError::into_inner).0;
                guard.engines.iter().for_each(Engine::increment_epoch);
            }
        })?;
        Ok(Self { engines, thread: Some(thread) })
    }

    /// Ticks this engine too.
    fn tick(&self, engine: Engine) {
        self.engines.0.lock().unwrap_or_else(PoisonError::into_inner).engines.push(engine);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.engines.0.lock().unwrap_or_else(PoisonError::into_inner).stopped = true;
        self.engines.1.notify_all();
        if let Some(thread) = self.thread.take() {
            // It cannot have panicked: it only waits and counts.
            let _ = thread.join();
        }
    }
}
