//! Processor time of a guest, and whose turn it is to use it.
//!
//! A guest is a future. Its time is what passes on a thread's own clock while that future is polled: its own code, and what
//! the host does for it there. A guest that uses up a full slice needs a permit for its next one whenever there are other
//! runs, and there are fewer permits than threads: whoever only asks for a moment finds a thread.

use std::{
    cell::Cell,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Semaphore;

use super::engine::EPOCH;

/// This thread's own clock, to the nanosecond. A system call.
pub(super) fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
}

/// This thread's own clock, as well as it is known without asking the system each time: what was read within the last
/// moment is carried on by the machine's clock. Two readings that are a moment apart differ by the time between them; over
/// longer times they are exact to that moment.
fn about_thread_time() -> Duration {
    /// A preempted thread is away for much longer.
    const MOMENT: Duration = Duration::from_micros(200);
    thread_local! {
        static READ: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
    }
    let now = Instant::now();
    if let Some((at, read)) = READ.get()
        && let since = now.duration_since(at)
        && since < MOMENT
    {
        return read + since;
    }
    let read = thread_time();
    READ.set(Some((now, read)));
    read
}

/// What a guest has used so far, for whoever waits for it: it can be asked when the guest is gone.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    pub(super) meter: Meter,
    /// The most memory it held at once, in bytes.
    pub(super) peak_memory: AtomicU64,
    /// Instructions, if they were counted and the guest came to an end of its own.
    pub(super) fuel: OnceLock<u64>,
    /// The last growth of memory that was refused.
    pub(super) refused: Mutex<Option<Denied>>,
}

/// A growth of memory that was refused, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Denied {
    pub(crate) limit: u64,
    pub(crate) used: u64,
    pub(crate) asked: u64,
}

impl Usage {
    /// Of a guest that may use that much processor time.
    pub(crate) fn new(cpu_time: Option<Duration>) -> Self {
        Self { meter: Meter { limit: cpu_time, ..Meter::default() }, ..Self::default() }
    }

    pub(crate) fn cpu(&self) -> Duration {
        self.meter.used()
    }

    pub(crate) fn peak_memory(&self) -> u64 {
        self.peak_memory.load(Relaxed)
    }

    /// The last growth of memory that was refused, whatever the guest made of it.
    pub(crate) fn refused(&self) -> Option<Denied> {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn fuel(&self) -> Option<u64> {
        self.fuel.get().copied()
    }
}

/// The processor time of one guest.
#[derive(Debug, Default)]
pub(super) struct Meter {
    limit: Option<Duration>,
    /// What earlier polls used, in nanoseconds. Written and read by whichever thread polls the guest.
    used: AtomicU64,
    /// The thread's clock when the present poll began, in nanoseconds.
    began: AtomicU64,
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The guest used up its processor time.
#[derive(Debug, thiserror::Error)]
#[error("the processor time of {limit:?} is used up")]
pub(super) struct CpuTimeUsed {
    pub(super) limit: Duration,
    pub(super) used: Duration,
}

impl Meter {
    /// What was used, up to the end of the last poll.
    pub(super) fn used(&self) -> Duration {
        Duration::from_nanos(self.used.load(Relaxed))
    }

    /// How long the present poll has taken, on the thread that polls.
    pub(super) fn in_this_poll(&self) -> Duration {
        thread_time().saturating_sub(Duration::from_nanos(self.began.load(Relaxed)))
    }

    /// Fails if more than the limit is used, counting `more` to it.
    pub(super) fn check(&self, more: Duration) -> Result<(), CpuTimeUsed> {
        let used = self.used() + more;
        match self.limit {
            Some(limit) if used > limit => Err(CpuTimeUsed { limit, used }),
            _ => Ok(()),
        }
    }

    /// Counts what another thread did for the guest.
    pub(super) fn add(&self, took: Duration) {
        self.used.fetch_add(nanos(took), Relaxed);
    }

    fn begin(&self) {
        self.began.store(nanos(about_thread_time()), Relaxed);
    }

    /// Ends a poll and says how long it took.
    fn end(&self) -> Duration {
        let took = nanos(about_thread_time()).saturating_sub(self.began.load(Relaxed));
        self.used.fetch_add(took, Relaxed);
        Duration::from_nanos(took)
    }
}

/// The turns of guests that use full slices.
#[derive(Debug)]
pub(crate) struct Turns {
    permits: Arc<Semaphore>,
    /// Runs that go on.
    runs: AtomicUsize,
}

/// A run that goes on, as long as this lives.
#[derive(Debug)]
pub(crate) struct Counted(Arc<Turns>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.runs.fetch_sub(1, Relaxed);
    }
}

impl Turns {
    /// Turns on that many threads.
    pub(crate) fn new(threads: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(threads.saturating_sub(1).max(1))), runs: AtomicUsize::new(0) }
    }

    /// Counts a run.
    pub(crate) fn count(self: &Arc<Self>) -> Counted {
        self.runs.fetch_add(1, Relaxed);
        Counted(self.clone())
    }

    /// Whether there is anybody to take turns with.
    fn are_needed(&self) -> bool {
        self.runs.load(Relaxed) > 1
    }
}

/// How much of an epoch makes a slice full.
const FULL_SLICE: Duration = EPOCH.checked_div(2).expect("two is not zero");

/// Whether a poll that took this long used up its slice.
pub(super) fn is_full_slice(took: Duration) -> bool {
    took >= FULL_SLICE
}

/// Runs a guest's future under its meter, in its turns. Cancel safe.
pub(super) async fn metered<T, E: From<CpuTimeUsed>>(
    guest: Pin<&mut (impl Future<Output = Result<T, E>> + ?Sized)>,
    meter: &Meter,
    turns: &Turns,
    mut idle: impl FnMut(),
) -> Result<T, E> {
    let mut guest = guest;
    let mut must_wait = false;
    loop {
        // The semaphore is never closed.
        let mut permit = if must_wait { turns.permits.clone().acquire_owned().await.ok() } else { None };
        let slice = poll_fn(|cx| {
            meter.begin();
            let polled = guest.as_mut().poll(cx);
            let took = meter.end();
            permit = None;
            if let Poll::Ready(ended) = polled {
                return Poll::Ready(Some(ended));
            }
            // Whatever it waits for, it writes nothing meanwhile.
            idle();
            if let Err(used) = meter.check(Duration::ZERO) {
                return Poll::Ready(Some(Err(used.into())));
            }
            if is_full_slice(took) && turns.are_needed() {
                // Whatever wakes the guest while it waits for its turn is not lost: it is polled when that comes.
                return Poll::Ready(None);
            }
            Poll::Pending
        });
        match slice.await {
            Some(ended) => return ended,
            None => must_wait = true,
        }
    }
}
