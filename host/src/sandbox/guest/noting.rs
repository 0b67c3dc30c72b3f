//! A waker that is remembered: whether a guest was woken since it was polled.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Release},
        },
    },
    task::{Context, Wake},
};

use atomic_waker::AtomicWaker;

/// Notes whether it was woken, and wakes the task.
#[derive(Default)]
pub(crate) struct Noting {
    woken: AtomicBool,
    task: AtomicWaker,
}

impl Noting {
    /// Says which task it wakes.
    pub(crate) fn register(&self, cx: &Context<'_>) {
        self.task.register(cx.waker());
    }

    /// Begins anew: a poll follows.
    pub(crate) fn forget(&self) {
        self.woken.store(false, Release);
    }

    pub(crate) fn was_woken(&self) -> bool {
        self.woken.load(Acquire)
    }
}

impl Wake for Noting {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Release);
        self.task.wake();
    }
}
