//! The one function that makes a Store, and what runs inside it.
//!
//! Every limit of a guest is applied in [`new_store`]; clippy refuses `Store::new` anywhere else.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
};

use wasmtime::{ResourceLimiter, Store, UpdateDeadline};
use wasmtime_wasi::{I32Exit, WasiCtx, WasiCtxView, WasiView, p1::WasiP1Ctx};

use super::{component::Loaded, engine::Sandbox, stdio::Stdio, trap};
use crate::{joint::Stop, outcome::StageExit};

/// The memory limit of a stage that sets none, in bytes.
pub const DEFAULT_MEMORY: u64 = 256 << 20;

/// What the host may hold for one guest besides the guest's own memory: handles (1 KiB each) and one call's data. Shown
/// in the plan; not part of the guest's own limit.
pub(crate) const FIXED_ALLOWANCE: u64 = MAX_HANDLES as u64 * 1024 + HOSTCALL_FUEL as u64;

/// Resources and streams that a guest may hold at once.
const MAX_HANDLES: usize = 10_000;
/// Bytes that one call of the host may copy out of the guest.
const HOSTCALL_FUEL: usize = 1 << 20;
/// Random bytes that one call may ask for.
const MAX_RANDOM: u64 = 1 << 20;
/// Core instances, memories and tables of one component. The largest that toolchains make have about a dozen.
const MAX_INSTANCES: usize = 64;
const MAX_MEMORIES: usize = 8;
const MAX_TABLES: usize = 64;
/// What one table element costs the host.
const TABLE_ELEMENT: u64 = 16;

/// What a stage may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The sum of all linear memories and tables, in bytes. `None`: no limit.
    pub(crate) memory: Option<u64>,
}

/// How a guest is started.
#[derive(Clone, Debug)]
pub(crate) struct GuestSpec {
    /// Its arguments, the program's name first.
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) limits: Limits,
}

/// How a guest ended, and what it used.
#[derive(Debug)]
pub(crate) struct GuestEnd {
    pub(crate) exit: StageExit,
    /// The most memory that it held at once, in bytes.
    pub(crate) peak_memory: u64,
}

/// A store's data.
pub(crate) struct Guest {
    pub(super) wasi: WasiP1Ctx,
    memory: MemoryLimiter,
    stop: Stop,
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}

/// Bounds memories and tables together, and remembers what was refused.
pub(super) struct MemoryLimiter {
    limit: Option<u64>,
    used: u64,
    peak: u64,
    /// The growth that was approved last, to be taken back if it fails after all.
    pending: u64,
    /// The last refusal, if nothing was approved since: how many bytes were asked for, and how many were in use.
    pub(super) denied: Option<Denied>,
}

/// A growth that was refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Denied {
    pub(super) limit: u64,
    pub(super) used: u64,
    pub(super) asked: u64,
}

impl MemoryLimiter {
    fn grow(&mut self, bytes: u64) -> bool {
        let wanted = self.used.saturating_add(bytes);
        if let Some(limit) = self.limit
            && wanted > limit
        {
            self.denied = Some(Denied { limit, used: self.used, asked: bytes });
            return false;
        }
        // Whatever was refused before, the guest got over it.
        self.denied = None;
        self.used = wanted;
        self.pending = bytes;
        self.peak = self.peak.max(wanted);
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
        MAX_INSTANCES
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES
    }

    fn tables(&self) -> usize {
        MAX_TABLES
    }
}

/// The run was stopped from outside; carried through the guest's frames.
#[derive(Debug, thiserror::Error)]
#[error("the run was stopped")]
pub(super) struct Stopped;

/// The guest has no entry of the type that a command's has.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NotACommand(pub(super) String);

/// Makes a Store with every limit applied. There is no other place that does.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
fn new_store(sandbox: &Sandbox, spec: &GuestSpec, stdio: &Stdio, stop: Stop) -> Store<Guest> {
    let mut wasi = WasiCtx::builder();
    wasi.args(&spec.args)
        .envs(&spec.env)
        .stdin(stdio.stdin.clone())
        .stdout(stdio.stdout.clone())
        .stderr(stdio.stderr.clone())
        .max_random_size(MAX_RANDOM);
    let memory = MemoryLimiter { limit: spec.limits.memory, used: 0, peak: 0, pending: 0, denied: None };
    let mut wasi = wasi.build_p1();
    wasi.ctx().table.set_max_capacity(MAX_HANDLES);
    let mut store = Store::new(&sandbox.engine, Guest { wasi, memory, stop });
    store.limiter(|guest| &mut guest.memory);
    store.set_hostcall_fuel(HOSTCALL_FUEL);
    store.set_max_component_handles(MAX_HANDLES);
    if let Some(table) = store.concurrent_resource_table() {
        table.set_max_capacity(MAX_HANDLES);
    }
    // At every epoch the guest lets others run, or ends if the run is stopped.
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|store| {
        if store.data().stop.is_requested() {
            return Err(Stopped.into());
        }
        Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
    });
    store
}

/// Runs a guest to its end. What it wrote before it ended well is handed over before this returns.
///
/// # Cancel safety
///
/// Dropping the future ends the guest wherever it is and frees its store.
pub(crate) async fn run_guest(
    sandbox: Arc<Sandbox>,
    loaded: Loaded,
    spec: GuestSpec,
    stdio: Stdio,
    stop: Stop,
) -> GuestEnd {
    let mut store = new_store(&sandbox, &spec, &stdio, stop);
    let ran = {
        let running: Pin<Box<dyn Future<Output = wasmtime::Result<()>> + Send>> = match loaded {
            Loaded::P3(command) => Box::pin(run_p3(&mut store, command)),
            Loaded::P2(command) => Box::pin(run_p2(&mut store, command)),
            Loaded::P1(module) => Box::pin(run_p1(&mut store, module)),
        };
        let mut running = pin!(running);
        poll_fn(|cx| {
            let polled = running.as_mut().poll(cx);
            if polled.is_pending() {
                // Whatever it waits for, it writes nothing meanwhile.
                stdio.stdout.idle();
            }
            polled
        })
        .await
    };
    let ran = match ran {
        // A 0.2 stream takes bytes before they are written; they are part of what a good end promises.
        Ok(()) => poll_fn(|cx| stdio.stdout.poll_drain(cx)).await.map_err(wasmtime::Error::from),
        Err(error) if error.is::<I32Exit>() => {
            let _ = poll_fn(|cx| stdio.stdout.poll_drain(cx)).await;
            Err(error)
        }
        failed => failed,
    };
    let guest = store.data();
    let exit = match ran {
        Ok(()) => StageExit::Ok,
        Err(error) => trap::exit_of(&error, guest.memory.denied, &stdio.stderr.tail_text()),
    };
    let peak_memory = guest.memory.peak;
    GuestEnd { exit, peak_memory }
}

async fn run_p3(
    store: &mut Store<Guest>,
    command: wasmtime_wasi::p3::bindings::CommandPre<Guest>,
) -> wasmtime::Result<()> {
    let command = command.instantiate_async(&mut *store).await?;
    let returned = store
        .run_concurrent(async move |accessor| {
            let returned = command.wasi_cli_run().call_run(accessor).await?;
            // `run` may return while its last writes are under way: they count.
            poll_fn(|cx| match accessor.poll_no_interesting_tasks(cx) {
                Poll::Ready(()) => Poll::Ready(()),
                Poll::Pending => Poll::Pending,
            })
            .await;
            wasmtime::Result::<Result<(), ()>>::Ok(returned)
        })
        .await??;
    returned.map_err(|()| I32Exit(1).into())
}

async fn run_p2(
    store: &mut Store<Guest>,
    command: wasmtime_wasi::p2::bindings::CommandPre<Guest>,
) -> wasmtime::Result<()> {
    let command = command.instantiate_async(&mut *store).await?;
    command.wasi_cli_run().call_run(&mut *store).await?.map_err(|()| I32Exit(1).into())
}

async fn run_p1(store: &mut Store<Guest>, module: wasmtime::InstancePre<Guest>) -> wasmtime::Result<()> {
    let instance = module.instantiate_async(&mut *store).await?;
    let start = instance.get_typed_func::<(), ()>(&mut *store, "_start");
    let start = start.map_err(|error| NotACommand(format!("its `_start` is no command's: {error:#}")))?;
    start.call_async(&mut *store, ()).await
}
