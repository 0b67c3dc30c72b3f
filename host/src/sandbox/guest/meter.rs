//! Processor time of a guest, and whose turn it is to use it.
//!
//! A guest is a future. Its time is what passes on a thread's own clock while that future is polled: its own code, and what
//! the host does for it there. A run that used more than others needs a turn for the next slice of each of its guests, and there are
//! fewer turns than threads: whoever only asks for a moment finds a thread.

use std::{
    cell::Cell,
    future::poll_fn,
    panic::resume_unwind,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use tokio::{runtime::Handle, sync::Notify};

use super::{clock::yield_awake, noting::Noting};
use crate::sandbox::{kind::EPOCH, turns::RunTurns};

/// A future that can be handed from thread to thread.
pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// This thread's own clock, to the nanosecond. A system call.
pub(crate) fn thread_time() -> Duration {
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
    pub(crate) meter: Meter,
    /// The most memory it held at once, in bytes.
    pub(crate) peak_memory: AtomicU64,
    /// Instructions, if they were counted and the guest came to an end of its own.
    pub(crate) fuel: OnceLock<u64>,
    /// The last growth of memory that was refused.
    pub(crate) refused: Mutex<Option<Denied>>,
    /// Whether nobody waits for the guest any more.
    pub(crate) gone: AtomicBool,
    /// Held by whatever polls the guest on another thread, until the guest is back or dropped there.
    away: Notify,
    is_away: AtomicBool,
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

    /// Waits until a guest that nobody waits for is not polled any more, so that it does nothing after its end. One that a disk holds
    /// is not waited for long.
    pub(crate) async fn left(&self) {
        const PATIENCE: Duration = Duration::from_millis(500);
        let back = async {
            loop {
                let back = self.away.notified();
                if !self.is_away.load(Acquire) {
                    return;
                }
                back.await;
            }
        };
        // Whoever is stuck beyond that does nothing before the disk answers, and then ends.
        let _ = tokio::time::timeout(PATIENCE, back).await;
    }

    pub(crate) fn fuel(&self) -> Option<u64> {
        self.fuel.get().copied()
    }
}

/// The processor time of one guest.
#[derive(Debug, Default)]
pub(crate) struct Meter {
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
pub(crate) struct CpuTimeUsed {
    pub(crate) limit: Duration,
    pub(crate) used: Duration,
}

impl Meter {
    /// What was used, up to the end of the last poll.
    pub(crate) fn used(&self) -> Duration {
        Duration::from_nanos(self.used.load(Relaxed))
    }

    /// How long the present poll has taken, on the thread that polls.
    pub(crate) fn in_this_poll(&self) -> Duration {
        thread_time().saturating_sub(Duration::from_nanos(self.began.load(Relaxed)))
    }

    /// Fails if more than the limit is used, counting `more` to it.
    pub(crate) fn check(&self, more: Duration) -> Result<(), CpuTimeUsed> {
        let used = self.used() + more;
        match self.limit {
            Some(limit) if used > limit => Err(CpuTimeUsed { limit, used }),
            _ => Ok(()),
        }
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

/// How much of an epoch makes a slice full.
const FULL_SLICE: Duration = EPOCH.checked_div(2).expect("two is not zero");

/// Whether a poll that took this long used up its slice.
pub(crate) fn is_full_slice(took: Duration) -> bool {
    took >= FULL_SLICE
}

/// Runs a guest's future under its meter, in its turns. Cancel safe.
pub(crate) async fn metered<T, E: From<CpuTimeUsed>>(
    mut guest: BoxFuture<Result<T, E>>,
    meter: &Meter,
    turns: &RunTurns,
    idle: impl Fn(),
) -> Result<T, E> {
    let mut turn = None;
    loop {
        // Others that wait come first.
        drop(turn.take());
        if turns.must_wait() {
            turn = Some(turns.processor().await);
        }
        let mut has_waited = false;
        let slice = poll_fn(|cx| {
            // Whatever wakes the guest while it waits for its turn is not lost: it is polled when that comes.
            if has_waited && turns.must_wait() {
                return Poll::Ready(None);
            }
            meter.begin();
            let polled = guest.as_mut().poll(cx);
            let took = meter.end();
            turns.used(took);
            has_waited = true;
            if let Poll::Ready(ended) = polled {
                return Poll::Ready(Some(ended));
            }
            // Whatever it waits for, it writes nothing meanwhile.
            idle();
            match meter.check(Duration::ZERO) {
                Err(used) => Poll::Ready(Some(Err(used.into()))),
                Ok(()) if is_full_slice(took) && turns.must_wait() => Poll::Ready(None),
                Ok(()) => {
                    turn = None;
                    Poll::Pending
                }
            }
        });
        if let Some(ended) = slice.await {
            return ended;
        }
        // The turn is not over before whoever needs none had a thread: given back here, the next of many would have it when its task is
        // polled, and none would ever wait.
        yield_awake().await;
    }
}

/// The same for a guest that may use files, which wait for disks: it is polled on threads that may wait, and never on the runtime's own.
/// So its work on files is a part of what it does itself, on its clock and on one thread. If it is stuck there when this is
/// dropped, that thread drops it as soon as it comes back.
pub(crate) async fn metered_apart<T: Send + 'static, E: From<CpuTimeUsed> + Send + 'static>(
    mut guest: BoxFuture<Result<T, E>>,
    usage: Arc<Usage>,
    turns: &RunTurns,
    idle: impl Fn(),
) -> Result<T, E> {
    let _gone = SetGone(usage.clone());
    let noting = Arc::new(Noting::default());
    loop {
        // In this order: whoever has a turn does not wait for others.
        let thread = turns.file_thread().await;
        let mut turn = if turns.must_wait() { Some(turns.processor().await) } else { None };
        let (seen, of, away) = (noting.clone(), usage.clone(), Away::new(usage.clone()));
        let mut slice = tokio::task::spawn_blocking(move || {
            let waker = Waker::from(seen.clone());
            of.meter.begin();
            let polled = loop {
                // It may have waited for this thread longer than anybody waited for it.
                if of.gone.load(Relaxed) {
                    break Poll::Pending;
                }
                seen.forget();
                // Under the runtime, each poll of a task has a budget; so has each of these.
                let one = poll_fn(|_| Poll::Ready(guest.as_mut().poll(&mut Context::from_waker(&waker))));
                let polled = Handle::current().block_on(one);
                // One that is to be polled again is, here, as long as its slice lasts: the way there and back is not for nothing.
                let goes_on = polled.is_pending() && seen.was_woken();
                if !goes_on || is_full_slice(of.meter.in_this_poll()) {
                    break polled;
                }
            };
            let took = of.meter.end();
            drop(thread);
            // Dropped in this order, should nobody take it.
            (guest, polled, took, away)
        });
        // One that waits for a disk keeps nobody else from the processors.
        let ended = match turn {
            Some(_) => match tokio::time::timeout(LONG_SLICE, &mut slice).await {
                Ok(ended) => ended,
                Err(_) => {
                    turn = None;
                    slice.await
                }
            },
            None => slice.await,
        };
        drop(turn);
        let (back, polled, took, away) = match ended {
            Ok(ended) => ended,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // The runtime is ending, and this with it.
                Err(_) => return std::future::pending().await,
            },
        };
        guest = back;
        drop(away);
        turns.used(took);
        if let Poll::Ready(ended) = polled {
            return ended;
        }
        idle();
        usage.meter.check(Duration::ZERO)?;
        poll_fn(|cx| {
            noting.register(cx);
            if noting.was_woken() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// How long a slice takes at most that waits for no disk: several times its own time.
const LONG_SLICE: Duration = EPOCH.saturating_mul(4);

/// A guest that is on another thread, as long as this lives.
struct Away(Arc<Usage>);

impl Away {
    fn new(usage: Arc<Usage>) -> Self {
        usage.is_away.store(true, Release);
        Self(usage)
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        self.0.is_away.store(false, Release);
        self.0.away.notify_waiters();
    }
}

/// Says, when it is dropped, that nobody waits for the guest any more.
struct SetGone(Arc<Usage>);

impl Drop for SetGone {
    fn drop(&mut self) {
        self.0.gone.store(true, Relaxed);
    }
}
