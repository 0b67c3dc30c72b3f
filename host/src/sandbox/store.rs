//! The one function that makes a Store, and what runs inside it.
//!
//! Every limit of a guest is applied in [`new_store`]; clippy refuses `Store::new` anywhere else.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use wasmtime::{Store, UpdateDeadline};
use wasmtime_wasi::{I32Exit, WasiCtx, WasiView};

use super::{
    component::Loaded,
    entry::Entry,
    guest::{
        Guest, NotACommand, Stopped,
        clock::{self, VirtualClock, yield_awake},
        denials::Denials,
        granted,
        memory::MemoryLimiter,
        meter::{BoxFuture, Usage, is_full_slice, metered, metered_apart},
        net::Net,
        spec::GuestSpec,
        stdio::{Stdio, Told},
    },
    kind::{Counting, prepare_thread},
    limits::MAX_RANDOM,
    lines,
    messages::{Said, said},
    trap,
    turns::RunTurns,
};
use crate::{
    joint::{Countdown, Stop},
    outcome::StageExit,
    process::AtPath,
    spec::to_text,
};

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
    let granted = granted::apply(&mut wasi, &spec.rights, net)?;
    let memory = MemoryLimiter::new(limits, usage.clone());
    let mut wasi = wasi.build_p1();
    let resources = if spec.rights.need_descriptors() { limits.open_files } else { limits.handles };
    wasi.ctx().table.set_max_capacity(resources.min(limits.handles));
    let guest = Guest { wasi, memory, granted, stdio: stdio.clone(), denials, stop, usage: usage.clone(), _slot: None };
    let mut store = Store::new(&loaded.machine.engine, guest);
    store.limiter(|guest| &mut guest.memory);
    store.set_hostcall_fuel(limits.list_bytes);
    store.set_max_component_handles(limits.handles);
    if let Some(table) = store.concurrent_resource_table() {
        table.set_max_capacity(limits.handles);
    }
    let counting = spec.engine().counting;
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
    /// What it was let into, if its code is for slots.
    pub(crate) slot: Option<OwnedSemaphorePermit>,
}

/// Runs a guest to its end. What it wrote before it ended well is handed over before this returns.
///
/// # Cancel safety
///
/// Dropping the future ends the guest wherever it is and frees its store.
pub(crate) async fn run_guest(guest: GuestRun) -> GuestEnd {
    let GuestRun { turns, loaded, spec, stdio, stop, usage, denials, file, slot } = guest;
    let net = Arc::new(Net::resolve(&spec.rights.net, denials.clone()).await);
    let mut store = match new_store(&loaded, &spec, &stdio, stop, &usage, denials, net) {
        Ok(store) => store,
        Err(error) => {
            let path = error.downcast_ref::<AtPath>().map(|at| to_text(&at.path));
            let message = format!("the sandbox failed: {error:#}");
            return GuestEnd { exit: StageExit::HostError { message, path }, ..GuestEnd::default() };
        }
    };
    store.data_mut()._slot = slot;
    let clock = store.data().granted.clock.clone();
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
    if said(&text) == Some(Said::OtherType) {
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
