//! Clocks that are not the machine's: frozen, or moving on by a step at each look.
//!
//! Freezing what a guest reads would not freeze its sleeping, which the stock host does in real time. Here sleeping takes
//! no time: when a guest has nothing left to do but sleep, the clock jumps to the earliest of its alarms. What waits for input
//! or for room goes first.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};

use wasmtime_wasi::{HostMonotonicClock, HostWallClock};

use super::noting::Noting;
use crate::spec::ClockSpec;

/// A clock of a guest's own, in nanoseconds, from [`ORIGIN`] on.
#[derive(Debug)]
pub(crate) struct VirtualClock {
    start: Duration,
    step: u64,
    ticks: Mutex<Ticks>,
}

/// What the monotonic clock says when it starts: some programs (Go's) take a clock at 0 for a broken one.
const ORIGIN: u64 = 1_000_000_000;

#[derive(Debug)]
struct Ticks {
    now: u64,
    last_id: u64,
    /// Who sleeps, by when and by number.
    sleepers: BTreeMap<(u64, u64), Waker>,
}

impl Default for Ticks {
    fn default() -> Self {
        Self { now: ORIGIN, last_id: 0, sleepers: BTreeMap::new() }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl VirtualClock {
    /// The clock of a grant; `None`: the machine's.
    pub(crate) fn of(spec: ClockSpec) -> Option<Self> {
        match spec {
            ClockSpec::Real => None,
            ClockSpec::Virtual { start, step } => {
                let start = start.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                Some(Self { start, step: nanos(step), ticks: Mutex::default() })
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ticks> {
        // What is behind it stays whole between any two steps.
        self.ticks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the time and wakes who is due.
    fn change<R>(&self, change: impl FnOnce(&mut Ticks) -> R) -> R {
        let (result, due) = {
            let mut ticks = self.lock();
            let result = change(&mut ticks);
            let first_later = (ticks.now.saturating_add(1), 0);
            let later = ticks.sleepers.split_off(&first_later);
            (result, std::mem::replace(&mut ticks.sleepers, later))
        };
        due.into_values().for_each(Waker::wake);
        result
    }

    /// The time, without a look's step.
    pub(crate) fn peek(&self) -> u64 {
        self.lock().now
    }

    /// When it will be so many nanoseconds since the epoch, by its own count.
    pub(crate) fn when(&self, since_epoch: u64) -> u64 {
        since_epoch.saturating_sub(nanos(self.start)).saturating_add(ORIGIN)
    }

    fn look(&self) -> u64 {
        self.change(|ticks| {
            let now = ticks.now;
            ticks.now = now.saturating_add(self.step);
            now
        })
    }

    /// Jumps to the earliest alarm. `false`: nobody sleeps, or only for ever.
    fn jump(&self) -> bool {
        self.change(|ticks| match ticks.sleepers.keys().next() {
            Some(&(deadline, _)) if deadline < u64::MAX => {
                ticks.now = ticks.now.max(deadline);
                true
            }
            _ => false,
        })
    }
}

/// Waits for a time on a clock.
pub(crate) struct Sleep {
    clock: Arc<VirtualClock>,
    deadline: u64,
    id: Option<u64>,
}

impl Sleep {
    pub(crate) fn until(clock: Arc<VirtualClock>, deadline: u64) -> Self {
        Self { clock, deadline, id: None }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut ticks = this.clock.lock();
        if ticks.now >= this.deadline {
            return Poll::Ready(());
        }
        let id = *this.id.get_or_insert_with(|| {
            ticks.last_id += 1;
            ticks.last_id
        });
        // At every poll: the first one's waker does nothing.
        ticks.sleepers.insert((this.deadline, id), cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.clock.lock().sleepers.remove(&(self.deadline, id));
        }
    }
}

/// A hand of the clock, for the stock host.
pub(crate) struct Hand(pub(crate) Arc<VirtualClock>);

impl HostWallClock for Hand {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(1)
    }

    fn now(&self) -> Duration {
        self.0.start.saturating_add(Duration::from_nanos(self.0.look() - ORIGIN))
    }
}

impl HostMonotonicClock for Hand {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        self.0.look()
    }
}

/// Polls a guest; when it does nothing but sleep, moves its clock on. `waits` says whether it waits for input or for room.
/// Cancel safe.
pub(crate) async fn in_its_time<T>(
    mut guest: Pin<&mut (impl Future<Output = T> + ?Sized)>,
    clock: Option<Arc<VirtualClock>>,
    waits: impl Fn(&mut Context<'_>) -> bool,
) -> T {
    let Some(clock) = clock else { return guest.await };
    let noting = Arc::new(Noting::default());
    let waker = Waker::from(noting.clone());
    poll_fn(|cx| {
        noting.register(cx);
        noting.forget();
        let polled = guest.as_mut().poll(&mut Context::from_waker(&waker));
        // Out of budget the guest was only made to let others run, and nothing that it asked for was looked at.
        let was_heard = tokio::task::coop::has_budget_remaining();
        if polled.is_pending() && was_heard && !noting.was_woken() && !waits(cx) {
            // Who is due is woken, and the task with it.
            clock.jump();
        }
        polled
    })
    .await
}

/// Lets others run, and is seen to be about to go on. The runtime's own way would wake us only when it looks at its timers, which it does
/// once in so many polls; where those are slices of milliseconds, that is far too long.
pub(crate) async fn yield_awake() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
