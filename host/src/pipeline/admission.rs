//! How many runs go on at once: as many as this process has descriptors and memory maps for, and as its policy says.

use std::{
    fs,
    sync::{Arc, OnceLock},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::plan::{Planned, PlannedStage, Work};

/// Maps that one sandboxed stage may take: seven measured for its memory, stack and code, and some more.
const MAPS_OF_STAGE: u32 = 10;
/// Stages that one of many memories counts as: another one for each so many memories beyond the usual. A memory takes two or three
/// maps.
const MEMORIES_A_STAGE: usize = 4;

/// Something that runs share.
#[derive(Debug)]
struct Supply {
    free: Arc<Semaphore>,
    all: u32,
}

impl Supply {
    fn new(all: u32) -> Self {
        Self { free: Arc::new(Semaphore::new(all as usize)), all }
    }

    async fn take(&self, amount: u32) -> Option<OwnedSemaphorePermit> {
        self.free.clone().acquire_many_owned(amount.min(self.all)).await.ok()
    }
}

/// What runs take turns for.
#[derive(Debug)]
pub(crate) struct Admission {
    descriptors: Supply,
    /// Known when a run first has sandboxed stages: most processes of the command line have none.
    stages: OnceLock<Supply>,
    runs: Option<Supply>,
}

/// A run that was let in, as long as this lives.
#[derive(Debug)]
pub(super) struct Admitted {
    _shares: [Option<OwnedSemaphorePermit>; 3],
}

impl Admission {
    /// `runs` are the most at once.
    pub(super) fn new(runs: Option<u32>) -> Self {
        Self {
            descriptors: Supply::new(free_descriptors()),
            stages: OnceLock::new(),
            runs: runs.map(|runs| Supply::new(runs.max(1))),
        }
    }

    /// Why a plan can never be let in.
    pub(super) fn refusal(&self, plan: &Planned) -> Option<String> {
        let stages = sandboxed(plan);
        let all = if stages == 0 { 0 } else { self.stages().all };
        (stages > all).then(|| {
            format!(
                "the pipeline has {stages} sandboxed stages, and this process has memory maps for {all} at once: raise the \
                 system's vm.max_map_count"
            )
        })
    }

    fn stages(&self) -> &Supply {
        self.stages.get_or_init(|| Supply::new(free_maps() / MAPS_OF_STAGE))
    }

    /// Waits until there is enough of everything. Cancel safe.
    pub(super) async fn admit(&self, plan: &Planned) -> Admitted {
        // In the same order for all, so that no two runs hold what the other waits for.
        let run = match &self.runs {
            Some(runs) => runs.take(1).await,
            None => None,
        };
        let stages = match sandboxed(plan) {
            0 => None,
            stages => self.stages().take(stages).await,
        };
        let descriptors = self.descriptors.take(plan.descriptors()).await;
        Admitted { _shares: [run, stages, descriptors] }
    }
}

fn sandboxed(plan: &Planned) -> u32 {
    let weight = |stage: &PlannedStage| match &stage.work {
        Work::Wasm(wasm) => 1 + wasm.limits.memories.saturating_sub(8).div_ceil(MEMORIES_A_STAGE),
        Work::Command(_) | Work::Function(_) => 0,
    };
    u32::try_from(plan.stages.iter().map(|stage| weight(stage)).sum::<usize>()).unwrap_or(u32::MAX)
}

/// Descriptors that this process may still open, less some for itself.
fn free_descriptors() -> u32 {
    const OURS: u64 = 64;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(1 << 20);
    // Where there are many, it does not matter how many this process has open already.
    const MANY: u64 = 8192;
    let count = || fs::read_dir("/proc/self/fd").map_or(16, Iterator::count);
    let used = if limit >= MANY { 1024 } else { count() };
    u32::try_from(limit.saturating_sub(used as u64 + OURS).clamp(16, 1 << 20)).unwrap_or(16)
}

/// Memory maps that this process may still make, less what it needs itself.
fn free_maps() -> u32 {
    /// The kernel's own default.
    const USUAL: u32 = 65_530;
    /// For threads, libraries, buffers and compiled code.
    const OWN: u32 = 8_192;
    let limit = fs::read_to_string("/proc/sys/vm/max_map_count").ok().and_then(|text| text.trim().parse().ok());
    limit.unwrap_or(USUAL).saturating_sub(OWN).max(MAPS_OF_STAGE)
}
