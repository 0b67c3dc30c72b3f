//! What all views of one stream share: its state, and everyone who waits for it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker},
};

use tokio::sync::Notify;

/// How many wakers a port keeps.
const MOST_WAITING: usize = 64;

/// Wakes everyone who waits for a port: two views of one half wait with wakers of their own, and a half knows only one.
#[derive(Default)]
struct FanOut(Mutex<Vec<Waker>>);

impl FanOut {
    fn add(&self, waker: &Waker) {
        let mut waiting = lock(&self.0);
        if waiting.iter().any(|known| known.will_wake(waker)) {
            return;
        }
        if waiting.len() == MOST_WAITING {
            // Most of them belong to reads that were cancelled; whoever still waits asks again.
            waiting.drain(..).for_each(Waker::wake);
        }
        waiting.push(waker.clone());
    }
}

impl Wake for FanOut {
    fn wake(self: Arc<Self>) {
        let waiting = std::mem::take(&mut *lock(&self.0));
        waiting.into_iter().for_each(Waker::wake);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks stays whole between any two steps.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What all views of one stream share.
pub(super) struct Port<T> {
    pub(super) state: Mutex<T>,
    fan_out: Arc<FanOut>,
    waker: Waker,
    /// Told when the end failed, so that the stage can be stopped.
    pub(super) failed: Notify,
}

impl<T> Port<T> {
    pub(super) fn new(state: T) -> Self {
        let fan_out = Arc::new(FanOut::default());
        Self { state: Mutex::new(state), waker: Waker::from(fan_out.clone()), fan_out, failed: Notify::new() }
    }

    /// Polls under the lock with the port's own waker. If that has to wait, the caller's waker is kept and the poll done
    /// once more: a wake between the first poll and the keeping would be lost.
    pub(super) fn poll<R>(
        &self,
        cx: &mut Context<'_>,
        mut poll: impl FnMut(&mut T, &mut Context<'_>) -> Poll<R>,
    ) -> Poll<R> {
        let mut state = lock(&self.state);
        let mut own = Context::from_waker(&self.waker);
        let polled = poll(&mut state, &mut own);
        if polled.is_ready() {
            return polled;
        }
        self.fan_out.add(cx.waker());
        poll(&mut state, &mut own)
    }
}
