//! How many runs go on at once: as many as this process has descriptors and memory maps for, and as its options say.

use std::{
    fs,
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::Poll,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    plan::{ErrorCode, Planned, PlannedStage, Work},
    spec::Size,
};

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
    maps: OnceLock<Supply>,
    runs: Option<Supply>,
    /// In [pieces](PIECE).
    memory: Option<Supply>,
    queue: Queue,
    is_closed: AtomicBool,
}

/// What memory is counted in, in bytes.
const PIECE: u64 = 64 << 10;

/// The runs that wait.
#[derive(Debug)]
struct Queue {
    most: usize,
    waiting: AtomicUsize,
}

/// A run's place among them.
struct Waiting<'a>(&'a Queue);

impl Queue {
    fn enter(&self) -> Option<Waiting<'_>> {
        let enter = |waiting: usize| (waiting < self.most).then_some(waiting + 1);
        self.waiting.fetch_update(Relaxed, Relaxed, enter).is_ok().then(|| Waiting(self))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

/// Why a run is not let in.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) code: ErrorCode,
    pub(super) message: String,
}

/// A run that was let in, as long as this lives.
#[derive(Debug)]
pub(super) struct Admitted {
    _shares: [Option<OwnedSemaphorePermit>; 4],
}

impl Admission {
    /// `runs` are the most at once, `memory` what they may hold together in bytes, `queued` the most that may wait.
    pub(super) fn new(runs: Option<u32>, memory: Option<u64>, queued: Option<u32>) -> Self {
        let pieces = |bytes: u64| u32::try_from(bytes / PIECE).unwrap_or(u32::MAX);
        Self {
            descriptors: Supply::new(free_descriptors()),
            maps: OnceLock::new(),
            runs: runs.map(|runs| Supply::new(runs.max(1))),
            memory: memory.map(|bytes| Supply::new(pieces(bytes))),
            queue: Queue { most: queued.map_or(usize::MAX, |queued| queued as usize), waiting: AtomicUsize::new(0) },
            is_closed: AtomicBool::new(false),
        }
    }

    /// Lets no more in.
    pub(super) fn close(&self) {
        self.is_closed.store(true, SeqCst);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(SeqCst)
    }

    /// What the runs that were let in may hold, in bytes, if that is counted.
    pub(super) fn memory(&self) -> Option<u64> {
        let memory = self.memory.as_ref()?;
        Some(u64::from(memory.all).saturating_sub(memory.free.available_permits() as u64) * PIECE)
    }

    /// Why a plan can never be let in.
    pub(super) fn refusal(&self, plan: &Planned) -> Option<Refused> {
        let maps = maps(plan);
        let all = if maps == 0 { 0 } else { self.maps().all };
        if maps > all {
            let message = format!(
                "its sandboxed stages take {maps} memory maps at once, and this process has {all} for them: raise the system's \
                 vm.max_map_count"
            );
            return Some(Refused { code: ErrorCode::Unsupported, message });
        }
        let most = u64::from(self.memory.as_ref()?.all) * PIECE;
        let message = match plan.worst_case_memory() {
            Some(bytes) if pieces(bytes) * PIECE <= most => return None,
            Some(bytes) => {
                format!("the run may hold {}, and all runs of this host together {}", Size(bytes), Size(most))
            }
            None => {
                let most = Size(most);
                format!("a stage has no memory limit, and all runs of this host together may hold {most}")
            }
        };
        Some(Refused { code: ErrorCode::OverMemory, message })
    }

    fn maps(&self) -> &Supply {
        self.maps.get_or_init(|| Supply::new(free_maps()))
    }

    /// Waits until there is enough of everything, behind those that came before. Cancel safe.
    ///
    /// # Errors
    ///
    /// More wait already than may.
    pub(super) async fn admit(&self, plan: &Planned) -> Result<Admitted, Refused> {
        let mut taking = pin!(self.take(plan));
        // Whoever need not wait has no place among them.
        let at_once = poll_fn(|cx| Poll::Ready(taking.as_mut().poll(cx))).await;
        if let Poll::Ready(admitted) = at_once {
            return Ok(admitted);
        }
        match self.queue.enter() {
            Some(_waiting) => Ok(taking.await),
            None => {
                let message = format!("{} runs wait already, and no more may: try again later", self.queue.most);
                Err(Refused { code: ErrorCode::Busy, message })
            }
        }
    }

    async fn take(&self, plan: &Planned) -> Admitted {
        // In the same order for all, so that no two runs hold what the other waits for.
        let run = match &self.runs {
            Some(runs) => runs.take(1).await,
            None => None,
        };
        let memory = match self.memory.as_ref().and_then(|memory| Some((memory, plan.worst_case_memory()?))) {
            Some((memory, bytes)) => memory.take(u32::try_from(pieces(bytes)).unwrap_or(u32::MAX)).await,
            None => None,
        };
        let maps = match maps(plan) {
            0 => None,
            maps => self.maps().take(maps).await,
        };
        let descriptors = self.descriptors.take(plan.descriptors()).await;
        Admitted { _shares: [run, memory, maps, descriptors] }
    }
}

/// How many pieces of memory so many bytes are, from above.
fn pieces(bytes: u64) -> u64 {
    bytes.div_ceil(PIECE)
}

/// The memory maps that a run takes.
fn maps(plan: &Planned) -> u32 {
    let of = |stage: &PlannedStage| match &stage.work {
        Work::Wasm(wasm) => wasm.maps(),
        Work::Command(_) | Work::Function(_) => 0,
    };
    u32::try_from(plan.stages.iter().map(|stage| of(stage)).sum::<u64>()).unwrap_or(u32::MAX)
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
    /// For threads, libraries, buffers and compiled code, and for slots: 4,700 for each of the three kinds of engines that have them.
    const OWN: u32 = 15_000;
    let limit = fs::read_to_string("/proc/sys/vm/max_map_count").ok().and_then(|text| text.trim().parse().ok());
    /// As much as a stage takes that is not special.
    const LEAST: u32 = 16;
    limit.unwrap_or(USUAL).saturating_sub(OWN).max(LEAST)
}
