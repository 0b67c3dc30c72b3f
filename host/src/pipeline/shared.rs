//! What all runs of a host share, and what is known of each.

use std::{
    ffi::OsString,
    io,
    path::PathBuf,
    sync::{Arc, OnceLock, atomic::AtomicBool},
    time::Instant,
};

use stagehost_ring::Pool;

use super::{
    admission::Admission,
    control::{Commands, RunControl},
};
use crate::{
    event::Events,
    function::Threads,
    joint::{Buffers, PipeQuota, Stop, StopReason},
    plan::Plan,
    process::{CgroupParent, Guard, Spawner},
    sandbox::{Compilers, Sandbox, Turns},
    stage::Gauges,
};

/// A sandbox, and why it has no code cache if one was asked for.
pub(super) type MadeSandbox = (Arc<Sandbox>, Option<String>);

/// What all runs of a host share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(super) cache: Option<PathBuf>,
    /// What stages may not write to: the cache, and what else its program says.
    pub(super) kept_apart: Vec<PathBuf>,
    pub(super) compiler: Option<Vec<OsString>>,
    /// Made for the first sandboxed stage: engines take a while, and many pipelines need none.
    pub(super) sandbox: OnceLock<Result<MadeSandbox, String>>,
    pub(super) pool: Pool,
    pub(super) buffers: Buffers,
    pub(super) pipes: PipeQuota,
    pub(super) spawner: Arc<Spawner>,
    /// What blocking functions are called on.
    pub(super) threads: Arc<Threads>,
    pub(super) guard: Option<Guard>,
    pub(super) cgroups: Option<CgroupParent>,
    pub(super) open_files: Option<(u64, u64)>,
    pub(super) adopts_orphans: bool,
    pub(super) admission: Admission,
    pub(super) turns: Turns,
}

impl Shared {
    /// The sandbox, made when it is first asked for.
    pub(super) fn sandbox(&self) -> Result<Arc<Sandbox>, String> {
        let made = self.sandbox.get_or_init(|| {
            let compilers = self.compiler.clone().map(|command| Compilers::new(command, self.spawner.clone()));
            let made = Sandbox::new(self.cache.as_deref(), compilers).map_err(|error| error.to_string());
            made.map(|(sandbox, warning)| (Arc::new(sandbox), warning))
        });
        made.as_ref().map(|(sandbox, _)| sandbox.clone()).map_err(Clone::clone)
    }
}

/// What is known of a run while it goes on.
#[derive(Debug)]
pub(crate) struct RunState {
    pub(super) control: RunControl,
    pub(super) stop: Stop,
    pub(super) commands: Commands,
    pub(super) events: Events,
    pub(super) plan: Plan,
    pub(super) label: Option<String>,
    pub(super) group: Option<String>,
    pub(super) started: Instant,
    /// Whether there was room for it.
    pub(super) has_begun: AtomicBool,
    pub(super) gauges: Gauges,
}

impl RunState {
    pub(super) fn kill(&self) {
        self.stop.request(StopReason::Caller);
        self.stop.hurry();
    }
}

/// An end that could not be opened or written.
#[derive(Debug)]
pub(super) struct EndError {
    pub(super) name: String,
    pub(super) error: io::Error,
}
