//! The host: what runs pipelines, and a run that goes on.

use std::{
    collections::HashMap,
    ffi::OsString,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    pin::{Pin, pin},
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    task::{Context, Poll, ready},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use stagehost_ring::Pool;
use tokio::{
    runtime::{Handle, Runtime, RuntimeFlavor},
    sync::{Notify, oneshot},
};

use super::{
    admission::Admission,
    collect::{self, Collecting},
    control::{ProcessHandle, RunControl},
    judge::millis,
    options::RunOptions,
    run,
    shared::{RunState, Shared},
};
use crate::{
    ends::Ends,
    event::{self, EventStream, Events},
    joint::{Buffers, PipeQuota, StopReason},
    outcome::{ExitCode, Outcome},
    plan::Plan,
    process::{self, CgroupParent, Guard, Spawner},
    sandbox::Turns,
    wait,
};

/// Runs pipelines: an engine, a code cache, a pool of ring storage, a thread that starts programs, and a small runtime.
///
/// Make one for a program; clones share it. Dropping the last one stops what it runs and ends its threads.
#[derive(Clone, Debug)]
pub struct Host(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    runtime: Runs,
    active: Arc<Active>,
}

/// What runs go on.
#[derive(Debug)]
enum Runs {
    /// A runtime of the host's own; taken only by drop.
    Own(Option<Runtime>),
    /// The same, which goes on only while somebody waits for a run.
    Driven(Option<Arc<Runtime>>),
    /// The program's.
    Given(Handle),
}

impl Runs {
    fn spawn(&self, run: impl Future<Output = ()> + Send + 'static) {
        match self {
            Self::Own(Some(runtime)) => drop(runtime.spawn(run)),
            Self::Driven(Some(runtime)) => drop(runtime.spawn(run)),
            Self::Own(None) | Self::Driven(None) => {}
            Self::Given(handle) => drop(handle.spawn(run)),
        }
    }
}

/// The runs that go on.
#[derive(Debug, Default)]
struct Active {
    runs: Mutex<Runsheet>,
    changed: Condvar,
    /// Told when there are none.
    none: Notify,
}

#[derive(Debug, Default)]
struct Runsheet {
    next: u64,
    /// By number.
    runs: HashMap<u64, Arc<RunState>>,
    /// Whether a thread drives them because somebody awaits one.
    are_driven: bool,
    driver: Option<JoinHandle<()>>,
}

impl Active {
    fn lock(&self) -> MutexGuard<'_, Runsheet> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(self: &Arc<Self>, state: &Arc<RunState>) -> Counted {
        let mut sheet = self.lock();
        let number = sheet.next;
        sheet.next += 1;
        sheet.runs.insert(number, state.clone());
        Counted(self.clone(), number)
    }

    /// Waits until no run goes on.
    async fn over(&self) {
        loop {
            let mut none = pin!(self.none.notified());
            none.as_mut().enable();
            if self.lock().runs.is_empty() {
                return;
            }
            none.await;
        }
    }
}

/// One of them.
struct Counted(Arc<Active>, u64);

impl Drop for Counted {
    fn drop(&mut self) {
        let mut sheet = self.0.lock();
        sheet.runs.remove(&self.1);
        if sheet.runs.is_empty() {
            drop(sheet);
            self.0.changed.notify_all();
            self.0.none.notify_waiters();
        }
    }
}

/// How a [`Host`] is made.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct HostOptions {
    /// The directory for compiled code. Default: none, every start compiles.
    pub cache: Option<PathBuf>,
    /// A program, with its first arguments, that calls [`compile_worker`](crate::compile_worker) with the arguments behind them:
    /// strangers' components are compiled by it, within `compile_time` and `compile_memory`. Such as
    /// `/proc/self/exe` and a word that the program's `main` knows. Default: they are compiled in this process, where
    /// only what the plan can foresee is bounded.
    pub compiler: Option<Vec<OsString>>,
    /// The most runs at once; others wait. Default: as many as descriptors and memory maps allow.
    pub max_runs: Option<u32>,
    /// The threads that stages run on. Default: as many as the machine has processors. 0: the thread that waits for a run by
    /// [`Host::run`] or [`Running::wait`], and no other; for pipelines of programs, which need none of ours.
    pub threads: Option<usize>,
    /// The program's own tokio runtime, which stages are to run on; its timers and its input and output have to be enabled. Default: a
    /// runtime of the host's own, whose [`threads`](Self::threads) are not the program's.
    pub runtime: Option<Handle>,
    /// A process that kills the commands of this host should it be killed itself. Default: none; commands then die of the
    /// kernel's parent-death signal, but not what they started.
    pub guard: Option<Guard>,
    /// The soft and the hard limit on open files that commands start with. Default: this process's own.
    pub open_files: Option<(u64, u64)>,
    /// Whether this process adopts what its commands leave behind, so that it is found in front of a terminal too. For a
    /// program that is all about one run; it then has no other children. Default: no.
    pub adopts_orphans: bool,
    /// A delegated cgroup v2 directory, in which each command gets a cgroup of its own. Default: none.
    pub cgroup: Option<PathBuf>,
}

/// Threads that may wait for files at once. They are made when needed and end when idle.
const BLOCKING_THREADS: usize = 512;

/// How long a thread that waited for files stays when it has nothing to do.
const KEEP_ALIVE: Duration = Duration::from_secs(3600);
/// Threads beside those that stages run on: one that waits for files, one that advances epochs, one that starts programs, two that
/// compile.
const SPARE_THREADS: usize = 5;

/// Whether that many threads can be had at once. The runtime panics where it gets none, or waits for ever.
fn try_threads(count: usize) -> io::Result<()> {
    let mut threads = Vec::with_capacity(count);
    let made = (0..count).try_for_each(|_| {
        let thread = std::thread::Builder::new().name("stagehost-try".into()).spawn(std::thread::park)?;
        threads.push(thread);
        Ok(())
    });
    for thread in &threads {
        thread.thread().unpark();
    }
    for thread in threads {
        // It does nothing that could panic.
        let _ = thread.join();
    }
    made
}

/// A host could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct HostError(String);

impl HostOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`cache`](Self::cache).
    #[must_use]
    pub fn cache(mut self, directory: impl Into<PathBuf>) -> Self {
        self.cache = Some(directory.into());
        self
    }

    /// Sets [`compiler`](Self::compiler).
    #[must_use]
    pub fn compiler<W: Into<OsString>>(mut self, words: impl IntoIterator<Item = W>) -> Self {
        self.compiler = Some(words.into_iter().map(Into::into).collect());
        self
    }

    /// Sets [`max_runs`](Self::max_runs).
    #[must_use]
    pub fn max_runs(mut self, runs: u32) -> Self {
        self.max_runs = Some(runs);
        self
    }

    /// Sets [`threads`](Self::threads).
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Sets [`runtime`](Self::runtime).
    #[must_use]
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Sets [`guard`](Self::guard).
    #[must_use]
    pub fn guard(mut self, guard: Guard) -> Self {
        self.guard = Some(guard);
        self
    }

    /// Sets [`open_files`](Self::open_files).
    #[must_use]
    pub fn open_files(mut self, soft: u64, hard: u64) -> Self {
        self.open_files = Some((soft, hard));
        self
    }

    /// Sets [`adopts_orphans`](Self::adopts_orphans).
    #[must_use]
    pub fn adopts_orphans(mut self, adopts: bool) -> Self {
        self.adopts_orphans = adopts;
        self
    }

    /// Sets [`cgroup`](Self::cgroup).
    #[must_use]
    pub fn cgroup(mut self, directory: impl Into<PathBuf>) -> Self {
        self.cgroup = Some(directory.into());
        self
    }
}

/// A run that goes on: to be waited for, by a thread or as a future. Dropping it, or the future, stops the run.
#[derive(Debug)]
pub struct Running {
    host: Host,
    state: Arc<RunState>,
    first_events: Option<EventStream>,
    ended: Option<oneshot::Receiver<Outcome>>,
    started: Instant,
}

impl Running {
    /// Waits for its end, blocking this thread. A thread of a runtime may call it, too, and then does nothing else until then. If that
    /// runtime is the one that the host was [given](HostOptions::runtime) and has one thread, it would wait for itself: the run is
    /// cancelled, and its outcome says so.
    pub fn wait(mut self) -> Outcome {
        let Some(ended) = self.ended.take() else { return self.outcome(None) };
        let ended = match &self.host.0.runtime {
            Runs::Driven(Some(runtime)) if Handle::try_current().is_err() => runtime.block_on(ended).ok(),
            Runs::Given(given) if Handle::try_current().is_ok_and(|current| current.id() == given.id()) => {
                let may_block = given.runtime_flavor() == RuntimeFlavor::MultiThread
                    // A thread of it that may not block panics.
                    && catch_unwind(AssertUnwindSafe(|| tokio::task::block_in_place(|| ()))).is_ok();
                if !may_block {
                    self.state.kill();
                    let message =
                        "a thread of the runtime that the host was given cannot wait for a run on it: await it";
                    return Outcome::not_started(None, ExitCode::Host, message.into(), None);
                }
                tokio::task::block_in_place(|| wait::block_on(ended)).ok()
            }
            _ => {
                self.host.0.drive();
                wait::block_on(ended).ok()
            }
        };
        self.outcome(ended)
    }

    /// Waits for its end: the same as awaiting it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the run.
    pub async fn ended(self) -> Outcome {
        self.await
    }

    fn outcome(&self, ended: Option<Outcome>) -> Outcome {
        let lost = || Outcome::not_started(None, ExitCode::Host, "the host failed inside the run".into(), None);
        Outcome { duration_ms: millis(self.started.elapsed()), ..ended.unwrap_or_else(lost) }
    }

    /// Stops the run.
    pub fn cancel(&self) {
        self.state.stop.request(StopReason::Caller);
    }

    /// What stops the run from elsewhere, with all that were started with the same control.
    pub fn control(&self) -> RunControl {
        self.state.control.clone()
    }

    /// What happens in the run. The first stream has everything from the beginning, later ones what is still to come.
    pub fn events(&mut self) -> EventStream {
        self.first_events.take().unwrap_or_else(|| self.state.events.stream())
    }

    /// The process of a command, by the name of its stage; `None` before it is started, or if it is no command.
    pub fn process(&self, stage: &str) -> Option<ProcessHandle> {
        let commands = self.state.commands.0.lock().unwrap_or_else(PoisonError::into_inner);
        let leader = commands.get(stage)?;
        Some(ProcessHandle(Arc::downgrade(leader), leader.pid().as_raw_nonzero().get().unsigned_abs()))
    }

    /// The host it runs on.
    pub fn host(&self) -> &Host {
        &self.host
    }
}

impl Future for Running {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        self.host.0.drive();
        let ended = match &mut self.ended {
            Some(ended) => ready!(Pin::new(ended).poll(cx)).ok(),
            None => None,
        };
        self.ended = None;
        Poll::Ready(self.outcome(ended))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended.is_some() {
            self.state.kill();
        }
    }
}

/// After how many polls a thread looks at its timers and descriptors: one poll may be a slice of some milliseconds.
const POLLS: u32 = 11;

impl Host {
    /// Makes a host.
    ///
    /// # Errors
    ///
    /// When the runtime cannot be set up (no memory, no threads), or the cgroup is none.
    pub fn new(options: &HostOptions) -> Result<Self, HostError> {
        let processors = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let (threads, runtime) = match &options.runtime {
            Some(given) => (given.metrics().num_workers().max(1), Runs::given(given)?),
            None => {
                let threads = options.threads.unwrap_or_else(processors);
                (threads, Runs::own(threads)?)
            }
        };
        let cgroups = match &options.cgroup {
            Some(directory) => Some(CgroupParent::new(directory).map_err(|error| {
                HostError(format!("{} is no cgroup that commands can be put in: {error}", directory.display()))
            })?),
            None => None,
        };
        let link = options.guard.as_ref().and_then(Guard::link);
        let shared = Arc::new(Shared {
            cache: options.cache.clone(),
            compiler: options.compiler.clone(),
            sandbox: OnceLock::new(),
            pool: Pool::default(),
            buffers: Buffers::default(),
            pipes: PipeQuota::new(link),
            spawner: Arc::new(Spawner::new(threads == 0)),
            guard: options.guard.clone(),
            cgroups,
            open_files: options.open_files,
            adopts_orphans: options.adopts_orphans && process::adopt_orphans().is_ok(),
            admission: Admission::new(options.max_runs),
            turns: Turns::new(threads),
        });
        Ok(Self(Arc::new(Inner { shared, runtime, active: Arc::default() })))
    }

    /// Why the code cache is not used, if one was asked for. Known once a sandboxed stage has run.
    pub fn warning(&self) -> Option<&str> {
        self.0.shared.sandbox.get()?.as_ref().ok()?.1.as_deref()
    }

    /// Runs a plan to its end and blocks this thread until then, as [`Running::wait`] does.
    pub fn run(&self, plan: &Plan, ends: Ends, options: &RunOptions) -> Outcome {
        self.begin(plan, ends, options, Events::observed(options.on_event.clone()), None).wait()
    }

    /// Starts a run of a plan. Never blocks.
    pub fn start(&self, plan: &Plan, ends: Ends, options: &RunOptions) -> Running {
        let (events, first_events) = Events::with_streams(options.on_event.clone(), plan.0.stages.len());
        self.begin(plan, ends, options, events, Some(first_events))
    }

    /// Starts a run of a plan and keeps what its last stage writes, in the place of any other output. More than `most` bytes are refused,
    /// which fails the run. Never blocks.
    pub fn output(&self, plan: &Plan, ends: Ends, options: &RunOptions, most: usize) -> Collecting {
        let (ends, bytes) = collect::into_memory(ends, most);
        let events = Events::observed(options.on_event.clone());
        Collecting { running: self.begin(plan, ends, options, events, None), bytes }
    }

    fn begin(
        &self,
        plan: &Plan,
        ends: Ends,
        options: &RunOptions,
        events: Events,
        first_events: Option<EventStream>,
    ) -> Running {
        let attached = options.control.attach();
        let state = Arc::new(RunState {
            control: options.control.clone(),
            stop: attached.stop.clone(),
            commands: attached.commands.clone(),
            events,
        });
        let turns = self.0.shared.turns.of_run(options.group.as_deref(), options.weight);
        let run =
            run::Run { shared: self.0.shared.clone(), options: options.clone(), state: state.clone(), attached, turns };
        let counted = self.0.active.add(&state);
        let (sender, ended) = oneshot::channel();
        let started = Instant::now();
        // On a worker, so that it shares a thread with the stages it waits for. It ends by itself, also when the
        // `Running` is dropped: what it started has to be cleaned up.
        let plan = plan.clone();
        self.0.runtime.spawn(async move {
            let over = event::Over(run.state.events.clone());
            let outcome = run.run(&plan.0, ends).await;
            drop(over);
            drop(counted);
            // Nobody may be left to hear of it.
            let _ = sender.send(outcome);
        });
        Running { host: self.clone(), state, first_events, ended: Some(ended), started }
    }
}

impl Runs {
    fn own(threads: usize) -> Result<Self, HostError> {
        let mut builder = if threads == 0 {
            tokio::runtime::Builder::new_current_thread()
        } else {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(threads);
            builder
        };
        if threads > 0 {
            try_threads(threads + SPARE_THREADS).map_err(|error| {
                HostError(format!("there are not enough threads, processes or address space to be had: {error}"))
            })?;
        }
        let runtime = builder
            .thread_name("stagehost")
            .event_interval(POLLS)
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_keep_alive(KEEP_ALIVE)
            .enable_all()
            .build()
            .map_err(|error| HostError(format!("the runtime cannot be set up: {error}")))?;
        // One that stays: where there are no more threads to be had, what has to wait for a file takes turns on it.
        drop(runtime.spawn_blocking(|| ()));
        Ok(if threads == 0 { Self::Driven(Some(Arc::new(runtime))) } else { Self::Own(Some(runtime)) })
    }

    fn given(handle: &Handle) -> Result<Self, HostError> {
        let _inside = handle.enter();
        // What is not enabled panics; there is no other way to ask.
        let has_timers = catch_unwind(AssertUnwindSafe(|| drop(tokio::time::sleep(Duration::ZERO))));
        let has_io = catch_unwind(AssertUnwindSafe(|| drop(tokio::net::UnixDatagram::unbound())));
        match (has_timers, has_io) {
            (Ok(()), Ok(())) => Ok(Self::Given(handle.clone())),
            _ => Err(HostError(
                "the given runtime has no timers, or no input and output: build it with `enable_all`".into(),
            )),
        }
    }
}

impl Inner {
    /// Sees that runs go on though nobody drives them: whoever waits does so in a way that cannot.
    fn drive(&self) {
        let Runs::Driven(Some(runtime)) = &self.runtime else { return };
        let mut sheet = self.active.lock();
        if sheet.are_driven || sheet.runs.is_empty() {
            return;
        }
        let (runtime, active) = (runtime.clone(), self.active.clone());
        let driving = std::thread::Builder::new().name("stagehost".into()).spawn(move || {
            loop {
                runtime.block_on(active.over());
                let mut sheet = active.lock();
                if sheet.runs.is_empty() {
                    sheet.are_driven = false;
                    return;
                }
            }
        });
        // Without a thread they wait for somebody who blocks.
        sheet.are_driven = driving.is_ok();
        if let Ok(driver) = driving {
            sheet.driver = Some(driver);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A run that is killed ends as soon as its processes do, which the kernel sees to.
        const KILLED: Duration = Duration::from_secs(10);
        // Threads end at once, but for one that is stuck in a system call of a device; nobody waits long for that.
        const STUCK: Duration = Duration::from_millis(500);
        for run in self.active.lock().runs.values() {
            run.kill();
        }
        let runtime = match &mut self.runtime {
            Runs::Own(runtime) => runtime.take(),
            Runs::Driven(runtime) => runtime.take().and_then(|runtime| {
                // Nobody else makes them go on.
                let ending = async { tokio::time::timeout(KILLED, self.active.over()).await.is_ok() };
                let mut are_over = false;
                outside_runtimes(|| are_over = runtime.block_on(ending));
                let driver = self.active.lock().driver.take();
                if are_over {
                    // It is about to end, too.
                    let _ = driver.map(JoinHandle::join);
                }
                Arc::into_inner(runtime)
            }),
            Runs::Given(given) => {
                if Handle::try_current().is_ok_and(|current| current.id() == given.id()) {
                    // They end by themselves, and not while their own runtime waits for them.
                    return;
                }
                None
            }
        };
        let runs = self.active.lock();
        // Beyond that time the runtime drops what is left, which kills it too.
        drop(self.active.changed.wait_timeout_while(runs, KILLED, |sheet| !sheet.runs.is_empty()));
        if let Some(runtime) = runtime {
            outside_runtimes(|| runtime.shutdown_timeout(STUCK));
        }
    }
}

/// Does what no thread of a runtime may do, which may be the embedder's own: on a thread of its own if need be.
fn outside_runtimes(work: impl FnOnce() + Send) {
    if Handle::try_current().is_err() {
        return work();
    }
    std::thread::scope(|scope| {
        // Without a thread it is left to the end of the process.
        let _ = std::thread::Builder::new().name("stagehost-end".into()).spawn_scoped(scope, work);
    });
}
