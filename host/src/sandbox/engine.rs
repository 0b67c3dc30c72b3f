//! The engine, its epoch ticker and its code cache: what all runs of a host share.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::Path,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use tokio::sync::OnceCell;
use wasmtime::{Cache, CacheConfig, Config, Engine, WasmBacktraceDetails, component::Linker};

use super::{
    component::{Digest, Loaded},
    store::Guest,
};

/// How long an epoch is: how long a guest may run without looking whether it should stop or let others run.
const EPOCH: Duration = Duration::from_millis(5);

/// The stack of a guest, in bytes.
const STACK: usize = 512 << 10;

/// What a fiber needs beyond the guest's stack: the host's own frames, with room to spare.
const HOST_STACK: usize = 3 << 19;

/// An engine with everything that hangs on it. Dropping it ends its thread.
pub(crate) struct Sandbox {
    pub(super) engine: Engine,
    pub(super) components: Linker<Guest>,
    pub(super) modules: wasmtime::Linker<Guest>,
    /// Compiled components by the digest of their file. Bounded by what pipelines name.
    pub(super) compiled: Mutex<HashMap<Digest, Arc<OnceCell<Loaded>>>>,
    /// The threads that compile. The compiler would otherwise start a process-wide pool that outlives every host.
    pub(super) compilers: rayon::ThreadPool,
    ticker: Ticker,
}

/// Why the sandbox could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("the sandbox cannot be set up: {0}")]
pub(crate) struct SandboxError(String);

impl Sandbox {
    /// Makes an engine. `cache` is the directory for compiled code; one that cannot be trusted or made is not used, and
    /// the second value says why.
    pub(crate) fn new(cache: Option<&Path>) -> Result<(Self, Option<String>), SandboxError> {
        let mut config = Config::new();
        config
            .epoch_interruption(true)
            .max_wasm_stack(STACK)
            .async_stack_size(STACK + HOST_STACK)
            // Symbolication by DWARF is slow and unbounded; names come from the name section.
            .wasm_backtrace_details(WasmBacktraceDetails::Disable);
        let mut unused = None;
        if let Some(directory) = cache {
            match open_cache(directory) {
                Ok(cache) => _ = config.cache(Some(cache)),
                Err(why) => unused = Some(format!("the code cache {} is not used: {why}", directory.display())),
            }
        }
        let failed = |error: wasmtime::Error| SandboxError(format!("{error:#}"));
        let engine = Engine::new(&config).map_err(failed)?;
        let mut components = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut components).map_err(failed)?;
        wasmtime_wasi::p3::add_to_linker(&mut components).map_err(failed)?;
        let mut modules = wasmtime::Linker::new(&engine);
        wasmtime_wasi::p1::add_to_linker_async(&mut modules, |guest: &mut Guest| &mut guest.wasi).map_err(failed)?;
        // The stock one refuses codes from 126 on; a program may exit with any byte.
        modules.allow_shadowing(true);
        let exit = |code: i32| -> wasmtime::Result<()> { Err(wasmtime_wasi::I32Exit(code).into()) };
        modules.func_wrap("wasi_snapshot_preview1", "proc_exit", exit).map_err(failed)?;
        let compilers = rayon::ThreadPoolBuilder::new().thread_name(|_| "stagehost-compile".into()).build();
        let compilers = compilers.map_err(|error| SandboxError(error.to_string()))?;
        let ticker = Ticker::start(engine.clone()).map_err(|error| SandboxError(error.to_string()))?;
        Ok((Self { engine, components, modules, compiled: Mutex::default(), compilers, ticker }, unused))
    }
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandbox").field("ticking", &self.ticker.thread.is_some()).finish_non_exhaustive()
    }
}

/// Opens the cache in a directory that belongs to us and that nobody else can write.
fn open_cache(directory: &Path) -> Result<Cache, String> {
    if !directory.is_absolute() {
        return Err("its path is not absolute".into());
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| error.to_string())?;
    let metadata = fs::metadata(directory).map_err(|error| error.to_string())?;
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err("it belongs to another user".into());
    }
    if metadata.mode() & 0o022 != 0 {
        return Err("others can write to it".into());
    }
    let mut config = CacheConfig::new();
    config.with_directory(directory);
    Cache::new(config).map_err(|error| format!("{error:#}"))
}

/// Advances the engine's epoch until it is dropped.
struct Ticker {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    fn start(engine: Engine) -> std::io::Result<Self> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let seen = stop.clone();
        let thread = std::thread::Builder::new().name("stagehost-epoch".into()).spawn(move || {
            let (stopped, changed) = &*seen;
            let mut guard = stopped.lock().unwrap_or_else(PoisonError::into_inner);
            while !*guard {
                guard = changed.wait_timeout(guard, EPOCH).unwrap_or_else(PoisonError::into_inner).0;
                engine.increment_epoch();
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
        if let Some(thread) = self.thread.take() {
            // It cannot have panicked: it only waits and counts.
            let _ = thread.join();
        }
    }
}
