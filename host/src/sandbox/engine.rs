//! Engines, their epoch ticker: what all runs of a host share.
//!
//! What wasmtime fixes per engine (stack size, fuel, determinism) comes from a stage's limits, so there is a table of engines. It is
//! small: stacks are powers of two.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::JoinHandle,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::{Engine, component::Linker};

use super::{
    code::{
        artifact::Artifacts,
        compile::Compilers,
        kept::{self, CodeCache},
    },
    entry::Entry,
    guest::Guest,
    kind::{EPOCH, EngineKind, SLOTS, config},
    linker,
};
use crate::digest::Digest;

/// Engines with everything that hangs on them. Dropping it ends its thread.
pub(crate) struct Sandbox {
    machines: Mutex<HashMap<EngineKind, Arc<Machine>>>,
    pub(super) artifacts: Option<Artifacts>,
    /// What compiles strangers' code; `None`: this process.
    pub(super) compilers: Option<Compilers>,
    /// What guests of prepared plans share: see [`kind::SLOTS`](super::kind::SLOTS).
    slots: Arc<Semaphore>,
    ticker: Ticker,
}

/// One engine.
pub(super) struct Machine {
    pub(super) engine: Engine,
    pub(super) components: Linker<Guest>,
    pub(super) modules: wasmtime::Linker<Guest>,
    /// With how many bytes are kept of each besides its code.
    compiled: Mutex<CodeCache<(Entry, usize)>>,
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
        let slots = Arc::new(Semaphore::new(SLOTS as usize));
        Ok((Self { machines: Mutex::default(), artifacts, compilers, slots, ticker }, unused))
    }

    /// Whether `compile_time` holds: what strangers' code is compiled by is a process.
    pub(crate) fn bounds_compiling(&self) -> bool {
        self.compilers.is_some()
    }

    /// A slot for a guest, if one is free.
    pub(super) fn slot(&self) -> Option<OwnedSemaphorePermit> {
        self.slots.clone().try_acquire_owned().ok()
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

impl Machine {
    fn new(kind: EngineKind) -> wasmtime::Result<Self> {
        let engine = Engine::new(&config(kind))?;
        let components = linker::components(&engine)?;
        let modules = linker::modules(&engine)?;
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
