//! The host: what runs pipelines, and a run that goes on.

use std::{
    ffi::OsString,
    io,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, Weak},
    time::{Duration, Instant},
};

use stagehost_ring::Pool;
use tokio::{runtime::Runtime, sync::oneshot};

use super::{
    admission::Admission,
    control::{ProcessHandle, RunControl},
    judge::millis,
    options::RunOptions,
    run,
    shared::{RunState, Shared},
};
use crate::{
    event::{self, EventStream, Events},
    joint::{Buffers, PipeQuota, StopReason},
    outcome::{ExitCode, Outcome},
    plan::Plan,
    process::{self, CgroupParent, Guard, Spawner},
    sandbox::Turns,
};

/// Runs pipelines: an engine, a code cache, a pool of ring storage, a thread that starts programs, and a small runtime.
///
/// Make one for a program; clones share it. Dropping the last one stops what it runs and ends its threads.
#[derive(Clone, Debug)]
pub struct Host(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
    /// Whether runs go on by themselves, rather than only while somebody waits for them.
    drives_itself: bool,
    running: Mutex<Vec<Weak<RunState>>>,
    active: Arc<Active>,
}

/// How many runs there are.
#[derive(Debug, Default)]
struct Active {
    count: Mutex<usize>,
    changed: Condvar,
}

/// One of them.
struct Counted(Arc<Active>);

impl Drop for Counted {
    fn drop(&mut self) {
        *self.0.count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.changed.notify_all();
    }
}

/// How a [`Host`] is made.
#[derive(Clone, Debug, Default)]
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

/// A run that goes on. Dropping it stops the run.
#[derive(Debug)]
pub struct Running {
    host: Host,
    state: Arc<RunState>,
    first_events: Option<EventStream>,
    ended: Option<oneshot::Receiver<Outcome>>,
    started: Instant,
}

impl Running {
    /// Waits for its end, blocking this thread.
    pub fn wait(mut self) -> Outcome {
        let ended = self.ended.take();
        let ended = match &self.host.0.runtime {
            Some(runtime) if !self.host.0.drives_itself => ended.and_then(|ended| runtime.block_on(ended).ok()),
            _ => ended.and_then(|ended| ended.blocking_recv().ok()),
        };
        self.outcome(ended)
    }

    /// Waits for its end.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the run.
    pub async fn ended(mut self) -> Outcome {
        let ended = match self.ended.take() {
            Some(ended) => ended.await.ok(),
            None => None,
        };
        self.outcome(ended)
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
        let threads = options.threads.unwrap_or_else(processors);
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
        Ok(Self(Arc::new(Inner {
            shared,
            runtime: Some(runtime),
            drives_itself: threads > 0,
            running: Mutex::default(),
            active: Arc::default(),
        })))
    }

    /// Why the code cache is not used, if one was asked for. Known once a sandboxed stage has run.
    pub fn warning(&self) -> Option<&str> {
        self.0.shared.sandbox.get()?.as_ref().ok()?.1.as_deref()
    }

    /// Runs a plan to its end and blocks until then.
    pub fn run(&self, plan: Plan, options: &RunOptions) -> Outcome {
        self.start(plan, options).wait()
    }

    /// Starts a run.
    pub fn start(&self, plan: Plan, options: &RunOptions) -> Running {
        let (events, first_events) = Events::new(options.on_event.clone(), plan.stages.len());
        let attached = options.control.attach();
        let state = Arc::new(RunState {
            control: options.control.clone(),
            stop: attached.stop.clone(),
            commands: attached.commands.clone(),
            events,
        });
        {
            let mut running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.retain(|run| run.strong_count() > 0);
            running.push(Arc::downgrade(&state));
        }
        let turns = self.0.shared.turns.of_run();
        let run =
            run::Run { shared: self.0.shared.clone(), options: options.clone(), state: state.clone(), attached, turns };
        *self.0.active.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        let counted = Counted(self.0.active.clone());
        let (sender, ended) = oneshot::channel();
        let started = Instant::now();
        let Some(runtime) = &self.0.runtime else { unreachable!("the runtime is taken only by drop") };
        // On a worker, so that it shares a thread with the stages it waits for. It ends by itself, also when the
        // `Running` is dropped: what it started has to be cleaned up.
        runtime.spawn(async move {
            let over = event::Over(run.state.events.clone());
            let outcome = run.run(plan).await;
            drop(over);
            drop(counted);
            // Nobody may be left to hear of it.
            let _ = sender.send(outcome);
        });
        Running { host: self.clone(), state, first_events: Some(first_events), ended: Some(ended), started }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A run that is killed ends as soon as its processes do, which the kernel sees to.
        const KILLED: Duration = Duration::from_secs(10);
        // Threads end at once, but for one that is stuck in a system call of a device; nobody waits long for that.
        const STUCK: Duration = Duration::from_millis(500);
        let running = self.running.get_mut().unwrap_or_else(PoisonError::into_inner);
        for run in running.iter().filter_map(Weak::upgrade) {
            run.kill();
        }
        if let Some(runtime) = self.runtime.as_ref().filter(|_| !self.drives_itself) {
            let active = self.active.clone();
            // Nobody else makes them go on.
            let _ = runtime.block_on(async move {
                tokio::time::timeout(KILLED, async {
                    while *active.count.lock().unwrap_or_else(PoisonError::into_inner) > 0 {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                })
                .await
            });
        }
        let count = self.active.count.lock().unwrap_or_else(PoisonError::into_inner);
        // Beyond that time the runtime drops what is left, which kills it too.
        drop(self.active.changed.wait_timeout_while(count, KILLED, |count| *count > 0));
        if let Some(runtime) = self.runtime.take() {
            let end = move || runtime.shutdown_timeout(STUCK);
            if tokio::runtime::Handle::try_current().is_ok() {
                // A runtime must not be shut down by a thread of a runtime, which may be the embedder's own.
                let ending = std::thread::Builder::new().name("stagehost-end".into()).spawn(end);
                let _ = ending.map(std::thread::JoinHandle::join);
            } else {
                end();
            }
        }
    }
}
