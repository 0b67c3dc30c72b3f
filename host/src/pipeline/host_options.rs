//! How a host is made.

use std::{ffi::OsString, path::PathBuf};

use tokio::runtime::Handle;

use crate::process::Guard;

/// How a [`Host`](crate::Host) is made.
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
    /// The most memory that the runs which go on may hold together, in bytes, as their plans say at worst
    /// ([`PlanSummary::worst_case_memory_bytes`](crate::PlanSummary)); others wait. A run that could never have so much ends at once, with
    /// the code `over-memory`, and so does one whose stages have no limit. Default: any.
    pub total_memory: Option<u64>,
    /// The most runs that may wait for room; beyond that, runs end at once, with the code `busy`. Default: any.
    pub max_queued: Option<u32>,
    /// The threads that stages run on. Default: as many as the machine has processors. 0: the thread that waits for a run by
    /// [`Host::run`](crate::Host::run) or [`Running::wait`](crate::Running::wait), and no other; for pipelines of programs, which need none of ours.
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
    /// Directories that no stage in a sandbox may write to, and no output be in, as it is of the [`cache`](Self::cache): where other
    /// programs of this user keep such code, say. Default: none.
    pub kept_apart: Vec<PathBuf>,
}

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

    /// Sets [`kept_apart`](Self::kept_apart).
    #[must_use]
    pub fn kept_apart(mut self, directories: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        self.kept_apart = directories.into_iter().map(Into::into).collect();
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

    /// Sets [`total_memory`](Self::total_memory).
    #[must_use]
    pub fn total_memory(mut self, bytes: u64) -> Self {
        self.total_memory = Some(bytes);
        self
    }

    /// Sets [`max_queued`](Self::max_queued).
    #[must_use]
    pub fn max_queued(mut self, runs: u32) -> Self {
        self.max_queued = Some(runs);
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
