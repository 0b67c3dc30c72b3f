//! The host: what runs pipelines, and a run that goes on.

use std::{
    collections::BTreeMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use stagehost_ring::Pool;
use tokio::{
    runtime::{Handle, Runtime, RuntimeFlavor},
    sync::{Notify, oneshot},
};

use super::{
    admission::Admission,
    host_options::HostOptions,
    shared::{RunState, Shared},
    snapshot::{HostSnapshot, RunPhase},
};
use crate::{
    joint::{Buffers, PipeQuota},
    process::{self, CgroupParent, Guard, Spawner},
    sandbox::Turns,
    wait,
};

/// Runs pipelines: an engine, a code cache, a pool of ring storage, a thread that starts programs, and a small runtime.
///
/// Make one for a program; clones share it. Dropping the last one stops what it runs and ends its threads.
#[derive(Clone, Debug)]
pub struct Host(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) shared: Arc<Shared>,
    pub(super) runtime: Runs,
    pub(super) active: Arc<Active>,
}

/// What runs go on.
#[derive(Debug)]
pub(super) enum Runs {
    /// A runtime of the host's own; taken only by drop.
    Own(Option<Runtime>),
    /// The same, which goes on only while somebody waits for a run.
    Driven(Option<Arc<Runtime>>),
    /// The program's.
    Given(Handle),
}

impl Runs {
    /// The runtime on which a thread that waits may run something itself, beside the threads that there are. `None`: it may not, or need not.
    pub(super) fn for_caller(&self) -> Option<&Runtime> {
        match self {
            Self::Own(Some(runtime)) if Handle::try_current().is_err() => Some(runtime),
            _ => None,
        }
    }

    pub(super) fn spawn(&self, run: impl Future<Output = ()> + Send + 'static) {
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
pub(super) struct Active {
    runs: Mutex<Runsheet>,
    /// Told when there are no runs, while the host is ending.
    changed: Condvar,
    /// Told when there are no runs, and when there is nothing.
    none: Notify,
}

#[derive(Debug, Default)]
struct Runsheet {
    next: u64,
    /// By number. `None`: something else that goes on.
    runs: BTreeMap<u64, Option<Arc<RunState>>>,
    /// How many of them are runs.
    count: usize,
    /// Whether a thread drives them because somebody awaits one.
    are_driven: bool,
    driver: Option<JoinHandle<()>>,
    /// Whether the host waits for what is left.
    is_ending: bool,
}

impl Active {
    fn lock(&self) -> MutexGuard<'_, Runsheet> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(self: &Arc<Self>, state: Option<&Arc<RunState>>) -> Counted {
        let mut sheet = self.lock();
        let number = sheet.next;
        sheet.next += 1;
        sheet.count += usize::from(state.is_some());
        sheet.runs.insert(number, state.cloned());
        Counted(self.clone(), number)
    }

    /// Waits until nothing goes on.
    async fn over(&self) {
        self.until(|sheet| sheet.runs.is_empty()).await;
    }

    /// Waits until no run goes on.
    pub(super) async fn runs_over(&self) {
        self.until(|sheet| sheet.count == 0).await;
    }

    async fn until(&self, is_so: impl Fn(&Runsheet) -> bool) {
        loop {
            let mut none = pin!(self.none.notified());
            none.as_mut().enable();
            if is_so(&self.lock()) {
                return;
            }
            none.await;
        }
    }

    /// Kills all runs. Returns how many there are.
    pub(super) fn kill(&self) -> usize {
        let runs: Vec<_> = self.lock().runs.values().flatten().cloned().collect();
        runs.iter().for_each(|run| run.kill());
        runs.len()
    }
}

/// One of them.
pub(super) struct Counted(Arc<Active>, u64);

impl Drop for Counted {
    fn drop(&mut self) {
        let mut sheet = self.0.lock();
        let was = sheet.runs.remove(&self.1);
        sheet.count -= usize::from(was.flatten().is_some());
        if sheet.count == 0 {
            let is_ending = sheet.is_ending;
            drop(sheet);
            // It would ask the kernel, whether anybody waits or not.
            if is_ending {
                self.0.changed.notify_all();
            }
            self.0.none.notify_waiters();
        }
    }
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

/// After how many polls a thread looks at its timers and descriptors: one poll may be a slice of some milliseconds.
const POLLS: u32 = 11;
/// Every how many polls a thread looks first for a task that is new to all threads: each time, since those that it has already may take
/// all its time in slices, and a thousand runs that come at once are to begin before the first of them is done. Nobody starves by that:
/// who used more than others [waits for a turn](crate::sandbox), wherever its task is.
const NEW_TASKS: u32 = 1;

impl Host {
    /// Waits for something that goes on by itself. `None`: it was lost, or it would wait for this very thread.
    pub(super) fn wait_for<T>(&self, ended: oneshot::Receiver<T>) -> Option<T> {
        match &self.0.runtime {
            Runs::Driven(Some(runtime)) if Handle::try_current().is_err() => runtime.block_on(ended).ok(),
            Runs::Given(given) if Handle::try_current().is_ok_and(|current| current.id() == given.id()) => {
                let may_block = given.runtime_flavor() == RuntimeFlavor::MultiThread
                    // A thread of it that may not block panics.
                    && catch_unwind(AssertUnwindSafe(|| tokio::task::block_in_place(|| ()))).is_ok();
                if may_block { tokio::task::block_in_place(|| wait::block_on(ended)).ok() } else { None }
            }
            _ => {
                self.drive();
                wait::block_on(ended).ok()
            }
        }
    }

    /// Sees that runs go on though nobody drives them.
    pub(super) fn drive(&self) {
        self.0.drive();
    }

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
            kept_apart: options.kept_apart.iter().chain(&options.cache).cloned().collect(),
            compiler: options.compiler.clone(),
            sandbox: OnceLock::new(),
            pool: Pool::default(),
            buffers: Buffers::default(),
            pipes: PipeQuota::new(link),
            spawner: Arc::new(Spawner::new(threads == 0)),
            threads: Arc::default(),
            guard: options.guard.clone(),
            cgroups,
            open_files: options.open_files,
            adopts_orphans: options.adopts_orphans && process::adopt_orphans().is_ok(),
            admission: Admission::new(options.max_runs, options.total_memory, options.max_queued),
            turns: Turns::new(threads),
        });
        Ok(Self(Arc::new(Inner { shared, runtime, active: Arc::default() })))
    }

    /// What can be seen of all runs now, as by [`Running::snapshot`](crate::Running::snapshot).
    pub fn snapshot(&self) -> HostSnapshot {
        let states: Vec<_> = self.0.active.lock().runs.values().flatten().cloned().collect();
        let runs: Vec<_> = states.iter().map(|run| run.snapshot()).collect();
        let admission = &self.0.shared.admission;
        HostSnapshot {
            queued: runs.iter().filter(|run| run.state == RunPhase::Queued).count(),
            runs,
            memory_bytes: admission.memory(),
            is_draining: admission.is_closed(),
        }
    }

    /// Why the code cache is not used, if one was asked for. Known once a sandboxed stage has run.
    pub fn warning(&self) -> Option<&str> {
        self.0.shared.sandbox.get()?.as_ref().ok()?.1.as_deref()
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
            .global_queue_interval(NEW_TASKS)
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
        self.active.kill();
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
        let mut runs = self.active.lock();
        runs.is_ending = true;
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
