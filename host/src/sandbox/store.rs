//! The one function that makes a Store, and what runs inside it.
//!
//! Every limit of a guest is applied in [`new_store`]; clippy refuses `Store::new` anywhere else.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::oneshot;
use wasmtime::{ResourceLimiter, Store, UpdateDeadline};
use wasmtime_wasi::{I32Exit, WasiCtx, WasiCtxView, WasiView, p1::WasiP1Ctx};

use super::{
    clock::{self, VirtualClock, yield_awake},
    component::{Entry, Loaded},
    dumps::Dumps,
    engine::{Counting, EngineKind, is_space_short, prepare_thread},
    limits::{Limits, MAX_RANDOM},
    lines,
    meter::{BoxFuture, Denied, Usage, is_full_slice, metered, metered_apart},
    net::Net,
    rights::{self, Denials, Held, Rights},
    stdio::{Stdio, Told},
    trap,
    turns::RunTurns,
};
use crate::{
    joint::{Countdown, Stop},
    outcome::StageExit,
    process::AtPath,
    spec::to_text,
};

/// What one table element costs the host.
const TABLE_ELEMENT: u64 = 16;

/// How a guest is started.
#[derive(Clone, Debug)]
pub(crate) struct GuestSpec {
    /// The stage's name.
    pub(crate) name: String,
    /// Its arguments, the program's name first.
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) limits: Limits,
    pub(crate) rights: Rights,
    /// Where a core dump goes when it traps.
    pub(crate) dumps: Option<Dumps>,
    /// Whether every result must be the same on every run.
    pub(crate) deterministic: bool,
    /// How long what it started may go on when its `run` has returned.
    pub(crate) linger: Duration,
    /// Whether it is told which of its streams are a terminal.
    pub(crate) sees_terminals: bool,
}

/// A store's data.
pub(crate) struct Guest {
    pub(super) wasi: WasiP1Ctx,
    pub(super) memory: MemoryLimiter,
    pub(super) held: Held,
    pub(super) stdio: Stdio,
    pub(super) denials: Denials,
    stop: Stop,
    pub(super) usage: Arc<Usage>,
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}

/// Bounds memories and tables together, and remembers what was refused.
pub(super) struct MemoryLimiter {
    limit: Option<u64>,
    instances: usize,
    memories: usize,
    tables: usize,
    used: u64,
    usage: Arc<Usage>,
    /// The growth that was approved last, to be taken back if it fails after all.
    pending: u64,
    /// The last refusal, if nothing was approved since: how many bytes were asked for, and how many were in use.
    pub(super) denied: Option<Denied>,
    /// What the host made for the guest and has not handed over yet: it counts too.
    lent: Vec<Weak<Vec<u8>>>,
    /// Bytes of what the host made room for while it waits for others.
    waiting: Arc<AtomicU64>,
}

/// Bytes that the host holds for a guest while it waits for others; they count to the guest as long as this lives.
pub(super) struct Room(Arc<AtomicU64>, u64);

impl Drop for Room {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Relaxed);
    }
}

/// The guest asked for more bytes than it has memory for.
#[derive(Debug, thiserror::Error)]
#[error("what was asked for exceeds memory limits")]
pub(super) struct NoRoom;

impl MemoryLimiter {
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
    pub(super) fn make_room(&mut self, bytes: u64) -> Result<(), NoRoom> {
        if self.has_room(bytes) { Ok(()) } else { Err(NoRoom) }
    }

    /// Makes room for that many bytes as long as what comes back lives.
    pub(super) fn hold(&mut self, bytes: u64) -> Result<Room, NoRoom> {
        self.make_room(bytes)?;
        self.waiting.fetch_add(bytes, Relaxed);
        Ok(Room(self.waiting.clone(), bytes))
    }

    /// Counts bytes to the guest as long as somebody holds them.
    pub(super) fn lend(&mut self, bytes: &Arc<Vec<u8>>) {
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
fn new_store(
    loaded: &Loaded,
    spec: &GuestSpec,
    stdio: &Stdio,
    stop: Stop,
    usage: &Arc<Usage>,
    denials: Denials,
    net: Arc<Net>,
) -> wasmtime::Result<Store<Guest>> {
    let limits = &spec.limits;
    let mut wasi = WasiCtx::builder();
    wasi.args(&spec.args)
        .envs(&spec.env)
        .stdin(Told::new(stdio.stdin.clone(), spec.sees_terminals && stdio.stdin.is_terminal()))
        .stdout(Told::new(stdio.stdout.clone(), spec.sees_terminals && stdio.stdout.is_terminal()))
        .stderr(Told::new(stdio.stderr.clone(), spec.sees_terminals && stdio.stderr.is_terminal()))
        .max_random_size(MAX_RANDOM);
    let held = rights::apply(&mut wasi, &spec.rights, net)?;
    let Limits { instances, memories, tables, .. } = *limits;
    let memory = MemoryLimiter {
        limit: limits.memory,
        instances,
        memories,
        tables,
        used: 0,
        usage: usage.clone(),
        pending: 0,
        denied: None,
        lent: Vec::new(),
        waiting: Arc::default(),
    };
    let mut wasi = wasi.build_p1();
    let resources = if spec.rights.need_descriptors() { limits.open_files } else { limits.handles };
    wasi.ctx().table.set_max_capacity(resources.min(limits.handles));
    let guest = Guest { wasi, memory, held, stdio: stdio.clone(), denials, stop, usage: usage.clone() };
    let mut store = Store::new(&loaded.machine.engine, guest);
    store.limiter(|guest| &mut guest.memory);
    store.set_hostcall_fuel(limits.list_bytes);
    store.set_max_component_handles(limits.handles);
    if let Some(table) = store.concurrent_resource_table() {
        table.set_max_capacity(limits.handles);
    }
    let counting = spec.counting();
    if counting != Counting::Epochs {
        store.set_fuel(limits.fuel.unwrap_or(u64::MAX))?;
    }
    // At every epoch the guest lets others run, or ends if the run is stopped or its time is used up.
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|store| {
        let guest = store.data();
        if guest.stop.is_requested() || guest.usage.gone.load(Relaxed) {
            return Err(Stopped.into());
        }
        let took = guest.usage.meter.in_this_poll();
        guest.usage.meter.check(took)?;
        // One that was woken just before is left to it.
        Ok(if is_full_slice(took) {
            UpdateDeadline::YieldCustom(1, Box::pin(yield_awake()))
        } else {
            UpdateDeadline::Continue(1)
        })
    });
    Ok(store)
}

/// A guest that is ready to run.
pub(crate) struct GuestRun {
    pub(crate) turns: RunTurns,
    pub(crate) loaded: Loaded,
    pub(crate) spec: GuestSpec,
    pub(crate) stdio: Stdio,
    pub(crate) stop: Stop,
    pub(crate) usage: Arc<Usage>,
    pub(crate) denials: Denials,
    /// The component's file, for source lines.
    pub(crate) file: Bytes,
}

/// Runs a guest to its end. What it wrote before it ended well is handed over before this returns.
///
/// # Cancel safety
///
/// Dropping the future ends the guest wherever it is and frees its store.
pub(crate) async fn run_guest(guest: GuestRun) -> GuestEnd {
    let GuestRun { turns, loaded, spec, stdio, stop, usage, denials, file } = guest;
    let net = Arc::new(Net::resolve(&spec.rights.net, denials.clone()).await);
    let store = match new_store(&loaded, &spec, &stdio, stop, &usage, denials, net) {
        Ok(store) => store,
        Err(error) => {
            let path = error.downcast_ref::<AtPath>().map(|at| to_text(&at.path));
            let message = format!("the sandbox failed: {error:#}");
            return GuestEnd { exit: StageExit::HostError { message, path }, ..GuestEnd::default() };
        }
    };
    let clock = store.data().held.clock.clone();
    let unfinished = Arc::new(AtomicBool::new(false));
    let left = Left::default();
    let running = enter(store, loaded.entry, stdio.clone(), spec.linger, unfinished.clone(), left.clone());
    let running = in_its_surroundings(running, stdio.clone(), clock);
    let idle = || stdio.stdout.idle();
    let ran = match spec.rights.dirs.is_empty() {
        true => metered(running, &usage.meter, &turns, idle).await,
        false => metered_apart(running, usage.clone(), &turns, idle).await,
    };
    let Some(store) = left.take() else {
        let message = "the sandbox lost a guest".to_owned();
        return GuestEnd { exit: StageExit::HostError { message, path: None }, ..GuestEnd::default() };
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
    if let Ok(left) = store.get_fuel() {
        let _ = usage.fuel.set(spec.limits.fuel.unwrap_or(u64::MAX).saturating_sub(left));
    }
    let unfinished = unfinished.load(Relaxed);
    let error = match ran {
        Ok(()) => return GuestEnd { unfinished, ..GuestEnd::default() },
        Err(error) => error,
    };
    let (stderr, delivered) = (stdio.stderr.tail_text(), stdio.stdin.delivered());
    let mut exit = trap::exit_of(&error, store.data().memory.denied, &spec, &stderr, delivered);
    // Of a limit the exit says what, and the frames where.
    let mut frames = Vec::new();
    match &mut exit {
        StageExit::Trap { frames, .. } => add_lines(frames, &error, file).await,
        StageExit::Limit { .. } => {
            frames = trap::frames(&error);
            add_lines(&mut frames, &error, file).await;
        }
        _ => {}
    }
    let dumps = matches!(exit, StageExit::Trap { .. } | StageExit::Limit { .. });
    let note = match &spec.dumps {
        Some(directory) if dumps => Some(directory.write(error, store, &spec.name).await),
        _ => None,
    };
    GuestEnd { exit, frames, note, unfinished }
}

/// What is left of a guest whose future is gone, however it went.
#[derive(Clone, Default)]
struct Left(Arc<Mutex<Option<Store<Guest>>>>);

impl Left {
    fn take(&self) -> Option<Store<Guest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A store that is left when this is dropped.
struct Leaving {
    /// Always there but in `drop`.
    store: Option<Store<Guest>>,
    left: Left,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        *self.left.0.lock().unwrap_or_else(PoisonError::into_inner) = self.store.take();
    }
}

/// Instantiates a guest and calls its `run`.
fn enter(
    store: Store<Guest>,
    entry: Entry,
    stdio: Stdio,
    linger: Duration,
    unfinished: Arc<AtomicBool>,
    left: Left,
) -> BoxFuture<wasmtime::Result<()>> {
    let mut leaving = Leaving { store: Some(store), left };
    Box::pin(async move {
        let Some(store) = &mut leaving.store else { return Ok(()) };
        match entry {
            Entry::P3(command) => run_p3(store, command, &stdio, linger, &unfinished).await,
            Entry::P2(command) => run_p2(store, command).await,
            Entry::P1(module) => run_p1(store, module).await,
        }
    })
}

/// What is done for a guest whenever it is polled, on the thread that polls it.
fn in_its_surroundings(
    mut guest: BoxFuture<wasmtime::Result<()>>,
    stdio: Stdio,
    clock: Option<Arc<VirtualClock>>,
) -> BoxFuture<wasmtime::Result<()>> {
    Box::pin(async move {
        // What a 0.2 stream handed over is on its way, whatever the guest does meanwhile.
        let mut running = pin!(poll_fn(|cx| {
            // It may run on another thread each time.
            if let Err(error) = prepare_thread() {
                return Poll::Ready(Err(error.into()));
            }
            let polled = guest.as_mut().poll(cx);
            if polled.is_pending() {
                for output in [&stdio.stdout, &stdio.stderr] {
                    if output.queued() > 0 && output.poll_drain(cx).is_ready() {
                        // Who waits for room is to look again.
                        cx.waker().wake_by_ref();
                    }
                }
            }
            polled
        }));
        clock::in_its_time(running.as_mut(), clock, |cx| stdio.waits(cx)).await
    })
}

/// How a guest ended.
#[derive(Debug, Default)]
pub(crate) struct GuestEnd {
    pub(crate) exit: StageExit,
    /// Where it was when it reached a limit, if it was running then.
    pub(crate) frames: Vec<String>,
    /// What is to be said of its core dump.
    pub(crate) note: Option<String>,
    /// Whether tasks of it were dropped that still ran when its `run` had returned.
    pub(crate) unfinished: bool,
}

/// Adds source lines to a trap's frames.
async fn add_lines(frames: &mut [String], error: &wasmtime::Error, file: Bytes) {
    let places = trap::places(error);
    let known: Vec<_> = places.iter().flatten().copied().collect();
    if known.is_empty() {
        return;
    }
    let mut lines = lines::find(file, known).await.into_iter();
    for (frame, place) in frames.iter_mut().zip(places) {
        if place.is_some()
            && let Some(Some(line)) = lines.next()
        {
            frame.push_str(&format!(" ({line})"));
        }
    }
}

impl GuestSpec {
    /// What interrupts the guest.
    fn counting(&self) -> Counting {
        match (self.deterministic, self.limits.fuel) {
            (true, _) => Counting::Fuel,
            (false, Some(_)) => Counting::EpochsAndFuel,
            (false, None) => Counting::Epochs,
        }
    }

    /// The engine it needs.
    pub(crate) fn engine(&self) -> EngineKind {
        EngineKind {
            counting: self.counting(),
            stack: self.limits.stack,
            dumps: self.dumps.is_some(),
            small: is_space_short(),
        }
    }
}

async fn run_p3(
    store: &mut Store<Guest>,
    command: wasmtime_wasi::p3::bindings::CommandPre<Guest>,
    stdio: &Stdio,
    linger: Duration,
    unfinished: &AtomicBool,
) -> wasmtime::Result<()> {
    let command = command.instantiate_async(&mut *store).await.map_err(not_a_command)?;
    let (tell, told) = oneshot::channel();
    let running = async {
        let ran = store.run_concurrent(async move |accessor| {
            let returned = command.wasi_cli_run().call_run(accessor).await?;
            // Whoever waits for it may be gone.
            let _ = tell.send(returned);
            // `run` may return while its last writes are under way: they count.
            poll_fn(|cx| match accessor.poll_no_interesting_tasks(cx) {
                Poll::Ready(()) => Poll::Ready(()),
                Poll::Pending => Poll::Pending,
            })
            .await;
            wasmtime::Result::<Result<(), ()>>::Ok(returned)
        });
        ran.await?
    };
    let returned = tokio::select! {
        biased;
        ended = running => ended?,
        Some(returned) = lingered(told, stdio, linger) => {
            unfinished.store(true, Relaxed);
            returned
        }
    };
    returned.map_err(|()| I32Exit(1).into())
}

/// Waits until `run` has returned and what it started has had its time; `None`: it never returned. What was written on the way and
/// waits for room takes as long as its reader does.
async fn lingered(told: oneshot::Receiver<Result<(), ()>>, stdio: &Stdio, linger: Duration) -> Option<Result<(), ()>> {
    const LOOK: Duration = Duration::from_millis(50);
    let returned = told.await.ok()?;
    let mut left = linger;
    while !left.is_zero() {
        let look = left.min(LOOK);
        Countdown::wait(look).await;
        if !stdio.waits_for_room() {
            left -= look;
        }
    }
    Some(returned)
}

/// An error that says what `run` is instead of a command's.
fn not_a_command(error: wasmtime::Error) -> wasmtime::Error {
    let text = format!("{error:#}");
    if text.contains("-tuple, found ") || text.contains("type mismatch") {
        return NotACommand(format!("its `run` is no command's: {text}")).into();
    }
    error
}

async fn run_p2(
    store: &mut Store<Guest>,
    command: wasmtime_wasi::p2::bindings::CommandPre<Guest>,
) -> wasmtime::Result<()> {
    let command = command.instantiate_async(&mut *store).await.map_err(not_a_command)?;
    command.wasi_cli_run().call_run(&mut *store).await?.map_err(|()| I32Exit(1).into())
}

async fn run_p1(store: &mut Store<Guest>, module: wasmtime::InstancePre<Guest>) -> wasmtime::Result<()> {
    let instance = module.instantiate_async(&mut *store).await?;
    let start = instance.get_typed_func::<(), ()>(&mut *store, "_start");
    let start = start.map_err(|error| NotACommand(format!("its `_start` is no command's: {error:#}")))?;
    start.call_async(&mut *store, ()).await
}
